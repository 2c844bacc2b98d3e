from __future__ import annotations

import dataclasses

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from concepts.test_activations import make
from napari_microdl.concepts.wells import wells_of
from napari_microdl.report.plate_map import VALUES, draw_plate

PLACES = ("A1", "B07", "H12", "C3", "D4")


@pytest.fixture
def plate():
    fields, activations = make()
    fields = [dataclasses.replace(f, well=w) for f, w in zip(fields, PLACES[:4], strict=True)]
    empty = dataclasses.replace(fields[2], name="empty", well="D4")
    table = wells_of(activations, [*fields, empty], ["'field 1' is dim."]).of_concept(
        activations, 2
    )
    # Never active is a value, no cell is none.
    table.loc[3, ["mean_activation", "share_active"]] = 0.0
    return table


def centres(patches):
    return sorted(tuple((p.vertices[:4].mean(0)).round().astype(int)) for p in patches.get_paths())


@pytest.mark.parametrize("column", VALUES)
def test_every_well_has_the_colour_of_its_value(plate, column):
    axes = Figure().subplots()
    draw_plate(axes, plate, column, "cell", "black")
    filled, plain, controls = axes.collections[:3]
    known = plate if column == "flag" else plate[plate["n_units"] > 0]
    assert centres(filled) == sorted(zip(known["column"], known["row"], strict=True))
    if column == "flag":
        assert filled.get_array().tolist() == [0, 1, 0, 0, 2]
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels == ["control", "nothing noted", "named in a note", "no cells"]
    else:
        scale = 100 if column == "share_active" else 1
        np.testing.assert_allclose(filled.get_array(), known[column] * scale)
        filled.update_scalarmappable()
        lowest = matplotlib.colormaps["viridis"](0.0)
        if column != "n_units":
            np.testing.assert_allclose(filled.get_facecolors()[3], lowest)
        (bar,) = axes.child_axes
        assert bar.get_ylabel() == VALUES[column].colour_bar.format(unit="cell")
    assert centres(controls) == [(0, 0)]
    assert len(plain.get_paths()) == 4
    crosses, dots = axes.lines
    assert crosses.get_xydata().tolist() == [[3, 3]]
    assert len(dots.get_xydata()) == 96 - 5
    assert [t.get_text() for t in axes.get_yticklabels()] == list("ABCDEFGH")
    assert axes.get_xlim()[1] > 11
