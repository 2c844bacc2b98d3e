"""OME-Zarr (NGFF 0.4 and 0.5): plates and images as fields whose pixels come when they are needed.

The metadata is read by yaozarrs, which knows what the specification allows, the pixels by zarr.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import guarding
from napari_microdl.core.task import current_task
from napari_microdl.core.text import counted, listed
from napari_microdl.fields.image_files import OnlyPlane
from napari_microdl.fields.metadata import field_name, normal_site, normal_well
from napari_microdl.fields.named_files import Kind, LeftOut, NamedFiles
from napari_microdl.fields.pixel_size import micrometres

_MARKS = ("zarr.json", ".zgroup", ".zattrs")
# Labels that a plate run has written: cells that were found, and no word on which ones to take.
CONCEPT_LABELS = "concepts"
# How much x and y may differ in a square pixel.
_SQUARE = 0.01


def is_zarr(path: Path) -> bool:
    """Whether a folder is one of zarr."""
    return any((path / mark).is_file() for mark in _MARKS)


def plate_of(image: Path) -> Path | None:
    """Folder of the plate that an image lies in, as plate/row/column/image; None without one."""
    above = list(image.parents)[2:3]
    return above[0] if above and is_zarr(above[0]) else None


class ImagePlanes:
    """One plane and time point of a zarr array, as `Field` reads it: (channel, y, x).

    Parameters
    ----------
    array : zarr.Array
        Pixels.
    axes : str
        A letter an axis, such as "tczyx".
    fixed : dict of str to int
        Position along every axis but c, y and x.
    """

    def __init__(self, array: Any, axes: str, fixed: dict[str, int]) -> None:
        sizes = dict(zip(axes, array.shape, strict=True))
        chunks = dict(zip(axes, array.chunks, strict=True))
        self._array, self._axes, self._fixed = array, axes, fixed
        self.shape = (int(sizes.get("c", 1)), int(sizes["y"]), int(sizes["x"]))
        self.chunks = (int(chunks.get("c", 1)), int(chunks["y"]), int(chunks["x"]))
        self.dtype = np.dtype(array.dtype)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        given: tuple[Any, ...] = key if isinstance(key, tuple) else (key,)
        channel, rows, columns = given + (slice(None),) * (3 - len(given))
        wanted = {"c": channel, "y": rows, "x": columns, **self._fixed}
        with guarding(f"Pixels of '{self._array.store}' cannot be read ({{reason}})."):
            pixels = np.asarray(self._array[tuple(wanted[axis] for axis in self._axes)])
        if "c" not in self._axes:
            pixels = pixels[None][channel]
        return pixels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)


@dataclass(frozen=True, eq=False)
class _Image:
    """One resolution of an image of which nothing but the metadata is read."""

    array: Any
    axes: str
    pixel_size: float | None
    channel_names: tuple[str, ...]

    def size(self, axis: str) -> int:
        return int(self.array.shape[self.axes.index(axis)]) if axis in self.axes else 1


def open_image(
    named: NamedFiles,
) -> tuple[ImagePlanes, tuple[str, ...], OnlyPlane | None, float | None]:
    """Open the image that a row names, whose pixels are read when they are needed.

    Parameters
    ----------
    named : NamedFiles
        Its first file is the folder of an image, its labels are the folder of one of those in it.

    Returns
    -------
    data : ImagePlanes of shape (channels, height, width)
    channel_names : tuple of str
        Those of the row, else of the image.
    labels : OnlyPlane of shape (height, width), or None
    pixel_size : float or None
        Micrometres, of the resolution that is asked for.

    Raises
    ------
    MicrodlError
        If there is no such image, resolution, plane or time point.
    """
    path = Path(str(named.files[0]))
    image = _read_image(path, named.level)
    data = _planes(image, path, named)
    labels = None
    if named.labels is not None:
        labels = _read_labels(Path(str(named.labels)), data.shape[1:], named)
    names = named.channel_names or image.channel_names
    return data, names, labels, named.pixel_size or image.pixel_size


def find_images(
    path: Path, *, level: int = 0, labels: str | None = None, plane: str = "middle"
) -> tuple[list[NamedFiles], list[LeftOut]]:
    """The fields of an OME-Zarr plate, image or collection of images.

    Parameters
    ----------
    path : Path
        Its folder.
    level : int, default=0
        Resolution to read, 0 for the full one.
    labels : str, optional
        Name of the labels that are cells. Where not given: the only ones, or of several those that
        are called cells.
    plane : str, default="middle"
        Of several planes along z the middle one, "all" of them, or the one of this number, counted
        from 1. Every time point is a field.

    Returns
    -------
    fields : list of NamedFiles
    left_out : list of LeftOut
        Images that the plate names but that are not there, or cannot be read.

    Raises
    ------
    MicrodlError
        If the folder holds no plate and no image, its metadata does not follow the specification,
        or a single image cannot be read.
    """
    attributes = _attributes(path)
    if "plate" in attributes:
        images = _of_plate(path, attributes)
    elif "multiscales" in attributes:
        return _fields_of(
            NamedFiles(name=_stem(path), files=(path,), level=level), labels, plane
        ), []
    elif "bioformats2raw.layout" in attributes:
        inner = sorted((p for p in path.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
        images = iter(
            (p, NamedFiles(name=f"{_stem(path)}_{p.name}", site=p.name, files=(p,))) for p in inner
        )
    else:
        raise MicrodlError(
            f"'{path.name}' holds neither a plate nor an image of OME-Zarr; choose the folder of "
            "one."
        )
    fields: list[NamedFiles] = []
    left_out: list[LeftOut] = []
    for place, named in images:
        current_task().progress(len(fields), 0, f"Looking at {named.name}")
        if not is_zarr(place):
            left_out.append(_left(place, "it is not there", "not imaged", named))
            continue
        try:
            fields += _fields_of(dataclasses.replace(named, level=level), labels, plane)
        except MicrodlError as error:
            left_out.append(_left(place, str(error), "unreadable", named))
    return fields, left_out


def _left(path: Path, reason: str, kind: Kind, named: NamedFiles) -> LeftOut:
    return LeftOut(path, reason, kind, named.name)


def _stem(path: Path) -> str:
    name = path.absolute().name
    for ending in (".zarr", ".ome"):
        name = name.removesuffix(ending)
    return name


def _of_plate(path: Path, attributes: dict[str, Any]) -> Iterator[tuple[Path, NamedFiles]]:
    """Every image that a plate names, with what is known of it."""
    plate = _validated(path, attributes, "Plate").plate
    name = plate.name or _stem(path)
    for entry in plate.wells:
        row, column = plate.rows[entry.rowIndex].name, plate.columns[entry.columnIndex].name
        well, place = normal_well(f"{row}{column}"), path / entry.path
        if not is_zarr(place):
            yield place, NamedFiles(name=well, well=well, plate=name, files=(place,))
            continue
        for image in _validated(place, _attributes(place), "Well").well.images:
            site, file = normal_site(image.path), place / image.path
            yield (
                file,
                NamedFiles(name=f"{well}_{site}", well=well, site=site, plate=name, files=(file,)),
            )


def _fields_of(named: NamedFiles, labels: str | None, plane: str) -> list[NamedFiles]:
    """A field for every time point of an image, and for every plane that is asked for."""
    path = Path(str(named.files[0]))
    image = _read_image(path, named.level)
    planes, times = image.size("z"), image.size("t")
    if plane == "all":
        wanted = list(range(1, planes + 1))
    elif plane == "middle":
        wanted = [planes // 2 + 1]
    else:
        wanted = [int(plane)] if plane.isdigit() and 1 <= int(plane) <= planes else []
    if not wanted:
        raise MicrodlError(
            f"'{path.name}' has {counted(planes, 'plane')} and none with the number {plane}; "
            "choose another."
        )
    named = dataclasses.replace(
        named,
        channel_names=image.channel_names,
        labels=_choose_labels(path, labels),
        pixel_size=image.pixel_size,
    )
    found = []
    for time in range(1, times + 1):
        for z in wanted:
            at_z, at_time = str(z) if planes > 1 else "", str(time) if times > 1 else ""
            in_name = {"field": named.name, "z": at_z if len(wanted) > 1 else "", "time": at_time}
            name = field_name(in_name)
            found.append(dataclasses.replace(named, name=name, z=at_z, time=at_time))
    return found


def _choose_labels(path: Path, wanted: str | None) -> Path | None:
    """Folder of the labels that are cells."""
    folder = path / "labels"
    if not is_zarr(folder):
        names: list[str] = []
    else:
        names = list(_validated(folder, _attributes(folder), "LabelsGroup").labels)
    if wanted is not None:
        if wanted not in names:
            there = f"there are {listed(names)}" if names else "it has none at all"
            raise MicrodlError(f"'{path.name}' has no labels '{wanted}': {there}.")
        return folder / wanted
    names = [name for name in names if name != CONCEPT_LABELS]
    called = names if len(names) == 1 else [name for name in names if "cell" in name.lower()]
    return folder / called[0] if len(called) == 1 else None


def _read_image(path: Path, level: int) -> _Image:
    attributes = _attributes(path)
    multiscale = _validated(path, attributes, "Image").multiscales[0]
    if not 0 <= level < len(multiscale.datasets):
        raise MicrodlError(
            f"'{path.name}' has {counted(len(multiscale.datasets), 'resolution')} and none with "
            f"the number {level}; the first is number 0."
        )
    array, axes = _array(path, multiscale, level)
    channels = array.shape[axes.index("c")] if "c" in axes else 1
    names = _channel_names(attributes)
    if len(names) != channels or len(set(names)) != channels or not all(names):
        names = [f"channel {number + 1}" for number in range(channels)]
    return _Image(array, axes, _pixel_size(multiscale, level), tuple(names))


def _channel_names(attributes: dict[str, Any]) -> list[str]:
    """Names of channels, which many write without the rest of what viewers want there."""
    omero = attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    found = [c for c in channels if isinstance(c, dict)] if isinstance(channels, list) else []
    return [str(channel.get("label") or "").strip() for channel in found]


def _read_labels(path: Path, shape: tuple[int, ...], named: NamedFiles) -> OnlyPlane:
    """Labels in the resolution that has the size of the image."""
    multiscale = _validated(path, _attributes(path), "Image").multiscales[0]
    sizes = []
    for level in range(len(multiscale.datasets)):
        array, axes = _array(path, multiscale, level)
        sizes.append(tuple(int(array.shape[axes.index(axis)]) for axis in "yx"))
        if sizes[-1] == shape:
            labels = _Image(array, axes, None, ())
            return OnlyPlane(_planes(labels, path, named))
    there = ", ".join(f"{y} x {x}" for y, x in sizes)
    raise MicrodlError(
        f"The labels '{path.name}' have {there} pixels, but the image {shape[0]} x {shape[1]}; "
        "choose another resolution or other labels."
    )


@dataclass(frozen=True, eq=False)
class PlaneOfImage:
    """The plane of an OME-Zarr image that a field is.

    Parameters
    ----------
    version : str
        Of the specification.
    multiscale, dataset : object
        Typed metadata of the image, and of the resolution that is read.
    axes : str
        A letter an axis.
    shape : tuple of int
        Length of each axis.
    at : dict of str to int
        Position along z and t, where there are these axes.
    """

    version: str
    multiscale: Any
    dataset: Any
    axes: str
    shape: tuple[int, ...]
    at: dict[str, int]


def plane_of_image(named: NamedFiles) -> PlaneOfImage:
    """Where a field lies in its OME-Zarr image.

    Raises
    ------
    MicrodlError
        As `open_image`.
    """
    path = Path(str(named.files[0]))
    attributes, image = _attributes(path), _read_image(path, named.level)
    multiscale = _validated(path, attributes, "Image").multiscales[0]
    return PlaneOfImage(
        str(attributes.get("version", "0.4")),
        multiscale,
        multiscale.datasets[named.level],
        image.axes,
        tuple(map(int, image.array.shape)),
        _fixed(image, path, named),
    )


def _planes(image: _Image, path: Path, named: NamedFiles) -> ImagePlanes:
    return ImagePlanes(image.array, image.axes, _fixed(image, path, named))


def _fixed(image: _Image, path: Path, named: NamedFiles) -> dict[str, int]:
    """Position along the axes but c, y and x."""
    fixed = {}
    for axis, text in (("z", named.z), ("t", named.time)):
        if axis not in image.axes:
            continue
        size = image.size(axis)
        # Labels may be flat where images are not.
        number = 1 if size == 1 else size // 2 + 1 if axis == "z" and not text else int(text or 1)
        if not 1 <= number <= size:
            raise MicrodlError(
                f"'{path.name}' has {size} positions along {axis} and none with the number "
                f"{number}; correct the row of the table."
            )
        fixed[axis] = number - 1
    return fixed


def _array(path: Path, multiscale: Any, level: int) -> tuple[Any, str]:
    """Array of a resolution, and a letter an axis."""
    zarr = _zarr()
    axes = "".join(str(axis.name) for axis in multiscale.axes)
    if not set("yx") <= set(axes) or not set(axes) <= set("tczyx") or axes[-2:] != "yx":
        raise MicrodlError(
            f"'{path.name}' has the axes {', '.join(axis.name for axis in multiscale.axes)}; "
            "images have y and x last, and before them some of t, c and z."
        )
    place = path / multiscale.datasets[level].path
    try:
        array = zarr.open_array(place, mode="r")
    except Exception as error:
        raise MicrodlError(
            f"Resolution {level} of '{path.name}' cannot be read ({type(error).__name__}: {error})."
        ) from error
    # A chain of codecs may end in one that unpickles; those of numbers need none.
    codecs = {k: v for k, v in array.metadata.to_dict().items() if k != "attributes"}
    if np.dtype(array.dtype).kind not in "biuf" or "pickle" in repr(codecs):
        raise MicrodlError(f"Resolution {level} of '{path.name}' holds no plain numbers.")
    if len(array.shape) != len(axes):
        raise MicrodlError(
            f"Resolution {level} of '{path.name}' has {len(array.shape)} axes, its metadata names "
            f"{len(axes)}."
        )
    return array, axes


def _pixel_size(multiscale: Any, level: int) -> float | None:
    """Micrometres a pixel; None where no unit is given, or pixels are not square."""
    scale = np.ones(len(multiscale.axes))
    of_all = multiscale.coordinateTransformations or []
    for transformation in (*multiscale.datasets[level].coordinateTransformations, *of_all):
        if transformation.type == "scale":
            scale = scale * transformation.scale
    sizes = [
        micrometres(float(size), str(getattr(axis.unit, "value", axis.unit)))
        for axis, size in zip(multiscale.axes[-2:], scale[-2:], strict=True)
    ]
    y, x = sizes
    if y is None or x is None or abs(y - x) > _SQUARE * x:
        return None
    return x


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise _missing(error) from error
    return zarr


def _missing(error: ImportError) -> MicrodlError:
    return MicrodlError(
        f"OME-Zarr needs packages that are not installed ({error}); install them with "
        "pip install 'napari-microdl[plate]'."
    )


def _attributes(path: Path) -> dict[str, Any]:
    """OME metadata of a group, without the place where a version keeps it."""
    try:
        attributes = dict(_zarr().open_group(path, mode="r").attrs)
    except MicrodlError:
        raise
    except Exception as error:
        raise MicrodlError(
            f"'{path.name}' cannot be read as zarr ({type(error).__name__}: {error})."
        ) from error
    inner = attributes.get("ome")
    # A version that is missing there is none that is known.
    return {"version": "without a version", **inner} if isinstance(inner, dict) else attributes


def _validated(path: Path, attributes: dict[str, Any], kind: str) -> Any:
    """Metadata as a typed object, by the specification of its version."""
    try:
        from yaozarrs import v04, v05, validate_ome_object
    except ImportError as error:
        raise _missing(error) from error
    from pydantic import ValidationError

    # Version 0.5 stands beside the metadata, earlier ones inside of its parts.
    version = attributes.get("version", "0.4")
    models = {"0.4": v04, "0.5": v05}.get(version)
    if models is None:
        raise MicrodlError(
            f"'{path.name}' is OME-Zarr {version}; versions 0.4 and 0.5 are read, so convert it."
        )
    # What viewers want to know of channels is often not whole, and is no reason to refuse pixels.
    known = {name: value for name, value in attributes.items() if name != "omero"}
    try:
        return validate_ome_object(known, getattr(models, kind))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or kind
        raise MicrodlError(
            f"The metadata of '{path.name}' is not as OME-Zarr {version} has it: {place}: "
            f"{first['msg']}."
        ) from error
