from __future__ import annotations

import threading
from pathlib import Path

import pytest

from core.refusals import refusal
from napari_microdl.core import locks
from napari_microdl.core.locks import locked, try_lock


def test_one_waits_for_the_other(tmp_path: Path):
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with locked(tmp_path / "lock"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with locked(tmp_path / "lock"):
        inside.set()
        with (tmp_path / "lock").open("a+b") as file:
            assert not try_lock(file.fileno())
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_one_that_is_never_let_go_of_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locks, "_WAIT_SECONDS", 0.0)

    def take() -> None:
        with locked(tmp_path / "lock"):
            pass

    with locked(tmp_path / "lock"):
        assert "Another process is writing to" in refusal(take)
    take()
