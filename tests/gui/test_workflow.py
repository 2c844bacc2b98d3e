"""The workflow dock in a real viewer, driven by clicks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from qtpy.QtCore import Qt, QThreadPool
from qtpy.QtWidgets import QMessageBox

from napari_microdl.gui.session.layers import TAG
from napari_microdl.pipeline.run import run_pipeline

from .clicks import click_layers
from .conftest import SIZE, SMALL, small_fields, take_squares
from .patience import PATIENCE
from .steps import (
    cancel_at,
    choose,
    click,
    open_explorer,
    open_workflow,
    outputs,
    previewed,
    run,
    tick,
)


def test_from_sample_to_overlays_by_clicks(viewer, workflow, qtbot):
    click(qtbot, workflow.cells.heading)
    choose(qtbot, workflow.cells.unit, "Square crops")
    result = run(qtbot, workflow)
    explorer = open_explorer(viewer)
    click(qtbot, explorer.kinds["heatmap"])
    # The sample lies side by side, so the first run is shown on all of it.
    assert explorer.where.currentText() == "on all images"

    assert result.config == SMALL.with_settings(max_steps=10)
    expected = run_pipeline(small_fields(), result.config)
    best = int(expected.activations.ranking.index[0])
    found = {(x.metadata[TAG]["kind"], x.metadata[TAG]["field"]): x for x in outputs(viewer)}
    assert set(found) == {(kind, f) for kind in ("heatmap", "activation") for f in range(4)}
    for field in range(4):
        heatmap = expected.activations.heat.compared(field, best)
        np.testing.assert_allclose(found["heatmap", field].data, heatmap, atol=1e-5)
        _, values = expected.activations.unit_values(field, best)
        boxes = expected.activations.geometry[field].boxes
        mean = np.zeros((SIZE, SIZE))
        count = np.zeros((SIZE, SIZE))
        for (top, left, bottom, right), value in zip(boxes, values, strict=True):
            mean[top:bottom, left:right] += value
            count[top:bottom, left:right] += 1
        np.testing.assert_allclose(found["activation", field].data, mean / count, atol=1e-5)
        source = workflow.session.run.current.sources[field].layer()
        corners = [x.data_to_world((-0.5, -0.5)) for x in (found["heatmap", field], source)]
        np.testing.assert_allclose(*corners)


def test_built_in_cells_are_previewed_and_used(viewer, workflow, qtbot):
    workflow.session.settings.configure(n_atoms=4)
    click(qtbot, workflow.cells.heading)
    preview = previewed(qtbot, workflow, lambda: click(qtbot, workflow.cells.preview))
    assert preview.metadata[TAG]["kind"] == "preview"
    assert f"{preview.data.max()} cells" in workflow.status.text()
    result = run(qtbot, workflow)
    assert {x.metadata[TAG]["kind"] for x in outputs(viewer)} == {"activation"}
    assert workflow.notes.text().startswith("Notes of this run:")
    assert sum(int(x.max()) for x in result.labels) == len(result.activations.units)


def delete(qtbot: Any, viewer: Any, *layers: Any) -> None:
    """Click layers in their list, and the bin below it."""
    click_layers(viewer.__wrapped__, *layers)
    click(qtbot, viewer.__wrapped__.window._qt_viewer.layerButtons.deleteButton)
    assert not set(layers) & set(viewer.layers)


# What is deleted early is missed by everything that comes later.
@pytest.mark.parametrize("stage", ["fields", "tokens", "activations"])
def test_an_image_deleted_during_the_run_is_left_out_of_the_overlays(
    viewer, workflow, qtbot, quiet, stage
):
    workflow.session.settings.configure(n_atoms=4)
    image = viewer.layers[0]
    with qtbot.waitSignal(workflow.jobs.succeeded):
        cancel_at(qtbot, workflow, stage, lambda: delete(qtbot, viewer, image))
    assert "No overlay for O05_f01: the image was closed." in workflow.status.text()
    assert {x.metadata[TAG]["field"] for x in outputs(viewer)} == {1, 2, 3}
    # The run has read it, and says what it found there.
    assert set(workflow.session.run.current.result.activations.units["field"]) == {0, 1, 2, 3}
    assert len(workflow.session.images.rows) == 3
    assert quiet == []


@pytest.mark.parametrize("stage", ["cells", "dictionary"])
def test_all_images_deleted_during_the_run_leave_a_run_without_overlays(
    viewer, workflow, qtbot, quiet, stage
):
    workflow.session.settings.configure(n_atoms=4)
    images = list(viewer.layers)
    names = [row.name for row in workflow.session.images.rows]
    with qtbot.waitSignal(workflow.jobs.succeeded):
        cancel_at(qtbot, workflow, stage, lambda: delete(qtbot, viewer, *images))
    assert f"No overlay for {', '.join(names)}: the image was closed." in workflow.status.text()
    assert list(viewer.layers) == []
    # The explorer still tells the numbers.
    click(qtbot, workflow.explore_button)

    def explorers() -> list[Any]:
        docks = viewer.__wrapped__.window._wrapped_dock_widgets.items()
        return [dock.widget() for name, dock in docks if name.startswith("Concept explorer")]

    qtbot.waitUntil(lambda: len(explorers()) == 1)
    (explorer,) = explorers()
    assert explorer.table.proxy.rowCount() == 4
    explorer.table.setFocus()
    for number in range(explorer.tabs.count()):
        explorer.tabs.setCurrentIndex(number)
        qtbot.keyClick(explorer.table, Qt.Key.Key_Down if number % 2 else Qt.Key.Key_Up)
        qtbot.wait(200)
    assert quiet == []


@pytest.mark.parametrize("stage", ["fields", "dictionary"])
def test_labels_deleted_during_the_run_were_read_before(viewer, workflow, qtbot, quiet, stage):
    workflow.session.settings.configure(n_atoms=4)
    cells = take_squares(qtbot, workflow)
    qtbot.waitUntil(workflow.cells.need.isHidden)
    with qtbot.waitSignal(workflow.jobs.succeeded):
        cancel_at(qtbot, workflow, stage, lambda: delete(qtbot, viewer, *cells[:2]))
    assert workflow.status.text().startswith("Done: 100 cells")
    units = workflow.session.run.current.result.activations.units
    assert units["area"].tolist() == [32 * 32] * 100
    assert {x.metadata[TAG]["field"] for x in outputs(viewer)} == {0, 1, 2, 3}
    # What the next run lacks is said, and it does not begin.
    assert workflow.cells.need.text().startswith("⚠ Choose a Labels layer for 'O05_f01'")
    click(qtbot, workflow.run_button)
    assert workflow.status.text().startswith("⚠ Choose a Labels layer for 'O05_f01'")
    assert not workflow.jobs.is_running
    assert not any(isinstance(x, Labels) for x in outputs(viewer))
    assert quiet == []


def test_what_a_run_has_before_it_stands_beside_its_button(viewer, workflow, qtbot):
    session = workflow.session
    # The processor is measured in the background.
    qtbot.waitUntil(lambda: "; about " in workflow.outlook.text())
    assert workflow.outlook.text().startswith("2 controls, 2 others; about ")
    assert workflow.outlook.text().endswith(" to read images.")
    take_squares(qtbot, workflow)
    session.settings.configure(n_atoms=4)
    click(qtbot, workflow.cells.run_button)
    qtbot.waitUntil(lambda: not workflow.jobs.is_running)
    # 25 squares in each, of which a whitening would be made up.
    known = "2 controls, 2 others (50 and 50 cells); about "
    assert workflow.outlook.text().startswith(known)
    few = "50 control cells are few to whiten 192 numbers with: add controls, or take crops"
    assert few in workflow.outlook.text()
    run(qtbot, workflow)
    assert workflow.outlook.text().startswith(known)
    assert "to read images" not in workflow.outlook.text()
    session.images.edit_rows([0], use=False)
    # With other images, or other cells, they are not known any more.
    assert workflow.outlook.text().startswith("2 controls, 1 other; about ")
    session.settings.choose(apply_dictionary=True)
    assert "few" not in workflow.outlook.text()


def close_and_answer(qtbot: Any, viewer: Any, workflow: Any, answer: str) -> None:
    """Close the dock by its cross, and click an answer to the question whether the run goes on."""
    click(qtbot, workflow.parent().title.close_button)
    (box,) = viewer.__wrapped__.window._qt_window.findChildren(QMessageBox)
    qtbot.waitUntil(box.isVisible)
    (button,) = [b for b in box.buttons() if b.text() == answer]
    click(qtbot, button)


def test_a_run_goes_on_while_its_dock_is_closed(viewer, workflow, qtbot):
    workflow.session.settings.configure(unit="crop", max_steps=600)
    cancel_at(qtbot, workflow, "dictionary", lambda: None)
    close_and_answer(qtbot, viewer, workflow, "Let it run")
    again = open_workflow(viewer)
    # The new dock shows the run that goes on, and can end it.
    assert again is not workflow
    qtbot.waitUntil(again.bar.isVisible)
    assert not again.run_button.isEnabled()
    assert again.cancel_button.isEnabled()
    assert again.status.text().startswith("Fitting the dictionary")
    qtbot.waitUntil(lambda: not again.jobs.is_running)
    assert again.status.text().startswith("Done: ")
    assert len(outputs(viewer)) == 4


def test_what_a_run_found_while_no_dock_was_open_is_there(viewer, workflow, qtbot, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr("napari_microdl.gui.session.running.show_info", told.append)
    workflow.session.settings.configure(unit="crop", max_steps=600)
    cancel_at(qtbot, workflow, "dictionary", lambda: None)
    close_and_answer(qtbot, viewer, workflow, "Let it run")
    qtbot.waitUntil(lambda: bool(told))
    assert told == ["The run of MicroDL has ended; open its docks to see what it found."]
    assert len(outputs(viewer)) == 4
    assert open_workflow(viewer).status.text().startswith("Done: ")


def test_a_run_can_be_ended_when_its_dock_is_closed(viewer, workflow, qtbot):
    workflow.session.settings.configure(unit="crop", max_steps=100_000)
    cancel_at(qtbot, workflow, "tokens", lambda: None)
    close_and_answer(qtbot, viewer, workflow, "Cancel the run")
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    assert outputs(viewer) == []
    again = open_workflow(viewer)
    assert len(again.session.images.rows) == 4
    assert again.run_button.isEnabled()


def test_closing_the_viewer_during_a_run_ends_it(viewer, workflow, qtbot):
    workflow.session.settings.configure(unit="crop", max_steps=100_000)
    cancel_at(qtbot, workflow, "tokens", lambda: None)
    viewer.close()


def test_no_control_is_said_and_nothing_runs(workflow, qtbot):
    for row in (2, 3):
        tick(qtbot, workflow.fields.table, row, 3)
    assert workflow.fields.need.text().startswith("⚠ Pick at least one control field")
    click(qtbot, workflow.fields.heading)
    click(qtbot, workflow.run_button)
    assert workflow.status.text().startswith("⚠ Pick at least one control field")
    assert workflow.fields.is_expanded
    assert not workflow.jobs.is_running
    tick(qtbot, workflow.fields.table, 0, 3)
    assert workflow.fields.need.isHidden()
    assert not workflow.status.text()


def test_rgb_is_refused_until_the_user_splits_it(viewer, workflow, qtbot):
    viewer.layers.clear()
    viewer.add_image(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), name="smear")
    qtbot.waitUntil(lambda: len(workflow.session.images.rows) == 1)
    tick(qtbot, workflow.fields.table, 0, 3)
    click(qtbot, workflow.run_button)
    assert workflow.status.text().startswith("⚠ 'smear' is an RGB image")
    click(qtbot, workflow.fields.split_rgb)
    assert [c.name for c in workflow.session.images.channels] == ["red", "green", "blue"]
    assert workflow.fields.need.isHidden()


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.full((96, 96), 7, np.uint8), "is constant"),
        (np.full((96, 96), np.nan, np.float32), "holds NaN or infinite values"),
    ],
)
def test_an_image_that_shows_nothing_is_named(viewer, workflow, qtbot, quiet, image, sentence):
    workflow.session.settings.configure(unit="crop")
    viewer.add_image(image, name="bad", contrast_limits=(0, 1))
    qtbot.waitUntil(lambda: len(workflow.session.images.rows) == 5)
    qtbot.waitUntil(lambda: workflow.session.images.rows[4].name == "bad")
    with qtbot.waitSignal(workflow.jobs.failed):
        click(qtbot, workflow.run_button)
    status = workflow.status.text()
    assert sentence in status
    assert "'bad'" in status
    assert quiet == [status.removeprefix("⚠ ")]
    assert outputs(viewer) == []


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.zeros((SIZE, SIZE), int), "are empty: no pixel is above 0"),
        (np.ones((9, 9), int), "choose the labels that belong to this image"),
    ],
)
def test_labels_that_do_not_fit_are_said(viewer, workflow, qtbot, labels, sentence):
    for layer in [*viewer.layers, viewer.add_labels(labels, name="cells")]:
        layer.translate = (0, 0)
    click(qtbot, workflow.cells.heading)
    choose(qtbot, workflow.cells.source, "My Labels layers")
    for row in range(4):
        choose(qtbot, workflow.cells.labels.cellWidget(row, 1), "cells")
    click(qtbot, workflow.run_button)
    assert sentence in workflow.status.text()
    assert not workflow.jobs.is_running


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95pickle", b"half a file"])
def test_a_bad_dictionary_file_is_refused_and_nothing_is_lost(
    workflow, small_run, tmp_path, content
):
    workflow.session.settings.set_dictionary(small_run.result.dictionary)
    path = tmp_path / "bad.microdl.safetensors"
    path.write_bytes(content)
    workflow.files.load_dictionary(path)
    assert workflow.status.text().startswith("⚠ ")
    assert workflow.session.settings.dictionary is small_run.result.dictionary
    assert not workflow.session.settings.apply_dictionary
