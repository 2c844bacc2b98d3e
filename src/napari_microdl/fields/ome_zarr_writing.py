"""OME-Zarr that is written: images and labels of one resolution, and plates of them.

The metadata is checked by yaozarrs against the specification before anything is written.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.files import write_whole_folder
from napari_microdl.fields.ome_zarr import PlaneOfImage, is_zarr

# What new OME-Zarr is written as.
VERSION = "0.5"
_FORMATS: dict[str, Literal[2, 3]] = {"0.4": 2, "0.5": 3}
_MOST_CHUNK = 1024


def write_image(
    path: Path,
    pixels: NDArray[np.float32],
    of: PlaneOfImage,
    channels: Mapping[str, float],
) -> None:
    """Write a new image with the pixel size of another.

    Parameters
    ----------
    path : Path
        Its folder, which must not be there.
    pixels : ndarray, axes as `axes_of` says for ``with_channels``
        Values.
    of : PlaneOfImage
        The image that it lies on.
    channels : mapping of str to float
        Name of each channel, and the largest value of it in any image.
    """
    omero = {
        "channels": [
            {
                "label": name,
                "color": "FFFFFF",
                "active": number == 0,
                "window": {"min": 0.0, "start": 0.0, "end": largest, "max": largest},
            }
            for number, (name, largest) in enumerate(channels.items())
        ]
    }
    axes = axes_of(of, with_channels=True)
    attributes = {"multiscales": [_multiscale(path.name, of, axes, VERSION)], "omero": omero}
    _write(path, pixels, axes, attributes, "Image", VERSION)


def write_labels(
    image: Path,
    name: str,
    labels: NDArray[np.uint32],
    of: PlaneOfImage,
    properties: Sequence[dict[str, Any]],
    version: str = VERSION,
) -> None:
    """Write labels into an image, beside those that it has.

    Parameters
    ----------
    image : Path
        Folder of the image.
    name : str
        What they are called; none of that name may be there.
    labels : ndarray, axes as `axes_of` says
        0 is background.
    of : PlaneOfImage
        The image that they lie on, whose pixel size they get.
    properties : sequence of dict
        What is known of every label, with ``label-value``.
    version : str
        Of the specification, that of the image.

    Raises
    ------
    MicrodlError
        If such labels are there.
    """
    import zarr

    folder = image / "labels"
    before = list(_ome(zarr.open_group(folder, mode="r"))["labels"]) if is_zarr(folder) else []
    axes = axes_of(of, with_channels=False)
    about: dict[str, Any] = {"source": {"image": "../../"}, "version": version}
    if properties:
        about["properties"] = list(properties)
    attributes = {"multiscales": [_multiscale(name, of, axes, version)], "image-label": about}
    folder.mkdir(exist_ok=True)
    _write(folder / name, labels, axes, attributes, "LabelImage", version)
    group = zarr.open_group(folder, mode="a", zarr_format=_FORMATS[version])
    _set(group, {"labels": [*before, name]}, version)
    # Where all metadata is also kept in one place, readers look nowhere else.
    for place in (folder, image, *image.parents[:3]):
        if is_zarr(place) and zarr.open_group(place, mode="r").metadata.consolidated_metadata:
            with warnings.catch_warnings():
                # That version 3 of zarr does not know of it, which whoever wrote it has decided.
                warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
                zarr.consolidate_metadata(place, zarr_format=_FORMATS[version])


def write_plate(path: Path, name: str, images: Sequence[Path]) -> None:
    """Write what makes a plate of images that lie in it, as row/column/image.

    Parameters
    ----------
    path : Path
        Folder of the plate.
    name : str
        What it is called.
    images : sequence of Path
        Relative to it.
    """
    import zarr

    rows, columns = (sorted({image.parts[k] for image in images}, key=_order) for k in (0, 1))
    wells: dict[tuple[str, str], list[str]] = {}
    for image in images:
        row, column, place = image.parts
        wells.setdefault((row, column), []).append(place)
    plate = {
        "name": name,
        "version": VERSION,
        "rows": [{"name": row} for row in rows],
        "columns": [{"name": column} for column in columns],
        "wells": [
            {"path": f"{r}/{c}", "rowIndex": rows.index(r), "columnIndex": columns.index(c)}
            for r, c in wells
        ],
    }
    for (row, column), places in wells.items():
        well = {
            "version": VERSION,
            "images": [{"path": place} for place in sorted(places, key=_order)],
        }
        zarr.open_group(path / row, mode="a", zarr_format=_FORMATS[VERSION])
        group = zarr.open_group(path / row / column, mode="a", zarr_format=_FORMATS[VERSION])
        _set(group, {"well": well}, VERSION, "Well")
    group = zarr.open_group(path, mode="a", zarr_format=_FORMATS[VERSION])
    _set(group, {"plate": plate}, VERSION, "Plate")


def axes_of(of: PlaneOfImage, *, with_channels: bool) -> str:
    """Axes of what is written on an image: those of the image, with or without channels."""
    return "".join(a for a in "tczyx" if a in of.axes.replace("c", "") + "c" * with_channels)


def _order(name: str) -> tuple[int, str]:
    """As people count: 2 before 10, B before AA."""
    return (int(name) if name.isdigit() else len(name)), name


def _multiscale(name: str, of: PlaneOfImage, axes: str, version: str) -> dict[str, Any]:
    """Metadata of one resolution with the place and size of pixels of another image."""
    known = {
        str(axis.name): axis.model_dump(mode="json", exclude_none=True)
        for axis in of.multiscale.axes
    }
    known.setdefault("c", {"name": "c", "type": "channel"})
    multiscale: dict[str, Any] = {
        "name": name,
        "axes": [known[axis] for axis in axes],
        "datasets": [
            {
                "path": "0",
                "coordinateTransformations": _moved(of.dataset.coordinateTransformations, of, axes),
            }
        ],
    }
    if of.multiscale.coordinateTransformations:
        of_all = of.multiscale.coordinateTransformations
        multiscale["coordinateTransformations"] = _moved(of_all, of, axes)
    return multiscale if version == "0.5" else {"version": version, **multiscale}


def _moved(transformations: Sequence[Any], of: PlaneOfImage, axes: str) -> list[dict[str, Any]]:
    """Scales and translations of an image for other axes."""
    found = []
    for transformation in transformations:
        kind, nothing = transformation.type, 1.0 if transformation.type == "scale" else 0.0
        numbers = dict(zip(of.axes, getattr(transformation, kind), strict=True))
        found.append({"type": kind, kind: [float(numbers.get(a, nothing)) for a in axes]})
    return found


def _write(
    path: Path,
    pixels: NDArray[Any],
    axes: str,
    attributes: dict[str, Any],
    kind: str,
    version: str,
) -> None:
    import zarr

    chunks = tuple(
        min(size, _MOST_CHUNK) if axis in "yx" else 1
        for axis, size in zip(axes, pixels.shape, strict=True)
    )
    with write_whole_folder(path) as partial:
        group = zarr.open_group(partial, mode="w", zarr_format=_FORMATS[version])
        _set(group, attributes, version, kind)
        options: dict[str, Any] = {"dimension_names": list(axes)}
        if version == "0.4":
            options = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
        array = group.create_array(
            "0", shape=pixels.shape, dtype=pixels.dtype, chunks=chunks, fill_value=0, **options
        )
        array[...] = pixels


def _ome(group: Any) -> dict[str, Any]:
    attributes = dict(group.attrs)
    return dict(attributes.get("ome", attributes))


def _set(group: Any, attributes: dict[str, Any], version: str, kind: str = "LabelsGroup") -> None:
    """Set OME metadata of a group, checked, where its version keeps it."""
    from yaozarrs import v04, v05, validate_ome_object

    if version == "0.5":
        attributes = {"version": version, **attributes}
        validate_ome_object(attributes, getattr(v05, kind))
        group.attrs["ome"] = attributes
    else:
        validate_ome_object(attributes, getattr(v04, kind))
        group.attrs.update(attributes)
