"""Every concept compared between two groups of samples, without unpacking the codes.

Codes are gone through by concept, a million values at a time, so that a table of a million
cells may lie on disk (`napari_microdl.concepts.store`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, stats

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.metrics.selectivity import require_length

# Two directions this close say the same; the fit replaces atoms closer than 0.9 while it runs.
DUPLICATE_COSINE = 0.95
ROWS_AT_ONCE = 1024
VALUES_AT_ONCE = 1_000_000
# Up to so many ways to choose the wells of a side, all of them are looked at.
_MOST_ARRANGEMENTS = 5_000
# Two sums of the same ranks in another order differ in their last digits.
_EQUAL = 1e-9


def _blocks_of_concepts(
    indptr: NDArray[np.integer], most_concepts: int, most_values: int
) -> Iterator[slice]:
    """Concepts next to each other that have so many values together, one at least."""
    begin, n = 0, len(indptr) - 1
    while begin < n:
        end = int(np.searchsorted(indptr, int(indptr[begin]) + most_values, "right")) - 1
        end = min(max(end, begin + 1), begin + max(most_concepts, 1), n)
        yield slice(begin, end)
        begin = end


def compare_groups(
    codes: sparse.csr_array | sparse.csc_array,
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    *,
    values_at_once: int = VALUES_AT_ONCE,
) -> pd.DataFrame:
    """Mann-Whitney U test of every concept's activations in two groups of samples.

    Parameters
    ----------
    codes : csr_array or csc_array of shape (n_samples, n_concepts)
        Codes; by concept (csc) they are used as they are, else they are turned round first.
    first, second : ndarray of bool, shape (n_samples,)
        The two groups; samples of neither are left out.
    values_at_once : int
        Values of concepts next to each other that are held in memory.

    Returns
    -------
    DataFrame of n_concepts rows, indexed by concept
        ``effect``: Cliff's delta (the rank-biserial correlation), the probability that a sample of
        the second group has the higher activation less the probability that one of the first has,
        -1 to 1; ``p_value``: two-sided, normal approximation with corrections for ties and
        continuity; ``q_value``: p-values after Benjamini and Hochberg (1995), over all concepts;
        ``rate_first`` and ``rate_second``: share of each group with an activation above 0. All NaN
        where a group is empty.

    Raises
    ------
    MicrodlError
        If the lengths differ or a sample is in both groups.

    Notes
    -----
    Samples count as independent. Cells of one well are not, so a small p-value of many cells from
    few wells says less than it seems: see `compare_wells`.
    """
    n_concepts = codes.shape[1]
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    _check_groups(codes.shape[0], first, second)
    index = pd.Index(np.arange(n_concepts), name="concept")
    columns = ["effect", "p_value", "q_value", "rate_first", "rate_second"]
    n1, n2 = int(first.sum()), int(second.sum())
    if not n1 or not n2:
        return pd.DataFrame(np.nan, index=index, columns=columns)
    columns_of = sparse.csc_array(codes)
    side = first + 2 * second.astype(np.int8)
    rank_sum, ties = np.empty(n_concepts), np.empty(n_concepts)
    hits = np.empty((2, n_concepts))
    for block in _blocks_of_concepts(columns_of.indptr, n_concepts, values_at_once):
        current_task().check()
        concept, row, value = _values(columns_of, block)
        in_second = side[row]
        chosen = (in_second > 0) & (value != 0)
        concept, value, in_second = concept[chosen], value[chosen], in_second[chosen] == 2
        m = block.stop - block.start
        rank_sum[block], ties[block] = _rank_sums(concept, value, in_second, m, n1, n2)
        positive = value > 0
        for number, inside in enumerate((~in_second, in_second)):
            hits[number, block] = np.bincount(concept[positive & inside], minlength=m)
    n = n1 + n2
    u = rank_sum - n2 * (n2 + 1) / 2
    spread = np.sqrt(n1 * n2 / 12 * (n + 1 - ties / max(n * (n - 1), 1)))
    distance = np.abs(u - n1 * n2 / 2) - 0.5
    z = np.divide(distance, spread, out=np.full(n_concepts, -np.inf), where=spread > 0)
    p = np.minimum(2 * stats.norm.sf(z), 1.0)
    return pd.DataFrame(
        {
            "effect": 2 * u / (n1 * n2) - 1,
            "p_value": p,
            "q_value": stats.false_discovery_control(p),
            "rate_first": hits[0] / n1,
            "rate_second": hits[1] / n2,
        },
        index=index,
    )


def _check_groups(n: int, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> None:
    if len(first) != n or len(second) != n:
        raise MicrodlError(
            f"There are {n} samples but groups of {len(first)} and {len(second)}; give one entry "
            "a sample."
        )
    if (first & second).any():
        raise MicrodlError("A sample is in both groups; compare two groups that do not overlap.")


def _values(
    columns: sparse.csc_array, block: slice
) -> tuple[NDArray[np.int64], NDArray[np.integer], NDArray[np.floating]]:
    """Values of some concepts: number of the concept within the block, row, and value."""
    indptr = columns.indptr[block.start : block.stop + 1]
    concept = np.repeat(np.arange(block.stop - block.start), np.diff(indptr))
    part = slice(int(indptr[0]), int(indptr[-1]))
    return concept, np.asarray(columns.indices[part]), np.asarray(columns.data[part])


def compare_wells(
    codes: sparse.csr_array | sparse.csc_array,
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    wells: NDArray[np.generic],
    *,
    values_at_once: int = VALUES_AT_ONCE,
) -> pd.DataFrame:
    """Mann-Whitney U test of every concept's mean activation in the wells of two groups.

    Cells of one well share how it was treated, so the wells are what was repeated, and not the
    cells.

    Parameters
    ----------
    codes : csr_array or csc_array of shape (n_samples, n_concepts)
        Codes; by concept (csc) they are used as they are, else they are turned round first.
    first, second : ndarray of bool, shape (n_samples,)
        The two groups; samples of neither are left out.
    wells : ndarray of shape (n_samples,)
        Which well each sample is of. A well with samples of both groups counts as one of each.
    values_at_once : int
        As for `compare_groups`.

    Returns
    -------
    DataFrame of n_concepts rows, indexed by concept
        ``effect``: Cliff's delta of the means of wells, above 0 where the second group has more;
        ``p_value``: two-sided, from all arrangements of the wells where there are 5,000 at most
        (7 wells a side), else by the normal approximation; ``q_value`` after Benjamini and Hochberg
        (1995). All NaN with fewer than two wells in a group.

    Raises
    ------
    MicrodlError
        If the lengths differ or a sample is in both groups.

    Notes
    -----
    With few wells no concept can be sure, however large its effect: of two wells a side the
    smallest possible p-value is 1/3, of three 0.1, of four 0.029.
    """
    n_concepts = codes.shape[1]
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    _check_groups(codes.shape[0], first, second)
    require_length(codes.shape[0], len(wells), "wells")
    group, in_second, size = _wells_of_groups(first, second, wells)
    index = pd.Index(np.arange(n_concepts), name="concept")
    n, n2 = len(size), int(in_second.sum())
    n1 = n - n2
    if min(n1, n2) < 2:
        return pd.DataFrame(np.nan, index=index, columns=["effect", "p_value", "q_value"])
    columns = sparse.csc_array(codes)
    arrangements = None
    if math.comb(n, n2) <= _MOST_ARRANGEMENTS:
        chosen = np.array(list(combinations(range(n), n2)))
        arrangements = np.zeros((n, len(chosen)))
        arrangements[chosen.T, np.arange(len(chosen))] = 1
    expected = n2 * (n + 1) / 2
    distance, p = np.empty(n_concepts), np.ones(n_concepts)
    width = n if arrangements is None else arrangements.shape[1]
    for block in _blocks_of_concepts(columns.indptr, values_at_once // width, values_at_once):
        current_task().check()
        concept, row, value = _values(columns, block)
        inside = group[row] >= 0
        m = block.stop - block.start
        place = concept[inside] * n + group[row[inside]]
        total = np.bincount(place, value[inside], m * n).reshape(m, n)
        ranks = stats.rankdata(total / size, axis=1)
        distance[block] = ranks[:, in_second].sum(1) - expected
        if arrangements is not None:
            reached = np.abs(ranks @ arrangements - expected)
            p[block] = (reached >= np.abs(distance[block])[:, None] - _EQUAL).mean(1)
            continue
        # The variance over all arrangements, ties included.
        spread = np.sqrt(n1 * n2 / (n * (n - 1)) * ((ranks - (n + 1) / 2) ** 2).sum(1))
        z = np.divide(
            np.abs(distance[block]) - 0.5, spread, out=np.full(m, -np.inf), where=spread > 0
        )
        p[block] = np.minimum(2 * stats.norm.sf(z), 1.0)
    return pd.DataFrame(
        {
            "effect": 2 * distance / (n1 * n2),
            "p_value": p,
            "q_value": stats.false_discovery_control(p),
        },
        index=index,
    )


def smallest_p(n_first: int, n_second: int) -> float:
    """What the p-value of `compare_wells` cannot be below, before its correction.

    Parameters
    ----------
    n_first, n_second : int
        Wells on either side.

    Returns
    -------
    float
        Two of all arrangements of the wells are as extreme as can be; 1 where there are only two.
    """
    return min(1.0, 2 / math.comb(n_first + n_second, n_first))


def _wells_of_groups(
    first: NDArray[np.bool_], second: NDArray[np.bool_], wells: NDArray[np.generic]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Number of every sample's well (-1 in neither group), which are of the second, their sizes."""
    number, _ = pd.factorize(np.asarray(wells))
    rows = np.flatnonzero(first | second)
    keys, group = np.unique(2 * number[rows] + second[rows], return_inverse=True)
    of_sample = np.full(len(first), -1, np.int64)
    of_sample[rows] = group
    return of_sample, keys % 2 == 1, np.bincount(group, minlength=len(keys))


def _rank_sums(
    concept: NDArray[np.integer],
    value: NDArray[np.floating],
    in_second: NDArray[np.bool_],
    n_concepts: int,
    n1: int,
    n2: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ranks of the second group summed, and t^3 - t summed over ties, for every concept."""
    # The zeros of a concept are one large tie, whose size alone is needed.
    n = n1 + n2
    count = np.bincount(concept, minlength=n_concepts)
    order = np.empty(len(value), np.int64)
    end = 0
    for size_of_concept in count.tolist():
        begin, end = end, end + size_of_concept
        # Concept by concept, which takes an eighth of sorting by both at once.
        order[begin:end] = begin + np.argsort(value[begin:end])
    value, in_second = value[order], in_second[order]
    negative = np.bincount(concept[value < 0], minlength=n_concepts)
    zeros = n - count
    zeros_in_second = n2 - np.bincount(concept[in_second], minlength=n_concepts)
    zero_rank = negative + (zeros + 1) / 2
    rank_sum = zeros_in_second * zero_rank
    zero_ties = zeros.astype(np.float64)
    ties = zero_ties**3 - zero_ties
    if not len(value):
        return rank_sum, ties
    new = np.ones(len(value), bool)
    new[1:] = (concept[1:] != concept[:-1]) | (value[1:] != value[:-1])
    start = np.flatnonzero(new)
    size = np.diff(np.append(start, len(value)))
    of_tie = concept[start]
    before = np.concatenate([[0], np.cumsum(count)[:-1]])
    # Ranks among the entries of the concept; those above zero come after all zeros.
    rank = start - before[of_tie] + (size + 1) / 2 + np.where(value[start] > 0, zeros[of_tie], 0)
    second_in_tie = np.add.reduceat(in_second.astype(np.int64), start)
    rank_sum = rank_sum + np.bincount(of_tie, rank * second_in_tie, n_concepts)
    sizes = size.astype(np.float64)
    return rank_sum, ties + np.bincount(of_tie, sizes**3 - sizes, n_concepts)


def duplicates(
    directions: NDArray[np.float32],
    rate: NDArray[np.floating],
    threshold: float = DUPLICATE_COSINE,
    *,
    rows_at_once: int = ROWS_AT_ONCE,
) -> NDArray[np.int64]:
    """For every concept, the more active concept that points the same way.

    Parameters
    ----------
    directions : ndarray of shape (n_concepts, k)
        Unit-length rows; rows of zeros are no duplicates.
    rate : ndarray of shape (n_concepts,)
        How often each is active; of two that are equally active the first counts as the original.
    threshold : float, default=0.95
        Cosine from which two are the same; opposite directions are not.
    rows_at_once : int
        Concepts compared with all others at a time.

    Returns
    -------
    ndarray of shape (n_concepts,)
        Number of the concept with the highest cosine among those that come first by activity; -1
        where none reaches the threshold.
    """
    order = np.argsort(-np.asarray(rate), kind="stable")
    ranked = directions[order]
    found = np.full(len(order), -1, np.int64)
    for begin in range(0, len(order), rows_at_once):
        current_task().check()
        end = min(begin + rows_at_once, len(order))
        cosine = ranked[begin:end] @ ranked[:end].T
        # Only those before it in the order of activity can be a concept's original.
        cosine[np.arange(begin, end)[:, None] <= np.arange(end)] = -np.inf
        best = cosine.argmax(axis=1)
        same = cosine[np.arange(end - begin), best] >= threshold
        found[order[begin:end][same]] = order[best[same]]
    return found
