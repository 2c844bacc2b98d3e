"""Tables of image files: read as fields, whose pixels come when they are needed, and written."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray
from PIL import Image

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.core.text import listed
from napari_microdl.fields.field import Field, FieldInfo
from napari_microdl.fields.metadata import (
    column,
    describe_row,
    field_name,
    metadata_table,
    read_table,
)
from napari_microdl.fields.pixel_size import read_pixel_size

_FILE, _FOLDER = "filename_", "pathname_"
_LABELS = "labels"
_PIXEL_SIZE = "pixel_size"
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
        # Several threads may ask at once.
        held = self._held
        if held is None or held[0] != path:
            self._held = held = (path, read_channels(path))
        image = held[1]
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
        site and plate; a column ``pixel_size`` micrometres a pixel, where the files do not.

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
    for number, row in enumerate(table_rows(path)):
        try:
            if isinstance(row, MicrodlError):
                raise row
            fields.append(open_field(row))
        except MicrodlError as error:
            raise MicrodlError(f"Row {number + 1} of '{path.name}': {error}") from error
    return fields


@dataclass(frozen=True, kw_only=True)
class NamedFiles(FieldInfo):
    """The files of a field, none of them opened.

    Parameters
    ----------
    name, condition, is_control, well, site, plate
        As in `FieldInfo`.
    files : tuple of Path
        One a channel, in their order, or one for all.
    channel_names : tuple of str
        Empty where nobody has named the channels of a file.
    labels : Path, optional
        File with the labels of the cells.
    pixel_size : float, optional
        Micrometres a pixel, where a table says so; else the files may.
    z, time : str
        Which plane and which time point, where the names of the files say so.
    """

    files: tuple[Path, ...]
    channel_names: tuple[str, ...] = ()
    labels: Path | None = None
    pixel_size: float | None = None
    z: str = ""
    time: str = ""


def table_rows(path: str | Path) -> list[NamedFiles | MicrodlError]:
    """Rows of a table as `read_fields` takes it, or what is wrong with each.

    Raises
    ------
    MicrodlError
        If the table cannot be read or names no files.
    """
    path = Path(path)
    table = read_table(path)
    by_channel = {
        str(c)[len(_FILE) :]: str(c) for c in table.columns if str(c).lower().startswith(_FILE)
    }
    # As CellProfiler names its files of illumination, beside those of the images.
    arrays = [c for c, name in by_channel.items() if _names_arrays(table[name])]
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
    found: list[NamedFiles | MicrodlError] = []
    for row in range(len(table)):
        try:
            found.append(_row(path.parent, table, row, by_channel, image_column, labels_column))
        except MicrodlError as error:
            found.append(error)
    return found


def _names_arrays(files: pd.Series) -> bool:
    return bool(files.str.strip().str.lower().str.endswith((".npy", ".mat")).all())


def _names_lost_pictures(path: Path, table: pd.DataFrame, files: str) -> bool:
    """Whether a column names PNG or JPEG files alone, none of which is there."""
    names = table[files].str.strip().str.lower()
    if not names.str.endswith((".png", ".jpg", ".jpeg")).all():
        return False
    return not any(_file_of(path.parent, table, row, files).is_file() for row in range(len(table)))


def _row(
    folder: Path,
    table: pd.DataFrame,
    row: int,
    by_channel: dict[str, str],
    image_column: str | None,
    labels_column: str | None,
) -> NamedFiles:
    if image_column is not None:
        files: tuple[Path, ...] = (_existing(folder, table, row, image_column),)
        listed = column(table, "channels")
        text = str(table[listed].iloc[row]) if listed else ""
        names = tuple(n.strip() for n in text.split(";") if n.strip())
    else:
        names = tuple(by_channel)
        files = tuple(_existing(folder, table, row, c) for c in by_channel.values())
    labels = None
    if labels_column is not None and str(table[labels_column].iloc[row]).strip():
        labels = _existing(folder, table, row, labels_column)
    known = describe_row(table, row)
    named = column(table, "field", "name")
    name = str(table[named].iloc[row]).strip() if named else ""
    name = name or field_name(known) or files[0].stem
    return NamedFiles(
        name=name,
        files=files,
        channel_names=names,
        labels=labels,
        pixel_size=_pixel_size(table, row),
        **known,
    )


def _pixel_size(table: pd.DataFrame, row: int) -> float | None:
    named = column(table, _PIXEL_SIZE)
    text = "" if named is None else str(table[named].iloc[row]).strip()
    if not text:
        return None
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise MicrodlError(
            f"there is '{text}' in the column {named}; write micrometres a pixel, such as 0.65."
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
    (planes, *size), dtype = channels_shape(first)
    names = found.channel_names
    if len(found.files) == 1 and (len(names) != 1 or planes == 1):
        names = names or tuple(f"channel {i + 1}" for i in range(planes))
        parts: list[tuple[Path, int | None]] = [(first, i) for i in range(planes)]
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
        labels = _Plane(_Files([(found.labels, None)], shape, dtype_of_labels))
    return Field(
        data=_Files(parts, (len(parts), size[0], size[1]), dtype),
        channel_names=names,
        labels=labels,
        pixel_size=found.pixel_size or read_pixel_size(first),
        **asdict(found.info),
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
    file = _file_of(folder, table, row, files)
    if not file.is_file():
        raise MicrodlError(f"the file '{file}' does not exist; correct the column {files}.")
    return file


def _file_of(folder: Path, table: pd.DataFrame, row: int, files: str) -> Path:
    parents = [c for c in table.columns if str(c).lower() == files.lower().replace(_FILE, _FOLDER)]
    parent = str(table[parents[0]].iloc[row]).strip() if parents and parents[0] != files else ""
    return folder / parent / str(table[files].iloc[row]).strip()


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in {".tif", ".tiff"}


def read_channels(path: Path) -> NDArray[Any]:
    """Read an image file.

    Returns
    -------
    ndarray of shape (channels, height, width)
        Axes of length one are left out.

    Raises
    ------
    MicrodlError
        If the file is no image, or holds planes that its own description calls z or time.
    """
    try:
        if _is_tiff(path):
            with tifffile.TiffFile(path) as file:
                image = file.series[0].asarray()
                axes, sizes = _axes(path, file.series[0])
                return np.asarray(image.transpose(axes).reshape(sizes))
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            # The numbers of a palette are no intensities.
            pixels = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    except MicrodlError:
        raise
    except Exception as error:
        raise MicrodlError(f"'{path.name}' cannot be read as an image: {error}.") from error
    if pixels.ndim == 3 and image.mode == "P" and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def channels_shape(path: Path) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    """Channels, height, width and type; of a TIFF file without reading its pixels."""
    if not _is_tiff(path):
        image = read_channels(path)
        return (image.shape[0], image.shape[1], image.shape[2]), image.dtype
    try:
        with tifffile.TiffFile(path) as file:
            return _axes(path, file.series[0])[1], np.dtype(file.series[0].dtype)
    except MicrodlError:
        raise
    except Exception as error:
        raise MicrodlError(f"'{path.name}' cannot be read as an image: {error}.") from error


def _axes(path: Path, series: Any) -> tuple[list[int], tuple[int, int, int]]:
    """Order of the axes of a TIFF file with the channels first, and sizes with them as one."""
    axes, shape = str(series.axes), tuple(int(n) for n in series.shape)
    # Of axes without a name, colours lie behind each pixel, as in photographs.
    if axes in {"QYX", "IYX"} and shape[2] in (3, 4) and shape[0] > 4:
        axes = "YXS"
    planes = [i for i, n in enumerate(shape) if n > 1 and axes[i] not in "YX"]
    moving = [i for i in planes if axes[i] in "ZT"]
    if moving:
        what = {"Z": "z planes", "T": "time points"}[axes[moving[0]]]
        raise MicrodlError(
            f"'{path.name}' holds {shape[moving[0]]} {what}, which are no channels; save those "
            "that are wanted as images of their own."
        )
    if len(planes) > 1 or not {"Y", "X"} <= set(axes):
        raise MicrodlError(
            f"'{path.name}' has the shape {shape}; give images with the axes (y, x) or "
            "(channel, y, x)."
        )
    order = sorted(range(len(shape)), key=lambda i: (axes[i] in "YX", axes[i] == "X"))
    height, width = (shape[i] for i in order[-2:])
    return order, (int(np.prod(shape)) // (height * width), height, width)


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
    table = files_table(
        [(row.field, row.field.channel_names, row.files, row.labels) for row in rows],
        Path(path).parent,
    )
    sizes = [row.field.pixel_size for row in rows]
    if any(sizes):
        table[_PIXEL_SIZE] = ["" if size is None else f"{size:.6g}" for size in sizes]
    table.to_csv(path, index=False)


def files_table(
    rows: Sequence[tuple[FieldInfo, Sequence[str], Sequence[Path], Path | None]],
    folder: Path | None,
) -> pd.DataFrame:
    """A table of files that `read_fields` takes, for a place in a folder.

    Parameters
    ----------
    rows : sequence of tuple
        What is known of a field, names of its channels (empty where nobody knows them), their
        files, one a channel or one for all, and the file with its labels.
    folder : Path or None
        Where the table will lie; files below it are named relative to it, others in full.

    Returns
    -------
    DataFrame
        Columns as `write_field_files` describes them.
    """
    table = metadata_table([info for info, *_ in rows])
    one_file = any(len(files) == 1 != len(channels) for _, channels, files, _ in rows)
    # With a column a channel, every field would need a file in each of them.
    names = {tuple(channels) for _, channels, *_ in rows if len(channels) == 1}
    one_file = one_file or len(names) > 1
    columns: dict[str, list[str]] = {}
    if one_file:
        columns["path"] = [
            relative_to_folder(folder, files[0]).as_posix() if files else ""
            for _, _, files, _ in rows
        ]
        columns["channels"] = [";".join(channels) for _, channels, *_ in rows]
    else:
        for channel in dict.fromkeys(name for _, channels, *_ in rows for name in channels):
            columns |= _two_columns(
                channel,
                [
                    dict(zip(channels, files, strict=bool(files))).get(channel)
                    for _, channels, files, _ in rows
                ],
                folder,
            )
    if any(labels for *_, labels in rows):
        columns |= _two_columns("labels", [labels for *_, labels in rows], folder)
    return pd.concat([pd.DataFrame(columns), table], axis=1)


def _two_columns(
    channel: str, files: Sequence[Path | None], folder: Path | None
) -> dict[str, list[str]]:
    places = [None if file is None else relative_to_folder(folder, file) for file in files]
    return {
        f"FileName_{channel}": ["" if place is None else place.name for place in places],
        f"PathName_{channel}": [
            "" if place is None or place.parent == Path() else place.parent.as_posix()
            for place in places
        ],
    }


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
