"""Tab with a flat map of all units, where a lasso selects some."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QPushButton

from napari_microdl.concepts.projection import iter_pca_map, iter_umap_map, umap_is_installed
from napari_microdl.core.text import counted
from napari_microdl.gui.dock import sentence_label
from napari_microdl.gui.explorer.panel import Panel
from napari_microdl.gui.explorer.select_button import SelectButton
from napari_microdl.gui.session.session import Run
from napari_microdl.gui.widgets.job_bar import JobBar, JobStep, told
from napari_microdl.gui.widgets.jobs import JobRunner
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


def _map_steps(run: Run, method: str) -> Generator[JobStep, None, tuple[str, str, Any, str]]:
    """Make a map in the background: method, run, places, title."""
    codes = run.result.activations.codes
    if method == "umap":
        places = yield from told(iter_umap_map(codes), "UMAP")
        known = int(np.isfinite(places[:, 0]).sum())
        drawn = (
            f" of {known:,} random {run.result.config.units.kind}s" if known < len(places) else ""
        )
        return run.run_id, method, places, f"UMAP of activations{drawn}"
    places, share = yield from told(iter_pca_map(codes), "PCA")
    title = f"first two principal components ({share.sum():.0%} of the variance)"
    return run.run_id, method, places, title


class MapPanel(Panel):
    """Choice of the kind of map, the map, and how many units are selected.

    Parameters
    ----------
    *args
        As for `Panel`.
    field_in_view : callable
        Gives the number of the field that is looked at.
    """

    def __init__(self, *args: Any, field_in_view: Callable[[], int]) -> None:
        super().__init__(*args)
        self.method = QComboBox()
        self.method.setAccessibleName("Kind of map")
        self.method.addItem("PCA", "pca")
        self.method.setToolTip("Units with similar activations lie close together.")
        if umap_is_installed():
            self.method.addItem("UMAP", "umap")
        self.method.currentIndexChanged.connect(self._make)
        self.select_button = SelectButton(self.session, self.selection, field_in_view)
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
        self._made: tuple[str, str] | None = None
        # Maps of the run, as a UMAP takes a while each time.
        self._maps: dict[str, tuple[Any, str]] = {}

    def show_run(self, run: Run | None) -> None:
        """Forget the map of an earlier run."""
        self.jobs.stop()
        self._made = None
        self._maps = {}
        self.make_button.hide()
        self.plot.show_map(None, None)
        self.select_button.show_run(run)
        self._say("")

    def show_concept(self, run: Run, concept: int) -> None:
        """Make the map when it is first looked at, and ring what was selected since."""
        if self._made == (run.run_id, self.method.currentData()):
            self.plot.show_selected(self.selection.rows)
        elif not (self.jobs.is_running or self.make_button.isVisibleTo(self)):
            self._make()

    def show_selection(self) -> None:
        """Ring the selected units."""
        chosen = len(self.selection.rows)
        self.clear_button.setEnabled(chosen > 0)
        if self._made is not None and self.session.run is not None:
            unit = self.session.run.result.config.units.kind
            self._say(
                f"{counted(chosen, unit)} selected and outlined in the images."
                if chosen
                else f"Draw a line around points to select their {unit}s in the images, or press "
                "Select."
            )
            if not self.isHidden():
                self.plot.show_selected(self.selection.rows)

    def set_colours(self, colours: dict[str, str]) -> None:
        """Follow the theme."""
        self.plot.set_colours(colours)

    def _make(self) -> None:
        run, method = self.session.run, self.method.currentData()
        if run is None:
            return
        self.make_button.hide()
        self.jobs.stop()
        if method in self._maps:
            self._on_map((run.run_id, method, *self._maps[method]))
        else:
            self._say("Making the map...")
            self.jobs.start(_map_steps(run, method), "MicroDL map")

    def _on_cancelled(self) -> None:
        self._say("Cancelled.")
        # It would begin anew with the next concept.
        self.make_button.show()

    def _on_map(self, result: tuple[str, str, Any, str]) -> None:
        run_id, method, places, title = result
        run = self.session.run
        if run is not None and run.run_id == run_id:
            self._maps[method] = places, title
            self._made = run_id, method
            self.plot.show_map(run, places, title)
            self.show_selection()

    def _say(self, text: str) -> None:
        self.message.setText(text)
        self.message.setVisible(bool(text))
