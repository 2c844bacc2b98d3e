"""How many concepts are dead, and how many tell a label (Donhauser et al. 2025, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.metrics.selectivity import active

THRESHOLDS = (0.5, 0.2, 0.1)
DEAD_RATE = 1e-5


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


def best_selectivity(
    classes: NDArray[np.generic], selectivity: NDArray[np.floating]
) -> pd.DataFrame:
    """The most selective concept of every label.

    Parameters
    ----------
    classes : ndarray of shape (n_labels,)
        Labels.
    selectivity : ndarray of shape (n_labels, n_concepts)
        Average or max selectivity.

    Returns
    -------
    DataFrame indexed by label
        ``concept``, the first of equals and -1 where none has a number; ``selectivity``, -1 to 1.
    """
    index = pd.Index(classes, name="label")
    if not selectivity.shape[1] or np.isnan(selectivity).any():
        return pd.DataFrame({"concept": -1, "selectivity": np.nan}, index=index)
    best = selectivity.argmax(axis=1)
    return pd.DataFrame(
        {"concept": best, "selectivity": selectivity[np.arange(len(best)), best]}, index=index
    )
