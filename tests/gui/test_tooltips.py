"""Everything that can be used says in a few words what it is for."""

from __future__ import annotations

from qtpy.QtWidgets import QAbstractButton, QComboBox, QHeaderView, QTabBar, QWidget

from .steps import CONTROLS

WHOLE = tuple(kind for kind in CONTROLS if kind is not QAbstractButton)


def silent(dock: QWidget) -> list[str]:
    """Controls without a tip, parts of another control left out."""
    found = []
    for widget in dock.findChildren(QWidget):
        if not isinstance(widget, CONTROLS) or isinstance(widget, QHeaderView | QTabBar):
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


def test_every_control_of_both_docks_has_a_tip(workflow, explorer):
    assert silent(workflow) == silent(explorer) == []
