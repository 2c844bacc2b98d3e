from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Converted weights stay out of the cache of the person who runs the tests."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MICRODL_CACHE", str(folder))
    return folder
