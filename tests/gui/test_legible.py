"""What lies on the images can be read: lines, legend, contrast, and the image below."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from napari_microdl.gui.overlays.overlays import CYAN
from napari_microdl.gui.session.layers import TAG
from napari_microdl.gui.session.viewer_parts import camera_of, scale_bar_of, text_of

from .clicks import click_choice
from .steps import canvas_of, click_tick, outputs, overlays, selection_outlines


def settle(viewer: Any, qtbot: Any) -> None:
    """Wait until lines follow the view."""
    viewer.screenshot(canvas_only=True, flash=False)
    qtbot.wait(120)


def runs_of(line: np.ndarray) -> list[int]:
    """Lengths of the runs of true values, those at the ends left out."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(int)))
    starts, ends = edges[::2], edges[1::2]
    inside = (starts > 0) & (ends < len(line))
    return (ends - starts)[inside].tolist()


@pytest.mark.parametrize("zoom", [0.7, 3.0, 17.0])
def test_a_line_is_two_or_three_pixels_wide_on_the_screen(viewer, cell_explorer, qtbot, zoom):
    explorer = cell_explorer
    run = explorer.session.run.current
    explorer.session.view.show(kinds=["activation"], all_fields=False)
    explorer.go_to_unit(0)
    camera_of(viewer).zoom = zoom
    settle(viewer, qtbot)
    (layer,) = selection_outlines(viewer)
    (activation,) = [x for x in outputs(viewer) if x.metadata[TAG]["kind"] == "activation"]
    image = run.sources[0].layer()
    # One pixel of the layer is one of the screen.
    for lines in (layer, activation):
        np.testing.assert_allclose(lines.scale * zoom, image.scale / image.scale, rtol=0.03)
    for other in viewer.layers:
        other.visible = other is layer
    drawn = viewer.screenshot(canvas_only=True, flash=False)[..., :3] / 255
    bright = np.abs(drawn - CYAN[:3]).max(axis=-1) < 0.1
    labels = run.result.labels[0]
    unit = run.result.activations.units.iloc[0]
    edge = np.sqrt((labels == unit["label"]).sum()) * zoom
    if edge < 12:
        # So small that nothing but the line is left of it.
        assert bright.any()
        return
    # Where a line runs straight up or across: most crossings are as wide as it is.
    widths = [w for lines in (bright, bright.T) for line in lines for w in runs_of(line)]
    assert np.median(widths) == pytest.approx(3, abs=0.5)


def test_what_is_inside_of_a_cell_is_seen_and_a_fill_can_be_had(viewer, cell_explorer, qtbot):
    explorer = cell_explorer
    explorer.go_to_unit(0)
    camera_of(viewer).zoom = 6
    settle(viewer, qtbot)
    run, concept = explorer.session.run.current, explorer.session.view.concept
    field = explorer.overlays.field_in_view()
    ids, values = run.result.activations.unit_values(field, concept)
    labels, image = run.result.labels[field], run.sources[field].layer()

    def shown_values() -> tuple[np.ndarray, np.ndarray]:
        layer = overlays(viewer)["activation"]
        places = [layer.data_to_world(at) for at in np.ndindex(layer.data.shape)]
        rows, columns = np.rint([image.world_to_data(at) for at in places[::7]]).astype(int).T
        return np.asarray(layer.data).ravel()[::7], labels[rows, columns]

    data, of_cell = shown_values()
    drawn = ~np.isnan(data)
    assert 0.02 < drawn[of_cell > 0].mean() < 0.6
    expected = dict(zip(ids, values, strict=True))
    assert data[drawn].tolist() == [expected[label] for label in of_cell[drawn]]
    click_choice(explorer.style, "fill")
    data, of_cell = shown_values()
    np.testing.assert_array_equal(~np.isnan(data), np.isin(of_cell, ids))
    explorer.opacity.setFocus()
    qtbot.keyClick(explorer.opacity, Qt.Key.Key_Home)
    assert overlays(viewer)["activation"].opacity == pytest.approx(0.1)


def test_a_key_held_down_shows_the_image_alone(viewer, cell_explorer, qtbot):
    explorer = cell_explorer
    explorer.session.view.show(kinds=["activation", "heatmap"])
    explorer.go_to_unit(0)
    kinds = explorer.session.view.kinds
    there = outputs(viewer)
    assert len(there) == 3
    canvas = canvas_of(viewer)
    canvas.setFocus()
    QTest.keyPress(canvas, Qt.Key.Key_H)
    assert not any(layer.visible for layer in there)
    QTest.keyRelease(canvas, Qt.Key.Key_H)
    assert all(layer.visible for layer in there)
    qtbot.mousePress(explorer.peek, Qt.MouseButton.LeftButton)
    assert not any(layer.visible for layer in there)
    qtbot.mouseRelease(explorer.peek, Qt.MouseButton.LeftButton)
    assert all(layer.visible for layer in there)
    assert explorer.session.view.kinds == kinds


def test_the_legend_says_what_is_shown_and_leaves_what_a_person_wrote(viewer, cell_explorer, qtbot):
    explorer = cell_explorer
    viewer = viewer.__wrapped__
    run = explorer.session.run.current
    explorer.session.view.show(kinds=["heatmap", "activation"], all_fields=False)
    explorer.go_to_unit(0)
    explorer.overlays.complete()
    text = text_of(viewer)
    name = run.result.activations.name_of(explorer.session.view.concept)
    field = run.fields[explorer.overlays.field_in_view()]
    assert text.visible
    assert text.text.startswith(f"{name}\nactivation in every cell")
    assert field.name in text.text
    assert field.condition in text.text

    def bars() -> list[str]:
        return [x.metadata[TAG]["kind"] for x in outputs(viewer) if x.colorbar.visible]

    assert bars() == ["activation"]
    explorer.session.run.rename_concept(explorer.session.view.concept, "spots")
    assert text.text.startswith("spots\n")
    explorer.session.view.show(kinds=["heatmap"])
    assert bars() == ["heatmap"]
    assert "heat" in text.text
    assert not scale_bar_of(viewer).visible
    click_tick(qtbot, explorer.legend)
    assert bars() == []
    assert not text.visible
    text.text = "mine"
    click_tick(qtbot, explorer.legend)
    assert text.text == "mine"


def test_a_scale_bar_where_the_size_of_pixels_is_known(viewer, cell_explorer):
    run = cell_explorer.session.run.current
    for source in run.sources:
        source.layer().units = ("um", "um")
    cell_explorer.session.finish(run.result, run.fields, run.sources)
    assert scale_bar_of(viewer.__wrapped__).visible


def test_all_fields_in_the_contrast_of_the_controls_and_back(viewer, explorer, qtbot):
    images = explorer.session.images
    images.update(viewer.layers)
    layers = [row.layer() for row in images.rows]
    assert len(layers) == 4
    images.edit_rows([1], is_control=True)
    images.edit_rows([0, 2, 3], is_control=False)
    own = [(10.0 * i, 1000.0 + 100 * i) for i in range(4)]
    for layer, limits in zip(layers, own, strict=True):
        layer.contrast_limits_range = (0, 5000)
        layer.contrast_limits = limits
    click_tick(qtbot, explorer.one_contrast)
    assert [tuple(x.contrast_limits) for x in layers] == [own[1]] * 4
    # By hand on one of them, and an image that comes later.
    layers[3].contrast_limits = (7, 70)
    assert [tuple(x.contrast_limits) for x in layers] == [(7, 70)] * 4
    later = viewer.add_image(np.arange(100.0).reshape(10, 10), name="later")
    images.update(viewer.layers)
    assert tuple(later.contrast_limits) == (7, 70)
    click_tick(qtbot, explorer.one_contrast)
    assert [tuple(x.contrast_limits) for x in layers] == own
    assert tuple(later.contrast_limits) == (0, 99)


def test_lines_are_drawn_for_the_screen_after_a_jump_from_afar(viewer, cell_explorer, qtbot):
    """Selecting a cell draws its outline at once, for the view that is new to all other lines."""
    camera_of(viewer).zoom = 0.3
    settle(viewer, qtbot)
    cell_explorer.go_to_unit(0)
    settle(viewer, qtbot)
    layer = overlays(viewer)["activation"]
    assert layer.scale[-1] * camera_of(viewer).zoom < 1.5
