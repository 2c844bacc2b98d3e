from __future__ import annotations

from pathlib import Path

import pytest
from platformdirs import user_cache_path

from napari_microdl.core.files import cache_folder


def test_the_folder_is_named_in_the_environment(own_cache: Path):
    assert cache_folder() == own_cache


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NAPARI_MICRODL_CACHE", "~/tokens")
    assert cache_folder() == tmp_path / "tokens"


def test_without_a_name_it_is_the_systems(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NAPARI_MICRODL_CACHE")
    assert cache_folder() == user_cache_path("napari-microdl")
