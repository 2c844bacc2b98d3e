"""Tasks that tests follow or cancel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from napari_microdl.core.task import Cancelled, Progress, Task


@contextmanager
def recorded() -> Iterator[list[Progress]]:
    """All progress of the work inside."""
    heard: list[Progress] = []
    with Task(heard.append).active():
        yield heard


class _Looking(Task):
    """Cancels itself at a look of the work, counted over `check` and `progress`."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._looks_left = after

    def check(self) -> None:
        if self._looks_left == 0:
            self.cancel()
        self._looks_left -= 1
        super().check()


@contextmanager
def cancelling(after: int = 0) -> Iterator[Task]:
    """Cancel the work inside at a look; the test fails where it looked less often.

    Parameters
    ----------
    after : int
        Looks that pass before.
    """
    task = _Looking(after)
    with task.active(), pytest.raises(Cancelled):
        yield task
