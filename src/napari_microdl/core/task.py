"""Asks work to stop in the middle of a step that has no step of its own, as the pass of a model."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager

from napari_microdl.core.of_thread import OfThread

_asked = OfThread[threading.Event]()


class Stopped(BaseException):
    """The work of this thread was asked to stop.

    No `Exception`: what goes on after an error must not take it for one.
    """


def stoppable(asked: threading.Event) -> AbstractContextManager[None]:
    """Let `stop_if_asked` end what this thread does inside.

    Parameters
    ----------
    asked : threading.Event
        Set by whoever wants the work to stop, from any thread.

    Returns
    -------
    context manager
        To do the work in.
    """
    return _asked.holding(asked)


def stop_if_asked() -> None:
    """Give up where the work of this thread was asked to stop; else nothing happens.

    For the inside of long loops that are no generators; a generator is stopped by its owner between
    two steps.

    Raises
    ------
    Stopped
        If it was.
    """
    if _asked.value is not None and _asked.value.is_set():
        raise Stopped
