from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from napari_microdl.core.errors import MicrodlError
from napari_microdl.metrics import direction_separation, tag_recall


@given(seed=st.integers(0, 500), n=st.integers(2, 40), n_bins=st.integers(1, 12))
def test_histograms_and_area_are_those_of_the_cosines(seed, n, n_bins):
    rng = np.random.default_rng(seed)
    x, direction = rng.normal(size=(n, 5)), 7 * rng.normal(size=5)
    positive = np.arange(n) < max(1, n // 3)
    cosine = cosine_similarity(x, direction[None])[:, 0]
    found = direction_separation(x, direction, positive, n_bins)
    assert found.auc == pytest.approx(roc_auc_score(positive, cosine))
    assert len(found.edges) == n_bins + 1
    np.testing.assert_allclose(found.edges[[0, -1]], [cosine.min(), cosine.max()], atol=1e-6)
    for side, shares in ((positive, found.label), (~positive, found.others)):
        assert shares.sum() == pytest.approx(1)
        for edge, below in zip(found.edges[1:], np.cumsum(shares), strict=True):
            near = np.isclose(cosine[side], edge, atol=1e-6).sum()
            assert abs(below - (cosine[side] <= edge).mean()) <= near / side.sum() + 1e-9


def test_by_hand_and_with_an_empty_side():
    x = np.array([[1.0, 0], [2, 0], [0, 1], [-3, 0]])
    found = direction_separation(x, np.array([5.0, 0]), np.array([1, 1, 0, 0], bool), 2)
    assert found.edges.tolist() == [-1, 0, 1]
    assert found.label.tolist() == [0, 1]
    assert found.others.tolist() == [0.5, 0.5]
    assert found.auc == 1
    alone = direction_separation(x, np.array([5.0, 0]), np.ones(4, bool), 2)
    assert np.isnan(alone.auc)
    assert alone.others.tolist() == [0, 0]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(MicrodlError, match="there are 3 marks and the direction has 2 entries"):
        direction_separation(np.ones((4, 2)), np.ones(2), np.ones(3, bool))


def test_recall_and_test_are_those_counted_by_hand():
    values = np.array([0.1, 0.2, 0.6, 0.7, 0.9, 0.3, 0.5, 0.0])
    control = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
    perturbed = np.array([0, 0, 0, 1, 1, 1, 0, 0], bool)
    found = tag_recall(values, control, perturbed)
    # Medians 0.2 and 0.7.
    assert found.threshold == pytest.approx(0.45)
    assert (found.n_control_like, found.n_perturbed) == (3, 3)
    assert (found.recalled, found.false_alarms) == (2, 1)
    assert found.recall == pytest.approx(2 / 3)
    pairs = [float(b > a) for a in values[control] for b in values[perturbed]]
    assert found.u == sum(pairs) == 8
    expected = stats.mannwhitneyu(values[perturbed], values[control], alternative="greater")
    assert found.p_value == pytest.approx(expected.pvalue)
    # Exact: of the 20 ways to divide six ranks, 2 give a U of 8 or more.
    assert found.p_value == pytest.approx(2 / 20)


def test_the_test_has_one_side():
    values = np.arange(10.0)
    low = values < 5
    assert tag_recall(values, low, ~low).p_value < 0.01
    assert tag_recall(values, ~low, low).p_value > 0.99


def test_both_tags_are_needed_and_none_twice():
    values, some, none = np.arange(4.0), np.array([1, 1, 0, 0], bool), np.zeros(4, bool)
    with pytest.raises(MicrodlError, match="2 cells are tagged control-like and 0 perturbed"):
        tag_recall(values, some, none)
    with pytest.raises(MicrodlError, match="both control-like and perturbed"):
        tag_recall(values, some, some)
