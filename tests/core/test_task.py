from __future__ import annotations

import threading

import pytest

from napari_microdl.core.task import Stopped, stop_if_asked, stoppable


def test_work_stops_only_where_it_was_asked_to():
    asked = threading.Event()
    with stoppable(asked):
        stop_if_asked()
        asked.set()
        with pytest.raises(Stopped):
            stop_if_asked()
    stop_if_asked()


def test_another_thread_goes_on():
    asked = threading.Event()
    asked.set()
    ended: list[bool] = []

    def other() -> None:
        stop_if_asked()
        ended.append(True)

    with stoppable(asked):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert ended == [True]


def test_the_request_of_the_work_around_is_there_again_afterwards():
    outer = threading.Event()
    with stoppable(outer):
        with stoppable(threading.Event()):
            pass
        outer.set()
        with pytest.raises(Stopped):
            stop_if_asked()


def test_no_handler_of_errors_takes_it_for_one():
    assert not issubclass(Stopped, Exception)
