from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from core.refusals import refusal
from napari_microdl.metrics import (
    average_selectivity,
    best_selectivity_null,
    group_draws,
    selectivity_intervals,
)
from napari_microdl.metrics.resampling import arrangements_of, sequential_p
from tasks import recorded


def random_codes(n: int, n_concepts: int, seed: int = 0, rate: float = 0.3) -> sparse.csr_array:
    return sparse.csr_array(
        sparse.random_array((n, n_concepts), density=rate, rng=np.random.default_rng(seed))
    )


@given(st.integers(0, 100), st.integers(2, 4))
def test_the_best_is_that_of_the_selectivities(seed, n_labels):
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


def test_shuffles_come_a_few_at_a_time_and_are_the_same():
    codes, labels = random_codes(40, 10), np.array(["a", "b"] * 20)
    whole = best_selectivity_null(codes, labels, n_permutations=50)
    with recorded() as heard:
        table = best_selectivity_null(codes, labels, n_permutations=50, entries_at_once=400)
    assert [(p.done, p.total) for p in heard] == [(0, 50), (20, 50), (40, 50)]
    assert table["p_value"].between(1 / 51, 1).all()
    assert list(table["selectivity"]) == list(whole["selectivity"])


def test_one_label_has_no_null():
    table = best_selectivity_null(random_codes(6, 3), ["a"] * 6)
    assert np.isnan(table.loc["a", "p_value"])
    assert table.loc["a", "concept"] == -1


def test_what_cannot_be_shuffled_is_refused():
    codes, labels = random_codes(4, 3), ["a", "b", "a", "b"]
    for sentence, *arguments in (
        ("group has samples of several labels", labels, [0, 0, 1, 2]),
        ("group is in several blocks", labels, [0, 1, 0, 1], ["p", "p", "q", "p"]),
        ("4 samples but 3 blocks", labels, None, ["p", "p", "q"]),
        ("4 samples but 3 labels", labels[:3]),
    ):
        assert sentence in refusal(best_selectivity_null, codes, *arguments)
    told = refusal(best_selectivity_null, codes, labels, n_permutations=0)
    assert "3 concepts and 0 shuffles" in told


def wells_of(n: int, per_well: int, seed: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Wells, and whether a concept is active in their cells, by a rate of each well's own."""
    rng = np.random.default_rng(seed)
    well = np.repeat(np.arange(n), per_well)
    rate = np.clip(0.3 + 0.2 * (np.arange(n) % 2) + spread * rng.normal(size=n), 0, 1)
    return well, rng.random(len(well)) < rate[well]


def test_the_interval_is_that_of_wells_drawn_one_by_one():
    well, on = wells_of(8, 30, 0, 0.1)
    # Wells of different size.
    some = np.random.default_rng(5).random(len(well)) < 0.3 + 0.08 * well
    well, on = well[some], on[some]
    labels = np.where(well % 2, "t", "c")
    codes = sparse.csr_array(np.stack([on, ~on], axis=1).astype(float))
    table = selectivity_intervals(codes, labels, well, np.array([1, 0]), n_resamples=8000)
    np.testing.assert_allclose(
        table["selectivity"], np.diag(average_selectivity(codes, labels)[1][:, ::-1])
    )
    rng = np.random.default_rng(1)
    by_hand = []
    for _ in range(4000):
        shares = []
        for side in (1, 0):
            rows = [np.flatnonzero(well == w) for w in rng.choice(np.arange(side, 8, 2), 4)]
            shares.append(on[np.concatenate(rows)].mean())
        by_hand.append(shares[0] - shares[1])
    np.testing.assert_allclose(
        table.loc["t", ["low", "high"]].astype(float),
        np.quantile(by_hand, [0.025, 0.975]),
        atol=0.01,
    )
    assert list(table["n_groups"]) == [4, 4]


def test_most_intervals_hold_the_truth_and_those_of_cells_do_not():
    held = {"wells": 0, "cells": 0}
    for seed in range(80):
        well, on = wells_of(24, 25, seed, 0.08)
        labels = np.where(well % 2, "t", "c")
        codes = sparse.csr_array(on.astype(float)[:, None])
        for name, groups in (("wells", well), ("cells", np.arange(len(well)))):
            row = selectivity_intervals(
                codes, labels, groups, np.array([0, 0]), n_resamples=300
            ).loc["t"]
            held[name] += bool(row["low"] <= 0.2 <= row["high"])
    assert held["wells"] >= 68
    assert held["cells"] < held["wells"]


def test_groups_that_hold_every_label_are_drawn_whole():
    """Plates with both labels: the difference within plates is certain, whatever their level."""
    plate = np.repeat(np.arange(6), 20)
    labels = np.tile(np.repeat(["t", "c"], 10), 6)
    on = (np.arange(120) % 10) < plate + 2 * (labels == "t")
    table = selectivity_intervals(
        sparse.csr_array(on.astype(float)[:, None]), labels, plate, np.array([0, 0])
    )
    assert table.loc["t", "selectivity"] == pytest.approx(0.2)
    np.testing.assert_allclose(table.loc["t", ["low", "high"]].astype(float), 0.2)


@given(stratum=st.lists(st.integers(0, 2), min_size=1, max_size=12), n=st.integers(1, 5))
def test_draws_keep_the_size_of_every_stratum(stratum, n):
    kinds = np.array(stratum)
    draws = group_draws(kinds, n, np.random.default_rng(0))
    assert draws.shape == (n, len(stratum))
    for kind in set(stratum):
        assert (draws[:, kinds == kind].sum(axis=1) == (kinds == kind).sum()).all()


def test_one_group_and_one_label_have_no_interval():
    codes = sparse.csr_array(np.ones((4, 1)))
    table = selectivity_intervals(codes, list("aabb"), [0, 0, 1, 2], np.array([0, 0]))
    assert np.isnan(table.loc["a", "low"])
    assert table.loc["b", "low"] == table.loc["b", "high"] == 0
    alone = selectivity_intervals(codes, list("aaaa"), [0, 0, 1, 2], np.array([0]))
    assert alone[["selectivity", "low", "high"]].isna().all(axis=None)


def test_intervals_of_what_does_not_fit_are_refused():
    codes, labels = sparse.csr_array(np.ones((4, 1))), list("aabb")
    given = (codes, labels, labels)
    assert "2 labels but 1 concepts" in refusal(selectivity_intervals, *given, np.array([0]))
    told = refusal(selectivity_intervals, *given, np.array([0, 0]), confidence=95)
    assert "confidence of 95 is no share" in told


def test_other_arrangements_are_all_that_there_are_or_draws():
    chosen, block = np.array([True, False, False, True, True]), np.array([0, 0, 0, 1, 1])
    found = arrangements_of(chosen, block, 2)
    # One of three on the first plate; on the second both, as they are.
    assert {tuple(np.flatnonzero(row)) for row in found} == {(1, 3, 4), (2, 3, 4)}
    wells = np.arange(20) < 10
    many = arrangements_of(wells, np.zeros(20, int), 50, random_state=1)
    assert many.shape == (50, 20)
    assert set(many.sum(axis=1)) == {10}
    assert len(np.unique(many, axis=0)) > 40


def test_p_of_shuffles_is_that_of_all_unless_it_is_large_for_sure():
    values = [0.1, 0.9, 0.3, 0.2, 0.4] * 8
    assert sequential_p(1.0, values, 40, 0.05) == (pytest.approx(1 / 41), 40)
    # Two of 41 are 0.049: the second that does as well ends it.
    assert sequential_p(0.5, values, 40, 0.05) == (pytest.approx(2 / 7), 7)
    # Where p cannot be small at all, one that does as well is enough to know.
    assert sequential_p(0.5, values, 40, 0.001) == (1.0, 2)


def test_p_that_stops_early_is_small_no_more_often_than_it_may():
    random = np.random.default_rng(0)
    found = [sequential_p(*_split(random.random(20)), 19, 0.05)[0] for _ in range(4000)]
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(found) <= level + 1e-12) < level + 3 * (level / 4000) ** 0.5


def _split(values):
    return values[0], values[1:]
