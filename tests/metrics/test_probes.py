from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from core.refusals import refusal
from napari_microdl.core.errors import MicrodlError
from napari_microdl.metrics import (
    ProbeScores,
    balanced_accuracy,
    check_split,
    group_folds,
    probe_scores,
    relative_accuracy,
)
from tasks import cancelling, recorded


def blobs(n_wells: int = 6, per_well: int = 20, n_labels: int = 3, apart: float = 2.0):
    """Wells of one label each, whose cells lie around the label's centre."""
    rng = np.random.default_rng(3)
    well = np.repeat(np.arange(n_wells * n_labels), per_well)
    label = well % n_labels
    x = rng.normal(size=(len(well), 5)) + apart * np.eye(n_labels, 5)[label]
    return x.astype(np.float32), np.array(list("abc"))[label], well


@pytest.mark.parametrize("as_codes", [False, True])
def test_the_score_is_that_of_scikit_learn(as_codes):
    x, labels, wells = blobs()
    fold = group_folds(labels, wells, n_folds=3)
    if as_codes:
        x = np.maximum(x, 0)
    found = probe_scores(sparse.csr_array(x) if as_codes else x, labels, fold, wells)
    scores, areas = [], []
    for part in range(3):
        inside, outside = fold != part, fold == part
        scaler = StandardScaler(with_mean=not as_codes).fit(x[inside])
        probe = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
        probe.fit(scaler.transform(x[inside]), labels[inside])
        told = probe.predict(scaler.transform(x[outside]))
        scores.append(balanced_accuracy_score(labels[outside], told))
        chances = probe.predict_proba(scaler.transform(x[outside]))
        areas.append(roc_auc_score(labels[outside], chances, multi_class="ovr"))
    assert found.balanced_accuracy == pytest.approx(np.mean(scores))
    assert found.spread == pytest.approx(np.std(scores))
    assert found.auc == pytest.approx(np.mean(areas))
    assert found.auc_spread == pytest.approx(np.std(areas))
    assert (found.n_folds, found.n_labels, found.n_samples) == (3, 3, 360)
    assert found.chance == pytest.approx(1 / 3)
    assert found.balanced_accuracy > 0.6


def test_rare_labels_weigh_as_much_as_common_ones():
    x, labels, wells = blobs(n_wells=8, n_labels=2)
    few = (labels == "b") | (wells < 4)
    x, labels, wells = x[few], labels[few], wells[few]
    score = probe_scores(x, labels, group_folds(labels, wells), wells)
    assert score.n_folds == 2
    # Two normal distributions 2 * sqrt(2) apart: each side right by Phi(sqrt 2) = 0.921.
    assert score.balanced_accuracy == pytest.approx(0.921, abs=0.06)


@given(
    pairs=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 7)), min_size=4, max_size=40)
)
def test_folds_keep_groups_whole(pairs):
    labels, groups = (np.array(column) for column in zip(*pairs, strict=True))
    least = min(len(set(groups[labels == name].tolist())) for name in set(labels.tolist()))
    if len(set(labels.tolist())) < 2 or least < 2:
        with pytest.raises(MicrodlError, match=r"only 1 label|one group only"):
            group_folds(labels, groups)
        return
    fold = group_folds(labels, groups)
    check_split(fold, groups)
    for group in set(groups.tolist()):
        assert len(set(fold[groups == group].tolist())) == 1
    assert fold.min() >= 0
    assert fold.max() < min(5, least)


def test_noise_is_told_by_chance_and_a_planted_difference_by_its_size():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8000, 6)).astype(np.float32)
    treated, fold = rng.random(8000) < 0.2, rng.integers(0, 4, 8000)
    noise = probe_scores(x, treated, fold)
    np.testing.assert_allclose([noise.auc, noise.balanced_accuracy], 0.5, atol=0.05)
    # Two normal distributions two standard deviations apart: AUC 0.921, accuracy 0.841.
    x[treated, 2] += 2
    found = probe_scores(x, treated, fold)
    np.testing.assert_allclose([found.auc, found.balanced_accuracy], [0.921, 0.841], atol=0.02)


def test_a_fold_without_other_labels_has_no_area():
    x, labels, wells = blobs(n_wells=4, n_labels=2)
    # The last fold holds one label alone.
    fold = np.where(labels == "a", wells // 2 % 2, wells // 2 % 3)
    fold[(labels == "b") & (wells == 7)] = 3
    found = probe_scores(x, labels, fold, wells)
    assert found.n_folds == 4
    assert np.isnan(found.auc)
    assert np.isfinite(found.balanced_accuracy)


def test_folds_are_told_and_can_be_cancelled():
    x, labels, wells = blobs()
    fold = group_folds(labels, wells, n_folds=3)
    with recorded() as heard:
        scores = probe_scores(x, labels, fold, wells)
    assert [(p.done, p.total) for p in heard] == [(0, 3), (1, 3), (2, 3)]
    with cancelling(2):
        probe_scores(x, labels, fold, wells)
    # Of many numbers in a process of its own.
    wide = np.tile(x, (1, 1200))
    with recorded() as heard:
        probe_scores(wide, labels, fold, wells)
    assert [(p.done, p.total) for p in heard] == [(0, 3), (0, 3), (1, 3), (2, 3)]
    assert scores.n_folds == 3


def test_wells_of_one_label_each_are_spread_evenly():
    _, labels, wells = blobs()
    fold = group_folds(labels, wells, n_folds=3)
    for part in range(3):
        for name in "abc":
            assert len(np.unique(wells[(fold == part) & (labels == name)])) == 2


def test_a_leak_is_refused_unless_told():
    x, labels, wells = blobs()
    fold = np.arange(len(x)) % 2
    assert refusal(probe_scores, x, labels, fold, wells) == (
        "18 of 18 groups, such as '0', are on both sides of the split, so the probe would be "
        "tested on what it has seen: keep each group whole, or say allow_leak=True."
    )
    assert probe_scores(x, labels, fold, wells, allow_leak=True) == probe_scores(x, labels, fold)


def test_a_leak_is_worth_something():
    """Labels that follow the well and nothing else cannot be learned from other wells."""
    rng = np.random.default_rng(1)
    wells = np.repeat(np.arange(12), 30)
    x = rng.normal(size=(12, 20))[wells] + 0.01 * rng.normal(size=(360, 20))
    labels = np.where(wells % 2, "odd", "even")
    fold = np.arange(360) % 3
    leaking = probe_scores(x, labels, fold, wells, allow_leak=True, strength=1)
    honest = probe_scores(x, labels, group_folds(labels, wells), wells, strength=1)
    assert leaking.balanced_accuracy > 0.99
    assert honest.balanced_accuracy < 0.8


def test_a_label_of_one_fold_and_wrong_lengths_are_refused():
    x, labels, wells = blobs()
    with pytest.raises(MicrodlError, match="label 'a' is in one fold only"):
        probe_scores(x, labels, (labels == "a").astype(int))
    for short in [(labels[1:], wells), (labels, wells[1:]), (labels, wells, wells[1:])]:
        assert "There are 360 samples but 359" in refusal(probe_scores, x, *short)
    assert "There are 360 samples but 359 groups" in refusal(group_folds, labels, wells[1:])


@given(data=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("abc")), min_size=1))
@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_balanced_accuracy_is_that_of_scikit_learn(data):
    truth, told = (np.array(column) for column in zip(*data, strict=True))
    expected = np.mean([(told[truth == name] == name).mean() for name in set(truth.tolist())])
    if len(set(truth.tolist())) == 2:
        expected = balanced_accuracy_score(truth, told)
    assert balanced_accuracy(truth, told) == pytest.approx(expected)


def test_what_is_left_is_counted_from_chance():
    reference = ProbeScores(0.9, 0.0, 0.5, 3, 2, 10)
    less = dataclasses.replace(reference, balanced_accuracy=0.8)
    assert relative_accuracy(less, reference) == pytest.approx(0.75)
    assert np.isnan(relative_accuracy(less, dataclasses.replace(reference, balanced_accuracy=0.5)))
