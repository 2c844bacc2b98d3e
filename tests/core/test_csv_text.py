"""Texts of people in CSV files: shown by spreadsheets, not calculated."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_microdl.core.csv_text import as_cell, csv_safe, from_cell

FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\tx", '=HYPERLINK("http://x","y")', "'=1", "-a"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_begins_as_a_formula(text):
    assert as_cell(text) == f"'{text}"
    assert from_cell(as_cell(text)) == text


@pytest.mark.parametrize("text", ["", "DMSO", "-1", "+1.5e-3", "-.5", "-", "a=b", "'quoted'", "µ"])
def test_other_texts_and_numbers_stay(text):
    assert as_cell(text) == from_cell(text) == text


def test_what_no_file_can_hold_is_replaced():
    assert as_cell("a\ud800b\x00") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"


@given(st.text(alphabet="=+-@'a1\t ", max_size=6))
def test_every_text_comes_back(text):
    assert from_cell(as_cell(text)) == text


def test_a_table_is_safe_and_numbers_stay_numbers(tmp_path):
    table = pd.DataFrame(
        {
            "Metadata_Field": ["=1+1", "-1", None, "-a"],
            "activation_0": [-1.5, 0.0, np.nan, 2.0],
            "Metadata_control": [True, False, True, False],
            "=head": ["x", "y", "x", "@y"],
        }
    )
    before = table.copy(deep=True)
    csv_safe(table).to_csv(tmp_path / "t.csv", index=False)
    pd.testing.assert_frame_equal(table, before)
    found = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert found["Metadata_Field"].tolist() == ["'=1+1", "-1", "", "'-a"]
    assert found["'=head"].tolist() == ["x", "y", "x", "'@y"]
    assert found["activation_0"].tolist()[0] == "-1.5"
    assert found["Metadata_control"].tolist() == [True, False, True, False]
