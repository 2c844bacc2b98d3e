"""What the tabs of the explorer share."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QFrame, QLabel, QScrollArea, QVBoxLayout, QWidget

from napari_microdl.concepts.concept_set import Concept
from napari_microdl.core.errors import MicrodlError
from napari_microdl.gui.overlays.overlays import Overlays
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.plots import Plot


class Panel(QWidget):
    """One tab: it follows the run, and the concept only while it is looked at."""

    plot: Plot | None = None

    def __init__(self, session: Session, overlays: Overlays) -> None:
        super().__init__()
        self.session = session
        self.selection = session.selection
        self.overlays = overlays
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
        """Another run came, or none is left."""

    def show_concept(self, run: Run, concept: Concept) -> None:
        """The tab is looked at, or another concept was chosen while it is."""

    def show_concept_again(self) -> None:
        """Something else is chosen in the tab, which may not be in view."""
        if self.session.run.current is not None and self.session.view.concept is not None:
            self.show_concept(self.session.run.current, self.session.view.concept)

    def show_selection(self) -> None:
        """Other units are selected or something was tagged."""

    def set_colours(self, colours: dict[str, str]) -> None:
        """Follow the theme."""
        if self.plot is not None:
            self.plot.set_colours(colours)

    def save_picture(self, path: Path) -> None:
        """Write what is drawn as PNG, SVG or PDF, as the suffix says."""
        if self.plot is None or not self.plot.has_contents():
            raise MicrodlError("There is no plot yet; wait until it is drawn.")
        self.plot.save(path)


def conditions_of(run: Run) -> list[str]:
    """Names of the conditions, sorted."""
    return sorted(run.result.activations.units["Metadata_condition"].astype(str).unique())


def show_text(label: QLabel, text: str) -> None:
    """Show a text, or nothing at all where it is empty."""
    label.setText(text)
    label.setVisible(bool(text))
