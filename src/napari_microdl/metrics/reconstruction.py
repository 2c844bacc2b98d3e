"""What sparse codes keep of the samples, by how many non-zeros they may have."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.icfl import ICFL


class SparseCoder(Protocol):
    """Anything that turns samples into codes and codes into samples."""

    def transform(self, X: NDArray[Any]) -> Any:
        """Codes of samples, sparse or dense."""

    def inverse_transform(self, X: Any) -> NDArray[Any]:
        """Samples from codes."""


def reconstruction_cosine(x: NDArray[np.floating], reconstruction: NDArray[np.floating]) -> float:
    """Mean cosine of samples and their reconstructions.

    Parameters
    ----------
    x, reconstruction : ndarray of shape (n_samples, n_features)
        Samples; the cosine of zeros counts as 0.

    Returns
    -------
    float
        -1 to 1; NaN without samples.

    Notes
    -----
    Paper, section 4: "reconstruction".
    """
    if not len(x):
        return float("nan")
    a, b = np.asarray(x, np.float64), np.asarray(reconstruction, np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.divide((a * b).sum(axis=1), norms, out=np.zeros(len(a)), where=norms > 0)
    return float(cosines.mean())


def reconstruction_r2(x: NDArray[np.floating], reconstruction: NDArray[np.floating]) -> float:
    """Share of the variance of the samples that reconstructions explain.

    Parameters
    ----------
    x, reconstruction : ndarray of shape (n_samples, n_features)
        Samples.

    Returns
    -------
    float
        At most 1; NaN where the samples do not vary.
    """
    a = np.asarray(x, np.float64)
    total = ((a - a.mean(axis=0)) ** 2).sum() if len(a) else 0.0
    if not total:
        return float("nan")
    return float(1 - ((a - np.asarray(reconstruction, np.float64)) ** 2).sum() / total)


def largest_codes(codes: Any, k: int) -> sparse.csr_array:
    """Codes with all but the k largest magnitudes of every sample set to zero.

    Parameters
    ----------
    codes : sparse or dense matrix of shape (n_samples, n_concepts)
        Codes.
    k : int
        How many stay; of equals the first.

    Returns
    -------
    csr_array of shape (n_samples, n_concepts)
    """
    found = sparse.coo_array(codes)
    found.eliminate_zeros()
    row, column = found.coords
    order = np.lexsort((column, -np.abs(found.data), row))
    counts = np.bincount(row, minlength=found.shape[0])
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    largest = order[place < k]
    return sparse.csr_array(
        (found.data[largest], (row[largest], column[largest])), shape=found.shape
    )


def codes_of(coder: SparseCoder, x: NDArray[np.floating], k: int) -> sparse.csr_array:
    """Codes of samples with at most k non-zeros.

    Parameters
    ----------
    coder : object with ``transform`` and ``inverse_transform``
        An `ICFL` codes afresh with so many picks, in as many iterations as there can be with its
        picks an iteration (or fewer where k is smaller). Of any other the k largest codes stay.
    x : ndarray of shape (n_samples, n_features)
        Samples.
    k : int
        At most so many.

    Returns
    -------
    csr_array of shape (n_samples, n_concepts)
        Where k is no multiple of the picks an iteration, the ICFL takes the next smaller number of
        picks an iteration that divides it.
    """
    if not isinstance(coder, ICFL):
        return largest_codes(coder.transform(x), k)
    per_iteration = min(int(coder.atoms_per_iteration_), k)
    while k % per_iteration:
        per_iteration -= 1
    limited = copy.copy(coder)
    limited.atoms_per_iteration_ = per_iteration
    limited.n_iterations_ = k // per_iteration
    return sparse.csr_array(limited.transform(x))


def reconstruction_curve(
    coder: SparseCoder, x: NDArray[np.floating], ks: Sequence[int]
) -> pd.DataFrame:
    """Quality of reconstructions against the number of non-zeros.

    Parameters
    ----------
    coder : object with ``transform`` and ``inverse_transform``
        A fitted dictionary; see `codes_of` for what the number of non-zeros means to it.
    x : ndarray of shape (n_samples, n_features)
        Samples that the coder was not fitted on.
    ks : sequence of int
        Numbers of non-zeros, 1 or more.

    Returns
    -------
    DataFrame of one row a number
        ``k``; ``non_zeros``, their mean over the samples; ``cosine``, mean over the samples;
        ``r2``.

    Raises
    ------
    MicrodlError
        If there are no samples or a number is below 1.

    Notes
    -----
    Paper, section 4: "reconstruction".
    """
    if not len(x) or min(ks, default=0) < 1:
        raise MicrodlError(
            "A reconstruction curve takes one sample or more, and numbers of non-zeros from 1 on."
        )
    rows = []
    for k in ks:
        codes = codes_of(coder, x, int(k))
        back = coder.inverse_transform(codes)
        rows.append(
            {
                "k": int(k),
                "non_zeros": codes.count_nonzero() / len(x),
                "cosine": reconstruction_cosine(x, back),
                "r2": reconstruction_r2(x, back),
            }
        )
    return pd.DataFrame(rows)
