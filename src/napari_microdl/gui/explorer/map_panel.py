"""Tab with a flat map of all units, where a lasso or a menu selects some."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QMenu, QPushButton

from napari_microdl.concepts.concept_set import Concept
from napari_microdl.concepts.projection import pca_map, umap_is_installed, umap_map
from napari_microdl.core.text import counted
from napari_microdl.gui.explorer.panel import Panel, conditions_of, show_text
from napari_microdl.gui.overlays.overlays import Overlays
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.inputs import sentence_label
from napari_microdl.gui.widgets.jobs import JobBar, JobRunner
from napari_microdl.gui.widgets.plots import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class MapPlot(Plot):
    """Units as points; a lasso drawn with the mouse selects them.

    Signals
    -------
    lassoed(object)
        Rows of the units inside the line.
    """

    lassoed = Signal(object)

    def __init__(self) -> None:
        super().__init__(150, "Map of cells")
        self._run: Run | None = None
        self._places: NDArray[np.float32] | None = None
        self._title = ""
        self._selected = np.empty(0, np.int64)
        self._lasso: Any = None
        self.hide()

    def show_map(
        self, run: Run | None, places: NDArray[np.float32] | None, title: str = ""
    ) -> None:
        """Draw another map, or none."""
        self._run, self._places, self._title = run, places, title
        # Rows of another run mean other units.
        self._selected = np.empty(0, np.int64)
        self.redraw()

    def show_selected(self, rows: NDArray[np.int64]) -> None:
        """Ring the selected units."""
        if not np.array_equal(rows, self._selected):
            self._selected = rows
            self.redraw()

    def has_contents(self) -> bool:
        """Whether there is a map."""
        return self._places is not None

    def paint(self, axes: Axes) -> None:
        """Draw the points."""
        from napari_microdl.report.concept_figures import draw_map

        if self._run is not None and self._places is not None:
            activations = self._run.result.activations
            draw_map(axes, activations, self._places, self._selected, self.colours["text"])
            axes.set_title(self._title)

    def drawn(self) -> None:
        """Lay a lasso over the new axes."""
        from matplotlib.backend_bases import MouseButton
        from matplotlib.widgets import LassoSelector

        axes = self.canvas.figure.axes[0]
        line = {"color": self.colours["text"], "linewidth": 1}
        # A right click opens the menu.
        left = MouseButton.LEFT
        self._lasso = LassoSelector(axes, self._on_lasso, props=line, button=left)

    def _on_lasso(self, corners: list[tuple[float, float]]) -> None:
        from matplotlib.path import Path

        # A click is a line without an inside; it selects nothing, which takes a selection back.
        if self._places is not None:
            inside = np.zeros(len(self._places), bool)
            if len(corners) > 2:
                inside = Path(corners).contains_points(self._places)
            self.lassoed.emit(np.flatnonzero(inside))


class SelectButton(QPushButton):
    """A button with a menu of units that can be selected together."""

    def __init__(self, session: Session, overlays: Overlays) -> None:
        super().__init__("Select")
        self._session, self._overlays = session, overlays
        self.setToolTip(
            "Selects all cells (or crops) that show the concept, of the image in view, or of one "
            "condition; for some others draw a line around their points in the map."
        )
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        self.setMenu(menu)

    def show_run(self, run: Run | None) -> None:
        """Offer what can be selected in a run."""
        menu = self.menu()
        menu.clear()
        self.setEnabled(run is not None)
        if run is None:
            return
        unit = run.result.config.units.kind
        self._add(
            f"{unit.capitalize()}s with the concept on show",
            f"Every {unit} in which the concept is active, of all images.",
            self._rows_with_concept,
        )
        if run.can_show_images:
            self._add(
                f"{unit.capitalize()}s of the image in view",
                f"Every {unit} of the selected image; of a stack, of the plane on show.",
                self._rows_in_view,
            )
        menu.addSeparator()
        for condition in conditions_of(run):
            self._add(
                # Qt takes a single ampersand as a sign for a key.
                f"Condition {condition.replace('&', '&&')}" if condition else "No condition",
                f"Every {unit} of this condition.",
                partial(self._rows_of_condition, condition),
            )

    def _add(self, text: str, tip: str, rows: Callable[[Run], NDArray[np.int64]]) -> None:
        action = self.menu().addAction(text)
        action.setToolTip(tip)
        action.triggered.connect(partial(self._select, rows=rows))

    def _select(self, *_: bool, rows: Callable[[Run], NDArray[np.int64]]) -> None:
        if (run := self._session.run.current) is not None:
            self._session.selection.select(rows(run))

    def _rows_with_concept(self, run: Run) -> NDArray[np.int64]:
        assert self._session.view.concept is not None
        return np.flatnonzero(run.result.activations.activation(self._session.view.concept) > 0)

    def _rows_in_view(self, run: Run) -> NDArray[np.int64]:
        return run.result.activations.rows_of_field(self._overlays.field_in_view())

    @staticmethod
    def _rows_of_condition(condition: str, run: Run) -> NDArray[np.int64]:
        conditions = run.result.activations.units["Metadata_condition"].astype(str)
        return np.flatnonzero(conditions == condition)


def _make_map(codes: Any, method: str, unit: str) -> tuple[NDArray[np.float32], str]:
    """Places of all units, and a title."""
    if method == "pca":
        places, share = pca_map(codes)
        return places, f"first two principal components ({share.sum():.0%} of the variance)"
    places = umap_map(codes)
    known = int(np.isfinite(places[:, 0]).sum())
    drawn = f" of {known:,} random {unit}s" if known < len(places) else ""
    return places, f"UMAP of activations{drawn}"


class MapPanel(Panel):
    """Choice of the kind of map, the map, and how many units are selected."""

    plot: MapPlot

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.method = QComboBox()
        self.method.setAccessibleName("Kind of map")
        self.method.addItem("PCA", "pca")
        self.method.setToolTip("Units with similar activations lie close together.")
        if umap_is_installed():
            self.method.addItem("UMAP", "umap")
        self.method.currentIndexChanged.connect(self._make)
        self.select_button = SelectButton(self.session, self.overlays)
        self.clear_button = QPushButton("Select none")
        self.clear_button.setToolTip("Forget which cells are selected; nothing is deleted.")
        self.clear_button.clicked.connect(self.selection.clear)
        self.message = sentence_label()
        self.plot = MapPlot()
        self.plot.lassoed.connect(self.selection.select)
        self.jobs = JobRunner(self)
        self.jobs.succeeded.connect(self._on_map)
        self.jobs.failed.connect(self._say)
        self.jobs.cancelled.connect(self._on_cancelled)
        self.job_bar = JobBar(self.jobs)
        self.make_button = QPushButton("Make the map")
        self.make_button.setToolTip("Places all cells by their activations, in the background.")
        self.make_button.clicked.connect(self._make)
        self.make_button.hide()
        row = QHBoxLayout()
        row.addWidget(self.method)
        row.addWidget(self.make_button)
        row.addStretch(1)
        row.addWidget(self.select_button)
        row.addWidget(self.clear_button)
        self.column.addLayout(row)
        self.column.addWidget(self.message)
        self.column.addWidget(self.job_bar)
        self.column.addWidget(self.plot, 1)
        # Maps of the run, as a UMAP takes a while each time, and which of them is drawn.
        self._maps: dict[str, tuple[NDArray[np.float32], str]] = {}
        self._drawn = ""

    def show_run(self, run: Run | None) -> None:
        """Forget the map of an earlier run."""
        self.jobs.stop()
        self._maps, self._drawn = {}, ""
        self.make_button.hide()
        self.plot.show_map(None, None)
        self.select_button.show_run(run)
        self._say("")

    def show_concept(self, run: Run, concept: Concept) -> None:
        """Make the map when it is first looked at, and ring what was selected since."""
        if self._drawn == self.method.currentData():
            self.plot.show_selected(self.selection.rows)
        elif not (self.jobs.is_running or self.make_button.isVisibleTo(self)):
            self._make()

    def show_selection(self) -> None:
        """Ring the selected units."""
        chosen = len(self.selection.rows)
        self.clear_button.setEnabled(chosen > 0)
        if self._drawn and self.session.run.current is not None:
            unit = self.session.run.current.result.config.units.kind
            self._say(
                f"{counted(chosen, unit)} selected and outlined in the images."
                if chosen
                else f"Draw a line around points to select their {unit}s in the images, or press "
                "Select."
            )
            if not self.isHidden():
                self.plot.show_selected(self.selection.rows)

    def _make(self) -> None:
        run, method = self.session.run.current, self.method.currentData()
        if run is None:
            return
        self.make_button.hide()
        self.jobs.stop()
        if method in self._maps:
            self._on_map(self._maps[method])
        else:
            self._say("Making the map...")
            unit = run.result.config.units.kind
            work = partial(_make_map, run.result.activations.codes, method, unit)
            self.jobs.start(work, "MicroDL map", message=self.method.currentText())

    def _on_cancelled(self) -> None:
        self._say("Cancelled.")
        # It would begin anew with the next concept.
        self.make_button.show()

    def _on_map(self, made: tuple[NDArray[np.float32], str]) -> None:
        self._drawn = self.method.currentData()
        self._maps[self._drawn] = made
        self.plot.show_map(self.session.run.current, *made)
        self.show_selection()

    def _say(self, text: str) -> None:
        show_text(self.message, text)
