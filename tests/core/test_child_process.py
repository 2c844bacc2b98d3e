from __future__ import annotations

import math
import operator
import os
import sys
import time
from typing import Any

import numpy as np
import pytest

from napari_microdl.core import child_process
from napari_microdl.core.child_process import iter_in_child
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.stepping import run_through
from napari_microdl.metrics.probes import _iter_fold_scores


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Processes as they are started."""
    processes: list[Any] = []
    start = child_process._start

    def noted() -> Any:
        processes.append(start())
        return processes[-1]

    monkeypatch.setattr(child_process, "_start", noted)
    return processes


def test_the_result_comes_from_another_process(started):
    assert run_through(iter_in_child(os.getpid)) == started[0].pid != os.getpid()
    assert started[0].returncode is not None


def test_steps_of_a_generator_are_passed_on(started):
    rng = np.random.default_rng(0)
    x, label, fold = rng.normal(size=(60, 4)), np.arange(60) % 2, np.arange(60) % 3
    told: list[Any] = []
    found = run_through(iter_in_child(_iter_fold_scores, x, label, fold, 0.01), told.append)
    np.testing.assert_array_equal(found, run_through(_iter_fold_scores(x, label, fold, 0.01)))
    assert {(n, 3) for n in range(3)} <= set(told)


def test_stopping_ends_the_process_at_once(started):
    steps = iter_in_child(time.sleep, 3600)
    next(steps)
    assert started[0].poll() is None
    steps.close()
    assert started[0].returncode not in (None, 0)


def test_a_task_that_is_still_being_sent_can_be_stopped(started):
    # More than a pipe holds: the other side begins to read when Python has started.
    steps = iter_in_child(len, bytes(64 * 2**20))
    next(steps)
    steps.close()
    assert started[0].returncode is not None


def test_errors_are_those_of_the_function():
    with pytest.raises(ZeroDivisionError, match="division"):
        run_through(iter_in_child(operator.truediv, 1, 0))


def test_what_cannot_be_sent_is_said():
    with pytest.raises(Exception, match="pickle"):
        run_through(iter_in_child(lambda: 1))


def test_a_process_that_is_ended_by_the_system_is_said():
    with pytest.raises(MicrodlError, match="ended by the system"):
        run_through(iter_in_child(os._exit, 3))


def test_the_process_ends_with_its_parent(started):
    steps = iter_in_child(time.sleep, 3600)
    try:
        next(steps)
        time.sleep(1)
        # As when the parent is gone.
        started[0].stdin.close()
        assert started[0].wait(60) == 1
    finally:
        steps.close()


def test_where_no_python_can_be_started_a_thread_does_it(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert run_through(iter_in_child(os.getpid)) == os.getpid()
    assert run_through(iter_in_child(math.sqrt, 4)) == 2
    with pytest.raises(ZeroDivisionError):
        run_through(iter_in_child(operator.truediv, 1, 0))


def test_files_of_the_working_folder_do_not_take_the_place_of_modules(tmp_path, monkeypatch):
    (tmp_path / "pickle.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert run_through(iter_in_child(math.sqrt, 4)) == 2
