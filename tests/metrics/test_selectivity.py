from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from sklearn.metrics import roc_auc_score

from core.refusals import refusal
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.metrics import (
    activation_rates,
    activation_shares,
    active,
    average_selectivity,
    dead_features,
    selectivities,
    selectivity_counts,
    separation_auc,
)

# Five samples, three concepts; negative and stored zero codes are not active.
CODES = sparse.csr_array(
    np.array([[1.0, 0.0, -2.0], [0.5, 0.0, 1.0], [0.0, 0.1, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
)
LABELS = ["drug", "drug", "drug", "none", "none"]


def test_by_hand():
    classes, shares, counts = activation_shares(CODES, LABELS)
    assert classes.tolist() == ["drug", "none"]
    assert counts.tolist() == [3, 2]
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3, 1 / 3], [1 / 2, 0, 1 / 2]])
    _, average = average_selectivity(CODES, LABELS)
    np.testing.assert_allclose(average, [[1 / 6, 1 / 3, -1 / 6], [-1 / 6, -1 / 3, 1 / 6]])
    # With two labels both are the same.
    np.testing.assert_allclose(selectivities(shares, counts)[1], average)


def test_three_labels_by_hand():
    codes = sparse.csr_array(np.array([[1.0], [1.0], [1.0], [0.0], [0.0], [0.0]]))
    labels = ["a", "a", "b", "b", "c", "c"]  # shares 1, 1/2, 0
    average, maximum = selectivities(*activation_shares(codes, labels)[1:])
    np.testing.assert_allclose(average[:, 0], [1 - 1 / 4, 1 / 2 - 2 / 4, 0 - 3 / 4])
    np.testing.assert_allclose(maximum[:, 0], [1 - 1 / 2, 1 / 2 - 1, 0 - 1])


def test_a_stored_zero_is_not_active():
    codes = sparse.csr_array(([0.0, 1.0, -1.0], [0, 1, 2], [0, 3]), shape=(1, 3))
    assert active(codes).toarray().tolist() == [[0, 1, 0]]
    assert active(codes).nnz == 1
    assert codes.nnz == 3, "the input was changed"


@given(
    codes=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 12), st.integers(1, 4)),
        elements=st.sampled_from([-1.0, 0.0, 0.0, 0.5, 2.0]),
    ),
    data=st.data(),
)
def test_selectivities_equal_loops(codes, data):
    n = len(codes)
    labels = np.array(data.draw(st.lists(st.sampled_from("abcd"), min_size=n, max_size=n)))
    classes, average = average_selectivity(sparse.csr_array(codes), labels)
    _, shares, counts = activation_shares(sparse.csr_array(codes), labels)
    _, maximum = selectivities(shares, counts)
    assert classes.tolist() == sorted(set(labels.tolist()))
    for row, label in enumerate(classes):
        for concept in range(codes.shape[1]):
            on = codes[:, concept] > 0
            if len(classes) < 2:
                assert math.isnan(average[row, concept])
                assert math.isnan(maximum[row, concept])
                continue
            inside = on[labels == label].mean()
            assert average[row, concept] == pytest.approx(inside - on[labels != label].mean())
            others = [on[labels == other].mean() for other in classes if other != label]
            assert maximum[row, concept] == pytest.approx(inside - max(others))


def test_labels_of_another_length_are_refused():
    for function in (activation_shares, average_selectivity):
        assert refusal(function, CODES, LABELS[:3]) == "There are 5 samples but 3 labels."


@given(data=st.data(), n=st.integers(2, 30))
def test_the_area_is_that_of_scikit_learn_with_ties(data, n):
    # Few different scores: many ties.
    scores = np.array(
        data.draw(st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0]), min_size=n, max_size=n)),
        np.float32,
    )
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    area = separation_auc(scores, positive)
    if positive.all() or not positive.any():
        assert math.isnan(area)
    else:
        assert area == pytest.approx(roc_auc_score(positive, scores))


def test_the_area_by_hand():
    positive = np.array([True, True, False, False])
    assert separation_auc(np.array([3.0, 4, 1, 2]), positive) == 1
    assert separation_auc(np.array([1.0, 2, 3, 4]), positive) == 0
    assert separation_auc(np.array([1.0, 1, 1, 1]), positive) == 0.5
    assert separation_auc(np.array([1.0, 3, 2, 0]), positive) == 0.75


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


def test_counts_by_hand():
    selectivity = np.array([[0.6, 0.2, -0.6, 0.0], [-0.6, 0.3, 0.6, 0.11]])
    assert selectivity_counts(selectivity) == {0.5: 2, 0.2: 3, 0.1: 4}
    assert selectivity_counts(selectivity, (0.6,)) == {0.6: 0}
    # With one label nothing is selective.
    _, alone = average_selectivity(sparse.csr_array(np.eye(3)), ["a"] * 3)
    assert selectivity_counts(alone) == {0.5: 0, 0.2: 0, 0.1: 0}


def test_dead_in_training_is_rarer_than_the_rate_over_the_last_thousand_steps():
    """Paper, section 4: fewer than 1e-5 of the samples of the last 1,000 steps, counted by hand."""
    per_step, often = 150, np.eye(4, dtype=np.float32)
    # At a rate of next to nothing the atoms stay where they are, each on an axis.
    icfl = ICFL.from_arrays(
        often, n_iterations=1, atoms_per_iteration=1, update="adam", learning_rate=1e-30,
        batch_size=per_step, random_state=0,
    )  # fmt: skip
    shown = np.zeros((1100, 4), np.int64)
    # Of the 150,000 samples of 1,000 steps, 1e-5 are 1.5.
    shown[:, 0] = per_step
    shown[150, 1] = 1
    shown[[250, 950], 2] = 1
    shown[:100, 3] = 1
    shown[:, 0] -= shown[:, 1:].sum(axis=1)
    dead = {}
    for step, counts in enumerate(shown):
        icfl.partial_fit(np.repeat(often, counts, axis=0))
        dead[step + 1] = icfl.dead_.tolist()
    window = shown[100:1100].sum(axis=0)
    assert dead[1100] == (window < 1e-5 * window.sum()).tolist() == [False, True, False, True]
    # What was active in the first steps lives as long as they are in the window.
    assert not dead[900][3]
    assert dead[1100][3]
    # One sample alone of 100,000 or fewer is more than 1e-5 of them.
    assert not dead[100][3]
