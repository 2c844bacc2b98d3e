"""How selective a concept is for a condition, and which are dead (Donhauser et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task

THRESHOLDS = (0.5, 0.2, 0.1)
DEAD_RATE = 1e-5
_ROWS_AT_ONCE = 16_384

Labels = Sequence[str] | NDArray[np.generic]


def require_length(n_samples: int, n: int, what: str) -> None:
    """Refuse labels, groups or the like that are not one a sample."""
    if n != n_samples:
        raise MicrodlError(f"There are {n_samples} samples but {n} {what}; give one a sample.")


def active(codes: sparse.csr_array) -> sparse.csr_array:
    """Where concepts are active: a positive coefficient.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes. A least-squares coefficient can come out negative: the sample then points away from
        the atom, so it does not count as showing the concept.

    Returns
    -------
    csr_array of shape (n_samples, n_concepts)
        1.0 where active, float64.
    """
    positive = sparse.csr_array(codes > 0).astype(np.float64)
    positive.eliminate_zeros()
    return positive


def activation_shares(
    codes: sparse.csr_array, labels: Labels
) -> tuple[NDArray[np.generic], NDArray[np.float64], NDArray[np.int64]]:
    """Share of the samples of every label in which every concept is active.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes.
    labels : sequence of length n_samples
        One label a sample.

    Returns
    -------
    classes : ndarray of shape (n_labels,)
        The different labels, sorted.
    shares : ndarray of shape (n_labels, n_concepts)
        0 to 1.
    counts : ndarray of shape (n_labels,)
        Samples of each label.

    Raises
    ------
    MicrodlError
        If the lengths differ.
    """
    labels = np.asarray(labels)
    if codes.shape[0] != len(labels):
        raise MicrodlError(f"There are {codes.shape[0]} samples but {len(labels)} labels.")
    classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    hits = np.zeros((len(classes), codes.shape[1]))
    # Some rows at a time: codes of a million samples may lie on disk.
    for begin in range(0, len(labels), _ROWS_AT_ONCE):
        current_task().check()
        part = inverse[begin : begin + _ROWS_AT_ONCE]
        one_hot = sparse.csr_array(
            (np.ones(len(part)), (part, np.arange(len(part)))), shape=(len(classes), len(part))
        )
        hits += (one_hot @ active(codes[begin : begin + _ROWS_AT_ONCE])).toarray()
    return classes, hits / counts[:, None], counts


def selectivities(
    shares: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average and max selectivity from one count of who is active.

    Parameters
    ----------
    shares : ndarray of shape (n_labels, n_concepts)
        Share of each label's samples in which each concept is active.
    counts : ndarray of shape (n_labels,)
        Samples of each label.

    Returns
    -------
    average, maximum : ndarray of shape (n_labels, n_concepts)
        Share of the label less the share among all other samples, and less the largest share of
        another label; -1 to 1, all NaN where there is only one label.

    Notes
    -----
    Paper, section 4: "avg selectivity" and "max selectivity".
    """
    if len(shares) < 2:
        return np.full_like(shares, np.nan), np.full_like(shares, np.nan)
    hits = shares * counts[:, None]
    others = (hits.sum(0) - hits) / (counts.sum() - counts)[:, None]
    ranked = np.sort(shares, axis=0)
    return shares - others, shares - np.where(shares == ranked[-1], ranked[-2], ranked[-1])


def average_selectivity(
    codes: sparse.csr_array, labels: Labels
) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Share of a label's samples that show a concept, less its share among all other samples.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes.
    labels : sequence of length n_samples
        One label a sample.

    Returns
    -------
    classes : ndarray of shape (n_labels,)
        The different labels, sorted.
    selectivity : ndarray of shape (n_labels, n_concepts)
        -1 to 1; all NaN where there is only one label.

    Notes
    -----
    Paper, section 4: "avg selectivity".
    """
    classes, shares, counts = activation_shares(codes, labels)
    return classes, selectivities(shares, counts)[0]


def activation_rates(codes: sparse.csr_array) -> NDArray[np.float64]:
    """Share of samples in which every concept is active, shape (n_concepts,); NaN without samples.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes.

    Returns
    -------
    ndarray of shape (n_concepts,)
        0 to 1.
    """
    if not codes.shape[0]:
        return np.full(codes.shape[1], np.nan)
    return np.asarray(active(codes).sum(axis=0) / codes.shape[0])


def dead_features(codes: sparse.csr_array, rate: float = DEAD_RATE) -> NDArray[np.bool_]:
    """Concepts that are active in too few samples to mean anything.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes.
    rate : float, default=1e-5
        Dead is what is active in a smaller share of the samples; of fewer than 100,000 samples this
        means in none.

    Returns
    -------
    ndarray of bool, shape (n_concepts,)

    Notes
    -----
    Paper, section 4: "dead features", there over the samples of the last 1,000 training steps, here
    over those given. What an ICFL saw while it was fitted is in its `dead_`.
    """
    return activation_rates(codes) < rate


def selectivity_counts(
    selectivity: NDArray[np.floating], thresholds: Sequence[float] = THRESHOLDS
) -> dict[float, int]:
    """Concepts whose average selectivity passes a threshold for at least one label.

    Parameters
    ----------
    selectivity : ndarray of shape (n_labels, n_concepts)
        Of `average_selectivity`; NaN passes nothing.
    thresholds : sequence of float, default=(0.5, 0.2, 0.1)
        To be exceeded.

    Returns
    -------
    dict of float to int
        Number of concepts for each threshold.

    Notes
    -----
    Paper, section 4: "counts".
    """
    return {
        float(threshold): int((selectivity > threshold).any(axis=0).sum())
        for threshold in thresholds
    }


@dataclass(frozen=True)
class GroupCounts:
    """Samples and active samples of every cell of group by label that is not empty.

    Parameters
    ----------
    hits : csr_array of shape (n_cells, n_concepts)
        Samples of the cell in which the concept is active.
    sizes : ndarray of shape (n_cells,)
        Samples of the cell.
    group, label : ndarray of shape (n_cells,)
        Numbers of the cell's group and label.
    names : ndarray of shape (n_labels,)
        Labels, sorted.
    n_groups : int
        Number of groups.
    """

    hits: sparse.csr_array
    sizes: NDArray[np.float64]
    group: NDArray[np.int64]
    label: NDArray[np.int64]
    names: NDArray[np.generic]
    n_groups: int


def count_groups(codes: sparse.csr_array, labels: Labels, groups: Labels | None) -> GroupCounts:
    """Count active samples by group and label.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes.
    labels : sequence of length n_samples
        One label a sample.
    groups : sequence of length n_samples, optional
        One group a sample; every sample is its own group where not given.

    Returns
    -------
    GroupCounts

    Raises
    ------
    MicrodlError
        If the lengths differ.
    """
    n = codes.shape[0]
    groups = np.arange(n) if groups is None else np.asarray(groups)
    require_length(n, len(labels), "labels")
    require_length(n, len(groups), "groups")
    names, label = np.unique(np.asarray(labels), return_inverse=True)
    kinds, group = np.unique(groups, return_inverse=True)
    cells, cell = np.unique(group * max(len(names), 1) + label, return_inverse=True)
    members = sparse.csr_array((np.ones(n), (cell, np.arange(n))), shape=(len(cells), n))
    return GroupCounts(
        hits=sparse.csr_array(members @ active(codes)),
        sizes=np.bincount(cell, minlength=len(cells)).astype(np.float64),
        group=cells // max(len(names), 1),
        label=cells % max(len(names), 1),
        names=names,
        n_groups=len(kinds),
    )


def separation_auc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Probability that a positive sample scores above a negative one.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)
        For instance the cosine of every sample with a concept's direction.
    positive : ndarray of shape (n_samples,)
        Which samples are of the label.

    Returns
    -------
    float
        Area under the ROC curve, ties counted half; NaN where one side is empty.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    above, below = np.sort(scores[positive]), np.sort(scores[~positive])
    # A third of the time that ranks of all scores take.
    pairs = sum(int(np.searchsorted(below, above, side).sum()) for side in ("left", "right"))
    return float(pairs / 2 / (n_positive * n_negative))
