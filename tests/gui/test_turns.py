"""What waits for a turn of the event loop of its own."""

from __future__ import annotations

import gc

import pytest
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QApplication

from napari_microdl.gui.widgets.turns import call_off, do_in_turn, is_waiting


class Owner(QObject):
    """Writes down what was asked of it."""

    def __init__(self, done: list[str]) -> None:
        super().__init__()
        self.done = done

    def first(self) -> None:
        self.done.append("first")

    def second(self) -> None:
        self.done.append("second")

    def again(self) -> None:
        self.done.append("again")
        if self.done.count("again") < 3:
            do_in_turn(self.again)


@pytest.fixture
def done() -> list[str]:
    return []


@pytest.fixture
def owner(qapp, done) -> Owner:
    return Owner(done)


def test_the_event_loop_turns_between_two_things_of_different_owners(owner, done, qtbot):
    other, seen = Owner(done), []
    timer = QTimer(interval=0)
    timer.timeout.connect(lambda: seen.append(len(done)))
    timer.start()
    do_in_turn(owner.first)
    do_in_turn(other.first)
    do_in_turn(other.second)
    assert done == []
    qtbot.waitUntil(lambda: len(done) == 3)
    assert {1, 2} <= set(seen)
    assert done == ["first", "first", "second"]


def test_asked_for_again_it_waits_behind_others_and_is_done_once(owner, done, qtbot):
    do_in_turn(owner.first)
    do_in_turn(owner.again)
    do_in_turn(owner.first)
    qtbot.waitUntil(lambda: done.count("again") == 3)
    assert done == ["again", "first", "again", "again"]


def test_what_comes_first_does_not_wait_for_others(owner, done, qtbot):
    do_in_turn(owner.first)
    do_in_turn(owner.second, first=True)
    qtbot.waitUntil(lambda: len(done) == 2)
    assert done == ["second", "first"]


def test_what_was_called_off_and_whose_owner_is_gone_is_not_done(owner, done, qtbot):
    forgotten, destroyed = Owner(done), Owner(done)
    for one in (owner, forgotten, destroyed):
        do_in_turn(one.first)
    do_in_turn(owner.second)
    assert is_waiting(owner.first)
    call_off(owner.first)
    assert not is_waiting(owner.first)
    del forgotten, one
    gc.collect()
    destroyed.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    qtbot.waitUntil(lambda: "second" in done)
    assert done == ["second"]


def test_what_goes_first_is_done_in_the_order_in_which_it_was_asked_for(owner, done, qtbot):
    do_in_turn(owner.again)
    do_in_turn(owner.first, first=True)
    do_in_turn(owner.second, first=True)
    qtbot.waitUntil(lambda: len(done) >= 3)
    assert done[:3] == ["first", "second", "again"]
