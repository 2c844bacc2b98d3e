from __future__ import annotations

import threading
from typing import Any

import pytest
from napari.utils import progress as napari_progress
from qtpy.QtCore import QObject, QThreadPool, QTimer

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import Progress, Stage, current_task
from napari_microdl.gui.widgets.jobs import JobBar, JobRunner, percent_done

from .patience import PATIENCE


@pytest.fixture
def runner(qtbot) -> Any:
    parent = QObject()
    made = JobRunner(parent)
    yield made
    made.stop()


def progress(stage: Stage, done: int, total: int = 10) -> Progress:
    return Progress(stage, done, total, "", share=done / total)


class Endless:
    """Work that goes on until it is cancelled."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.ended_in: threading.Thread | None = None

    def __call__(self) -> None:
        self.thread = threading.current_thread()
        pause = threading.Event()
        try:
            while True:
                current_task().progress(0, 10, "step")
                pause.wait(0.005)
        finally:
            self.ended_in = threading.current_thread()


def test_work_runs_off_the_gui_thread_and_the_result_arrives_in_it(qtbot, runner):
    seen = {}

    def work() -> str:
        seen["worker"] = threading.current_thread()
        for stage in ("fields", "tokens"):
            with current_task().stage(stage):
                current_task().progress(0, 10, stage)
        return "result"

    stages = []
    runner.progressed.connect(lambda p: stages.append(p.stage))
    runner.progressed.connect(lambda _: seen.update(report=threading.current_thread()))
    runner.succeeded.connect(lambda _: seen.update(slot=threading.current_thread()))
    with qtbot.waitSignal(runner.succeeded) as arrived:
        runner.start(work, "job")
    assert arrived.args == ["result"]
    assert seen["worker"] is not threading.main_thread()
    assert seen["slot"] is seen["report"] is threading.main_thread()
    assert stages == ["fields", "tokens"]
    assert not runner.is_running


def test_the_message_of_a_job_stays_until_its_work_says_something(qtbot, runner):
    def work() -> None:
        current_task().progress(10, 10)
        current_task().progress(10, 10, "Something else")

    told = []
    runner.progressed.connect(lambda p: told.append((p.message, p.done)))
    with qtbot.waitSignal(runner.succeeded):
        runner.start(work, message="Saving")
    assert told == [("Saving", 0), ("Saving", 10), ("Something else", 10)]


def test_reports_arrive_in_order_although_napari_handles_events_in_between(
    open_viewer, qtbot, runner
):
    open_viewer()  # Its activity dock handles waiting events whenever the bar moves.

    def work() -> None:
        pause = threading.Event()
        for done in range(12):
            # The first of a stage is always passed on.
            with current_task().stage("dictionary" if done % 2 else "tokens"):
                current_task().progress(done, 12, str(done))
            pause.wait(0.001)

    order = []
    runner.progressed.connect(lambda p: order.append(p.done))
    with qtbot.waitSignal(runner.succeeded):
        runner.start(work, "job")
    assert order == list(range(12))


def test_cancel_ends_the_thread_and_nothing_arrives_afterwards(qtbot, runner):
    endless = Endless()
    arrived = []
    runner.succeeded.connect(arrived.append)
    with qtbot.waitSignal(runner.progressed):
        runner.start(endless, "job")
    with qtbot.waitSignal(runner.cancelled):
        runner.cancel()
    runner.progressed.connect(arrived.append)
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    qtbot.wait(50)
    assert arrived == []
    assert endless.ended_in is endless.thread


@pytest.mark.parametrize("looks", ["progress", "check"])
def test_a_cancelled_job_ends_when_it_next_looks(qtbot, runner, looks):
    may_go_on, went_on = threading.Event(), []

    def work() -> None:
        # Far more often than is passed on.
        for number in range(500):
            current_task().progress(number, 1000)
        may_go_on.wait()
        try:
            if looks == "progress":
                current_task().progress(501, 1000)
            else:
                current_task().check()
        except Exception:
            went_on.append("an error was taken care of")
        went_on.append("no end")

    arrived: list[Any] = []
    for signal in (runner.succeeded, runner.failed):
        signal.connect(arrived.append)
    with qtbot.waitSignal(runner.progressed):
        runner.start(work)
    runner.cancel()
    may_go_on.set()
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    qtbot.wait(50)
    assert went_on == arrived == []


def test_cancel_in_the_activity_dock_cancels_the_job(qtbot, runner):
    with qtbot.waitSignal(runner.progressed):
        runner.start(Endless(), "job")
    (bar,) = napari_progress._all_instances
    with qtbot.waitSignal(runner.cancelled):
        bar.cancel()


def test_a_new_job_replaces_the_old_one(qtbot, runner):
    endless = Endless()
    with qtbot.waitSignal(runner.progressed):
        runner.start(endless)
    with qtbot.waitSignal(runner.succeeded) as arrived:
        runner.start(lambda: 2)
    assert arrived.args == [2]
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    assert endless.ended_in is not None


def test_destroying_the_owner_ends_the_job_without_a_traceback(qtbot):
    endless = Endless()
    parent = QObject()
    runner = JobRunner(parent)
    with qtbot.waitSignal(runner.progressed):
        runner.start(endless, "job")
    parent.deleteLater()
    qtbot.waitUntil(lambda: endless.ended_in is not None)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MicrodlError("The labels are empty."), "The labels are empty."),
        (MemoryError(), "not enough memory"),
        (KeyError("x"), "unexpected error (KeyError: 'x')"),
    ],
)
def test_errors_become_one_sentence(qtbot, runner, error, sentence):
    def work() -> None:
        current_task().progress(0, 1)
        raise error

    with qtbot.waitSignal(runner.failed) as arrived:
        runner.start(work, "job")
    assert sentence in arrived.args[0]
    assert not runner.is_running


def test_the_bar_never_runs_backwards():
    stages = ["fields", "cells", "tokens", "whitening", "dictionary", "activations"]
    shares = [percent_done(progress(stage, done)) for stage in stages for done in range(11)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 100)


def test_a_job_that_is_a_part_of_a_run_has_the_whole_bar(qtbot, runner):
    def work() -> None:
        pause = threading.Event()
        # What is looked at before is no part of the work.
        for stage, shares in (("fields", [5]), ("tokens", [0, 5]), ("whitening", [0, 10])):
            with current_task().stage(stage):
                for done in shares:
                    current_task().progress(done, 10)
                    pause.wait(0.15)

    shares = []
    runner.progressed.connect(lambda p: shares.append(runner.percent(p)))
    with qtbot.waitSignal(runner.succeeded):
        runner.start(work, "job", last="whitening")
    assert shares[:2] == [0, 0]
    assert shares[-1] == 100
    assert shares == sorted(shares)
    assert 40 < shares[2] < 50


def test_a_bar_says_what_is_done_how_much_of_it_and_how_long_it_will_take(qtbot, runner):
    bar = JobBar(runner)
    qtbot.addWidget(bar)
    going_on = threading.Event()
    runner.start(going_on.wait, message="Reading")
    qtbot.waitUntil(lambda: bar.bar.format() == "Reading %p%")
    assert not bar.isHidden()
    assert bar.bar.maximum() == 0
    runner.progressed.emit(Progress(None, 1, 4, "Saving", share=0.25, seconds_left=150.0))
    assert (bar.bar.value(), bar.bar.maximum()) == (25, 100)
    assert bar.bar.format() == "Saving %p%, about 2 min left"
    going_on.set()
    qtbot.waitUntil(bar.isHidden)


def test_a_job_begun_while_napari_makes_the_bar_of_another_ends_that_one(
    open_viewer, qtbot, runner
):
    # napari handles waiting events while it adds a bar to its activity dock, and a timer of ours
    # may be among them.
    open_viewer()
    first, second = Endless(), Endless()
    QTimer.singleShot(0, lambda: runner.start(second, "second"))
    runner.start(first, "first")
    qtbot.waitUntil(lambda: second.thread is not None)
    qtbot.waitUntil(lambda: first.thread is None or first.ended_in is not None)
    assert second.ended_in is None
    assert len(napari_progress._all_instances) == 1
    runner.cancel()
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    assert second.ended_in is second.thread
