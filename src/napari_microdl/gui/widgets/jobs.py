"""Work in the background: one generator in a thread, with progress, Cancel and no stale results."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari.qt.threading import GeneratorWorker, create_worker
from napari.utils import cancelable_progress
from qtpy.QtCore import QObject, QTimer, Signal

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import Stopped, stop_if_asked, stoppable

if TYPE_CHECKING:
    from napari_microdl.pipeline.run import Progress
    from napari_microdl.report import EvaluationStep

_LOG = logging.getLogger(__name__)

# More often than this a person sees no difference, and the GUI thread would drown in events.
_SECONDS_BETWEEN_REPORTS = 0.04
_MILLISECONDS_BETWEEN_LOOKS = 100

# Share of the bar, in percent, at which each stage of a run starts and ends.
_STAGES = {
    "scale": (0, 2),
    "segment": (2, 12),
    "embed": (12, 65),
    "whiten": (65, 70),
    "fit": (70, 96),
    "encode": (96, 100),
}


def percent_done(
    progress: Progress | EvaluationStep, first: str = "scale", last: str = "encode"
) -> int:
    """Share of a run that is done, in percent, judged by the usual length of the stages.

    Steps of a stage that is none of a run count over the whole job.

    Parameters
    ----------
    progress : Progress or EvaluationStep
        Where it is.
    first, last : str
        Stages that the run begins and ends with.

    Returns
    -------
    int
        0 to 100.
    """
    share = progress.done / max(progress.total, 1)
    if progress.stage not in _STAGES:
        return round(100 * share)
    start, end = _STAGES[progress.stage]
    done = start + (end - start) * share
    begin, finish = _STAGES[first][0], _STAGES[last][1]
    return round(100 * min(max((done - begin) / (finish - begin), 0), 1))


@dataclass(frozen=True)
class _Outcome:
    """What came of a job: a result, or a sentence that says why there is none."""

    job: int
    result: Any = None
    error: str | None = None


class _ClosingWorker(GeneratorWorker):
    """A worker that closes its generator in its own thread.

    A generator left to the garbage collector could run its clean-up in the GUI thread, any time
    later.
    """

    def work(self) -> Any:
        try:
            return super().work()
        finally:
            self._gen.close()


def _guarded(
    job: int, steps: Generator[Any, None, Any], asked: threading.Event
) -> Generator[Any, None, _Outcome]:
    """Steps of a job with its number, thinned out, every error made a sentence."""
    last, stage = 0.0, ""
    try:
        while True:
            with stoppable(asked):
                try:
                    progress = next(steps)
                except StopIteration as finished:
                    return _Outcome(job, finished.value)
                # Not every step is passed on, and only then would the worker look.
                stop_if_asked()
            now = time.monotonic()
            if progress.stage != stage or now - last >= _SECONDS_BETWEEN_REPORTS:
                last, stage = now, progress.stage
                yield job, progress
    except Stopped:
        # Nobody waits for this any more.
        return _Outcome(job)
    except MicrodlError as error:
        return _Outcome(job, error=str(error))
    except MemoryError:
        return _Outcome(
            job,
            error="There is not enough memory for this run; use fewer images or smaller ones, "
            "or close other programs.",
        )
    except Exception as error:
        _LOG.exception("A background job failed.")
        return _Outcome(
            job,
            error=f"The run stopped on an unexpected error ({type(error).__name__}: {error}); "
            "nothing was changed. Please report it with what the terminal shows.",
        )
    finally:
        steps.close()


@dataclass
class _Running:
    """Worker and bar of the job in progress, apart from the runner so that they outlive it."""

    worker: GeneratorWorker | None = None
    bar: cancelable_progress | None = None
    # Asks the work to stop, also in the middle of a step.
    asked: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Ask the thread to stop at its next step and take the bar away."""
        self.asked.set()
        worker, self.worker = self.worker, None
        bar, self.bar = self.bar, None
        if worker is not None:
            worker.quit()
        if bar is not None:
            bar.close()

    def __del__(self) -> None:
        self.asked.set()
        if self.worker is not None:
            self.worker.quit()


class JobRunner(QObject):
    """Runs one generator of `Progress` at a time, off the GUI thread.

    Signals arrive in the GUI thread. After `cancel` and after the runner is destroyed nothing of
    the old job arrives any more; its thread ends at its next step.

    Parameters
    ----------
    parent : QObject
        Usually the dock; the job is stopped when it is destroyed.
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
        self._reporting = False
        # Stages that the job begins and ends with.
        self._first, self._last = "scale", "encode"
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
        self, steps: Generator[Any, None, Any], title: str | None = None, last: str = "encode"
    ) -> None:
        """Start a job; an earlier one is cancelled.

        Parameters
        ----------
        steps : generator of Progress
            The work, yielding `Progress` or what else has a stage, done and total; what it returns
            arrives through `succeeded`.
        title : str, optional
            Description of the bar in napari's activity dock; no bar where not given.
        last : str, default="encode"
            Stage that the work ends with.
        """
        self.stop()
        self._first, self._last = "scale", last
        self._job += 1
        job = self._job
        if title is not None:
            # gui=True keeps tqdm from also writing a bar to the terminal.
            bar = cancelable_progress(total=100, desc=title, gui=True)
            # napari handles waiting events while it makes a bar. If another job was begun by one of
            # them, it is the later one.
            if job != self._job:
                bar.close()
                steps.close()
                return
            self._now.bar = bar
            self._look.start()
        self._now.asked = threading.Event()
        worker = create_worker(
            _guarded,
            job,
            steps,
            self._now.asked,
            _start_thread=False,
            _worker_class=_ClosingWorker,
        )
        worker.yielded.connect(self._on_yielded)
        worker.returned.connect(self._on_returned)
        self._now.worker = worker
        worker.start()
        self.running_changed.emit(True)

    def percent(self, progress: Progress) -> int:
        """Share of the job that is done, in percent.

        Parameters
        ----------
        progress : Progress
            As `progressed` sent it.

        Returns
        -------
        int
            0 to 100.
        """
        if self._first == "scale":
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

    def _on_yielded(self, sent: tuple[int, Progress]) -> None:
        job, progress = sent
        if job != self._job:
            return
        if self._first == "scale":
            # Stages that are not run again take no part of the bar.
            self._first = progress.stage
        self.progressed.emit(progress)
        # napari's bar handles waiting events when it is moved, so this may be entered again: later
        # reports then come before the bar has moved, and never before they were passed on.
        if job == self._job and self._now.bar is not None and not self._reporting:
            self._reporting = True
            try:
                self._now.bar.update(max(0, self.percent(progress) - self._now.bar.n))
            finally:
                self._reporting = False

    def _on_returned(self, outcome: _Outcome) -> None:
        if outcome.job != self._job:
            return
        self.stop()
        if outcome.error is not None:
            self.failed.emit(outcome.error)
        else:
            self.succeeded.emit(outcome.result)
