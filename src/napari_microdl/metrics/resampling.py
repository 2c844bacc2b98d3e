"""What the best of many concepts reaches by luck: selectivity when labels mean nothing."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.stepping import run_through
from napari_microdl.metrics.group_counts import GroupCounts, Labels, count_groups

QUANTILES = (0.5, 0.95, 0.99)
# Shuffles x concepts x labels done at once: more take more memory, and a second or longer.
_MOST_ENTRIES = 4_000_000
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
    steps = iter_best_selectivity_null(
        codes,
        labels,
        groups,
        blocks,
        n_permutations=n_permutations,
        quantiles=quantiles,
        random_state=random_state,
    )
    return run_through(steps)


def iter_best_selectivity_null(
    codes: sparse.csr_array,
    labels: Labels,
    groups: Labels | None = None,
    blocks: Labels | None = None,
    *,
    n_permutations: int = 999,
    quantiles: Sequence[float] = QUANTILES,
    random_state: int = 0,
) -> Generator[tuple[int, int], None, pd.DataFrame]:
    """`best_selectivity_null`, some shuffles an iteration.

    Parameters
    ----------
    codes, labels, groups, blocks, n_permutations, quantiles, random_state
        As for `best_selectivity_null`.

    Yields
    ------
    done, total : int
        Shuffles; stop iterating to cancel.

    Returns
    -------
    DataFrame
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
    at_once = max(1, _MOST_ENTRIES // (codes.shape[1] * len(index)))
    random = np.random.default_rng(random_state)
    null = np.empty((n_permutations, len(index)))
    for begin in range(0, n_permutations, at_once):
        yield begin, n_permutations
        rows = slice(begin, min(begin + at_once, n_permutations))
        null[rows] = _best(counts, _shuffled(counts.label, block, rows.stop - begin, random))[0]
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
            "arrangements": [_arrangements(counts.label == k, block) for k in range(len(index))],
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
    if len(blocks) != n:
        raise MicrodlError(f"There are {n} samples but {len(blocks)} blocks; give one a sample.")
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


def _shuffled(
    label: NDArray[np.int64], block: NDArray[np.int64], n: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Labels shuffled within blocks, shape (n, n_groups)."""
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


def _arrangements(chosen: NDArray[np.bool_], block: NDArray[np.int64]) -> float:
    """Ways in which a label can fall on groups; infinity where there are too many for a float."""
    ways = math.prod(
        math.comb(int((block == b).sum()), int(chosen[block == b].sum())) for b in np.unique(block)
    )
    try:
        return float(ways)
    except OverflowError:
        return math.inf
