"""What the steps show and heed while a dictionary is applied: what it decides is as it says."""

from __future__ import annotations

from .conftest import take_squares
from .steps import click, run


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
    shrinkage = small_run.result.dictionary.whitening.shrinkage
    assert f"as in the dictionary, shrinkage {shrinkage:g}" in workflow.whitening.summary.text()
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


def test_other_channel_names_are_said_before_the_run_and_can_be_written(workflow, small_run, qtbot):
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
    assert run(qtbot, workflow).config.tokens.channels == ("GFP",)
