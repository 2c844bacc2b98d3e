"""The store of tokens in napari's Preferences, with real clicks in its real dialog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QApplication, QCheckBox, QLineEdit

from napari_microdl.gui.dock import session_of
from napari_microdl.gui.session.preferences import token_cache
from napari_microdl.gui.session.token_store import TokenStore, amount, token_store

from .steps import click_tick


def keep(n_bytes: int) -> Path:
    """One file in the store."""
    path = token_cache().folder / "ab" / "abcd.tokens"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(n_bytes))
    return path


@pytest.fixture
def page(viewer, preferences, qtbot) -> Any:
    """The page of the plugin in the dialog; 12 MB are kept."""
    keep(12_000_000)
    session_of(viewer.__wrapped__)
    with qtbot.waitSignal(token_store().measured):
        token_store().look()
    dialog = viewer.__wrapped__.window._open_preferences_dialog()
    (row,) = [i for i in range(dialog._list.count()) if dialog._list.item(i).text() == "MicroDL"]
    dialog._list.setCurrentRow(row)
    qtbot.waitExposed(dialog)
    yield dialog._stack.currentWidget()
    dialog.reject()


def line_with(page: Any, text: str) -> QLineEdit:
    (line,) = [found for found in page.findChildren(QLineEdit) if found.text() == text]
    return line


def test_preferences_show_the_size_and_clear_the_store(page, preferences, qtbot):
    size = line_with(page, "12 MB")
    # It cannot be typed over.
    qtbot.keyClicks(size, "7")
    assert size.text() == preferences.tokens_kept == "12 MB"
    (box,) = page.findChildren(QCheckBox)
    assert not box.isChecked()
    with qtbot.waitSignal(token_store().measured) as told:
        click_tick(qtbot, box)
        assert box.isChecked()
    assert told.args == [0]
    assert token_cache().size() == 0
    assert size.text() == "0 MB"
    assert not box.isChecked()
    assert not preferences.clear_tokens


def test_closing_the_dialog_brings_no_old_size_back(page, preferences, qtbot):
    with qtbot.waitSignal(token_store().measured):
        token_store().clear()
    page.window().reject()
    assert preferences.tokens_kept == "0 MB"


def test_a_box_ticked_before_the_plugin_was_loaded_is_heeded_then(preferences, qtbot):
    path = keep(1000)
    preferences.clear_tokens = True
    store = TokenStore(QApplication.instance())
    try:
        with qtbot.waitSignal(store.measured):
            pass
        assert not path.exists()
        assert not preferences.clear_tokens
    finally:
        store.setParent(None)
        store.deleteLater()


def test_a_look_does_not_interrupt_clearing(preferences, qtbot):
    path = keep(1000)
    with qtbot.waitSignal(token_store().measured):
        token_store().clear()
        token_store().look()
    assert not path.exists()


def test_a_folder_of_nobody_is_said_and_the_box_unticked(preferences, qtbot):
    path = keep(1000)
    preferences.cache_folder = "~nobody-of-this-name/tokens"
    records = notification_manager.records
    before = len(records)
    preferences.clear_tokens = True
    qtbot.waitUntil(lambda: not preferences.clear_tokens)
    (said,) = [record.message for record in list(records)[before:]]
    assert "home folder of '~nobody-of-this-name/tokens'; choose" in said
    assert path.exists()


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 MB"), (99_400_000, "99 MB"), (1_250_000_000, "1.2 GB")]
)
def test_sizes_are_told_in_megabytes_and_gigabytes(n_bytes, text):
    assert amount(n_bytes) == text
