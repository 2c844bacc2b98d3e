from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from napari.settings import get_plugin_settings, get_settings
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QPushButton

from napari_microdl.gui.dock import session_of
from napari_microdl.gui.session.preferences import (
    Preferences,
    read_preferences,
    token_cache,
)

from .clicks import click_choice, click_menus
from .steps import LEFT, click_item, open_workflow


def test_a_new_session_takes_what_was_chosen(preferences, viewer):
    preferences.update({"device": "cpu", "default_unit": "crop", "cache_folder": " ~/tokens "})
    assert read_preferences() == Preferences("cpu", "crop", cache_folder=Path("~/tokens"))
    assert token_cache().folder == Path("~/tokens").expanduser()
    config = session_of(viewer.__wrapped__).settings.config
    assert (config.model.device, config.units.kind) == ("cpu", "crop")


def test_untouched_preferences_and_an_older_napari_have_the_defaults(monkeypatch):
    assert read_preferences() == Preferences()
    monkeypatch.delattr("napari.settings.get_plugin_settings")
    assert read_preferences() == Preferences()


@pytest.fixture
def page(viewer, preferences, qtbot, tmp_path, monkeypatch) -> Any:
    """The page of the plugin in the Preferences, opened by clicks, and its boxes."""
    # OK writes the settings to files, which tests otherwise have none of.
    for number, settings in enumerate((get_settings(), *get_plugin_settings().values())):
        monkeypatch.setattr(settings, "config_path", tmp_path / f"{number}.yaml")
    window = viewer.__wrapped__.window
    click_menus(window._qt_window, "File", "Preferences")
    dialog = window._pref_dialog
    qtbot.waitExposed(dialog)
    pages = dialog._list
    (item,) = pages.findItems("MicroDL", Qt.MatchFlag.MatchExactly)
    click_item(qtbot, pages, item)
    found = dialog._stack.currentWidget().findChildren(QComboBox)
    boxes = {box.itemText(1): box for box in found}
    yield dialog, {"device": boxes["cpu"], "default_unit": boxes["crop"]}
    dialog.close()


def press(qtbot: Any, dialog: Any, text: str) -> None:
    (button,) = [b for b in dialog.findChildren(QPushButton) if b.text() == text]
    qtbot.mouseClick(button, LEFT)
    assert not dialog.isVisible()


def test_device_and_unit_are_chosen_by_clicks_in_the_preferences(page, open_viewer, qtbot):
    dialog, boxes = page
    click_choice(boxes["device"], "cpu")
    click_choice(boxes["default_unit"], "crop")
    press(qtbot, dialog, "OK")
    assert read_preferences() == Preferences("cpu", "crop")
    workflow = open_workflow(open_viewer())
    assert workflow.cells.unit.currentText() == "Square crops"
    assert workflow.tokens.device.currentText() == "CPU"
    config = workflow.session.plan.run_config()
    assert (config.model.device, config.units.kind) == ("cpu", "crop")


def test_the_preferences_are_changed_by_keys_and_taken_back_by_cancel(page, qtbot):
    dialog, boxes = page
    for box, value in ((boxes["default_unit"], "token"), (boxes["device"], "cpu")):
        box.setFocus()
        while box.currentText() != value:
            before = box.currentIndex()
            qtbot.keyClick(box, Qt.Key.Key_Down)
            assert box.currentIndex() == before + 1
    assert read_preferences() == Preferences("cpu", "token")
    press(qtbot, dialog, "Cancel")
    assert read_preferences() == Preferences()
