from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import pytest
from napari.utils import progress as napari_progress
from qtpy.QtCore import QObject, QThreadPool, QTimer

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import stop_if_asked
from napari_microdl.gui.widgets.jobs import JobRunner, percent_done
from napari_microdl.pipeline.run import Progress

from .patience import PATIENCE


@pytest.fixture
def runner(qtbot) -> Any:
    parent = QObject()
    made = JobRunner(parent)
    yield made
    made.stop()


def step(stage: str = "embed", done: int = 0) -> Progress:
    return Progress(stage, done, 10, f"step {done}")


class Endless:
    """Steps that go on until they are closed."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.closed_in: threading.Thread | None = None

    def steps(self) -> Generator[Progress, None, str]:
        self.thread = threading.current_thread()
        pause = threading.Event()
        try:
            while True:
                yield step()
                pause.wait(0.005)
        finally:
            self.closed_in = threading.current_thread()


def test_steps_run_off_the_gui_thread_and_the_result_arrives_in_it(qtbot, runner):
    seen = {}

    def steps() -> Generator[Progress, None, str]:
        seen["worker"] = threading.current_thread()
        yield step("scale")
        yield step("embed", 5)
        return "result"

    stages = []
    runner.progressed.connect(lambda p: stages.append(p.stage))
    runner.succeeded.connect(lambda _: seen.update(slot=threading.current_thread()))
    with qtbot.waitSignal(runner.succeeded) as arrived:
        runner.start(steps(), "job")
    assert arrived.args == ["result"]
    assert seen["worker"] is not threading.main_thread()
    assert seen["slot"] is threading.main_thread()
    assert stages == ["scale", "embed"]
    assert not runner.is_running
    assert not napari_progress._all_instances


def test_reports_arrive_in_order_although_napari_handles_events_in_between(
    make_napari_viewer, qtbot, runner
):
    make_napari_viewer()  # Its activity dock handles waiting events whenever the bar moves.

    def steps() -> Generator[Progress, None, None]:
        pause = threading.Event()
        for done in range(12):
            # A stage of its own lets every report through.
            yield Progress("fit" if done % 2 else "embed", done, 12, str(done))
            pause.wait(0.001)

    order = []
    runner.progressed.connect(lambda p: order.append(p.done))
    with qtbot.waitSignal(runner.succeeded):
        runner.start(steps(), "job")
    assert order == list(range(12))


def test_cancel_ends_the_thread_and_nothing_arrives_afterwards(qtbot, runner):
    endless = Endless()
    arrived = []
    runner.succeeded.connect(arrived.append)
    with qtbot.waitSignal(runner.progressed):
        runner.start(endless.steps(), "job")
    with qtbot.waitSignal(runner.cancelled):
        runner.cancel()
    runner.progressed.connect(arrived.append)
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    qtbot.wait(50)
    assert arrived == []
    assert endless.closed_in is endless.thread
    assert not napari_progress._all_instances


def test_a_cancelled_job_ends_with_the_step_that_it_is_in(qtbot, runner):
    may_go_on, steps_begun = threading.Event(), []

    def steps() -> Generator[Progress, None, None]:
        # Far more often than is passed on.
        for number in range(1000):
            steps_begun.append(number)
            yield step()
            if number == 500:
                may_go_on.wait()

    with qtbot.waitSignal(runner.progressed):
        runner.start(steps())
    qtbot.waitUntil(lambda: len(steps_begun) == 501)
    runner.cancel()
    may_go_on.set()
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    assert len(steps_begun) == 502


def test_a_cancelled_job_ends_in_the_middle_of_a_step_that_asks(qtbot, runner):
    may_go_on, went_on = threading.Event(), []

    def steps() -> Generator[Progress, None, None]:
        yield step()
        may_go_on.wait()
        try:
            stop_if_asked()
        except Exception:
            went_on.append("an error was taken care of")
        went_on.append("no stop")

    arrived: list[Any] = []
    for signal in (runner.succeeded, runner.failed):
        signal.connect(arrived.append)
    with qtbot.waitSignal(runner.progressed):
        runner.start(steps())
    runner.cancel()
    may_go_on.set()
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    qtbot.wait(50)
    assert went_on == arrived == []


def test_cancel_in_the_activity_dock_cancels_the_job(qtbot, runner):
    with qtbot.waitSignal(runner.progressed):
        runner.start(Endless().steps(), "job")
    (bar,) = napari_progress._all_instances
    with qtbot.waitSignal(runner.cancelled):
        bar.cancel()
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)


def test_a_new_job_replaces_the_old_one(qtbot, runner):
    endless = Endless()

    def second() -> Generator[Progress, None, int]:
        yield step()
        return 2

    with qtbot.waitSignal(runner.progressed):
        runner.start(endless.steps())
    with qtbot.waitSignal(runner.succeeded) as arrived:
        runner.start(second())
    assert arrived.args == [2]
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    assert endless.closed_in is not None


def test_destroying_the_owner_ends_the_job_without_a_traceback(qtbot):
    endless = Endless()
    parent = QObject()
    runner = JobRunner(parent)
    with qtbot.waitSignal(runner.progressed):
        runner.start(endless.steps(), "job")
    parent.deleteLater()
    qtbot.waitUntil(lambda: endless.closed_in is not None)
    assert not napari_progress._all_instances


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MicrodlError("The labels are empty."), "The labels are empty."),
        (MemoryError(), "not enough memory"),
        (KeyError("x"), "unexpected error (KeyError: 'x')"),
    ],
)
def test_errors_become_one_sentence(qtbot, runner, error, sentence):
    def steps() -> Generator[Progress, None, None]:
        yield step()
        raise error

    with qtbot.waitSignal(runner.failed) as arrived:
        runner.start(steps(), "job")
    assert sentence in arrived.args[0]
    assert not runner.is_running


def test_the_bar_never_runs_backwards():
    stages = ["scale", "segment", "embed", "whiten", "fit", "encode"]
    shares = [percent_done(step(stage, done)) for stage in stages for done in range(11)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 100)


def test_a_job_that_is_a_part_of_a_run_has_the_whole_bar(qtbot, runner):
    def steps() -> Generator[Progress, None, None]:
        pause = threading.Event()
        # What is looked at before is no part of the work.
        for stage, done in (
            ("scale", 5),
            ("embed", 0),
            ("embed", 5),
            ("whiten", 0),
            ("whiten", 10),
        ):
            yield step(stage, done)
            pause.wait(0.06)

    shares = []
    runner.progressed.connect(lambda p: shares.append(runner.percent(p)))
    with qtbot.waitSignal(runner.succeeded):
        runner.start(steps(), "job", last="whiten")
    assert shares[:2] == [0, 0]
    assert shares[-1] == 100
    assert shares == sorted(shares)
    assert 40 < shares[2] < 50


def test_a_job_begun_while_napari_makes_the_bar_of_another_ends_that_one(
    open_viewer, qtbot, runner
):
    # napari handles waiting events while it adds a bar to its activity dock, and a timer of ours
    # may be among them.
    open_viewer()
    first, second = Endless(), Endless()
    QTimer.singleShot(0, lambda: runner.start(second.steps(), "second"))
    runner.start(first.steps(), "first")
    qtbot.waitUntil(lambda: second.thread is not None)
    qtbot.waitUntil(lambda: first.thread is None or first.closed_in is not None)
    assert second.closed_in is None
    assert len(napari_progress._all_instances) == 1
    runner.cancel()
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    assert second.closed_in is second.thread
    assert not napari_progress._all_instances
