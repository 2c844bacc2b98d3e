"""The explorer dock in a real viewer, driven by clicks and keys."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import Qt

from napari_microdl.concepts.pictures import PictureChoice
from napari_microdl.gui.dock import session_of
from napari_microdl.gui.explorer.concept_table import HEADINGS
from napari_microdl.gui.session.layers import TAG

from .clicks import click_save
from .steps import (
    LEFT,
    click_tick,
    open_explorer,
    open_workflow,
    outputs,
    overlays,
    shown_names,
    shown_units,
)


def test_concepts_are_listed_best_first(explorer, activations):
    ranking = activations.ranking
    assert explorer.message.isHidden()
    assert shown_names(explorer) == ranking["name"].tolist()
    proxy = explorer.table.proxy
    best = ranking.iloc[0]
    shown = {h: proxy.index(0, c).data() for c, h in enumerate(HEADINGS)}
    assert shown == {
        "#": "1",
        "Name": best["name"],
        "Treated %": f"{100 * best['rate_label']:.0f}",
        "Controls %": f"{100 * best['rate_controls']:.0f}",
        "Average": f"{best['selectivity']:.2f}",
        "Max": f"{best['max_selectivity']:.2f}",
        "For": best["label"],
        "Effect": f"{best['effect']:+.2f}",
        **{
            heading: f"{best[name]:.3f}" if best[name] >= 0.001 else f"{best[name]:.0e}"
            for heading, name in (("q wells", "q_wells"), ("q cells", "q_cells"))
        },
        "AUC": f"{best['auc']:.2f}",
        "Active": f"{best['activation_rate']:.1%}",
        # Of crops there is no background.
        "Where": "",
        **dict.fromkeys(("Left", "On cells", "Background", "In wells"), "-"),
        "Group": "",
        "Flag": "",
        "Tag": "",
    }


def test_flagged_concepts_are_hidden_by_a_click(explorer, activations, qtbot):
    ranking = activations.ranking.copy()
    ranking.loc[ranking.index[2], "dead"] = True
    activations.ranking = ranking
    explorer.session.run.changed.emit()
    everything = shown_names(explorer)
    box = explorer.hide_flagged
    click_tick(qtbot, box)
    flagged = ranking["dead"] | (ranking["duplicate_of"] >= 0)
    assert shown_names(explorer) == ranking["name"][~flagged].tolist()
    click_tick(qtbot, box)
    assert shown_names(explorer) == everything


def test_arrow_keys_switch_the_overlay(viewer, explorer, activations, qtbot):
    order = activations.ranking.index
    layer = overlays(viewer)["activation"]
    explorer.table.setFocus()
    for concept in order[1:4]:
        before = layer.data.copy()
        qtbot.keyClick(explorer.table, Qt.Key.Key_Down)
        assert layer.metadata[TAG]["concept"] == concept
        assert not np.array_equal(layer.data, before, equal_nan=True)
    qtbot.keyClick(explorer.table, Qt.Key.Key_Up)
    assert layer.metadata[TAG]["concept"] == order[2]


def test_overlay_switches_add_and_remove_layers(viewer, explorer, qtbot):
    qtbot.mouseClick(explorer.kinds["heatmap"], LEFT)
    assert set(overlays(viewer)) == {"heatmap", "activation"}
    qtbot.mouseClick(explorer.kinds["activation"], LEFT)
    assert set(overlays(viewer)) == {"heatmap"}
    qtbot.mouseClick(explorer.kinds["activation"], LEFT)
    # What a person deletes stays away.
    viewer.layers.remove(overlays(viewer)["heatmap"])
    assert not explorer.kinds["heatmap"].isChecked()
    explorer.table.setFocus()
    qtbot.keyClick(explorer.table, Qt.Key.Key_Down)
    assert [x.metadata[TAG]["kind"] for x in outputs(viewer)] == ["activation"]


@pytest.mark.parametrize("same_contrast", [True, False])
def test_a_picture_is_cut_around_its_unit(explorer, small_run, same_contrast):
    units = small_run.result.activations.units
    # A crop away from the edges, so that the picture is centred on it.
    row = int(np.flatnonzero((units["y"] > 60) & (units["x"] > 60) & (units["field"] == 1))[0])
    y, x = int(units["y"][row] - 22), int(units["x"][row] - 22)
    crop = small_run.fields[1].read()[0].astype(float)[y : y + 45, x : x + 45]
    # Black and white of all pictures are those of both sides.
    pixels = [f.read() for f in small_run.fields]
    low, high = np.percentile(pixels, [0.5, 99.8]) if same_contrast else (crop.min(), crop.max())
    expected = np.clip((crop - low) / (high - low), 0, 1) ** 0.6 * 255
    choice = PictureChoice(same_contrast=same_contrast)
    found = explorer.session.run.current.pictures.picture(row, choice)
    np.testing.assert_allclose(found, expected, atol=1)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("missing/a.csv", "Could not save"), ("a.xlsx", "neither CSV nor Parquet")],
)
def test_a_table_that_cannot_be_saved_is_said(
    explorer, qtbot, tmp_path, pick, told, name, sentence
):
    pick(tmp_path / name)
    click_save(explorer, "concepts", qtbot)
    assert sentence in told[0]
    assert list(tmp_path.iterdir()) == []


def test_a_reopened_explorer_shows_the_same_run(viewer, explorer, qtbot):
    names = shown_names(explorer)
    viewer.window.remove_dock_widget(explorer)
    explorer.session.view.show_concept(3)
    again = open_explorer(viewer)
    assert again is not explorer
    assert shown_names(again) == names
    assert session_of(viewer.__wrapped__) is again.session


def test_activations_go_to_a_folder_and_come_back_without_images(
    explorer, activations, open_viewer, qtbot, pick, told, tmp_path
):
    folder = pick(tmp_path / "activations")
    click_save(explorer, "folder", qtbot)
    assert told == [f"Saved to {folder}."]

    viewer = open_viewer()
    # It shows the session too, and must not look for figures of a run that was not made here.
    open_workflow(viewer)
    other = open_explorer(viewer)
    qtbot.mouseClick(other.open_button, LEFT)
    qtbot.waitUntil(lambda: other.session.run.current is not None)
    assert shown_names(other) == shown_names(explorer)
    assert "without its images" in other.message.text()
    assert not any(box.isEnabled() for box in other.kinds.values())
    other.table.setFocus()
    qtbot.keyClick(other.table, Qt.Key.Key_Down)
    concept = other.session.view.concept
    assert concept == activations.ranking.index[1]
    # Every tab is looked at; what needs images says so or shows numbers alone.
    for number in range(other.tabs.count()):
        other.tabs.setCurrentIndex(number)
        qtbot.wait(200)
    other.plots.kind.setCurrentIndex(other.plots.kind.findData("channels"))
    other.tabs.setCurrentWidget(other.plots)
    assert "not open" in other.plots.plot.canvas.figure.axes[0].get_title()
    other.tabs.setCurrentWidget(other.gallery)
    rows = shown_units(other.gallery.list)
    codes = activations.codes.toarray()[:, concept]
    assert codes[rows].tolist() == sorted(codes, reverse=True)[:16]
    other.selection.select([rows[0]])
    assert other.cell.concepts.count() == len(activations.concepts_of(rows[0])[0])
    other.go_to_unit(rows[0])
    assert told[-1].endswith("is not open.")
    pick(tmp_path / "heatmap.tif")
    click_save(other, "heatmap", qtbot)
    assert "no heatmap" in told[-1]
    assert not (tmp_path / "heatmap.tif").exists()


def test_a_folder_that_holds_no_activations_is_said(explorer, qtbot, pick, tmp_path):
    run = explorer.session.run.current
    messages: list[str] = []
    pick(tmp_path)
    explorer.open_button.jobs.failed.connect(messages.append)
    qtbot.mouseClick(explorer.open_button, LEFT)
    qtbot.waitUntil(lambda: bool(messages))
    assert "activations.json is missing" in messages[0]
    assert explorer.session.run.current is run
    assert explorer.open_button.isEnabled()


def test_a_table_too_large_for_text_gets_a_few_concepts(explorer, qtbot, pick, told, tmp_path):
    explorer.save_button.most_numbers = 1000
    path = pick(tmp_path / "cells.csv")
    click_save(explorer, "units", qtbot)
    assert "Of 24 concepts the table gets 20" in told[0]
    columns = pd.read_csv(path).columns
    assert sum(c.startswith("activation_") for c in columns) == 20
