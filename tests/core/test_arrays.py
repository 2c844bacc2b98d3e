from __future__ import annotations

import numpy as np
import pytest

from napari_microdl.core.arrays import eigh, right_vectors
from tasks import cancelling

MATRIX = np.random.default_rng(0).normal(size=(40, 24))


@pytest.mark.parametrize("wide", [0, 100], ids=["other process", "here"])
def test_decompositions_are_those_of_numpy(wide):
    values, vectors = eigh(MATRIX.T @ MATRIX, wide=wide)
    expected = np.linalg.eigh(MATRIX.T @ MATRIX)
    np.testing.assert_array_equal(values, expected[0])
    np.testing.assert_array_equal(vectors, expected[1])
    strengths, directions = right_vectors(MATRIX, wide=wide)
    _, expected_strengths, expected_directions = np.linalg.svd(MATRIX, full_matrices=False)
    np.testing.assert_array_equal(strengths, expected_strengths)
    np.testing.assert_array_equal(directions, expected_directions)


def test_a_wide_decomposition_can_be_cancelled():
    with cancelling():
        eigh(MATRIX.T @ MATRIX, wide=0)
    with cancelling():
        right_vectors(MATRIX, wide=0)
