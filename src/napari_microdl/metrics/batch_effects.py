"""Concepts that tell plates or sites apart among controls: technical, not biological."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, stats

from napari_microdl.core.errors import MicrodlError
from napari_microdl.metrics.group_tests import compare_groups
from napari_microdl.metrics.selectivity import Labels, require_length


def batch_effects(
    codes: sparse.csr_array,
    batches: Labels,
    control: NDArray[np.bool_],
    groups: Labels | None = None,
    blocks: Labels | None = None,
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
        Wells, or fields: the analysis of variance is then of their means. Without, every cell
        counts as independent, and p-values come out too small.
    blocks : sequence of length n_samples, optional
        What holds several batches itself, as a well holds sites. Batches are then compared within
        blocks, so that differences between blocks count neither for nor against a concept.

    Returns
    -------
    DataFrame of n_concepts rows, indexed by concept
        ``eta_squared``: share of the variance (with `blocks`, of that within blocks) that lies
        between batches, 0 to 1; ``epsilon_squared``: the same less what chance gives, 0 on average
        where batches do not differ; ``p_value`` of the F test and ``q_value`` after Benjamini and
        Hochberg (1995); ``auc``: of the batch that differs most from the others, the probability
        that the one with more of the concept ranks higher, 0.5 to 1, over samples; ``batch``: its
        name. A concept that no control shows has 0, 0, 1, 1 and 0.5.

    Raises
    ------
    MicrodlError
        If lengths differ, controls are of one batch only, a group is in several batches or blocks,
        no block holds several batches, or there are no more groups than batches (and blocks) take.

    Notes
    -----
    In closed form, without shuffles: when batches mean nothing, the expectation of eta squared of
    n values in b batches is (b - 1) / (n - 1), whatever their distribution, and epsilon squared
    (Kelley 1935) is what exceeds it, rescaled to at most 1. With blocks, the F test is the partial
    one of batches beside blocks in a linear model of both; it takes no equal numbers.
    """
    control = np.asarray(control, bool)
    batches = np.asarray(batches)
    for what, given in (
        ("batches", batches),
        ("control marks", control),
        ("groups", groups),
        ("blocks", blocks),
    ):
        if given is not None:
            require_length(codes.shape[0], len(given), what)
    x = sparse.csr_array(codes[np.flatnonzero(control)], dtype=np.float64)
    names, batch = np.unique(batches[control], return_inverse=True)
    if len(names) < 2:
        kinds = f"{len(names)} batch{'' if len(names) == 1 else 'es'}"
        raise MicrodlError(
            f"Controls are of {kinds}; a batch effect takes controls of two or more."
        )
    b = len(names)
    block = (
        None if blocks is None else np.unique(np.asarray(blocks)[control], return_inverse=True)[1]
    )
    values, of_value, in_block = x, batch, block
    if groups is not None:
        group = np.asarray(groups)[control]
        values, first = _means(x, group, batch, block)
        of_value = batch[first]
        in_block = None if block is None else block[first]
    n = values.shape[0]
    if in_block is None:
        if n <= b:
            raise MicrodlError(
                f"There are {n} control groups in {b} batches; a batch effect takes more groups "
                "than batches."
            )
        eta, between = _eta_squared(values, of_value, b), b - 1
        within = n - b
    else:
        eta, between = _eta_within(values, of_value, b, in_block)
        within = n - int(in_block.max()) - 1 - between
        if within <= 0:
            raise MicrodlError(
                f"There are {n} control groups in {int(in_block.max()) + 1} blocks and {b} "
                "batches; a batch effect within blocks takes more groups."
            )
    epsilon = np.where(eta > 0, 1 - (1 - eta) * (between + within) / within, 0.0)
    with np.errstate(divide="ignore"):
        f = (eta / between) / ((1 - eta) / within)
    p = stats.f.sf(f, between, within)

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
    x: sparse.csr_array,
    groups: NDArray[np.generic],
    batch: NDArray[np.integer],
    block: NDArray[np.integer] | None,
) -> tuple[sparse.csr_array, NDArray[np.integer]]:
    """Mean of every group, and the number of its first sample."""
    names, first, group, size = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    for what, of_sample in (("batches", batch), ("blocks", block)):
        if of_sample is not None and (of_sample != of_sample[first][group]).any():
            raise MicrodlError(
                f"A group is in several {what}; give groups of different {what} different names, "
                "such as plate and well together."
            )
    members = sparse.csr_array(
        (1 / size[group], (group, np.arange(len(group)))), shape=(len(names), len(group))
    )
    return sparse.csr_array(members @ x), first


def _eta_squared(
    x: sparse.csr_array, batch: NDArray[np.integer], n_batches: int
) -> NDArray[np.float64]:
    n = x.shape[0]
    members = sparse.csr_array((np.ones(n), (batch, np.arange(n))), shape=(n_batches, n))
    sums = (members @ x).toarray()
    size = np.bincount(batch, minlength=n_batches)[:, None]
    mean = sums.sum(0) / n
    between = (size * (sums / size - mean) ** 2).sum(0)
    return _share(x, between, n * mean**2)


def _eta_within(
    x: sparse.csr_array, batch: NDArray[np.integer], n_batches: int, block: NDArray[np.integer]
) -> tuple[NDArray[np.float64], int]:
    """Share of the variance within blocks that lies between batches, and its degrees of freedom."""
    n = x.shape[0]
    size = np.bincount(block)[:, None]
    members = sparse.csr_array((np.ones(n), (block, np.arange(n))), shape=(len(size), n))
    indicator = np.zeros((n, n_batches))
    indicator[np.arange(n), batch] = 1
    indicator -= (members @ indicator / size)[block]
    basis, spread, _ = np.linalg.svd(indicator, full_matrices=False)
    basis = basis[:, spread > 1e-9]
    if not basis.shape[1]:
        raise MicrodlError(
            "No block of controls holds several batches, so they cannot be compared within blocks; "
            "leave the blocks out."
        )
    between = (np.asarray(x.T @ basis) ** 2).sum(axis=1)
    sums = (members @ x).toarray()
    return _share(x, between, (sums**2 / size).sum(axis=0)), basis.shape[1]


def _share(
    x: sparse.csr_array, between: NDArray[np.float64], of_means: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Part of the sum of squares about means, 0 where nothing varies."""
    squares = np.asarray((x * x).sum(axis=0))
    total = squares - of_means
    # What a sum of squares loses to rounding is no variance.
    varies = total > 1e-12 * np.maximum(squares, np.finfo(np.float64).tiny)
    share = np.divide(between, total, out=np.zeros(len(total)), where=varies)
    found: NDArray[np.float64] = np.clip(share, 0, 1)
    return found
