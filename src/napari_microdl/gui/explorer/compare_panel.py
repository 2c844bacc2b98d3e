"""Tab that compares two conditions, concept by concept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QPushButton

from napari_microdl.concepts.concept_set import Concept, ConceptSet
from napari_microdl.gui.explorer.panel import Panel, conditions_of, show_text
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.widgets.inputs import sentence_label
from napari_microdl.gui.widgets.jobs import JobBar, JobRunner
from napari_microdl.gui.widgets.plots import Plot, point_by_key
from napari_microdl.gui.widgets.save_actions import HINT
from napari_microdl.report.concept_summary import wells_limit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A click this close to a point, in pixels, means it.
_REACH = 12
# Width of the frame around a plot that hears keys, in pixels.
_FRAME = 2


class VolcanoPlot(Plot):
    """Every concept by its effect and how sure it is; a click or the arrow keys choose one.

    Signals
    -------
    concept_chosen(int)
        The concept nearest to the click, or reached by a key.
    """

    concept_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__(150, "Comparison of conditions")
        self.compared: pd.DataFrame | None = None
        self._names: list[str] = []
        self._conditions = ("", "")
        self._concept: int | None = None
        self.q_column = "q_cells"
        self._listening = False
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Plot of the comparison")
        self.layout().setContentsMargins(_FRAME, _FRAME, _FRAME, _FRAME)
        self.setToolTip(
            "Each point is a concept. Click one to show it, or go from one to the next with the "
            "arrow keys: left and right by the effect, up and down by how sure it is; Home and End "
            f"go to the strongest effects.\n{HINT}"
        )
        self.hide()

    def show_comparison(
        self,
        compared: pd.DataFrame | None,
        names: list[str],
        conditions: tuple[str, str],
        concept: int | None,
        q_column: str = "q_cells",
    ) -> None:
        """Draw a comparison by cells (column "q_cells") or by wells ("q_wells"), or none."""
        self.compared, self.q_column = compared, q_column
        self._names, self._conditions, self._concept = names, conditions, concept
        self.redraw()

    def has_contents(self) -> bool:
        """Whether two conditions are compared."""
        return self.compared is not None

    def paint(self, axes: Axes) -> None:
        """Draw the points."""
        from napari_microdl.report.concept_figures import draw_volcano

        if self.compared is not None:
            draw_volcano(
                axes,
                self.compared,
                self._names,
                self._concept,
                self._conditions,
                self.colours["text"],
                self.q_column,
            )

    def drawn(self) -> None:
        """Listen to clicks from the first drawing on."""
        if not self._listening:
            self._listening = True
            self.canvas.mpl_connect("button_press_event", self._on_click)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Go to another point."""
        assert event is not None
        from napari_microdl.report.concept_figures import volcano_places

        chosen = None
        if self.compared is not None:
            places = volcano_places(self.compared, self.q_column)
            chosen = point_by_key(places, self._concept, event.key())
        if chosen is None:
            super().keyPressEvent(event)
            return
        assert self.compared is not None
        # The plot is drawn once the keys rest; the next key goes on from here before.
        self._concept = int(self.compared.index[chosen])
        self.concept_chosen.emit(self._concept)

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802
        """Show by a frame around the plot that keys are heard."""
        super().paintEvent(event)
        if self.hasFocus():
            painter = QPainter(self)
            painter.setPen(QPen(QColor(self.colours["text"]), _FRAME))
            half = _FRAME // 2
            painter.drawRect(self.rect().adjusted(half, half, -half, -half))
            painter.end()

    def _on_click(self, event: Any) -> None:
        from napari_microdl.report.concept_figures import volcano_places

        # A right click opens the menu.
        if self.compared is None or event.inaxes is None or event.button != 1:
            return
        pixels = event.inaxes.transData.transform(volcano_places(self.compared, self.q_column))
        distance = np.hypot(*(pixels - (event.x, event.y)).T)
        if np.nanmin(distance) <= _REACH * self.canvas.device_pixel_ratio:
            self.concept_chosen.emit(int(self.compared.index[int(np.nanargmin(distance))]))


def _named(compared: pd.DataFrame, run: Run) -> pd.DataFrame:
    table = compared.copy()
    table.insert(0, "name", run.result.dictionary.names)
    return table


class ComparePanel(Panel):
    """Choice of two conditions and of what counts as independent, and the plot."""

    plot: VolcanoPlot

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.first, self.second = QComboBox(), QComboBox()
        row = QHBoxLayout()
        for box, name in ((self.first, "First condition"), (self.second, "Second condition")):
            box.setAccessibleName(name)
            box.setToolTip("All concepts are compared between the cells of these two conditions.")
            box.setMinimumWidth(80)
            box.currentIndexChanged.connect(self.show_concept_again)
            row.addWidget(box, 1)
        row.insertWidget(1, QLabel("against"))
        self.by = QComboBox()
        self.by.addItem("by wells", "q_wells")
        self.by.addItem("by cells", "q_cells")
        self.by.setAccessibleName("What counts as independent")
        self.by.setToolTip(
            "What the test takes for independent. Cells of one well are alike, so by cells, "
            "p-values of many cells from few wells come out far too small."
        )
        self.by.currentIndexChanged.connect(self.show_concept_again)
        row.addWidget(self.by)
        self.column.addLayout(row)
        self.message = sentence_label()
        self.column.addWidget(self.message)
        self.compare_button = QPushButton("Compare")
        self.compare_button.setToolTip("Compares the two conditions, in the background.")
        self.compare_button.clicked.connect(self._begin)
        self.compare_button.hide()
        self.column.addWidget(self.compare_button)
        self.jobs = JobRunner(self)
        self.jobs.succeeded.connect(self._on_compared)
        self.jobs.failed.connect(self._on_failed)
        self.jobs.cancelled.connect(self._on_cancelled)
        self.job_bar = JobBar(self.jobs)
        self.column.addWidget(self.job_bar)
        self.plot = VolcanoPlot()
        self.plot.concept_chosen.connect(self.session.view.show_concept)
        self.column.addWidget(self.plot, 1)
        # Conditions whose comparison was begun last, and what came of it.
        self._begun: tuple[str, str] | None = None
        self._compared: pd.DataFrame | None = None

    def show_run(self, run: Run | None) -> None:
        """Offer the conditions of the run: a control against a treated one at first."""
        self.jobs.stop()
        self._begun = self._compared = None
        self.compare_button.hide()
        boxes = (self.first, self.second)
        blocked = [QSignalBlocker(box) for box in boxes]
        for box in boxes:
            box.clear()
        if run is not None:
            units = run.result.activations.units
            names = conditions_of(run)
            for box in boxes:
                box.addItems(names)
            controls = units.loc[units["Metadata_control"], "Metadata_condition"].astype(str)
            first = controls.iloc[0] if len(controls) else names[0]
            best = str(run.result.activations.ranking["label"].iloc[0])
            others = [best, *names]
            self.first.setCurrentText(first)
            self.second.setCurrentText(next((n for n in others if n != first), first))
        del blocked
        self.plot.show_comparison(None, [], ("", ""), None)

    @property
    def chosen(self) -> tuple[str, str]:
        """First and second condition."""
        return self.first.currentText(), self.second.currentText()

    def comparison(self) -> pd.DataFrame | None:
        """The comparison chosen, with names of the concepts; None where it is not made yet."""
        run = self.session.run.current
        if run is None or self._compared is None or self._begun != self.chosen:
            return None
        return _named(self._compared, run)

    def comparison_work(self) -> Callable[[], pd.DataFrame] | None:
        """What gives the same in any thread, made where it is not; None without a run."""
        run, known, chosen = self.session.run.current, self.comparison(), self.chosen
        if run is None:
            return None
        if known is not None:
            return lambda: known
        return lambda: _named(run.result.activations.compare(*chosen), run)

    def show_concept(self, run: Run, concept: Concept) -> None:
        """Draw the comparison with a ring around the concept on show."""
        if self._begun != self.chosen:
            self._begin()
            return
        compared = self.comparison()
        if compared is None:
            # In progress, cancelled or failed.
            return
        column = self.by.currentData()
        limit = wells_limit(run.result.activations, *self.chosen)
        if compared[column].isna().all():
            column = "q_cells"
        too_small = "By cells, so that p-values come out too small. " if column == "q_cells" else ""
        self._say(f"{too_small}{limit}")
        names = run.result.dictionary.names
        ringed = None if isinstance(concept, ConceptSet) else concept
        self.plot.show_comparison(compared, names, self.chosen, ringed, column)

    def _begin(self) -> None:
        run = self.session.run.current
        if run is None:
            return
        self._begun, self._compared = self.chosen, None
        self.compare_button.hide()
        self.plot.show_comparison(None, [], self.chosen, None)
        self._say("Comparing...")
        work = partial(run.result.activations.compare, *self.chosen)
        self.jobs.start(work, "MicroDL comparison", message="Comparing")

    def _on_cancelled(self) -> None:
        self._on_failed("Cancelled.")

    def _on_failed(self, sentence: str) -> None:
        # It would not begin anew with the next concept.
        self.compare_button.show()
        self._say(sentence)

    def _on_compared(self, compared: pd.DataFrame) -> None:
        self._compared = compared
        self.show_concept_again()

    def _say(self, text: str) -> None:
        show_text(self.message, text)
