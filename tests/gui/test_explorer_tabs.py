"""Tabs of the explorer, driven by clicks on real plots and buttons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from qtpy.QtCore import Qt

from napari_microdl.concepts.painting import channel_correlations, outlines_of
from napari_microdl.gui.explorer.plot_panel import KINDS
from napari_microdl.metrics import tag_recall
from napari_microdl.report.concept_figures import volcano_places

from .clicks import click_choice
from .steps import LEFT, open_tab, pixel_of


@pytest.mark.parametrize("kind", ["conditions", "wells", "channels", "cosines"])
def test_every_plot_shows_the_concept(explored, small_run, qtbot, kind):
    _, explorer = explored
    qtbot.waitUntil(explorer.plots.plot.has_contents)
    click_choice(explorer.plots.kind, KINDS[kind][0])
    axes = explorer.plots.plot.canvas.figure.axes[0]
    activations, concept = small_run.result.activations, explorer.session.view.concept
    assert activations.dictionary.names[concept] in axes.get_title()
    assert explorer.plots.label.isHidden() == (kind != "cosines")
    if kind == "wells":
        means = sorted(line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o")
        wells = activations.units["Metadata_Well"]
        expected = [activations.alignment(concept)[wells == w].mean() for w in set(wells)]
        np.testing.assert_allclose(means, sorted(expected), rtol=1e-5)
    elif kind == "channels":
        (bar,) = axes.patches
        field = explorer.overlays.field_of(explorer.viewer.layers.selection.active)
        grid = activations.heatmap(field, concept)
        expected = channel_correlations(grid, small_run.fields[field].read(), 8)
        assert bar.get_width() == pytest.approx(expected[0])
    elif kind == "cosines":
        # Each histogram sums to one.
        heights = np.array([p.get_height() for p in axes.patches]).reshape(2, -1).sum(axis=1)
        np.testing.assert_allclose(heights, 1)


def test_a_click_in_the_comparison_chooses_the_concept(explored, small_run, qtbot):
    _, explorer = explored
    open_tab(explorer, explorer.compare, qtbot)
    plot = explorer.compare.plot
    qtbot.waitUntil(plot.has_contents)
    controls = small_run.result.activations.units.query("Metadata_control")["Metadata_condition"]
    assert explorer.compare.first.currentText() == controls.iloc[0]
    compared = small_run.result.activations.compare(
        explorer.compare.first.currentText(), explorer.compare.second.currentText()
    )
    # By wells, of which there are two a side, hardly any two concepts differ.
    explorer.compare.by.setCurrentText("by cells")
    places = volcano_places(compared)
    # The most extreme concept stands apart from the others.
    target = int(np.argmin(places[:, 0]))
    assert explorer.session.view.concept != target
    qtbot.mouseClick(plot.canvas, LEFT, pos=pixel_of(plot, places[target]))
    chosen = explorer.session.view.concept
    np.testing.assert_allclose(places[chosen], places[target])
    assert explorer.table.selected_concepts() == [chosen]


def test_the_comparison_is_by_wells_where_there_are_any(explored, small_run, qtbot, monkeypatch):
    _, explorer = explored
    open_tab(explorer, explorer.compare, qtbot)
    plot = explorer.compare.plot
    qtbot.waitUntil(plot.has_contents)
    compared = explorer.compare.comparison()

    def highest() -> float:
        axes = plot.canvas.figure.axes[0]
        points = [c.get_offsets() for c in axes.collections if len(c.get_offsets())]
        return float(np.concatenate(points)[:, 1].max())

    assert "(wells)" in plot.canvas.figure.axes[0].get_ylabel()
    assert highest() == pytest.approx(-np.log10(compared["q_wells"].min()))
    explorer.compare.by.setFocus()
    qtbot.keyClick(explorer.compare.by, Qt.Key.Key_Down)
    assert "(cells)" in plot.canvas.figure.axes[0].get_ylabel()
    assert highest() == pytest.approx(-np.log10(compared["q_cells"].min()))
    explorer.compare.by.setCurrentText("by wells")
    # One well a condition.
    explorer.compare._compared["q_wells"] = np.nan
    explorer.compare.show_concept(explorer.session.run.current, explorer.session.view.concept)
    assert "takes two wells of each condition" in explorer.compare.message.text()
    assert "(cells)" in plot.canvas.figure.axes[0].get_ylabel()


def rings(plot: Any) -> np.ndarray:
    """Places that are ringed in the map."""
    open_points = [c for c in plot.canvas.figure.axes[0].collections if not len(c.get_facecolor())]
    return open_points[0].get_offsets() if open_points else np.empty((0, 2))


def test_what_was_selected_elsewhere_is_ringed_when_the_map_is_looked_at(explored, qtbot):
    _, explorer = explored
    open_tab(explorer, explorer.map, qtbot)
    plot = explorer.map.plot
    qtbot.waitUntil(plot.has_contents)
    assert not len(rings(plot))
    open_tab(explorer, explorer.cell, qtbot)
    explorer.selection.select([5])
    open_tab(explorer, explorer.map, qtbot)
    np.testing.assert_allclose(rings(plot), plot._places[[5]])
    assert "1 crop selected" in explorer.map.message.text()


@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
def test_a_lasso_in_a_umap_selects_the_units_inside(explored, small_run, qtbot):
    pytest.importorskip("umap")
    _, explorer = explored
    open_tab(explorer, explorer.map, qtbot)
    plot = explorer.map.plot
    qtbot.waitUntil(plot.has_contents)
    explorer.map.method.setFocus()
    qtbot.keyClick(explorer.map.method, Qt.Key.Key_Down)
    # UMAP is compiled when it is first used.
    qtbot.waitUntil(lambda: plot._title == "UMAP of activations")
    # Axes find their place when they are drawn.
    plot.canvas.draw()
    places = plot._places
    assert np.isfinite(places).all()
    # A line that begins beside the axes is none, and how far a map reaches is not known before.
    axes = plot.canvas.figure.axes[0]
    limits = np.array([axes.get_xlim(), axes.get_ylim()])
    rim = 0.01 * np.ptp(limits, axis=1)
    low, high = limits[:, 0] + rim, limits[:, 1] - rim
    middle = float(np.median(places[:, 0]))
    corners = [low, (middle, low[1]), (middle, high[1]), (low[0], high[1])]
    pixels = [pixel_of(plot, corner) for corner in corners]
    qtbot.mousePress(plot.canvas, LEFT, pos=pixels[0])
    for pixel in [*pixels[1:], pixels[0]]:
        qtbot.mouseMove(plot.canvas, pixel)
    qtbot.mouseRelease(plot.canvas, LEFT, pos=pixels[0])
    selected = np.isin(np.arange(len(places)), explorer.selection.rows)
    margin = 0.02 * (high[0] - low[0])
    clear = np.abs(places[:, 0] - middle) > margin
    # Points on the rim of the axes may lie outside of what a mouse can reach.
    inner = clear & (np.abs(places - (low + high) / 2) < 0.45 * (high - low)).all(axis=1)
    assert inner.sum() > 20
    np.testing.assert_array_equal(selected[inner], places[inner, 0] < middle)


def test_a_condition_against_itself_is_said(explored, qtbot):
    _, explorer = explored
    open_tab(explorer, explorer.compare, qtbot)
    click_choice(explorer.compare.second, explorer.compare.first.currentText())
    qtbot.waitUntil(lambda: "two different conditions" in explorer.compare.message.text())
    assert explorer.compare.plot.isHidden()


def test_a_lasso_selects_the_units_inside(explored, qtbot):
    _, explorer = explored
    open_tab(explorer, explorer.map, qtbot)
    plot = explorer.map.plot
    qtbot.waitUntil(plot.has_contents)
    places = plot._places
    low, high = np.quantile(places, 0.2, axis=0), np.quantile(places, 0.8, axis=0)
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    canvas = plot.canvas
    pixels = [pixel_of(plot, corner) for corner in corners]
    qtbot.mousePress(canvas, LEFT, pos=pixels[0])
    for pixel in [*pixels[1:], pixels[0]]:
        qtbot.mouseMove(canvas, pixel)
    qtbot.mouseRelease(canvas, LEFT, pos=pixels[0])
    selected = set(explorer.selection.rows.tolist())
    # Pixels are whole, so units on the line may fall either way.
    margin = 0.02 * (high - low)
    grown, shrunk = (
        np.array(corners) + sign * margin * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        for sign in (1, -1)
    )
    assert set(np.flatnonzero(Outline(shrunk).contains_points(places))) <= selected
    assert selected <= set(np.flatnonzero(Outline(grown).contains_points(places)))
    assert selected
    qtbot.mouseClick(explorer.map.clear_button, LEFT)
    assert not len(explorer.selection.rows)


def test_tags_of_units_give_a_recall(explored, small_run, qtbot):
    _, explorer = explored
    activations = small_run.result.activations
    control = activations.units["Metadata_control"].to_numpy()
    open_tab(explorer, explorer.tags, qtbot)
    try:
        for rows, tag in ((control, "control-like"), (~control, "perturbed")):
            explorer.selection.select(np.flatnonzero(rows))
            qtbot.mouseClick(explorer.tags.unit_buttons[tag], LEFT)
        found = tag_recall(activations.alignment(explorer.session.view.concept), control, ~control)
        text = explorer.tags.recall.text()
        assert f"{found.recalled} of {control.sum()} control-like cells" in text
        assert f"p = {found.p_value:.2g}" in text
        assert set(activations.to_frame([])["Metadata_tag"]) == {"control-like", "perturbed"}
        qtbot.mouseClick(explorer.tags.unit_buttons[""], LEFT)
        assert "0 perturbed; tag at least one of each" in explorer.tags.recall.text()
    finally:
        activations.unit_tags[:] = ""


def test_tags_and_notes_of_concepts_go_into_the_dictionary(explored, small_run, qtbot):
    _, explorer = explored
    dictionary = small_run.result.dictionary
    open_tab(explorer, explorer.tags, qtbot)
    qtbot.wait(200)
    concept = explorer.session.view.concept
    try:
        explorer.table.setFocus()
        qtbot.keyClick(explorer.table, Qt.Key.Key_Down, Qt.KeyboardModifier.ShiftModifier)
        chosen = explorer.table.selected_concepts()
        assert len(chosen) == 2
        qtbot.mouseClick(explorer.tags.concept_buttons["perturbed"], LEFT)
        assert [i for i, tag in enumerate(dictionary.tags) if tag] == sorted(chosen)
        qtbot.keyClicks(explorer.filter, "perturbed")
        assert explorer.table.proxy.rowCount() == 2
        explorer.session.view.show_concept(concept)
        qtbot.wait(200)
        explorer.tags.note.setFocus()
        qtbot.keyClicks(explorer.tags.note, "seen in spots")
        qtbot.keyClick(explorer.tags.note, Qt.Key.Key_Return)
        assert dictionary.notes[concept] == "seen in spots"
    finally:
        dictionary.tags[:] = [""] * dictionary.n_concepts
        dictionary.notes[:] = [""] * dictionary.n_concepts


def test_outlines_enclose_the_most_aligned_patches_of_the_unit(small_run):
    activations = small_run.result.activations
    concept = int(activations.ranking.index[0])
    row = int(activations.top_units(concept, 1)[0])
    lines = outlines_of(activations, row, concept, 1)
    field = int(activations.units["field"][row])
    place = row - int(activations.rows_of_field(field)[0])
    grid = activations.heatmap(field, concept)
    touched = activations.geometry[field].weights[[place]].toarray().reshape(grid.shape) > 0
    chosen = touched & (grid >= 0.7 * grid[touched].max())
    # Every edge between a chosen patch and another is one line of eight pixels.
    padded = np.pad(chosen, 1)
    edges = sum(int((np.diff(padded.astype(int), axis=a) != 0).sum()) for a in (0, 1))
    assert len(lines) == edges > 0
    assert set(np.abs(lines[:, 2:] - lines[:, :2]).sum(axis=1)) == {8}


def test_plots_follow_the_theme(explored, qtbot):
    viewer, explorer = explored
    qtbot.waitUntil(explorer.plots.plot.has_contents)
    shades = {}
    for theme in ("dark", "light"):
        viewer.theme = theme
        shades[theme] = np.mean(explorer.plots.plot.canvas.figure.get_facecolor()[:3])
    assert shades["dark"] < 0.3 < 0.7 < shades["light"]


def test_two_viewers_keep_their_concepts_apart(explored, open_viewer, qtbot):
    _, explorer = explored
    other = open_viewer()
    _, second = other.window.add_plugin_dock_widget("napari-microdl", "Concept explorer")
    assert second.session is not explorer.session
    assert second.selection is not explorer.selection
    explorer.selection.select([1])
    assert not len(second.selection.rows)
    assert second.table.proxy.rowCount() == 0
    assert explorer.table.proxy.rowCount() == 24
    assert not second.message.isHidden()
    assert explorer.message.isHidden()
