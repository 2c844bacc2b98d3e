from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from napari_microdl.estimators.icfl.starts import default_starts, start_seed, used_atoms


def test_atoms_are_counted_by_their_share_of_the_energy():
    even = np.zeros((6, 10))
    even[:, :3] = np.eye(3).repeat(2, axis=0) * np.array([[2.0], [-2.0]] * 3)
    assert used_atoms(sparse.csr_array(even)) == pytest.approx(3)
    # One that has nearly all counts as one.
    even[:, 0] *= 100
    assert 1 < used_atoms(sparse.csr_array(even)) < 1.01
    assert used_atoms(sparse.csr_array((4, 5))) == 0


def test_small_dictionaries_have_several_starts_of_different_seeds():
    sizes = ((16, 400), (256, 50_000), (512, 400), (16, 50_001))
    assert [default_starts(*size) for size in sizes] == [8, 8, 1, 1]
    seeds = [start_seed(4, number) for number in range(8)]
    assert seeds[0] == 4
    assert len(set(seeds)) == 8
    assert seeds == [start_seed(4, number) for number in range(8)]
    assert seeds[1:] != [start_seed(5, number) for number in range(1, 8)]
