"""Labels as people have them: no cell vanishes, and none becomes one with others, in silence."""

from __future__ import annotations

import numpy as np
import pytest

from napari_microdl.fields.labels import number_cells

SQUARES = np.zeros((12, 12), np.int64)
SQUARES[1:4, 1:4], SQUARES[6:9, 1:4], SQUARES[6:9, 6:9] = 3, 1, 7


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_labels_stay_as_they_are(dtype):
    found, note = number_cells(SQUARES.astype(dtype))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, SQUARES)
    assert note == ""


@pytest.mark.parametrize("mask", [SQUARES > 0, np.where(SQUARES, 255, 0).astype(np.uint8)])
def test_parts_of_a_mask_are_cells(mask):
    found, note = number_cells(mask)
    assert len(np.unique(found)) == 4
    np.testing.assert_array_equal(found > 0, SQUARES > 0)
    assert note == "a mask was taken for labels: each of its 3 parts is a cell."


def test_one_label_in_several_parts_is_told_and_stays():
    found, note = number_cells((SQUARES > 0).astype(np.uint8))
    assert found.max() == 1
    assert note.startswith("the label 1 is all there is, in 3 parts")
    assert number_cells((SQUARES == 7).astype(np.uint8))[1] == ""


def test_negative_labels_are_told():
    found, note = number_cells(np.where(SQUARES == 7, -5, SQUARES))
    assert set(np.unique(found)) == {-5, 0, 1, 3}
    assert note.startswith("1 negative label, -5 the lowest, count as background")


def test_labels_beyond_int64_get_free_numbers():
    large = np.where(SQUARES == 7, np.uint64(2**63 + 5), SQUARES.astype(np.uint64))
    found, note = number_cells(large)
    np.testing.assert_array_equal(found == 2, SQUARES == 7)
    np.testing.assert_array_equal(found == 3, SQUARES == 3)
    assert note == "1 label beyond 9223372036854775807 became free numbers, from 2 on."


def test_no_labels_at_all_are_no_matter():
    assert number_cells(np.zeros((0, 4), np.uint64))[1] == ""
    assert number_cells(np.zeros((4, 4), bool))[1] == ""
