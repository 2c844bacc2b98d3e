"""Wells as observations: means over their units, and how far they lie from controls."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.wells import plate_format, wells_of
from napari_microdl.core.arrays import unit_length
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.metrics.wells import PositionEffects, position_effects, robust_z
from napari_microdl.report.options import seen_units

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class WellProfiles:
    """Profiles of the wells that have units.

    Parameters
    ----------
    table : DataFrame
        As `Wells.table`, a row a well.
    label : ndarray of str, shape (n_wells,)
        Label of each.
    cosines : ndarray of shape (n_wells, n_concepts)
        Mean cosine of its units with the direction of every concept.
    seen : ndarray of bool, shape (n_wells,)
        Control wells that the whitening was fitted on. They lie closer together than wells that it
        has not seen, so that others seem to differ from them.
    """

    table: pd.DataFrame
    label: NDArray[np.str_]
    cosines: NDArray[np.float64]
    seen: NDArray[np.bool_]

    @classmethod
    def of(cls, activations: ConceptActivations, labels: NDArray[np.str_]) -> WellProfiles:
        """Average the units of every well.

        Parameters
        ----------
        activations : ConceptActivations
            The run.
        labels : ndarray of str, shape (n_units,)
            Label of every unit.

        Returns
        -------
        WellProfiles

        Raises
        ------
        MicrodlError
            If a well has units of several labels.
        """
        wells = wells_of(activations)
        of_unit, n = wells.of_unit, len(wells.table)
        label = np.full(n, "", labels.dtype)
        label[of_unit] = labels
        mixed = np.unique(of_unit[label[of_unit] != labels])
        if len(mixed):
            raise MicrodlError(
                f"well '{wells.table['name'].iloc[mixed[0]]}' has several labels, and wells are "
                "compared whole."
            )
        sums = np.zeros((n, activations.n_concepts))
        directions = activations.dictionary.directions
        for start in range(0, len(of_unit), _ROWS_AT_ONCE):
            current_task().progress(start, len(of_unit), "Averaging wells")
            rows = slice(start, start + _ROWS_AT_ONCE)
            cosines = unit_length(np.asarray(activations.vectors[rows])) @ directions.T
            np.add.at(sums, of_unit[rows], cosines)
        seen = np.zeros(n, bool)
        if activations.dictionary.whitening is not None:
            units = seen_units(activations.dictionary, activations.units, whitened=True)
            # Of a dictionary that does not tell, the worst is believed.
            seen[of_unit[slice(None) if units is None else units]] = True
        cosines = sums / wells.table["n_units"].to_numpy()[:, None]
        return cls(wells.table, label, cosines, seen)

    @cached_property
    def control(self) -> NDArray[np.bool_]:
        """Controls that wells are compared with: those not seen, or all where all were seen."""
        every = np.asarray(self.table["control"], bool)
        return every & ~self.seen if self.is_fair else every

    @cached_property
    def treated(self) -> NDArray[np.bool_]:
        """Which wells are no controls."""
        return ~np.asarray(self.table["control"], bool)

    @cached_property
    def is_fair(self) -> bool:
        """Whether there are controls that the whitening has not seen."""
        return bool((np.asarray(self.table["control"], bool) & ~self.seen).any())

    @property
    def plate(self) -> NDArray[np.str_]:
        """Plate of every well."""
        return np.asarray(self.table["plate"].astype(str), np.str_)

    @cached_property
    def positions(self) -> tuple[PositionEffects, PositionEffects]:
        """What cosines, and the logarithm of the number of units, owe to the place of a well.

        Raises
        ------
        MicrodlError
            If wells have no place, or there are too few controls.
        """
        table = self.table
        if (table["row"] < 0).any():
            raise MicrodlError("not all wells have a name that says where they lie, such as B03.")
        places = table[["row", "column"]].to_numpy(np.int64)
        shape, counts = plate_format(table), np.log(table["n_units"].to_numpy(np.float64))
        cosines, of_counts = (
            position_effects(values, self.control, self.plate, places, shape)
            for values in (self.cosines, counts[:, None])
        )
        return cosines, of_counts

    def values(self, *, take_off_positions: bool = False) -> NDArray[np.float64]:
        """Cosines, as they are or less what wells owe to their place."""
        return self.cosines - (self.positions[0].fitted if take_off_positions else 0)

    def z(self, *, take_off_positions: bool = False) -> NDArray[np.float64]:
        """How far wells lie from the controls of their plate, see `robust_z`.

        Parameters
        ----------
        take_off_positions : bool, default=False
            Whether what they owe to their place is taken off before.

        Returns
        -------
        ndarray of shape (n_wells, n_concepts)

        Raises
        ------
        MicrodlError
            If there are fewer than three control wells.
        """
        if self.control.sum() < 3:
            raise MicrodlError(
                f"there are {self.control.sum()} control wells; three are needed to tell how far "
                "wells lie apart by themselves."
            )
        values = self.values(take_off_positions=take_off_positions)
        return robust_z(values, self.control, self.plate)
