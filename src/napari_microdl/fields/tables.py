"""Tables of image files: read as fields, whose pixels come when they are needed, and written."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray
from PIL import Image

from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field
from napari_microdl.fields.metadata import column, describe_row, metadata_table, read_table

_FILE, _FOLDER = "filename_", "pathname_"
_LABELS = "labels"
_IMAGE_COLUMNS = ("path", "file", "filename", "image")
# What people call the parts of a field that a table names.
_PARTS = {
    "name": "name",
    "channel_names": "channels",
    "condition": "condition",
    "is_control": "control mark",
    "well": "well",
    "site": "site",
    "plate": "plate",
}


class _Files:
    """Channels of a field in files, behind the part of an array's interface that `Field` reads.

    A part is the file of a channel and which of its channels, None where it holds one alone. The
    type is that of the first file.
    """

    def __init__(
        self, parts: list[tuple[Path, int | None]], shape: tuple[int, int, int], dtype: Any
    ) -> None:
        self._parts = parts
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._held: tuple[Path, NDArray[Any]] | None = None

    def __getitem__(self, key: Any) -> NDArray[Any]:
        key = key if isinstance(key, tuple) else (key,)
        channel, rest = key[0], key[1:]
        if isinstance(channel, slice):
            wanted = range(*channel.indices(self.shape[0]))
            return np.stack([self._plane(c)[rest] for c in wanted])
        return np.asarray(self._plane(int(channel))[rest])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def _plane(self, channel: int) -> NDArray[Any]:
        path, index = self._parts[channel]
        # The last file stays, because its other tiles and channels are asked for next.
        if self._held is None or self._held[0] != path:
            self._held = (path, _channels_first(_read(path)))
        image = self._held[1]
        plane: NDArray[Any] = image[0 if index is None else index]
        if plane.shape != self.shape[1:]:
            raise MicrodlError(
                f"'{path.name}' is {plane.shape} pixels but the other channels of its field are "
                f"{self.shape[1:]}; correct the row of the table."
            )
        return plane


def read_fields(path: str | Path) -> list[Field]:
    """Fields of a table with one row a field.

    Parameters
    ----------
    path : str or Path
        CSV, TSV or Parquet file. Files are named as CellProfiler does, one a channel in columns
        ``FileName_<channel>``, with their folders in ``PathName_<channel>``; or one a field in a
        column ``path``, whose channels are named in the column ``channels``, parted by ``;``.
        Folders are relative to that of the table. ``FileName_labels`` or ``labels`` names a file
        with the labels of the cells. Columns ``Metadata_*`` tell field, condition, control, well,
        site and plate.

    Returns
    -------
    list of Field
        Their pixels are read when they are needed.

    Raises
    ------
    MicrodlError
        If the table or a file cannot be read, or a row lacks a file.
    """
    path = Path(path)
    table = read_table(path)
    by_channel = {
        str(c)[len(_FILE) :]: str(c) for c in table.columns if str(c).lower().startswith(_FILE)
    }
    labels = next((c for c in by_channel if c.lower() == _LABELS), None)
    labels_column = by_channel.pop(labels) if labels is not None else column(table, _LABELS)
    image_column = None if by_channel else column(table, *_IMAGE_COLUMNS)
    if not by_channel and image_column is None:
        raise MicrodlError(
            f"'{path.name}' names no image files; add a column FileName_<channel> for every "
            "channel, or a column path."
        )
    fields = []
    for row in range(len(table)):
        try:
            fields.append(_field(path.parent, table, row, by_channel, image_column, labels_column))
        except MicrodlError as error:
            raise MicrodlError(f"Row {row + 1} of '{path.name}': {error}") from error
    return fields


def _field(
    folder: Path,
    table: pd.DataFrame,
    row: int,
    by_channel: dict[str, str],
    image_column: str | None,
    labels_column: str | None,
) -> Field:
    if image_column is not None:
        file = _existing(folder, table, row, image_column)
        shape, dtype = _shape(file)
        listed = column(table, "channels")
        text = str(table[listed].iloc[row]) if listed else ""
        names = tuple(n.strip() for n in text.split(";") if n.strip())
        names = names or tuple(f"channel {i + 1}" for i in range(shape[0]))
        parts: list[tuple[Path, int | None]] = [(file, i) for i in range(shape[0])]
    else:
        names = tuple(by_channel)
        parts = [(_existing(folder, table, row, c), None) for c in by_channel.values()]
        file = parts[0][0]
        (planes, *size), dtype = _shape(file)
        if planes != 1:
            raise MicrodlError(
                f"'{file.name}' holds {planes} channels but stands for one; name it in a column "
                "path instead."
            )
        shape = (len(parts), size[0], size[1])
    labels = None
    if labels_column is not None and str(table[labels_column].iloc[row]).strip():
        file_of_labels = _existing(folder, table, row, labels_column)
        planes, *size = _shape(file_of_labels)[0]
        if planes != 1:
            raise MicrodlError(
                f"'{file_of_labels.name}' holds {planes} planes; labels need one plane."
            )
        labels = _Files([(file_of_labels, None)], (1, size[0], size[1]), _shape(file_of_labels)[1])
    known = describe_row(table, row)
    named = column(table, "field", "name")
    name = str(table[named].iloc[row]).strip() if named else ""
    if not name:
        name = "_".join(filter(None, (known.get(p, "") for p in ("plate", "well", "site"))))
    return Field(
        data=_Files(parts, shape, dtype),
        channel_names=names,
        name=name or file.stem,
        labels=None if labels is None else _Plane(labels),
        **known,
    )


class _Plane:
    """The only channel of `_Files` as a matrix."""

    def __init__(self, files: _Files) -> None:
        self._files = files
        self.shape = files.shape[1:]
        self.dtype = files.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return np.asarray(self._files[0][key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self._files[0], dtype)


def _existing(folder: Path, table: pd.DataFrame, row: int, files: str) -> Path:
    """The file that a cell of the table names."""
    text = str(table[files].iloc[row]).strip()
    if not text:
        raise MicrodlError(f"there is no file in the column {files}; fill it in.")
    parents = [c for c in table.columns if str(c).lower() == files.lower().replace(_FILE, _FOLDER)]
    parent = str(table[parents[0]].iloc[row]).strip() if parents and parents[0] != files else ""
    file = folder / parent / text
    if not file.is_file():
        raise MicrodlError(f"the file '{file}' does not exist; correct the column {files}.")
    return file


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in {".tif", ".tiff"}


def _read(path: Path) -> NDArray[Any]:
    try:
        if _is_tiff(path):
            return np.asarray(tifffile.imread(path))
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            return np.asarray(image)
    except Exception as error:
        raise MicrodlError(f"'{path.name}' cannot be read as an image: {error}.") from error


def _shape(path: Path) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    """Channels, height, width and type; of a TIFF file without reading its pixels."""
    if not _is_tiff(path):
        image = _read(path)
        return _first(_channels_first(image).shape), image.dtype
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            shape, dtype = tuple(int(n) for n in series.shape), series.dtype
    except Exception as error:
        raise MicrodlError(f"'{path.name}' cannot be read as an image: {error}.") from error
    if dtype is None or len(shape) not in (2, 3):
        raise MicrodlError(
            f"'{path.name}' has the shape {shape}; give images with the axes (y, x) or "
            "(channel, y, x)."
        )
    return _first(shape), np.dtype(dtype)


def _first(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Sizes with the channels first."""
    planes, height, width = shape if len(shape) == 3 else (1, *shape)
    return (width, planes, height) if _is_colour(shape) else (planes, height, width)


def _is_colour(shape: tuple[int, ...]) -> bool:
    """Whether colours lie behind each pixel, as in photographs."""
    return len(shape) == 3 and shape[2] in (3, 4) and shape[0] > 4


def _channels_first(image: NDArray[Any]) -> NDArray[Any]:
    if image.ndim not in (2, 3):
        raise MicrodlError(
            f"An image has the shape {image.shape}; give images with the axes (y, x) or "
            "(channel, y, x)."
        )
    if image.ndim == 2:
        return image[None]
    return np.moveaxis(image, 2, 0) if _is_colour(image.shape) else image


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
    """Write a table that `read_fields` and the command line take.

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
    one_file = any(len(row.files) == 1 != row.field.n_channels for row in rows)
    # With a column a channel, every field would need a file in each of them.
    names = {row.field.channel_names for row in rows if row.field.n_channels == 1}
    one_file = one_file or len(names) > 1
    columns: dict[str, list[str]] = {}
    if one_file:
        columns["path"] = [
            relative_to_folder(folder, row.files[0]).as_posix() if row.files else "" for row in rows
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
    places = [None if file is None else relative_to_folder(folder, file) for file in files]
    return {
        f"FileName_{channel}": ["" if place is None else place.name for place in places],
        f"PathName_{channel}": [
            "" if place is None or place.parent == Path() else place.parent.as_posix()
            for place in places
        ],
    }


def relative_to_folder(folder: Path, file: Path) -> Path:
    """A file relative to a folder that it lies below, so that both can move; else in full."""
    # A link to a file keeps its name.
    folder, file = folder.resolve(), file.parent.resolve() / file.name
    return file.relative_to(folder) if file.is_relative_to(folder) else file


def check_field_files(rows: Sequence[FieldFiles], path: str | Path) -> None:
    """Make sure that a table gives the same fields as those that it was written from.

    The pixels themselves are not compared.

    Raises
    ------
    MicrodlError
        If a file cannot be read, or what is read differs in names, marks, size or type.
    """
    for row, found in zip(rows, read_fields(path), strict=True):
        wanted = row.field
        for name, part in _PARTS.items():
            if getattr(found, name) != getattr(wanted, name):
                raise MicrodlError(
                    f"The {part} of '{wanted.name}' is {_shown(getattr(wanted, name))}, which a "
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
