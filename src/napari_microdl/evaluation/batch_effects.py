"""Concepts that tell plates or sites apart among controls: technical, not biological."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, stats

from napari_microdl.concept_statistics import compare_groups
from napari_microdl.errors import MicrodlError
from napari_microdl.evaluation.group_counts import Labels


def batch_effects(
    codes: sparse.csr_array,
    batches: Labels,
    control: NDArray[np.bool_],
    groups: Labels | None = None,
) -> pd.DataFrame:
    """How well every concept tells batches apart in controls, where nothing else should differ.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes.
    batches : sequence of length n_samples
        Plates, sites or days.
    control : ndarray of bool, shape (n_samples,)
        Which samples are controls.
    groups : sequence of length n_samples, optional
        Wells: the analysis of variance is then of their means. Without, every cell counts as
        independent, and p-values come out too small.

    Returns
    -------
    DataFrame of n_concepts rows, indexed by concept
        ``eta_squared``: share of the variance that lies between batches, 0 to 1;
        ``epsilon_squared``: the same less what chance gives, 0 on average where batches do not
        differ; ``p_value`` of the F test and ``q_value`` after Benjamini and Hochberg (1995);
        ``auc``: of the batch that differs most from the others, the probability that the one with
        more of the concept ranks higher, 0.5 to 1, over samples; ``batch``: its name. A concept
        that no control shows has 0, 0, 1, 1 and 0.5.

    Raises
    ------
    MicrodlError
        If lengths differ, controls are of one batch only, a group is in several batches, or there
        are no more groups than batches.

    Notes
    -----
    In closed form, without shuffles: when batches mean nothing, the expectation of eta squared of
    n values in b batches is (b - 1) / (n - 1), whatever their distribution, and epsilon squared
    (Kelley 1935) is what exceeds it, rescaled to at most 1.
    """
    control = np.asarray(control, bool)
    batches = np.asarray(batches)
    for what, given in (("batches", batches), ("control marks", control)):
        if len(given) != codes.shape[0]:
            raise MicrodlError(
                f"There are {codes.shape[0]} samples but {len(given)} {what}; give one a sample."
            )
    x = sparse.csr_array(codes[np.flatnonzero(control)], dtype=np.float64)
    names, batch = np.unique(batches[control], return_inverse=True)
    if len(names) < 2:
        raise MicrodlError(
            f"Controls are of {len(names)} batch; a batch effect takes controls of two or more."
        )
    values = x
    of_value: NDArray[np.integer] = batch
    if groups is not None:
        if len(groups) != codes.shape[0]:
            raise MicrodlError(
                f"There are {codes.shape[0]} samples but {len(groups)} groups; give one a sample."
            )
        values, of_value = _means(x, batch, np.asarray(groups)[control])
    n, b = values.shape[0], len(names)
    if n <= b:
        raise MicrodlError(
            f"There are {n} control groups in {b} batches; a batch effect takes more groups than "
            "batches."
        )
    eta = _eta_squared(values, of_value, b)
    epsilon = np.where(eta > 0, 1 - (1 - eta) * (n - 1) / (n - b), 0.0)
    with np.errstate(divide="ignore"):
        f = (eta / (b - 1)) / ((1 - eta) / (n - b))
    p = stats.f.sf(f, b - 1, n - b)

    # Cliff's delta is twice the area, less one.
    columns = sparse.csc_array(x)
    effects = np.stack(
        [compare_groups(columns, batch != k, batch == k)["effect"].to_numpy() for k in range(b)]
    )
    largest = np.abs(effects).argmax(axis=0)
    return pd.DataFrame(
        {
            "eta_squared": eta,
            "epsilon_squared": epsilon,
            "p_value": p,
            "q_value": stats.false_discovery_control(p),
            "auc": (1 + np.abs(effects).max(axis=0)) / 2,
            "batch": names[largest],
        },
        index=pd.Index(np.arange(codes.shape[1]), name="concept"),
    )


def _means(
    x: sparse.csr_array, batch: NDArray[np.integer], groups: NDArray[np.generic]
) -> tuple[sparse.csr_array, NDArray[np.integer]]:
    """Mean of every group, and its batch."""
    names, first, group, size = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    if (batch != batch[first][group]).any():
        raise MicrodlError(
            "A group is in several batches; give groups of different batches different names, such "
            "as plate and well together."
        )
    members = sparse.csr_array(
        (1 / size[group], (group, np.arange(len(group)))), shape=(len(names), len(group))
    )
    return sparse.csr_array(members @ x), batch[first]


def _eta_squared(
    x: sparse.csr_array, batch: NDArray[np.integer], n_batches: int
) -> NDArray[np.float64]:
    n = x.shape[0]
    members = sparse.csr_array((np.ones(n), (batch, np.arange(n))), shape=(n_batches, n))
    sums = (members @ x).toarray()
    size = np.bincount(batch, minlength=n_batches)[:, None]
    mean = sums.sum(0) / n
    between = (size * (sums / size - mean) ** 2).sum(0)
    squares = np.asarray((x * x).sum(axis=0))
    total = squares - n * mean**2
    # What a sum of squares loses to rounding is no variance.
    varies = total > 1e-12 * np.maximum(squares, np.finfo(np.float64).tiny)
    share = np.divide(between, total, out=np.zeros(len(total)), where=varies)
    found: NDArray[np.float64] = np.clip(share, 0, 1)
    return found
