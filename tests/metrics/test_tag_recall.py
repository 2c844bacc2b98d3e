from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from napari_microdl.core.errors import MicrodlError
from napari_microdl.metrics.tag_recall import tag_recall


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
