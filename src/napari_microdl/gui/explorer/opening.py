"""Opening activations that were saved to a folder."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_info
from qtpy.QtWidgets import QFileDialog, QPushButton, QWidget

from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.job_bar import JobBar, JobStep, told
from napari_microdl.gui.widgets.jobs import JobRunner

if TYPE_CHECKING:
    from napari_microdl.concepts.activations import ConceptActivations


def _open_steps(folder: Path) -> Generator[JobStep, None, ConceptActivations]:
    """Open a folder in the background: what it holds is checked, which reads gigabytes."""
    from napari_microdl.concepts.store import iter_open_activations

    return (yield from told(iter_open_activations(folder), "Opening"))


class OpenButton(QPushButton):
    """A button that asks for a folder and shows the activations in it.

    Parameters
    ----------
    session : Session
        What shows them.
    parent : QWidget
        The dock.
    """

    def __init__(self, session: Session, parent: QWidget) -> None:
        super().__init__("Open...", parent)
        self._session = session
        self.setToolTip(
            "Activations that were saved to a folder. Codes and vectors stay on disk, so there may "
            "be millions of cells."
        )
        self.jobs = JobRunner(self)
        self.job_bar = JobBar(self.jobs)
        self.jobs.succeeded.connect(session.open_activations)
        self.jobs.failed.connect(show_info)
        self.jobs.running_changed.connect(self.setDisabled)
        self.clicked.connect(self._ask)

    def _ask(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Open activations")
        if folder:
            self.jobs.start(_open_steps(Path(folder)), "Opening activations")
