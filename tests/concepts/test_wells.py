from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concepts.test_activations import make
from napari_microdl.concepts.wells import (
    FORMATS,
    plate_format,
    well_place,
    wells_of,
)
from napari_microdl.fields.metadata import row_letters

CONCEPT = 2


@given(st.integers(0, 31), st.integers(0, 47), st.sampled_from(["", "0"]), st.booleans())
def test_every_place_of_a_plate_is_read_however_it_is_written(row, column, zero, small):
    name = f"{row_letters(row)}{zero}{column + 1}"
    assert well_place(name.lower() if small else f" {name} ") == (row, column)


@given(st.text(max_size=8))
def test_any_text_is_a_place_on_the_largest_plate_or_none(text):
    place = well_place(text)
    assert place is None or (0 <= place[0] < 32 and 0 <= place[1] < 48)


@pytest.mark.parametrize("name", ["", "well 3", "A0", "A49", "AG1", "3A", "B", "ABC1", "A1 s1"])
def test_what_is_no_place_is_none(name):
    assert well_place(name) is None


@pytest.mark.parametrize(
    ("last", "wells"), [("H12", 96), ("A13", 384), ("I1", 384), ("P24", 384), ("Q1", 1536)]
)
def test_the_smallest_plate_with_all_places_is_chosen(last, wells):
    rows = pd.DataFrame([(0, 0), well_place(last)], columns=["row", "column"])
    assert plate_format(rows) == FORMATS[wells]


def test_the_table_holds_every_well_with_what_its_units_show():
    fields, activations = make()
    wells = ("b02", "B02", "C11", "")
    fields = [dataclasses.replace(f, well=w) for f, w in zip(fields, wells, strict=True)]
    activations.units["Metadata_Well"] = np.repeat(wells, 4)
    # Both are one place, but two names; a person is told by the table.
    fields[1] = dataclasses.replace(fields[1], well="b02")
    activations.units.loc[activations.units["field"] == 1, "Metadata_Well"] = "b02"
    empty = dataclasses.replace(fields[2], name="empty", well="D4", condition="blank")
    notes = ["There is no cell in 'empty': nothing is told.", "'field 2' is dim.", "Other."]
    found = wells_of(activations, [*fields, empty], notes)
    table = found.of_concept(activations, CONCEPT).set_index("name")
    assert table.index.tolist() == ["P b02", "P C11", "field 3", "P D4"]
    assert found.fields == [[0, 1], [2], [3], [4]]
    assert table["n_units"].tolist() == [8, 4, 4, 0]
    assert table[["row", "column"]].to_numpy().tolist() == [[1, 1], [2, 10], [-1, -1], [3, 3]]
    assert table["flag"].tolist() == ["", "note", "", "no cells"]
    assert table["note"].tolist() == ["", notes[1], "", notes[0]]
    assert table["condition"].tolist() == ["diffuse, puncta", "puncta", "blank", "blank"]
    # A well is one of controls where all its fields are.
    assert not table["control"].any()
    codes = activations.codes.toarray()[:, CONCEPT]
    expected = [codes[:8].mean(), codes[8:12].mean(), codes[12:].mean(), np.nan]
    np.testing.assert_allclose(table["mean_activation"], expected, rtol=1e-6)
    active = [(codes[:8] > 0).mean(), (codes[8:12] > 0).mean(), (codes[12:] > 0).mean(), np.nan]
    np.testing.assert_allclose(table["share_active"], active)
    assert found.on_plates["name"].tolist() == ["P b02", "P C11", "P D4"]


def test_without_fields_those_that_have_units_are_known():
    fields, activations = make()
    some = activations.of_fields([1, 3])
    found = wells_of(some)
    assert found.table["name"].tolist() == ["P W1", "P W3"]
    assert found.fields == [[1], [3]]
    np.testing.assert_array_equal(found.of_unit, np.repeat([0, 1], 4))
    none = wells_of(activations.of_fields([]))
    assert (len(none.table), len(none.on_plates), none.fields, len(none.of_unit)) == (0, 0, [], 0)
    every = wells_of(some, fields)
    assert every.table["n_units"].tolist() == [0, 4, 0, 4]
    np.testing.assert_array_equal([every.table["name"][row] for row in every.of_unit], some.wells)


def test_the_mean_of_some_units_is_not_known_of_wells_without_them():
    _, activations = make()
    found = wells_of(activations)
    rows = activations.units["label"].to_numpy() == 7
    rows[:4] = False
    values = np.arange(16.0)
    mean = found.mean(values, rows)
    assert np.isnan(mean[0])
    np.testing.assert_array_equal(mean[1:], values[rows])
