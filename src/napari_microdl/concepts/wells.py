"""The wells of a run: where they lie on a plate, and what their units show of a concept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.fields.field import FieldInfo
from napari_microdl.fields.metadata import metadata_table

if TYPE_CHECKING:
    from napari_microdl.concepts.activations import ConceptActivations
    from napari_microdl.concepts.concept_set import Concept

# Rows and columns of plates by their number of wells.
FORMATS = {96: (8, 12), 384: (16, 24), 1536: (32, 48)}
NO_CELLS, NOTED = "no cells", "note"
_COLUMNS = (
    "name", "plate", "well", "row", "column", "condition", "control", "n_fields", "n_units", "flag",
    "note",
)  # fmt: skip
_WELL = re.compile(r"([A-Za-z]{1,2})[-_ ]?0*(\d{1,2})")


def well_names(known: pd.DataFrame) -> NDArray[np.object_]:
    """Name of every row's well, plate first; a field without a well counts as its own.

    Parameters
    ----------
    known : DataFrame
        With the columns ``Metadata_Plate``, ``Metadata_Well`` and ``Metadata_Field``.

    Returns
    -------
    ndarray of str, shape (n_rows,)
    """
    keys = known[["Metadata_Plate", "Metadata_Well", "Metadata_Field"]]
    # Rows of a well share one text: a million of them would take as much memory as their codes.
    group = keys.groupby(list(keys), sort=False, dropna=False).ngroup().to_numpy()
    different = keys.iloc[np.unique(group, return_index=True)[1]]
    plate, well, field = (different[name].fillna("").astype(str) for name in keys)
    names = [(w and f"{p} {w}".strip()) or f for p, w, f in zip(plate, well, field, strict=True)]
    found: NDArray[np.object_] = np.array(names, object)[group]
    return found


def well_place(well: str) -> tuple[int, int] | None:
    """Row and column of a well on a plate, from 0; None where the name is none of a place.

    Examples
    --------
    >>> well_place("B03"), well_place("af48"), well_place("well 3")
    ((1, 2), (31, 47), None)
    """
    match = _WELL.fullmatch(well.strip())
    if match is None:
        return None
    row = 0
    for letter in match[1].upper():
        row = 26 * row + ord(letter) - ord("A") + 1
    place = row - 1, int(match[2]) - 1
    rows, columns = FORMATS[1536]
    return place if place[0] < rows and 0 <= place[1] < columns else None


def plate_format(wells: pd.DataFrame) -> tuple[int, int]:
    """Rows and columns of the smallest plate that has all places of a table of wells."""
    last = wells[["row", "column"]].max()
    return next(
        shape for shape in FORMATS.values() if last["row"] < shape[0] and last["column"] < shape[1]
    )


@dataclass(frozen=True, eq=False)
class Wells:
    """The wells of a run, and which units lie in each.

    Parameters
    ----------
    table : DataFrame
        A row a well, as it comes in the run: ``name`` (as `well_names` gives it), ``plate``,
        ``well``, ``row`` and ``column`` on the plate (from 0, -1 where the name is none of a
        place), ``condition``, ``control``, ``n_fields``, ``n_units``, ``flag`` ("no cells", "note"
        or empty) and ``note`` (what was noted of its fields).
    fields : list of list of int
        Numbers of the fields of every well.
    of_unit : ndarray of shape (n_units,)
        Row of the table that each unit belongs to.
    """

    table: pd.DataFrame
    fields: list[list[int]]
    of_unit: NDArray[np.int64]

    @property
    def on_plates(self) -> pd.DataFrame:
        """The rows of wells that have a place on a plate."""
        return self.table[self.table["row"] >= 0]

    def mean(
        self, values: NDArray[np.generic], rows: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Mean of units by well.

        Parameters
        ----------
        values : ndarray of shape (n_units,)
            Numbers or truth values.
        rows : ndarray of bool, shape (n_units,), optional
            Units that count; all where not given.

        Returns
        -------
        ndarray of shape (n_wells,)
            NaN of wells without such units.
        """
        of_unit, numbers = self.of_unit, np.asarray(values, np.float64)
        if rows is not None:
            of_unit, numbers = of_unit[rows], numbers[rows]
        total, count = (
            np.bincount(of_unit, weights, len(self.table)).astype(np.float64)
            for weights in (numbers, None)
        )
        mean = np.full(len(total), np.nan)
        np.divide(total, count, out=mean, where=count > 0)
        return mean

    def of_concept(self, activations: ConceptActivations, concept: Concept) -> pd.DataFrame:
        """The table with what the units of each well show of a concept.

        Parameters
        ----------
        activations : ConceptActivations
            The run that the wells are of.
        concept : int or ConceptSet
            Which concept.

        Returns
        -------
        DataFrame
            `table` with ``mean_activation`` and ``share_active`` (0 to 1), NaN of wells without
            units.
        """
        values = activations.activation(concept)
        return self.table.assign(
            mean_activation=self.mean(values), share_active=self.mean(values > 0)
        )


def wells_of(
    activations: ConceptActivations,
    fields: Sequence[FieldInfo] = (),
    notes: Sequence[str] = (),
) -> Wells:
    """Find the wells of a run.

    Parameters
    ----------
    activations : ConceptActivations
        The run.
    fields : sequence of FieldInfo
        All its fields, so that wells without units are among them; where they are not known, only
        those that have units are.
    notes : sequence of str
        What was noted of the run; a well is flagged where a note has the name of one of its fields
        in quotation marks.

    Returns
    -------
    Wells
    """
    of_field = activations.units["field"].to_numpy()
    if len(fields):
        known = metadata_table(fields)
    else:
        numbers, first = np.unique(of_field, return_index=True)
        columns = list(FieldInfo("").to_metadata())
        known = activations.units.iloc[first][columns].set_axis(numbers)
    known = known.where(known.notna(), "")
    codes, names = pd.factorize(well_names(known))
    numbers = known.index.to_numpy(np.int64)
    lookup = np.zeros(max(numbers.max(initial=0), of_field.max(initial=0)) + 1, np.int64)
    lookup[numbers] = codes
    of_unit = lookup[of_field]
    count = np.bincount(of_unit, minlength=len(names))
    noted = [[note for note in notes if f"'{name}'" in note] for name in known["Metadata_Field"]]
    rows = []
    for code, name in enumerate(names):
        members = np.flatnonzero(codes == code)
        own = known.iloc[members]
        well = str(own["Metadata_Well"].iloc[0])
        row, column = well_place(well) or (-1, -1)
        remarks = list(dict.fromkeys(note for at in members for note in noted[at]))
        rows.append(
            (
                name,
                str(own["Metadata_Plate"].iloc[0]),
                well,
                row,
                column,
                ", ".join(dict.fromkeys(own["Metadata_condition"].astype(str))),
                bool(own["Metadata_control"].all()),
                len(members),
                int(count[code]),
                NO_CELLS if not count[code] else NOTED if remarks else "",
                " ".join(remarks),
            )
        )
    members_of = [known.index[codes == code].tolist() for code in range(len(names))]
    return Wells(pd.DataFrame(rows, columns=_COLUMNS), members_of, of_unit)
