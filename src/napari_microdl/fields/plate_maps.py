"""What plate maps and tables of conditions say about wells, joined to tables of fields."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.core.text import counted, listed
from napari_microdl.fields.metadata import (
    PREFIX,
    column,
    normal_site,
    normal_well,
    read_table,
    record_of,
    well_of,
)

BARCODES = "barcode_platemap.csv"
_BARCODE, _MAP = "assay_plate_barcode", "plate_map_name"
_PLATES = ("plate", "assay_plate_barcode", "plate_id", "barcode")
_ENDINGS = (".txt", ".tsv", ".csv", "")
_KEYS = ["plate", "well", "site"]


def join_beside(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """A table of fields with what the plate maps in a folder say, where there are any.

    Refuses what `join_metadata` refuses; where the fields have no wells, that is noted.
    """
    place = folder / BARCODES
    if not place.is_file():
        return table
    if not _keys_of(table)["well"].any():
        current_task().note(f"'{BARCODES}' is passed over, as the fields have no wells.")
        return table
    return join_metadata(table, place)


def join_metadata(table: pd.DataFrame, place: str | Path) -> pd.DataFrame:
    """Add to a table of fields what is known of their wells, as columns ``Metadata_*``.

    Parameters
    ----------
    table : DataFrame
        A row a field, with its well, and its plate where there are several.
    place : str or Path
        ``barcode_platemap.csv`` with ``Assay_Plate_Barcode`` and ``Plate_Map_Name``, whose plate
        maps lie beside it or in a folder ``platemap`` there; a folder that holds this table; a
        plate map (``well_position``); or any table with wells, or rows and columns, and conditions.

    Returns
    -------
    DataFrame
        The same rows. A column that is there already is filled in where it is empty as a whole, and
        else stays. How many rows were found is noted.

    Raises
    ------
    MicrodlError
        If a table cannot be read, tells no wells, has two rows for one, or plates cannot be told.
    """
    place = Path(place)
    place = place / BARCODES if place.is_dir() else place
    conditions = _read(place)
    keys = _keys_of(table)
    if not keys["well"].any():
        raise MicrodlError(
            f"The fields have no wells to find them by in '{place.name}'; name wells, as in a "
            "column Metadata_Well, or row and column."
        )
    by = [key for key in _KEYS if conditions[key].any() and keys[key].any()]
    if conditions["plate"].nunique() > 1 and "plate" not in by:
        raise MicrodlError(
            f"'{place.name}' tells several plates, but no field says which plate it is of; add a "
            "column Metadata_Plate."
        )
    if "well" not in by:
        raise MicrodlError(f"'{place.name}' tells no wells; add a column well, or row and column.")
    twice = conditions[conditions.duplicated(by)]
    if len(twice):
        which = ", ".join(f"{key} '{twice[key].iloc[0]}'" for key in by)
        raise MicrodlError(
            f"'{place.name}' has two rows about {which}; keep one, or add what tells them apart."
        )
    joined = (
        keys[by]
        .reset_index(drop=True)
        .merge(
            conditions.drop(columns=[key for key in _KEYS if key not in by]),
            how="left",
            on=by,
            indicator="found",
            validate="m:1",
        )
    )
    found = (joined.pop("found") == "both").to_numpy()
    lacking = [" ".join(filter(None, row)) for row in keys.loc[~found, by].to_numpy().tolist()]
    current_task().note(
        f"'{place.name}' tells {int(found.sum())} of {counted(len(table), 'field')}"
        + (f"; not in it: {listed(list(dict.fromkeys(lacking)))}." if lacking else ".")
    )
    table = table.copy()
    for name in joined.columns.drop(by):
        there = column(table, str(name).removeprefix(PREFIX).lower())
        values = joined[name].fillna("").to_numpy()
        if there is None:
            table[name] = values
        elif not table[there].astype(str).str.strip().any():
            table[there] = values
    return table


def _keys_of(table: pd.DataFrame) -> pd.DataFrame:
    """Plate, well and site of every row, as all write them; empty where not told."""
    keys = pd.DataFrame("", index=range(len(table)), columns=_KEYS)
    records = table.astype(str).to_dict("records")
    keys["well"] = [normal_well(well_of(record) or "") for record in records]
    if (plate := column(table, *_PLATES)) is not None:
        keys["plate"] = table[plate].astype(str).str.strip().to_numpy()
    if (site := column(table, "site")) is not None:
        keys["site"] = [normal_site(str(value)) for value in table[site]]
    return keys


def _read(place: Path) -> pd.DataFrame:
    """What is said of wells, with the columns `_KEYS`."""
    table = read_table(place)
    barcode, named = column(table, _BARCODE), column(table, _MAP)
    if barcode is None or named is None or well_of(record_of(table, 0)) is not None:
        return _with_keys(table)
    maps = {name: _read_map(place.parent, name) for name in dict.fromkeys(table[named])}
    plates = []
    for plate, name in zip(table[barcode], table[named], strict=True):
        plates.append(maps[name].assign(plate=plate))
    current_task().note(
        f"Plates and their plate maps come from '{place.name}': "
        f"{counted(len(plates), 'plate')}, {counted(len(maps), 'plate map')}."
    )
    return pd.concat(plates, ignore_index=True)


def _read_map(folder: Path, name: str) -> pd.DataFrame:
    places = [
        inner / f"{name}{ending}" for inner in (folder / "platemap", folder) for ending in _ENDINGS
    ]
    place = next((place for place in places if place.is_file()), None)
    if place is None:
        raise MicrodlError(
            f"There is no plate map '{name}' in '{folder / 'platemap'}' or beside "
            f"'{BARCODES}'; put '{name}.txt' there."
        )
    table = read_table(place)
    named = column(table, _MAP)
    if named is not None and (of_this := table[named] == name).any():
        table = table[of_this].reset_index(drop=True)
    return _with_keys(table)


def _with_keys(table: pd.DataFrame) -> pd.DataFrame:
    """The table with plate, well and site as keys, and everything else as ``Metadata_*``."""
    keys = _keys_of(table)
    of_keys = {column(table, name) for name in (*_PLATES, "well", "well_position", "well_id",
                                                "row", "column", "col", "site")}  # fmt: skip
    for name in table.columns:
        if name not in of_keys:
            plain = str(name).removeprefix(PREFIX)
            keys[f"{PREFIX}{plain}"] = table[name].to_numpy()
    return keys
