"""The canvas of plots; imported with matplotlib when the first is drawn."""

from __future__ import annotations

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QPainter, QPaintEvent


class PlotCanvas(FigureCanvasQTAgg):
    """A canvas that asks for no more than it needs, and takes what there is.

    Matplotlib's asks for the size that its figure happens to have. The Tab key reaches it, for the
    menu of its plot.
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

    def sizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
        """The least size."""
        return self.minimumSize()
