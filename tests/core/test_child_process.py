from __future__ import annotations

import math
import operator
import os
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from core.refusals import refusal
from napari_microdl.core.child_process import call_in_child
from napari_microdl.core.task import current_task
from napari_microdl.metrics.probes import fold_scores
from tasks import cancelling, processes_started, recorded


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return processes_started(monkeypatch)


def test_the_result_comes_from_another_process(started):
    assert call_in_child(os.getpid) == started[0].pid != os.getpid()
    assert started[0].returncode is not None


def test_progress_is_passed_on(started):
    rng = np.random.default_rng(0)
    x, label, fold = rng.normal(size=(60, 4)), np.arange(60) % 2, np.arange(60) % 3
    with recorded() as heard, current_task().step(1, 2, "Probing"):
        found = call_in_child(fold_scores, x, label, fold, 0.01)
    np.testing.assert_array_equal(found, fold_scores(x, label, fold, 0.01))
    assert [p.message for p in heard] == ["Probing"] * len(heard)
    assert [p.share for p in heard] == pytest.approx([0.5, 0.5, 0.5 + 1 / 6, 0.5 + 1 / 3])


def test_cancelling_ends_the_process_at_once(started):
    with cancelling(3):
        call_in_child(time.sleep, 3600)
    assert started[0].returncode not in (None, 0)


def test_a_job_that_is_still_being_sent_can_be_cancelled(started):
    # More than a pipe holds: the other side begins to read when Python has started.
    with cancelling(1):
        call_in_child(len, bytes(64 * 2**20))
    assert started[0].returncode is not None


def test_errors_are_those_of_the_function():
    with pytest.raises(ZeroDivisionError, match="division"):
        call_in_child(operator.truediv, 1, 0)


def test_what_cannot_be_sent_is_said():
    with pytest.raises(Exception, match="pickle"):
        call_in_child(lambda: 1)


def test_a_process_that_is_ended_by_the_system_is_said():
    assert "ended by the system" in refusal(call_in_child, os._exit, 3)


def test_the_process_ends_with_its_parent(started):
    def leave() -> None:
        time.sleep(1)
        # As when the parent is gone.
        started[0].stdin.close()

    threading.Timer(1, leave).start()
    assert "ended by the system" in refusal(call_in_child, time.sleep, 3600)
    assert started[0].returncode == 1


def test_where_no_python_can_be_started_a_thread_does_it(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert call_in_child(os.getpid) == os.getpid()
    assert call_in_child(math.sqrt, 4) == 2
    with pytest.raises(ZeroDivisionError):
        call_in_child(operator.truediv, 1, 0)


def test_files_of_the_working_folder_do_not_take_the_place_of_modules(tmp_path, monkeypatch):
    (tmp_path / "pickle.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert call_in_child(math.sqrt, 4) == 2
