"""Activations copied beside the labels of cells, in stacks of the frame in view."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import Qt
from skimage.measure import regionprops_table

from napari_microdl.gui.session.layers import TAG, Layout, Source
from napari_microdl.pipeline.run import PipelineResult, run_pipeline

from .clicks import click_save
from .conftest import SIZE, SMALL, SQUARES
from .steps import outputs

QUICK = SMALL.with_settings(unit="cell", n_atoms=8, max_steps=5, whiten=False)


def finish_run(session: Any, layers: Any, channel_axis: Any) -> PipelineResult:
    """A run on the labels of the person, in fields of one image."""
    session.images.set_layout(Layout(channel_axis=channel_axis), layers)
    session.settings.choose(cell_source="labels")
    session.plan.take_config(QUICK)
    fields, sources, config = session.plan.prepare()
    session.finish(run_pipeline(fields, config), fields, sources)
    return session.run.current.result


@pytest.mark.parametrize("flat", [False, True], ids=["labels a frame", "labels for all frames"])
def test_a_hovered_cell_reads_its_own_frame(viewer, bare_explorer, small_run, qtbot, told, flat):
    """In a series of four frames with labels of every frame, or one for all."""
    stack = np.stack([field.read()[0] for field in small_run.fields])
    labels = np.stack([np.roll(SQUARES, 32 * frame, axis=0) for frame in range(4)])
    # Frames half a unit apart, from 3 on: a frame is no step of the slider by itself.
    lie = {"scale": (0.5, 1, 1), "translate": (3, 0, 0)}
    viewer.add_image(stack, name="series", **lie)
    cells = SQUARES if flat else labels
    own = viewer.add_labels(cells, name="series cells", **({} if flat else lie))
    activations = finish_run(bare_explorer.session, viewer.layers, "none").activations
    qtbot.waitUntil(lambda: bare_explorer.table.currentIndex().isValid())
    click_save(bare_explorer, "features", qtbot)
    assert told[0].startswith("Activations of 8 concepts copied to 1 Labels layer. Where")
    slider = bare_explorer.viewer.window._qt_viewer.dims.slider_widgets[0].slider

    def check() -> None:
        table = own.features.sort_values(["frame", "index"])
        assert len(table) == 100
        np.testing.assert_array_equal(table["frame"], np.repeat(range(4), 25))
        units = activations.units.sort_values(["field", "label"])
        np.testing.assert_array_equal(table["index"], units["label"])
        for concept in range(8):
            name = activations.dictionary.names[concept]
            np.testing.assert_array_equal(table[name], activations.activation(concept)[units.index])

    check()
    slider.setFocus()
    seen = []
    for step in (None, Qt.Key.Key_Left, Qt.Key.Key_Left, Qt.Key.Key_Right):
        if step is not None:
            qtbot.keyClick(slider, step)
        frame = int(viewer.dims.current_step[0])
        seen.append(frame)
        y, x = 40, 70
        label = int(own.data[y, x] if flat else own.data[frame, y, x])
        place = (y, x) if flat else own.data_to_world((frame, y, x))
        status = own.get_status(place, view_direction=None, dims_displayed=[-2, -1], world=True)
        ids, values = activations.unit_values(frame, 3)
        (value,) = values[ids == label]
        assert f"frame: {frame}" in status["coordinates"]
        shown = next(
            text.strip() for text in status["coordinates"].split(",") if "concept 3" in text
        )
        assert float(shown.split(": ")[1]) == pytest.approx(value, rel=5e-3, abs=1e-3)
    assert len(set(seen)) > 2
    check()


def test_labels_with_a_channel_axis_alone_have_a_row_a_label(
    viewer, bare_explorer, small_run, qtbot, told
):
    stack = np.stack([field.read()[0] for field in small_run.fields[:2]])
    assert stack.shape == (2, SIZE, SIZE)
    viewer.add_image(stack, name="two channels")
    own = viewer.add_labels(SQUARES, name="two channels cells")
    finish_run(bare_explorer.session, viewer.layers, 0)
    click_save(bare_explorer, "features", qtbot)
    assert told == ["Activations of 8 concepts copied to 1 Labels layer."]
    assert own.features["index"].tolist() == list(range(1, 26))
    assert "frame" not in own.features


@pytest.fixture(scope="module")
def two_fields(small_run) -> PipelineResult:
    return run_pipeline(small_run.fields[:2], QUICK)


@pytest.mark.parametrize("own", [False, True], ids=["built-in cells", "own labels"])
def test_activations_are_copied_to_the_labels_and_stay(
    bare_explorer, small_run, two_fields, qtbot, told, own
):
    viewer, session = bare_explorer.viewer, bare_explorer.session
    sources = []
    for number, field in enumerate(small_run.fields[:2]):
        layer = viewer.add_image(field.read()[0], name=field.name)
        sources.append(Source(weakref.ref(layer), (), field.name, has_own_labels=own))
        if own:
            labels = viewer.add_labels(two_fields.labels[number], name=f"mine {number}")
            session.images.update(viewer.layers)
            rows = enumerate(session.images.rows)
            row = next(n for n, r in rows if r.layer() is layer)
            session.images.edit_rows([row], labels=weakref.ref(labels))
    session.finish(two_fields, small_run.fields[:2], sources)
    click_save(bare_explorer, "features", qtbot)
    if not own:
        assert "No open Labels layer shows the cells" in told.pop()
        session.view.show(kinds=["cells"], all_fields=True)
        click_save(bare_explorer, "features", qtbot)
    assert told == ["Activations of 8 concepts copied to 2 Labels layers."]
    session.view.show_concept(int(two_fields.activations.ranking.index[1]))
    shown = [x.metadata[TAG] | {"layer": x} for x in outputs(viewer)]
    outlines = {tag["field"]: tag["layer"] for tag in shown if tag["kind"] == "cells"}
    for number in range(2):
        layer = viewer.layers[f"mine {number}"] if own else outlines[number]
        ids, values = two_fields.activations.unit_values(number, 3)
        features = layer.features.set_index("index")
        np.testing.assert_allclose(features.loc[ids, "concept 3"], values)
        # What napari shows in its status bar for a hovered cell.
        y, x = np.argwhere(two_fields.labels[number] == ids[0])[0]
        shown = layer.get_status((y, x))["coordinates"]
        assert "concept 3" in shown


def test_what_a_person_has_measured_stays_beside_it(viewer, bare_explorer, small_run, qtbot, told):
    """In a series of which every frame has the same labels, measured once a label."""
    stack = np.stack([field.read()[0] for field in small_run.fields])
    viewer.add_image(stack, name="series")
    measured = pd.DataFrame(regionprops_table(SQUARES, properties=("label", "area_bbox")))
    # A column that is called like one of ours, and a label that is no cell.
    measured = pd.concat([measured.assign(well="mine"), pd.DataFrame({"label": [99]})])
    own = viewer.add_labels(SQUARES, name="series cells", features=measured)
    activations = finish_run(bare_explorer.session, viewer.layers, "none").activations
    areas = np.bincount(SQUARES.ravel())
    for _ in range(2):
        click_save(bare_explorer, "features", qtbot)
        assert len(own.features) == 101
        cells = own.features[own.features["index"] != 99].sort_values(["frame", "index"])
        np.testing.assert_array_equal(cells["area_bbox"], areas[cells["index"]])
        assert set(cells["well (before)"]) == {"mine"}
        units = activations.units.sort_values(["field", "label"])
        np.testing.assert_array_equal(cells["concept 3"], activations.activation(3)[units.index])
        assert "area_bbox" in own.get_status((40, 70))["coordinates"]
    # Measured in every frame, and nothing says in which.
    own.features = pd.concat([measured, measured])
    click_save(bare_explorer, "features", qtbot)
    assert told[-1].startswith("The features of 'series cells' have several rows for one label")
    assert list(own.features) == list(measured)
    own.features = pd.concat([measured.assign(frame=frame, focus=frame / 2) for frame in range(4)])
    click_save(bare_explorer, "features", qtbot)
    cells = own.features[own.features["index"] != 99]
    assert len(cells) == 100
    np.testing.assert_array_equal(cells["focus"], cells["frame"] / 2)
