"""Images that lie on top of each other, in a real window."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari.layers import Image, Labels

from napari_microdl.gui.overlays.arranging import CAPTIONS, places, share_a_place
from napari_microdl.gui.session.layers import TAG
from napari_microdl.gui.session.viewer_parts import camera_of, canvas_size, grid_of, text_of

from .conftest import SMALL, SQUARES, small_layers, take_squares
from .steps import choose, click, open_explorer, open_workflow, outputs, run, run_step, write

SIZES = st.tuples(st.floats(1, 500), st.floats(1, 500))
CONDITIONS = st.tuples(st.booleans(), st.sampled_from(["", "a", "b"]))


@given(st.lists(st.tuples(SIZES, CONDITIONS), max_size=30))
def test_places_are_apart_and_controls_above(fields):
    sizes, conditions = [size for size, _ in fields], [condition for _, condition in fields]
    corners = places(sizes, conditions)
    boxes = [np.array([at, np.add(at, size)]) for at, size in zip(corners, sizes, strict=True)]
    assert not share_a_place(boxes).any()
    tops = {
        c: [y for (y, _), d in zip(corners, conditions, strict=True) if d == c] for c in conditions
    }
    for one, other in combinations(tops, 2):
        # No two conditions in one row.
        assert set(tops[one]).isdisjoint(tops[other])
        if one[0] and not other[0]:
            assert max(tops[one]) < min(tops[other])


def test_neighbours_that_touch_share_no_place():
    apart = [Image(np.zeros((9, 9)), scale=(0.1, 0.1), translate=(0, 0.9 * n)) for n in range(7)]
    assert not share_a_place([layer.extent.world for layer in apart]).any()
    on_top = Image(np.zeros((2, 9, 9)), scale=(1, 0.1, 0.1), translate=(0, 0.4, 0.4))
    shares = share_a_place([layer.extent.world for layer in (*apart, on_top)])
    assert shares[-1].tolist() == [True, True, *[False] * 6]


@pytest.fixture
def stacked(viewer, qtbot):
    """The workflow dock with four fields that lie on top of each other, the last one above."""
    dock = open_workflow(viewer)
    for layer in small_layers():
        layer.translate = (0, 0)
        viewer.add_layer(layer)
    qtbot.waitUntil(lambda: len(dock.session.images.rows) == 4)
    dock.session.plan.take_config(SMALL.with_settings(max_steps=10))
    return dock


def boxes_of(viewer):
    return {
        x.name: x.extent.world
        for x in viewer.layers
        if isinstance(x, Image) and TAG not in x.metadata
    }


def captions(viewer):
    return [x for x in outputs(viewer) if x.metadata[TAG]["kind"] == CAPTIONS]


def test_images_on_top_of_each_other_are_arranged_and_put_back_by_a_click(viewer, stacked, qtbot):
    fields = stacked.fields
    labels = take_squares(qtbot, stacked)
    rows = stacked.session.images
    qtbot.waitUntil(lambda: all(row.labels_layer() is not None for row in rows.rows))
    before = boxes_of(viewer)
    assert fields.on_top.isVisible()
    assert not fields.restore.isVisible()
    click(qtbot, fields.arrange)
    after = boxes_of(viewer)
    assert not share_a_place(list(after.values())).any()
    top = {name: box[0, 0] for name, box in after.items()}
    assert {top[name] for name in top if "control" in name} == {before["O05 f01 (puncta)"][0, 0]}
    assert all(top[name] > max(before[name][:, 0]) for name in top if "control" not in name)
    for layer in labels:
        (image,) = (x for x in viewer.layers if f"{x.name} cells" == layer.name)
        np.testing.assert_allclose(layer.extent.world, image.extent.world)
    (shown,) = captions(viewer)
    assert sorted(shown.text.values) == ["O05 puncta", "O07 puncta", "O11 control", "O12 control"]
    assert not fields.on_top.isVisible()
    assert not fields.arrange.isVisible()
    # Another condition belongs elsewhere, and its caption says so at once.
    fields.table.selectRow(0)
    write(qtbot, fields.condition, "drug")
    click(qtbot, fields.set_condition)
    assert "O05 drug" in captions(viewer)[0].text.values
    click(qtbot, fields.arrange)
    assert len({box[0, 0] for box in boxes_of(viewer).values()}) == 3
    # Two fields of one well are told apart.
    for row, site in ((2, "1"), (3, "2")):
        rows.edit_rows([row], well="B02", site=site)
    assert {"B02 s1 control", "B02 s2 control"} < set(captions(viewer)[0].text.values)
    click(qtbot, fields.restore)
    for name, box in boxes_of(viewer).items():
        np.testing.assert_array_equal(box, before[name])
    assert not captions(viewer)
    assert fields.on_top.isVisible()


def paired(workflow):
    """Where labels of the fields lie from their image, by the name of the labels."""
    rows = [(r.labels_layer(), r.layer()) for r in workflow.session.images.rows]
    boxes = {x.name: x.extent.world - image.extent.world for x, image in rows if x is not None}
    return {name: np.abs(box).max().round(9) for name, box in boxes.items()}


def test_labels_of_arranged_images_go_along_whenever_they_came(viewer, stacked, qtbot):
    click(qtbot, stacked.fields.arrange)
    first, second, *_ = (x for x in viewer.layers if isinstance(x, Image))
    # Opened where the image was before, and made where it is now.
    viewer.add_labels(SQUARES, name=f"{first.name} cells")
    made = Labels(SQUARES, name=f"{second.name} cells", affine=second.affine.affine_matrix)
    viewer.add_layer(made)
    qtbot.waitUntil(lambda: len(paired(stacked)) == 2)
    qtbot.waitUntil(lambda: set(paired(stacked).values()) == {0})
    click(qtbot, stacked.fields.restore)
    assert set(paired(stacked).values()) == {0}
    np.testing.assert_array_equal(made.extent.world, first.extent.world)


def test_labels_that_lie_elsewhere_are_refused_until_they_are_moved(viewer, stacked, qtbot):
    click(qtbot, stacked.fields.arrange)
    images = [row.layer() for row in stacked.session.images.rows]
    far = viewer.add_labels(SQUARES, name=f"{images[0].name} cells", translate=(0, 5000))
    stacked.session.settings.configure(unit="cell")
    click(qtbot, stacked.cells.heading)
    choose(qtbot, stacked.cells.source, "My Labels layers")
    assert not stacked.cells.lay_on_images.isVisible()
    assert paired(stacked) == {}
    for place in range(4):
        choose(qtbot, stacked.cells.labels.cellWidget(place, 1), far.name)
    click(qtbot, stacked.cells.run_button)
    refused = f"⚠ The labels '{far.name}', '{far.name}', '{far.name}' and 1 more lie"
    assert stacked.status.text().startswith(refused)
    # Moved there by hand, they are those of one image.
    far.affine = images[3].affine.affine_matrix
    far.translate = (0, 0)
    for place in range(3):
        choose(qtbot, stacked.cells.labels.cellWidget(place, 1), "choose...")
    assert not stacked.cells.lay_on_images.isVisible()
    # One for all by pixel, for which it is copied.
    far.translate = (0, 5000)
    for place in range(3):
        choose(qtbot, stacked.cells.labels.cellWidget(place, 1), far.name)
    click(qtbot, stacked.cells.run_button)
    assert stacked.status.text().startswith(refused)
    click(qtbot, stacked.cells.lay_on_images)
    assert not stacked.status.text()
    assert len(paired(stacked)) == 4
    assert set(paired(stacked).values()) == {0}
    assert not stacked.cells.lay_on_images.isVisible()
    click(qtbot, stacked.fields.restore)
    assert set(paired(stacked).values()) == {0}
    run_step(qtbot, stacked, "cells")
    assert stacked.status.text() == "100 cells in 4 fields, 25 to 25 in each; of your labels."


def test_channels_of_a_field_stay_together(viewer, stacked, qtbot):
    choose(qtbot, stacked.fields.arrangement, "Images are channels")
    # All four are channels of one field.
    assert not stacked.fields.on_top.isVisible()
    for number, group in enumerate("xxyy"):
        stacked.session.images.edit_rows([number], group=group, well="", condition="")
    click(qtbot, stacked.fields.arrange)
    boxes = list(boxes_of(viewer).values())
    np.testing.assert_array_equal(boxes[0], boxes[1])
    np.testing.assert_array_equal(boxes[2], boxes[3])
    assert not share_a_place(boxes[1:3]).any()


def test_one_field_is_shown_alone_and_a_unit_from_near_by(viewer, stacked, qtbot):
    explorer = open_explorer(viewer)
    result = run(qtbot, stacked)
    images = [source.layer() for source in stacked.session.run.current.sources]
    units = result.activations.units
    for field in (2, 0):
        row = int(np.flatnonzero(units["field"] == field)[7])
        camera_of(viewer).zoom = 0.1
        explorer.go_to_unit(row)
        assert [image.visible for image in images] == [n == field for n in range(4)]
        (overlay,) = (x for x in outputs(viewer) if x.metadata[TAG]["kind"] == "activation")
        assert overlay.visible
        assert overlay.metadata[TAG]["field"] == field
        edge = min(canvas_size(viewer.__wrapped__)) / camera_of(viewer).zoom
        assert edge / SMALL.units.crop_size == pytest.approx(5, rel=0.03)
        np.testing.assert_allclose(
            camera_of(viewer).center[-2:], units.loc[row, ["y", "x"]].to_numpy(float)
        )
    # Who is about as near already stays there.
    camera_of(viewer).zoom *= 1.5
    zoom = camera_of(viewer).zoom
    explorer.go_to_unit(8)
    assert camera_of(viewer).zoom == zoom
    # By the list of layers too.
    viewer.layers.selection.active = images[3]
    assert [image.visible for image in images] == [False, False, False, True]
    choose(qtbot, explorer.where, "on all images")
    assert all(image.visible for image in images)


def test_overlays_go_with_their_images_in_grid_mode_too(viewer, stacked, qtbot, monkeypatch):
    told = []
    monkeypatch.setattr("napari_microdl.gui.overlays.arranging.show_info", told.append)
    explorer = open_explorer(viewer)
    grid = grid_of(viewer.__wrapped__)
    grid.enabled = True
    # Before a run it is the person's own.
    assert grid.enabled
    grid.enabled = False
    run(qtbot, stacked)
    explorer.go_to_unit(0)
    grid.enabled = True
    assert not grid.enabled
    assert len(told) == 1
    current = stacked.session.run.current
    images = [source.layer() for source in current.sources]
    assert all(image.visible for image in images)
    assert explorer.where.currentText() == "on all images"
    shown = [x for x in outputs(viewer) if "field" in x.metadata[TAG]]
    assert {x.metadata[TAG]["field"] for x in shown} == {0, 1, 2, 3}
    for layer in shown:
        image = images[layer.metadata[TAG]["field"]]
        # Lines are drawn where they are in view.
        (low, high), (first, last) = layer.extent.world, image.extent.world
        assert (low >= first - 8).all()
        assert (high <= last + 8).all()
        np.testing.assert_array_equal(layer.affine.affine_matrix, image.affine.affine_matrix)
    # The legend names the field that alone is in view, and none where all are.
    explorer.go_to_unit(0)
    camera_of(viewer).zoom *= 20
    viewer.screenshot(canvas_only=True, flash=False)
    qtbot.waitUntil(lambda: current.fields[0].name in text_of(viewer.__wrapped__).text)
    grid.enabled = True
    qtbot.waitUntil(lambda: current.fields[0].name not in text_of(viewer.__wrapped__).text)
    # Captions outlive the next run.
    assert len(captions(viewer)) == 1
    stacked.session.plan.take_config(SMALL.with_settings(max_steps=11))
    run(qtbot, stacked)
    assert len(captions(viewer)) == 1
    click(qtbot, stacked.fields.restore)
    assert sum(image.visible for image in images) == 1
    assert all(np.array_equal(x.affine.affine_matrix, np.eye(3)) for x in viewer.layers)
