from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats

from napari_microdl.core.errors import MicrodlError
from napari_microdl.metrics import (
    average_selectivity,
    bootstrap_interval,
    group_draws,
    selectivity_intervals,
)


def wells_of(n: int, per_well: int, seed: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Wells, and whether a concept is active in their cells, by a rate of each well's own."""
    rng = np.random.default_rng(seed)
    well = np.repeat(np.arange(n), per_well)
    rate = np.clip(0.3 + 0.2 * (np.arange(n) % 2) + spread * rng.normal(size=n), 0, 1)
    return well, rng.random(len(well)) < rate[well]


def test_the_interval_is_that_of_wells_drawn_one_by_one():
    well, on = wells_of(8, 30, 0, 0.1)
    # Wells of different size.
    kept = np.random.default_rng(5).random(len(well)) < 0.3 + 0.08 * well
    well, on = well[kept], on[kept]
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
    # The same with the general function, which knows nothing of selectivity.
    general = bootstrap_interval(
        lambda rows: on[rows][labels[rows] == "t"].mean() - on[rows][labels[rows] == "c"].mean(),
        well,
        labels,
        n_resamples=4000,
    )
    np.testing.assert_allclose(general, table.loc["t", ["low", "high"]].astype(float), atol=0.01)


def test_wells_as_large_as_one_sample_give_the_bootstrap_of_scipy():
    values = np.random.default_rng(2).gamma(2, 1, 60)
    found = bootstrap_interval(lambda rows: values[rows].mean(), np.arange(60), n_resamples=5000)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    np.testing.assert_allclose(found, expected, atol=0.03)


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
def test_draws_keep_the_size_of_every_stratum(stratum: list[int], n: int):
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
    assert np.isnan(bootstrap_interval(lambda _: 1.0, ["w"] * 4)).all()
    assert np.isnan(bootstrap_interval(lambda _: float("nan"), list("abcd"))).all()


def test_what_does_not_fit_is_refused():
    codes, labels = sparse.csr_array(np.ones((4, 1))), list("aabb")
    with pytest.raises(MicrodlError, match="2 labels but 1 concepts"):
        selectivity_intervals(codes, labels, labels, np.array([0]))
    with pytest.raises(MicrodlError, match="confidence of 95 is no share"):
        selectivity_intervals(codes, labels, labels, np.array([0, 0]), confidence=95)
    with pytest.raises(MicrodlError, match="in two strata"):
        bootstrap_interval(lambda _: 0.0, [0, 0, 0, 1], labels)
    with pytest.raises(MicrodlError, match="4 samples but 3 strata"):
        bootstrap_interval(lambda _: 0.0, labels, labels[:3])
