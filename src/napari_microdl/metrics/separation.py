"""How well values tell two kinds of cells apart (Donhauser et al. 2025, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from napari_microdl.core.arrays import unit_length
from napari_microdl.core.errors import MicrodlError
from napari_microdl.metrics.selectivity import separation_auc


@dataclass(frozen=True)
class DirectionSeparation:
    """Two histograms over the same bins.

    Parameters
    ----------
    edges : ndarray of shape (n_bins + 1,)
        Cosines.
    label, others : ndarray of shape (n_bins,)
        Share of the samples of either side in each bin; they sum to 1, or are 0 without samples.
    auc : float
        Probability that a sample of the label has the higher cosine; NaN where a side is empty.
    """

    edges: NDArray[np.float64]
    label: NDArray[np.float64]
    others: NDArray[np.float64]
    auc: float


def direction_separation(
    vectors: NDArray[np.floating],
    direction: NDArray[np.floating],
    positive: NDArray[np.bool_],
    n_bins: int = 40,
) -> DirectionSeparation:
    """Compare the cosines of a label's samples with a direction with those of all others.

    Parameters
    ----------
    vectors : ndarray of shape (n_samples, n_features)
        Samples, whitened as those of the dictionary.
    direction : ndarray of shape (n_features,)
        Of a concept, of any length.
    positive : ndarray of bool, shape (n_samples,)
        Which samples are of the label.
    n_bins : int, default=40
        Between the smallest and the largest cosine.

    Returns
    -------
    DirectionSeparation

    Raises
    ------
    MicrodlError
        If the shapes do not fit or there are no samples.

    Notes
    -----
    Paper, section 4: "direction separation".
    """
    positive = np.asarray(positive, bool)
    if vectors.ndim != 2 or vectors.shape != (len(positive), len(direction)) or not len(positive):
        raise MicrodlError(
            f"The samples have the shape {vectors.shape}, but there are {len(positive)} marks and "
            f"the direction has {len(direction)} entries; all must fit, with one sample or more."
        )
    unit = unit_length(np.asarray(direction, np.float32)[None])[0]
    samples = unit_length(np.asarray(vectors, np.float32))
    # Not by a matrix product: of some shapes, those of the linear algebra library raise the flag of
    # an invalid operation although every number is finite.
    cosine = np.clip(np.einsum("nd,d->n", samples, unit, dtype=np.float64), -1, 1)
    edges = np.histogram_bin_edges(cosine, n_bins)
    shares = [
        np.histogram(cosine[side], edges)[0] / max(int(side.sum()), 1)
        for side in (positive, ~positive)
    ]
    return DirectionSeparation(edges, shares[0], shares[1], separation_auc(cosine, positive))


@dataclass(frozen=True)
class TagRecall:
    """How well values tell two kinds of cells apart.

    Parameters
    ----------
    n_control_like, n_perturbed : int
        Cells of each kind.
    threshold : float
        Half way between the two medians.
    recalled : int
        Control-like cells on the control-like side of the threshold.
    recall : float
        Their share, 0 to 1.
    false_alarms : int
        Perturbed cells on the control-like side.
    u : float
        Mann-Whitney U of the perturbed cells: pairs in which the perturbed cell has the higher
        value, ties counted half.
    p_value : float
        One-sided: are values of perturbed cells larger?
    """

    n_control_like: int
    n_perturbed: int
    threshold: float
    recalled: int
    recall: float
    false_alarms: int
    u: float
    p_value: float


def tag_recall(
    values: NDArray[np.floating], control_like: NDArray[np.bool_], perturbed: NDArray[np.bool_]
) -> TagRecall:
    """Compare the values of cells tagged control-like with those tagged perturbed.

    Parameters
    ----------
    values : ndarray of shape (n_cells,)
        For instance the cosine of every cell with a concept that perturbed cells should show.
    control_like, perturbed : ndarray of bool, shape (n_cells,)
        Tags.

    Returns
    -------
    TagRecall

    Raises
    ------
    MicrodlError
        If no cell carries one of the tags, or a cell carries both.

    Notes
    -----
    Paper, section 4, "single-cell identity": a one-sided Mann-Whitney U test and the share of
    control-like cells that are recalled (27 of 31). The paper does not state its threshold; here it
    lies half way between the medians of the two kinds.
    """
    if (control_like & perturbed).any():
        raise MicrodlError("A cell is tagged both control-like and perturbed; give it one tag.")
    a, b = values[control_like], values[perturbed]
    if not len(a) or not len(b):
        raise MicrodlError(
            f"{len(a)} cells are tagged control-like and {len(b)} perturbed; tag at least one of "
            "each."
        )
    threshold = float((np.median(a) + np.median(b)) / 2)
    recalled = int((a < threshold).sum())
    u, p = stats.mannwhitneyu(b, a, alternative="greater")
    return TagRecall(
        n_control_like=len(a),
        n_perturbed=len(b),
        threshold=threshold,
        recalled=recalled,
        recall=recalled / len(a),
        false_alarms=int((b < threshold).sum()),
        u=float(u),
        p_value=float(p),
    )
