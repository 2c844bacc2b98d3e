from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from napari_microdl.core.errors import MicrodlError
from napari_microdl.metrics import match_dictionaries, seed_agreement


def atoms(n: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width))


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 5))
def test_no_other_pairing_has_a_larger_sum(seed: int, n_first: int, n_second: int):
    first, second = atoms(n_first, 4, seed), 3 * atoms(n_second, 4, seed + 1)
    found = match_dictionaries(first, second)
    cosines = cosine_similarity(first, second)
    if n_first > n_second:
        cosines = cosines.T
    rows = np.arange(len(cosines))
    best = max(
        cosines[rows, list(columns)].sum()
        for columns in permutations(range(cosines.shape[1]), len(rows))
    )
    assert found.cosine.sum() == pytest.approx(best, abs=1e-5)
    assert len(set(found.first)) == len(set(found.second)) == len(found.cosine) == len(rows)
    np.testing.assert_allclose(
        found.cosine, cosine_similarity(first, second)[found.first, found.second], atol=1e-6
    )


def test_a_shuffled_dictionary_is_the_same_and_its_opposite_is_not():
    first = atoms(20, 8, 0)
    order = np.random.default_rng(1).permutation(20)
    same = match_dictionaries(first, 5 * first[order])
    assert same.matched == 1
    assert same.mean == pytest.approx(1, abs=1e-6)
    assert (order[same.second] == same.first).all()
    assert match_dictionaries(first[:3], -first[:3]).matched == 0


def test_half_of_the_atoms_matched_counts_half():
    first = np.eye(6)
    second = np.vstack([np.eye(6)[:3], -np.eye(6)[3:]])
    found = match_dictionaries(first, second)
    assert found.matched == 0.5
    # A third dictionary equal to the first: pairs of 1/2, 1 and 1/2.
    table = seed_agreement([first, second, first])
    assert table["matched_share"] == pytest.approx(2 / 3)
    assert table["matched_share_spread"] == pytest.approx(np.std([0.5, 1, 0.5]))
    assert table["matched_cosine"] == pytest.approx(
        np.mean([found.mean, 1, match_dictionaries(second, first).mean])
    )
    assert table["matched_cosine_spread"] > 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(MicrodlError, match="fitted on the same features"):
        match_dictionaries(np.eye(3), np.eye(4))
    with pytest.raises(MicrodlError, match="without atoms"):
        match_dictionaries(np.eye(3), np.empty((0, 3)))
    with pytest.raises(MicrodlError, match="two dictionaries or more"):
        seed_agreement([np.eye(3)])
