"""Linear probes judged on groups (wells, sites, plates) that they were not fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.core.child_process import call_in_child
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.metrics.selectivity import Labels, require_length, separation_auc

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

MOST_FOLDS = 5
# A fit on more takes a second or longer.
_MOST_NUMBERS = 2_000_000


@dataclass(frozen=True)
class ProbeScores:
    """How well a linear probe tells labels in samples that it has not seen.

    Parameters
    ----------
    balanced_accuracy : float
        Mean over the folds of the mean recall of all labels, 0 to 1.
    spread : float
        Its standard deviation over the folds.
    chance : float
        One over the number of labels.
    n_folds, n_labels, n_samples : int
        Sizes.
    auc, auc_spread : float
        Area under the ROC curve, the mean over the labels of one against the rest: mean over the
        folds and standard deviation.
    """

    balanced_accuracy: float
    spread: float
    chance: float
    n_folds: int
    n_labels: int
    n_samples: int
    auc: float = float("nan")
    auc_spread: float = float("nan")


def linear_probe(*, is_sparse: bool = False, strength: float = 0.01) -> Pipeline:
    """Logistic regression on standardised dimensions, in which every label weighs the same.

    Parameters
    ----------
    is_sparse : bool, default=False
        Whether samples come as a sparse matrix: they are then scaled but not centred.
    strength : float, default=0.01
        Inverse of the penalty; smaller than scikit-learn's default, as there are often as many
        dimensions as samples.

    Returns
    -------
    Pipeline
        Of scikit-learn, not fitted.
    """
    # Imported on the first fit: scikit-learn takes a second.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        StandardScaler(with_mean=not is_sparse),
        LogisticRegression(C=strength, class_weight="balanced", max_iter=2000),
    )


def group_folds(
    labels: Labels, groups: Labels, n_folds: int = MOST_FOLDS, random_state: int = 0
) -> NDArray[np.int64]:
    """Folds that keep groups whole and have every label in several of them.

    Parameters
    ----------
    labels : sequence of length n_samples
        What is to be predicted.
    groups : sequence of length n_samples
        Wells, sites, batches or plates.
    n_folds : int, default=5
        At most so many; fewer where a label has fewer groups.
    random_state : int, default=0
        Seed.

    Returns
    -------
    ndarray of shape (n_samples,)
        Number of the fold, from 0.

    Raises
    ------
    MicrodlError
        If there is only one label, or a label is in one group only.
    """
    names, label = np.unique(np.asarray(labels), return_inverse=True)
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    require_length(len(label), len(group), "groups")
    if len(names) < 2:
        raise MicrodlError(
            f"There is only {len(names)} label; a probe needs two or more to tell apart."
        )
    for number, name in enumerate(names):
        n_groups = len(np.unique(group[label == number]))
        if n_groups < 2:
            raise MicrodlError(
                f"The label '{name}' is in one group only, so it cannot be tested on a group that "
                "was not fitted; leave it out, or choose finer groups."
            )
        n_folds = min(n_folds, n_groups)
    from sklearn.model_selection import StratifiedGroupKFold

    folds = np.empty(len(label), np.int64)
    split = StratifiedGroupKFold(n_folds, shuffle=True, random_state=random_state)
    for number, (_, test) in enumerate(split.split(label, label, group)):
        folds[test] = number
    return folds


def check_split(
    fold: NDArray[np.integer], groups: Labels | None, *, allow_leak: bool = False
) -> None:
    """Refuse folds that share a group.

    Parameters
    ----------
    fold : ndarray of shape (n_samples,)
        Part of each sample.
    groups : sequence of length n_samples, optional
        Wells, sites, batches or plates; nothing is checked where not given.
    allow_leak : bool, default=False
        Let it pass.

    Raises
    ------
    MicrodlError
        If samples of one group are in two folds.
    """
    if groups is None or allow_leak:
        return
    groups = np.asarray(groups)
    require_length(len(fold), len(groups), "groups")
    names, group = np.unique(groups, return_inverse=True)
    pairs = np.unique(np.stack([group, fold], axis=1), axis=0)
    split = np.flatnonzero(np.bincount(pairs[:, 0], minlength=len(names)) > 1)
    if len(split):
        raise MicrodlError(
            f"{len(split)} of {len(names)} groups, such as '{names[split[0]]}', are on both sides "
            "of the split, so the probe would be tested on what it has seen: keep each group "
            "whole, or say allow_leak=True."
        )


def probe_scores(
    vectors: NDArray[np.floating] | sparse.csr_array,
    labels: Labels,
    fold: NDArray[np.integer],
    groups: Labels | None = None,
    *,
    allow_leak: bool = False,
    strength: float = 0.01,
) -> ProbeScores:
    """Balanced test accuracy of a linear probe, one fold left out after the other.

    Parameters
    ----------
    vectors : ndarray or csr_array of shape (n_samples, n_features)
        Representations, their reconstructions, or codes.
    labels : sequence of length n_samples
        What is to be predicted.
    fold : ndarray of shape (n_samples,)
        Part of each sample, for instance of `group_folds`.
    groups : sequence of length n_samples, optional
        What must not be in two folds.
    allow_leak : bool, default=False
        Take folds that share a group.
    strength : float, default=0.01
        Inverse of the penalty.

    Returns
    -------
    ProbeScores

    Raises
    ------
    MicrodlError
        If lengths differ, a group is on both sides, or a label is in one fold only.

    Notes
    -----
    Paper, section 4: "linear probe", the class-balanced loss and the balanced test accuracy. Only
    labels that a fold holds count in it.
    """
    names, label = np.unique(np.asarray(labels), return_inverse=True)
    fold = np.asarray(fold)
    n = int(vectors.shape[0])
    require_length(n, len(label), "labels")
    require_length(n, len(fold), "folds")
    check_split(fold, groups, allow_leak=allow_leak)
    parts = np.unique(fold)
    for number, name in enumerate(names):
        if len(np.unique(fold[label == number])) < 2:
            raise MicrodlError(
                f"The label '{name}' is in one fold only, so it is never both fitted and tested; "
                "spread it over two or more."
            )
    if vectors.size > _MOST_NUMBERS:
        # One fit takes seconds, and nothing stops it.
        current_task().progress(0, len(parts))
        scores = call_in_child(fold_scores, vectors, label, fold, strength)
    else:
        scores = fold_scores(vectors, label, fold, strength)
    mean, spread = scores.mean(axis=0), scores.std(axis=0)
    return ProbeScores(
        balanced_accuracy=float(mean[0]),
        spread=float(spread[0]),
        chance=1 / len(names),
        n_folds=len(parts),
        n_labels=len(names),
        n_samples=n,
        auc=float(mean[1]),
        auc_spread=float(spread[1]),
    )


def fold_scores(
    vectors: NDArray[np.floating] | sparse.csr_array,
    label: NDArray[np.integer],
    fold: NDArray[np.integer],
    strength: float,
) -> NDArray[np.float64]:
    """How well a probe tells labels in each fold, fitted on all others.

    Parameters
    ----------
    vectors, fold, strength
        As for `probe_scores`.
    label : ndarray of int, shape (n_samples,)
        Numbers of the labels.

    Returns
    -------
    ndarray of shape (n_folds, 2)
        Balanced accuracy and area under the curve.
    """
    parts = np.unique(fold)
    scores = np.empty((len(parts), 2))
    for number, part in enumerate(parts):
        current_task().progress(number, len(parts))
        inside, outside = np.flatnonzero(fold != part), np.flatnonzero(fold == part)
        probe = linear_probe(is_sparse=sparse.issparse(vectors), strength=strength)
        probe.fit(vectors[inside], label[inside])
        chances = probe.predict_proba(vectors[outside])
        predicted, truth = probe.classes_[chances.argmax(axis=1)], label[outside]
        areas = [separation_auc(chances[:, k], truth == c) for k, c in enumerate(probe.classes_)]
        known = np.isfinite(areas)
        area = np.mean(np.asarray(areas)[known]) if known.any() else np.nan
        scores[number] = balanced_accuracy(truth, predicted), area
    return scores


def balanced_accuracy(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Mean over the labels of the share of their samples that were predicted right.

    Parameters
    ----------
    truth, predicted : ndarray of shape (n_samples,)
        Labels; those that are only in `predicted` do not count.

    Returns
    -------
    float
        0 to 1; NaN without samples.
    """
    names = np.unique(truth)
    if not len(names):
        return float("nan")
    return float(np.mean([(predicted[truth == name] == name).mean() for name in names]))


def relative_accuracy(scores: ProbeScores, reference: ProbeScores) -> float:
    """Share of what a probe gains over chance that is kept.

    Parameters
    ----------
    scores : ProbeScores
        For instance on reconstructions.
    reference : ProbeScores
        For instance on the representations themselves, with the same labels and folds.

    Returns
    -------
    float
        1 where nothing is lost, 0 at chance; NaN where the reference is not above chance.
    """
    gain = reference.balanced_accuracy - reference.chance
    if gain <= 0:
        return float("nan")
    return (scores.balanced_accuracy - scores.chance) / gain
