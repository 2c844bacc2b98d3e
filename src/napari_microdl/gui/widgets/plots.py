"""What the plots in the docks share: their canvas, their colours, their files, and arrow keys."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QFontMetrics, QPainter, QPaintEvent, QShowEvent
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from napari_microdl.core.pictures import check_picture, write_figure
from napari_microdl.gui.widgets.save_actions import HINT, offer_picture, offer_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PAPER = {"background": "#ffffff", "text": "#000000"}
# Axis and direction of every key; the last two go to the ends.
_STEPS = {
    Qt.Key.Key_Left: (0, -1),
    Qt.Key.Key_Right: (0, 1),
    Qt.Key.Key_Down: (1, -1),
    Qt.Key.Key_Up: (1, 1),
}
_ENDS = {Qt.Key.Key_Home: 0, Qt.Key.Key_End: -1}
# Pixels of a line of text for which the heights of plots are given.
_LINE = 17


@cache
def _canvas_class() -> type:
    """The canvas of plots; made with the first one, because matplotlib takes long to import."""
    from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg

    class PlotCanvas(FigureCanvasQTAgg):
        """A canvas that asks for no more than it needs, and takes what there is.

        Matplotlib's asks for the size that its figure happens to have. The Tab key reaches it, for
        the menu of its plot.
        """

        def __init__(self, figure: Figure) -> None:
            super().__init__(figure)
            self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

        def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 (Qt's name)
            """Draw a frame around the plot while keys go to it."""
            super().paintEvent(event)
            if self.hasFocus():
                painter = QPainter(self)
                painter.setPen(self.palette().highlight().color())
                painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
                painter.end()

        def showEvent(self, event: QShowEvent) -> None:  # noqa: N802 (Qt's name)
            """Draw what has changed while it was hidden."""
            super().showEvent(event)
            self.draw_idle()

        def sizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
            """The least size."""
            return self.minimumSize()

    return PlotCanvas


class Plot(QWidget):
    """A matplotlib figure in the colours of the theme, made when it is first drawn.

    Its name is what a screen reader says, and what its files are called at first.
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

            self._canvas = _canvas_class()(Figure(layout="constrained"))
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
        # Matplotlib would draw it behind another tab as well.
        if self._canvas.isVisible():
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
        # A colour bar is a child.
        for part in (axes, *axes.child_axes):
            part.tick_params(colors=text, labelsize=size)
            part.xaxis.label.set(color=text, size=size)
            part.yaxis.label.set(color=text, size=size)
        for side, spine in axes.spines.items():
            spine.set_visible(side in {"left", "bottom"})
            spine.set_color(text)
        axes.title.set(color=text, size=size + 1)

    def save(self, path: str | Path) -> None:
        """Write the plot as PNG, SVG or PDF, dark on white whatever the theme."""
        from matplotlib.figure import Figure

        path = check_picture(path)
        figure = Figure(figsize=(5, 3), layout="constrained")
        shown, self.colours = self.colours, _PAPER
        try:
            self._compose(figure, _PAPER)
        finally:
            self.colours = shown
        write_figure(figure, path)


def point_by_key(places: NDArray[np.float64], current: int | None, key: int) -> int | None:
    """Number of the point that a key leads to; None for other keys, and at an end.

    Left and right lead to the next point along the first axis, down and up along the second; Home
    and End to the least and the greatest along the first. Every point is reached, also those that
    lie on one another. From a point that is not drawn, as it is not finite, the key leads to an
    end.
    """
    drawn = np.flatnonzero(np.isfinite(places).all(axis=1))
    if not len(drawn) or (key not in _STEPS and key not in _ENDS):
        return None
    axis, step = _STEPS.get(Qt.Key(key), (0, 0))
    # Of equal ones the other axis decides, and then the number: a point has one place in the row.
    order = drawn[np.lexsort((places[drawn, 1 - axis], places[drawn, axis]))]
    if key in _ENDS:
        return int(order[_ENDS[Qt.Key(key)]])
    place = np.flatnonzero(order == current)
    if not len(place):
        return int(order[0 if step > 0 else -1])
    new = int(place[0]) + step
    return int(order[new]) if 0 <= new < len(order) else None
