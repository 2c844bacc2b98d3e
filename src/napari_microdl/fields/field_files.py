"""Fields to a table of their image files, as `napari_microdl.fields.tables` reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field
from napari_microdl.fields.metadata import metadata_table
from napari_microdl.fields.tables import read_fields

_WORDS = {
    "name": "name",
    "channel_names": "channels",
    "condition": "condition",
    "is_control": "control mark",
    "well": "well",
    "site": "site",
    "plate": "plate",
}


@dataclass(frozen=True, eq=False)
class FieldFiles:
    """A field and the files that hold it.

    Parameters
    ----------
    field : Field
        The field.
    files : tuple of Path
        One a channel, in their order, or one for all; empty where none is known.
    labels : Path, optional
        File with the labels of the cells.
    """

    field: Field
    files: tuple[Path, ...] = ()
    labels: Path | None = None


def write_field_files(rows: Sequence[FieldFiles], path: str | Path) -> None:
    """Write a table that `napari_microdl.fields.tables.read_fields` and the command line take.

    Parameters
    ----------
    rows : sequence of FieldFiles
        One a field.
    path : str or Path
        CSV file; one that is there is replaced. Files below its folder are named relative to it,
        others with their whole path. Where every channel has a file of its own they are named in
        ``FileName_<channel>`` and ``PathName_<channel>``, as CellProfiler does, else in ``path``
        and ``channels``; of a field without files these stay empty.

    Raises
    ------
    OSError
        If the table cannot be written.
    """
    folder = Path(path).parent
    table = metadata_table([row.field for row in rows])
    whole = any(len(row.files) == 1 != row.field.n_channels for row in rows)
    whole = whole or len({row.field.channel_names for row in rows if row.field.n_channels == 1}) > 1
    columns: dict[str, list[str]] = {}
    if whole:
        columns["path"] = [
            seen_from(folder, row.files[0]).as_posix() if row.files else "" for row in rows
        ]
        columns["channels"] = [";".join(row.field.channel_names) for row in rows]
    else:
        for channel in dict.fromkeys(name for row in rows for name in row.field.channel_names):
            files = [
                row.files[row.field.channel_names.index(channel)]
                if row.files and channel in row.field.channel_names
                else None
                for row in rows
            ]
            columns |= _two_columns(channel, files, folder)
    if any(row.labels for row in rows):
        columns |= _two_columns("labels", [row.labels for row in rows], folder)
    pd.concat([pd.DataFrame(columns), table], axis=1).to_csv(path, index=False)


def _two_columns(channel: str, files: Sequence[Path | None], folder: Path) -> dict[str, list[str]]:
    places = [None if file is None else seen_from(folder, file) for file in files]
    return {
        f"FileName_{channel}": ["" if place is None else place.name for place in places],
        f"PathName_{channel}": [
            "" if place is None or place.parent == Path() else place.parent.as_posix()
            for place in places
        ],
    }


def seen_from(folder: Path, file: Path) -> Path:
    """A file as it is named in files of a folder, so that what lies below can move along with it.

    Parameters
    ----------
    folder, file : Path
        Both as seen from here.

    Returns
    -------
    Path
        Relative to the folder for what lies below it, else the whole path.
    """
    # A link to a file keeps its name.
    folder, file = folder.resolve(), file.parent.resolve() / file.name
    return file.relative_to(folder) if file.is_relative_to(folder) else file


def check_field_files(rows: Sequence[FieldFiles], path: str | Path) -> None:
    """Make sure that a table gives the same fields as those that it was written from.

    The pixels themselves are not compared.

    Parameters
    ----------
    rows : sequence of FieldFiles
        As `write_field_files` got them.
    path : str or Path
        The table.

    Raises
    ------
    MicrodlError
        If a file cannot be read, or what is read differs in names, marks, size or type.
    """
    for row, found in zip(rows, read_fields(path), strict=True):
        wanted = row.field
        for name, word in _WORDS.items():
            if getattr(found, name) != getattr(wanted, name):
                raise MicrodlError(
                    f"The {word} of '{wanted.name}' is {_shown(getattr(wanted, name))}, which a "
                    f"table cannot hold: {_shown(getattr(found, name))} is read from it; rename it."
                )
        for image, other, what in (
            (wanted.data, found.data, "image"),
            (wanted.labels, found.labels, "labels"),
        ):
            if _described(image) != _described(other):
                raise MicrodlError(
                    f"The {what} of '{wanted.name}' in the window: {_described(image)}; in the "
                    f"file: {_described(other)}."
                )


def _shown(value: Any) -> str:
    return ", ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)


def _described(image: Any) -> str:
    """Size and type in words; labels count the same in any type that holds them."""
    if image is None:
        return "none"
    shape = " x ".join(str(int(n)) for n in image.shape)
    kind = np.dtype(image.dtype).newbyteorder("=")
    return shape if len(image.shape) == 2 else f"{shape} of {kind}"
