"""Everything that can be used says in a few words what it is for."""

from __future__ import annotations

from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSpinBox,
    QComboBox,
    QHeaderView,
    QLineEdit,
    QTabBar,
    QWidget,
)

USED = (QAbstractButton, QAbstractItemView, QAbstractSpinBox, QComboBox, QLineEdit)
WHOLE = (QAbstractItemView, QAbstractSpinBox, QComboBox, QLineEdit, QTabBar)


def silent(dock: QWidget) -> list[str]:
    """Controls without a tip, parts of another control left out."""
    found = []
    for widget in dock.findChildren(QWidget):
        if not isinstance(widget, USED) or isinstance(widget, QHeaderView):
            continue
        part_of = widget.parent()
        while part_of is not None and not isinstance(part_of, WHOLE):
            part_of = part_of.parent()
        # A box within a table is a control of its own; the button in a line of text is not.
        if part_of is not None and not isinstance(widget, QComboBox):
            continue
        if not widget.toolTip():
            text = widget.text() if hasattr(widget, "text") else widget.accessibleName()
            found.append(f"{type(widget).__name__} '{text}' in {type(widget.parent()).__name__}")
    return found


def test_every_control_of_the_workflow_has_a_tip(workflow):
    assert not silent(workflow), silent(workflow)


def test_every_control_of_the_explorer_has_a_tip(explorer):
    assert not silent(explorer), silent(explorer)
