"""Whether a dictionary finds the same again: with another seed, on other fields."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, stats
from scipy.optimize import linear_sum_assignment

from napari_microdl.core.arrays import unit_length
from napari_microdl.core.errors import MicrodlError

MATCHED = 0.9


@dataclass(frozen=True)
class DictionaryAgreement:
    """Two dictionaries matched atom by atom.

    Parameters
    ----------
    first, second : ndarray of shape (n_pairs,)
        Numbers of the atoms of each pair, n_pairs being the size of the smaller dictionary.
    cosine : ndarray of shape (n_pairs,)
        Of each pair, -1 to 1.
    threshold : float
        From which a pair counts as the same direction.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    cosine: NDArray[np.float64]
    threshold: float

    @property
    def mean(self) -> float:
        """Mean cosine of the pairs."""
        return float(self.cosine.mean())

    @property
    def matched(self) -> float:
        """Share of the pairs at or above the threshold, 0 to 1."""
        return float((self.cosine >= self.threshold).mean())


def match_dictionaries(
    first: NDArray[np.floating], second: NDArray[np.floating], threshold: float = MATCHED
) -> DictionaryAgreement:
    """Pair the atoms of two dictionaries, each at most once, for the largest sum of cosines.

    Parameters
    ----------
    first, second : ndarray of shape (n_atoms, n_features)
        Atoms of any length; atoms of zeros have cosine 0 with all others.
    threshold : float, default=0.9
        Cosine from which a pair counts as the same direction.

    Returns
    -------
    DictionaryAgreement

    Raises
    ------
    MicrodlError
        If a dictionary is empty or the widths differ.

    Notes
    -----
    The Hungarian method, in time of the cube of the number of atoms. Opposite directions do not
    match.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise MicrodlError(
            f"The dictionaries have the shapes {first.shape} and {second.shape}; compare those "
            "fitted on the same features."
        )
    if not len(first) or not len(second):
        raise MicrodlError("A dictionary without atoms cannot be compared.")
    cosines = (
        unit_length(np.asarray(first, np.float32)) @ unit_length(np.asarray(second, np.float32)).T
    )
    cosines = np.clip(cosines.astype(np.float64), -1, 1)
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    return DictionaryAgreement(
        first=rows, second=columns, cosine=cosines[rows, columns], threshold=threshold
    )


def agreement_of(pairs: Sequence[DictionaryAgreement]) -> dict[str, float]:
    """How much pairs of dictionaries agree that were matched already.

    Parameters
    ----------
    pairs : sequence of DictionaryAgreement
        One or more.

    Returns
    -------
    dict of str to float
        ``matched_cosine`` and ``matched_share``, means over the pairs; ``matched_cosine_spread``
        and ``matched_share_spread``, their standard deviations.
    """
    cosine, share = [p.mean for p in pairs], [p.matched for p in pairs]
    return {
        "matched_cosine": float(np.mean(cosine)),
        "matched_cosine_spread": float(np.std(cosine)),
        "matched_share": float(np.mean(share)),
        "matched_share_spread": float(np.std(share)),
    }


def times_found(pairs: Sequence[DictionaryAgreement], n_concepts: int) -> NDArray[np.int64]:
    """In how many dictionaries every concept has a partner of the same direction.

    Parameters
    ----------
    pairs : sequence of DictionaryAgreement
        The dictionary, which comes first in all of them, matched with each of the others.
    n_concepts : int
        Size of the dictionary.

    Returns
    -------
    ndarray of shape (n_concepts,)
        0 to the number of pairs.
    """
    found = np.zeros(n_concepts, np.int64)
    for pair in pairs:
        found[pair.first[pair.cosine >= pair.threshold]] += 1
    return found


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
