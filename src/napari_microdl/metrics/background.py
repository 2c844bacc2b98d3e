"""Whether the backgrounds of conditions differ by more than chance, so that they count less."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.core.text import counted
from napari_microdl.metrics.resampling import shuffled_within

LEVEL = 0.05
# A field has a background to speak of where so much of it is farther from all cells than a cell's
# radius; so must half of the fields. Of confluent cells it is 0.05 or less in most fields.
LEAST_FAR = 0.08
LEAST_FIELDS = 0.5
_SHUFFLES = 999
# Words for the conditions of an arrangement: all controls, and a label that swaps wells with them.
CONTROL, LABEL = "control", "label"
# Two sums of the same numbers in another order differ in their last digits.
_EQUAL = 1e-9
_VALUES_AT_ONCE = 2**22
# Wells that cells cover alike tell nothing of what goes with it.
_NOTHING = 1e-12


@dataclass(frozen=True)
class BackgroundDecision:
    """Whether the background is to be taken off, and why.

    Parameters
    ----------
    taken_off : bool
        Whether it is.
    p_value : float or None
        How often conditions that swap wells have backgrounds as different; None where there is
        hardly any background, or nothing to compare.
    sentence : str
        What was decided and why.
    """

    taken_off: bool
    p_value: float | None
    sentence: str


@dataclass(frozen=True, eq=False)
class BackgroundTest:
    """A test of whether the backgrounds of conditions differ, with wells as what was repeated.

    Parameters
    ----------
    conditions : ndarray of str, shape (n_fields,)
        Condition of every field, one word for all controls.
    group : ndarray of int, shape (n_fields,)
        Number of each field's well; -1 where it has hardly any background.
    vectors : ndarray of shape (n_groups, d)
        Background of each well, less the mean of its plate and what goes with how much of a well
        cells cover; every dimension has unit variance.
    block : ndarray of int, shape (n_groups,)
        Its plate.
    null : ndarray of shape (n_shuffles,)
        Statistics of shuffled conditions; the same however these fall on the wells.
    n_with_cells : int
        Fields with cells.
    unit : str
        What is counted: "well", or "field" where no well is known.

    Notes
    -----
    The statistic is the sum of squares between conditions, as in a permutational analysis of
    variance [1]_. Where a treatment leaves fewer cells, there is less light of theirs between them:
    that is no fault of the images, so what a straight line over the share covered by cells explains
    is taken from the backgrounds first. Nothing but the conditions themselves depends on the
    conditions, so a run that is repeated with swapped wells decides by the same rule.

    References
    ----------
    .. [1] M. J. Anderson, "A new method for non-parametric multivariate analysis of variance",
       Austral Ecology 26, 32 (2001).
    """

    conditions: NDArray[np.str_]
    group: NDArray[np.int64]
    vectors: NDArray[np.float64]
    block: NDArray[np.int64]
    null: NDArray[np.float64]
    n_with_cells: int
    unit: str

    @classmethod
    def of(
        cls,
        far: NDArray[np.floating],
        shares: NDArray[np.floating],
        covers: NDArray[np.floating],
        conditions: NDArray[np.str_],
        is_control: NDArray[np.bool_],
        wells: NDArray[np.str_],
        plates: NDArray[np.str_],
    ) -> Self:
        """Measure the backgrounds of wells.

        Parameters
        ----------
        far : ndarray of shape (n_fields, d)
            Mean token of what lies far from all cells in each field; NaN where nothing does.
        shares : ndarray of shape (n_fields,)
            How much of each field that is, 0 to 1; NaN in fields without a cell.
        covers : ndarray of shape (n_fields,)
            How much of each field is covered by cells, 0 to 1.
        conditions, wells, plates : ndarray of str, shape (n_fields,)
            Of each field; wells may be empty.
        is_control : ndarray of bool, shape (n_fields,)
            Whether it is a control.

        Returns
        -------
        BackgroundTest
        """
        conditions = np.where(is_control, CONTROL, np.char.add("treated ", conditions))
        with_cells = np.isfinite(shares)
        roomy = np.flatnonzero(with_cells & (np.nan_to_num(shares) >= LEAST_FAR))
        named = bool((wells != "").any())
        numbers = np.arange(len(wells)).astype(np.str_)
        keys = np.stack([plates, wells, np.where(wells == "", numbers, ""), conditions], axis=1)
        _, first, number = np.unique(keys[roomy], axis=0, return_index=True, return_inverse=True)
        number = np.asarray(number, np.int64).ravel()
        group = np.full(len(wells), -1, np.int64)
        group[roomy] = number
        means = sparse.csr_array(
            (np.ones(len(roomy)), (number, np.arange(len(roomy)))), (len(first), len(roomy))
        )
        means = sparse.csr_array(means / means.sum(axis=1)[:, None])
        vectors, cover = means @ np.asarray(far[roomy], np.float64), means @ covers[roomy]
        _, block = np.unique(plates[roomy][first], return_inverse=True)
        block = np.asarray(block, np.int64).ravel()
        for plate in np.unique(block):
            vectors[block == plate] -= vectors[block == plate].mean(axis=0)
            cover[block == plate] -= cover[block == plate].mean()
        null = np.empty(0)
        if len(vectors):
            vectors -= np.outer(cover, cover @ vectors) / max(float(cover @ cover), _NOTHING)
            spread = vectors.std(axis=0)
            vectors /= np.where(spread > 0, spread, 1)
            _, label = np.unique(conditions[roomy][first], return_inverse=True)
            label = np.asarray(label, np.int64).ravel()
            random = np.random.default_rng(0)
            shuffled = shuffled_within(label, block, _SHUFFLES, random)
            null = _between(vectors, shuffled)
        unit = "well" if named else "field"
        return cls(conditions, group, vectors, block, null, int(with_cells.sum()), unit)

    def decide(self, conditions: NDArray[np.str_] | None = None) -> BackgroundDecision:
        """Decide whether the background is to be taken off.

        Parameters
        ----------
        conditions : ndarray of str, shape (n_fields,), optional
            Those of an arrangement of the wells; as they are where not given.

        Returns
        -------
        BackgroundDecision
        """
        stays = "it was left in"
        n_roomy, n_fields = int((self.group >= 0).sum()), self.n_with_cells
        if n_roomy < max(LEAST_FIELDS * n_fields, 1):
            return BackgroundDecision(
                False,
                None,
                f"There is hardly any background away from cells ({n_roomy} of "
                f"{counted(n_fields, 'field')} have enough), so {stays}.",
            )
        conditions = self.conditions if conditions is None else conditions
        _, first = np.unique(self.group, return_index=True)
        named = conditions[first[self.group[first] >= 0]]
        _, label = np.unique(named, return_inverse=True)
        label = np.asarray(label, np.int64).ravel()
        smallest = _smallest_p(label, self.block)
        wells = counted(len(label), self.unit)
        if smallest > LEVEL:
            return BackgroundDecision(
                False,
                None,
                f"{wells[0].upper()}{wells[1:]} are too few to show whether the background differs "
                f"between conditions, so {stays}.",
            )
        observed = float(_between(self.vectors, label[None])[0])
        reached = (self.null >= observed * (1 - _EQUAL)).sum()
        p = max(float((1 + reached) / (1 + len(self.null))), smallest)
        if p > LEVEL:
            return BackgroundDecision(
                False,
                p,
                f"The background does not differ between conditions beyond chance (p = {p:.2g}, "
                f"{wells}), so {stays}.",
            )
        return BackgroundDecision(
            True,
            p,
            f"The background differs between conditions (p = {p:.2g}, {wells}), so it was taken "
            "off: what it shows counts less in cells.",
        )


def _between(vectors: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of squares between groups, of vectors whose mean is zero; every row labels them anew."""
    sizes, n = np.bincount(labels[0]), len(vectors)
    found = np.empty(len(labels))
    step = max(1, _VALUES_AT_ONCE // (len(sizes) * vectors.shape[1]))
    for start in range(0, len(labels), step):
        part = labels[start : start + step]
        row = (np.arange(len(part))[:, None] * len(sizes) + part).ravel()
        where = row, np.tile(np.arange(n), len(part))
        one_hot = sparse.csr_array((np.ones(len(row)), where), (len(part) * len(sizes), n))
        squares = np.square(one_hot @ vectors).sum(axis=1).reshape(len(part), -1)
        found[start : start + step] = (squares / sizes).sum(axis=1)
    return found


def _smallest_p(label: NDArray[np.int64], block: NDArray[np.int64]) -> float:
    """Share of all ways to label groups that is the same partition: p cannot be below."""
    if len(label) < 2:
        return 1.0
    sizes = np.zeros((label.max() + 1, block.max() + 1), np.int64)
    np.add.at(sizes, (label, block), 1)
    # Conditions with as many wells on each plate may swap names.
    _, alike = np.unique(sizes, axis=0, return_counts=True)
    same = sum(math.lgamma(n + 1) for n in alike)
    ways = sum(math.lgamma(n + 1) for n in sizes.sum(axis=0))
    ways -= sum(math.lgamma(n + 1) for n in sizes.ravel())
    return min(1.0, math.exp(same - ways))
