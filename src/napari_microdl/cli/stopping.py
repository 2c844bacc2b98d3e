"""Ctrl-C, and the end of a job's time as a batch system tells it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A person or a batch system has stopped the command.

    No `Exception`: what goes on after an error must not take it for one.

    Attributes
    ----------
    number : int
        Of the signal.
    sentence : str
        What is left, without a full stop.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.sentence = "nothing is left half written"


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise `Stopped` where the process is asked to end; asked once more, it ends as usual."""
    if threading.current_thread() is not threading.main_thread():
        # Python hands signals to the main thread alone.
        yield
        return
    # What whoever has started the process wants to be passed over stays so.
    before = {
        number: handler
        for number in _SIGNALS
        if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, _: FrameType | None) -> None:
        restore()
        raise Stopped(number)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()


@contextmanager
def usual_signals() -> Iterator[None]:
    """Leave signals to Python, as for a window, whose loop must not be left by an exception."""
    here = {number: signal.getsignal(number) for number in _SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in here.items():
            signal.signal(number, handler)
