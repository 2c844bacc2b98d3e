from __future__ import annotations

import numpy as np

from napari_microdl.gui.layers import FIELD_TAG
from napari_microdl.gui.sample_data import load_transfluor
from napari_microdl.samples import transfluor


def test_the_sample_opens_as_eight_fields_with_conditions_and_controls():
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


def test_no_two_fields_overlap():
    places = {meta["translate"] for _, meta, _ in load_transfluor()}
    assert len(places) == 8
    rows = sorted({y for y, _ in places})
    columns = sorted({x for _, x in places})
    assert min(np.diff(rows)) > 512
    assert min(np.diff(columns)) > 512


def test_the_manifest_opens_it_in_napari(open_viewer):
    viewer = open_viewer()
    viewer.open_sample("napari-microdl", "transfluor")
    assert len(viewer.layers) == 8
