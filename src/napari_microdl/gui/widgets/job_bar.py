"""A bar with a Cancel button for a job that has no other place, and the steps that it shows."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QWidget

from napari_microdl.gui.widgets.jobs import JobRunner, percent_done

Result = TypeVar("Result")


@dataclass(frozen=True)
class JobStep:
    """Where a job is.

    Parameters
    ----------
    message : str
        What is being done.
    done, total : int
        Steps; a total of 0 where it is not known how many there are.
    """

    message: str
    done: int = 0
    total: int = 0
    stage: str = "job"


def told(
    steps: Generator[tuple[int, int] | None, None, Result], message: str
) -> Generator[JobStep, None, Result]:
    """Take all steps of some work of the core, and say what it is.

    Parameters
    ----------
    steps : generator of (tuple of int or None)
        Work that yields what is done and how much there is, or None.
    message : str
        What is being done.

    Yields
    ------
    JobStep

    Returns
    -------
    object
        What the work returns.
    """
    yield JobStep(message)
    while True:
        try:
            step = next(steps)
        except StopIteration as finished:
            result: Result = finished.value
            return result
        yield JobStep(message, *(step or (0, 0)))


class JobBar(QWidget):
    """A bar and a Cancel button, there only while a job is running.

    Parameters
    ----------
    jobs : JobRunner
        Whose jobs are shown and cancelled.
    """

    def __init__(self, jobs: JobRunner) -> None:
        super().__init__()
        self.bar = QProgressBar()
        self.bar.setMinimumWidth(60)
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop at once; nothing is changed.")
        self.cancel_button.clicked.connect(jobs.cancel)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.bar, 1)
        row.addWidget(self.cancel_button)
        jobs.progressed.connect(self._on_progress)
        jobs.running_changed.connect(self._on_running)
        self.hide()

    def _on_running(self, running: bool) -> None:
        self.bar.setRange(0, 100)
        self.bar.setValue(0)
        self.bar.setFormat("")
        self.setVisible(running)

    def _on_progress(self, step: Any) -> None:
        # A range without length is drawn as a bar that moves all the time.
        self.bar.setRange(0, 100 if step.total else 0)
        self.bar.setValue(percent_done(step))
        self.bar.setFormat(f"{step.message} %p%")
