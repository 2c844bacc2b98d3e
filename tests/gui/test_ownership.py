"""Which layers are the plugin's to remove, and which have become the person's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from app_model import Application
from napari._app_model import get_app_model
from napari.layers import Labels
from qtpy.QtCore import QPoint

from napari_microdl.gui.session.layers import TAG, is_input, is_output
from napari_microdl.gui.session.viewer_parts import camera_of

from .steps import LEFT, canvas_of, choose, click, run, run_step

pytestmark = pytest.mark.own_window


def duplicate(viewer: Any, layer: Any) -> Any:
    """The entry Duplicate of the menu of layers."""
    viewer.layers.selection = {layer}
    before = set(viewer.layers)
    app: Application = get_app_model()
    app.commands.execute_command("napari.layer.duplicate").result()
    (copy,) = set(viewer.layers) - before
    return copy


def paint(viewer: Any, layer: Labels, qtbot: Any) -> None:
    """Draw a new cell with the brush, in the middle of the canvas."""
    viewer.layers.selection.active = layer
    layer.selected_label = int(layer.data.max()) + 1
    layer.brush_size = 12
    layer.mode = "paint"
    height, width = layer.data.shape[-2:]
    camera_of(viewer).center = layer.data_to_world((height / 2, width / 2))
    canvas = canvas_of(viewer)
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)
    qtbot.mouseMove(canvas, middle)
    qtbot.mousePress(canvas, LEFT, pos=middle)
    qtbot.mouseMove(canvas, middle + QPoint(3, 0))
    qtbot.mouseRelease(canvas, LEFT, pos=middle + QPoint(3, 0))
    assert (layer.data == layer.selected_label).sum() > 50


def chosen_labels(workflow: Any) -> list[Labels | None]:
    return [row.labels_layer() for row in workflow.session.images.rows]


def test_a_duplicate_of_an_overlay_is_the_persons(viewer, workflow, qtbot):
    workflow.session.settings.configure(unit="crop")
    run(qtbot, workflow)
    overlay = next(x for x in viewer.layers if is_output(x))
    copy = duplicate(viewer, overlay)
    shown = copy.data.copy()
    # It is no further field.
    assert len(workflow.session.images.rows) == 4
    assert not is_input(copy)
    workflow.session.settings.configure(n_atoms=12)
    run(qtbot, workflow)
    assert not np.array_equal(overlay.data, shown)
    assert copy in viewer.layers
    np.testing.assert_array_equal(copy.data, shown)


def test_cells_that_were_corrected_by_hand_stay_and_can_be_used(viewer, workflow, qtbot):
    workflow.session.settings.configure(n_atoms=4)
    run_step(qtbot, workflow, "cells")
    found = [x for x in viewer.layers if isinstance(x, Labels)]
    assert len(found) == 4
    assert all(is_output(x) for x in found)
    mine, others = found[0], found[1:]
    paint(viewer, mine, qtbot)
    assert TAG not in mine.metadata
    corrected = mine.data.copy()

    run(qtbot, workflow)
    assert not any(x in viewer.layers for x in others)
    assert mine in viewer.layers
    np.testing.assert_array_equal(mine.data, corrected)

    click(qtbot, workflow.cells.heading)
    choose(qtbot, workflow.cells.source, "My Labels layers")
    table = workflow.cells.labels
    (place,) = [i for i in range(table.rowCount()) if table.item(i, 0).text() in mine.name]
    choose(qtbot, table.cellWidget(place, 1), mine.name)
    (layer,) = [x for x in chosen_labels(workflow) if x is not None]
    np.testing.assert_array_equal(layer.data, corrected)
    # What is painted from now on changes what a run would do.
    before = workflow.session.images.contents(layer)
    paint(viewer, mine, qtbot)
    assert workflow.session.images.contents(layer) != before


def test_a_part_that_was_previewed_and_corrected_is_not_previewed_over(viewer, workflow, qtbot):
    click(qtbot, workflow.cells.heading)
    with qtbot.waitSignal(workflow.preview.jobs.succeeded):
        click(qtbot, workflow.cells.preview)
    (mine,) = [x for x in viewer.layers if isinstance(x, Labels)]
    paint(viewer, mine, qtbot)
    corrected = mine.data.copy()
    with qtbot.waitSignal(workflow.preview.jobs.succeeded):
        click(qtbot, workflow.cells.preview)
    assert len([x for x in viewer.layers if isinstance(x, Labels)]) == 2
    np.testing.assert_array_equal(mine.data, corrected)
