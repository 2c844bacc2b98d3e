"""What is asked of a run: which labels, what is independent, which fields and which batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import AUTOMATIC, Independent
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.metadata import PREFIX, column

CONDITION = f"{PREFIX}condition"
_CONTROL = f"{PREFIX}control"
_PLACES = ("Plate", "Well", "Site")
_PLURALS = {f"{PREFIX}{name}": f"{name.lower()}s" for name in _PLACES}


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


def asks_conditions(units: pd.DataFrame, name: str) -> bool:
    """Whether the labels asked for are the conditions; see `unit_labels`."""
    return label_column(units, name) == CONDITION


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


def seen_units(
    dictionary: ConceptDictionary, units: pd.DataFrame, *, whitened: bool = False
) -> NDArray[np.bool_] | None:
    """Which units are of fields that the dictionary was fitted on.

    Parameters
    ----------
    dictionary : ConceptDictionary
        Its provenance lists the fields.
    units : DataFrame
        See `label_columns`.
    whitened : bool, default=False
        Whether only controls count that its whitening was fitted on.

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
    if whitened:
        # And those by which the plates of a run were placed that a dictionary is applied to.
        every = [*listed, *dictionary.provenance.get("placed", [])]
        listed = [f for f in every if f.get("control") and not f.get("held_back")]
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


@dataclass(frozen=True)
class BatchDesign:
    """How controls are compared.

    Parameters
    ----------
    column : str
        Where the batches come from, such as "Metadata_Plate".
    by : str
        The same in a word: "plates", "sites", "wells", or "values of 'Day'".
    compared : ndarray of bool, shape (n_units,)
        Controls that take part.
    batches, groups : ndarray of str, shape (n_units,)
        Batch of every unit, and what is one observation.
    blocks : ndarray of str, shape (n_units,), or None
        Wells, where they hold several batches: batches are then compared within them.
    left_out : list of str
        Batches that only one well of controls has: they cannot be told from that well.
    """

    column: str
    by: str
    compared: NDArray[np.bool_]
    batches: NDArray[np.str_]
    groups: NDArray[np.str_]
    blocks: NDArray[np.str_] | None
    left_out: list[str]


def batch_design(units: pd.DataFrame, batches: str, independent: Independent) -> BatchDesign:
    """How to compare controls of different batches.

    Parameters
    ----------
    units : DataFrame
        See `unit_labels`.
    batches : str
        A column, or "auto": plates where controls are of two or more, else sites where two or more
        are each in several wells of controls.
    independent : {"wells", "fields", "plates"}
        What is one observation of a batch that is made of whole wells: fields if "fields", else
        wells.

    Returns
    -------
    BatchDesign
        Observations of a batch are wells, as far as wells are of one batch; where a well holds
        several, as it does sites, they are fields, compared within wells; of wells as batches,
        they are fields. Controls of which the batch is not known take no part.

    Raises
    ------
    MicrodlError
        If there is no such column, or nothing to choose of.
    """
    control = units[f"{PREFIX}control"].to_numpy(bool)
    if batches == AUTOMATIC:
        batches = _chosen(units, control)
    name, batch = label_column(units, batches), unit_labels(units, batches)
    fields, wells = unit_groups(units, "fields"), unit_groups(units, "wells")
    compared = control & (batch != "")
    by = _PLURALS.get(name, f"values of '{name.removeprefix(PREFIX)}'")
    if name == f"{PREFIX}Well":
        # Wells of two plates may have one name.
        return BatchDesign(name, by, compared, wells, fields, None, [])
    n_batches = _pairs(wells, batch, compared).groupby("well")["batch"].size()
    if (n_batches < 2).all():
        groups = fields if independent == "fields" else wells
        return BatchDesign(name, by, compared, batch, groups, None, [])
    n_wells = _pairs(wells, batch, compared).groupby("batch")["well"].size()
    left_out = sorted(str(name) for name in n_wells.index[n_wells < 2])
    compared &= ~np.isin(batch, left_out)
    return BatchDesign(name, by, compared, batch, fields, wells, left_out)


def _chosen(units: pd.DataFrame, control: NDArray[np.bool_]) -> str:
    """Plates if there are several, else sites if several are each in several wells."""
    plate, site, well = (unit_labels(units, f"{PREFIX}{n}") for n in ("Plate", "Site", "Well"))
    if len(set(plate[control & (plate != "")])) > 1:
        return f"{PREFIX}Plate"
    known = control & (site != "") & (well != "")
    n_wells = _pairs(unit_groups(units, "wells"), site, known).groupby("batch")["well"].size()
    if (n_wells > 1).sum() > 1:
        return f"{PREFIX}Site"
    raise MicrodlError(
        "they take controls of two or more plates, or of two or more sites that are each in "
        "several wells of controls; or name the column that tells batches."
    )


def _pairs(
    wells: NDArray[np.str_], batch: NDArray[np.str_], which: NDArray[np.bool_]
) -> pd.DataFrame:
    """Wells with their batches, each pair once."""
    return pd.DataFrame({"well": wells[which], "batch": batch[which]}).drop_duplicates()


def _n_kinds(column: pd.Series) -> int:
    """Different values, without making a text of each of a million units."""
    kinds = {str(value) for value in column.dropna().unique()}
    return len(kinds | ({""} if column.isna().any() else set()))


def _texts(units: pd.DataFrame, name: str) -> NDArray[np.str_]:
    return np.asarray(units[name].fillna("").astype(str), dtype=np.str_)
