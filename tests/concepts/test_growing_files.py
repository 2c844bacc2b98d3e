"""Tables that are written in parts are read as one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.refusals import refusal
from napari_microdl.concepts.growing_files import GrowingArray, GrowingTable, read_rows

PARTS = st.one_of(
    st.lists(st.integers(-(2**31), 2**31), min_size=1, max_size=4),
    st.lists(st.floats(width=32), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=1, max_size=4),
    st.lists(st.one_of(st.text(max_size=3), st.none()), min_size=1, max_size=4),
)


def written(folder: Path, parts: list[pd.DataFrame]) -> pd.DataFrame:
    table = GrowingTable(folder, "t")
    for part in parts:
        table.append(part)
    return read_rows(folder, table.close(), table.length)


def is_text(values: list[object]) -> bool:
    return any(value is None or isinstance(value, str) for value in values)


@given(st.lists(PARTS, min_size=1, max_size=4))
def test_a_column_written_in_parts_holds_the_values_of_all(parts):
    with tempfile.TemporaryDirectory() as folder:
        found = written(Path(folder), [pd.DataFrame({"a": part}) for part in parts])["a"]
    values = [value for part in parts for value in part]
    kinds = {isinstance(value, bool) for value in values if value is not None}
    if not is_text(values) and len(kinds) == 1:
        assert found.dtype.kind in "biuf"
        np.testing.assert_array_equal(found.to_numpy(float), np.array(values, float))
        return
    # What is no number stays as it was written; numbers stand beside it as texts.
    for shown, value in zip(found, values, strict=True):
        if isinstance(value, bool | str):
            assert shown == str(value)
        elif value is None or np.isnan(value):
            assert shown == ""
        else:
            assert float(shown) == pytest.approx(float(value))


def test_rows_of_other_columns_are_refused(tmp_path):
    table = GrowingTable(tmp_path, "t")
    table.append(pd.DataFrame({"a": [1], "b": ["x"]}))
    assert "not those of the rows before" in refusal(table.append, pd.DataFrame({"a": [2]}))
    table.append(pd.DataFrame({"b": ["y"], "a": [2]}))
    assert read_rows(tmp_path, table.close(), 2).to_dict("list") == {"a": [1, 2], "b": ["x", "y"]}


def test_rows_of_matrices_are_put_behind_each_other(tmp_path):
    array = GrowingArray(tmp_path / "a.npy", np.float32, (3,))
    parts = [np.arange(6).reshape(2, 3), np.zeros((0, 3)), np.ones((1, 3))]
    for part in parts:
        array.append(part)
    array.close()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.concatenate(parts))
