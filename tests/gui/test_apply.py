"""What the steps show and heed while a dictionary is applied: what it decides is as it says."""

from __future__ import annotations

from typing import Any

import numpy as np

from .steps import click, run


def test_steps_show_what_the_dictionary_decides(docked: Any, small_run: Any, qtbot: Any):
    _, workflow = docked
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
    shrinkage = small_run.result.dictionary.whitening.shrinkage
    assert f"as in the dictionary, shrinkage {shrinkage:g}" in workflow.whitening.summary.text()
    # What was chosen before comes back.
    click(qtbot, workflow.dictionary.fit)
    assert workflow.cells.unit.currentData() == "token"
    assert workflow.cells.unit.isEnabled()
    assert not workflow.whitening.whiten.isChecked()


def test_the_dictionarys_unit_decides_whether_labels_are_read(
    docked: Any, cell_dictionary: Any, qtbot: Any
):
    viewer, workflow = docked
    squares = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((32, 32), int)).astype(np.int32)
    for image in list(viewer.layers):
        viewer.add_labels(squares, name=f"{image.name} cells")
    workflow.session.settings.choose(cell_source="labels")
    workflow.session.settings.configure(unit="crop")
    workflow.session.settings.set_dictionary(cell_dictionary)
    click(qtbot, workflow.dictionary.heading)
    click(qtbot, workflow.dictionary.apply)
    run(qtbot, workflow)
    assert workflow.session.run.current.result.config.units.kind == "cell"
    assert len(workflow.session.run.current.result.activations.units) == 100


def test_other_channel_names_are_said_before_the_run_and_can_be_written(
    docked: Any, small_run: Any, qtbot: Any
):
    _, workflow = docked
    workflow.session.images.edit_channel(0, name="AF488")
    workflow.session.settings.set_dictionary(small_run.result.dictionary)
    click(qtbot, workflow.dictionary.heading)
    click(qtbot, workflow.dictionary.apply)
    need = workflow.fields.need.text()
    assert "made from the channel 'GFP', but the images have 'AF488'" in need, need
    click(qtbot, workflow.run_button)
    assert not workflow.jobs.is_running
    assert need.removeprefix("⚠ ") in workflow.status.text()
    workflow.session.images.edit_channel(0, name="GFP")
    assert workflow.fields.need.text() == ""
    run(qtbot, workflow)
    assert workflow.session.run.current.result.config.tokens.channels == ("GFP",)
