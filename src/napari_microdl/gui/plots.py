"""Plots in the docks: the fit curve and the distribution of a concept over the conditions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from napari_microdl.activations import ConceptActivations
    from napari_microdl.icfl import FitRecord

_PAPER = {"background": "#ffffff", "text": "#000000"}
_CURVE = "#56b4e9"
_MILLISECONDS_BETWEEN_DRAWINGS = 250


class Plot(QWidget):
    """A matplotlib figure in the colours of the theme, made when it is first drawn.

    Parameters
    ----------
    height : int
        Preferred height in pixels.
    """

    def __init__(self, height: int) -> None:
        super().__init__()
        self._height = height
        self._canvas: Any = None
        self.colours = dict(_PAPER)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)

    def set_colours(self, colours: dict[str, str]) -> None:
        """Follow a theme; see `Dock.theme_colours`."""
        self.colours = colours
        self.redraw()

    def paint(self, axes: Axes) -> None:
        """Draw the contents on empty axes."""
        raise NotImplementedError

    def has_contents(self) -> bool:
        """Whether there is anything to draw."""
        raise NotImplementedError

    def redraw(self) -> None:
        """Draw the present contents; nothing is shown while there are none."""
        self.setVisible(self.has_contents())
        if not self.has_contents():
            return
        if self._canvas is None:
            # Imported on the first drawing: napari starts faster without matplotlib.
            from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
            from matplotlib.figure import Figure

            self._canvas = FigureCanvasQTAgg(Figure(layout="constrained"))
            self._canvas.setMinimumSize(120, self._height)
            self._canvas.setSizePolicy(
                QSizePolicy.Policy.Expanding, QSizePolicy.Policy.MinimumExpanding
            )
            self.layout().addWidget(self._canvas)
        self._compose(self._canvas.figure, self.colours)
        self._canvas.draw_idle()

    def _compose(self, figure: Figure, colours: dict[str, str]) -> None:
        figure.clear()
        figure.set_facecolor(colours["background"])
        axes = figure.add_subplot()
        axes.set_facecolor(colours["background"])
        self.paint(axes)
        text = colours["text"]
        axes.tick_params(colors=text, labelsize=8)
        for side, spine in axes.spines.items():
            spine.set_visible(side in {"left", "bottom"})
            spine.set_color(text)
        axes.xaxis.label.set(color=text, size=8)
        axes.yaxis.label.set(color=text, size=8)
        axes.title.set(color=text, size=9)

    def save(self, path: str | Path) -> None:
        """Write the plot as PNG, SVG or PDF, dark on white whatever the theme.

        Parameters
        ----------
        path : str or Path
            The suffix decides the format.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 3), layout="constrained")
        shown, self.colours = self.colours, _PAPER
        try:
            self._compose(figure, _PAPER)
        finally:
            self.colours = shown
        figure.savefig(path, dpi=200)


class FitCurve(Plot):
    """R2 of the dictionary against the step, drawn while it is fitted."""

    def __init__(self) -> None:
        super().__init__(height=130)
        self._records: list[FitRecord] = []
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_MILLISECONDS_BETWEEN_DRAWINGS)
        self._timer.timeout.connect(self.redraw)
        self.hide()

    def clear(self) -> None:
        """Forget the last fit."""
        self._timer.stop()
        self._records = []
        self.redraw()

    def add(self, record: FitRecord) -> None:
        """Take one more point in; drawing waits, so that a fast fit does not wait for it."""
        self._records.append(record)
        if not self._timer.isActive():
            self._timer.start()

    def set_history(self, records: list[FitRecord]) -> None:
        """Show the whole curve of a finished fit."""
        self._timer.stop()
        self._records = list(records)
        self.redraw()

    def has_contents(self) -> bool:
        """Whether a fit has begun."""
        return bool(self._records)

    def paint(self, axes: Axes) -> None:
        """Draw the curve."""
        steps = [record.step for record in self._records]
        r2 = [record.r2 for record in self._records]
        axes.plot(steps, r2, color=_CURVE, linewidth=1.5)
        last = self._records[-1]
        axes.set_xlim(0, max(last.total_steps or last.step, 1))
        axes.set_xlabel("step")
        axes.set_ylabel("R² of samples")
        axes.set_title(f"R² {last.r2:.3f}, {last.dead_atoms} dead concepts")


class DistributionPlot(Plot):
    """How strongly a concept shows in the units of every condition."""

    def __init__(self) -> None:
        super().__init__(height=120)
        self._shown: tuple[ConceptActivations, int, str] | None = None
        self.hide()

    def show_concept(self, activations: ConceptActivations, concept: int, unit: str) -> None:
        """Draw one concept.

        Parameters
        ----------
        activations : ConceptActivations
            Result of a run.
        concept : int
            Which concept.
        unit : str
            What one sample is, for the labels.
        """
        self._shown = (activations, concept, unit)
        self.redraw()

    def has_contents(self) -> bool:
        """Whether a concept is shown."""
        return self._shown is not None

    def paint(self, axes: Axes) -> None:
        """Draw a box and points for every condition."""
        from napari_microdl.figures import draw_distribution

        if self._shown is not None:
            draw_distribution(axes, *self._shown, text=self.colours["text"])
            # Short enough for a narrow dock.
            axes.set_xlabel("cosine with the concept")
