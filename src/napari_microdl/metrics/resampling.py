"""How sure a selectivity is: what the best concept reaches by luck, and wells drawn again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations, product

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.metrics.selectivity import GroupCounts, Labels, count_groups, require_length

QUANTILES = (0.5, 0.95, 0.99)
N_RESAMPLES = 1000
CONFIDENCE = 0.95
# Shuffles x concepts x labels done at once: more take more memory, and a second or longer.
ENTRIES_AT_ONCE = 4_000_000
# Two sums of the same counts in another order differ in their last digits.
_EQUAL = 1e-12


def best_selectivity_null(
    codes: sparse.csr_array,
    labels: Labels,
    groups: Labels | None = None,
    blocks: Labels | None = None,
    *,
    n_permutations: int = 999,
    quantiles: Sequence[float] = QUANTILES,
    random_state: int = 0,
    entries_at_once: int = ENTRIES_AT_ONCE,
) -> pd.DataFrame:
    """Test the best selectivity of every label against shuffled labels.

    With thousands of concepts some are selective by luck alone. Here the labels are shuffled, and
    each time the best of all concepts is taken again, so the p-value already allows for the choice.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes.
    labels : sequence of length n_samples
        One label a sample.
    groups : sequence of length n_samples, optional
        Wells, or whatever was treated as one; whole groups swap labels. Samples swap one by one
        where not given, which makes p-values of cells from few wells far too small.
    blocks : sequence of length n_samples, optional
        Plates, or whatever labels stay within; one block where not given.
    n_permutations : int, default=999
        Shuffles.
    quantiles : sequence of float, default=(0.5, 0.95, 0.99)
        Of the null distribution, 0 to 1.
    random_state : int, default=0
        Seed.
    entries_at_once : int
        Shuffles x concepts x labels in memory.

    Returns
    -------
    DataFrame of one row a label, indexed by label
        ``concept``: the best; ``selectivity``: its average selectivity (paper, section 4), -1 to 1;
        ``p_value``: (1 + shuffles at least as good) / (1 + shuffles); ``null_<quantile>`` for every
        quantile; ``arrangements``: in how many ways the label can fall on the groups, as a float:
        no p-value means less than one over it. Selectivities and p-values are NaN where there is
        only one label.

    Raises
    ------
    MicrodlError
        If lengths differ, there are no concepts or shuffles, or a group has several labels or
        blocks.
    """
    if n_permutations < 1 or codes.shape[1] < 1:
        raise MicrodlError(
            f"There are {codes.shape[1]} concepts and {n_permutations} shuffles; both must be at "
            "least 1."
        )
    counts = count_groups(codes, labels, groups)
    if len(counts.sizes) > counts.n_groups:
        raise MicrodlError(
            "A group has samples of several labels, so its label cannot be shuffled as a whole; "
            "give groups that were treated as one, such as wells."
        )
    block = _blocks(counts, len(labels), groups, blocks)
    index = pd.Index(counts.names, name="label")
    columns = [
        "concept",
        "selectivity",
        "p_value",
        *(f"null_{q:g}" for q in quantiles),
        "arrangements",
    ]
    if len(index) < 2:
        return pd.DataFrame(np.nan, index=index, columns=columns).assign(concept=-1)

    best, concept = _best(counts, counts.label[None])
    at_once = max(1, entries_at_once // (codes.shape[1] * len(index)))
    random = np.random.default_rng(random_state)
    null = np.empty((n_permutations, len(index)))
    for begin in range(0, n_permutations, at_once):
        current_task().progress(begin, n_permutations)
        rows = slice(begin, min(begin + at_once, n_permutations))
        null[rows] = _best(counts, shuffled_within(counts.label, block, rows.stop - begin, random))[
            0
        ]
    reached = (null >= best - _EQUAL).sum(0)
    table = pd.DataFrame(
        {
            "concept": concept[0],
            "selectivity": best[0],
            "p_value": (1 + reached) / (1 + n_permutations),
            **{
                f"null_{q:g}": row
                for q, row in zip(quantiles, np.quantile(null, quantiles, axis=0), strict=True)
            },
            "arrangements": [
                count_arrangements(counts.label == k, block) for k in range(len(index))
            ],
        },
        index=index,
    )
    return table[columns]


def _blocks(
    counts: GroupCounts, n: int, groups: Labels | None, blocks: Labels | None
) -> NDArray[np.int64]:
    """Number of every group's block."""
    if blocks is None:
        return np.zeros(counts.n_groups, np.int64)
    require_length(n, len(blocks), "blocks")
    _, block = np.unique(np.asarray(blocks), return_inverse=True)
    if groups is None:
        return np.asarray(block, np.int64)
    _, first, group = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    if (block != block[first][group]).any():
        raise MicrodlError(
            "A group is in several blocks; give groups different names where they are of different "
            "blocks, such as plate and well together."
        )
    return np.asarray(block[first], np.int64)


def shuffled_within(
    label: NDArray[np.int64], block: NDArray[np.int64], n: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Shuffle labels within blocks.

    Parameters
    ----------
    label, block : ndarray of int, shape (n_groups,)
        Label and block of each group.
    n : int
        Shuffles.
    random : Generator
        Source of the draws.

    Returns
    -------
    ndarray of int, shape (n, n_groups)
    """
    drawn = np.tile(label, (n, 1))
    for number in np.unique(block):
        members = np.flatnonzero(block == number)
        drawn[:, members] = random.permuted(drawn[:, members], axis=1)
    return drawn


def _best(
    counts: GroupCounts, labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Best average selectivity of every label and its concept, for every row of labels."""
    total_hits, total = counts.hits.sum(axis=0), counts.sizes.sum()
    best = np.empty((len(labels), len(counts.names)))
    concept = np.empty(best.shape, np.int64)
    # Transposed, as sparse times dense is faster than dense times sparse.
    transposed = sparse.csr_array(counts.hits.T)
    for number in range(len(counts.names)):
        chosen = (labels == number).astype(np.float64)
        hits = (transposed @ chosen.T).T
        size = (chosen @ counts.sizes)[:, None]
        selectivity = hits / size - (total_hits - hits) / (total - size)
        concept[:, number] = selectivity.argmax(axis=1)
        best[:, number] = selectivity.max(axis=1)
    return best, concept


def count_arrangements(chosen: NDArray[np.bool_], block: NDArray[np.int64]) -> float:
    """Ways in which a label can fall on groups.

    Parameters
    ----------
    chosen : ndarray of bool, shape (n_groups,)
        Groups of the label.
    block : ndarray of int, shape (n_groups,)
        Block of each, such as its plate, which labels stay within.

    Returns
    -------
    float
        Infinity where there are too many for a float.
    """
    ways = math.prod(
        math.comb(int((block == b).sum()), int(chosen[block == b].sum())) for b in np.unique(block)
    )
    try:
        return float(ways)
    except OverflowError:
        return math.inf


def arrangements_of(
    chosen: NDArray[np.bool_], block: NDArray[np.int64], most: int, random_state: int = 0
) -> NDArray[np.bool_]:
    """Other ways in which a label can fall on groups, in random order.

    Parameters
    ----------
    chosen : ndarray of bool, shape (n_groups,)
        Groups of the label as it is.
    block : ndarray of int, shape (n_groups,)
        Block of each, such as its plate, which labels stay within.
    most : int
        How many are wanted at most.
    random_state : int, default=0
        Seed.

    Returns
    -------
    ndarray of bool, shape (n, n_groups)
        All ways but the one that is, where there are no more than `most`; else as many, each drawn
        from all ways.
    """
    random = np.random.default_rng(random_state)
    if count_arrangements(chosen, block) - 1 > most:
        return shuffled_within(chosen.astype(np.int64), block, most, random).astype(bool)
    members = [np.flatnonzero(block == number) for number in np.unique(block)]
    ways = product(*(combinations(m.tolist(), int(chosen[m].sum())) for m in members))
    found = np.zeros((int(count_arrangements(chosen, block)), len(chosen)), bool)
    for row, way in zip(found, ways, strict=True):
        row[[group for part in way for group in part]] = True
    return random.permutation(found[(found != chosen).any(axis=1)])


def sequential_p(
    observed: float, drawn: Iterable[float], n_drawn: int, level: float
) -> tuple[float, int]:
    """How often shuffles do at least as well, no longer than it takes to know that it is often.

    Parameters
    ----------
    observed : float
        Statistic of what was seen.
    drawn : iterable of float
        The same of shuffles, in random order; no more are taken than are needed.
    n_drawn : int
        How many there are.
    level : float
        Once p cannot come out at this or below, no more are taken.

    Returns
    -------
    p : float
        (1 + shuffles at least as good) / (1 + shuffles); where it ended early, the number of those
        at least as good over the number taken [1]_.
    taken : int
        Shuffles that were looked at.

    References
    ----------
    .. [1] J. Besag and P. Clifford, "Sequential Monte Carlo p-values", Biometrika 78, 301 (1991).
    """
    most = math.floor(level * (n_drawn + 1) + _EQUAL)
    reached = taken = 0
    for value in drawn:
        taken += 1
        reached += value >= observed - _EQUAL
        # Never without one: a share of none would be no p-value.
        if reached >= max(most, 1):
            return (reached / taken if most else 1.0), taken
    return (1 + reached) / (1 + n_drawn), taken


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
    if not 0 < confidence < 1:
        raise MicrodlError(f"A confidence of {confidence} is no share; give one such as 0.95.")
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
