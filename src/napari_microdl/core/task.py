"""The task that work belongs to: who hears of its progress and its notes, and who may cancel it.

Work is a plain function. It asks for `current_task` and tells it how far it is; the window, the
command line or a worker process that started the work holds the other end. Where nobody does,
progress goes nowhere and notes are Python's warnings.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal, ParamSpec, TypeVar

Stage = Literal["fields", "cells", "tokens", "whitening", "dictionary", "activations"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_SECONDS_BETWEEN_LOOKS = 0.05
# Of a stage that has just begun nobody can say when it will end.
_LEAST_SHARE, _LEAST_SECONDS = 0.02, 1.0
# scikit-learn wraps the methods of estimators.
_PASSED_OVER = ("napari_microdl", "sklearn", "contextlib")


class Cancelled(BaseException):
    """The task was cancelled.

    No `Exception`: what goes on after an error must not take it for one.
    """


@dataclass(frozen=True)
class Progress:
    """How far some work is.

    Parameters
    ----------
    stage : {"fields", "cells", "tokens", "whitening", "dictionary", "activations"} or None
        Stage of a run; None for other work.
    done, total : int
        Steps; a total of 0 where it is not known how many there are.
    message : str
        A sentence for people.
    share : float
        What is done of the stage, 0 to 1.
    seconds_left : float or None
        Until the stage ends, judged by what it took so far; None where that is not known yet.
    record : object, optional
        Figures of a step, as a fit has them (`napari_microdl.estimators.icfl.FitRecord`).
    stays : bool, default=False
        Whether the message should stay in view when others follow.
    """

    stage: Stage | None
    done: int
    total: int
    message: str
    share: float = 0.0
    seconds_left: float | None = None
    record: Any = None
    stays: bool = False


class Task:
    """Work that somebody follows and may cancel.

    Parameters
    ----------
    report : callable, optional
        Called with `Progress`, in the thread of the work.
    seconds_between : float, default=0
        Reports that come sooner after another are left out, but for the first of a stage, the last
        of it, and those that stay in view.
    parent : Task, optional
        Cancelled with this one, and the one that hears of progress where `report` is not given.

    Examples
    --------
    >>> def work():
    ...     for number in range(3):
    ...         current_task().progress(number, 3, "Working")
    >>> with Task(lambda progress: print(progress.done)).active():
    ...     work()
    0
    1
    2
    """

    def __init__(
        self,
        report: Callable[[Progress], None] | None = None,
        *,
        seconds_between: float = 0.0,
        parent: Task | None = None,
    ) -> None:
        self._report = report
        self._seconds_between = seconds_between
        self._parent = parent
        self._asked = threading.Event()
        self._stage: Stage | None = None
        self._stage_began = time.monotonic()
        self._steps: list[tuple[int, int, str | None]] = []
        self._notes: list[list[str]] = []
        self._last_report = -float("inf")
        self._message = ""

    @contextmanager
    def active(self) -> Iterator[Task]:
        """Make this the current task of what is called inside, in this thread."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

    def cancel(self) -> None:
        """Ask the work to stop, from any thread; it ends at its next `check` or `progress`."""
        self._asked.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called, here or on the parent."""
        return self._asked.is_set() or (self._parent is not None and self._parent.is_cancelled)

    def check(self) -> None:
        """Give up if the task was cancelled; for the inside of long loops.

        Raises
        ------
        Cancelled
            If it was.
        """
        if self.is_cancelled:
            raise Cancelled

    def progress(
        self,
        done: int,
        total: int,
        message: str | None = None,
        *,
        record: Any = None,
        stays: bool = False,
    ) -> None:
        """Tell how far the work is, and give up if it was cancelled.

        Inside a `step` this is a part of that step, whose message is told if it has one.

        Parameters
        ----------
        done, total : int
            Steps; a total of 0 where it is not known how many there are.
        message : str, optional
            A sentence for people; the last one where not given.
        record : object, optional
            Figures of the step.
        stays : bool, default=False
            Whether the message should stay in view when others follow.

        Raises
        ------
        Cancelled
            If the task was cancelled.
        """
        self.check()
        share = done / total if total else 0.0
        for outer_done, outer_total, outer_message in reversed(self._steps):
            done, total = outer_done, outer_total
            message = message if stays or outer_message is None else outer_message
            share = (done + share) / total if total else 0.0
        if message is not None and not stays:
            self._message = message
        self._tell(
            Progress(
                self._stage,
                done,
                total,
                self._message if message is None else message,
                min(max(share, 0.0), 1.0),
                self._seconds_left(share),
                record,
                stays,
            )
        )

    @contextmanager
    def step(self, done: int, total: int, message: str | None) -> Iterator[None]:
        """One step of a loop, with the progress of what is called inside as a part of it.

        Parameters
        ----------
        done, total : int
            Steps done before this one, and in all.
        message : str or None
            A sentence for people; None leaves the word to what is called inside.
        """
        self.progress(done, total, message)
        self._steps.append((done, total, message))
        try:
            yield
        finally:
            self._steps.pop()

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Name the stage of a run that is called inside."""
        before = self._stage, self._stage_began, self._steps
        self._stage, self._stage_began, self._steps = name, time.monotonic(), []
        self._last_report = -float("inf")
        try:
            yield
        finally:
            self._stage, self._stage_began, self._steps = before

    @contextmanager
    def taking_notes(self) -> Iterator[list[str]]:
        """Collect what is noted inside, instead of warning of it."""
        notes: list[str] = []
        self._notes.append(notes)
        try:
            yield notes
        finally:
            self._notes.pop()

    def note(self, text: str, category: type[Warning] = UserWarning) -> None:
        """Say what a user should know: to whom takes notes, else as a warning.

        Parameters
        ----------
        text : str
            What to know.
        category : type
            Class of the warning, which points at the line that called this package.
        """
        if self._notes:
            self._notes[-1].append(text)
        else:
            # Catching warnings changes the filters of the whole process, so that two fits in two
            # threads would take each other's: notes are kept by task instead.
            warnings.warn(text, category, stacklevel=_level_of_caller())

    def _seconds_left(self, share: float) -> float | None:
        spent = time.monotonic() - self._stage_began
        if share < _LEAST_SHARE or spent < _LEAST_SECONDS:
            return None
        return spent * (1 - share) / share

    def _tell(self, progress: Progress) -> None:
        if self._report is None:
            if self._parent is not None:
                self._parent._tell(progress)
            return
        now = time.monotonic()
        ends = progress.total > 0 and progress.done >= progress.total
        if progress.stays or ends or now - self._last_report >= self._seconds_between:
            self._last_report = now
            self._report(progress)


_current: ContextVar[Task | None] = ContextVar("task", default=None)


def current_task() -> Task:
    """The task that the code which asks belongs to; one that nobody follows where there is none.

    Returns
    -------
    Task
        That of this thread: a new thread begins with one of its own.
    """
    task = _current.get()
    if task is None:
        task = Task()
        _current.set(task)
    return task


def call_in_thread(
    function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call what cannot be interrupted in a thread, which a task that is cancelled leaves behind.

    Parameters
    ----------
    function : callable
        Lets other threads run, as an import, the reading of a file or a large product do.
    *args, **kwargs
        What it is given.

    Returns
    -------
    object
        What it returns.

    Raises
    ------
    Cancelled
        Within a twentieth of a second after the task was cancelled.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="napari-microdl")
    try:
        running: Future[Result] = pool.submit(function, *args, **kwargs)
        while not running.done():
            wait([running], timeout=_SECONDS_BETWEEN_LOOKS)
            current_task().check()
        return running.result()
    finally:
        pool.shutdown(wait=False)


def _level_of_caller() -> int:
    """How many calls up from `note` the code stands that is neither ours nor scikit-learn's."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _package(frame) in _PASSED_OVER:
        frame, level = frame.f_back, level + 1
    return level


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
