"""Asks work to stop in the middle of a step that has no step of its own, as the pass of a model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_of_thread = threading.local()


class Stopped(BaseException):
    """The work of this thread was asked to stop.

    No `Exception`: what goes on after an error must not take it for one.
    """


@contextmanager
def stoppable(asked: threading.Event) -> Iterator[None]:
    """Let `stop_if_asked` end what this thread does inside.

    Parameters
    ----------
    asked : threading.Event
        Set by whoever wants the work to stop, from any thread.
    """
    before = getattr(_of_thread, "asked", None)
    _of_thread.asked = asked
    try:
        yield
    finally:
        _of_thread.asked = before


def stop_if_asked() -> None:
    """Give up where the work of this thread was asked to stop; else nothing happens.

    For the inside of long loops that are no generators; a generator is stopped by its owner between
    two steps.

    Raises
    ------
    Stopped
        If it was.
    """
    asked = getattr(_of_thread, "asked", None)
    if asked is not None and asked.is_set():
        raise Stopped
