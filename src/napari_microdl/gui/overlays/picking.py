"""From a place in the viewer to the unit there, and back."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from napari.layers import Image
from napari.viewer import Viewer
from numpy.typing import ArrayLike, NDArray

from napari_microdl.gui.session.run import Run
from napari_microdl.gui.session.viewer_parts import camera_of, canvas_size

_MODIFIER_TO_ADD = "Shift"
# Along the shorter side of the view.
_UNITS_IN_VIEW, _FIELDS_IN_VIEW = 5, 1.05


def unit_at(run: Run, world: ArrayLike, fields: list[int]) -> int | None:
    """Row of the unit at a place in world coordinates; None where no visible image has one there.

    Fields are looked at in the order in which they are given.
    """
    for number in fields:
        source = run.sources[number]
        layer = source.layer()
        if layer is None or not layer.visible:
            continue
        place = np.asarray(layer.world_to_data(world), float)
        steps = place[: len(source.index)]
        if any(i is not None and i != round(s) for i, s in zip(source.index, steps, strict=False)):
            continue
        y, x = place[len(source.index) :][:2]
        row = _unit_of_field(run, number, y, x)
        if row is not None:
            return row
    return None


def _unit_of_field(run: Run, number: int, y: float, x: float) -> int | None:
    activations = run.result.activations
    labels = run.result.labels[number]
    if run.result.config.units.kind != "cell" or labels is None:
        return activations.unit_at(number, y, x)
    row, column = (int(np.floor(v + 0.5)) for v in (y, x))
    if not (0 <= row < labels.shape[0] and 0 <= column < labels.shape[1]):
        return None
    place = np.flatnonzero(activations.geometry[number].ids == labels[row, column])
    return int(activations.rows_of_field(number)[place[0]]) if len(place) else None


def image_of(viewer: Viewer, run: Run, field: int) -> Image | None:
    """The image of a field; None where it is not open."""
    layer = run.sources[field].layer() if run.sources else None
    return layer if layer in viewer.layers else None


def go_to(viewer: Viewer, run: Run, field: int, row: int | None = None) -> bool:
    """Select the image of a field and look at the whole of it, or at one of its units from near by.

    False where it is not open.
    """
    layer = image_of(viewer, run, field)
    if layer is None:
        return False
    activations, index = run.result.activations, run.sources[field].index
    if row is None:
        size = np.array(activations.grids[field].image_shape)
        centre, in_view, leeway = (size - 1) / 2, _FIELDS_IN_VIEW, 1
    else:
        number = np.searchsorted(activations.rows_of_field(field), row)
        box = activations.geometry[field].boxes[number]
        size = np.full(2, max(box[2] - box[0], box[3] - box[1]))
        # Who is about as near already stays there.
        centre = activations.units[["y", "x"]].iloc[row].to_numpy(float)
        in_view, leeway = _UNITS_IN_VIEW, 2
    corners = np.array(
        [
            layer.data_to_world([*(i or 0 for i in index), *centre + side * size])
            for side in (-0.5, 0.5)
        ]
    )
    offset = viewer.dims.ndim - corners.shape[1]
    for axis, position in enumerate(index):
        if position is not None:
            viewer.dims.set_point(axis + offset, corners[0, axis])
    camera = camera_of(viewer)
    camera.center = (*camera.center[:-2], *corners[:, -2:].mean(axis=0))
    extent = in_view * np.abs(np.diff(corners[:, -2:], axis=0))
    zoom = float((np.array(canvas_size(viewer)) / extent).min())
    if not zoom / leeway < camera.zoom < zoom * leeway:
        camera.zoom = zoom
    # Last, since overlays follow it: they are drawn once, for the new view.
    viewer.layers.selection.active = layer
    return True


class Picker:
    """Tells of clicks in the viewer, not of drags, as long as it is attached.

    `clicked` is a bound method, held weakly; it gets the place in world coordinates and whether to
    add.
    """

    def __init__(
        self, viewer: Viewer, clicked: Callable[[NDArray[np.float64], bool], None]
    ) -> None:
        self._viewer = weakref.ref(viewer)
        reference: Any = weakref.WeakMethod(clicked)

        def listen(viewer: Viewer, event: Any) -> Generator[None, None, None]:
            dragged = False
            yield
            while event.type == "mouse_move":
                dragged = True
                yield
            active = viewer.layers.selection.active
            painting = active is not None and str(active.mode) != "pan_zoom"
            report = reference()
            if report is not None and not dragged and not painting:
                report(np.asarray(event.position), _MODIFIER_TO_ADD in event.modifiers)

        # Kept apart from the viewer, which must not keep the dock alive.
        self._listen = listen

    def attach(self) -> None:
        """Listen; a second call does nothing."""
        viewer = self._viewer()
        if viewer is not None and self._listen not in viewer.mouse_drag_callbacks:
            viewer.mouse_drag_callbacks.append(self._listen)

    def detach(self) -> None:
        """Listen no more; a second call does nothing."""
        viewer = self._viewer()
        if viewer is not None and self._listen in viewer.mouse_drag_callbacks:
            viewer.mouse_drag_callbacks.remove(self._listen)
