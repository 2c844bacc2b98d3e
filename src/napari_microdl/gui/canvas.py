"""The canvas of plots; imported with matplotlib when the first is drawn."""

from __future__ import annotations

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from qtpy.QtCore import QSize


class PlotCanvas(FigureCanvasQTAgg):
    """A canvas that asks for no more than it needs, and takes what there is.

    Matplotlib's asks for the size that its figure happens to have.
    """

    def sizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
        """The least size."""
        return self.minimumSize()
