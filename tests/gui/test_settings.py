from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from napari.settings import get_plugin_settings

from napari_microdl.gui.settings import PLUGIN, Settings, read_settings, token_cache
from napari_microdl.gui.viewer_session import session_of


@pytest.fixture
def chosen() -> Any:
    """The Preferences of the plugin; put back afterwards."""
    runs = get_plugin_settings(PLUGIN).runs
    before = runs.model_dump()
    yield runs
    runs.update(before)


def test_untouched_preferences_are_the_defaults():
    assert read_settings() == Settings()


def test_a_new_session_takes_what_was_chosen(chosen, make_napari_viewer):
    chosen.update({"device": "cpu", "default_unit": "crop", "cache_folder": " ~/tokens "})
    assert read_settings() == Settings("cpu", "crop", cache_folder=Path("~/tokens"))
    assert token_cache().folder == Path("~/tokens").expanduser()
    config = session_of(make_napari_viewer()).config
    assert (config.device, config.unit) == ("cpu", "crop")


def test_an_older_napari_has_the_defaults(monkeypatch):
    monkeypatch.delattr("napari.settings.get_plugin_settings")
    assert read_settings() == Settings()
