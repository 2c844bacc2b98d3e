from __future__ import annotations

import numpy as np

from napari_microdl.fields.samples import simulated, transfluor
from napari_microdl.gui.plugin.sample_data import load_simulated, load_transfluor
from napari_microdl.gui.session.layers import FIELD_TAG, Layout
from napari_microdl.gui.session.session import Session


def test_the_sample_opens_as_eight_fields_side_by_side_with_conditions_and_controls():
    layers = load_transfluor()
    fields = transfluor()
    assert len(layers) == 8
    for (data, meta, kind), field in zip(layers, fields, strict=True):
        assert kind == "image"
        np.testing.assert_array_equal(data, field.read()[0])
        known = meta["metadata"][FIELD_TAG]
        assert known["condition"] == field.condition
        assert known["is_control"] == field.is_control
    assert layers[0][1]["name"] == "O01 f01 (puncta)"
    assert layers[4][1]["name"] == "O11 f01 (control)"
    # No two overlap.
    places = {meta["translate"] for _, meta, _ in layers}
    assert len(places) == 8
    rows = sorted({y for y, _ in places})
    columns = sorted({x for _, x in places})
    assert min(np.diff(rows)) > 512
    assert min(np.diff(columns)) > 512


def test_the_simulated_plate_opens_with_its_channels_conditions_and_wells():
    layers = load_simulated()
    fields, _ = simulated()
    assert len(layers) == len(fields) == 12
    for (data, meta, kind), field in zip(layers, fields, strict=True):
        assert kind == "image"
        np.testing.assert_array_equal(data, field.read())
        known = meta["metadata"][FIELD_TAG]
        assert known["channel_names"] == ("DNA", "RNA")
        for name in ("condition", "is_control", "well", "site", "plate"):
            assert known[name] == getattr(field, name)
    places = [meta["translate"] for _, meta, _ in layers]
    assert len(set(places)) == 12
    # A row a condition, controls above.
    rows = [y for _, y, _ in places]
    assert rows[0] == 0
    assert rows == sorted(rows)
    assert len(set(rows[::4])) == len(set(rows)) == 3


def test_the_manifest_opens_it_in_napari(viewer):
    viewer.open_sample("napari-microdl", "transfluor")
    assert len(viewer.layers) == 8


def test_the_workflow_takes_the_simulated_plate_as_it_is(viewer):
    viewer.open_sample("napari-microdl", "simulated")
    session = Session()
    session.images.set_layout(Layout(), viewer.layers)
    assert session.plan.problems() == []
    assert [channel.name for channel in session.images.channels] == ["DNA", "RNA"]
    fields, _, _ = session.plan.prepare()
    expected, _ = simulated()
    for ours, theirs in zip(fields, expected, strict=True):
        np.testing.assert_array_equal(ours.read(), theirs.read())
        for name in ("name", "condition", "is_control", "well", "plate"):
            assert getattr(ours, name) == getattr(theirs, name)
