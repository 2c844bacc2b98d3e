"""A dictionary dropped onto napari, and saved from an overlay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.errors import MicrodlError
from napari_microdl.gui.dock import session_of
from napari_microdl.gui.plugin import reader_writer as dictionary_files
from napari_microdl.gui.plugin.reader_writer import get_reader, write_dictionary
from napari_microdl.gui.session.layers import TAG

from .steps import canvas_of, click, run


def drop(viewer: Any, path: Any) -> None:
    """Drag a file over the canvas of a viewer and let it go there."""
    canvas = canvas_of(viewer)
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)
    copy, left = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton
    none = Qt.KeyboardModifier.NoModifier
    enter = QDragEnterEvent(middle, copy, data, left, none)
    QApplication.sendEvent(canvas, enter)
    assert enter.isAccepted()
    QApplication.sendEvent(canvas, QDropEvent(QPointF(middle), copy, data, left, none))


def test_a_dictionary_is_dropped_onto_the_canvas_and_applied(
    viewer, workflow, small_run, tmp_path, qtbot
):
    layers = list(viewer.layers)
    drop(viewer, small_run.result.dictionary.save(tmp_path / "mine"))
    assert list(viewer.layers) == layers
    assert workflow.session.settings.dictionary.names == small_run.result.dictionary.names
    assert workflow.dictionary.apply.isChecked()
    click(qtbot, workflow.dictionary.heading)
    assert workflow.dictionary.run_button.text() == "Apply"
    results = (run(qtbot, workflow), small_run.result)
    codes = [result.activations.codes.toarray() for result in results]
    np.testing.assert_allclose(*codes, atol=1e-5)


def test_a_dictionary_is_opened_without_a_dock_and_is_ready_to_be_applied(
    viewer, small_run, tmp_path
):
    path = small_run.result.dictionary.save(tmp_path / "mine")
    # napari finds the reader by the name alone.
    assert viewer.open(str(path), plugin=None) == []
    assert not viewer.layers
    session = session_of(viewer.__wrapped__)
    assert session.settings.dictionary.names == small_run.result.dictionary.names
    assert session.settings.apply_dictionary


@pytest.mark.parametrize("path", ["a.safetensors", "a.tif", ["a.microdl.safetensors"]])
def test_other_files_are_left_to_others(path):
    assert get_reader(path) is None


def test_a_damaged_file_that_is_dropped_is_said_and_changes_nothing(
    viewer, workflow, small_run, tmp_path, monkeypatch
):
    said: list[str] = []
    monkeypatch.setattr(dictionary_files, "show_error", said.append)
    path = small_run.result.dictionary.save(tmp_path / "mine")
    drop(viewer, path)
    kept, layers = workflow.session.settings.dictionary, list(viewer.layers)
    bad = tmp_path / "bad.microdl.safetensors"
    bad.write_bytes(path.read_bytes()[:-1])
    drop(viewer, bad)
    assert len(said) == 1
    assert "'bad.microdl.safetensors'" in said[0]
    assert workflow.session.settings.dictionary is kept
    assert list(viewer.layers) == layers


def test_without_a_window_there_is_nothing_to_load_into(small_run, tmp_path, monkeypatch):
    path = small_run.result.dictionary.save(tmp_path / "mine")
    monkeypatch.setattr("napari.current_viewer", lambda: None)
    with pytest.raises(MicrodlError, match="Open a napari window first"):
        get_reader(str(path))(str(path))


def test_an_overlay_saves_the_dictionary_behind_it(viewer, explorer, small_run, tmp_path):
    overlay = next(x for x in viewer.layers if TAG in x.metadata)
    path = str(tmp_path / "mine.microdl.safetensors")
    (written,) = overlay.save(path, plugin="napari-microdl")
    assert written == path
    assert ConceptDictionary.load(written).names == small_run.result.dictionary.names
    image = next(x for x in viewer.layers if TAG not in x.metadata)
    with pytest.raises(MicrodlError, match="shows no concept"):
        write_dictionary(str(tmp_path / "b"), image.data, {"metadata": {}, "name": image.name})
