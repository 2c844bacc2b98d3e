from __future__ import annotations

import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_microdl.core.task import Cancelled, Progress, Task, call_in_thread, current_task
from napari_microdl.estimators.icfl import ICFL, FewSamplesWarning
from napari_microdl.estimators.whitening import ControlWhitening, FewControlsWarning


def test_work_ends_at_its_next_look_after_it_was_cancelled():
    task = Task()
    done: list[int] = []

    def count() -> None:
        for number in range(5):
            current_task().progress(number, 5, "Counting")
            done.append(number)
            if number == 2:
                task.cancel()

    with task.active(), pytest.raises(Cancelled):
        count()
    assert done == [0, 1, 2]
    # What follows is another's work.
    current_task().check()


def test_another_thread_goes_on():
    task = Task()
    task.cancel()
    ended: list[bool] = []

    def other() -> None:
        current_task().check()
        ended.append(True)

    with task.active():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert ended == [True]


def test_a_task_within_a_task_is_cancelled_with_it_and_tells_it():
    heard: list[Progress] = []
    outer = Task(heard.append)
    inner = Task(parent=outer)
    with inner.active():
        current_task().progress(1, 2, "Half")
        outer.cancel()
        with pytest.raises(Cancelled):
            current_task().check()
    assert [(p.done, p.total, p.message) for p in heard] == [(1, 2, "Half")]


def test_no_handler_of_errors_takes_it_for_one():
    assert not issubclass(Cancelled, Exception)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4))
def test_shares_of_nested_steps_only_grow_and_end_at_one(sizes: list[tuple[int, int]]):
    heard: list[Progress] = []
    task = Task(heard.append)
    outer = len(sizes)
    with task.active():
        for index, (n_steps, n_inner) in enumerate(sizes):
            with task.step(index, outer, f"Outer {index}"):
                for step in range(n_steps):
                    with task.step(step, n_steps, "Middle"):
                        for inner in range(n_inner):
                            task.progress(inner, n_inner, "Inner")
        task.progress(outer, outer, "Done")
    shares = [p.share for p in heard]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert {p.message for p in heard} == {*(f"Outer {i}" for i in range(outer)), "Done"}
    assert all(p.total == outer for p in heard)


def test_reports_are_thinned_out_but_the_last_and_what_stays_always_come():
    heard: list[Progress] = []
    task = Task(heard.append, seconds_between=60)
    with task.active(), task.stage("tokens"):
        for number in range(10):
            task.progress(number, 10, "Reading")
        task.progress(5, 10, "This stays", stays=True)
        task.progress(10, 10, "Read")
    assert [p.message for p in heard] == ["Reading", "This stays", "Read"]
    with task.active(), task.stage("whitening"):
        task.progress(0, 3, "Whitening")
    assert [p.stage for p in heard] == ["tokens", "tokens", "tokens", "whitening"]


def test_time_left_is_judged_by_what_was_done(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    heard: list[Progress] = []
    task = Task(heard.append)
    with task.stage("dictionary"):
        task.progress(0, 10, "Fitting")
        now[0] += 4
        task.progress(2, 10, "Fitting")
    assert heard[0].seconds_left is None
    assert heard[1].seconds_left == pytest.approx(16)


def test_a_call_in_a_thread_returns_raises_and_is_left_behind():
    assert call_in_thread(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        call_in_thread(divmod, 7, 0)
    task, free = Task(), threading.Event()
    threading.Timer(0.1, task.cancel).start()
    try:
        with task.active(), pytest.raises(Cancelled):
            call_in_thread(free.wait, 60)
    finally:
        free.set()


def test_nobody_takes_notes_so_it_is_a_warning_of_the_place_that_called():
    with pytest.warns(FewControlsWarning, match="few") as caught:
        current_task().note("few", FewControlsWarning)
    assert caught[0].filename == __file__


def test_notes_within_notes_are_apart():
    task = Task()
    with task.taking_notes() as outer:
        with task.taking_notes() as inner:
            task.note("in")
        task.note("out")
    assert (outer, inner) == (["out"], ["in"])


def test_an_error_ends_the_taking_of_notes():
    task = Task()
    with pytest.raises(ZeroDivisionError), task.taking_notes():
        raise ZeroDivisionError
    with pytest.warns(FewControlsWarning):
        task.note("after", FewControlsWarning)


def test_two_threads_at_once_take_their_own_and_leave_the_filters_as_they_were():
    # The second begins within the first and is still at it when the first has ended.
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    notes: dict[str, list[str]] = {}
    filters = list(warnings.filters)

    def first() -> None:
        with current_task().taking_notes() as notes["first"]:
            first_in.set()
            assert second_in.wait(10)
            current_task().note("of the first")
        first_out.set()

    def second() -> None:
        assert first_in.wait(10)
        with current_task().taking_notes() as notes["second"]:
            second_in.set()
            assert first_out.wait(10)
            current_task().note("of the second")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda work: work(), (first, second)))
    assert notes == {"first": ["of the first"], "second": ["of the second"]}
    assert list(warnings.filters) == filters


@pytest.mark.parametrize("method", ["fit", "partial_fit", "fit_transform"])
def test_an_estimator_warns_at_the_line_that_calls_it(method: str):
    x = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32)
    icfl = ICFL(n_atoms=16, n_iterations=1, atoms_per_iteration=2, max_steps=2)
    with pytest.warns(FewSamplesWarning, match="12 samples for 16 atoms") as of_icfl:
        getattr(icfl, method)(x)
    whitening = ControlWhitening()
    if method == "partial_fit":
        # It solves for the axes when they are asked for.
        whitening.partial_fit(x)
        method = "transform"
    with pytest.warns(FewControlsWarning, match="12 control samples for 16") as of_whitening:
        getattr(whitening, method)(x)
    assert {w.filename for w in (*of_icfl, *of_whitening)} == {__file__}


def test_a_fit_adds_to_the_notes_that_are_taken():
    x = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    with current_task().taking_notes() as notes:
        ICFL(n_atoms=16, n_iterations=1, atoms_per_iteration=2, max_steps=2).fit(x)
    assert notes == [
        "There are 12 samples for 16 atoms, so that atoms may hold single samples; use more "
        "samples or fewer atoms."
    ]
