"""Whether dictionaries fitted with different seeds find the same directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
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


def seed_agreement(
    dictionaries: Sequence[NDArray[np.floating]], threshold: float = MATCHED
) -> dict[str, float]:
    """How much all pairs of several dictionaries agree.

    Parameters
    ----------
    dictionaries : sequence of ndarray of shape (n_atoms, n_features)
        Atoms; at least two dictionaries.
    threshold : float, default=0.9
        Cosine from which a pair of atoms counts as the same direction.

    Returns
    -------
    dict of str to float
        ``matched_cosine`` and ``matched_share``, means over the pairs of dictionaries;
        ``matched_cosine_spread`` and ``matched_share_spread``, their standard deviations.

    Raises
    ------
    MicrodlError
        If there are fewer than two dictionaries or they do not fit together.
    """
    if len(dictionaries) < 2:
        raise MicrodlError("Agreement takes two dictionaries or more; fit with another seed.")
    return agreement_of(
        [match_dictionaries(a, b, threshold) for a, b in combinations(dictionaries, 2)]
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
        As `seed_agreement`.
    """
    cosine, share = [p.mean for p in pairs], [p.matched for p in pairs]
    return {
        "matched_cosine": float(np.mean(cosine)),
        "matched_cosine_spread": float(np.std(cosine)),
        "matched_share": float(np.mean(share)),
        "matched_share_spread": float(np.std(share)),
    }
