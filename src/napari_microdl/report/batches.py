"""Which batches controls are compared by, and what counts as one observation of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.metadata import PREFIX
from napari_microdl.report.options import (
    AUTOMATIC,
    Independent,
    label_column,
    unit_groups,
    unit_labels,
)

_WORDS = {f"{PREFIX}{name}": f"{name.lower()}s" for name in ("Plate", "Well", "Site")}


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
    column, batch = label_column(units, batches), unit_labels(units, batches)
    fields, wells = unit_groups(units, "fields"), unit_groups(units, "wells")
    compared = control & (batch != "")
    by = _WORDS.get(column, f"values of '{column.removeprefix(PREFIX)}'")
    if column == f"{PREFIX}Well":
        # Wells of two plates may have one name.
        return BatchDesign(column, by, compared, wells, fields, None, [])
    n_batches = _pairs(wells, batch, compared).groupby("well")["batch"].size()
    if (n_batches < 2).all():
        groups = fields if independent == "fields" else wells
        return BatchDesign(column, by, compared, batch, groups, None, [])
    n_wells = _pairs(wells, batch, compared).groupby("batch")["well"].size()
    left_out = sorted(str(name) for name in n_wells.index[n_wells < 2])
    compared &= ~np.isin(batch, left_out)
    return BatchDesign(column, by, compared, batch, fields, wells, left_out)


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
