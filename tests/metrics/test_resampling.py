from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from napari_microdl.core.errors import MicrodlError
from napari_microdl.metrics import (
    average_selectivity,
    best_selectivity_null,
    iter_best_selectivity_null,
    resampling,
)
from tokens.stand_ins import finish


def random_codes(n: int, n_concepts: int, seed: int = 0, rate: float = 0.3) -> sparse.csr_array:
    return sparse.csr_array(
        sparse.random_array((n, n_concepts), density=rate, rng=np.random.default_rng(seed))
    )


@given(st.integers(0, 100), st.integers(2, 4))
def test_the_best_is_that_of_the_selectivities(seed: int, n_labels: int):
    rng = np.random.default_rng(seed)
    wells = np.r_[np.arange(8), rng.integers(0, 8, 30)]
    labels = np.array(list("abcd"))[wells % n_labels]
    codes = random_codes(38, 6, seed)
    table = best_selectivity_null(codes, labels, wells, n_permutations=5)
    names, selectivity = average_selectivity(codes, labels)
    assert list(table.index) == list(names)
    np.testing.assert_allclose(table["selectivity"], selectivity.max(axis=1))
    chosen = selectivity[np.arange(n_labels), table["concept"]]
    np.testing.assert_allclose(chosen, selectivity.max(axis=1))


def test_the_null_is_that_of_all_arrangements_of_wells():
    rng = np.random.default_rng(4)
    wells = np.r_[np.arange(7), rng.integers(0, 7, 60)]
    codes = random_codes(67, 9)
    treated = np.isin(wells, [1, 4, 6])
    everything = []
    for chosen in combinations(range(7), 3):
        labels = np.where(np.isin(wells, chosen), "t", "c")
        everything.append(average_selectivity(codes, labels)[1][1].max())
    observed = average_selectivity(codes, np.where(treated, "t", "c"))[1][1].max()
    exact = np.mean(np.array(everything) >= observed - 1e-12)

    table = best_selectivity_null(
        codes, np.where(treated, "t", "c"), wells, n_permutations=20_000, quantiles=(0.1, 0.9)
    )
    assert list(table["arrangements"]) == [35, 35]
    assert table.loc["t", "p_value"] == pytest.approx(exact, abs=0.015)
    # Every value of the null is one of the 35, so its quantiles are theirs.
    for q in (0.1, 0.9):
        assert table.loc["t", f"null_{q}"] == pytest.approx(
            np.quantile(everything, q, method="inverted_cdf"), abs=1e-9
        )


def test_blocks_hold_labels_in_place():
    """A concept that marks a plate tells nothing once labels stay within plates."""
    wells = np.repeat(np.arange(12), 10)
    plates = wells // 6
    # Plate 0 is mostly treated and shows the concept, plate 1 neither.
    labels = np.where(np.isin(wells, [0, 1, 2, 3, 4, 6]), "t", "c")
    codes = sparse.csr_array((plates == 0).astype(float)[:, None])
    free = best_selectivity_null(codes, labels, wells, n_permutations=2000)
    held = best_selectivity_null(codes, labels, wells, plates, n_permutations=2000)
    # Five or six of six treated wells on plate 0: 37 of 924 arrangements.
    assert free.loc["t", "p_value"] == pytest.approx(37 / 924, abs=0.015)
    assert held.loc["t", "p_value"] == 1
    assert held.loc["t", "arrangements"] == 36


def test_by_chance_p_is_uniform_and_cells_of_a_well_are_not_independent():
    """A well effect without a treatment: counting cells one by one finds it all the same."""
    by_well, by_cell = [], []
    wells = np.repeat(np.arange(10), 20)
    labels = np.where(wells % 2, "t", "c")
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rate = rng.beta(1, 1, (10, 5))[wells]
        codes = sparse.csr_array((rng.random(rate.shape) < rate).astype(float))
        options = {"n_permutations": 99, "random_state": seed}
        by_well.append(best_selectivity_null(codes, labels, wells, **options)["p_value"]["t"])
        by_cell.append(best_selectivity_null(codes, labels, **options)["p_value"]["t"])
    assert np.mean(np.array(by_well) <= 0.1) < 0.25
    assert np.mean(np.array(by_cell) <= 0.1) > 0.5


def test_a_planted_concept_is_found_among_lucky_ones():
    rng = np.random.default_rng(0)
    wells = np.repeat(np.arange(20), 15)
    labels = np.where(wells < 5, "drug", np.where(wells < 10, "other", "none"))
    dense = rng.random((300, 400)) < 0.05
    dense[:, 123] |= (labels == "drug") & (rng.random(300) < 0.7)
    table = best_selectivity_null(sparse.csr_array(dense.astype(float)), labels, wells)
    assert table.loc["drug", "concept"] == 123
    assert table.loc["drug", "p_value"] <= 0.01
    assert table.loc["drug", "selectivity"] > table.loc["drug", "null_0.99"]
    assert table.loc["other", "p_value"] > 0.05
    again = best_selectivity_null(sparse.csr_array(dense.astype(float)), labels, wells)
    assert again.equals(table)


def test_shuffles_come_a_few_at_a_time_and_are_the_same(monkeypatch: pytest.MonkeyPatch):
    codes, labels = random_codes(40, 10), np.array(["a", "b"] * 20)
    whole = best_selectivity_null(codes, labels, n_permutations=50)
    monkeypatch.setattr(resampling, "_MOST_ENTRIES", 400)
    seen, table = finish(iter_best_selectivity_null(codes, labels, n_permutations=50))
    assert seen == [(0, 50), (20, 50), (40, 50)]
    assert table["p_value"].between(1 / 51, 1).all()
    assert list(table["selectivity"]) == list(whole["selectivity"])


def test_one_label_has_no_null():
    table = best_selectivity_null(random_codes(6, 3), ["a"] * 6)
    assert np.isnan(table.loc["a", "p_value"])
    assert table.loc["a", "concept"] == -1


def test_what_cannot_be_shuffled_is_refused():
    codes, labels = random_codes(4, 3), ["a", "b", "a", "b"]
    with pytest.raises(MicrodlError, match="group has samples of several labels"):
        best_selectivity_null(codes, labels, [0, 0, 1, 2])
    with pytest.raises(MicrodlError, match="group is in several blocks"):
        best_selectivity_null(codes, labels, [0, 1, 0, 1], ["p", "p", "q", "p"])
    with pytest.raises(MicrodlError, match="4 samples but 3 blocks"):
        best_selectivity_null(codes, labels, None, ["p", "p", "q"])
    with pytest.raises(MicrodlError, match="4 samples but 3 labels"):
        best_selectivity_null(codes, labels[:3])
    with pytest.raises(MicrodlError, match="3 concepts and 0 shuffles"):
        best_selectivity_null(codes, labels, n_permutations=0)
