from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari import Viewer
from napari.layers import Image
from qtpy.QtCore import QTimer

from napari_microdl.concepts.heat import SHOWN_TO
from napari_microdl.concepts.painting import grid_to_pixels
from napari_microdl.fields.segmentation import segment_cells
from napari_microdl.gui.dock import session_of
from napari_microdl.gui.overlays.overlays import diverging, side_by_side
from napari_microdl.gui.session.layers import TAG, Source
from napari_microdl.gui.session.session import Session
from napari_microdl.pipeline.run import run_pipeline

from .conftest import sources_of
from .steps import assert_outlined, covered, selection_outlines
from .steps import outputs as shown_outputs


def outputs(viewer: Any, kind: str) -> list[Any]:
    """Layers of a kind that are shown."""
    return [x for x in shown_outputs(viewer) if x.metadata[TAG]["kind"] == kind]


def test_the_heatmap_is_transparent_where_it_says_nothing():
    for shown_from in (0, 0.5, 1, SHOWN_TO - 0.5):
        colours = diverging(shown_from)
        assert colours.map(np.array([0.0, 1.0]))[:, 3].tolist() == [1, 1]
        heat = np.linspace(-SHOWN_TO, SHOWN_TO, 241)
        seen = colours.map((heat + SHOWN_TO) / (2 * SHOWN_TO))[:, 3] > 0.1
        clear = abs(abs(heat) - shown_from) > 0.03
        np.testing.assert_array_equal(seen[clear], (abs(heat) > shown_from)[clear])


def test_heat_is_shown_from_where_the_person_says(viewer, session, activations):
    session.view.show(kinds=["heatmap"])
    (layer,) = outputs(viewer, "heatmap")
    data = layer.data.copy()
    for shown_from in (0.0, 2.5):
        session.view.show(heat_from=shown_from)
        (same,) = outputs(viewer, "heatmap")
        assert same is layer
        np.testing.assert_array_equal(layer.data, data)
        np.testing.assert_allclose(layer.colormap.colors, diverging(shown_from).colors)
        np.testing.assert_allclose(layer.colormap.controls, diverging(shown_from).controls)


@pytest.fixture
def viewer(open_viewer) -> Viewer:
    """As the plugin has it."""
    return open_viewer().__wrapped__


@pytest.fixture
def session(viewer, small_run) -> Session:
    """The finished small run on images that lie askew."""
    layers = [
        viewer.add_image(
            field.read()[0],
            name=field.name,
            scale=(0.5, 0.25),
            translate=(0, number * 100),
            rotate=15,
            shear=[0.2],
            affine=[[1, 0, 3], [0, 1.2, 4], [0, 0, 1]],
            units=("um", "um"),
            axis_labels=("y", "x"),
        )
        for number, field in enumerate(small_run.fields)
    ]
    session = session_of(viewer)
    session.finish(small_run.result, small_run.fields, sources_of(layers, small_run.fields))
    session.view.show(all_fields=False)
    return session


def test_overlays_show_what_the_core_computed(viewer, session, activations):
    session.view.show(kinds=["heatmap", "activation"], all_fields=True)
    for concept in (session.view.concept, activations.ranking.index[3]):
        session.view.show_concept(int(concept))
        heatmaps, painted = outputs(viewer, "heatmap"), outputs(viewer, "activation")
        assert len(heatmaps) == len(painted) == 4
        for layer in heatmaps:
            field = layer.metadata[TAG]["field"]
            grid = activations.heat.compared(field, concept)
            # One value a patch, and the graphics card interpolates.
            np.testing.assert_array_equal(layer.data, grid)
            assert layer.interpolation2d == "linear"
            low, high = layer.contrast_limits
            assert (low, high) == (-SHOWN_TO, SHOWN_TO)
        for layer in painted:
            field = layer.metadata[TAG]["field"]
            _, values = activations.unit_values(field, concept)
            boxes = activations.geometry[field].boxes
            # The upper left corner of the image lies in the first crop alone.
            assert layer.data[0, 0] == pytest.approx(values[0], abs=1e-6)
            inside = layer.data[boxes[:, 0].min() : boxes[:, 2].max()]
            assert np.nanmax(inside) <= values.max() + 1e-5
            assert layer.contrast_limits[1] == pytest.approx(
                float(activations.activation(concept).max())
            )


def test_overlays_carry_the_transforms_of_their_source(viewer, session):
    session.view.show(kinds=["heatmap", "activation"], all_fields=True)
    for overlay in outputs(viewer, "heatmap") + outputs(viewer, "activation"):
        source = session.run.current.sources[overlay.metadata[TAG]["field"]].layer()
        for name in ("rotate", "shear"):
            np.testing.assert_allclose(getattr(overlay, name), getattr(source, name))
        np.testing.assert_allclose(overlay.affine.affine_matrix, source.affine.affine_matrix)
        assert overlay.units == source.units
        assert overlay.axis_labels == source.axis_labels
        patch = 8 if overlay.metadata[TAG]["kind"] == "heatmap" else 1
        assert overlay.data.shape == tuple(n // patch for n in source.data.shape)
        # The outer corners of the first pixels, and a place inside.
        for place in ((-0.5, -0.5), (9, 2), (159.5, 80)):
            inside = (np.array(place) + 0.5) / patch - 0.5
            np.testing.assert_allclose(
                overlay.data_to_world(inside), source.data_to_world(place), atol=1e-9
            )


def test_the_drawn_heatmap_is_that_of_every_pixel(viewer, explorer, small_run):
    session = explorer.session
    source = session.run.current.sources[0].layer()
    source.scale, source.rotate = (0.5, 0.25), 15
    session.view.show(kinds=[], all_fields=False)
    viewer.layers.selection.active = source
    session.view.show(kinds=["heatmap"])
    (layer,) = outputs(viewer, "heatmap")
    layer.opacity = 1
    for other in viewer.layers:
        other.visible = other is layer
    viewer.reset_view()
    drawn = viewer.screenshot(canvas_only=True, flash=False).astype(int)
    layer.visible = False
    viewer.add_image(
        grid_to_pixels(layer.data, 8, small_run.fields[0].shape),
        contrast_limits=layer.contrast_limits,
        colormap=layer.colormap,
        blending="translucent",
        scale=source.scale,
        rotate=source.rotate,
    )
    expected = viewer.screenshot(canvas_only=True, flash=False).astype(int)
    assert np.ptp(expected[..., :3].reshape(-1, 3), axis=0).max() > 100
    # Pixels on the rim of the image, which lies askew, may fall to either side.
    assert np.quantile(np.abs(drawn - expected).max(axis=-1), 0.99) <= 12


def test_the_first_run_is_shown_on_all_images_only_where_they_lie_side_by_side():
    apart = [Image(np.zeros((9, 9)), translate=(0, 9 * i)) for i in range(3)]
    assert side_by_side(apart)
    assert not side_by_side([*apart, Image(np.zeros((9, 9)), translate=(4, 4))])
    assert not side_by_side([*apart, None])
    assert not side_by_side(apart[:1])


def test_overlays_follow_the_selected_image_leave_it_selected_and_say_where_they_come_from(
    viewer, session, small_run
):
    for number in (0, 2):
        image = session.run.current.sources[number].layer()
        viewer.layers.selection.active = image
        (overlay,) = outputs(viewer, "activation")
        tag = overlay.metadata[TAG]
        assert tag["run_id"] == session.run.current.run_id
        assert tag["config_hash"] == small_run.config.hash
        assert (tag["field"], tag["source"]) == (number, small_run.fields[number].name)
        assert viewer.layers.selection.active is image


def test_layers_are_made_once_and_serve_again(viewer, session, small_run):
    """To make a layer or to remove one takes napari half a second."""
    session.view.show(kinds=["heatmap", "activation"], all_fields=True)
    heatmaps = {x.metadata[TAG]["field"]: x for x in outputs(viewer, "heatmap")}
    there = list(viewer.layers)
    images = [source.layer() for source in session.run.current.sources]
    session.view.show(kinds=["heatmap"], all_fields=False)
    for field in (3, 1):
        viewer.layers.selection.active = images[field]
        assert outputs(viewer, "heatmap") == [heatmaps[field]]
    assert not outputs(viewer, "activation")
    # A person's own eye wants one again.
    first = next(x for x in there if x.metadata.get(TAG, {}).get("kind") == "activation")
    first.visible = True
    assert session.view.kinds == {"heatmap", "activation"}
    field = first.metadata[TAG]["field"]
    assert viewer.layers.selection.active is images[field]
    assert [x.metadata[TAG]["field"] for x in shown_outputs(viewer)][-2:] == [field, field]
    session.finish(small_run.result, small_run.fields, session.run.current.sources)
    shown_outputs(viewer)
    assert set(viewer.layers) == set(there)
    run_ids = {x.metadata[TAG]["run_id"] for x in shown_outputs(viewer)}
    assert run_ids == {session.run.current.run_id}


def test_a_picture_serves_an_image_of_another_size_and_place(viewer, session):
    sources = session.run.current.sources
    (layer,) = outputs(viewer, "activation")
    for other in [x for x in viewer.layers if TAG in x.metadata and not x.visible]:
        viewer.layers.remove(other)
    rows_of = session.run.current.result.activations.rows_of_field
    session.selection.select(rows_of(layer.metadata[TAG]["field"])[:1])
    (outline,) = selection_outlines(viewer)
    sources[2].layer().translate = (400, 30)
    sources[2].layer().scale = (2, 2)
    viewer.layers.selection.active = sources[2].layer()
    (again,) = outputs(viewer, "activation")
    assert again is layer
    session.selection.select(rows_of(2)[:1])
    assert selection_outlines(viewer) == [outline]
    np.testing.assert_array_equal(again.extent.world, sources[2].layer().extent.world)
    box = session.run.current.result.activations.geometry[2].boxes[:1]
    image = sources[2].layer()
    assert_outlined(outline, image, covered(box, image.data.shape))


def test_clean_up_goes_by_tag_and_not_by_name(viewer, session, small_run):
    session.view.show(kinds=["heatmap", "activation"], all_fields=True)
    mine = viewer.add_image(np.zeros((4, 4)), name=outputs(viewer, "heatmap")[0].name)
    outputs(viewer, "heatmap")[1].name = "renamed by the user"
    old = session.run.current.run_id
    session.view.show(all_fields=False)
    session.finish(small_run.result, small_run.fields, session.run.current.sources)
    tags = [x.metadata[TAG] for x in shown_outputs(viewer)]
    assert mine in viewer.layers
    assert len(tags) == 2
    assert all(tag["run_id"] != old for tag in tags)


def test_cells_are_painted_and_outlined_with_their_features(viewer, small_run):
    # Labels need not be 1, 2, 3: other tools leave gaps.
    fields = [replace(f, labels=segment_cells(f.read()[0]) * 1000) for f in small_run.fields[1:3]]
    config = small_run.config.with_settings(unit="cell", n_atoms=4, shrinkage=1.0)
    result = run_pipeline(fields, config)
    layers = [viewer.add_image(f.read()[0], name=f.name) for f in fields]
    session = session_of(viewer)
    session.finish(result, fields, sources_of(layers, fields))
    session.view.show(kinds=["activation", "cells"], all_fields=True, outlined=False)
    images = {x.metadata[TAG]["field"]: x for x in outputs(viewer, "activation")}
    outlines = {x.metadata[TAG]["field"]: x for x in outputs(viewer, "cells")}
    assert set(images) == set(outlines) == {0, 1}
    for field, image in images.items():
        ids, values = result.activations.unit_values(field, session.view.concept)
        np.testing.assert_array_equal(outlines[field].data, fields[field].labels)
        np.testing.assert_array_equal(outlines[field].features["index"], ids)
        for label, value in zip(ids, values, strict=True):
            assert (image.data[fields[field].labels == label] == value).all()
        assert np.isnan(image.data[fields[field].labels == 0]).all()
    # Another plugin writes a table of its own, in its order and not of all cells.
    ids, _ = result.activations.unit_values(0, 0)
    measured = ids[-2::-1]
    outlines[0].features = pd.DataFrame({"index": measured, "roundness": measured / 7})
    session.view.show_concept(int(result.activations.ranking.index[1]))
    outputs(viewer, "cells")
    features = outlines[0].features.set_index("index")
    np.testing.assert_array_equal(features.loc[measured, "roundness"], measured / 7)
    assert np.isnan(features.loc[ids[-1], "roundness"])
    assert "activation" in features


def test_the_overlay_on_the_selected_image_follows_the_slider(
    viewer, explorer, activations, small_run, qtbot
):
    viewer.layers.clear()
    stack = viewer.add_image(np.stack([f.read()[0] for f in small_run.fields]), name="movie")
    # An image that begins earlier shifts the steps of the slider against the frames.
    viewer.add_image(np.zeros((7, 4, 4)), name="longer", translate=(-3, 0, 0))
    sources = [
        Source(weakref.ref(stack), (frame,), field.name)
        for frame, field in enumerate(small_run.fields)
    ]
    session = explorer.session
    session.finish(small_run.result, small_run.fields, sources)
    session.view.show(kinds=["activation"], all_fields=False)
    viewer.layers.selection.active = stack
    for frame in (2, 0, 3):
        viewer.dims.set_point(0, frame)
        (overlay,) = shown_outputs(viewer)
        assert overlay.metadata[TAG]["field"] == frame
        assert overlay.translate[0] == frame
        painted = overlay.data.reshape(overlay.data.shape[-2:])
        _, values = activations.unit_values(frame, session.view.concept)
        assert painted[0, 0] == np.float32(values[0])
        assert explorer.overlays.field_of(session.run.current.sources[0].layer()) == frame
    # The overlay itself may be selected, too.
    viewer.layers.selection.active = overlay
    viewer.dims.set_point(0, 1)
    (overlay,) = shown_outputs(viewer)
    assert overlay.metadata[TAG]["field"] == 1


def test_many_layers_come_one_by_one_and_the_window_answers_between(viewer, session, qtbot):
    """The window answers after each, and what is wanted no more does not come."""
    session.view.show(kinds=[])
    there = len(viewer.layers)
    turns: list[int] = []
    timer = QTimer(interval=0)
    timer.timeout.connect(lambda: turns.append(len(viewer.layers)))
    timer.start()
    session.view.show(kinds=["heatmap"], all_fields=True)
    assert len(viewer.layers) == there
    qtbot.waitUntil(lambda: len(viewer.layers) == there + 4)
    assert {there + 1, there + 2, there + 3} <= set(turns)
    session.view.show(kinds=["heatmap", "activation"])
    session.view.show(kinds=["heatmap"])
    qtbot.wait(50)
    timer.stop()
    assert [x.metadata[TAG]["kind"] for x in shown_outputs(viewer)] == ["heatmap"] * 4
    assert len(viewer.layers) == there + 4
