"""Clicks on cells in a real canvas, and what they bring up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QSize, Qt

from napari_microdl.gui.explorer.picture_list import TILE, pixmap_of
from napari_microdl.gui.overlays.picking import go_to, unit_at
from napari_microdl.gui.session.layers import TAG
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.session.viewer_parts import camera_of
from napari_microdl.gui.widgets.picture_figure import Picture
from napari_microdl.pipeline.run import run_pipeline

from .conftest import sources_of
from .steps import (
    LEFT,
    assert_outlined,
    canvas_of,
    click_item,
    covered,
    outputs,
    selection_outlines,
    shown_units,
)


def click_unit(viewer: Any, run: Run, row: int, qtbot: Any, modifier: Any = None) -> None:
    """Bring a unit to the middle of the canvas and click there."""
    go_to(viewer.__wrapped__, run, int(run.result.activations.units["field"].iloc[row]), row)
    camera_of(viewer).zoom = 8
    canvas = canvas_of(viewer)
    modifier = modifier or Qt.KeyboardModifier.NoModifier
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)
    qtbot.mouseMove(canvas, middle)
    qtbot.mouseClick(canvas, LEFT, modifier, middle)


def test_a_clicked_unit_tells_its_concepts_and_what_is_like_it(
    viewer, explorer, activations, qtbot
):
    # A crop far from the edge and with concepts.
    row = int(np.flatnonzero(np.diff(activations.codes.indptr) > 1)[3])
    click_unit(viewer, explorer.session.run.current, row, qtbot)
    assert explorer.selection.current == row
    assert explorer.tabs.currentWidget() is explorer.cell
    unit = activations.units.iloc[row]
    assert f"crop {unit['label']} of {unit['Metadata_Field']}" in explorer.cell.heading.text()
    # The cell itself is shown.
    drawn = explorer.cell.picture
    qtbot.waitUntil(drawn.isVisible)
    pixels = explorer.session.run.current.pictures.picture(row, explorer.session.view.pictures)
    picture = pixmap_of(Picture(pixels, np.empty((0, 4)), "white", ""), QSize(TILE, TILE))
    assert drawn.pixmap().toImage() == picture.toImage()
    listed = explorer.cell.concepts
    expected, values = activations.concepts_of(row)
    assert shown_units(listed) == expected.tolist()
    assert listed.item(0).text().startswith(f"{values[0]:+.2f}")
    similar = explorer.cell.similar
    qtbot.waitUntil(lambda: bool(shown_units(similar)))
    rows = shown_units(similar)
    assert rows == activations.similar_units(row, 12)[0].tolist()

    click_item(qtbot, listed, listed.item(1))
    assert explorer.session.view.concept == expected[1]
    click_item(qtbot, similar, similar.item(0))
    assert explorer.selection.current == rows[0]
    assert viewer.layers.selection.active.name == activations.units["Metadata_Field"][rows[0]]


def test_selected_units_are_outlined_and_shift_adds(viewer, explorer, activations, qtbot):
    boxes, run = activations.geometry[0].boxes, explorer.session.run.current
    first, second = 0, len(boxes) - 1
    explorer.session.view.show(all_fields=False)
    click_unit(viewer, run, first, qtbot)
    (layer,) = selection_outlines(viewer)
    image = run.sources[0].layer()
    assert_outlined(layer, image, covered(boxes[[first]], image.data.shape))
    click_unit(viewer, run, second, qtbot, Qt.KeyboardModifier.ShiftModifier)
    assert explorer.selection.rows.tolist() == [first, second]
    (layer,) = selection_outlines(viewer)
    assert_outlined(layer, image, covered(boxes[[first, second]], image.data.shape))
    # Beside the images nothing is added, and a click without a key leaves nothing selected.
    camera_of(viewer).center = (0, -500, -500)
    canvas = canvas_of(viewer)
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)
    qtbot.mouseClick(canvas, LEFT, Qt.KeyboardModifier.ShiftModifier, middle)
    assert len(explorer.selection.rows) == 2
    qtbot.mouseClick(canvas, LEFT, pos=middle)
    assert not selection_outlines(viewer)
    click_unit(viewer, run, second, qtbot)
    (layer,) = selection_outlines(viewer)
    viewer.layers.remove(layer)
    assert not len(explorer.selection.rows)
    assert not selection_outlines(viewer)


def test_a_drag_picks_nothing_and_a_closed_dock_does_not_listen(viewer, explorer, qtbot):
    canvas = canvas_of(viewer)
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)
    go_to(viewer.__wrapped__, explorer.session.run.current, 0, 5)
    qtbot.mousePress(canvas, LEFT, pos=middle)
    qtbot.mouseMove(canvas, middle + QPoint(30, 0))
    qtbot.mouseMove(canvas, middle + QPoint(40, 0))
    qtbot.mouseRelease(canvas, LEFT, pos=middle + QPoint(40, 0))
    assert not len(explorer.selection.rows)
    listening = len(viewer.mouse_drag_callbacks)
    viewer.window.remove_dock_widget(explorer)
    assert len(viewer.mouse_drag_callbacks) == listening - 1
    click_unit(viewer, explorer.session.run.current, 5, qtbot)
    assert not len(explorer.selection.rows)


def test_a_closed_image_takes_its_overlays_and_marks_along(viewer, explorer):
    explorer.session.view.show(kinds=["activation", "heatmap"], all_fields=True)
    units = explorer.session.run.current.result.activations.units
    explorer.selection.select(np.flatnonzero(units["field"] < 2))
    assert len(selection_outlines(viewer)) == 2
    viewer.layers.remove(units["Metadata_Field"].iloc[0])
    assert {x.metadata[TAG]["field"] for x in outputs(viewer)} == {1, 2, 3}
    assert [x.metadata[TAG]["field"] for x in selection_outlines(viewer)] == [1]
    explorer.go_to_unit(0)
    assert explorer.selection.current is None
    # The others go on working.
    explorer.selection.clear()
    explorer.session.view.show_concept(3)
    for kinds in ([], ["heatmap"]):
        explorer.session.view.show(kinds=kinds)
    assert {x.metadata[TAG]["field"] for x in outputs(viewer)} == {1, 2, 3}


@pytest.mark.parametrize("unit", ["cell", "crop"])
def test_every_pixel_leads_to_the_unit_that_covers_it(viewer, small_run, unit):
    """In an image that lies askew, by the labels or boxes themselves."""
    fields = small_run.fields[:2]
    config = small_run.config.with_settings(unit=unit, n_atoms=8, max_steps=5, whiten=False)
    result = run_pipeline(fields, config)
    layers = [
        viewer.add_image(
            f.read()[0], name=f.name, scale=(0.5, 0.25), rotate=20, translate=(0, 90 * n)
        )
        for n, f in enumerate(fields)
    ]
    run = Run("0" * 12, result, fields, sources_of(layers, fields), is_first=True)
    random = np.random.default_rng(0)
    units = result.activations.units
    found = 0
    for y, x in random.integers(0, 160, (60, 2)):
        row = unit_at(run, layers[1].data_to_world((y, x)), [0, 1])
        if unit == "cell":
            label = result.labels[1][y, x]
            expected = units.index[(units["field"] == 1) & (units["label"] == label)]
            assert ([] if row is None else [row]) == expected.tolist()
        else:
            top, left, bottom, right = result.activations.geometry[1].boxes[
                row - (units["field"] == 0).sum()
            ]
            assert top <= y < bottom
            assert left <= x < right
        found += row is not None
    assert found > 10
    layers[1].visible = False
    assert unit_at(run, layers[1].data_to_world((80, 80)), [1]) is None
