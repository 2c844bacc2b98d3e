"""Tabs of the explorer, driven by clicks on real plots and buttons."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel

from napari_microdl.concepts.concept_set import choose_concepts
from napari_microdl.concepts.painting import channel_correlations, outlines_of
from napari_microdl.gui.explorer.concept_table import TAG
from napari_microdl.gui.explorer.plot_panel import KINDS
from napari_microdl.gui.explorer.rating import RateBlind
from napari_microdl.metrics import tag_recall
from napari_microdl.report.concept_figures import volcano_places
from napari_microdl.report.rating import units_to_rate

from .clicks import click_choice
from .steps import (
    LEFT,
    choose_umap,
    click_item,
    lasso,
    open_plot,
    open_tab,
    overlays,
    pixel_of,
    rings,
    shown_units,
)


def test_concepts_that_tell_a_condition_together_are_shown_as_one(cell_explorer, qtbot):
    explorer, activations = cell_explorer, cell_explorer.session.run.current.result.activations
    panel, alone = explorer.together, explorer.session.view.concept
    explorer.session.view.show(kinds=["heatmap", "activation"])
    open_tab(explorer, panel, qtbot)
    qtbot.waitUntil(lambda: panel.found is not None)
    both, label = panel.found, panel.label.currentText()
    assert both == choose_concepts(activations, label)
    # Chosen anew by cosines alone, which here takes more of them.
    click_choice(panel.by, "cosines")
    qtbot.waitUntil(lambda: panel.found not in (None, both))
    found = panel.found
    assert found == choose_concepts(activations, label, by="cosines")
    assert len(found.concepts) > 1
    assert f"AUC of {found.auc:.2f}" in panel.message.text()
    shares = [
        f"{share:.0%}  {activations.dictionary.names[concept]}"
        for concept, share in zip(found.concepts, found.shares, strict=True)
    ]
    assert [panel.members.item(n).text() for n in range(panel.members.count())] == [
        "All together",
        *shares,
    ]
    assert shown_units(panel.pictures)[0] == np.argmax(activations.alignment(found))

    click_item(qtbot, panel.members, panel.members.item(0))
    assert explorer.session.view.concept == found
    field = explorer.overlays.field_of(explorer.viewer.layers.selection.active)
    shown = overlays(explorer.viewer)
    heat = activations.heat.compared(field, found)
    np.testing.assert_array_equal(shown["heatmap"].data, heat)
    assert activations.name_of(found) in shown["activation"].name
    assert not explorer.table.selected_concepts()
    # The other tabs follow; a note is of one concept.
    assert (
        activations.name_of(found)
        in open_plot(explorer, explorer.plots, qtbot).canvas.figure.axes[0].get_title()
    )
    open_tab(explorer, explorer.tags, qtbot)
    assert not explorer.tags.note.isEnabled()
    # Back to the one that was shown before.
    explorer.table.select(alone)
    assert explorer.session.view.concept == alone
    assert explorer.table.selected_concepts() == [alone]


@pytest.mark.parametrize("kind", ["conditions", "wells", "channels", "cosines"])
def test_every_plot_shows_the_concept(explorer, activations, small_run, qtbot, kind):
    qtbot.waitUntil(explorer.plots.plot.has_contents)
    click_choice(explorer.plots.kind, KINDS[kind][0])
    axes = explorer.plots.plot.canvas.figure.axes[0]
    concept = explorer.session.view.concept
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


def test_a_click_in_the_comparison_chooses_the_concept(explorer, activations, qtbot):
    plot = open_plot(explorer, explorer.compare, qtbot)
    controls = activations.units.query("Metadata_control")["Metadata_condition"]
    assert explorer.compare.first.currentText() == controls.iloc[0]
    compared = activations.compare(*explorer.compare.chosen)
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


def test_the_comparison_is_by_wells_where_there_are_several_of_a_condition(explorer, qtbot):
    plot = open_plot(explorer, explorer.compare, qtbot)
    assert "(wells)" in plot.canvas.figure.axes[0].get_ylabel()
    # Of six ways to choose two wells of four, two are as extreme as can be.
    limit = "2 wells against 2: no p can be below 0.33, however large the effect."
    assert explorer.compare.message.text() == limit
    # One well a condition.
    explorer.compare._compared["q_wells"] = np.nan
    explorer.compare.show_concept(explorer.session.run.current, explorer.session.view.concept)
    assert explorer.compare.message.text().startswith("By cells")
    assert "(cells)" in plot.canvas.figure.axes[0].get_ylabel()


def test_what_was_selected_elsewhere_is_ringed_when_the_map_is_looked_at(explorer, qtbot):
    plot = open_plot(explorer, explorer.map, qtbot)
    assert not len(rings(plot))
    open_tab(explorer, explorer.cell, qtbot)
    explorer.selection.select([5])
    open_tab(explorer, explorer.map, qtbot)
    np.testing.assert_allclose(rings(plot), plot._places[[5]])
    assert "1 crop selected" in explorer.map.message.text()


def test_a_lasso_in_a_umap_selects_the_units_inside(explorer, qtbot):
    choose_umap(explorer, qtbot)
    plot = explorer.map.plot
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
    lasso(qtbot, plot, [low, (middle, low[1]), (middle, high[1]), (low[0], high[1])])
    selected = np.isin(np.arange(len(places)), explorer.selection.rows)
    margin = 0.02 * (high[0] - low[0])
    clear = np.abs(places[:, 0] - middle) > margin
    # Points on the rim of the axes may lie outside of what a mouse can reach.
    inner = clear & (np.abs(places - (low + high) / 2) < 0.45 * (high - low)).all(axis=1)
    assert inner.sum() > 20
    np.testing.assert_array_equal(selected[inner], places[inner, 0] < middle)


def test_tags_of_units_are_chosen_and_taken_away_by_clicks_and_give_a_recall(
    explorer, activations, qtbot
):
    control = activations.units["Metadata_control"].to_numpy()
    open_tab(explorer, explorer.tags, qtbot)
    assert not any(button.isEnabled() for button in explorer.tags.unit_buttons.values())
    expected = np.full(len(control), "", activations.unit_tags.dtype)
    for rows, tag in ((control, "control-like"), (~control, "perturbed")):
        explorer.selection.select(np.flatnonzero(rows))
        qtbot.mouseClick(explorer.tags.unit_buttons[tag], LEFT)
        expected[rows] = tag
        np.testing.assert_array_equal(activations.unit_tags, expected)
    found = tag_recall(activations.alignment(explorer.session.view.concept), control, ~control)
    text = explorer.tags.recall.text()
    assert f"{found.recalled} of {control.sum()} control-like cells" in text
    assert f"p = {found.p_value:.2g}" in text
    qtbot.mouseClick(explorer.tags.unit_buttons[""], LEFT)
    np.testing.assert_array_equal(activations.unit_tags, np.where(control, expected, ""))
    assert "0 perturbed; tag at least one of each" in explorer.tags.recall.text()


def test_tags_and_notes_of_concepts_go_into_the_dictionary(explorer, small_run, qtbot):
    dictionary, proxy = small_run.result.dictionary, explorer.table.proxy
    open_tab(explorer, explorer.tags, qtbot)
    qtbot.wait(200)
    concept = explorer.session.view.concept
    explorer.table.setFocus()
    qtbot.keyClick(explorer.table, Qt.Key.Key_Down, Qt.KeyboardModifier.ShiftModifier)
    chosen = explorer.table.selected_concepts()
    assert len(chosen) == 2
    for tag in ("control-like", "", "perturbed"):
        qtbot.mouseClick(explorer.tags.concept_buttons[tag], LEFT)
        assert dictionary.tags == [tag if i in chosen else "" for i in range(proxy.rowCount())]
        assert [proxy.index(row, TAG).data() for row in range(3)] == [tag, tag, ""]
    qtbot.keyClicks(explorer.filter, "perturbed")
    assert proxy.rowCount() == 2
    explorer.session.view.show_concept(concept)
    qtbot.wait(200)
    explorer.tags.note.setFocus()
    qtbot.keyClicks(explorer.tags.note, "seen in spots")
    qtbot.keyClick(explorer.tags.note, Qt.Key.Key_Return)
    assert dictionary.notes[concept] == "seen in spots"


def test_outlines_enclose_the_most_aligned_patches_of_the_unit(activations):
    concept = int(activations.ranking.index[0])
    row = int(activations.top_units(concept, 1)[0])
    lines = outlines_of(activations, row, concept, 1)
    field = int(activations.units["field"][row])
    place = row - int(activations.rows_of_field(field)[0])
    tokens = activations.grids[field].tokens
    dictionary = activations.dictionary
    flat = dictionary.whitening.project(tokens.reshape(-1, tokens.shape[-1]))
    grid = (flat @ dictionary.directions[concept]).reshape(tokens.shape[:2])
    touched = activations.geometry[field].weights[[place]].toarray().reshape(grid.shape) > 0
    chosen = touched & (grid >= 0.7 * grid[touched].max())
    # Every edge between a chosen patch and another is one line of eight pixels.
    padded = np.pad(chosen, 1)
    edges = sum(int((np.diff(padded.astype(int), axis=a) != 0).sum()) for a in (0, 1))
    assert len(lines) == edges > 0
    assert set(np.abs(lines[:, 2:] - lines[:, :2]).sum(axis=1)) == {8}


def test_cells_are_rated_by_two_keys_without_a_hint(explorer, activations, qtbot):
    open_tab(explorer, explorer.tags, qtbot)
    qtbot.mouseClick(explorer.tags.rate, LEFT)
    (window,) = explorer.tags.findChildren(RateBlind)
    qtbot.waitExposed(window)
    concept = explorer.session.view.concept
    active = activations.activation(concept) > 0
    rows = units_to_rate(activations, concept)
    units = activations.units.iloc[rows]
    for number, row in enumerate(rows.tolist()):
        assert window.sentence.text().endswith(f"{number + 1} of {len(rows)}")
        told = " ".join(x.text() for x in window.findChildren(QLabel)) + window.windowTitle()
        assert not any(name in told for name in units["Metadata_condition"])
        # All as the concept says but the first.
        says = active[row] if number else not active[row]
        qtbot.keyClick(window, Qt.Key.Key_Y if says else Qt.Key.Key_N)
    assert f"{len(rows) - 1} of {len(rows)} cells" in window.sentence.text()
    table = window.table()
    assert (table["rated"] == table["active"]).sum() == len(rows) - 1
    assert table["Metadata_Field"].tolist() == units["Metadata_Field"].tolist()
    window.close()
