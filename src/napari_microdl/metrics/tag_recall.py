"""Do a concept's values agree with what a person saw in single cells? (paper, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from napari_microdl.core.errors import MicrodlError


@dataclass(frozen=True)
class TagRecall:
    """How well values tell two kinds of cells apart.

    Parameters
    ----------
    n_control_like, n_perturbed : int
        Cells of each kind.
    threshold : float
        Half way between the two medians.
    recalled : int
        Control-like cells on the control-like side of the threshold.
    recall : float
        Their share, 0 to 1.
    false_alarms : int
        Perturbed cells on the control-like side.
    u : float
        Mann-Whitney U of the perturbed cells: pairs in which the perturbed cell has the higher
        value, ties counted half.
    p_value : float
        One-sided: are values of perturbed cells larger?
    """

    n_control_like: int
    n_perturbed: int
    threshold: float
    recalled: int
    recall: float
    false_alarms: int
    u: float
    p_value: float


def tag_recall(
    values: NDArray[np.floating], control_like: NDArray[np.bool_], perturbed: NDArray[np.bool_]
) -> TagRecall:
    """Compare the values of cells tagged control-like with those tagged perturbed.

    Parameters
    ----------
    values : ndarray of shape (n_cells,)
        For instance the cosine of every cell with a concept that perturbed cells should show.
    control_like, perturbed : ndarray of bool, shape (n_cells,)
        Tags.

    Returns
    -------
    TagRecall

    Raises
    ------
    MicrodlError
        If no cell carries one of the tags, or a cell carries both.

    Notes
    -----
    Paper, section 4, "single-cell identity": a one-sided Mann-Whitney U test and the share of
    control-like cells that are recalled (27 of 31). The paper does not state its threshold; here it
    lies half way between the medians of the two kinds.
    """
    if (control_like & perturbed).any():
        raise MicrodlError("A cell is tagged both control-like and perturbed; give it one tag.")
    a, b = values[control_like], values[perturbed]
    if not len(a) or not len(b):
        raise MicrodlError(
            f"{len(a)} cells are tagged control-like and {len(b)} perturbed; tag at least one of "
            "each."
        )
    threshold = float((np.median(a) + np.median(b)) / 2)
    recalled = int((a < threshold).sum())
    u, p = stats.mannwhitneyu(b, a, alternative="greater")
    return TagRecall(
        n_control_like=len(a),
        n_perturbed=len(b),
        threshold=threshold,
        recalled=recalled,
        recall=recalled / len(a),
        false_alarms=int((b < threshold).sum()),
        u=float(u),
        p_value=float(p),
    )
