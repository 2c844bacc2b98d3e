from __future__ import annotations

import numpy as np
from scipy import sparse

from napari_microdl.estimators.icfl import ICFL
from napari_microdl.metrics import (
    activation_rates,
    average_selectivity,
    best_selectivity,
    dead_features,
    selectivity_counts,
)


def test_dead_is_what_is_active_more_rarely_than_the_rate():
    codes = np.zeros((1000, 4))
    codes[0, 1] = 1
    codes[:5, 2] = 2
    codes[:, 3] = -1
    codes = sparse.csr_array(codes)
    np.testing.assert_allclose(activation_rates(codes), [0, 0.001, 0.005, 0])
    # A negative code is no activation.
    assert dead_features(codes).tolist() == [True, False, False, True]
    assert dead_features(codes, 0.001).tolist() == [True, False, False, True]
    assert dead_features(codes, 0.002).tolist() == [True, True, False, True]
    none = sparse.csr_array((0, 4))
    assert np.isnan(activation_rates(none)).all()
    assert not dead_features(none).any(), "nothing was seen, so nothing is known to be dead"


def test_counts_and_the_best_by_hand():
    selectivity = np.array([[0.6, 0.2, -0.6, 0.0], [-0.6, 0.3, 0.6, 0.11]])
    assert selectivity_counts(selectivity) == {0.5: 2, 0.2: 3, 0.1: 4}
    assert selectivity_counts(selectivity, (0.6,)) == {0.6: 0}
    table = best_selectivity(np.array(["a", "b"]), selectivity)
    assert list(table.index) == ["a", "b"]
    assert list(table["concept"]) == [0, 2]
    assert list(table["selectivity"]) == [0.6, 0.6]


def test_one_label_has_no_best():
    classes, selectivity = average_selectivity(sparse.csr_array(np.eye(3)), ["a"] * 3)
    table = best_selectivity(classes, selectivity)
    assert table.loc["a", "concept"] == -1
    assert np.isnan(table.loc["a", "selectivity"])
    assert selectivity_counts(selectivity) == {0.5: 0, 0.2: 0, 0.1: 0}


def test_dead_in_training_is_rarer_than_the_rate_over_the_last_thousand_steps():
    """Paper, section 4: fewer than 1e-5 of the samples of the last 1,000 steps, counted by hand."""
    per_step, often = 150, np.eye(4, dtype=np.float32)
    # At a rate of next to nothing the atoms stay where they are, each on an axis.
    icfl = ICFL.from_arrays(
        often, n_iterations=1, atoms_per_iteration=1, update="adam", learning_rate=1e-30,
        batch_size=per_step, random_state=0,
    )  # fmt: skip
    shown = np.zeros((2100, 4), np.int64)
    # Of the 150,000 samples of 1,000 steps, 1e-5 are 1.5.
    shown[:, 0] = per_step
    shown[1050, 1] = 1
    shown[[1150, 1850], 2] = 1
    shown[:100, 3] = 1
    shown[:, 0] -= shown[:, 1:].sum(axis=1)
    dead = {}
    for step, counts in enumerate(shown):
        icfl.partial_fit(np.repeat(often, counts, axis=0))
        dead[step + 1] = icfl.dead_.tolist()
    window = shown[1000:2000].sum(axis=0)
    assert dead[2000] == (window < 1e-5 * window.sum()).tolist() == [False, True, False, True]
    # What was active in the first steps lives as long as they are in the window.
    assert not dead[900][3]
    assert dead[1100][3]
    # One sample alone of 100,000 or fewer is more than 1e-5 of them.
    assert not dead[100][3]
