"""The workflow dock in a real viewer, driven by clicks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels
from napari.utils import progress as napari_progress
from qtpy.QtCore import Qt, QThreadPool

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.gui.session.layers import TAG
from napari_microdl.pipeline.run import run_pipeline

from .clicks import click_layers
from .conftest import SIZE, SMALL, small_fields
from .patience import PATIENCE
from .steps import cancel_at, choose, click, outputs, run, tick


def test_from_sample_to_overlays_by_clicks(docked, qtbot):
    viewer, workflow = docked
    click(qtbot, workflow.cells.heading)
    choose(qtbot, workflow.cells.unit, "Square crops")
    run(qtbot, workflow)
    _, explorer = viewer.window.add_plugin_dock_widget("napari-microdl", "Concept explorer")
    click(qtbot, explorer.kinds["heatmap"])
    # The sample lies side by side, so the first run is shown on all of it.
    assert explorer.where.currentText() == "on all images"

    expected = run_pipeline(small_fields(), SMALL)
    assert workflow.session.run.current.result.config == SMALL
    best = int(expected.activations.ranking.index[0])
    found = {(x.metadata[TAG]["kind"], x.metadata[TAG]["field"]): x for x in outputs(viewer)}
    assert set(found) == {(kind, f) for kind in ("heatmap", "activation") for f in range(4)}
    for field in range(4):
        heatmap = expected.activations.heatmap(field, best)
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


def test_built_in_cells_are_previewed_and_used(docked, qtbot):
    viewer, workflow = docked
    workflow.session.settings.configure(n_atoms=4)
    click(qtbot, workflow.cells.heading)
    with qtbot.waitSignal(workflow.preview.jobs.succeeded):
        click(qtbot, workflow.cells.preview)
    (preview,) = outputs(viewer)
    assert preview.metadata[TAG]["kind"] == "preview"
    assert f"{preview.data.max()} cells" in workflow.status.text()
    run(qtbot, workflow)
    assert {x.metadata[TAG]["kind"] for x in outputs(viewer)} == {"activation"}
    assert workflow.notes.text().startswith("Notes of this run:")
    labels = workflow.session.run.current.result.labels
    assert sum(int(x.max()) for x in labels) == len(
        workflow.session.run.current.result.activations.units
    )


def test_the_users_labels_are_the_cells(docked, qtbot):
    viewer, workflow = docked
    workflow.session.settings.configure(n_atoms=4)
    squares = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((32, 32), int)).astype(np.int32)
    for image in [x for x in viewer.layers if isinstance(x, Image)]:
        viewer.add_labels(squares, name=f"{image.name} cells")
    click(qtbot, workflow.cells.heading)
    choose(qtbot, workflow.cells.source, "My Labels layers")
    run(qtbot, workflow)
    assert len(workflow.session.run.current.result.activations.units) == 100
    assert not any(isinstance(x, Labels) for x in outputs(viewer))


@pytest.mark.parametrize("stage", ["tokens", "dictionary"])
def test_cancel_leaves_nothing_behind(docked, qtbot, stage):
    viewer, workflow = docked
    workflow.session.settings.configure(unit="crop", max_steps=100_000)
    layers = list(viewer.layers)
    cancel_at(qtbot, workflow, stage, lambda: click(qtbot, workflow.cancel_button))
    assert workflow.status.text().startswith("Cancelled: nothing was changed.")
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    qtbot.wait(50)
    assert list(viewer.layers) == layers
    assert workflow.session.run.current is None
    assert workflow.session.settings.dictionary is None
    assert workflow.run_button.isEnabled()
    assert not workflow.cancel_button.isEnabled()
    assert not workflow.bar.isVisible()
    assert not napari_progress._all_instances


def delete(qtbot: Any, viewer: Any, *layers: Any) -> None:
    """Click layers in their list, and the bin below it."""
    click_layers(viewer.__wrapped__, *layers)
    click(qtbot, viewer.__wrapped__.window._qt_viewer.layerButtons.deleteButton)
    assert not set(layers) & set(viewer.layers)


STAGES = ["fields", "cells", "tokens", "whitening", "dictionary", "activations"]


@pytest.mark.parametrize("stage", STAGES)
def test_an_image_deleted_during_the_run_is_left_out_of_the_overlays(docked, qtbot, quiet, stage):
    viewer, workflow = docked
    workflow.session.settings.configure(unit="cell", n_atoms=4)
    image = viewer.layers[0]
    with qtbot.waitSignal(workflow.jobs.succeeded):
        cancel_at(qtbot, workflow, stage, lambda: delete(qtbot, viewer, image))
    assert "No overlay for O05_f01: the image was closed." in workflow.status.text()
    assert {x.metadata[TAG]["field"] for x in outputs(viewer)} == {1, 2, 3}
    # The run has read it, and says what it found there.
    assert set(workflow.session.run.current.result.activations.units["field"]) == {0, 1, 2, 3}
    assert len(workflow.session.images.rows) == 3
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    assert not napari_progress._all_instances
    assert quiet == []


@pytest.mark.parametrize("stage", ["cells", "dictionary"])
def test_all_images_deleted_during_the_run_leave_a_run_without_overlays(
    docked, qtbot, quiet, stage
):
    viewer, workflow = docked
    workflow.session.settings.configure(unit="cell", n_atoms=4)
    images = list(viewer.layers)
    names = [row.name for row in workflow.session.images.rows]
    with qtbot.waitSignal(workflow.jobs.succeeded):
        cancel_at(qtbot, workflow, stage, lambda: delete(qtbot, viewer, *images))
    assert f"No overlay for {', '.join(names)}: the image was closed." in workflow.status.text()
    assert list(viewer.layers) == []
    # The explorer still tells the numbers.
    click(qtbot, workflow.explore_button)
    (explorer,) = [
        dock.widget() for name, dock in viewer.__wrapped__.window._wrapped_dock_widgets.items()
        if name.startswith("Concept explorer")
    ]  # fmt: skip
    assert explorer.table.proxy.rowCount() == 4
    explorer.table.setFocus()
    for number in range(explorer.tabs.count()):
        explorer.tabs.setCurrentIndex(number)
        qtbot.keyClick(explorer.table, Qt.Key.Key_Down if number % 2 else Qt.Key.Key_Up)
        qtbot.wait(200)
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    # A map that was made meanwhile is shown a little later.
    qtbot.waitUntil(lambda: not napari_progress._all_instances)
    assert quiet == []


@pytest.mark.parametrize("stage", ["fields", "cells", "tokens", "dictionary"])
def test_labels_deleted_during_the_run_were_read_before(docked, qtbot, quiet, stage):
    viewer, workflow = docked
    workflow.session.settings.configure(n_atoms=4)
    squares = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((32, 32), int)).astype(np.int32)
    cells = [
        viewer.add_labels(squares, name=f"{image.name} cells")
        for image in [x for x in viewer.layers if isinstance(x, Image)]
    ]
    click(qtbot, workflow.cells.heading)
    choose(qtbot, workflow.cells.source, "My Labels layers")
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
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    assert not napari_progress._all_instances
    assert quiet == []


def test_closing_the_dock_during_a_run_ends_it(docked, qtbot):
    viewer, workflow = docked
    workflow.session.settings.configure(unit="crop", max_steps=100_000)
    (dock,) = viewer.window.dock_widgets
    cancel_at(qtbot, workflow, "tokens", lambda: viewer.window.remove_dock_widget(workflow))
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    assert not napari_progress._all_instances
    assert outputs(viewer) == []
    _, again = viewer.window.add_plugin_dock_widget("napari-microdl", dock.split(" (")[0])
    assert len(again.session.images.rows) == 4


def test_closing_the_viewer_during_a_run_ends_it(docked, qtbot):
    viewer, workflow = docked
    workflow.session.settings.configure(unit="crop", max_steps=100_000)
    cancel_at(qtbot, workflow, "tokens", lambda: None)
    viewer.close()
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    qtbot.wait(50)
    assert not napari_progress._all_instances


def test_conditions_and_controls_are_set_for_several_rows(docked, qtbot):
    _, workflow = docked
    table, step = workflow.fields.table, workflow.fields
    for row in (2, 3):
        tick(qtbot, table, row, 3)
    assert step.need.text().startswith("⚠ Pick at least one control field")
    table.selectRow(0)
    table.selectionModel().select(
        table.model().index(1, 0),
        table.selectionModel().SelectionFlag.Select | table.selectionModel().SelectionFlag.Rows,
    )
    qtbot.keyClicks(step.condition, "DMSO")
    click(qtbot, step.set_condition)
    click(qtbot, step.control)
    assert [row.condition for row in workflow.session.images.rows[:2]] == ["DMSO"] * 2
    assert [row.is_control for row in workflow.session.images.rows] == [True, True, False, False]
    assert step.need.isHidden()


def test_no_control_is_said_and_nothing_runs(docked, qtbot):
    _, workflow = docked
    for row in (2, 3):
        tick(qtbot, workflow.fields.table, row, 3)
    click(qtbot, workflow.fields.heading)
    click(qtbot, workflow.run_button)
    assert workflow.status.text().startswith("⚠ Pick at least one control field")
    assert workflow.fields.is_expanded
    assert not workflow.jobs.is_running


def test_rgb_is_refused_until_the_user_splits_it(docked, qtbot):
    viewer, workflow = docked
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
def test_an_image_that_shows_nothing_is_named(docked, qtbot, quiet, image, sentence):
    viewer, workflow = docked
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
def test_labels_that_do_not_fit_are_said(docked, qtbot, labels, sentence):
    viewer, workflow = docked
    viewer.add_labels(labels, name="cells")
    click(qtbot, workflow.cells.heading)
    choose(qtbot, workflow.cells.source, "My Labels layers")
    for row in range(4):
        choose(qtbot, workflow.cells.labels.cellWidget(row, 1), "cells")
    click(qtbot, workflow.run_button)
    assert sentence in workflow.status.text()
    assert not workflow.jobs.is_running


def test_a_dictionary_is_saved_loaded_and_applied(docked, qtbot, small_run, tmp_path):
    _, workflow = docked
    path = small_run.result.dictionary.save(tmp_path / "concepts")
    workflow.files.load_dictionary(path)
    assert workflow.dictionary.apply.isChecked()
    run(qtbot, workflow)
    applied = workflow.session.run.current.result
    np.testing.assert_allclose(
        applied.activations.codes.toarray(),
        small_run.result.activations.codes.toarray(),
        atol=1e-5,
    )
    workflow.session.run.rename_concept(int(applied.activations.ranking.index[0]), "spots")
    workflow.files.save_dictionary(tmp_path / "again")
    saved = ConceptDictionary.load(tmp_path / "again.microdl.safetensors")
    assert "spots" in saved.names


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95pickle", b"half a file"])
def test_a_bad_dictionary_file_is_refused_and_nothing_is_lost(docked, small_run, tmp_path, content):
    _, workflow = docked
    workflow.session.settings.set_dictionary(small_run.result.dictionary)
    path = tmp_path / "bad.microdl.safetensors"
    path.write_bytes(content)
    workflow.files.load_dictionary(path)
    assert workflow.status.text().startswith("⚠ ")
    assert workflow.session.settings.dictionary is small_run.result.dictionary
    assert not workflow.session.settings.apply_dictionary


def test_channels_as_layers_are_shown_and_editable(docked, qtbot):
    _, workflow = docked
    choose(qtbot, workflow.fields.arrangement, "Images are channels")
    model = workflow.fields.table.fields_model
    assert [heading for heading, _ in model.columns()] == [
        "Use", "Image", "Field", "Channel", "Condition", "Control", "Well", "Site"
    ]  # fmt: skip
    for row, (field, channel) in enumerate([("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]):
        model.setData(model.index(row, 2), field)
        model.setData(model.index(row, 3), channel)
    assert [c.name for c in workflow.session.images.channels] == ["x", "y"]
    fields, _, _ = workflow.session.plan.prepare()
    assert [f.name for f in fields] == ["a", "b"]
    assert fields[1].channel_names == ("x", "y")


def test_the_model_step_states_the_licence(docked, qtbot):
    _, workflow = docked
    click(qtbot, workflow.tokens.heading)
    terms = "Licence of the weights: BSD-3-Clause (commercial use is allowed). Source: "
    assert terms in workflow.tokens.licence.text()
    assert workflow.tokens.layer.maximum() == 8


def test_it_fits_a_small_laptop_screen(docked, qtbot):
    _, workflow = docked
    for step in workflow.steps.values():
        step.set_expanded(True)
    hint = workflow.minimumSizeHint()
    assert hint.width() <= 400
    assert hint.height() <= 500


def test_the_plot_follows_the_theme(docked):
    viewer, workflow = docked
    viewer.theme = "light"
    light = dict(workflow.dictionary.curve.colours)
    viewer.theme = "dark"
    assert workflow.dictionary.curve.colours["background"] != light["background"]
