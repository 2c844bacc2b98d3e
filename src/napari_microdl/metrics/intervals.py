"""Confidence intervals from wells drawn again, since cells of one well are not independent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.core.errors import MicrodlError
from napari_microdl.metrics.group_counts import Labels, count_groups

N_RESAMPLES = 1000
CONFIDENCE = 0.95


def selectivity_intervals(
    codes: sparse.csr_array,
    labels: Labels,
    groups: Labels,
    concepts: NDArray[np.integer],
    *,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
    random_state: int = 0,
) -> pd.DataFrame:
    """Confidence interval of the average selectivity of one concept for each label.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes.
    labels, groups : sequence of length n_samples
        One label and one well, site or plate a sample.
    concepts : ndarray of shape (n_labels,)
        Concept of each label, in the order of the sorted labels, such as the best of each.
    n_resamples : int, default=1000
        Draws.
    confidence : float, default=0.95
        Of the interval, above 0 and below 1.
    random_state : int, default=0
        Seed.

    Returns
    -------
    DataFrame of one row a label, indexed by label
        ``concept``; ``selectivity``, -1 to 1; ``low`` and ``high``, percentiles of the draws, NaN
        where a label has one group only or there is only one label; ``n_groups`` of the label.

    Raises
    ------
    MicrodlError
        If the lengths differ or the confidence is no share.

    Notes
    -----
    Groups are drawn with replacement from those that hold the same labels, so that no label is lost
    from a draw. A concept that was chosen as the best of many on the same samples looks better than
    it is, and so does its interval: choose on some wells and judge on others, or look at
    `best_selectivity_null`.
    """
    _check_confidence(confidence)
    counts = count_groups(codes, labels, groups)
    concepts = np.asarray(concepts)
    if len(concepts) != len(counts.names):
        raise MicrodlError(
            f"There are {len(counts.names)} labels but {len(concepts)} concepts; give one a label."
        )
    held = sparse.csr_array(
        (np.ones(len(counts.label)), (counts.group, counts.label)),
        shape=(counts.n_groups, len(counts.names)),
    ).toarray()
    _, stratum = np.unique(held, axis=0, return_inverse=True)
    draws = group_draws(stratum, n_resamples, np.random.default_rng(random_state))
    # The first row is what was seen: every group once.
    weights = np.vstack([np.ones(counts.n_groups), draws])[:, counts.group]
    rows = []
    for number, concept in enumerate(concepts):
        hits = counts.hits[:, [int(concept)]].toarray()[:, 0]
        inside = counts.label == number
        share = [
            np.divide(
                weights[:, side] @ hits[side],
                size := weights[:, side] @ counts.sizes[side],
                out=np.full(len(weights), np.nan),
                where=size > 0,
            )
            for side in (inside, ~inside)
        ]
        selectivity = share[0] - share[1]
        n_groups = len(np.unique(counts.group[inside]))
        low, high = _percentiles(selectivity[1:], confidence) if n_groups > 1 else (np.nan, np.nan)
        rows.append(
            {
                "concept": int(concept),
                "selectivity": selectivity[0],
                "low": low,
                "high": high,
                "n_groups": n_groups,
            }
        )
    return pd.DataFrame(rows, index=pd.Index(counts.names, name="label"))


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    groups: Labels,
    strata: Labels | None = None,
    *,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
    random_state: int = 0,
) -> tuple[float, float]:
    """Confidence interval of any statistic, from groups drawn again with replacement.

    Parameters
    ----------
    statistic : callable
        From row numbers, in which a row may come several times, to a number.
    groups : sequence of length n_samples
        Wells, sites or plates, drawn whole.
    strata : sequence of length n_samples, optional
        Labels that groups are drawn within, so that every draw has as many groups of each; one a
        group.
    n_resamples : int, default=1000
        Draws.
    confidence : float, default=0.95
        Of the interval, above 0 and below 1.
    random_state : int, default=0
        Seed.

    Returns
    -------
    low, high : float
        Percentiles of the draws; draws of which the statistic is NaN are left out. NaN where there
        is only one group or no draw is left.

    Raises
    ------
    MicrodlError
        If lengths differ, a group is in two strata or the confidence is no share.
    """
    _check_confidence(confidence)
    names, first, group = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    stratum = np.zeros(len(group), np.int64)
    if strata is not None:
        if len(strata) != len(group):
            raise MicrodlError(
                f"There are {len(group)} samples but {len(strata)} strata; give one a sample."
            )
        _, stratum = np.unique(np.asarray(strata), return_inverse=True)
    if (stratum != stratum[first][group]).any():
        raise MicrodlError("A group is in two strata; give groups of one label each.")
    if len(names) < 2:
        return float("nan"), float("nan")
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    draws = group_draws(stratum[first], n_resamples, np.random.default_rng(random_state))
    found = [
        statistic(np.concatenate([members[g] for g in np.repeat(np.arange(len(names)), draw)]))
        for draw in draws
    ]
    return _percentiles(np.asarray(found, np.float64), confidence)


def group_draws(
    stratum: NDArray[np.integer], n: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """How often every group comes in each draw with replacement within its stratum.

    Parameters
    ----------
    stratum : ndarray of shape (n_groups,)
        Number of each group's stratum.
    n : int
        Draws.
    random : Generator
        Source of the draws.

    Returns
    -------
    ndarray of shape (n, n_groups)
    """
    counts = np.empty((n, len(stratum)), np.int64)
    for number in np.unique(stratum):
        members = np.flatnonzero(stratum == number)
        even = np.full(len(members), 1 / len(members))
        counts[:, members] = random.multinomial(len(members), even, n)
    return counts


def _percentiles(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise MicrodlError(f"A confidence of {confidence} is no share; give one such as 0.95.")
