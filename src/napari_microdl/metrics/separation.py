"""Cosines with a direction for one label against all others (Donhauser et al. 2025, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
