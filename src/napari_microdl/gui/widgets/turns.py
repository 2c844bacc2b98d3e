"""Work that waits for a turn of the event loop of its own, so that the window answers in between.

Timers without an interval that run out together are all served before the window is drawn or hears
a click. What waits here is served one thing a turn, whoever asked for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QApplication


class _Queue(QObject):
    """What waits, in two lines: one goes first; the methods are held weakly."""

    def __init__(self, application: QObject) -> None:
        super().__init__(application)
        self.first: deque[WeakMethod[Callable[[], Any]]] = deque()
        self.others: deque[WeakMethod[Callable[[], Any]]] = deque()
        self._timer = QTimer(self, interval=0)
        self._timer.timeout.connect(self._do_next)

    def add(self, act: Callable[[], Any], *, first: bool) -> None:
        (self.first if first else self.others).append(WeakMethod(act))
        if not self._timer.isActive():
            self._timer.start()

    def _do_next(self) -> None:
        act = None
        while (line := self.first or self.others) and act is None:
            act = line.popleft()()
            # What Qt has destroyed may not be asked for anything any more.
            if isinstance(owner := getattr(act, "__self__", None), QObject) and not isalive(owner):
                act = None
        if not self.first and not self.others:
            self._timer.stop()
        if act is not None:
            act()


def _queue() -> _Queue:
    application = QApplication.instance()
    return application.findChild(_Queue) or _Queue(application)


def do_in_turn(act: Callable[[], Any], *, first: bool = False) -> None:
    """Call a bound method in a turn of its own, unless its owner is gone by then.

    Asked for again before, it waits behind all others, and is called once: of many changes in a row
    the window is brought up to date at their end. What belongs to what was just done, and would be
    seen half done, comes `first`.
    """
    call_off(act)
    _queue().add(act, first=first)


def is_waiting(act: Callable[[], Any]) -> bool:
    """Whether a bound method is still to be called."""
    queue = _queue()
    return WeakMethod(act) in queue.first or WeakMethod(act) in queue.others


def call_off(act: Callable[[], Any]) -> None:
    """Do not call a bound method any more."""
    for line in (_queue().first, _queue().others):
        if WeakMethod(act) in line:
            line.remove(WeakMethod(act))
