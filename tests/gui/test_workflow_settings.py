"""Settings in the workflow dock: files, the live preview, the fit, the control spectrum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint

from napari_microdl.core.config import PipelineConfig, read_config, write_config
from napari_microdl.gui.session.layers import TAG

from .clicks import click_entry
from .steps import LEFT, choose, click, outputs, run, write


def test_settings_are_saved_as_the_command_line_takes_them_and_come_back(
    docked: Any, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, workflow = docked
    path = tmp_path / "settings.json"
    dialogs = "napari_microdl.gui.workflow.files.QFileDialog"
    monkeypatch.setattr(f"{dialogs}.getSaveFileName", lambda *_: (str(path), ""))
    monkeypatch.setattr(f"{dialogs}.getOpenFileName", lambda *_: (str(path), ""))
    load, save = workflow.settings_button.menu().actions()

    click(qtbot, workflow.dictionary.heading)
    write(qtbot, workflow.dictionary.n_atoms, "48")
    write(qtbot, workflow.dictionary.control_atoms, "30")
    for box in (workflow.dictionary.positive, workflow.dictionary.early):
        qtbot.mouseClick(box, LEFT, pos=QPoint(8, box.height() // 2))
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


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "are not JSON"),
        ('{"channels": ["ER"]}', "use the channel 'ER', but the images have 'GFP'"),
        ('{"n_atoms": "many"}', "must be a whole number or null"),
    ],
)
def test_settings_that_cannot_be_used_change_nothing(
    docked: Any, tmp_path: Path, text: str, sentence: str
):
    _, workflow = docked
    before = workflow.session.plan.run_config()
    path = tmp_path / "settings.json"
    path.write_text(text)
    workflow.files.load_settings(path)
    assert sentence in workflow.status.text()
    assert workflow.session.plan.run_config() == before


def test_channels_of_settings_are_taken_in_their_order(open_viewer: Any, qtbot: Any):
    viewer = open_viewer()
    _, workflow = viewer.window.add_plugin_dock_widget("napari-microdl", "Concept workflow")
    layer = viewer.add_image(np.random.default_rng(0).random((3, 32, 32)))
    layer.metadata["napari_microdl_field"] = {"channel_names": ("DNA", "ER", "actin")}
    layer.axis_labels = ("c", "y", "x")
    workflow.session.images.update(viewer.layers)
    assert workflow.session.plan.run_config().tokens.channels is None
    workflow.session.plan.take_config(PipelineConfig.of(channels=("actin", "DNA")))
    assert workflow.session.plan.run_config().tokens.channels == ("actin", "DNA")
    workflow.session.images.edit_channel(1, use=True)
    assert workflow.session.plan.run_config().tokens.channels == ("actin", "DNA", "ER")


def test_the_preview_follows_the_settings_while_it_is_live(docked: Any, qtbot: Any):
    viewer, workflow = docked
    click(qtbot, workflow.cells.heading)
    with qtbot.waitSignal(workflow.preview.jobs.succeeded):
        click(qtbot, workflow.cells.live)
    (preview,) = outputs(viewer)
    before = preview.data.max()
    with qtbot.waitSignal(workflow.preview.jobs.succeeded):
        write(qtbot, workflow.cells.diameter, "12")
    (preview,) = outputs(viewer)
    assert preview.metadata[TAG]["kind"] == "preview"
    assert preview.data.max() > before
    click(qtbot, workflow.cells.live)
    write(qtbot, workflow.cells.diameter, "40")
    qtbot.wait(500)
    assert not workflow.preview.jobs.is_running
    assert outputs(viewer) == [preview]


def test_the_spectrum_of_the_controls_is_drawn_with_the_shrinkage(docked: Any, qtbot: Any):
    _, workflow = docked
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


def test_a_change_is_said_of_its_step_and_those_behind_it(docked: Any, qtbot: Any):
    _, workflow = docked
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
