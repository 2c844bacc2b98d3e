"""What the tabs of the explorer share."""

from __future__ import annotations

from napari.viewer import Viewer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget

from napari_microdl.gui.session.selection import Selection
from napari_microdl.gui.session.session import Run, Session


class Panel(QWidget):
    """One tab: it is told of runs, and of concepts only while it is looked at.

    Parameters
    ----------
    viewer : Viewer
        The viewer itself.
    session : Session
        Where the run is.
    selection : Selection
        Which units are selected.
    """

    def __init__(self, viewer: Viewer, session: Session, selection: Selection) -> None:
        super().__init__()
        self.viewer = viewer
        self.session = session
        self.selection = selection
        inside = QWidget()
        self.column = QVBoxLayout(inside)
        self.column.setContentsMargins(2, 2, 2, 2)
        self.column.setSpacing(2)
        # Of large letters not everything has room; squeezed, nothing could be read.
        scroll = QScrollArea()
        scroll.setWidget(inside)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        outside = QVBoxLayout(self)
        outside.setContentsMargins(0, 0, 0, 0)
        outside.addWidget(scroll)

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Lay out anew: letters may have got another size while another tab was looked at."""
        super().showEvent(event)
        for widget in self.findChildren(QWidget):
            widget.ensurePolished()
            widget.updateGeometry()

    def show_run(self, run: Run | None) -> None:
        """Another run came, or none is left; nothing to do by default."""

    def show_concept(self, run: Run, concept: int) -> None:
        """The tab is looked at, or another concept was chosen while it is; nothing by default."""

    def show_selection(self) -> None:
        """Other units are selected or something was tagged; nothing to do by default."""

    def set_colours(self, colours: dict[str, str]) -> None:
        """The theme changed; nothing to do by default."""
