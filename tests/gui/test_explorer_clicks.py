"""Every choice of the explorer by real clicks and keys, down to what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.utils.theme import get_theme
from qtpy.QtCore import QPoint, QSize, Qt
from qtpy.QtGui import QImage
from qtpy.QtWidgets import QLineEdit

from napari_microdl.concepts.painting import outlines_of
from napari_microdl.gui.explorer.concept_table import HEADINGS, NAME, TAG
from napari_microdl.gui.explorer.gallery import picture_of
from napari_microdl.gui.overlays.picking import camera_of
from napari_microdl.gui.session.layers import TAG as OUTPUT

from .clicks import click_choice, write_in_table
from .conftest import explore
from .steps import (
    LEFT,
    canvas_of,
    click,
    in_view,
    open_tab,
    overlays,
    pixel_of,
    selection_outlines,
    shown_names,
    tick,
)

ROW = Qt.ItemDataRole.UserRole


def pixels(image: QImage) -> np.ndarray:
    """Red, green and blue of a picture, shape (height, width, 3)."""
    image = image.convertToFormat(QImage.Format.Format_RGBA8888)
    data = image.constBits()
    data.setsize(image.sizeInBytes())
    return np.array(data, np.uint8).reshape(image.height(), image.width(), 4)[..., :3]


def pictures(view: Any) -> list[np.ndarray]:
    """What a list of the gallery shows of each unit."""
    return [
        pixels(view.item(number).icon().pixmap(QSize(72, 72)).toImage())
        for number in range(view.count())
    ]


def most_common_shade(widget: Any) -> int:
    """Lightness of what most of a widget is painted in, from 0 to 255."""
    shades = pixels(widget.grab().toImage()).mean(axis=2).astype(int)
    return int(np.bincount(shades.ravel()).argmax())


def shown_units(view: Any) -> list[int]:
    return [view.item(number).data(ROW) for number in range(view.count())]


def test_overlays_go_on_all_images_and_back_by_the_box(explored: Any, qtbot: Any):
    viewer, explorer = explored
    viewer.layers.selection.active = explorer.session.run.current.sources[2].layer()

    def fields() -> list[int]:
        return sorted(x.metadata[OUTPUT]["field"] for x in viewer.layers if OUTPUT in x.metadata)

    assert fields() == [2]
    click_choice(explorer.where, "on all images")
    assert fields() == [0, 1, 2, 3]
    click_choice(explorer.where, "on selected image")
    assert fields() == [2]


def test_outlines_make_a_layer_of_cells_that_tells_their_activation(
    explored_cells: Any, cell_run: Any, qtbot: Any
):
    viewer, explorer = explored_cells
    box = explorer.kinds["cells"]
    assert box.text().replace("&", "") == "Outlines"
    assert "cells" not in overlays(viewer)
    qtbot.mouseClick(box, LEFT, pos=QPoint(8, box.height() // 2))
    layer = overlays(viewer)["cells"]
    field = layer.metadata[OUTPUT]["field"]
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
    qtbot.mouseClick(box, LEFT, pos=QPoint(8, box.height() // 2))
    assert "cells" not in overlays(viewer)


def test_the_gallery_shows_the_channel_that_is_chosen(explored_cells: Any, qtbot: Any):
    _, explorer = explored_cells
    open_tab(explorer, explorer.gallery, qtbot)
    qtbot.waitUntil(lambda: explorer.gallery.lists[1].count() > 0)
    before = {sign: pictures(view) for sign, view in explorer.gallery.lists.items()}
    rows = {sign: shown_units(view) for sign, view in explorer.gallery.lists.items()}
    click_choice(explorer.gallery.channel, "turned")
    for sign, view in explorer.gallery.lists.items():
        assert shown_units(view) == rows[sign]
        for row, shown in zip(rows[sign], view.pictures, strict=True):
            np.testing.assert_array_equal(
                shown.grey, picture_of(explorer.session.run.current, row, 1)
            )
            assert not np.array_equal(shown.grey, picture_of(explorer.session.run.current, row, 0))
        for new, old in zip(pictures(view), before[sign], strict=True):
            assert not np.array_equal(new, old)


def test_patches_that_make_a_unit_aligned_are_outlined_in_its_picture(
    explored: Any, small_run: Any, qtbot: Any
):
    _, explorer = explored
    open_tab(explorer, explorer.gallery, qtbot)
    qtbot.waitUntil(lambda: explorer.gallery.lists[1].count() > 0)
    activations, concept = small_run.result.activations, explorer.session.view.concept
    outlined = 0
    for sign, view in explorer.gallery.lists.items():
        for row, picture in zip(shown_units(view), pictures(view), strict=True):
            # The photograph is grey, so what is coloured is a line: orange, or blue.
            red, blue = picture[..., 0].astype(int), picture[..., 2].astype(int)
            coloured = sign * (red - blue) > 60
            assert not (sign * (blue - red) > 60).any()
            lines = outlines_of(activations, row, concept, sign)
            assert coloured.any() == bool(len(lines))
            size = picture_of(explorer.session.run.current, row, 0).shape[0]
            zoom = picture.shape[1] / size
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


def test_a_click_on_an_anti_aligned_picture_goes_there(explored: Any, small_run: Any, qtbot: Any):
    viewer, explorer = explored
    open_tab(explorer, explorer.gallery, qtbot)
    view = explorer.gallery.lists[-1]
    qtbot.waitUntil(lambda: view.count() > 0)
    activations = small_run.result.activations
    rows = activations.top_units(explorer.session.view.concept, 10, -1).tolist()
    assert shown_units(view) == rows
    for number in (2, 0):
        view.scrollToItem(view.item(number))
        place = view.visualItemRect(view.item(number)).center()
        qtbot.mouseClick(view.viewport(), LEFT, pos=place)
        unit = activations.units.iloc[rows[number]]
        assert viewer.layers.selection.active.name == unit["Metadata_Field"]
        np.testing.assert_allclose(camera_of(viewer).center[-2:], (unit["y"], unit["x"]))
        assert explorer.selection.current == rows[number]
        assert overlays(viewer)["activation"].metadata[OUTPUT]["field"] == unit["field"]


def test_the_label_of_the_histograms_is_chosen_by_a_click(
    explored: Any, small_run: Any, qtbot: Any
):
    _, explorer = explored
    panel = explorer.plots
    qtbot.waitUntil(panel.plot.has_contents)
    click_choice(panel.kind, "One label against the rest")
    activations, concept = small_run.result.activations, explorer.session.view.concept
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


@pytest.mark.parametrize("by", ["double click", "F2"])
def test_a_concept_is_renamed_in_the_table(explored: Any, small_run: Any, qtbot: Any, by: str):
    viewer, explorer = explored
    table, dictionary = explorer.table, small_run.result.dictionary
    qtbot.waitUntil(explorer.plots.plot.has_contents)
    best = int(small_run.result.activations.ranking.index[0])
    old = dictionary.names[best]
    try:
        if by == "F2":
            table.window().activateWindow()
            place = table.visualRect(table.model().index(0, NAME)).center()
            qtbot.mouseClick(table.viewport(), LEFT, pos=place)
            qtbot.keyClick(table, Qt.Key.Key_F2)
            (editor,) = [x for x in table.findChildren(QLineEdit) if x.isVisible()]
            qtbot.keyClicks(editor, "bright spots")
            qtbot.keyClick(editor, Qt.Key.Key_Return)
        else:
            write_in_table(qtbot, table, 0, NAME, "bright spots")
        qtbot.waitUntil(lambda: dictionary.names[best] == "bright spots")
        assert shown_names(explorer)[0] == "bright spots"
        assert "bright spots" in overlays(viewer)["activation"].name
        qtbot.waitUntil(
            lambda: "bright spots" in explorer.plots.plot.canvas.figure.axes[0].get_title()
        )
        # A concept needs a name.
        write_in_table(qtbot, table, 0, NAME, "")
        assert dictionary.names[best] == "bright spots"
        # What is no name is not written over.
        place = table.visualRect(table.model().index(0, NAME + 1)).center()
        qtbot.mouseDClick(table.viewport(), LEFT, pos=place)
        assert not [x for x in table.findChildren(QLineEdit) if x.isVisible()]
    finally:
        explorer.session.run.rename_concept(best, old)


@pytest.mark.parametrize("heading", ["Name", "Effect", "q cells", "AUC"])
def test_a_click_on_a_heading_sorts_and_a_second_turns_the_order(
    explored: Any, small_run: Any, qtbot: Any, heading: str
):
    _, explorer = explored
    table, column = explorer.table, HEADINGS.index(heading)
    ranking = small_run.result.activations.ranking
    values = {
        "Name": ranking["name"], "Effect": ranking["effect"],
        "q cells": ranking["q_cells"], "AUC": ranking["auc"],
    }[heading]  # fmt: skip
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
        expected = values.sort_values(ascending=not falling, kind="stable").index
        assert shown_names(explorer) == ranking["name"].loc[expected].tolist()
        assert explorer.session.view.concept == concept
        assert table.selected_concepts() == [concept]
        orders.add(falling)
    assert orders == {True, False}


def test_conditions_and_what_counts_are_chosen_by_clicks(explored: Any, small_run: Any, qtbot: Any):
    _, explorer = explored
    panel, plot = explorer.compare, explorer.compare.plot
    open_tab(explorer, panel, qtbot)
    qtbot.waitUntil(plot.has_contents)
    activations = small_run.result.activations
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
    click_choice(panel.second, first)
    check(second, first, "wells")
    click_choice(panel.by, "by cells")
    check(second, first, "cells")
    click_choice(panel.by, "by wells")
    check(second, first, "wells")


def test_a_tag_of_a_concept_is_chosen_and_taken_away_by_clicks(
    explored: Any, small_run: Any, qtbot: Any
):
    _, explorer = explored
    dictionary, concept = small_run.result.dictionary, explorer.session.view.concept
    open_tab(explorer, explorer.tags, qtbot)
    proxy = explorer.table.proxy
    row = [proxy.index(i, NAME).data() for i in range(proxy.rowCount())].index(
        dictionary.names[concept]
    )
    try:
        for tag in ("control-like", "perturbed", ""):
            qtbot.mouseClick(explorer.tags.concept_buttons[tag], LEFT)
            assert dictionary.tags[concept] == tag
            assert proxy.index(row, TAG).data() == tag
            assert sum(map(bool, dictionary.tags)) == bool(tag)
    finally:
        dictionary.tags[:] = [""] * dictionary.n_concepts


def test_tags_of_units_are_chosen_and_taken_away_by_clicks(
    explored: Any, small_run: Any, qtbot: Any
):
    _, explorer = explored
    activations = small_run.result.activations
    open_tab(explorer, explorer.tags, qtbot)
    assert not any(button.isEnabled() for button in explorer.tags.unit_buttons.values())
    explorer.selection.select([3, 5])
    try:
        for tag in ("control-like", "perturbed", ""):
            qtbot.mouseClick(explorer.tags.unit_buttons[tag], LEFT)
            expected = [tag if row in (3, 5) else "" for row in range(len(activations.units))]
            assert activations.unit_tags.tolist() == expected
    finally:
        activations.unit_tags[:] = ""


def test_a_lasso_outlines_its_units_in_the_viewer(explored: Any, small_run: Any, qtbot: Any):
    viewer, explorer = explored
    open_tab(explorer, explorer.map, qtbot)
    plot = explorer.map.plot
    qtbot.waitUntil(plot.has_contents)
    click_choice(explorer.where, "on all images")
    assert selection_outlines(viewer) == []
    low, high = np.quantile(plot._places, 0.3, axis=0), np.quantile(plot._places, 0.7, axis=0)
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    line = [pixel_of(plot, corner) for corner in corners]
    qtbot.mousePress(plot.canvas, LEFT, pos=line[0])
    for place in [*line[1:], line[0]]:
        qtbot.mouseMove(plot.canvas, place)
    qtbot.mouseRelease(plot.canvas, LEFT, pos=line[0])
    activations, rows = small_run.result.activations, explorer.selection.rows
    assert len(rows)
    fields = activations.units["field"].to_numpy()[rows]
    layers = {layer.metadata[OUTPUT]["field"]: layer for layer in selection_outlines(viewer)}
    assert set(layers) == set(fields.tolist())
    for field, layer in layers.items():
        assert layer.contour > 0
        expected = np.zeros(layer.data.shape, bool)
        first = int(activations.rows_of_field(field)[0])
        for row in rows[fields == field]:
            top, left, bottom, right = activations.geometry[field].boxes[row - first]
            expected[top:bottom, left:right] = True
        np.testing.assert_array_equal(layer.data > 0, expected)
    # Yellow lines are drawn, of which there are none without a selection.
    for layer in viewer.layers:
        layer.visible = layer in selection_outlines(viewer)

    def yellow() -> int:
        drawn = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
        return int(((drawn[..., :2] > 200).all(axis=-1) & (drawn[..., 2] < 100)).sum())

    assert yellow() > 100
    qtbot.mouseClick(explorer.map.clear_button, LEFT)
    assert selection_outlines(viewer) == []
    assert yellow() == 0


def test_every_tab_is_drawn_anew_when_a_key_switches_the_theme(explored: Any, qtbot: Any):
    viewer, explorer = explored
    explorer.selection.select([5])
    seen: dict[str, float] = {}
    drawn: dict[tuple[str, int], int] = {}
    for _ in range(2):
        qtbot.keyClick(
            canvas_of(viewer), Qt.Key.Key_T,
            Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier,
        )  # fmt: skip
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
    return {
        "layers": [(x.name, x.visible, x.metadata.get(OUTPUT, {})) for x in viewer.layers],
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


def test_clicks_in_one_viewer_change_nothing_in_another(
    open_viewer: Any, small_run: Any, cell_run: Any, qtbot: Any
):
    both = []
    for run in (small_run, cell_run):
        viewer = open_viewer()
        _, workflow = viewer.window.add_plugin_dock_widget("napari-microdl", "Concept workflow")
        explorer = explore(viewer, run, qtbot)
        qtbot.waitUntil(lambda w=workflow: len(w.session.images.rows) == 4)
        both.append((viewer, explorer, workflow))
    for (viewer, explorer, workflow), other in (both, both[::-1]):
        viewer.__wrapped__.window.activate()
        explorer.parent().raise_()
        untouched = state_of(*other)
        own = state_of(viewer, explorer, workflow)
        heatmap = explorer.kinds["heatmap"]
        qtbot.mouseClick(heatmap, LEFT, pos=QPoint(8, heatmap.height() // 2))
        click_choice(explorer.where, "on all images")
        row = 3
        place = explorer.table.visualRect(explorer.table.model().index(row, NAME)).center()
        qtbot.mouseClick(explorer.table.viewport(), LEFT, pos=place)
        qtbot.waitUntil(lambda e=explorer: not e._rest.isActive())
        open_tab(explorer, explorer.gallery, qtbot)
        view = explorer.gallery.lists[-1]
        qtbot.waitUntil(lambda v=view: v.count() > 1)
        # One that is elsewhere than what is looked at.
        units = explorer.session.run.current.result.activations.units
        selected = viewer.layers.selection.active.name
        elsewhere = next(
            view.item(number)
            for number, unit in enumerate(shown_units(view))
            if units["Metadata_Field"][unit] != selected and units["y"][unit] != own["camera"][1]
        )
        view.scrollToItem(elsewhere)
        qtbot.mouseClick(view.viewport(), LEFT, pos=view.visualItemRect(elsewhere).center())
        open_tab(explorer, explorer.tags, qtbot)
        qtbot.mouseClick(explorer.tags.unit_buttons["perturbed"], LEFT)
        qtbot.keyClicks(explorer.filter, "concept 1")
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
