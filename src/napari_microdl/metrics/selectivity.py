"""How selective a concept is for a condition (Donhauser et al. 2025, section 4)."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.stepping import run_through

_ROWS_AT_ONCE = 16_384


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
    codes: sparse.csr_array, labels: Sequence[str] | NDArray[np.generic]
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
    return run_through(iter_activation_shares(codes, labels))


def iter_activation_shares(
    codes: sparse.csr_array, labels: Sequence[str] | NDArray[np.generic]
) -> Generator[None, None, tuple[NDArray[np.generic], NDArray[np.float64], NDArray[np.int64]]]:
    """`activation_shares`, some samples an iteration.

    Parameters
    ----------
    codes, labels
        As for `activation_shares`.

    Yields
    ------
    None
        Stop iterating to cancel.

    Returns
    -------
    classes, shares, counts : ndarray
        As `activation_shares` returns them.

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
        yield
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
    codes: sparse.csr_array, labels: Sequence[str] | NDArray[np.generic]
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


def max_selectivity(
    codes: sparse.csr_array, labels: Sequence[str] | NDArray[np.generic]
) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Share of a label's samples that show a concept, less the largest share of another label.

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
    Paper, section 4: "max selectivity".
    """
    classes, shares, counts = activation_shares(codes, labels)
    return classes, selectivities(shares, counts)[1]


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
