"""Which concept follows which planted factor, cell by cell, on fields kept apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, stats

from napari_microdl.core.errors import MicrodlError


def factor_recovery(
    values: NDArray[np.floating] | sparse.csr_array,
    units: pd.DataFrame,
    truth: pd.DataFrame,
    factors: Sequence[str],
    held_out: Collection[str],
) -> pd.DataFrame:
    """Spearman correlation of every factor with the concept that follows it best.

    The concept is the one of the largest absolute correlation on the other fields; the correlation
    that counts is that of the same concept on the held-out ones.

    Parameters
    ----------
    values : ndarray or csr_array of shape (n_units, n_concepts)
        Codes, or cosines with the concepts' directions.
    units : DataFrame of n_units rows
        Columns ``Metadata_Field`` and ``label``, as `unit_table` makes.
    truth : DataFrame
        Columns ``field``, ``label`` and the factors, as the simulator makes. Units that are not in
        it are left out.
    factors : sequence of str
        Columns of the truth.
    held_out : collection of str
        Names of the fields that the concept is not chosen on.

    Returns
    -------
    DataFrame indexed by factor
        ``concept``; ``chosen``: its correlation where it was chosen; ``held_out``: that on the
        held-out fields. Concept -1 and NaN where a factor does not vary.

    Raises
    ------
    MicrodlError
        If the sizes differ, or either part of the fields has fewer than three units in the truth.
    """
    if values.shape[0] != len(units):
        raise MicrodlError(
            f"There are {values.shape[0]} rows of values but {len(units)} units; give one row each."
        )
    keys = units[["Metadata_Field", "label"]].rename(columns={"Metadata_Field": "field"})
    table = keys.merge(truth, on=["field", "label"], how="left", validate="many_to_one")
    known = table[list(factors)].notna().all(axis=1).to_numpy()
    apart = table["field"].isin(list(held_out)).to_numpy()
    parts = [np.flatnonzero(known & ~apart), np.flatnonzero(known & apart)]
    if min(map(len, parts)) < 3:
        raise MicrodlError(
            f"The truth knows {len(parts[0])} units to choose concepts on and {len(parts[1])} held "
            "out: each needs at least 3; check the field names."
        )
    strengths = table[list(factors)].to_numpy(float)
    chosen, tested = (_spearman(values[rows], strengths[rows]) for rows in parts)
    rows = []
    for column in range(len(factors)):
        if np.isnan(chosen[:, column]).all():
            rows.append((-1, np.nan, np.nan))
            continue
        best = int(np.nanargmax(np.abs(chosen[:, column])))
        rows.append((best, chosen[best, column], tested[best, column]))
    index = pd.Index(list(factors), name="factor")
    return pd.DataFrame(rows, columns=["concept", "chosen", "held_out"], index=index)


def _spearman(
    values: NDArray[np.floating] | sparse.csr_array, strengths: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Correlations of every column with every factor; NaN where one of them is constant."""
    dense = np.asarray(values) if isinstance(values, np.ndarray) else values.toarray()
    ranks = [stats.rankdata(part, axis=0) for part in (dense, strengths)]
    scores = []
    for part in ranks:
        centred = part - part.mean(axis=0)
        norm = np.linalg.norm(centred, axis=0)
        scores.append(centred / np.where(norm > 0, norm, np.nan))
    return np.asarray(scores[0].T @ scores[1])
