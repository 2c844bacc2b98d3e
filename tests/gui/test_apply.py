"""What the steps show and heed while a dictionary is applied: what it decides is as it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .conftest import take_squares
from .steps import click, in_view, run


def test_steps_show_what_the_dictionary_decides(workflow, small_run, qtbot):
    workflow.session.settings.configure(unit="token", whiten=False, remove_position=False)
    for step in (workflow.cells, workflow.whitening, workflow.dictionary):
        click(qtbot, step.heading)
    assert workflow.cells.unit.currentData() == "token"
    workflow.session.settings.set_dictionary(small_run.result.dictionary)
    click(qtbot, workflow.dictionary.apply)
    assert workflow.cells.unit.currentData() == "crop"
    assert workflow.cells.crop_size.value() == 32
    assert workflow.whitening.whiten.isChecked()
    for widget in (workflow.cells.unit, workflow.cells.crop_size, workflow.whitening.whiten):
        assert not widget.isEnabled()
    assert "as in the dictionary" in workflow.whitening.summary.text()
    # What was chosen before comes back.
    click(qtbot, workflow.dictionary.fit)
    assert workflow.cells.unit.currentData() == "token"
    assert workflow.cells.unit.isEnabled()
    assert not workflow.whitening.whiten.isChecked()


def test_the_dictionarys_unit_decides_whether_labels_are_read(workflow, cell_run, qtbot):
    take_squares(qtbot, workflow)
    workflow.session.settings.configure(unit="crop")
    workflow.session.settings.set_dictionary(cell_run.result.dictionary)
    click(qtbot, workflow.dictionary.heading)
    click(qtbot, workflow.dictionary.apply)
    result = run(qtbot, workflow)
    assert result.config.units.kind == "cell"
    assert len(result.activations.units) == 100


def test_another_channel_takes_the_place_of_the_only_one_by_one_click(workflow, small_run, qtbot):
    workflow.session.images.edit_channel(0, name="AF&488")
    workflow.session.settings.configure(
        segmentation=workflow.session.settings.config.cells.replace(channel="AF&488")
    )
    workflow.session.settings.set_dictionary(small_run.result.dictionary)
    click(qtbot, workflow.dictionary.heading)
    click(qtbot, workflow.dictionary.apply)
    need = workflow.dictionary.need.text()
    assert "made from the channel 'GFP', but the images have 'AF&488'" in need, need
    click(qtbot, workflow.run_button)
    assert not workflow.jobs.is_running
    assert need.removeprefix("⚠ ") in workflow.status.text()
    (button,) = workflow.dictionary.stand_in_buttons.values()
    assert button.text() == "Read 'AF&&488' as 'GFP'"
    in_view(qtbot, workflow, button)
    click(qtbot, button)
    assert button.isChecked()
    assert workflow.dictionary.need.text() == ""
    result = run(qtbot, workflow)
    assert result.config.tokens.channels == ("GFP",)
    np.testing.assert_array_equal(
        result.activations.codes.toarray(), small_run.result.activations.codes.toarray()
    )
    # The images keep their name, and one that has the dictionary's needs no other.
    assert [channel.name for channel in workflow.session.images.channels] == ["AF&488"]
    workflow.session.images.edit_channel(0, name="GFP")
    assert workflow.dictionary.stand_ins.isHidden()
    assert workflow.session.step_states(workflow.session.plan.facets()) == {}


def test_pixels_of_another_size_are_warned_of_before_and_after_the_run(
    viewer, workflow, small_run, qtbot
):
    dictionary = replace(small_run.result.dictionary, pixel_size=0.65)
    workflow.session.settings.set_dictionary(dictionary)
    click(qtbot, workflow.dictionary.heading)
    click(qtbot, workflow.dictionary.apply)
    step = workflow.dictionary
    # Of images that do not tell, nothing is said.
    assert step.pixel_size.isHidden()
    for layer in viewer.layers:
        layer.scale, layer.units = (0.7, 0.7), ("um", "um")
    workflow.refresh_steps()
    assert step.pixel_size.isHidden()
    viewer.layers[0].scale = (0.325, 0.325)
    workflow.refresh_steps()
    said = (
        "The dictionary was made at 0.65 µm a pixel, but of 4 images 1 has 0.325: the model sees "
        "cells 2 times as large as it knows them, so activations do not compare. Resize such "
        "images by 0.5 first."
    )
    assert step.pixel_size.text() == f"⚠ {said}"
    assert said in run(qtbot, workflow).warnings
