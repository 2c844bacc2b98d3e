"""Plots in the docks: what they share, and the fit curve."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from napari_microdl.gui.widgets.save_actions import (
    HINT,
    check_picture,
    offer_picture,
    offer_table,
    write_figure,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from napari_microdl.estimators.icfl import FitRecord

_PAPER = {"background": "#ffffff", "text": "#000000"}
_CURVE = "#56b4e9"
_MILLISECONDS_BETWEEN_DRAWINGS = 250
# Pixels of a line of text for which the heights of plots are given.
_LINE = 17


class Plot(QWidget):
    """A matplotlib figure in the colours of the theme, made when it is first drawn.

    Parameters
    ----------
    height : int
        Preferred height in pixels.
    name : str
        What it is called: by a screen reader, and at first by its files.
    """

    def __init__(self, height: int, name: str) -> None:
        super().__init__()
        self._name = name
        self._height = height
        self._canvas: Any = None
        self.colours = dict(_PAPER)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        offer_picture(self, name.lower(), self.save)
        if type(self).table is not Plot.table:
            offer_table(self, name.lower(), self.table)
        self.explain("")

    def explain(self, text: str) -> None:
        """Say in the tooltip what is drawn, and how it is saved."""
        self.setToolTip(f"{text}\n{HINT}".lstrip())

    def table(self) -> pd.DataFrame:
        """The numbers behind the plot, of plots that no other table has."""
        raise NotImplementedError

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

    @property
    def canvas(self) -> Any:
        """Qt canvas of matplotlib, None before the first drawing."""
        return self._canvas

    def drawn(self) -> None:
        """Called after each drawing, with the axes in `canvas`."""

    def redraw(self) -> None:
        """Draw the present contents; nothing is shown while there are none."""
        self.setVisible(self.has_contents())
        if not self.has_contents():
            return
        if self._canvas is None:
            # Imported on the first drawing: napari starts faster without matplotlib.
            from matplotlib.figure import Figure

            from napari_microdl.gui.widgets.canvas import PlotCanvas

            self._canvas = PlotCanvas(Figure(layout="constrained"))
            self._canvas.setSizePolicy(
                QSizePolicy.Policy.Expanding, QSizePolicy.Policy.MinimumExpanding
            )
            self._canvas.setAccessibleName(self._name)
            self.layout().addWidget(self._canvas)
        # Title, numbers and label of the axis take their lines from the drawing.
        line = QFontMetrics(self.font()).height()
        self._canvas.setMinimumSize(120, self._height + max(3 * (line - _LINE), 0))
        self._compose(self._canvas.figure, self.colours, self._text_size())
        self.drawn()
        self._canvas.draw_idle()

    def _text_size(self) -> float:
        """Points of labels: a little smaller than the text of the dock, whose size a user sets."""
        pixels = QFontMetrics(self.font()).height()
        return max(6.0, 0.45 * pixels)

    def _compose(self, figure: Figure, colours: dict[str, str], size: float = 8.0) -> None:
        figure.clear()
        figure.set_facecolor(colours["background"])
        axes = figure.add_subplot()
        axes.set_facecolor(colours["background"])
        self.paint(axes)
        text = colours["text"]
        axes.tick_params(colors=text, labelsize=size)
        for side, spine in axes.spines.items():
            spine.set_visible(side in {"left", "bottom"})
            spine.set_color(text)
        axes.xaxis.label.set(color=text, size=size)
        axes.yaxis.label.set(color=text, size=size)
        axes.title.set(color=text, size=size + 1)

    def save(self, path: str | Path) -> None:
        """Write the plot as PNG, SVG or PDF, dark on white whatever the theme.

        Parameters
        ----------
        path : str or Path
            The suffix decides the format.

        Raises
        ------
        MicrodlError
            If the suffix is none of these.
        """
        from matplotlib.figure import Figure

        path = check_picture(path)
        figure = Figure(figsize=(5, 3), layout="constrained")
        shown, self.colours = self.colours, _PAPER
        try:
            self._compose(figure, _PAPER)
        finally:
            self.colours = shown
        write_figure(figure, path)


class FitCurve(Plot):
    """R2 of the dictionary against the step, drawn while it is fitted."""

    def __init__(self) -> None:
        super().__init__(130, "Fit curve")
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

    def table(self) -> pd.DataFrame:
        """Every point of the fit: step, R2, dead concepts and what else is known."""
        import pandas as pd

        return pd.DataFrame([dataclasses.asdict(record) for record in self._records])

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
