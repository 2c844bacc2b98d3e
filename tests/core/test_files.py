from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import cache_folder, write_whole


def test_a_file_takes_its_place_once_it_is_whole(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with write_whole(path) as partial:
        assert partial.parent == tmp_path
        assert partial.suffix == ".csv"
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    # Readable by whom a file that is written directly is.
    (tmp_path / "other").write_text("")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("begun", [True, False])
def test_a_file_that_is_not_finished_leaves_nothing(
    tmp_path: Path, error: type[BaseException], begun: bool
):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write() -> None:
        with write_whole(path) as partial:
            if begun:
                partial.write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_several_may_write_the_same_file(tmp_path: Path):
    path = tmp_path / f"{'n' * 200}.bin"

    def write(number: int) -> None:
        with write_whole(path) as partial:
            partial.write_bytes(bytes([number]) * 100_000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    content = path.read_bytes()
    assert content == content[:1] * 100_000
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_or_closed_is_refused(tmp_path: Path):
    with (
        pytest.raises(MicrodlError, match=r"There is no folder '.*nowhere'; choose another place"),
        write_whole(tmp_path / "nowhere" / "x.csv"),
    ):
        pass
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(OSError, match=r"x\.csv"), write_whole(tmp_path / "x.csv") as partial:
            partial.write_text("")


def test_the_folder_is_named_in_the_environment(own_cache: Path):
    assert cache_folder() == own_cache


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NAPARI_MICRODL_CACHE", "~/tokens")
    assert cache_folder() == tmp_path / "tokens"


def test_without_a_name_it_is_the_systems(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NAPARI_MICRODL_CACHE")
    assert cache_folder() == user_cache_path("napari-microdl")
