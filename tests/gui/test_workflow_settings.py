"""Settings in the workflow dock: files, the control spectrum, what is out of date."""

from __future__ import annotations

import numpy as np

from napari_microdl.core.config import PipelineConfig, read_config, write_config

from .clicks import click_entry
from .steps import choose, click, click_tick, run, write


def test_settings_are_saved_as_the_command_line_takes_them_and_come_back(
    workflow, qtbot, tmp_path, pick
):
    path = pick(tmp_path / "settings.json")
    load, save = workflow.settings_button.menu().actions()

    click(qtbot, workflow.dictionary.heading)
    write(qtbot, workflow.dictionary.n_atoms, "48")
    write(qtbot, workflow.dictionary.control_atoms, "30")
    for box in (workflow.dictionary.positive, workflow.dictionary.early):
        click_tick(qtbot, box)
    before = workflow.session.plan.run_config()
    chosen = before.dictionary
    assert (chosen.n_atoms, chosen.control_atoms) == (48, 30)
    assert chosen.positive_code
    assert chosen.early_stopping
    click_entry(workflow.settings_button, save)
    qtbot.waitUntil(lambda: workflow.status.text().startswith("Saved settings.json"))
    assert read_config(path) == before

    write_config(PipelineConfig.of(unit="crop", n_atoms=12, channels=("GFP",)), path)
    click_entry(workflow.settings_button, load)
    assert "settings.json are in place" in workflow.status.text()
    assert workflow.dictionary.n_atoms.value() == 12
    assert workflow.cells.unit.currentText() == "Square crops"
    # The only channel in its own order is the same as all of them.
    assert workflow.session.plan.run_config() == PipelineConfig.of(unit="crop", n_atoms=12)


def test_channels_of_settings_are_taken_in_their_order(viewer, bare_workflow):
    session = bare_workflow.session
    layer = viewer.add_image(np.random.default_rng(0).random((3, 32, 32)))
    layer.metadata["napari_microdl_field"] = {"channel_names": ("DNA", "ER", "actin")}
    layer.axis_labels = ("c", "y", "x")
    session.images.update(viewer.layers)
    assert session.plan.run_config().tokens.channels is None
    session.plan.take_config(PipelineConfig.of(channels=("actin", "DNA")))
    assert session.plan.run_config().tokens.channels == ("actin", "DNA")
    session.images.edit_channel(1, use=True)
    assert session.plan.run_config().tokens.channels == ("actin", "DNA", "ER")


def test_the_spectrum_of_the_controls_is_drawn_with_the_shrinkage(workflow, qtbot):
    click(qtbot, workflow.cells.heading)
    choose(qtbot, workflow.cells.unit, "Square crops")
    click(qtbot, workflow.whitening.heading)
    spectrum = workflow.whitening.spectrum
    assert not spectrum.isVisible()
    run(qtbot, workflow)
    assert spectrum.isVisible()
    whitening = workflow.session.settings.dictionary.whitening
    (axes,) = spectrum._canvas.figure.axes
    drawn, added = axes.lines
    variance = whitening.explained_variance_
    measured = drawn.get_ydata()
    np.testing.assert_array_equal(measured, variance[: len(measured)])
    # Controls span one direction less than there are of them.
    assert len(measured) <= whitening.n_samples_seen_ - 1
    np.testing.assert_allclose(
        added.get_ydata(), whitening.shrinkage * np.median(measured), rtol=1e-6
    )


def test_a_change_is_said_of_its_step_and_those_behind_it(workflow, qtbot):
    workflow.session.settings.configure(unit="crop")

    def states() -> list[str]:
        return [step.state.text() for step in workflow.steps.values()]

    none = [""] * 5
    assert states() == none
    run(qtbot, workflow)
    assert states() == none
    click(qtbot, workflow.cells.heading)
    write(qtbot, workflow.cells.crop_size, "48")
    assert states() == ["", "changed", "", "out of date", "out of date"]
    shown = workflow.session.run.current
    click(qtbot, workflow.dictionary.heading)
    write(qtbot, workflow.dictionary.n_iterations, "3")
    assert states() == ["", "changed", "", "out of date", "changed"]
    # What is shown stays until somebody presses Run.
    assert workflow.session.run.current is shown
    write(qtbot, workflow.cells.crop_size, "32")
    assert states() == ["", "", "", "", "changed"]
    workflow.session.images.edit_rows([0], condition="something else")
    # A condition decides what concepts are compared by, and nothing before.
    assert states() == ["changed", "", "", "", "changed"]
    workflow.session.images.edit_rows([0], is_control=True)
    assert states() == ["changed", "", "", "out of date", "changed"]
    workflow.session.images.edit_rows([0], is_control=False)
    run(qtbot, workflow)
    assert states() == none
    # Tokens are read again with another batch size, as with another device.
    workflow.session.settings.configure(batch_size=4)
    assert states() == ["", "", "changed", "out of date", "out of date"]
