"""Every concept compared between two groups of samples at once, without unpacking the codes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, stats

from napari_microdl.errors import MicrodlError

# Two directions this close say the same; the fit replaces atoms closer than 0.9 while it runs.
DUPLICATE_COSINE = 0.95
_ROWS_AT_ONCE = 1024


def compare_groups(
    codes: sparse.csr_array, first: NDArray[np.bool_], second: NDArray[np.bool_]
) -> pd.DataFrame:
    """Mann-Whitney U test of every concept's activations in two groups of samples.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes.
    first, second : ndarray of bool, shape (n_samples,)
        The two groups; samples of neither are left out.

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
    few wells says less than it seems.
    """
    n_concepts = codes.shape[1]
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if len(first) != codes.shape[0] or len(second) != codes.shape[0]:
        raise MicrodlError(
            f"There are {codes.shape[0]} samples but groups of {len(first)} and {len(second)}; "
            "give one entry a sample."
        )
    if (first & second).any():
        raise MicrodlError("A sample is in both groups; compare two groups that do not overlap.")
    index = pd.Index(np.arange(n_concepts), name="concept")
    columns = ["effect", "p_value", "q_value", "rate_first", "rate_second"]
    n1, n2 = int(first.sum()), int(second.sum())
    if not n1 or not n2:
        return pd.DataFrame(np.nan, index=index, columns=columns)
    rows = np.flatnonzero(first | second)
    entries = sparse.coo_array(codes[rows])
    kept = entries.data != 0
    concept, value = entries.coords[1][kept], entries.data[kept]
    in_second = second[rows][entries.coords[0][kept]]
    rank_sum, ties = _rank_sums(concept, value, in_second, n_concepts, n1, n2)
    n = n1 + n2
    u = rank_sum - n2 * (n2 + 1) / 2
    spread = np.sqrt(n1 * n2 / 12 * (n + 1 - ties / max(n * (n - 1), 1)))
    distance = np.abs(u - n1 * n2 / 2) - 0.5
    z = np.divide(distance, spread, out=np.full(n_concepts, -np.inf), where=spread > 0)
    p = np.minimum(2 * stats.norm.sf(z), 1.0)
    positive = value > 0
    hits = [
        np.bincount(concept[positive & side], minlength=n_concepts)
        for side in (~in_second, in_second)
    ]
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


def _rank_sums(
    concept: NDArray[np.integer],
    value: NDArray[np.floating],
    in_second: NDArray[np.bool_],
    n_concepts: int,
    n1: int,
    n2: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ranks of the second group summed, and t^3 - t summed over ties, for every concept.

    The zeros of a concept are one large tie, whose size alone is needed.
    """
    n = n1 + n2
    order = np.lexsort((value, concept))
    concept, value, in_second = concept[order], value[order], in_second[order]
    count = np.bincount(concept, minlength=n_concepts)
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

    Returns
    -------
    ndarray of shape (n_concepts,)
        Number of the concept with the highest cosine among those that come first by activity; -1
        where none reaches the threshold.
    """
    order = np.argsort(-np.asarray(rate), kind="stable")
    ranked = directions[order]
    found = np.full(len(order), -1, np.int64)
    for begin in range(0, len(order), _ROWS_AT_ONCE):
        end = min(begin + _ROWS_AT_ONCE, len(order))
        cosine = ranked[begin:end] @ ranked[:end].T
        # Only those before it in the order of activity can be a concept's original.
        cosine[np.arange(begin, end)[:, None] <= np.arange(end)] = -np.inf
        best = cosine.argmax(axis=1)
        same = cosine[np.arange(end - begin), best] >= threshold
        found[order[begin:end][same]] = order[best[same]]
    return found
