"""A name for a concept from what it goes along with in handcrafted measurements."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.fields.field import Field
from napari_microdl.report.handcrafted import measurements

# Cells that are measured: of more, those of some fields.
_MOST_CELLS = 1500
# A well of so many cells is compared with itself alone.
_LEAST_OF_A_WELL = 10
# What a correlation has to reach, and how many standard errors of none.
LEAST_CORRELATION = 0.3
_LEAST_ERRORS = 3.3
_MOST_TERMS = 3
LIMIT_RULE = (
    "From rank correlations of the concept with shape, brightness and texture of cells: within "
    f"wells of {_LEAST_OF_A_WELL} cells or more, and where these tell nothing, of all cells. Told "
    f"are those of {LEAST_CORRELATION} or more, and {_LEAST_ERRORS} times their standard error."
)

# What is said of more and of less of a measurement; of those of one group, the strongest counts.
_SHAPE = (
    ("size", "shape_area", "larger", "smaller"),
    ("size", "shape_axis_major_length", "longer", "shorter"),
    ("roundness", "shape_eccentricity", "elongated", "rounder"),
    ("outline", "shape_solidity", "smooth outline", "ragged outline"),
)
_OF_CHANNEL = (
    ("brightness", "intensity_mean", "brighter", "dimmer"),
    ("spots", "spots", "spots", "no spots"),
    ("texture", "texture_contrast_1", "grainy", "smooth"),
    ("place", "intensity_displacement", "off-centre", "centred"),
)


class NameSuggestions:
    """Suggests names for the concepts of one run; its cells are measured once.

    Parameters
    ----------
    activations : ConceptActivations
        The run, of cells.
    fields : sequence of Field
        Its fields.
    cells : sequence of ndarray of shape (height, width), or None
        Cells of every field.
    """

    def __init__(
        self,
        activations: ConceptActivations,
        fields: Sequence[Field],
        cells: Sequence[NDArray[np.integer] | None],
    ) -> None:
        self._activations = activations
        self._fields = fields
        self._cells = cells
        # Rows of the cells that are measured; the wells that they are ranked in, and their ranks.
        self._rows = np.empty(0, np.int64)
        self._ranked: list[tuple[NDArray[np.int64], pd.DataFrame]] = []
        self._lock = Lock()

    @property
    def are_possible(self) -> bool:
        """Whether there are images and outlines of cells to measure."""
        kind = self._activations.dictionary.spec.units.kind
        return kind == "cell" and bool(self._fields) and all(x is not None for x in self._cells)

    @property
    def are_measured(self) -> bool:
        """Whether `of` answers at once."""
        return bool(self._ranked)

    def measure(self) -> None:
        """Measure the cells, which takes seconds; a second call does nothing."""
        with self._lock:
            if not self._ranked:
                numbers = _some_fields(self._activations.units["field"].to_numpy())
                part = self._activations.of_fields(numbers)
                table = with_spots(measurements(part, self._fields, self._cells), self._channels)
                of_terms = table[[key for _, key, *_ in _terms(self._channels)]]
                self._rows = np.flatnonzero(np.isin(self._activations.units["field"], numbers))
                wells = comparable_wells(self._activations.wells[self._rows])
                together = np.zeros_like(wells)
                self._ranked = [(w, ranks_within(of_terms, w)) for w in (wells, together)]

    def of(self, concept: int) -> str:
        """A suggestion for one concept.

        Parameters
        ----------
        concept : int
            Which concept.

        Returns
        -------
        str
            Such as "larger, rounder, spots in DNA"; empty where no correlation is strong enough,
            or nothing is measured yet.
        """
        activation = self._activations.activation(concept)[self._rows]
        names = (
            suggested_name(correlations(ranked, activation, wells), self._channels)
            for wells, ranked in self._ranked
        )
        return next(filter(None, names), "")

    @property
    def _channels(self) -> tuple[str, ...]:
        return self._activations.dictionary.spec.tokens.channels


def _some_fields(field: NDArray[np.integer]) -> list[int]:
    """Fields in random order, until they have as many cells as are measured."""
    numbers, counts = np.unique(field, return_counts=True)
    order = np.random.default_rng(0).permutation(len(numbers))
    enough = int(np.searchsorted(np.cumsum(counts[order]), _MOST_CELLS)) + 1
    return sorted(numbers[order[:enough]].tolist())


def with_spots(table: pd.DataFrame, channels: Sequence[str]) -> pd.DataFrame:
    """Measurements with ``spots_<channel>``: how far the brightest pixels of a cell stand out.

    Parameters
    ----------
    table : DataFrame
        As `cell_measurements` returns it.
    channels : sequence of str
        Its channels.

    Returns
    -------
    DataFrame
        The range from the median to the 95th percentile, as a share of that from the 5th on.
    """
    table = table.copy()
    for name in channels:
        low, middle, high = (table[f"intensity_p{q}_{name}"] for q in (5, 50, 95))
        table[f"spots_{name}"] = ((high - middle) / (high - low).where(high > low)).fillna(0.5)
    return table


def comparable_wells(wells: NDArray[np.object_]) -> NDArray[np.int64]:
    """Number of the well that every cell is ranked in; -1 where it is left out.

    Parameters
    ----------
    wells : ndarray of shape (n_cells,)
        Their names.

    Returns
    -------
    ndarray of int
        Wells of fewer than 10 cells are left out.
    """
    number, _ = pd.factorize(wells)
    found: NDArray[np.int64] = np.where(np.bincount(number)[number] >= _LEAST_OF_A_WELL, number, -1)
    return found


def ranks_within(table: pd.DataFrame, wells: NDArray[np.int64]) -> pd.DataFrame:
    """Ranks of every column within wells, from -0.5 to 0.5 with a mean of 0; 0 where left out.

    Parameters
    ----------
    table : DataFrame of n_cells rows
        Values.
    wells : ndarray of int, shape (n_cells,)
        As `comparable_wells` gives them.

    Returns
    -------
    DataFrame
    """
    grouped = table.reset_index(drop=True).groupby(wells)
    ranks = grouped.rank().div(grouped.transform("size") + 1, axis=0) - 0.5
    return ranks.where(pd.Series(wells >= 0), 0.0)


def correlations(
    ranked: pd.DataFrame, activation: NDArray[np.floating], wells: NDArray[np.int64]
) -> pd.Series:
    """Rank correlation of a concept's activation with measurements, within wells.

    Parameters
    ----------
    ranked : DataFrame of n_cells rows
        Measurements, as `ranks_within` gives them.
    activation : ndarray of shape (n_cells,)
        Of the concept.
    wells : ndarray of int, shape (n_cells,)
        As `comparable_wells` gives them.

    Returns
    -------
    Series indexed by measurement
        -1 to 1; 0 where a correlation is not strong enough to be told.
    """
    own = ranks_within(pd.DataFrame({"activation": activation}), wells)["activation"].to_numpy()
    values = ranked.to_numpy()
    norms = np.linalg.norm(values, axis=0) * np.linalg.norm(own)
    found = np.divide(own @ values, norms, out=np.zeros(values.shape[1]), where=norms > 0)
    inside = wells[wells >= 0]
    freedom = len(inside) - len(np.unique(inside)) - 2
    if freedom < 2:
        return pd.Series(0.0, index=ranked.columns)
    least = max(LEAST_CORRELATION, float(np.tanh(_LEAST_ERRORS / np.sqrt(freedom))))
    return pd.Series(np.where(np.abs(found) >= least, found, 0.0), index=ranked.columns)


def suggested_name(found: pd.Series, channels: Sequence[str]) -> str:
    """The strongest correlations in words, at most three.

    Parameters
    ----------
    found : Series indexed by measurement
        As `correlations` gives them.
    channels : sequence of str
        Channels of the measurements; of a single one the name is left out.

    Returns
    -------
    str
        Empty where all are 0.
    """
    strongest_of: dict[str, tuple[float, str]] = {}
    for group, key, more, less in _terms(channels):
        value = float(found[key])
        if abs(value) > strongest_of.get(group, (0.0, ""))[0]:
            strongest_of[group] = abs(value), more if value > 0 else less
    strongest = sorted(strongest_of.values(), key=lambda entry: -entry[0])[:_MOST_TERMS]
    return ", ".join(word for _, word in strongest)


def _terms(channels: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Group, column, and what is said of more and of less of it."""
    terms = list(_SHAPE)
    for name in channels:
        where = f" in {name}" if len(channels) > 1 else ""
        terms += [
            (f"{group} {name}", f"{key}_{name}", f"{more}{where}", f"{less}{where}")
            for group, key, more, less in _OF_CHANNEL
        ]
    return terms
