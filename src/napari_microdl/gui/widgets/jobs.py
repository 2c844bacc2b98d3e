"""Work in the background: one function in a thread, with progress, Cancel and no stale results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from napari.qt.threading import FunctionWorker, create_worker
from napari.utils import cancelable_progress
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QWidget

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import Cancelled, Progress, Stage, Task, current_task
from napari_microdl.core.text import duration

_LOG = logging.getLogger(__name__)

# More often than this a person sees little difference, and drawing it would take the work its time.
_SECONDS_BETWEEN_REPORTS = 0.1
_MILLISECONDS_BETWEEN_LOOKS = 100
# What is over sooner nobody waits for.
_LEAST_SECONDS_LEFT = 3.0

# Percent of the bar at which each stage of a run starts and ends, by their usual length.
_STAGES: dict[Stage, tuple[int, int]] = {
    "fields": (0, 2),
    "cells": (2, 12),
    "tokens": (12, 65),
    "whitening": (65, 70),
    "dictionary": (70, 96),
    "activations": (96, 100),
}


def percent_done(progress: Progress, first: Stage = "fields", last: Stage = "activations") -> int:
    """How much of a run that begins and ends with some stages is done, in percent.

    Progress of no stage counts by its share.
    """
    if progress.stage is None:
        return round(100 * progress.share)
    start, end = _STAGES[progress.stage]
    begin, finish = _STAGES[first][0], _STAGES[last][1]
    done = start + (end - start) * progress.share
    return round(100 * min(max((done - begin) / (finish - begin), 0), 1))


@dataclass(frozen=True)
class _Outcome:
    """What came of a job: a result, or a sentence that says why there is none."""

    job: int
    result: Any = None
    error: str | None = None
    is_cancelled: bool = False


class _Reports(QObject):
    """Carries progress from the thread of a job into that of the window."""

    sent = Signal(object)


class _Worker(FunctionWorker):
    """A function in a thread, inside a task that can be cancelled."""

    def __init__(self, function: Callable[..., _Outcome], job: int, *args: Any) -> None:
        super().__init__(function)
        self._call: Callable[[], _Outcome] | None = partial(function, job, *args)
        self.reports = _Reports()
        self._job = job
        self._task = Task(self._report, seconds_between=_SECONDS_BETWEEN_REPORTS)

    def _report(self, progress: Progress) -> None:
        self.reports.sent.emit((self._job, progress))

    def quit(self) -> None:
        """Cancel; napari asks for it, too, when it is closed."""
        super().quit()
        self._task.cancel()

    def work(self) -> _Outcome:
        """Call the function."""
        # napari holds a worker for as long as its window, and what a run has made is large.
        call, self._call = self._call, None
        assert call is not None
        with self._task.active():
            return call()


def _outcome(job: int, work: Callable[[], Any], message: str) -> _Outcome:
    """Do the work; every error becomes a sentence."""
    try:
        current_task().check()
        if message:
            current_task().progress(0, 0, message)
        return _Outcome(job, work())
    except Cancelled:
        return _Outcome(job, is_cancelled=True)
    except MicrodlError as error:
        return _Outcome(job, error=str(error))
    except MemoryError:
        sentence = (
            "There is not enough memory for this run; use fewer images or smaller ones, or close "
            "other programs."
        )
        return _Outcome(job, error=sentence)
    except Exception as error:
        _LOG.exception("A background job failed.")
        sentence = (
            f"The run stopped on an unexpected error ({type(error).__name__}: {error}); nothing "
            "was changed. Please report it with what the terminal shows."
        )
        return _Outcome(job, error=sentence)


@dataclass
class _Running:
    """Worker and bar of the job in progress, apart from the runner so that they outlive it."""

    worker: _Worker | None = None
    bar: cancelable_progress | None = None

    def stop(self) -> None:
        """Cancel the task and take the bar away."""
        worker, self.worker = self.worker, None
        bar, self.bar = self.bar, None
        if worker is not None:
            worker.quit()
        if bar is not None:
            bar.close()

    def __del__(self) -> None:
        if self.worker is not None:
            self.worker.quit()


class JobRunner(QObject):
    """Runs one function at a time, off the GUI thread.

    The function reports through `napari_microdl.core.task.current_task`. Signals arrive in the GUI
    thread. After `cancel` and after the runner is destroyed nothing of the old job arrives any
    more; its thread ends when it next looks at its task.

    Parameters
    ----------
    parent : QObject
        Usually the dock; the job is stopped when it is destroyed.

    Signals
    -------
    progressed
        `Progress` of the job.
    succeeded
        What the function returned.
    failed
        A sentence.
    cancelled
        By a person.
    running_changed
        Whether there is a job.
    """

    progressed = Signal(object)
    succeeded = Signal(object)
    failed = Signal(str)
    cancelled = Signal()
    running_changed = Signal(bool)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._job = 0
        self._now = _Running()
        self._moving_bar = False
        # Stages that the job begins and ends with.
        self._first: Stage = "fields"
        self._last: Stage = "activations"
        # A click on the bar in napari's activity dock only sets a flag.
        self._look = QTimer(self)
        self._look.setInterval(_MILLISECONDS_BETWEEN_LOOKS)
        self._look.timeout.connect(self._look_at_bar)
        # A bound method of a plain object: Qt then holds it weakly. A partial would be called after
        # the garbage collector has emptied it, which ends the process.
        self.destroyed.connect(self._now.stop)

    @property
    def is_running(self) -> bool:
        """Whether a job is in progress and not cancelled."""
        return self._now.worker is not None

    def start(
        self,
        work: Callable[[], Any],
        title: str | None = None,
        *,
        message: str = "",
        last: Stage = "activations",
    ) -> None:
        """Start a job; an earlier one is cancelled.

        Parameters
        ----------
        work : callable
            Called in a thread, with a task of its own; what it returns arrives through `succeeded`.
        title : str, optional
            Description of the bar in napari's activity dock; no bar where not given.
        message : str, optional
            What `progressed` says until the work says something else.
        last : str, default="activations"
            Stage of a run that the work ends with.
        """
        self.stop()
        self._first, self._last = "fields", last
        self._job += 1
        job = self._job
        if title is not None:
            # gui=True keeps tqdm from also writing a bar to the terminal.
            bar = cancelable_progress(total=100, desc=title, gui=True)
            # napari handles waiting events while it makes a bar. If another job was begun by one of
            # them, it is the later one.
            if job != self._job:
                bar.close()
                return
            self._now.bar = bar
            self._look.start()
        # Through napari, which then asks before it is closed while a job is running.
        worker = create_worker(
            _outcome, job, work, message, _start_thread=False, _worker_class=_Worker
        )
        worker.reports.sent.connect(self._on_report)
        worker.returned.connect(self._on_returned)
        self._now.worker = worker
        worker.start()
        self.running_changed.emit(True)

    def percent(self, progress: Progress) -> int:
        """How much of the job is done, in percent."""
        if progress.stage is not None and self._first == "fields":
            # Until the work begins it is not known which stages it has.
            return 0
        return percent_done(progress, self._first, self._last)

    def cancel(self) -> None:
        """Cancel the job; its result is dropped even if it was just finished."""
        if self.is_running:
            self.stop()
            self.cancelled.emit()

    def stop(self) -> None:
        """Cancel without `cancelled`: nobody is left to be told, or a new job follows."""
        was_running = self.is_running
        # What the old thread still sends carries the old number.
        self._job += 1
        self._look.stop()
        self._now.stop()
        if was_running:
            self.running_changed.emit(False)

    def _look_at_bar(self) -> None:
        if self._now.bar is not None and self._now.bar.is_canceled:
            self.cancel()

    def _on_report(self, sent: tuple[int, Progress]) -> None:
        job, progress = sent
        if job != self._job:
            return
        if self._first == "fields" and progress.stage is not None:
            # Stages that are not run again take no part of the bar.
            self._first = progress.stage
        self.progressed.emit(progress)
        # napari's bar handles waiting events when it is moved, so this may be entered again: later
        # reports then come before the bar has moved, and never before they were passed on.
        if job == self._job and self._now.bar is not None and not self._moving_bar:
            self._moving_bar = True
            try:
                self._now.bar.update(max(0, self.percent(progress) - self._now.bar.n))
            finally:
                self._moving_bar = False

    def _on_returned(self, outcome: _Outcome) -> None:
        if outcome.job != self._job:
            return
        self.stop()
        if outcome.is_cancelled:
            # By napari, which is being closed: nobody waits for this any more.
            return
        if outcome.error is not None:
            self.failed.emit(outcome.error)
        else:
            self.succeeded.emit(outcome.result)


class JobBar(QWidget):
    """A bar and a Cancel button, there only while a job is running."""

    def __init__(self, jobs: JobRunner) -> None:
        super().__init__()
        self._jobs = jobs
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

    def _on_progress(self, progress: Progress) -> None:
        # A range without length is drawn as a bar that moves all the time.
        self.bar.setRange(0, 100 if progress.total else 0)
        self.bar.setValue(self._jobs.percent(progress))
        self.bar.setFormat(f"{progress.message} %p%{time_left(progress)}")


def time_left(progress: Progress) -> str:
    """How long a stage will still take, to be added to a message; empty while nobody can say."""
    seconds = progress.seconds_left
    if seconds is None or seconds < _LEAST_SECONDS_LEFT:
        return ""
    return f", about {duration(seconds)} left"
