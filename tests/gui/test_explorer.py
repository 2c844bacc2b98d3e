"""The explorer dock in a real viewer, driven by clicks and keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from matplotlib.image import imread
from qtpy.QtCore import QPoint, Qt

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.concepts.painting import grid_to_pixels
from napari_microdl.gui.dock import session_of
from napari_microdl.gui.explorer.concept_table import HEADINGS
from napari_microdl.gui.explorer.dock import ConceptExplorer
from napari_microdl.gui.explorer.gallery import picture_of
from napari_microdl.gui.overlays.picking import camera_of
from napari_microdl.gui.session.layers import TAG

from .clicks import click_entry
from .conftest import SIZE
from .steps import LEFT, overlays, shown_names


def test_concepts_are_listed_best_first(explored, small_run):
    _, explorer = explored
    ranking = small_run.result.activations.ranking
    assert explorer.message.isHidden()
    assert shown_names(explorer) == ranking["name"].tolist()
    proxy = explorer.table.proxy
    best = ranking.iloc[0]
    shown = {h: proxy.index(0, c).data() for c, h in enumerate(HEADINGS)}
    assert shown == {
        "#": "1",
        "Name": best["name"],
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
        "Group": "",
        "Flag": "",
        "Tag": "",
    }


def test_flagged_concepts_are_hidden_by_a_click(explored, qtbot):
    _, explorer = explored
    activations = explorer.session.run.current.result.activations
    before = activations.ranking
    ranking = before.copy()
    ranking.loc[ranking.index[2], "dead"] = True
    activations.ranking = ranking
    try:
        explorer.session.run.changed.emit()
        everything = shown_names(explorer)
        box = explorer.hide_flagged
        qtbot.mouseClick(box, LEFT, pos=QPoint(8, box.height() // 2))
        flagged = ranking["dead"] | (ranking["duplicate_of"] >= 0)
        assert shown_names(explorer) == ranking["name"][~flagged].tolist()
        qtbot.mouseClick(box, LEFT, pos=QPoint(8, box.height() // 2))
        assert shown_names(explorer) == everything
    finally:
        # The run is shared by all tests.
        activations.ranking = before


def test_arrow_keys_switch_the_overlay(explored, small_run, qtbot):
    viewer, explorer = explored
    order = small_run.result.activations.ranking.index
    layer = overlays(viewer)["activation"]
    explorer.table.setFocus()
    for concept in order[1:4]:
        before = layer.data.copy()
        qtbot.keyClick(explorer.table, Qt.Key.Key_Down)
        assert layer.metadata[TAG]["concept"] == concept
        assert not np.array_equal(layer.data, before, equal_nan=True)
    qtbot.keyClick(explorer.table, Qt.Key.Key_Up)
    assert layer.metadata[TAG]["concept"] == order[2]


def test_sorting_compares_numbers_and_filtering_keeps_the_rest(explored, qtbot):
    _, explorer = explored
    everything = shown_names(explorer)
    column = HEADINGS.index("AUC")
    explorer.table.sortByColumn(column, Qt.SortOrder.DescendingOrder)
    proxy = explorer.table.proxy
    aucs = [float(proxy.index(row, column).data()) for row in range(proxy.rowCount())]
    assert aucs == sorted(aucs, reverse=True)
    qtbot.keyClicks(explorer.filter, everything[3])
    assert everything[3] in shown_names(explorer)
    assert len(shown_names(explorer)) < len(everything)


def test_overlay_switches_add_and_remove_layers(explored, qtbot):
    viewer, explorer = explored
    qtbot.mouseClick(explorer.kinds["heatmap"], LEFT)
    assert set(overlays(viewer)) == {"heatmap", "activation"}
    qtbot.mouseClick(explorer.kinds["activation"], LEFT)
    assert set(overlays(viewer)) == {"heatmap"}
    viewer.layers.remove(overlays(viewer)["heatmap"])
    assert not explorer.kinds["heatmap"].isChecked()


def test_a_name_travels_to_table_layer_and_dictionary(explored, small_run):
    viewer, explorer = explored
    best = int(small_run.result.activations.ranking.index[0])
    old = small_run.result.dictionary.names[best]
    proxy = explorer.table.proxy
    try:
        assert proxy.setData(proxy.index(0, 1), "bright spots")
        assert small_run.result.dictionary.names[best] == "bright spots"
        assert shown_names(explorer)[0] == "bright spots"
        assert "bright spots" in overlays(viewer)["activation"].name
        assert not proxy.setData(proxy.index(0, 1), "  ")
    finally:
        explorer.session.run.rename_concept(best, old)


def test_the_gallery_shows_the_extremes_and_a_click_goes_there(explored, small_run, qtbot):
    viewer, explorer = explored
    bar = explorer.tabs.tabBar()
    qtbot.mouseClick(bar, LEFT, pos=bar.tabRect(1).center())
    activations = small_run.result.activations
    best = int(activations.ranking.index[0])
    for sign, view in explorer.gallery.lists.items():
        rows = [view.item(i).data(Qt.ItemDataRole.UserRole) for i in range(view.count())]
        assert rows == activations.top_units(best, 10, sign).tolist()
    view = explorer.gallery.lists[1]
    place = view.visualItemRect(view.item(1)).center()
    qtbot.mouseClick(view.viewport(), LEFT, pos=QPoint(place.x(), place.y()))
    unit = activations.units.iloc[int(activations.top_units(best, 2)[1])]
    assert viewer.layers.selection.active.name == unit["Metadata_Field"]
    np.testing.assert_allclose(camera_of(viewer).center[-2:], (unit["y"], unit["x"]))
    assert overlays(viewer)["activation"].metadata[TAG]["field"] == unit["field"]


def test_a_picture_is_cut_around_its_unit_in_the_contrast_of_its_layer(explored, small_run):
    _, explorer = explored
    units = small_run.result.activations.units
    # A crop away from the edges, so that the picture is centred on it.
    row = int(np.flatnonzero((units["y"] > 60) & (units["x"] > 60) & (units["field"] == 1))[0])
    y, x = int(units["y"][row] - 22), int(units["x"][row] - 22)
    data = small_run.fields[1].read()[0].astype(float)
    low, high = explorer.session.run.current.sources[1].layer().contrast_limits
    expected = np.clip((data - low) / (high - low), 0, 1)[y : y + 45, x : x + 45] ** 0.6 * 255
    np.testing.assert_allclose(picture_of(explorer.session.run.current, row, 0), expected, atol=1)


def choose_file(monkeypatch: pytest.MonkeyPatch, path: Any) -> None:
    """What the file dialog, which no test can click, would return."""
    monkeypatch.setattr(
        "napari_microdl.gui.explorer.saving.QFileDialog.getSaveFileName", lambda *_: (str(path), "")
    )


def click_save(qtbot: Any, explorer: ConceptExplorer, entry: str) -> None:
    """Click an entry of the menu and wait until it is saved."""
    button = explorer.save_button
    click_entry(button, button.entries[entry])
    qtbot.waitUntil(lambda: not button.jobs.is_running)


def test_plot_and_tables_are_saved(explored, small_run, qtbot, monkeypatch, tmp_path):
    _, explorer = explored

    def save(entry: str, name: str) -> Any:
        choose_file(monkeypatch, tmp_path / name)
        click_save(qtbot, explorer, entry)
        return tmp_path / name

    assert imread(save("plot", "plot.png")).shape[2] == 4
    assert "<svg" in save("plot", "plot.svg").read_text()
    table = pd.read_csv(save("concepts", "concepts.csv"))
    assert table["concept"].tolist() == small_run.result.activations.ranking.index.tolist()
    cells = pd.read_csv(save("units", "cells.csv"))
    assert len(cells) == len(small_run.result.activations.units)
    assert {"Metadata_condition", "y", "x", "activation_0"} <= set(cells)
    compared = pd.read_csv(save("comparison", "comparison.csv"))
    assert compared["name"].tolist() == small_run.result.dictionary.names
    heatmap = tifffile.imread(save("heatmap", "heatmap.tif"))
    field = explorer.overlays.field_of(explorer.viewer.layers.selection.active)
    grid = small_run.result.activations.heatmap(field, explorer.session.view.concept)
    np.testing.assert_array_equal(heatmap, grid_to_pixels(grid, 8, (SIZE, SIZE)))
    loaded = ConceptDictionary.load(save("dictionary", "mine.microdl.safetensors"))
    assert loaded.names == small_run.result.dictionary.names


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("missing/a.csv", "Could not save"), ("a.xlsx", "neither CSV nor Parquet")],
)
def test_a_table_that_cannot_be_saved_is_said(
    explored, qtbot, tmp_path, monkeypatch, name, sentence
):
    _, explorer = explored
    messages: list[str] = []
    monkeypatch.setattr("napari_microdl.gui.explorer.saving.show_info", messages.append)
    choose_file(monkeypatch, tmp_path / name)
    click_save(qtbot, explorer, "concepts")
    assert sentence in messages[0]
    assert list(tmp_path.iterdir()) == []


def test_it_fits_a_small_laptop_screen(explored):
    _, explorer = explored
    assert explorer.minimumSizeHint().width() <= 400
    assert explorer.minimumSizeHint().height() <= 500


def test_a_reopened_explorer_shows_the_same_run(explored, qtbot):
    viewer, explorer = explored
    names = shown_names(explorer)
    viewer.window.remove_dock_widget(explorer)
    explorer.session.view.show_concept(3)
    _, again = viewer.window.add_plugin_dock_widget("napari-microdl", "Concept explorer")
    assert again is not explorer
    assert shown_names(again) == names
    assert session_of(viewer.__wrapped__) is again.session


def test_activations_go_to_a_folder_and_come_back_without_images(
    explored, small_run, open_viewer, qtbot, monkeypatch, tmp_path
):
    _, explorer = explored
    folder = tmp_path / "activations"
    messages: list[str] = []
    monkeypatch.setattr("napari_microdl.gui.explorer.saving.show_info", messages.append)
    monkeypatch.setattr(
        "napari_microdl.gui.explorer.saving.QFileDialog.getSaveFileName",
        lambda *_, **__: (str(folder), ""),
    )
    click_entry(explorer.save_button, explorer.save_button.entries["folder"])
    qtbot.waitUntil(lambda: messages == [f"Saved to {folder}."])

    viewer = open_viewer()
    # It shows the session too, and must not look for figures of a run that was not made here.
    viewer.window.add_plugin_dock_widget("napari-microdl", "Concept workflow")
    _, other = viewer.window.add_plugin_dock_widget("napari-microdl", "Concept explorer")
    monkeypatch.setattr(
        "napari_microdl.gui.explorer.saving.QFileDialog.getExistingDirectory",
        lambda *_: str(folder),
    )
    qtbot.mouseClick(other.open_button, LEFT)
    qtbot.waitUntil(lambda: other.session.run.current is not None)
    assert shown_names(other) == shown_names(explorer)
    assert "without its images" in other.message.text()
    assert not any(box.isEnabled() for box in other.kinds.values())
    other.table.setFocus()
    qtbot.keyClick(other.table, Qt.Key.Key_Down)
    concept = other.session.view.concept
    assert concept == small_run.result.activations.ranking.index[1]
    # Every tab is looked at; what needs images says so or shows numbers alone.
    for number in range(other.tabs.count()):
        other.tabs.setCurrentIndex(number)
        qtbot.wait(200)
    other.plots.kind.setCurrentIndex(other.plots.kind.findData("channels"))
    other.tabs.setCurrentWidget(other.plots)
    assert "not open" in other.plots.plot.canvas.figure.axes[0].get_title()
    other.tabs.setCurrentWidget(other.gallery)
    expected = small_run.result.activations
    rows = [
        other.gallery.lists[1].item(i).data(Qt.ItemDataRole.UserRole)
        for i in range(other.gallery.lists[1].count())
    ]
    assert rows == expected.top_units(concept, 10).tolist()
    other.selection.select([rows[0]])
    assert other.cell.concepts.count() == len(expected.concepts_of(rows[0])[0])
    monkeypatch.setattr("napari_microdl.gui.explorer.dock.show_info", messages.append)
    other.go_to_unit(rows[0])
    assert messages[-1].endswith("is not open.")
    choose_file(monkeypatch, tmp_path / "heatmap.tif")
    click_entry(other.save_button, other.save_button.entries["heatmap"])
    assert "no heatmap" in messages[-1]
    assert not (tmp_path / "heatmap.tif").exists()


def test_a_folder_that_holds_no_activations_is_said(explored, qtbot, monkeypatch, tmp_path):
    _, explorer = explored
    run = explorer.session.run.current
    messages: list[str] = []
    monkeypatch.setattr(
        "napari_microdl.gui.explorer.saving.QFileDialog.getExistingDirectory",
        lambda *_: str(tmp_path),
    )
    explorer.open_button.jobs.failed.connect(messages.append)
    qtbot.mouseClick(explorer.open_button, LEFT)
    qtbot.waitUntil(lambda: bool(messages))
    assert "activations.json is missing" in messages[0]
    assert explorer.session.run.current is run
    assert explorer.open_button.isEnabled()


def test_a_table_too_large_for_text_gets_a_few_concepts(explored, qtbot, monkeypatch, tmp_path):
    _, explorer = explored
    messages: list[str] = []
    monkeypatch.setattr("napari_microdl.gui.explorer.saving.show_info", messages.append)
    explorer.save_button.most_numbers = 1000
    choose_file(monkeypatch, tmp_path / "cells.csv")
    click_save(qtbot, explorer, "units")
    assert "Of 24 concepts the table gets 20" in messages[0]
    columns = pd.read_csv(tmp_path / "cells.csv").columns
    assert sum(c.startswith("activation_") for c in columns) == 20
