"""What is asked of a run: which labels, what is independent, and which fields may answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.metadata import PREFIX, column
from napari_microdl.metrics import LIBRARIES, Library

Independent = Literal["wells", "fields", "plates"]
INDEPENDENT: tuple[Independent, ...] = get_args(Independent)
CONDITION = f"{PREFIX}condition"
# Batches that are chosen by what there is.
AUTOMATIC = "auto"
_CONTROL = f"{PREFIX}control"
_PLACES = ("Plate", "Well", "Site")


@dataclass(frozen=True)
class EvaluationChoices:
    """What an evaluation asks.

    Parameters
    ----------
    labels : str, default="Metadata_condition"
        Column of the units that concepts should tell, with or without ``Metadata_``.
    independent : {"wells", "fields", "plates"}
        What was treated as one: it is shuffled, drawn again and left out whole.
    n_permutations : int, default=999
        Shuffles of the null.
    handcrafted : bool, default=True
        Whether to measure the cells by hand too, where images and labels are given.
    library : {"scikit-image", "cp_measure"}
        Whose measurements these are, see `napari_microdl.metrics.cell_measurements`.
    n_seeds : int, default=0
        Dictionaries to fit with further seeds.
    unseen_only : bool, default=False
        Whether to leave out the fields that the dictionary was fitted on.
    random_state : int, default=0
        Seed.
    batches : str, default="auto"
        Column that tells the batches by which controls are compared, with or without ``Metadata_``;
        "auto" takes plates or, of one plate, sites: see `batch_design`.

    Raises
    ------
    MicrodlError
        If a choice is not known or a number is too small.
    """

    labels: str = CONDITION
    independent: Independent = "wells"
    n_permutations: int = 999
    handcrafted: bool = True
    library: Library = "scikit-image"
    n_seeds: int = 0
    unseen_only: bool = False
    random_state: int = 0
    batches: str = AUTOMATIC

    def __post_init__(self) -> None:
        if self.independent not in INDEPENDENT:
            raise MicrodlError(
                f"'{self.independent}' is not known as what is independent; use one of "
                f"{', '.join(INDEPENDENT)}."
            )
        if self.library not in LIBRARIES:
            raise MicrodlError(
                f"'{self.library}' is not known as a library of measurements; use one of "
                f"{', '.join(LIBRARIES)}."
            )
        if self.n_permutations < 1 or self.n_seeds < 0:
            raise MicrodlError(
                f"{self.n_permutations} shuffles and {self.n_seeds} further seeds were asked for; "
                "give at least 1 and 0."
            )


def label_columns(units: pd.DataFrame) -> list[str]:
    """Columns that can serve as labels: those that differ between units.

    Parameters
    ----------
    units : DataFrame
        As `unit_table` makes it, with more ``Metadata_*`` columns or without.

    Returns
    -------
    list of str
        The condition first, where it differs.
    """
    found = [str(c) for c in units.columns if str(c).startswith(PREFIX)]
    found = [name for name in found if _n_kinds(units[name]) > 1]
    return sorted(found, key=lambda name: name != CONDITION)


def unit_labels(units: pd.DataFrame, name: str) -> NDArray[np.str_]:
    """Label of every unit.

    Parameters
    ----------
    units : DataFrame
        See `label_columns`.
    name : str
        Column, with or without ``Metadata_``, in any case.

    Returns
    -------
    ndarray of str, shape (n_units,)
        "control" and "treated" of the column ``Metadata_control``; empty where nothing is known.

    Raises
    ------
    MicrodlError
        If there is no such column.
    """
    found = label_column(units, name)
    if found == _CONTROL:
        return np.where(units[found].to_numpy(bool), "control", "treated").astype(np.str_)
    return _texts(units, found)


def label_column(units: pd.DataFrame, name: str) -> str:
    """The column that is meant, as the units have it.

    Parameters
    ----------
    units : DataFrame
        See `label_columns`.
    name : str
        With or without ``Metadata_``, in any case.

    Returns
    -------
    str

    Raises
    ------
    MicrodlError
        If there is no such column.
    """
    known = units[[c for c in units.columns if str(c).startswith(PREFIX)]]
    found = column(known, name.lower().removeprefix(PREFIX.lower()))
    if found is None:
        raise MicrodlError(
            f"There is no column '{name}' to take labels from; use one of "
            f"{', '.join(map(str, known.columns))}."
        )
    return found


def unit_groups(units: pd.DataFrame, independent: Independent = "wells") -> NDArray[np.str_]:
    """Group of every unit; units of one group are not independent of each other.

    Parameters
    ----------
    units : DataFrame
        See `label_columns`.
    independent : {"wells", "fields", "plates"}
        Wells are told by plate and well.

    Returns
    -------
    ndarray of str, shape (n_units,)
        The field where no well, or no plate, is known.
    """
    field = np.char.add("field ", units["field"].to_numpy().astype(str))
    if independent == "fields":
        return field.astype(np.str_)
    plate, well = _texts(units, f"{PREFIX}Plate"), _texts(units, f"{PREFIX}Well")
    if independent == "plates":
        return np.where(plate != "", np.char.add("plate ", plate), field).astype(np.str_)
    name = np.char.add(np.char.add(np.char.add("well ", plate), " "), well)
    return np.where(well != "", name, field).astype(np.str_)


def seen_units(dictionary: ConceptDictionary, units: pd.DataFrame) -> NDArray[np.bool_] | None:
    """Which units are of fields that the dictionary was fitted on.

    Parameters
    ----------
    dictionary : ConceptDictionary
        Its provenance lists the fields.
    units : DataFrame
        See `label_columns`.

    Returns
    -------
    ndarray of bool, shape (n_units,), or None
        None where the dictionary does not tell its fields. A field counts as seen if one of its
        name was used and neither plate, well nor site, where both are known, tells them apart.
    """
    listed = dictionary.provenance.get("fields")
    if not listed:
        return None
    by_name: dict[str, list[dict[str, str]]] = {}
    for known in listed:
        by_name.setdefault(str(known.get("name", "")), []).append(known)
    columns = [f"{PREFIX}{name}" for name in ("Field", *_PLACES)]
    fields = units.drop_duplicates("field").set_index("field")[columns].fillna("").astype(str)
    seen = {
        number: any(
            all(
                not row[f"{PREFIX}{place}"]
                or not known.get(place.lower())
                or row[f"{PREFIX}{place}"] == str(known[place.lower()])
                for place in _PLACES
            )
            for known in by_name.get(row[f"{PREFIX}Field"], [])
        )
        for number, row in fields.iterrows()
    }
    return np.asarray(units["field"].map(seen), dtype=bool)


def _n_kinds(column: pd.Series) -> int:
    """Different values, without making a text of each of a million units."""
    kinds = {str(value) for value in column.dropna().unique()}
    return len(kinds | ({""} if column.isna().any() else set()))


def _texts(units: pd.DataFrame, name: str) -> NDArray[np.str_]:
    return np.asarray(units[name].fillna("").astype(str), dtype=np.str_)
