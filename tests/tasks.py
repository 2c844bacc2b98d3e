"""Tasks that tests follow or cancel, and the processes that do their work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest

from napari_microdl.core import child_process
from napari_microdl.core.task import Cancelled, Progress, Task


@contextmanager
def recorded() -> Iterator[list[Progress]]:
    """All progress of the work inside."""
    heard: list[Progress] = []
    with Task(heard.append).active():
        yield heard


class Looked(Task):
    """Counts the looks of the work, over `check` and `progress`, and cancels itself at one."""

    def __init__(self, cancel_after: int | None = None) -> None:
        super().__init__()
        self.looks = 0
        self._cancel_after = cancel_after

    def check(self) -> None:
        if self.looks == self._cancel_after:
            self.cancel()
        self.looks += 1
        super().check()


@contextmanager
def cancelling(after: int = 0) -> Iterator[Task]:
    """Cancel the work inside at a look; the test fails where it looked less often.

    Parameters
    ----------
    after : int
        Looks that pass before.
    """
    task = Looked(after)
    with task.active(), pytest.raises(Cancelled):
        yield task


@contextmanager
def cancelled_by(wanted: Callable[[Progress], bool]) -> Iterator[None]:
    """Cancel the work inside at the first progress that is wanted; the test fails without any."""

    def look(progress: Progress) -> None:
        if wanted(progress):
            task.cancel()

    task = Task(look)
    with task.active(), pytest.raises(Cancelled):
        yield


def cancelled_at_every_look(work: Callable[[], object]) -> Iterator[int]:
    """Do work again and again, cancelled at its next look each time, until it goes through.

    Yields
    ------
    int
        Looks that passed before the one at which it was cancelled.
    """
    for number in count():
        try:
            with Looked(number).active():
                work()
        except Cancelled:
            yield number
        else:
            return


def processes_started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Processes that work is sent to, as they are started from now on."""
    processes: list[Any] = []
    start = child_process._start

    def remembered() -> Any:
        processes.append(start())
        return processes[-1]

    monkeypatch.setattr(child_process, "_start", remembered)
    return processes
