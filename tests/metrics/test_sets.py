from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from core.refusals import refusal
from napari_microdl.metrics import choose_set, group_folds

GROUPS = np.repeat(np.arange(12), 40)
POSITIVE = GROUPS % 2 == 0


def planted(seed: int, n_values: int = 10) -> np.ndarray:
    """Value 3 is larger in one half of the positive samples and value 7 in the other."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(len(GROUPS), n_values))
    first = random.random(len(GROUPS)) < 0.6
    values[POSITIVE & first, 3] += 3
    values[POSITIVE & ~first, 7] += 3
    # Smaller in positive samples: no one may call that a mark of theirs.
    values[POSITIVE, 1] -= 5
    return values


@settings(max_examples=10)
@given(seed=st.integers(0, 2**16))
def test_values_that_tell_together_are_chosen_the_largest_share_first(seed: int):
    values = planted(seed)
    found = choose_set(values, POSITIVE, GROUPS)
    assert found.chosen[:2].tolist() == [3, 7]
    assert 1 not in found.chosen
    assert found.shares[:2].sum() > 0.9
    assert found.shares.sum() == pytest.approx(1)
    assert (np.diff(found.shares) <= 0).all()
    assert found.auc > found.auc_first + 0.05


def test_weights_are_those_of_least_squares_that_may_not_be_negative():
    values = planted(0)
    # Of few positive samples each one weighs more.
    few = POSITIVE & (GROUPS == 0)
    for part in (np.ones(len(GROUPS), bool), ~POSITIVE | few):
        found = choose_set(values[part], POSITIVE[part], np.arange(part.sum()), most=2)
        positive = POSITIVE[part]
        weight = np.where(positive, 1 / positive.sum(), 1 / (~positive).sum())
        model = LinearRegression(positive=True)
        model.fit(values[part][:, found.chosen], np.where(positive, 1, -1), weight)
        np.testing.assert_allclose(found.weights, model.coef_, rtol=1e-6)
        apart = values[part][positive].mean(0) - values[part][~positive].mean(0)
        shares = (found.weights * apart[found.chosen]) / (found.weights @ apart[found.chosen])
        np.testing.assert_allclose(found.shares, shares)


def test_the_area_is_that_of_sets_chosen_on_other_groups():
    values = planted(1)
    fold = group_folds(POSITIVE, GROUPS)
    areas = []
    for part in np.unique(fold):
        inside, outside = fold != part, fold == part
        # The choice among these values is clear whatever is left out.
        chosen = choose_set(values[inside], POSITIVE[inside], GROUPS[inside], most=2)
        told = values[outside][:, chosen.chosen] @ chosen.weights
        areas.append(roc_auc_score(POSITIVE[outside], told))
    assert choose_set(values, POSITIVE, GROUPS, most=2).auc == pytest.approx(np.mean(areas))


def test_a_value_of_several_parts_is_taken_as_one_by_its_parts_that_mark():
    values = planted(2)
    # Value 3 says one thing by its first part and another by its second; the other parts are noise.
    parts = np.random.default_rng(3).normal(size=(*values.shape, 2))
    parts[:, 3] = values[:, [3, 5]]
    parts[POSITIVE & (np.arange(len(GROUPS)) % 3 == 0), 3, 1] += 2
    parts[..., 1][POSITIVE, 0] -= 5
    found = choose_set(parts, POSITIVE, GROUPS, most=2)
    assert found.weights.shape == (len(found.chosen), 2)
    assert found.chosen[0] == 3
    assert (found.weights[0] > 0).all()
    assert (found.weights >= 0).all()
    # What is smaller in these samples marks nothing of theirs.
    assert not found.weights[found.chosen == 0, 1].any()
    told = np.einsum("ncp,cp->n", parts[:, found.chosen], found.weights)
    np.testing.assert_allclose(found.told(parts), told)
    means = (parts[POSITIVE].mean(0) - parts[~POSITIVE].mean(0))[found.chosen]
    shares = (found.weights * means).sum(1) / (found.weights * means).sum()
    np.testing.assert_allclose(found.shares, shares)
    # It counts as one: two values that mark, of which one has two parts, are two of two.
    parts[:, 4] = values[:, [7, 2]]
    both = choose_set(parts, POSITIVE, GROUPS, most=2)
    assert sorted(both.chosen.tolist()) == [3, 4]
    # Parts side by side are no better than the columns by themselves, where there is one.
    alone, column = (choose_set(v, POSITIVE, GROUPS) for v in (values, values[..., None]))
    assert alone.chosen.tolist() == column.chosen.tolist()
    np.testing.assert_allclose(alone.weights, column.weights[:, 0])
    assert (alone.auc, alone.auc_first) == (column.auc, column.auc_first)


def test_noise_is_told_by_chance_alone():
    random = np.random.default_rng(0)
    areas = [
        choose_set(random.normal(size=(len(GROUPS), 60)), POSITIVE, GROUPS).auc for _ in range(40)
    ]
    assert np.mean(areas) == pytest.approx(0.51, abs=0.02)


def test_where_no_value_is_larger_the_set_is_empty():
    values = np.ones((len(GROUPS), 4))
    values[POSITIVE, 2] = 0
    found = choose_set(values, POSITIVE, GROUPS)
    assert len(found.chosen) == len(found.weights) == len(found.shares) == 0
    assert found.auc == 0.5


def test_what_cannot_be_left_out_is_refused():
    values = planted(0)
    told = refusal(choose_set, values, POSITIVE, np.where(POSITIVE, "one", GROUPS.astype(str)))
    assert told.startswith("The label 'True' is in one group only")
    assert "480 samples but 3 marks" in refusal(choose_set, values, POSITIVE[:3], GROUPS)
