"""A collapsible step of the workflow: a heading, what is still needed, and its controls."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QMouseEvent, QResizeEvent
from qtpy.QtWidgets import (
    QFormLayout,
    QFrame,
    QGridLayout,
    QLabel,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_microdl.gui.widgets.inputs import sentence_label

_SHOWN = "the overlays and the explorer still show the last run."
_MEANING = {
    "changed": f"This step was changed: {_SHOWN} Press Run all to bring everything up to date.",
    "out of date": f"A step before this one was changed: {_SHOWN} Press Run all to bring "
    "everything up to date.",
    "done": "This step was run with the settings as they are and is kept for the next run.",
}


class Step(QWidget):
    """One step; the sentence about what it needs stays in view when it is collapsed.

    The button `run`, which is left out where it says nothing, runs the step alone.

    Signals
    -------
    run_wanted
        The button was pressed.
    """

    run_wanted = Signal()

    def __init__(self, title: str, run: str = "") -> None:
        super().__init__()
        self._title = title
        self._row = 0
        self.heading = QToolButton()
        self.heading.setCheckable(True)
        self.heading.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.heading.setAutoRaise(True)
        self.heading.setToolTip("Show or hide the settings of this step.")
        font = self.heading.font()
        font.setBold(True)
        self.heading.setFont(font)
        self.summary = sentence_label()
        self.summary.setCursor(Qt.CursorShape.PointingHandCursor)
        self.summary.setToolTip("Click to change it.")
        self.need = sentence_label()
        self.need.hide()
        self.content = QWidget()
        self.line = QFrame()
        self.line.setFrameShape(QFrame.Shape.HLine)
        self.state = QLabel()
        self.run_button = QPushButton(run)
        self.run_button.setToolTip(
            "Runs this step alone, and what it needs of the steps before it. What is up to date is "
            "not done again; what is shown stays."
        )
        self.run_button.clicked.connect(self.run_wanted)
        # Otherwise a long heading in large letters would widen the dock.
        self.heading.setMinimumWidth(1)
        self._top = QGridLayout()
        self._top.setColumnStretch(1, 1)
        self._top.setVerticalSpacing(2)
        self._arrange()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(self._top)
        for widget in (self.summary, self.need, self.content):
            layout.addWidget(widget)
        self.state.hide()
        self.run_button.setVisible(bool(run))
        self.heading.toggled.connect(self._on_toggled)
        self.set_expanded(False)

    @property
    def is_expanded(self) -> bool:
        """Whether the controls are in view."""
        return bool(self.heading.isChecked())

    def set_expanded(self, expanded: bool) -> None:
        """Show or hide the controls."""
        self.heading.setChecked(expanded)
        self._on_toggled(expanded)

    def _on_toggled(self, expanded: bool) -> None:
        # The arrow is text, so that it has the colour of the theme.
        self._write_heading()
        self.content.setVisible(expanded)
        self.summary.setVisible(not expanded and bool(self.summary.text()))

    def set_summary(self, sentence: str) -> None:
        """Say in a few words what is chosen; shown while the step is collapsed."""
        self.summary.setText(sentence)
        self.summary.setVisible(not self.is_expanded and bool(sentence))

    def set_need(self, sentence: str) -> None:
        """Say what the step still needs; an empty sentence for nothing."""
        self.need.setText(f"⚠ {sentence}" if sentence else "")
        self.need.setVisible(bool(sentence))

    def set_state(self, state: str) -> None:
        """Say beside the heading how the step differs from the run that is shown."""
        self.state.setText(state)
        self.state.setToolTip(_MEANING.get(state, ""))
        self.state.setVisible(bool(state))
        self._arrange()

    def _write_heading(self) -> None:
        self.heading.setText(f"{'▾' if self.is_expanded else '▸'}  {self._title}")

    def mousePressEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Open the step by a click on what sums it up, which lets presses through to here."""
        assert event is not None
        if self.summary.isVisible() and self.summary.geometry().contains(event.pos()):
            self.set_expanded(True)
        else:
            super().mousePressEvent(event)

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Find room for heading, state and button."""
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        """Heading, state and button in one row, or in two where the letters are large."""
        beside = [w for w in (self.state, self.run_button) if not w.isHidden() and w.text()]
        wanted = self.heading.sizeHint().width() + sum(w.sizeHint().width() + 12 for w in beside)
        row = int(wanted > max(self.width(), 1)) if self.isVisible() else 0
        if self._top.count() and row == self._row:
            return
        self._row = row
        self.state.setWordWrap(bool(row))
        right, middle = Qt.AlignmentFlag.AlignRight, Qt.AlignmentFlag.AlignVCenter
        self._top.addWidget(self.heading, 0, 0, 1, 4 if row else 1, middle)
        self._top.addWidget(self.line, 0 if not row else 1, 1, middle)
        self._top.addWidget(self.state, row, 0 if row else 2, middle)
        self._top.addWidget(self.run_button, row, 3, right | middle)

    def form(self) -> QFormLayout:
        """A new form in the content, labels wrapping above their fields where it is narrow."""
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        return form

    def refresh(self) -> None:
        """Show the present state of the session."""
        raise NotImplementedError
