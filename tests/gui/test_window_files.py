"""The plan of the window to the files of the command line, and back into a fresh window."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from napari.components import LayerList
from napari.layers import Image, Labels
from qtpy.QtCore import Qt

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import read_config
from napari_microdl.core.task import current_task
from napari_microdl.gui.session.files import collect_window, open_window, restore_window
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.workflow.dock import ConceptWorkflow
from napari_microdl.gui.workflow.fill_fields import FillFields
from napari_microdl.pipeline.files import DICTIONARY

from .clicks import click_entry
from .conftest import SQUARES, small_fields
from .steps import choose, click, open_workflow, run, tick


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Four fields of two channels as TIFF files, one each."""
    folder = tmp_path / "raw data"
    folder.mkdir()
    paths = []
    for field in small_fields():
        plane = field.read()[0]
        for channel, data in (("spots", plane), ("flipped", plane[::-1])):
            paths.append(folder / f"{field.well}_{channel}.tif")
            tifffile.imwrite(paths[-1], data)
    return paths


@pytest.fixture
def chosen(pick, tmp_path) -> Path:
    """The settings file that the chosen return."""
    return pick(tmp_path / "settings.json")


def opened(viewer: Any, qtbot: Any, paths: list[Path], labelled: bool = False) -> ConceptWorkflow:
    workflow = open_workflow(viewer)
    viewer.open([str(path) for path in paths], plugin="napari", layer_type="image")
    if labelled:
        for path in paths[::2]:
            viewer.add_labels(SQUARES.copy(), name=f"cells of {path.stem}")
    qtbot.waitUntil(lambda: len(workflow.session.images.rows) == len(paths))
    return workflow


def settings(workflow: Any, number: int, qtbot: Any) -> str:
    """Load (0) or save (1) settings by the menu; what is said of it."""
    workflow.say("")
    click_entry(workflow.settings_button, workflow.settings_button.menu().actions()[number])
    done = "in place" if number == 0 else "Saved"
    qtbot.waitUntil(lambda: done in workflow.status.text() or "⚠" in workflow.status.text())
    return str(workflow.status.text())


def command_of(said: str) -> list[str]:
    """The command that was said to do the same, into the folder `out`."""
    return shlex.split(said.split("the same: ")[1].replace("DIR", "out"))


def fill_in(workflow: Any, qtbot: Any) -> None:
    """Fields and channels from the names, conditions and controls by hand."""
    choose(qtbot, workflow.fields.arrangement, "Images are channels")
    click(qtbot, workflow.fields.fill)
    dialog = workflow.fields.findChild(FillFields)
    qtbot.waitExposed(dialog)
    dialog.names.pattern.selectAll()
    qtbot.keyClicks(dialog.names.pattern, "{field}_{channel}")
    click(qtbot, dialog.names.apply)
    dialog.close()
    table = workflow.fields.table
    for row, condition in ((0, "puncta"), (2, "puncta"), (4, "diffuse"), (6, "diffuse")):
        table.selectRow(row)
        workflow.fields.condition.clear()
        qtbot.keyClicks(workflow.fields.condition, condition)
        qtbot.keyClick(workflow.fields.condition, Qt.Key.Key_Return)
        if condition == "diffuse":
            click(qtbot, workflow.fields.control)


def command_line(words: list[str], folder: Path) -> None:
    """Run the command in a process of its own, which reads the model itself."""
    subprocess.run(
        [sys.executable, "-m", "napari_microdl.cli", *words[1:]],
        check=True, cwd=folder, env={**os.environ, "NAPARI_MICRODL_CACHE": str(folder / "cache")},
    )  # fmt: skip


def atoms(*dictionaries: ConceptDictionary) -> list[np.ndarray]:
    """Atoms among tokens: which directions span what controls do not is chance in the whitening."""
    return [found.directions @ found.whitening.components_ for found in dictionaries]


def assert_same_plan(found: Any, expected: Any) -> None:
    """Two sessions that would run the same."""
    for one, other in zip(found.images.rows, expected.images.rows, strict=True):
        for name in (
            "use", "group", "channel", "condition", "is_control", "well", "site", "plate", "index",
        ):  # fmt: skip
            assert getattr(one, name) == getattr(other, name)
    assert found.images.layout == expected.images.layout
    assert found.images.channels == expected.images.channels
    assert found.plan.run_config() == expected.plan.run_config()
    assert found.settings.cell_source == expected.settings.cell_source
    assert found.settings.apply_dictionary == expected.settings.apply_dictionary
    fields = [session.plan.prepare()[0] for session in (found, expected)]
    for one, other in zip(*fields, strict=True):
        assert one.name == other.name
        assert one.channel_names == other.channel_names
        np.testing.assert_array_equal(one.read(), other.read())
        np.testing.assert_array_equal(one.read_labels(), other.read_labels())


def test_the_command_line_runs_what_the_window_saved_and_a_fresh_window_shows_it(
    viewer, open_viewer, files, chosen, qtbot
):
    workflow = opened(viewer, qtbot, files, labelled=True)
    fill_in(workflow, qtbot)
    # Sizes that no person has to set.
    rounds = {"n_iterations": 2, "atoms_per_iteration": 2}
    workflow.session.settings.configure(
        model="random-init", device="cpu", max_steps=10, n_atoms=24, **rounds
    )
    click(qtbot, workflow.cells.heading)
    choose(qtbot, workflow.cells.source, "My Labels layers")
    # One field takes no part, and has a condition all the same.
    tick(qtbot, workflow.fields.table, 2, 0)
    tick(qtbot, workflow.fields.table, 3, 0)
    # Without labels of its own layer: a person chose those of another field.
    other = viewer.layers["cells of O07_spots"]
    other.data = SQUARES[::-1].copy()
    choose(qtbot, workflow.cells.labels.cellWidget(0, 1), other.name)
    assert len(workflow.session.plan.prepare()[0]) == 3

    said = settings(workflow, 1, qtbot)
    assert said.startswith("Saved settings.json and settings.fields.csv and settings.labels. In ")
    table = pd.read_csv(chosen.parent / "settings.fields.csv", keep_default_na=False)
    assert table["FileName_spots"].tolist() == [f"{w}_spots.tif" for w in ("O05", "O11", "O12")]
    assert set(table["PathName_spots"]) == {"raw data"}
    assert table["Metadata_control"].tolist() == [False, True, True]

    expected = run(qtbot, workflow)
    command = command_of(said)
    assert command[:2] == ["napari-microdl", "fit"]
    command_line(command, chosen.parent)
    made = ConceptDictionary.load(chosen.parent / "out" / DICTIONARY)
    assert made.spec == expected.dictionary.spec
    assert made.provenance["config"] == expected.dictionary.provenance["config"]
    np.testing.assert_allclose(*atoms(made, expected.dictionary), atol=1e-4)
    cells = pd.read_csv(chosen.parent / "out" / "cells.csv", keep_default_na=False)
    units = expected.activations.units
    for name in ("Metadata_Field", "Metadata_condition", "Metadata_control", "label", "area"):
        assert cells[name].tolist() == units[name].tolist()
    for concept in range(expected.activations.n_concepts):
        activation = expected.activations.activation(concept)
        np.testing.assert_allclose(cells[f"activation_{concept}"], activation, atol=1e-3)

    again = open_viewer()
    fresh = opened(again, qtbot, files, labelled=True)
    again.layers["cells of O07_spots"].data = SQUARES[::-1].copy()
    assert settings(fresh, 0, qtbot) == (
        "Settings of settings.json are in place; press Run all to use them."
    )
    assert_same_plan(fresh.session, workflow.session)
    assert fresh.session.images.rows[0].labels_layer().name == other.name
    assert fresh.session.images.rows[2].condition == "puncta"
    # A table that somebody changed by hand is what counts, as for the command line.
    table["Metadata_condition"] = ["PUNCTA", "diffuse", "diffuse"]
    table.iloc[[0, 1]].to_csv(chosen.parent / "settings.fields.csv", index=False)
    settings(fresh, 0, qtbot)
    assert [row.condition for row in fresh.session.images.rows[::2]] == [
        "PUNCTA", "puncta", "diffuse", "diffuse",
    ]  # fmt: skip
    assert [row.use for row in fresh.session.images.rows[::2]] == [True, False, True, False]


def test_stacks_with_renamed_channels_and_an_applied_dictionary_come_back(
    viewer, open_viewer, small_run, tmp_path, chosen, qtbot
):
    paths = []
    for field in small_fields()[1:3]:
        paths.append(tmp_path / f"{field.name}.tif")
        plane = field.read()[0]
        tifffile.imwrite(paths[-1], np.stack([plane, plane[::-1]]), photometric="minisblack")
    workflow = opened(viewer, qtbot, paths)
    session = workflow.session
    choose(qtbot, workflow.fields.channel_axis, "axis 0 (2 planes)")
    assert len(session.images.rows) == 2
    session.images.edit_channel(1, name="turned")
    session.images.edit_channel(0, name="GFP")
    session.images.edit_channel(1, use=False)
    small_run.result.dictionary.save(tmp_path / "mine")
    workflow.files.load_dictionary(tmp_path / "mine.microdl.safetensors")
    session.settings.configure(unit="crop")
    command = command_of(settings(workflow, 1, qtbot))
    assert command[1:4] == ["apply", "mine.microdl.safetensors", "settings.fields.csv"]
    command_line(command, chosen.parent)
    activations = run(qtbot, workflow).activations
    crops = pd.read_csv(chosen.parent / "out" / "crops.csv")
    np.testing.assert_allclose(crops["cosine_3"], activations.alignment(3), atol=1e-5)

    fresh = opened(open_viewer(), qtbot, paths)
    settings(fresh, 0, qtbot)
    assert_same_plan(fresh.session, session)
    assert fresh.session.settings.dictionary.names == session.settings.dictionary.names
    assert fresh.dictionary.apply.isChecked()


def test_images_without_files_are_said_and_come_back_by_name(
    viewer, workflow, open_viewer, chosen, qtbot
):
    table, step = workflow.fields.table, workflow.fields
    table.selectRow(1)
    qtbot.keyClicks(step.condition, "bright")
    click(qtbot, step.set_condition)
    tick(qtbot, table, 0, 0)
    said = settings(workflow, 1, qtbot)
    assert "'O07_f01', 'O11_f01', 'O12_f01' was not opened from a file that the command" in said
    done = subprocess.run(
        [sys.executable, "-m", "napari_microdl.cli", "fit", "settings.fields.csv", "--config",
         "settings.json", "--out", "out"],
        check=False, cwd=chosen.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Row 1 of 'settings.fields.csv': there is no file in the column" in done.stderr

    again = open_viewer()
    fresh = open_workflow(again)
    for layer in list(viewer.layers)[1:]:
        # The same names, and nothing known of them.
        again.add_image(layer.data, name=layer.name)
    again.add_image(viewer.layers[0].data, name="a stranger")
    qtbot.waitUntil(lambda: len(fresh.session.images.rows) == 4)
    said = settings(fresh, 0, qtbot)
    assert "The settings know nothing of 'a stranger', left as it was." in said
    assert f"Not open, and so not in place: '{viewer.layers[0].name}'." in said
    for one, other in zip(
        fresh.session.images.rows, workflow.session.images.rows[1:], strict=False
    ):
        for name in ("name", "use", "condition", "is_control", "well", "site"):
            assert getattr(one, name) == getattr(other, name)
    assert fresh.session.images.rows[0].condition == "bright"


def test_what_keeps_the_command_line_or_a_file_from_it_is_said(viewer, files, chosen, qtbot):
    workflow = opened(viewer, qtbot, files[:2])
    viewer.layers[0].data = viewer.layers[0].data + 1
    assert f"'{files[0].stem}' was changed since it was opened" in settings(workflow, 1, qtbot)
    # Two fields of one name are none: everything stands in the settings alone.
    workflow.session.images.edit_rows([0, 1], name="twice")
    workflow.session.images.edit_rows([1], condition="DMSO")
    chosen.with_name("settings.fields.csv").unlink()
    said = settings(workflow, 1, qtbot)
    assert "Two fields are called 'twice'" in said
    assert not chosen.with_name("settings.fields.csv").exists()
    workflow.session.images.edit_rows([0, 1], name="once", condition="")
    settings(workflow, 0, qtbot)
    assert [(r.name, r.condition) for r in workflow.session.images.rows] == [
        ("twice", ""), ("twice", "DMSO"),
    ]  # fmt: skip
    # No file can be written where there is a folder.
    chosen.unlink()
    chosen.mkdir()
    assert settings(workflow, 1, qtbot).startswith("⚠ The settings could not be saved: ")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("{", "are not JSON"),
        ('{"channels": ["ER"]}', "use the channel 'ER', but the images have"),
        ({"tokens": {"channels": ["ER"]}}, "use the channel 'ER', but the images have"),
        ({"window": 3}, "entry window of the settings 'settings.json' is 3 but must be an object"),
        ({"window": {"images": [{"use": True}]}}, "'settings.json': The setting layer is missing."),
        ({"window": {"images": [{"layer": "a", "use": 1}]}}, "use is 1 but must be true or false"),
        ({"window": {"image": []}}, "hold 'image', which this version does not know"),
        ({"window": {"arrangement": "rows"}}, "use one of 'fields', 'channels'"),
        ({"window": {"channel_axis": True}}, "channel_axis is true but must be a whole number"),
        (
            {"window": {"images": [{"layer": "a", "plane": ["x"]}]}},
            'plane is "x" but must be a who',
        ),
        ({"window": {"images": [{"layer": "a", "known": {"well": 3}}]}}, "well is 3 but must be a"),
        ({"window": {"model_channels": {"DNA": 3}}}, "model_channels is 3 but must be a text"),
        ({"window": {"fields": "gone.csv"}}, "'gone.csv' cannot be read as a table"),
        (
            {"window": {"apply_dictionary": True, "dictionary": "gone.microdl.safetensors"}},
            "gone.microdl.safetensors",
        ),
    ],
)
def test_files_that_cannot_be_used_change_nothing(viewer, files, chosen, qtbot, change, sentence):
    """Another text, or other entries of what was saved."""
    workflow = opened(viewer, qtbot, files[:2])
    session = workflow.session
    settings(workflow, 1, qtbot)
    if isinstance(change, dict):
        values = json.loads(chosen.read_text())
        values["window"]["arrangement"] = "channels"
        values["dictionary"]["n_atoms"] = 7
        if isinstance(change.get("window"), dict):
            change = {"window": {**values["window"], **change["window"]}}
        change = json.dumps({**values, **change})
    chosen.write_text(change)

    def state() -> tuple[Any, ...]:
        rows = [vars(row).copy() for row in session.images.rows]
        return session.settings.config, session.images.layout, rows

    before = state()
    assert sentence in settings(workflow, 0, qtbot)
    assert state() == before
    assert workflow.fields.arrangement.currentText() == "Each image is a field"


@pytest.mark.parametrize("name", ["window", "stack"])
def test_what_the_window_of_version_0_1_saved_is_restored_and_saved_alike(name):
    folder = Path(__file__).parents[1] / "data" / "version_0_1"
    with current_task().taking_notes() as notes:
        found = open_window(folder / f"{name}.json")
    # Of one that applies a dictionary, which had no digest then.
    assert all("holds no digest" in note for note in notes)
    images = {image.layer: image.labels for image in found.window.images}
    layers = LayerList()
    for layer, labels in images.items():
        pixels = tifffile.imread(folder / "images" / f"{layer}.tif")
        layers.append(Image(pixels, name=layer))
        if labels:
            layers.append(Labels(np.ones(pixels.shape, int), name=labels))
    session = Session()
    assert restore_window(session.plan, layers, found) == ""
    again = collect_window(session.plan, folder / f"{name}.json")
    # The cells of a field are those of its first channel, whatever is said of the others.
    some = {"images": {"__all__": {"labels"}}}
    assert again.window.model_dump(exclude=some) == found.window.model_dump(exclude=some)
    for image, before in zip(again.window.images, found.window.images, strict=True):
        assert before.labels in ("", image.labels)
    assert again.config == read_config(folder / f"{name}.json")
    controls = [str(row.field.is_control) for row in again.fields]
    assert controls == found.table["Metadata_control"].tolist()
