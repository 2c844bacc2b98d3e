"""Layers to fields and back: how open images make up fields, and where outputs lie in the world."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.transforms import Affine
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field, FieldInfo
from napari_microdl.fields.pixel_size import micrometres

# Outputs carry this key, so that they are recognised whatever a user calls them.
TAG = "napari_microdl"
# In what the key holds: the id of the image that an output of no run lies over.
OVER = "over"
# Sample data and readers leave what they know about a field under this key.
FIELD_TAG = "napari_microdl_field"

# How far a colour may be from red, green or blue and still be called so, of 1.
_PURE = 0.35

Arrangement = Literal["fields", "channels"]
# Position along every leading axis; None is the channel axis.
Index = tuple[int | None, ...]


@dataclass(frozen=True)
class Layout:
    """How open images make up fields; the user's choice, never guessed.

    Parameters
    ----------
    arrangement : {"fields", "channels"}
        Whether each image is a field, or images are the channels of fields.
    channel_axis : int, "none" or "ask"
        Which leading axis of a stack holds channels; the others hold fields. "ask" until the user,
        or an axis label, has said so.
    split_rgb : bool
        Use red, green and blue of RGB images as three channels instead of refusing them.
    """

    arrangement: Arrangement = "fields"
    channel_axis: int | Literal["none", "ask"] = "ask"
    split_rgb: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageRow(FieldInfo):
    """One row of the table of images: a plane of an image layer, and what is known about it.

    Parameters
    ----------
    layer : weak reference to Image
        The layer.
    index : tuple
        Position along the layer's leading axes, None for the channel axis.
    name, condition, is_control, well, site, plate
        As in `FieldInfo`; the name is that of the field where each image is a field.
    use : bool
        Whether it takes part.
    group, channel : str
        Field and channel where images are channels.
    labels : weak reference to Labels, optional
        The user's cells.
    """

    layer: weakref.ref[Image]
    index: Index
    use: bool = True
    group: str = "field 1"
    channel: str = ""
    labels: weakref.ref[Labels] | None = None

    @property
    def key(self) -> tuple[str, Index]:
        """What identifies the row while its layer is open."""
        layer = self.layer()
        return ("" if layer is None else str(layer.unique_id), self.index)

    def labels_layer(self) -> Labels | None:
        """The chosen Labels layer, if it is still there."""
        return None if self.labels is None else self.labels()


@dataclass(frozen=True, eq=False)
class Source:
    """Where a field came from, to lay outputs over it.

    Parameters
    ----------
    layer : weak reference to Image
        The (first) layer of the field.
    index : tuple
        Position along its leading axes.
    name : str
        Name of the field.
    has_own_labels : bool
        Whether its cells are the user's.
    """

    layer: weakref.ref[Image]
    index: Index
    name: str
    has_own_labels: bool = False

    @property
    def key(self) -> tuple[str, Index]:
        """What identifies the place while its layer is open."""
        layer = self.layer()
        return ("" if layer is None else str(layer.unique_id), self.index)


def closed_layer() -> weakref.ref[Image]:
    """Reference to an image that is not open."""
    reference: Any = weakref.ref(type("Closed", (), {})())
    return reference


@dataclass
class Channel:
    """A channel that fields offer, and whether the model sees it."""

    name: str
    use: bool = field(default=True)


def is_output(layer: Layer) -> bool:
    """Whether this plugin made the layer and nobody has taken it over.

    A duplicate carries the tag of its original but another id; cells that a person has painted on
    carry no tag any more. Both are the person's, and are never removed.
    """
    return layer.metadata.get(TAG, {}).get("layer") == str(layer.unique_id)


def is_input(layer: Layer) -> bool:
    """Whether a run may read the layer: no output, and no image that was duplicated from one."""
    return not (is_output(layer) or (TAG in layer.metadata and not isinstance(layer, Labels)))


def tag_output(layer: Layer, **facts: Any) -> None:
    """Mark a layer as this plugin's, or anew, with its "kind" and what else it shows."""
    if isinstance(layer, Labels) and not is_output(layer):
        layer.events.paint.connect(_leave_to_the_user)
    layer.metadata[TAG] = {**facts, "layer": str(layer.unique_id)}


def _leave_to_the_user(event: Any) -> None:
    """Work of a person's hands is not ours to remove."""
    event.source.metadata.pop(TAG, None)


def add_unselected(viewer: Any, layer: Layer) -> None:
    """Add a layer, which would select itself, while the user goes on looking at another."""
    selected, active = set(viewer.layers.selection), viewer.layers.selection.active
    # napari makes all its controls anew for what is selected; a third of the time goes there.
    with viewer.layers.selection.events.blocker_all():
        viewer.add_layer(layer)
        viewer.layers.selection = selected
        if active is not None:
            viewer.layers.selection.active = active
            viewer.layers.selection = selected


def remove_outputs(layers: Any, kinds: Iterable[str] | None = None) -> None:
    """Remove this plugin's layers of some kinds, or of all, by their tag."""
    wanted = None if kinds is None else set(kinds)
    for layer in [item for item in layers if is_output(item)]:
        if wanted is None or layer.metadata[TAG]["kind"] in wanted:
            layers.remove(layer)


def file_of(layer: Layer | None) -> Path | None:
    """File that a whole layer was opened from, by napari or by us; None where none is known."""
    if layer is None:
        return None
    place = layer.source.path or layer.metadata.get(FIELD_TAG, {}).get("file")
    return None if place is None else Path(str(place))


def illumination_of(rows: Sequence[ImageRow]) -> tuple[Path | None, ...]:
    """Function by which each channel of a field was divided when its layers were opened."""
    found: list[Path | None] = []
    for row in rows:
        layer = row.layer()
        tag = {} if layer is None else layer.metadata.get(FIELD_TAG, {})
        found += [None if file is None else Path(file) for file in tag.get("illumination", ())]
    return tuple(found) if any(found) else ()


def _data(layer: Layer) -> Any:
    return layer.data[0] if layer.multiscale else layer.data


def leading_shape(layer: Layer) -> tuple[int, ...]:
    """Lengths of the axes before (y, x)."""
    return tuple(int(n) for n in _data(layer).shape[: layer.ndim - 2])


def is_lazy(layer: Layer) -> bool:
    """Whether its pixels are read when they are asked for, as of a file or a dask array."""
    return not isinstance(_data(layer), np.ndarray)


def plane_shape(layer: Layer) -> tuple[int, int]:
    """Height and width in pixels."""
    height, width = _data(layer).shape[layer.ndim - 2 : layer.ndim]
    return int(height), int(width)


def pixel_size(layer: Layer | None) -> float | None:
    """Micrometres a pixel, where the layer is still open and its units are a length."""
    if layer is None:
        return None
    return micrometres(float(layer.scale[-1]), str(layer.units[-1]))


def labelled_channel_axis(layer: Layer) -> int | Literal["none"] | None:
    """Leading axis that the layer itself labels as channels, or that all are something else."""
    names = [str(label).lower() for label in layer.axis_labels[: layer.ndim - 2]]
    for axis, name in enumerate(names):
        if name in {"c", "ch", "channel", "channels"}:
            return axis
    moving = {"z", "t", "time", "plane", "frame", "position", "site"}
    known = [name in moving for name, n in zip(names, leading_shape(layer), strict=True) if n > 1]
    return "none" if known and all(known) else None


def asks_for_axis(layer: Layer, layout: Layout) -> bool:
    """Whether nobody has said yet which axis of a stack holds channels; of length one none does."""
    return layout.channel_axis == "ask" and any(n > 1 for n in leading_shape(layer))


def indices(layer: Image, layout: Layout) -> list[Index]:
    """Positions of the fields that a layer holds along its leading axes.

    There is one a field, and ``[()]`` for a plain two-dimensional image. While the channel axis is
    "ask", the layer counts as one field.
    """
    shape = leading_shape(layer)
    if asks_for_axis(layer, layout):
        return [(None,) * len(shape)]
    lengths = [1 if axis == layout.channel_axis else n for axis, n in enumerate(shape)]
    return [
        tuple(None if axis == layout.channel_axis else i for axis, i in enumerate(position))
        for position in np.ndindex(*lengths)
    ]


def rows_of(layer: Image, layout: Layout, name: str = "") -> list[ImageRow]:
    """Rows of the table for one layer, filled from what its metadata says.

    The name is that of the layer where not given.
    """
    name = name or layer.name
    known = layer.metadata.get(FIELD_TAG, {})
    rows = []
    for index in indices(layer, layout):
        lengths = leading_shape(layer)
        places = [str(i) for i, n in zip(index, lengths, strict=True) if i is not None and n > 1]
        suffix = f" [{', '.join(places)}]" if places else ""
        rows.append(
            ImageRow(
                layer=weakref.ref(layer),
                index=index,
                name=str(known.get("name", name)) + suffix,
                # Layers that are channels say of which field.
                group=str(known["name"]) if "channel" in known else "field 1",
                channel=str(known.get("channel", name)),
                condition=str(known.get("condition", "")),
                is_control=bool(known.get("is_control", False)),
                well=str(known.get("well", "")),
                site=str(known.get("site", "")),
                plate=str(known.get("plate", "")),
            )
        )
    return rows


def channel_names(row: ImageRow) -> tuple[str, ...]:
    """Names of the channels of one row, as its layer knows them."""
    layer = row.layer()
    if layer is None:
        return ()
    if layer.rgb:
        return ("red", "green", "blue")
    shape = leading_shape(layer)
    count = shape[row.index.index(None)] if None in row.index else 1
    known = _known_channels(layer)
    return known if len(known) == count else tuple(f"channel {i + 1}" for i in range(count))


def _known_channels(layer: Layer) -> tuple[str, ...]:
    """Channel names in the metadata, where a reader or the sample left any."""
    return tuple(str(n) for n in layer.metadata.get(FIELD_TAG, {}).get("channel_names", ()))


def shown_colour(layer: Image) -> str:
    """Colour that the map of a layer runs to: "red", "green", "blue", or empty for any other."""
    brightest = np.asarray(layer.colormap.colors)[-1, :3]
    for name, colour in (("red", (1, 0, 0)), ("green", (0, 1, 0)), ("blue", (0, 0, 1))):
        # Blue is often drawn a little lighter, so that it can be seen on black.
        if np.abs(brightest - colour).max() <= _PURE:
            return name
    return ""


def _lazy(data: Any) -> Any:
    """NumPy and dask arrays as they are, everything else (zarr, xarray) as dask."""
    if isinstance(data, np.ndarray | da.Array):
        return data
    return da.from_array(data)


def read_plane(layer: Image, index: Index) -> Any:
    """Channels of one field, (channels, height, width), not yet read where the data are lazy."""
    plane = _lazy(_data(layer))[tuple(slice(None) if i is None else i for i in index)]
    if layer.rgb:
        return plane[..., :3].transpose((2, 0, 1))
    return plane if None in index else plane[None]


def read_labels(labels: Labels, row: ImageRow) -> Any:
    """Labels of one row's plane, (height, width), not yet read where the data are lazy.

    They are two-dimensional, or have the same leading field axes as the image, but for axes of
    length one; `MicrodlError` where they do not fit.
    """
    data = _lazy(_data(labels))
    position = tuple(i for i in row.index if i is not None)
    while 2 < data.ndim != len(position) + 2 and data.shape[0] == 1:
        data = data[0]
    if data.ndim == 2:
        return data
    if data.ndim == len(position) + 2 and all(
        i < n for i, n in zip(position, data.shape, strict=False)
    ):
        return data[position]
    raise MicrodlError(
        f"The labels '{labels.name}' have the shape {data.shape}, which does not fit the image of "
        f"'{row.name}'; choose the labels that belong to this image."
    )


def _stack(planes: Sequence[Any]) -> Any:
    if any(isinstance(plane, da.Array) for plane in planes):
        return da.stack(planes)
    return np.stack(planes)


def build_fields(
    rows: Sequence[ImageRow], layout: Layout, names: Sequence[str], *, with_labels: bool
) -> tuple[list[Field], list[Source]]:
    """Fields of the rows in use, and where each came from.

    Parameters
    ----------
    rows : sequence of ImageRow
        Rows in use.
    layout : Layout
        How images make up fields.
    names : sequence of str
        What the channels of the first row are called now. Rows whose channels have the same names
        as the first, or as many and no names, follow; others keep theirs.
    with_labels : bool
        Whether the rows' Labels layers are the cells.

    Returns
    -------
    fields : list of Field
    sources : list of Source
        In the same order.

    Raises
    ------
    MicrodlError
        If images do not fit together.
    """
    groups: dict[Any, list[ImageRow]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(row.group if layout.arrangement == "channels" else position, []).append(
            row
        )
    native = channel_names(rows[0]) if rows else ()
    fields, sources = [], []
    for group in groups.values():
        first = group[0]
        layer = first.layer()
        if layer is None:
            raise MicrodlError(
                f"The image of '{first.name}' was closed; open it again or untick it."
            )
        if layout.arrangement == "channels":
            name, channels, data = _joined(group)
        else:
            name = first.name
            own = channel_names(first)
            # Channels that nobody has named are those of the first row, by position.
            unnamed = len(own) == len(native) and not _known_channels(layer)
            channels = tuple(names) if own == native or unnamed else own
            data = read_plane(layer, first.index)
        # Of some channels of an image nobody knows which function is whose.
        functions = illumination_of(group)
        divided = zip(channels, functions, strict=False) if len(functions) == len(channels) else ()
        labels = None
        labels_layer = first.labels_layer() if with_labels else None
        if labels_layer is not None:
            labels = read_labels(labels_layer, first)
            # Lazy labels are looked at when the run reads them.
            if isinstance(labels, np.ndarray) and not (labels > 0).any():
                raise MicrodlError(
                    f"The labels '{labels_layer.name}' of '{name}' are empty: no pixel is above 0; "
                    "draw or segment cells first."
                )
        fields.append(
            Field(
                data=data,
                channel_names=channels,
                labels=labels,
                pixel_size=pixel_size(layer),
                corrected=tuple(channel for channel, function in divided if function is not None),
                **{**asdict(first.info), "name": name},
            )
        )
        sources.append(Source(first.layer, first.index, name, labels is not None))
    twice = {f.name for i, f in enumerate(fields) if f.name in {g.name for g in fields[:i]}}
    if twice:
        raise MicrodlError(
            f"Two fields are called '{min(twice)}'; give every field a name of its own."
        )
    return fields, sources


def _joined(group: Sequence[ImageRow]) -> tuple[str, tuple[str, ...], Any]:
    """Name, channel names and data of a field whose channels are layers."""
    name = group[0].group
    planes = []
    for row in group:
        layer = row.layer()
        if layer is None:
            raise MicrodlError(f"The image '{row.channel}' was closed; open it again or untick it.")
        plane = read_plane(layer, row.index)
        if plane.shape[0] != 1:
            raise MicrodlError(
                f"'{layer.name}' has {plane.shape[0]} channels of its own, so it cannot be one "
                f"channel of '{name}'; choose 'each image is a field'."
            )
        planes.append(plane[0])
    shapes = {plane.shape for plane in planes}
    if len(shapes) > 1:
        raise MicrodlError(
            f"The channels of '{name}' differ in shape ({', '.join(map(str, sorted(shapes)))}); "
            "give images of different size different field names."
        )
    return name, tuple(row.channel for row in group), _stack(planes)


def output_data(plane: NDArray[Any], source: Source) -> NDArray[Any]:
    """A plane of results in the dimensions of its source.

    It is two-dimensional for a two-dimensional source; for a stack, of length 1 along the axes of
    fields and repeated (without copying) along the channel axis.
    """
    layer = source.layer()
    if layer is None or not source.index:
        return plane
    lead = tuple(
        n if i is None else 1 for n, i in zip(leading_shape(layer), source.index, strict=True)
    )
    return np.broadcast_to(plane, lead + plane.shape)


def output_geometry(
    source: Source, corner: tuple[float, float] = (0, 0), step: float = 1
) -> dict[str, Any]:
    """Where an output lies: the transforms, units and axis labels of its source.

    Parameters
    ----------
    source : Source
        Where the field came from; its layer must still be open.
    corner : tuple of float, default=(0, 0)
        Row and column of the first pixel of an output that covers a part of the field.
    step : float, default=1
        Edge in pixels of the square of the image that one pixel of the output stands for.

    Returns
    -------
    dict
        Keyword arguments for a new layer.
    """
    layer = source.layer()
    if layer is None:
        raise MicrodlError(f"The image of '{source.name}' was closed.")
    # A layer is placed by the centre of its first pixel.
    centre = (step - 1) / 2
    first = (corner[0] + centre, corner[1] + centre)
    offset = np.array([*(i or 0 for i in source.index), *first], float)
    steps = np.array([*(1 for _ in source.index), step, step])
    placing = Affine(scale=layer.scale, rotate=layer.rotate, shear=layer.shear, ndim=layer.ndim)
    return {
        "scale": layer.scale * steps,
        "translate": layer.translate + placing.linear_matrix @ offset,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine.affine_matrix,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


def shift(layer: Layer, by: NDArray[Any]) -> None:
    """Move a layer in the viewer, by the last of its transforms."""
    affine = layer.affine.affine_matrix.copy()
    affine[-3:-1, -1] += by
    layer.affine = affine


def lay_on(labels: Labels, image: Image) -> None:
    """Move labels so that their pixels lie on those of an image."""
    labels.scale = (*labels.scale[:-2], *image.scale[-2:])
    here, there = (np.array(x.data_to_world((0,) * x.ndim)[-2:]) for x in (labels, image))
    shift(labels, there - here)


def move_to(layer: Layer, geometry: dict[str, Any]) -> None:
    """Lay a layer where `output_geometry` says; what is so already is not set again."""
    for name, value in geometry.items():
        now = getattr(layer, name)
        now = now.affine_matrix if name == "affine" else now
        if np.shape(now) != np.shape(value) or not np.all(np.asarray(now) == np.asarray(value)):
            setattr(layer, name, value)
