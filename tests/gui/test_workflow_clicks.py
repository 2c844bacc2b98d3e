"""Every setting of the workflow dock by real clicks and typing, down to what a run takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from napari.utils.theme import get_theme
from qtpy.QtCore import Qt

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.fields.segmentation import segment_cells
from napari_microdl.gui.workflow.dock import ConceptWorkflow
from napari_microdl.gui.workflow.match_labels import MatchLabels

from .clicks import click_choice, write_in_table
from .conftest import small_fields
from .steps import (
    LEFT,
    click,
    click_cell,
    click_tick,
    in_view,
    outputs,
    run,
    run_step,
    switch_theme,
    tick,
    write,
)


def in_step(qtbot: Any, workflow: ConceptWorkflow, step: str, box: str) -> Any:
    """A control of a step that is open, in view."""
    if not workflow.steps[step].is_expanded:
        click(qtbot, workflow.steps[step].heading)
    widget = getattr(workflow.steps[step], box)
    in_view(qtbot, workflow, widget)
    return widget


@pytest.mark.parametrize(
    ("step", "box", "text", "setting", "value"),
    [
        ("cells", "unit", "Single patches", "unit", "token"),
        ("tokens", "site", "Its attention alone", "site", "attention"),
        ("tokens", "device", "Choose for me", "device", "auto"),
        ("tokens", "precision", "bfloat16", "precision", "bf16"),
        ("tokens", "scaling", "All together", "scaling", "plate"),
        ("whitening", "background", "Take off", "background_weight", 100.0),
        ("whitening", "background", "Leave in", "background_weight", 0.0),
    ],
)
def test_a_choice_that_is_clicked_is_what_a_run_takes(
    workflow, qtbot, step, box, text, setting, value
):
    widget = in_step(qtbot, workflow, step, box)
    before = workflow.session.plan.run_config()
    click_choice(widget, text)
    assert widget.currentText() == text
    after = workflow.session.plan.run_config()
    assert after == before.with_settings(**{setting: value}) != before


@pytest.mark.parametrize(
    ("step", "box", "setting", "values"),
    [
        ("whitening", "whiten", "whiten", (False, True)),
        ("tokens", "remove_position", "remove_position", (False, True)),
        ("dictionary", "positive", "positive_code", (False, True)),
        ("dictionary", "early", "early_stopping", (False, True)),
    ],
)
def test_a_tick_that_is_clicked_is_what_a_run_takes(workflow, qtbot, step, box, setting, values):
    widget = in_step(qtbot, workflow, step, box)
    before, was = workflow.session.plan.run_config(), widget.isChecked()
    assert before == before.with_settings(**{setting: values[was]})
    for expected in (not was, was):
        click_tick(qtbot, widget)
        assert widget.isChecked() == expected
        config = workflow.session.plan.run_config()
        assert config == before.with_settings(**{setting: values[expected]})


@pytest.mark.parametrize(
    ("step", "box", "typed", "setting", "value"),
    [
        ("tokens", "layer", "3", "layer", 3),
        ("whitening", "shrinkage", "2.5", "shrinkage", 2.5),
        ("dictionary", "n_atoms", "17", "n_atoms", 17),
        ("dictionary", "n_iterations", "3", "n_iterations", 3),
        ("dictionary", "per_iteration", "1", "atoms_per_iteration", 1),
        ("dictionary", "control_atoms", "9", "control_atoms", 9),
    ],
)
def test_a_number_that_is_typed_is_what_a_run_takes(
    workflow, qtbot, step, box, typed, setting, value
):
    widget = in_step(qtbot, workflow, step, box)
    before = workflow.session.plan.run_config()
    write(qtbot, widget, typed)
    assert workflow.session.plan.run_config() == before.with_settings(**{setting: value})
    # One step up by the arrow in the box.
    qtbot.keyClick(widget, Qt.Key.Key_Up)
    assert widget.value() > value
    after = workflow.session.plan.run_config()
    assert after == before.with_settings(**{setting: widget.value()})


def test_threshold_and_smallest_cell_decide_the_cells(workflow, qtbot):
    step = workflow.cells
    in_step(qtbot, workflow, "cells", "min_area")
    click_choice(step.threshold, "One for the image (Otsu)")
    write(qtbot, step.min_area, "150")
    segmentation = workflow.session.plan.run_config().cells
    assert (segmentation.threshold, segmentation.min_area) == ("otsu", 150)
    run_step(qtbot, workflow, "cells")
    shown = outputs(workflow.viewer)
    assert len(shown) == 4
    for layer, field in zip(shown, small_fields(), strict=True):
        np.testing.assert_array_equal(layer.data, segment_cells(field.read()[0], segmentation))
        areas = np.bincount(np.asarray(layer.data).ravel())[1:]
        assert areas.min() >= 150
    write(qtbot, step.min_area, "0")
    assert workflow.session.plan.run_config().cells.min_area is None


def test_size_and_stride_decide_the_crops(workflow, qtbot):
    step = workflow.cells
    click(qtbot, step.heading)
    click_choice(step.unit, "Square crops")
    in_view(qtbot, workflow, step.crop_stride)
    write(qtbot, step.crop_size, "80")
    write(qtbot, step.crop_stride, "40")
    workflow.session.settings.configure(n_atoms=4, max_steps=5)
    result = run(qtbot, workflow)
    assert result.config.units.crop_stride == 40
    geometry = result.activations.geometry[0]
    top, left, bottom, right = geometry.boxes.T
    assert set(bottom - top) == set(right - left) == {80}
    assert set(top) == set(left) == {0, 40, 80}


@pytest.fixture
def stacked(viewer, workflow, qtbot) -> ConceptWorkflow:
    """Two stacks of two channels each: cells are in the second."""
    viewer.layers.clear()
    planes = [field.read()[0] for field in small_fields()]
    for number in range(2):
        dim = np.random.default_rng(number).integers(0, 9, planes[0].shape).astype(np.uint8)
        layer = viewer.add_image(np.stack([dim, planes[number]]), name=f"well {number}")
        layer.axis_labels = ("c", "y", "x")
    qtbot.waitUntil(lambda: len(workflow.session.images.rows) == 2)
    click_choice(workflow.fields.channel_axis, "axis 0 'c' (2 planes)")
    assert len(workflow.session.images.channels) == 2
    return workflow


def test_channels_are_renamed_left_out_and_put_together_by_clicks_and_stay_in_view(stacked, qtbot):
    step, session = stacked.fields, stacked.session
    for row, name in enumerate(("dirt", "GFP")):
        in_view(qtbot, stacked, step.channels)
        write_in_table(qtbot, step.channels, row, 1, name)
    assert [channel.name for channel in session.images.channels] == ["dirt", "GFP"]
    click_choice(in_step(qtbot, stacked, "tokens", "channel_tokens"), "Averaged")
    assert session.plan.run_config().tokens.channel_tokens == "mean"
    in_view(qtbot, stacked, step.channels)
    tick(qtbot, step.channels, 0, 0)
    assert session.plan.run_config().tokens.channels == ("GFP",)
    # Also where the step is folded up; a click opens it.
    click(qtbot, step.heading)
    assert not step.channels.isVisible()
    in_view(qtbot, stacked, step.summary)
    assert step.summary.text().endswith("channels: GFP")
    qtbot.mouseClick(step.summary, LEFT)
    assert step.is_expanded
    assert not step.summary.isVisible()
    in_view(qtbot, stacked, step.channels)
    tick(qtbot, step.channels, 0, 0)
    assert session.plan.run_config().tokens.channels is None
    click(qtbot, step.heading)
    assert step.summary.text().endswith("channels: dirt, GFP")


def test_images_that_are_channels_are_renamed_together(viewer, workflow, qtbot):
    step, session = workflow.fields, workflow.session
    viewer.layers.clear()
    planes = [field.read()[0] for field in small_fields()]
    for number, plane in enumerate(planes):
        viewer.add_image(plane, name=f"{'ab'[number // 2]} w{number % 2}")
    qtbot.waitUntil(lambda: len(session.images.rows) == 4)
    click_choice(step.arrangement, "Images are channels")
    headings = [heading for heading, _ in step.table.fields_model.columns()]
    assert headings == ["Use", "Image", "Field", "Channel", "Condition", "Control"]
    for number in range(4):
        in_view(qtbot, workflow, step.table)
        write_in_table(qtbot, step.table, number, 2, "ab"[number // 2])
        write_in_table(qtbot, step.table, number, 3, f"w{number % 2}")
        row = session.images.rows[number]
        assert (row.group, row.channel) == ("ab"[number // 2], f"w{number % 2}")
    in_view(qtbot, workflow, step.channels)
    tick(qtbot, step.channels, 0, 0)
    click_choice(in_step(qtbot, workflow, "cells", "channel"), "w1")
    in_view(qtbot, workflow, step.channels)
    write_in_table(qtbot, step.channels, 1, 1, "GFP")
    assert [row.channel for row in session.images.rows] == ["w0", "GFP"] * 2
    assert [(c.name, c.use) for c in session.images.channels] == [("w0", False), ("GFP", True)]
    # Cells are found in the same channel as before.
    assert workflow.cells.channel.currentText() == "GFP"
    assert session.plan.run_config().cells.channel == "GFP"
    tick(qtbot, step.table, 2, 5)
    fields, _, config = session.plan.prepare()
    assert [field.channel_names for field in fields] == [("w0", "GFP")] * 2
    assert config.tokens.channels == ("GFP",)
    np.testing.assert_array_equal(fields[1].read((1,))[0], planes[3])


def test_the_channel_of_the_cells_is_chosen_by_a_click(stacked, qtbot):
    step = stacked.cells
    in_step(qtbot, stacked, "cells", "channel")
    name = stacked.session.images.channels[1].name
    click_choice(step.channel, name)
    assert stacked.session.plan.run_config().cells.channel == name
    run_step(qtbot, stacked, "cells")
    shown = outputs(stacked.viewer)
    assert len(shown) == 2
    for number, field in enumerate(small_fields()[:2]):
        # The layer is seen at both positions of the channel slider.
        assert shown[number].data.shape[0] == 2
        for cells in np.asarray(shown[number].data):
            np.testing.assert_array_equal(cells, segment_cells(field.read()[0]))


def test_condition_and_field_are_edited_in_the_table(workflow, qtbot):
    table, session = workflow.fields.table, workflow.session
    write_in_table(qtbot, table, 0, 2, "10 uM")
    write_in_table(qtbot, table, 3, 1, "my field")
    assert session.images.rows[0].condition == "10 uM"
    assert session.images.rows[3].name == "my field"
    # A field needs a name.
    write_in_table(qtbot, table, 3, 1, "")
    assert session.images.rows[3].name == "my field"
    fields, _, _ = session.plan.prepare()
    assert fields[0].condition == "10 uM"
    assert fields[3].name == "my field"


def test_clicks_on_treated_control_and_set_change_the_selected_rows_alone(workflow, qtbot):
    step, rows = workflow.fields, workflow.session.images.rows
    assert [row.is_control for row in rows] == [False, False, True, True]
    click_cell(qtbot, step.table, 3, 1)
    click(qtbot, step.treated)
    assert [row.is_control for row in rows] == [False, False, True, False]
    # Of several rows at once.
    click_cell(qtbot, step.table, 0, 1, Qt.KeyboardModifier.ControlModifier)
    click(qtbot, step.control)
    assert [row.is_control for row in rows] == [True, False, True, True]
    before = [row.condition for row in rows]
    qtbot.mouseClick(step.condition, LEFT)
    qtbot.keyClicks(step.condition, "mixed")
    click(qtbot, step.set_condition)
    assert [row.condition for row in rows] == ["mixed", *before[1:3], "mixed"]


def test_a_dictionary_is_loaded_applied_and_saved_by_clicks(
    workflow, qtbot, small_run, tmp_path, pick
):
    step, session = workflow.dictionary, workflow.session
    pick(small_run.result.dictionary.save(tmp_path / "concepts"))
    in_step(qtbot, workflow, "dictionary", "save")
    assert not step.save.isEnabled()
    assert step.fit.isChecked()
    click_tick(qtbot, step.apply)
    click(qtbot, workflow.run_button)
    sentence = "⚠ Load a dictionary to apply, or choose to fit one."
    assert workflow.status.text() == step.need.text() == sentence
    assert not workflow.jobs.is_running
    click_tick(qtbot, step.fit)
    click(qtbot, step.load)
    assert session.settings.dictionary.names == small_run.result.dictionary.names
    assert step.apply.isChecked()
    assert step.run_button.text() == "Apply"
    assert not step.sizes.isVisible()

    run_step(qtbot, workflow, "dictionary")
    results = (session.run.current.result, small_run.result)
    codes = [result.activations.codes.toarray() for result in results]
    np.testing.assert_allclose(*codes, atol=1e-5)
    session.run.rename_concept(0, "spots")
    again = pick(tmp_path / "again.microdl.safetensors")
    in_view(qtbot, workflow, step.save)
    click(qtbot, step.save)
    names = small_run.result.dictionary.names
    assert ConceptDictionary.load(again).names == ["spots", *names[1:]]

    in_view(qtbot, workflow, step.fit)
    click_tick(qtbot, step.fit)
    assert not session.settings.apply_dictionary
    assert step.run_button.text() == "Fit"
    assert step.sizes.isVisible()
    click_tick(qtbot, step.apply)
    assert session.settings.apply_dictionary


def test_the_plots_are_drawn_anew_when_a_key_switches_the_theme(viewer, workflow, small_run, qtbot):
    click(qtbot, workflow.dictionary.heading)
    curve = workflow.dictionary.curve
    curve.set_history(small_run.result.dictionary.icfl.history_)
    in_view(qtbot, workflow, curve)
    shades = {}
    for _ in range(2):
        switch_theme(viewer, qtbot)
        curve.canvas.draw()
        image = curve.canvas.grab().toImage()
        corner = image.pixelColor(1, 1).getRgb()[:3]
        assert corner == get_theme(viewer.theme).background.as_rgb_tuple()
        shades[viewer.theme] = sum(corner) / 3
    assert shades["dark"] < 80 < 180 < shades["light"]


def test_cells_of_cellpose_are_found_by_their_names(viewer, workflow, qtbot):
    workflow.session.settings.configure(n_atoms=4)
    masks = [segment_cells(field.read()[0]).astype(np.uint16) for field in small_fields()]
    # The names that its plugin gives, and the place: the corner of the viewer.
    for image, mask in zip(list(viewer.layers), masks, strict=True):
        viewer.add_labels(mask, name=f"{image.name}_cp_masks_000")
    step = workflow.cells
    click_choice(in_step(qtbot, workflow, "cells", "source"), "My Labels layers")
    rows = workflow.session.images.rows
    at_home = [not any(row.layer().translate) for row in rows]
    assert [row.labels_layer() is not None for row in rows] == at_home
    assert sum(at_home) < 4
    in_view(qtbot, workflow, step.match_labels)
    click(qtbot, step.match_labels)
    click(qtbot, step.findChild(MatchLabels).take)
    qtbot.waitUntil(lambda: not step.lay_on_images.isVisible() and step.need.isHidden())
    for row in range(4):
        name = workflow.session.images.rows[row].layer().name
        assert step.labels.cellWidget(row, 1).currentText() == f"{name}_cp_masks_000"
    assert step.run_button.text() == "Check cells"
    units = run(qtbot, workflow).activations.units
    found = [sorted(units["label"][units["field"] == field]) for field in range(4)]
    assert found == [sorted(set(mask.ravel().tolist()) - {0}) for mask in masks]
    # They are the person's, so there are no others to outline.
    assert not any(isinstance(layer, Labels) for layer in outputs(viewer))


def test_cells_of_stardist_are_chosen_by_clicks(viewer, workflow, qtbot):
    workflow.session.settings.configure(n_atoms=4)
    masks = [segment_cells(field.read()[0]).astype(np.int32) for field in small_fields()]
    # Its plugin calls all alike, so that napari numbers them, and adds polygons.
    for image, mask in zip(list(viewer.layers), masks, strict=True):
        viewer.add_labels(mask, name="StarDist labels", translate=image.translate)
        viewer.add_shapes(
            [np.array([(y, x), (y, x + 9), (y + 9, x + 9)]) for y, x in ((5, 5), (40, 60))],
            shape_type="polygon", name="StarDist polygons",
        )  # fmt: skip
    step = workflow.cells
    click(qtbot, step.heading)
    click_choice(step.source, "My Labels layers")
    names = [layer.name for layer in viewer.layers if isinstance(layer, Labels)]
    assert len(set(names)) == 4
    assert step.need.text().startswith("⚠ Choose a Labels layer for ")
    for row, name in enumerate(names):
        box = step.labels.cellWidget(row, 1)
        # No polygons among them, and none is guessed.
        assert [box.itemText(i) for i in range(box.count())] == ["choose...", *names]
        assert box.currentText() == "choose..."
        in_view(qtbot, workflow, box)
        click_choice(box, name)
    assert step.need.isHidden()
    run_step(qtbot, workflow, "cells")
    count = sum(len(np.unique(mask)) - 1 for mask in masks)
    assert workflow.status.text().startswith(f"{count} cells in 4 fields, ")
    units = run(qtbot, workflow).activations.units
    for field, mask in enumerate(masks):
        areas = np.bincount(mask.ravel())[1:]
        assert units["area"][units["field"] == field].tolist() == areas[areas > 0].tolist()
