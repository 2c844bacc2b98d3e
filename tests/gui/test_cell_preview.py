"""The preview of the segmentation on the part of an image that is in view."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest

from napari_microdl.core.config import SegmentationConfig
from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.segmentation import segment_cells
from napari_microdl.gui.session.layers import Layout
from napari_microdl.gui.session.viewer_parts import camera_of
from napari_microdl.gui.workflow.dock import ConceptWorkflow

from .steps import click, click_tick, open_workflow, outputs, previewed, write


@pytest.fixture
def workflow(viewer, bare_workflow, qtbot) -> ConceptWorkflow:
    """A whole field of the sample, half as large again by its scale, with the step open."""
    viewer.window.resize(1000, 700)
    viewer.add_image(transfluor()[4].read()[0], name="a", scale=(1.5, 1.5))
    qtbot.waitUntil(lambda: len(bare_workflow.session.images.rows) == 1)
    click(qtbot, bare_workflow.cells.heading)
    return bare_workflow


def look_at(qtbot: Any, viewer: Any, centre: tuple[float, float], zoom: float) -> None:
    camera = camera_of(viewer)
    camera.center = (0, *centre)
    camera.zoom = zoom
    qtbot.wait(100)


def region_of(layer: Any) -> tuple[slice, slice]:
    """Where a preview lies in its image of scale 1.5."""
    top, left = np.rint(np.asarray(layer.translate) / 1.5).astype(int)
    height, width = layer.data.shape
    return slice(top, top + height), slice(left, left + width)


def assert_same_cells(preview: np.ndarray, whole: np.ndarray) -> None:
    """The same partition under other numbers."""
    np.testing.assert_array_equal(preview > 0, whole > 0)
    pairs = np.unique(np.stack([preview[preview > 0], whole[preview > 0]]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@pytest.mark.parametrize("threshold", ["local", "otsu"])
@pytest.mark.parametrize("lazy", [False, True])
def test_the_part_in_view_has_the_cells_of_the_whole_image(
    viewer, workflow, qtbot, threshold, lazy
):
    image = viewer.layers["a"]
    plane = np.asarray(image.data)
    if lazy:
        image.data = da.from_array(plane, chunks=100)
    config = SegmentationConfig(diameter=20, threshold=threshold)
    workflow.session.settings.configure(segmentation=config)
    look_at(qtbot, viewer, (450, 300), 2)
    layer = previewed(qtbot, workflow, lambda: click(qtbot, workflow.cells.preview))
    region = region_of(layer)
    height, width = layer.data.shape
    assert 60 < height < 400
    assert 60 < width < 400
    # It is what the camera looks at.
    middle = [(part.start + part.stop) / 2 * 1.5 for part in region]
    np.testing.assert_allclose(middle, (450, 300), atol=4)
    np.testing.assert_array_equal(layer.scale, image.scale)
    assert_same_cells(np.asarray(layer.data), segment_cells(plane, config)[region])
    assert workflow.status.text() == f"{layer.data.max()} cells in the part of a that is in view."


def test_a_live_preview_follows_the_view_and_the_settings(viewer, workflow, qtbot):
    write(qtbot, workflow.cells.diameter, "20")
    plane = np.asarray(viewer.layers["a"].data)
    whole = segment_cells(plane, SegmentationConfig(diameter=20))
    look_at(qtbot, viewer, (200, 200), 1.5)
    layer = previewed(qtbot, workflow, lambda: click_tick(qtbot, workflow.cells.live))
    first = region_of(layer)
    assert_same_cells(np.asarray(layer.data), whole[first])
    for change in (
        lambda: look_at(qtbot, viewer, (500, 500), 1.5),
        lambda: look_at(qtbot, viewer, (500, 500), 2),
    ):
        same = previewed(qtbot, workflow, change)
        # One layer all the time; another would take the selection and flicker.
        assert same is layer
        assert region_of(layer) != first
        assert_same_cells(np.asarray(layer.data), whole[region_of(layer)])
        first = region_of(layer)
    before = layer.data.max()
    previewed(qtbot, workflow, lambda: write(qtbot, workflow.cells.diameter, "9"))
    assert layer.data.max() > before
    shown = np.asarray(layer.data)
    click_tick(qtbot, workflow.cells.live)
    look_at(qtbot, viewer, (200, 200), 4)
    write(qtbot, workflow.cells.diameter, "40")
    qtbot.wait(500)
    assert not workflow.preview.jobs.is_running
    np.testing.assert_array_equal(layer.data, shown)


def test_the_same_view_is_not_segmented_again(viewer, workflow, qtbot):
    previewed(qtbot, workflow, lambda: click(qtbot, workflow.cells.live))
    begun: list[bool] = []
    workflow.preview.jobs.running_changed.connect(begun.append)
    workflow.session.images.edit_rows([0], condition="x")
    viewer.add_points([[1, 1]])
    qtbot.wait(500)
    assert begun == []


def test_the_image_that_fills_the_view_is_taken_where_the_selected_one_is_not_in_it(
    viewer, workflow, qtbot
):
    other = viewer.add_image(transfluor()[5].read()[0], name="b", translate=(0, 2000))
    qtbot.waitUntil(lambda: len(workflow.session.images.rows) == 2)
    look_at(qtbot, viewer, (300, 300), 3)
    assert viewer.layers.selection.active.name == "b"
    layer = previewed(qtbot, workflow, lambda: click(qtbot, workflow.cells.preview))
    assert layer.name == "preview of cells, a, part in view"
    look_at(qtbot, viewer, (250, 2250), 3)
    layer = previewed(qtbot, workflow, lambda: click(qtbot, workflow.cells.preview))
    assert layer.name == "preview of cells, b, part in view"
    np.testing.assert_array_equal(layer.scale, other.scale)


def test_the_frame_at_the_slider_is_previewed(viewer, qtbot):
    workflow = open_workflow(viewer)
    frames = np.stack([f.read()[0][:160, :160] for f in transfluor()[:3]])
    viewer.add_image(frames, name="movie", translate=(10, 0, 0))
    workflow.session.images.set_layout(Layout(channel_axis="none"), viewer.layers)
    click(qtbot, workflow.cells.heading)
    viewer.dims.set_current_step(0, 2)
    layer = previewed(qtbot, workflow, lambda: click(qtbot, workflow.cells.preview))
    np.testing.assert_array_equal(layer.data, segment_cells(frames[2])[None])
    assert layer.translate[0] == 12
    assert workflow.status.text() == f"{layer.data.max()} cells in movie [2]."


def test_no_preview_runs_beside_a_run(viewer, workflow, qtbot):
    previewed(qtbot, workflow, lambda: click(qtbot, workflow.cells.live))
    begun: list[bool] = []
    click(qtbot, workflow.cells.run_button)
    workflow.preview.jobs.running_changed.connect(begun.append)
    look_at(qtbot, viewer, (200, 200), 6)
    qtbot.waitUntil(lambda: not workflow.jobs.is_running)
    assert begun == []
    assert [x.name for x in outputs(viewer)] == ["cells, a"]


def test_closing_the_dock_ends_the_live_preview(viewer, workflow, qtbot):
    previewed(qtbot, workflow, lambda: click(qtbot, workflow.cells.live))
    viewer.window.remove_dock_widget(workflow)
    look_at(qtbot, viewer, (200, 200), 6)
    qtbot.wait(500)
    assert not workflow.preview.jobs.is_running
