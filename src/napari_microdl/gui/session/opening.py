"""Fields of image files to layers: read in the background, then added a few at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from napari.layers import Image, Labels, Layer
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field
from napari_microdl.fields.image_files import channels_shape
from napari_microdl.fields.named_files import NamedFiles
from napari_microdl.fields.tables import open_field
from napari_microdl.gui.session.layers import FIELD_TAG, Arrangement

# Beyond, images are read when they are looked at.
_MOST_BYTES = 2**30
# More layers than this are slow and in the way; then every field is one layer, a stack.
MOST_LAYERS = 48
# What the axis of the channels of a stack is scaled by.
_CHANNEL: dict[str, Any] = {"scale": 1, "units": "pixel"}
# No red, green or blue, from which channels would be guessed.
_COLOURS = ("cyan", "magenta", "yellow", "gray")


@dataclass(frozen=True, eq=False)
class OpenedField:
    """A field whose files have been read once.

    Parameters
    ----------
    named : NamedFiles
        Its files.
    field : Field
        What is known of it; its pixels are held in memory, or read lazily where these are many.
    limits : ndarray of shape (channels, 2)
        Between what each channel is shown.
    """

    named: NamedFiles
    field: Field
    limits: NDArray[np.float64]


def read_all(
    found: Sequence[NamedFiles], most_bytes: int = _MOST_BYTES
) -> tuple[list[OpenedField], list[str]]:
    """Read fields in the background; a file that cannot be used is named and left out.

    Returns
    -------
    opened : list of OpenedField
    problems : list of str
        A sentence for every field that is not among them, or has no labels, because of a file.
    """
    opened: list[OpenedField] = []
    problems: list[str] = []
    n_bytes = 0
    for number, named in enumerate(found):
        current_task().progress(number, len(found), "Reading images")
        # Of fields beyond, not even the brightness is measured: theirs is that of the first.
        first = opened[0] if opened and n_bytes > most_bytes else None
        try:
            one = _read(named, first)
        except MicrodlError as error:
            try:
                # Where the labels are to blame, the field is good without them.
                one = _read(dataclasses.replace(named, labels=None), first)
                problems.append(f"Without its labels '{named.name}': {error}")
            except MicrodlError:
                problems.append(f"Skipped '{named.name}': {error}")
                continue
        n_bytes += getattr(one.field.data, "nbytes", 0)
        opened.append(one)
    return opened, problems


def _read(named: NamedFiles, first: OpenedField | None) -> OpenedField:
    """A field in memory; lazily, and as bright as another, where that is given."""
    field = open_field(named)
    labels = field.read_labels()
    if first is not None and first.field.channel_names == field.channel_names:
        for file in named.files:
            channels_shape(file)
        field = dataclasses.replace(field, data=_lazy(named, field), labels=labels)
        return OpenedField(named, field, first.limits)
    pixels: NDArray[Any] = field.read()
    # Some of the pixels tell as much.
    limits: NDArray[Any] = np.percentile(pixels[:, ::3, ::3], [0.5, 99.8], axis=(1, 2)).T
    return OpenedField(named, dataclasses.replace(field, data=pixels, labels=labels), limits)


def _lazy(named: NamedFiles, field: Field) -> Any:
    """The pixels as a dask array, named by the files as they are now."""
    files = [
        (str(file), file.stat().st_mtime_ns if isinstance(file, Path) else 0)
        for file in (*named.files, *filter(None, named.illumination))
    ]
    return da.from_array(
        field.data,
        chunks=(1, *field.shape),
        name=f"microdl-{tokenize(files)}",
        meta=np.empty((0, 0, 0), field.data.dtype),
    )


def arrangement_of(opened: Sequence[OpenedField]) -> Arrangement:
    """Whether every channel becomes a layer of its own, or every field one layer."""
    n_channels = {field.field.n_channels for field in opened}
    n_layers = sum(field.field.n_channels for field in opened)
    return "channels" if max(n_channels, default=1) > 1 and n_layers <= MOST_LAYERS else "fields"


def can_be_in_micrometres(opened: Sequence[OpenedField], beside: Iterable[Layer]) -> bool:
    """Whether the pixel sizes of all fields are known, and those of the layers beside them."""
    known = all(one.field.pixel_size is not None for one in opened)
    return known and all(str(layer.units[-1]) == "micrometer" for layer in beside)


def layers_of(
    opened: Sequence[OpenedField],
    corners: Sequence[tuple[float, float]],
    arrangement: Arrangement,
    *,
    in_micrometres: bool,
) -> Generator[Layer, None, None]:
    """Layers of the fields, made one by one; each channel is as bright in all fields.

    The corners are where the first pixels of the fields lie, in micrometres or in pixels.
    """
    ranges: dict[str, NDArray[np.float64]] = {}
    for one in opened:
        for channel, limits in zip(one.field.channel_names, one.limits, strict=True):
            known = ranges.get(channel, limits)
            ranges[channel] = np.array([min(known[0], limits[0]), max(known[1], limits[1])])
    colours = dict(zip(ranges, _COLOURS * (1 + len(ranges) // len(_COLOURS)), strict=False))
    for one, corner in zip(opened, corners, strict=True):
        field = one.field
        known = {"channel_names": field.channel_names, **asdict(field.info)}
        files = [str(file) for file in one.named.files]
        scaled = {"scale": (field.pixel_size,) * 2, "units": ("um", "um")} if in_micrometres else {}
        one_each = len(files) == field.n_channels
        functions = [None if f is None else str(f) for f in one.named.illumination]
        if arrangement == "channels":
            for number, channel in enumerate(field.channel_names):
                yield Image(
                    field.data[number],
                    name=f"{field.name} {channel}",
                    colormap=colours[channel],
                    blending="additive",
                    translate=corner,
                    **scaled,
                    contrast_limits=_range(ranges[channel]),
                    metadata={
                        FIELD_TAG: {
                            **known,
                            "channel": channel,
                            # A part of a file could not be read in its place.
                            "file": files[number] if one_each else None,
                            "illumination": functions[number : number + 1],
                        }
                    },
                )
        else:
            stack = field.n_channels > 1
            yield Image(
                field.data if stack else field.data[0],
                name=field.name,
                contrast_limits=_range(np.mean([ranges[c] for c in field.channel_names], axis=0)),
                translate=(0, *corner) if stack else corner,
                **({k: (_CHANNEL[k], *v) for k, v in scaled.items()} if stack else scaled),
                axis_labels=("c", "y", "x") if stack else ("y", "x"),
                metadata={
                    FIELD_TAG: {
                        **known,
                        "file": files[0] if len(files) == 1 else None,
                        "illumination": functions,
                    }
                },
            )
        if field.labels is not None:
            labels = np.asarray(field.labels)
            kind = np.min_scalar_type(int(labels.max(initial=0)))
            cells = Labels(
                labels.astype(kind),
                name=f"{field.name} cells",
                translate=corner,
                **scaled,
                metadata={FIELD_TAG: {"file": str(one.named.labels)}},
            )
            # Filled, they would hide the image.
            cells.contour = 2
            yield cells


def _range(limits: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(limits[0]), float(limits[1])
    return low, high if high > low else low + 1
