"""Tables of image files: read as fields, whose pixels come when they are needed, and written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from napari_microdl.core.config import ImagesConfig
from napari_microdl.core.csv_text import csv_safe
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_whole
from napari_microdl.core.task import current_task
from napari_microdl.core.text import listed
from napari_microdl.fields.field import Field
from napari_microdl.fields.image_files import (
    FilePlanes,
    OnlyPlane,
    channels_shape,
    check_illumination,
)
from napari_microdl.fields.metadata import (
    PREFIX,
    column,
    describe,
    field_name,
    metadata_table,
    read_table,
)
from napari_microdl.fields.named_files import ImageFile, NamedFiles
from napari_microdl.fields.ome_zarr import is_zarr, open_image
from napari_microdl.fields.pixel_size import read_pixel_size
from napari_microdl.fields.plate_maps import join_beside, join_metadata
from napari_microdl.fields.remote import RemoteFile, file_of_url

_FILE, _FOLDER, _URL = "filename_", "pathname_", "url_"
_ILLUMINATION = "illum"
# CellProfiler's pipelines call the images before their correction so.
_ORIGINAL = "orig"
_LABELS = "labels"
_PIXEL_SIZE, _LEVEL = "pixel_size", "level"
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


def read_fields(path: str | Path, images: ImagesConfig | None = None) -> list[Field]:
    """Fields of a table with one row a field.

    Parameters
    ----------
    path : str or Path
        CSV, TSV or Parquet file. Files are named as CellProfiler does, one a channel in columns
        ``FileName_<channel>``, with their folders in ``PathName_<channel>``, or ``URL_<channel>``;
        or one a field in a column ``path``, whose channels are named in the column ``channels``,
        parted by ``;``. Folders are relative to that of the table. ``FileName_labels`` or
        ``labels`` names a file with the labels of the cells. ``FileName_Illum<channel>`` or
        ``Illum<channel>`` names the illumination function of a channel, and so does a file
        ``<plate>_Illum<channel>.npy`` beside the table. Columns ``Metadata_*`` tell field,
        condition, control, well, site and plate, and so does a ``barcode_platemap.csv`` beside the
        table; a column ``pixel_size`` micrometres a pixel, where the files do not.
    images : ImagesConfig, optional
        How images are read; the defaults where not given.

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
    fields = []
    for number, row in enumerate(table_rows(read_file_table(path), path, images)):
        try:
            if isinstance(row, WrongRow):
                raise row.error
            fields.append(open_field(row))
        except MicrodlError as error:
            raise MicrodlError(f"Row {number + 1} of '{path.name}': {error}") from error
    return fields


class NotThereError(MicrodlError):
    """A file that a table names and that is not there."""


@dataclass(frozen=True)
class WrongRow:
    """A row that makes up no field.

    Parameters
    ----------
    name : str
        What its field would be called; empty where that is not known.
    error : MicrodlError
        What is wrong with it; `NotThereError` where a file is not there.
    """

    name: str
    error: MicrodlError


def read_file_table(path: str | Path, metadata: str | Path | None = None) -> pd.DataFrame:
    """A table of image files, with what plate maps say about its wells.

    Parameters
    ----------
    path : str or Path
        Table, as `read_fields` takes it.
    metadata : str or Path, optional
        As `napari_microdl.fields.plate_maps.join_metadata` takes it; where not given, a
        ``barcode_platemap.csv`` beside the table.

    Raises
    ------
    MicrodlError
        If a table cannot be read, or wells cannot be told.
    """
    table = read_table(path)
    if metadata is not None:
        return join_metadata(table, metadata)
    return join_beside(table, Path(path).parent)


@dataclass(frozen=True)
class _Columns:
    """Which columns of a table name what."""

    channels: dict[str, str]
    image: str | None
    labels: str | None
    illumination: dict[str, str]
    # Functions that lie beside the table, by plate and channel.
    beside: dict[tuple[str, str], Path]


def table_rows(
    table: pd.DataFrame, path: str | Path, images: ImagesConfig | None = None
) -> list[NamedFiles | WrongRow]:
    """Rows of a table as `read_fields` takes it, or what is wrong with each.

    Parameters
    ----------
    table : DataFrame
        As `read_file_table` gives it.
    path : str or Path
        File that it was read from.
    images : ImagesConfig, optional
        How images are read; the defaults where not given.

    Raises
    ------
    MicrodlError
        If the table names no files.
    """
    path = Path(path)
    columns = _columns_of(table, path, images or ImagesConfig())
    found: list[NamedFiles | WrongRow] = []
    for number, record in enumerate(table.to_dict("records"), start=1):
        name = ""
        try:
            known = describe(record, number)
            name = _text(record, "field", "name") or field_name(known)
            found.append(_row(path.parent, record, columns, name, known, images))
        except MicrodlError as error:
            found.append(WrongRow(name, error))
    return found


def _columns_of(table: pd.DataFrame, path: Path, images: ImagesConfig) -> _Columns:
    by_channel, urls = _by_channel(table, _FILE), _by_channel(table, _URL)
    # Files are named as the machine knew them that wrote the table; a URL may lead there still.
    if urls and not _any_there(path.parent, table, list(by_channel.values())):
        by_channel = urls
    illumination = {
        channel: by_channel.pop(channel)
        for channel, name in list(by_channel.items())
        if channel.lower().startswith(_ILLUMINATION) and _names_arrays(table[name], ".npy")
    } or {
        str(c): str(c)
        for c in table.columns
        if str(c).lower().startswith(_ILLUMINATION) and _names_arrays(table[c], ".npy")
    }
    illumination = {name[len(_ILLUMINATION) :]: c for name, c in illumination.items()}
    # CellProfiler may name other arrays beside the images.
    arrays = [c for c, name in by_channel.items() if _names_arrays(table[name], ".npy", ".mat")]
    if arrays and len(arrays) < len(by_channel):
        for channel in arrays:
            del by_channel[channel]
        current_task().note(f"'{path.name}' names arrays and no images of {listed(arrays)}.")
    # As it names pictures that it was to save, which nobody has kept.
    pictures = [c for c, name in by_channel.items() if _names_lost_pictures(path, table, name)]
    if pictures and len(pictures) < len(by_channel):
        for channel in pictures:
            del by_channel[channel]
        current_task().note(
            f"'{path.name}' names pictures of {listed(pictures)} that do not exist; they are left "
            "out."
        )
    labels = next((c for c in by_channel if c.lower() == _LABELS), None)
    labels_column = by_channel.pop(labels) if labels is not None else column(table, _LABELS)
    image_column = None if by_channel else column(table, *_IMAGE_COLUMNS)
    if not by_channel and image_column is None:
        raise MicrodlError(
            f"'{path.name}' names no image files; add a column FileName_<channel> for every "
            "channel, or a column path."
        )
    beside = {} if illumination else _functions_beside(path.parent)
    if not images.illumination:
        illumination, beside = {}, {}
    elif illumination and not _any_there(path.parent, table, list(illumination.values())):
        current_task().note(
            f"'{path.name}' names illumination functions of {listed(list(illumination))} that do "
            "not exist: intensities are not corrected."
        )
        illumination = {}
    return _Columns(by_channel, image_column, labels_column, illumination, beside)


def _by_channel(table: pd.DataFrame, beginning: str) -> dict[str, str]:
    """Columns that begin so, by what follows."""
    return {
        str(c)[len(beginning) :]: str(c)
        for c in table.columns
        if str(c).lower().startswith(beginning)
    }


def _names_arrays(files: pd.Series, *endings: str) -> bool:
    names = files.str.strip().str.lower()
    return bool((names.str.endswith(endings) | (names == "")).all() and (names != "").any())


def _names_lost_pictures(path: Path, table: pd.DataFrame, files: str) -> bool:
    """Whether a column names PNG or JPEG files alone, none of which is there."""
    names = table[files].str.strip().str.lower()
    if not names.str.endswith((".png", ".jpg", ".jpeg")).all():
        return False
    return not files.lower().startswith(_URL) and not _any_there(path.parent, table, [files])


def _any_there(folder: Path, table: pd.DataFrame, columns: Sequence[str]) -> bool:
    """Whether any of the files that columns name is there; each is looked at once."""
    records = table.to_dict("records")
    files = {_file_of(folder, r, name) for name in columns for r in records if r[name].strip()}
    return any(file.is_file() for file in files)


def _functions_beside(folder: Path) -> dict[tuple[str, str], Path]:
    """Files <plate>_Illum<channel>.npy in a folder, by plate and channel in small letters."""
    found = {}
    for file in sorted(folder.glob("*_Illum*.npy")):
        if match := re.fullmatch(r"(?P<plate>.+)_Illum(?P<channel>.+)", file.stem):
            found[match["plate"], match["channel"].lower()] = file
    return found


def _row(
    folder: Path,
    record: Mapping[str, str],
    columns: _Columns,
    name: str,
    known: dict[str, Any],
    images: ImagesConfig | None,
) -> NamedFiles:
    if columns.image is not None:
        files: tuple[ImageFile, ...] = (_existing(folder, record, columns.image),)
        text = _text(record, "channels")
        names = tuple(n.strip() for n in text.split(";") if n.strip())
    else:
        names = tuple(columns.channels)
        files = tuple(_existing(folder, record, c) for c in columns.channels.values())
    labels = None
    if columns.labels is not None and record[columns.labels].strip():
        labels = _existing(folder, record, columns.labels)
    in_zarr = files[0].is_dir()
    return NamedFiles(
        name=name or files[0].stem,
        files=files,
        channel_names=names,
        labels=labels,
        pixel_size=_pixel_size(record),
        illumination=_illumination(folder, record, columns, names, known.get("plate", "")),
        level=_level(record, images) if in_zarr else 0,
        z=_text(record, "z") if in_zarr else "",
        time=_text(record, "time") if in_zarr else "",
        **known,
    )


def _illumination(
    folder: Path,
    record: Mapping[str, str],
    columns: _Columns,
    names: Sequence[str],
    plate: str,
) -> tuple[Path | None, ...]:
    """Illumination function of every channel; empty where there are none."""
    by_name = {name.lower(): files for name, files in columns.illumination.items()}
    found: list[Path | None] = []
    for name in (name.lower() for name in names):
        plain = name.removeprefix(_ORIGINAL)
        files = by_name.get(name) or by_name.get(plain)
        function = columns.beside.get((plate, name)) or columns.beside.get((plate, plain))
        if files is not None and record[files].strip():
            there = _existing(folder, record, files)
            function = there if isinstance(there, Path) else None
        found.append(function)
    return tuple(found) if any(found) else ()


def _text(record: Mapping[str, str], *names: str) -> str:
    named = column(record, *names)
    return "" if named is None else record[named].strip()


def _level(record: Mapping[str, str], images: ImagesConfig | None) -> int:
    text = _text(record, _LEVEL)
    if not text:
        return (images or ImagesConfig()).level
    if not text.isdigit():
        raise MicrodlError(f"there is '{text}' in the column {_LEVEL}; write a number, such as 0.")
    return int(text)


def _pixel_size(record: Mapping[str, str]) -> float | None:
    text = _text(record, _PIXEL_SIZE)
    if not text:
        return None
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise MicrodlError(
            f"there is '{text}' in the column {column(record, _PIXEL_SIZE)}; write micrometres a "
            "pixel, such as 0.65."
        )
    return size


def open_field(found: NamedFiles) -> Field:
    """Look into the files of a field, whose pixels are read when they are needed.

    Raises
    ------
    MicrodlError
        If a file cannot be read or holds something else than it stands for.
    """
    first = found.files[0]
    if first.is_dir():
        image, names, cells, pixel_size = open_image(found)
        return Field(
            data=image,
            channel_names=names,
            labels=cells,
            pixel_size=pixel_size,
            **asdict(found.info),
        )
    (planes, *size), dtype = channels_shape(first)
    names = found.channel_names
    if len(found.files) == 1 and (len(names) != 1 or planes == 1):
        names = names or tuple(f"channel {i + 1}" for i in range(planes))
        parts: list[tuple[ImageFile, int | None]] = [(first, i) for i in range(planes)]
    else:
        if planes != 1:
            raise MicrodlError(
                f"'{first.name}' holds {planes} channels but stands for one; name it in a column "
                "path, and all of its channels in a column channels."
            )
        parts = [(file, None) for file in found.files]
    labels = None
    if found.labels is not None:
        (planes, *size_of_labels), dtype_of_labels = channels_shape(found.labels)
        if planes != 1:
            raise MicrodlError(
                f"'{found.labels.name}' holds {planes} planes; labels need one plane."
            )
        shape = (1, size_of_labels[0], size_of_labels[1])
        labels = OnlyPlane(FilePlanes([(found.labels, None)], shape, dtype_of_labels))
    functions = dict(zip(names, found.illumination, strict=bool(found.illumination)))
    for name, function in functions.items():
        if function is not None:
            check_illumination(name, function, (size[0], size[1]))
    return Field(
        data=FilePlanes(parts, (len(parts), size[0], size[1]), dtype, found.illumination),
        channel_names=names,
        labels=labels,
        pixel_size=found.pixel_size or read_pixel_size(first),
        corrected=tuple(name for name, function in functions.items() if function is not None),
        **asdict(found.info),
    )


def _existing(folder: Path, record: Mapping[str, str], files: str) -> ImageFile:
    """The file that a cell of the table names; whether one elsewhere is there is not looked at."""
    text = record[files].strip()
    if not text:
        raise NotThereError(f"there is no file in the column {files}; fill it in.")
    if files.lower().startswith(_URL) or "://" in text:
        file = file_of_url(text)
    else:
        file = _file_of(folder, record, files)
    if isinstance(file, Path) and not file.is_file() and not is_zarr(file):
        raise NotThereError(f"the file '{file}' does not exist; correct the column {files}.")
    return file


def _file_of(folder: Path, record: Mapping[str, str], files: str) -> Path:
    parents = column(record, files.lower().replace(_FILE, _FOLDER))
    parent = record[parents].strip() if parents and parents != files else ""
    return folder / parent / record[files].strip()


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
    illumination : tuple of (Path or None)
        Illumination function of every channel; empty where there are none.
    """

    field: Field
    files: tuple[Path, ...] = ()
    labels: Path | None = None
    illumination: tuple[Path | None, ...] = ()


def write_field_files(rows: Sequence[FieldFiles], path: str | Path) -> None:
    """Write a table that `read_fields` and the command line take.

    Parameters
    ----------
    rows : sequence of FieldFiles
        One a field.
    path : str or Path
        CSV file; one that is there is replaced once the new one is whole. Files below its folder
        are named relative to it, others with their whole path. Where every channel has a file of
        its own they are named in ``FileName_<channel>`` and ``PathName_<channel>``, as CellProfiler
        does, else in ``path`` and ``channels``; of a field without files these stay empty.
        Illumination functions are named in ``FileName_Illum<channel>``.

    Raises
    ------
    OSError
        If the table cannot be written.
    """
    named = [
        NamedFiles(
            **asdict(row.field.info),
            files=row.files,
            channel_names=row.field.channel_names,
            labels=row.labels,
            pixel_size=row.field.pixel_size,
            illumination=row.illumination,
        )
        for row in rows
    ]
    table = csv_safe(files_table(named, Path(path).parent))
    with write_whole(Path(path)) as part:
        table.to_csv(part, index=False)


def files_table(rows: Sequence[NamedFiles], folder: Path | None) -> pd.DataFrame:
    """A table of files that `read_fields` takes, for a place in a folder.

    Parameters
    ----------
    rows : sequence of NamedFiles
        Fields; the files may be missing.
    folder : Path or None
        Where the table will lie; files below it are named relative to it, others in full.

    Returns
    -------
    DataFrame
        Columns as `write_field_files` describes them, with ``level``, ``Metadata_Z`` and
        ``Metadata_Time`` where they are known.
    """
    one_file = any(len(row.files) == 1 != len(row.channel_names) for row in rows)
    # With a column a channel, every field would need a file in each of them.
    names = {row.channel_names for row in rows if len(row.channel_names) == 1}
    one_file = one_file or len(names) > 1
    channels = dict.fromkeys(name for row in rows for name in row.channel_names)
    columns: dict[str, list[str]] = {}
    if one_file:
        first = [row.files[0] if row.files else None for row in rows]
        columns["path"] = [_place(folder, file) for file in first]
        columns["channels"] = [";".join(row.channel_names) for row in rows]
    else:
        for channel in channels:
            columns |= _two_columns(channel, [_of_channel(row, channel, row.files) for row in rows],
                                    folder)  # fmt: skip
    if any(row.labels for row in rows):
        columns |= _two_columns(_LABELS, [row.labels for row in rows], folder)
    for channel in channels:
        functions = [_of_channel(row, channel, row.illumination) for row in rows]
        if any(functions):
            columns |= _two_columns(f"Illum{channel}", functions, folder)
    table = pd.concat([pd.DataFrame(columns), metadata_table(rows)], axis=1)
    if any(row.pixel_size for row in rows):
        table[_PIXEL_SIZE] = ["" if r.pixel_size is None else f"{r.pixel_size:.6g}" for r in rows]
    if any(row.level for row in rows):
        table[_LEVEL] = [row.level for row in rows]
    for part in ("z", "time"):
        if any(values := [getattr(row, part) for row in rows]):
            table[f"{PREFIX}{part.capitalize()}"] = values
    return table


def _of_channel(
    row: NamedFiles, channel: str, files: Sequence[ImageFile | None]
) -> ImageFile | None:
    return dict(zip(row.channel_names, files, strict=bool(files))).get(channel)


def _two_columns(
    channel: str, files: Sequence[ImageFile | None], folder: Path | None
) -> dict[str, list[str]]:
    places = [PurePosixPath(_place(folder, f)) if isinstance(f, Path) else f for f in files]
    return {
        f"FileName_{channel}": [_name(place) for place in places],
        f"PathName_{channel}": [
            place.parent.as_posix() if isinstance(place, PurePosixPath) and len(place.parts) > 1
            else "" for place in places
        ],
    }  # fmt: skip


def _name(place: PurePosixPath | RemoteFile | None) -> str:
    if place is None:
        return ""
    return place.url if isinstance(place, RemoteFile) else place.name


def _place(folder: Path | None, file: ImageFile | None) -> str:
    """How a table in a folder names a file."""
    if file is None:
        return ""
    file = relative_to_folder(folder, file) if isinstance(file, Path) else file
    return file.as_posix()


def relative_to_folder(folder: Path | None, file: Path) -> Path:
    """A file relative to a folder that it lies below, so that both can move; else in full."""
    if folder is None:
        return file
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
