from __future__ import annotations

import numpy as np
from scipy import sparse

from napari_microdl.evaluation import (
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
