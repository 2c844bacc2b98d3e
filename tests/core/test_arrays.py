from __future__ import annotations

import numpy as np
import pytest

from napari_microdl.core import arrays as decompositions
from napari_microdl.core.arrays import iter_eigh, iter_right_vectors
from napari_microdl.core.stepping import run_through


@pytest.fixture
def matrix() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 24))


@pytest.mark.parametrize("widest", [0, 100], ids=["other process", "here"])
def test_decompositions_are_those_of_numpy(matrix, monkeypatch, widest):
    monkeypatch.setattr(decompositions, "_WIDE", widest)
    steps: list[None] = []
    values, vectors = run_through(iter_eigh(matrix.T @ matrix), steps.append)
    expected = np.linalg.eigh(matrix.T @ matrix)
    np.testing.assert_array_equal(values, expected[0])
    np.testing.assert_array_equal(vectors, expected[1])
    # A process takes a while to start, which is waited for in steps.
    assert bool(steps) == (widest == 0)
    strengths, directions = run_through(iter_right_vectors(matrix))
    _, expected_strengths, expected_directions = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_array_equal(strengths, expected_strengths)
    np.testing.assert_array_equal(directions, expected_directions)
