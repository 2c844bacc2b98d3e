"""Layers that show cells which no run has used yet: of whole fields, or of the part in view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.layers import Labels
from napari.viewer import Viewer
from numpy.typing import NDArray

from napari_microdl.gui.session.layers import (
    OVER,
    TAG,
    Source,
    add_unselected,
    is_output,
    leading_shape,
    output_data,
    output_geometry,
    remove_outputs,
    tag_output,
)

KIND = "preview"
# More would slow the viewer down; a person looks at a few.
MOST_LAYERS = 24
_LINE = 2


def remove_cells(viewer: Viewer) -> None:
    """Take the layers away."""
    remove_outputs(viewer.layers, {KIND})


def show_part(
    viewer: Viewer, source: Source, labels: NDArray[Any], corner: tuple[int, int], whole: bool
) -> None:
    """Show the cells of a part of a field, in place of all that were shown.

    The corner is the row and column of its first pixel; `whole` says that it is all of the field.
    """
    name = f"preview of cells, {source.name}{'' if whole else ', part in view'}"
    geometry = output_geometry(source, corner)
    mine = [x for x in viewer.layers if is_output(x) and x.metadata[TAG]["kind"] == KIND]
    data = output_data(labels, source)
    if len(mine) == 1 and mine[0].metadata[TAG].get("part_of") == source.key:
        # Changed in place: a layer that comes and goes would flicker while a person tries settings.
        (layer,) = mine
        layer.data = data
        layer.translate = geometry["translate"]
        layer.name = name
        return
    remove_cells(viewer)
    _add(viewer, data, name, geometry, source, part_of=source.key)


def show_all(
    viewer: Viewer, labels: Sequence[NDArray[Any] | None], sources: Sequence[Source]
) -> int:
    """Show the cells of whole fields that are not the user's own, one layer an image layer.

    Returns how many image layers have their cells shown.
    """
    remove_cells(viewer)
    fields_of: dict[int, list[int]] = {}
    for number, source in enumerate(sources):
        layer = source.layer()
        if layer in viewer.layers and labels[number] is not None and not source.has_own_labels:
            fields_of.setdefault(id(layer), []).append(number)
    for numbers in list(fields_of.values())[:MOST_LAYERS]:
        first = sources[numbers[0]]
        layer = first.layer()
        assert layer is not None
        if len(numbers) == 1:
            data = output_data(np.asarray(labels[numbers[0]]), first)
            _add(viewer, data, f"cells, {first.name}", output_geometry(first), first)
            continue
        # The fields of a stack, put together as they lie in it.
        lead = leading_shape(layer)
        plane = np.asarray(labels[numbers[0]])
        along = tuple(n for n, i in zip(lead, first.index, strict=True) if i is not None)
        stack = np.zeros((*along, *plane.shape), plane.dtype)
        for number in numbers:
            stack[tuple(i for i in sources[number].index if i is not None)] = labels[number]
        for axis, i in enumerate(first.index):
            if i is None:
                stack = np.expand_dims(stack, axis)
        whole = Source(first.layer, tuple(None for _ in lead), layer.name)
        data = np.broadcast_to(stack, (*lead, *plane.shape))
        _add(viewer, data, f"cells, {layer.name}", output_geometry(whole), whole)
    return min(len(fields_of), MOST_LAYERS)


def _add(
    viewer: Viewer,
    data: NDArray[Any],
    name: str,
    geometry: dict[str, Any],
    source: Source,
    **tags: Any,
) -> None:
    layer = Labels(data, name=name, **geometry)
    tag_output(layer, kind=KIND, **{OVER: source.key[0]}, **tags)
    layer.contour = _LINE
    add_unselected(viewer, layer)
