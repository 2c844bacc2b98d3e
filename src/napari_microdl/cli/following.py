"""The progress of work, shown on a terminal or in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from napari_microdl.core.task import Progress, Task


class _ProgressBars:
    """A bar a stage where somebody watches, a line a stage in a log.

    What should stay in view gets a line of its own in both.
    """

    def __init__(self) -> None:
        # Not where somebody only asks for help.
        from tqdm import tqdm

        self._tqdm = tqdm
        self._part: str | None = None
        self._line = ""
        self._bar: Any = None

    def __call__(self, progress: Progress) -> None:
        part = progress.stage or progress.message
        if progress.stays or part != self._part:
            self.finish()
        if progress.stays:
            print(progress.message, file=sys.stderr)
            return
        self._part = part
        if not sys.stderr.isatty():
            self._line = f"{progress.message} ({progress.done}/{progress.total})"
            return
        if self._bar is None:
            self._bar = self._tqdm(
                total=1.0,
                file=sys.stderr,
                bar_format="{l_bar}{bar}| {elapsed}, {remaining} left",
                dynamic_ncols=True,
            )
        self._bar.set_description_str(progress.message, refresh=False)
        self._bar.update(progress.share - self._bar.n)

    def finish(self) -> None:
        """The stage is done."""
        if self._bar is not None:
            self._bar.update(1.0 - self._bar.n)
        elif self._line:
            print(self._line, file=sys.stderr)
        self._line = ""
        self.close()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


@contextmanager
def followed() -> Iterator[None]:
    """A task for the work inside, whose progress is shown."""
    bars = _ProgressBars()
    try:
        with Task(bars).active():
            yield
        bars.finish()
    finally:
        bars.close()
