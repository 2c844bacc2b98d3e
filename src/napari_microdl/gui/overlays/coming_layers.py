"""Layers of opened fields: where they lie beside what is there, and added a few at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from napari.layers import Layer
from napari.viewer import Viewer
from qtpy.QtCore import QObject, Signal

from napari_microdl.fields.field import Field
from napari_microdl.gui.overlays.arranging import places
from napari_microdl.gui.widgets.turns import call_off, do_in_turn, is_waiting

# Seconds for which layers are added before waiting events are handled.
_AT_A_TIME = 0.03


class ComingLayers(QObject):
    """Adds layers for a moment at a time; the window is free in between.

    Signals
    -------
    ended
        All are there.
    """

    ended = Signal()

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._coming: Iterator[Layer] = iter(())

    @property
    def is_active(self) -> bool:
        """Whether some are still to come."""
        return is_waiting(self._add_some)

    def start(self, layers: Iterator[Layer]) -> None:
        """Begin to add layers."""
        self._coming = layers
        do_in_turn(self._add_some)

    def stop(self) -> None:
        """Add no more."""
        call_off(self._add_some)
        self._coming = iter(())

    def _add_some(self) -> None:
        # Before any other that adding them asks for, which is done once all are there.
        do_in_turn(self._add_some)
        end = time.monotonic() + _AT_A_TIME
        while time.monotonic() < end:
            layer = next(self._coming, None)
            if layer is None:
                call_off(self._add_some)
                self.ended.emit()
                return
            self._viewer.add_layer(layer)


def corners_beside(
    viewer: Viewer, fields: Sequence[Field], *, in_micrometres: bool
) -> list[tuple[float, float]]:
    """Where fields lie side by side, controls on top, right of what is there already."""
    units = [(f.pixel_size or 1.0) if in_micrometres else 1.0 for f in fields]
    sizes = [(u * f.shape[0], u * f.shape[1]) for u, f in zip(units, fields, strict=True)]
    corners = places(sizes, [(f.is_control, f.condition) for f in fields])
    if len(viewer.layers) == 0:
        return corners
    top, right = viewer.layers.extent.world[[0, 1], [-2, -1]]
    gap = max(width for _, width in sizes) / 2
    return [(float(top) + y, float(right) + gap + x) for y, x in corners]
