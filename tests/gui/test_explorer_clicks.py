"""Every choice of the explorer by real clicks and keys, down to what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path
from napari.utils.theme import get_theme
from qtpy.QtCore import QPoint, QSize, Qt
from qtpy.QtGui import QImage
from qtpy.QtWidgets import QLineEdit

from napari_microdl.concepts.painting import outlines_of
from napari_microdl.concepts.pictures import PictureChoice
from napari_microdl.concepts.strength import N_BANDS, NONE, OPPOSITE
from napari_microdl.gui.explorer.concept_table import HEADINGS, NAME
from napari_microdl.gui.session.layers import TAG
from napari_microdl.gui.session.viewer_parts import camera_of

from .clicks import click_choice, write_in_editor, write_in_table
from .conftest import explore
from .steps import (
    LEFT,
    assert_outlined,
    click,
    click_cell,
    click_item,
    click_tick,
    covered,
    in_view,
    lasso,
    open_plot,
    open_tab,
    open_workflow,
    outputs,
    overlays,
    selection_outlines,
    shown_names,
    shown_units,
    switch_theme,
    tick,
)


def pixels(image: QImage) -> np.ndarray:
    """Red, green and blue of a picture, shape (height, width, 3)."""
    image = image.convertToFormat(QImage.Format.Format_RGBA8888)
    data = image.constBits()
    data.setsize(image.sizeInBytes())
    return np.array(data, np.uint8).reshape(image.height(), image.width(), 4)[..., :3]


def pictures(view: Any) -> list[np.ndarray]:
    """What a list of the gallery shows of each unit."""
    return [
        pixels(view.item(number).icon().pixmap(QSize(96, 96)).toImage())
        for number in range(view.count())
    ]


def most_common_shade(widget: Any) -> int:
    """Lightness of what most of a widget is painted in, from 0 to 255."""
    shades = pixels(widget.grab().toImage()).mean(axis=2).astype(int)
    return int(np.bincount(shades.ravel()).argmax())


def test_overlays_go_on_all_images_and_back_by_the_box(viewer, explorer, qtbot):
    viewer.layers.selection.active = explorer.session.run.current.sources[2].layer()

    def fields() -> list[int]:
        return sorted(x.metadata[TAG]["field"] for x in outputs(viewer))

    assert fields() == [2]
    click_choice(explorer.where, "on all images")
    assert fields() == [0, 1, 2, 3]
    click_choice(explorer.where, "on selected image")
    assert fields() == [2]


def test_cell_labels_make_a_layer_of_cells_that_tells_their_activation(
    viewer, cell_explorer, cell_run, qtbot
):
    explorer = cell_explorer
    box = explorer.kinds["cells"]
    assert box.text().replace("&", "") == "Cell labels"
    assert "cells" not in overlays(viewer)
    click_tick(qtbot, box)
    layer = overlays(viewer)["cells"]
    field = layer.metadata[TAG]["field"]
    activations = cell_run.result.activations
    assert type(layer).__name__ == "Labels"
    assert layer.contour == 1
    np.testing.assert_array_equal(layer.data, cell_run.result.labels[field])
    ids, values = activations.unit_values(field, explorer.session.view.concept)
    assert len(ids) > 3
    assert layer.features["index"].tolist() == ids.tolist()
    np.testing.assert_allclose(layer.features["activation"], values)
    # The next concept is told by the same layer.
    explorer.table.setFocus()
    qtbot.keyClick(explorer.table, Qt.Key.Key_Down)
    assert overlays(viewer)["cells"] is layer
    _, values = activations.unit_values(field, int(activations.ranking.index[1]))
    np.testing.assert_allclose(layer.features["activation"], values)
    click_tick(qtbot, box)
    assert "cells" not in overlays(viewer)


def drawn(explorer: Any, qtbot: Any) -> Any:
    """The list of pictures of the gallery, once they are drawn."""
    view = explorer.gallery.list
    qtbot.waitUntil(lambda: len(view.pictures) == view.count() > 0)
    return view


def test_the_gallery_shows_the_channels_that_are_chosen(cell_explorer, qtbot):
    explorer, run = cell_explorer, cell_explorer.session.run.current
    open_tab(explorer, explorer.gallery, qtbot)
    view = drawn(explorer, qtbot)
    rows, before = shown_units(view), pictures(view)
    assert len(rows) > 3
    grey = [run.pictures.picture(row, PictureChoice(c)) for row in rows[:1] for c in (0, 1)]
    assert not np.array_equal(*grey)
    for text, channel in (
        ("turned", 1),
        ("Composite", "composite"),
        ("Side by side", "side by side"),
    ):
        click_choice(explorer.gallery.channel, text)
        qtbot.waitUntil(lambda c=channel: view._shown.choice.channel == c)
        drawn(explorer, qtbot)
        assert shown_units(view) == rows
        for row, shown in zip(rows, view.pictures, strict=True):
            wanted = run.pictures.picture(row, PictureChoice(channel))
            np.testing.assert_array_equal(shown.pixels, wanted)
        for new, old in zip(pictures(view), before, strict=True):
            assert not np.array_equal(new, old)
    np.testing.assert_array_equal(view.pictures[0].pixels, np.concatenate(grey, axis=1))
    # Each picture has its own contrast where that is wanted.
    click_tick(qtbot, explorer.gallery.same_contrast)
    qtbot.waitUntil(lambda: not view._shown.choice.same_contrast)
    for shown in drawn(explorer, qtbot).pictures:
        for channel in np.hsplit(shown.pixels, 2):
            assert (channel.min(), channel.max()) == (0, 255)


def test_patches_that_make_a_unit_show_it_are_outlined_on_demand(explorer, activations, qtbot):
    open_tab(explorer, explorer.gallery, qtbot)
    assert not any(len(p.lines) for p in drawn(explorer, qtbot).pictures)
    click_tick(qtbot, explorer.gallery.patches)
    concept = explorer.session.view.concept
    outlined = 0
    for sign, key in ((1, Qt.Key.Key_Home), (-1, Qt.Key.Key_End)):
        qtbot.keyClick(explorer.gallery.band, key)
        view = explorer.gallery.list
        qtbot.waitUntil(lambda v=view, s=sign: v._shown.choice.patches and v._shown.sign == s)
        drawn(explorer, qtbot)
        for number, (row, picture) in enumerate(
            zip(shown_units(view), pictures(view), strict=True)
        ):
            # The photograph is grey, so what is coloured is a line: orange, or blue.
            red, blue = picture[..., 0].astype(int), picture[..., 2].astype(int)
            coloured = sign * (red - blue) > 60
            assert not (sign * (blue - red) > 60).any()
            lines = outlines_of(activations, row, concept, sign)
            assert coloured.any() == bool(len(lines))
            tip = view.item(number).toolTip()
            assert ("of its" in tip) == bool(len(lines))
            zoom = picture.shape[1] / view.pictures[number].pixels.shape[0]
            near = np.zeros(coloured.shape, bool)
            for x1, y1, x2, y2 in lines * zoom:
                middle = round((y1 + y2) / 2), round((x1 + x2) / 2)
                if max(middle) < picture.shape[0] and min(middle) >= 0:
                    around = tuple(slice(max(m - 2, 0), m + 3) for m in middle)
                    assert coloured[around].any()
                    outlined += 1
                top, bottom = sorted((round(y1), round(y2)))
                left, right = sorted((round(x1), round(x2)))
                near[max(top - 2, 0) : bottom + 3, max(left - 2, 0) : right + 3] = True
            assert not (coloured & ~near).any()
    assert outlined > 20


def test_the_gallery_goes_from_the_strongest_to_the_opposite_and_keys_go_there(
    viewer, explorer, activations, qtbot
):
    open_tab(explorer, explorer.gallery, qtbot)
    view, concept = drawn(explorer, qtbot), explorer.session.view.concept
    codes = activations.codes.toarray()[:, concept]
    seen = []
    for _ in range(N_BANDS):
        seen.append(shown_units(view))
        assert explorer.gallery.meaning.text()
        qtbot.keyClick(explorer.gallery.band, Qt.Key.Key_Right)
    assert codes[seen[0]].tolist() == sorted(codes, reverse=True)[:16]
    bands = [codes[rows].mean() for rows in seen[:NONE]]
    assert bands == sorted(bands, reverse=True)
    assert bands[0] > bands[-1] > 0
    assert not codes[seen[NONE]].any()
    assert seen[OPPOSITE] == activations.top_units(concept, 16, -1).tolist()
    # A click goes to a cell, and the arrow keys from there to the next.
    qtbot.keyClick(explorer.gallery.band, Qt.Key.Key_Home)
    drawn(explorer, qtbot)
    for number in (0, 1, 2, 1):
        if number:
            key = Qt.Key.Key_Left if explorer.selection.current == seen[0][2] else Qt.Key.Key_Right
            qtbot.keyClick(view, key)
        else:
            click_item(qtbot, view, view.item(0))
        unit = activations.units.iloc[seen[0][number]]
        assert viewer.layers.selection.active.name == unit["Metadata_Field"]
        np.testing.assert_allclose(camera_of(viewer).center[-2:], (unit["y"], unit["x"]))
        assert explorer.selection.current == seen[0][number]
        assert overlays(viewer)["activation"].metadata[TAG]["field"] == unit["field"]


def test_the_label_of_the_histograms_is_chosen_by_a_click(explorer, activations, qtbot):
    panel = explorer.plots
    qtbot.waitUntil(panel.plot.has_contents)
    click_choice(panel.kind, "One label against the rest")
    concept = explorer.session.view.concept
    conditions = activations.units["Metadata_condition"].to_numpy().astype(str)
    values = activations.alignment(concept)
    names = sorted(set(conditions))
    assert len(names) == 2
    for name in (*names, names[0]):
        click_choice(panel.label, name)
        axes = panel.plot.canvas.figure.axes[0]
        count = int((conditions == name).sum())
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert texts == [f"the rest ({len(values) - count:,})", f"{name} ({count:,})"]
        edges = np.histogram_bin_edges(values, 40)
        expected, _ = np.histogram(values[conditions == name], edges)
        heights = [bar.get_height() for bar in axes.patches[40:]]
        np.testing.assert_allclose(heights, expected / count)


@pytest.mark.parametrize(
    ("by", "no_name"), [("double click", ""), ("F2", "  ")], ids=["double click", "F2"]
)
def test_a_concept_is_renamed_in_the_table(viewer, explorer, small_run, qtbot, by, no_name):
    table, dictionary = explorer.table, small_run.result.dictionary
    qtbot.waitUntil(explorer.plots.plot.has_contents)
    best = explorer.session.view.concept
    if by == "F2":
        table.window().activateWindow()
        click_cell(qtbot, table, 0, NAME)
        qtbot.keyClick(table, Qt.Key.Key_F2)
        write_in_editor(qtbot, table, "bright spots")
    else:
        write_in_table(qtbot, table, 0, NAME, "bright spots")
    qtbot.waitUntil(lambda: dictionary.names[best] == "bright spots")
    assert shown_names(explorer)[0] == "bright spots"
    assert "bright spots" in overlays(viewer)["activation"].name
    canvas = explorer.plots.plot.canvas
    qtbot.waitUntil(lambda: "bright spots" in canvas.figure.axes[0].get_title())
    # A concept needs a name.
    write_in_table(qtbot, table, 0, NAME, no_name)
    assert dictionary.names[best] == "bright spots"
    # What is no name is not written over.
    place = table.visualRect(table.model().index(0, NAME + 1)).center()
    qtbot.mouseDClick(table.viewport(), LEFT, pos=place)
    assert not [x for x in table.findChildren(QLineEdit) if x.isVisible()]


@pytest.mark.parametrize(
    ("heading", "values"),
    [("Name", "name"), ("Effect", "effect"), ("q cells", "q_cells"), ("AUC", "auc")],
)
def test_a_click_on_a_heading_sorts_and_a_second_turns_the_order(
    explorer, activations, qtbot, heading, values
):
    table, column = explorer.table, HEADINGS.index(heading)
    ranking = activations.ranking
    click_tick(qtbot, explorer.advanced)
    header = table.horizontalHeader()
    concept = explorer.session.view.concept
    orders = set()
    for _ in range(2):
        table.scrollTo(table.model().index(0, column))
        middle = header.sectionViewportPosition(column) + header.sectionSize(column) // 2
        qtbot.mouseClick(header.viewport(), LEFT, pos=QPoint(middle, header.height() // 2))
        assert header.sortIndicatorSection() == column
        falling = header.sortIndicatorOrder() == Qt.SortOrder.DescendingOrder
        # Concepts that are equal stay in the order of the ranking.
        expected = ranking[values].sort_values(ascending=not falling, kind="stable").index
        assert shown_names(explorer) == ranking["name"].loc[expected].tolist()
        assert explorer.session.view.concept == concept
        assert table.selected_concepts() == [concept]
        orders.add(falling)
    assert orders == {True, False}


def test_conditions_and_what_counts_are_chosen_by_clicks(explorer, activations, qtbot):
    panel = explorer.compare
    plot = open_plot(explorer, panel, qtbot)
    first, second = panel.chosen

    def check(one: str, other: str, by: str) -> None:
        qtbot.waitUntil(plot.has_contents)
        axes = plot.canvas.figure.axes[0]
        assert axes.get_xlabel().startswith(f"more in {one} ")
        assert axes.get_xlabel().endswith(f" more in {other}")
        assert axes.get_ylabel().endswith(f"({by})")
        compared = activations.compare(one, other)
        points = np.concatenate([c.get_offsets() for c in axes.collections[:3]])
        column = "q_wells" if by == "wells" else "q_cells"
        expected = np.stack([compared["effect"], -np.log10(compared[column])], axis=1)
        for found, wanted in zip(points.T, expected.T, strict=True):
            np.testing.assert_allclose(np.sort(found), np.sort(wanted), atol=1e-6)

    check(first, second, "wells")
    click_choice(panel.first, second)
    qtbot.waitUntil(lambda: "two different conditions" in panel.message.text())
    assert plot.isHidden()
    click_choice(panel.second, first)
    check(second, first, "wells")
    click_choice(panel.by, "by cells")
    check(second, first, "cells")
    click_choice(panel.by, "by wells")
    check(second, first, "wells")


def test_a_lasso_selects_and_outlines_the_units_inside(viewer, explorer, activations, qtbot):
    plot = open_plot(explorer, explorer.map, qtbot)
    click_choice(explorer.where, "on all images")
    assert selection_outlines(viewer) == []
    places = plot._places
    low, high = np.quantile(places, 0.3, axis=0), np.quantile(places, 0.7, axis=0)
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    lasso(qtbot, plot, corners)
    rows = explorer.selection.rows
    # Pixels are whole, so units on the line may fall either way.
    margin = 0.02 * (high - low) * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    grown, shrunk = (
        np.flatnonzero(Path(np.array(corners) + sign * margin).contains_points(places))
        for sign in (1, -1)
    )
    assert set(shrunk) <= set(rows) <= set(grown)
    assert len(rows)
    fields = activations.units["field"].to_numpy()[rows]
    layers = {layer.metadata[TAG]["field"]: layer for layer in selection_outlines(viewer)}
    assert set(layers) == set(fields.tolist())
    for field, layer in layers.items():
        inside = rows[fields == field] - activations.rows_of_field(field)[0]
        image = explorer.session.run.current.sources[field].layer()
        expected = covered(activations.geometry[field].boxes[inside], image.data.shape)
        assert_outlined(layer, image, expected)
    # Cyan lines are drawn, of which there are none without a selection.
    for layer in viewer.layers:
        layer.visible = layer in selection_outlines(viewer)

    def cyan() -> int:
        drawn = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
        return int(((drawn[..., 1:] > 200).all(axis=-1) & (drawn[..., 0] < 100)).sum())

    assert cyan() > 100
    qtbot.mouseClick(explorer.map.clear_button, LEFT)
    assert not len(explorer.selection.rows)
    assert selection_outlines(viewer) == []
    assert cyan() == 0


def test_every_tab_is_drawn_anew_when_a_key_switches_the_theme(viewer, explorer, qtbot):
    explorer.selection.select([5])
    seen: dict[str, float] = {}
    drawn: dict[tuple[str, int], int] = {}
    for _ in range(2):
        switch_theme(viewer, qtbot)
        background = get_theme(viewer.theme).background.as_rgb_tuple()
        seen[viewer.theme] = float(np.mean(background))
        for number, panel in enumerate(explorer.panels):
            open_tab(explorer, panel, qtbot)
            plots = [p for p in (explorer.plots.plot, explorer.compare.plot, explorer.map.plot)
                     if panel.isAncestorOf(p)]  # fmt: skip
            for plot in plots:
                qtbot.waitUntil(plot.has_contents)
                plot.canvas.draw()
                picture = pixels(plot.canvas.grab().toImage())
                assert tuple(picture[1, 1]) == background
                # Text is drawn, in what tells from the background.
                assert np.abs(picture.mean(axis=2) - np.mean(background)).max() > 100
            drawn[viewer.theme, number] = most_common_shade(panel)
        drawn[viewer.theme, -1] = most_common_shade(explorer.table)
    assert set(seen) == {"dark", "light"}
    assert seen["dark"] < 80 < 180 < seen["light"]
    for (theme, number), shade in drawn.items():
        assert (shade > 128) == (theme == "light"), (theme, number, shade)


def state_of(viewer: Any, explorer: Any, workflow: Any) -> dict[str, Any]:
    """Everything of one viewer that a click in another might change."""
    session = explorer.session
    # What was asked for before comes by itself.
    explorer.overlays.complete()
    return {
        "layers": [(x.name, x.visible, x.metadata.get(TAG, {})) for x in viewer.layers],
        "selected layers": {x.name for x in viewer.layers.selection},
        "camera": (*camera_of(viewer).center, camera_of(viewer).zoom),
        "concept": session.view.concept,
        "kinds": set(session.view.kinds),
        "everywhere": session.view.all_fields,
        "run": session.run.current.run_id,
        "units": explorer.selection.rows.tolist(),
        "tags": session.run.current.result.activations.unit_tags.tolist(),
        "rows of the table": shown_names(explorer),
        "tab": explorer.tabs.currentIndex(),
        "settings": session.settings.config,
        "images": [
            (row.name, row.use, row.condition, row.is_control) for row in session.images.rows
        ],
        "open steps": [step.is_expanded for step in workflow.steps.values()],
        "status": workflow.status.text(),
    }


def test_clicks_in_one_viewer_change_nothing_in_another(open_viewer, small_run, cell_run, qtbot):
    both = []
    for run in (small_run, cell_run):
        viewer = open_viewer()
        workflow = open_workflow(viewer)
        explorer = explore(viewer, run, qtbot)
        qtbot.waitUntil(lambda w=workflow: len(w.session.images.rows) == 4)
        both.append((viewer, explorer, workflow))
    for (viewer, explorer, workflow), other in (both, both[::-1]):
        viewer.__wrapped__.window.activate()
        explorer.parent().raise_()
        untouched = state_of(*other)
        own = state_of(viewer, explorer, workflow)
        heatmap = explorer.kinds["heatmap"]
        click_tick(qtbot, heatmap)
        click_choice(explorer.where, "on all images")
        click_cell(qtbot, explorer.table, 3, NAME)
        qtbot.waitUntil(lambda e=explorer: not e._rest.isActive())
        open_tab(explorer, explorer.gallery, qtbot)
        view = drawn(explorer, qtbot)
        # One that is elsewhere than what is looked at.
        units = explorer.session.run.current.result.activations.units
        selected = viewer.layers.selection.active.name
        elsewhere = next(
            view.item(number)
            for number, unit in enumerate(shown_units(view))
            if units["Metadata_Field"][unit] != selected and units["y"][unit] != own["camera"][1]
        )
        click_item(qtbot, view, elsewhere)
        open_tab(explorer, explorer.tags, qtbot)
        qtbot.mouseClick(explorer.tags.unit_buttons["perturbed"], LEFT)
        # The concept that was chosen stays in the table.
        qtbot.keyClicks(explorer.filter, f"concept {explorer.session.view.concept}")
        workflow.parent().raise_()
        click(qtbot, workflow.cells.heading)
        in_view(qtbot, workflow, workflow.cells.unit)
        click_choice(workflow.cells.unit, "Single patches")
        in_view(qtbot, workflow, workflow.fields.table)
        tick(qtbot, workflow.fields.table, 0, 0)
        tick(qtbot, workflow.fields.table, 1, 3)
        changed = state_of(viewer, explorer, workflow)
        same = {name for name in own if own[name] == changed[name]}
        assert same == {"run", "status"}
        assert state_of(*other) == untouched
        explorer.session.run.current.result.activations.unit_tags[:] = ""
