"""One contrast for all fields of a run, so that what looks brighter is brighter."""

from __future__ import annotations

import weakref
from typing import Any

from napari.layers import Image
from napari.viewer import Viewer

from napari_microdl.gui.session.layers import ImageRow
from napari_microdl.gui.session.session import Session


class OneContrast:
    """Shows every channel of all fields in use in the contrast of its controls.

    A change of one field by hand changes all of them; switched off, each has its own again.
    """

    def __init__(self, viewer: Viewer, session: Session) -> None:
        self._viewer = weakref.ref(viewer)
        self._session = session
        self.is_on = False
        # Contrast limits as they were, and the channel of each layer.
        self._before: weakref.WeakKeyDictionary[Image, tuple[float, float]] = (
            weakref.WeakKeyDictionary()
        )
        self._channels: weakref.WeakKeyDictionary[Image, str] = weakref.WeakKeyDictionary()
        self._busy = False
        session.images.changed.connect(self._on_images)

    def switch(self, on: bool) -> None:
        """Show all in one contrast, or each in its own."""
        self.is_on = on
        if on:
            self._on_images()
            return
        self._busy = True
        for layer, limits in self._before.items():
            layer.events.contrast_limits.disconnect(self._on_limits)
            layer.contrast_limits = limits
        self._busy = False
        self._before.clear()
        self._channels.clear()

    def _on_images(self) -> None:
        """Take in images that have come since."""
        viewer = self._viewer()
        if not self.is_on or viewer is None:
            return
        joined = self._session.images.layout.arrangement == "channels"
        of_channel: dict[str, dict[Image, list[ImageRow]]] = {}
        for row in self._session.images.used_rows():
            layer = row.layer()
            if layer is not None and not layer.rgb:
                rows = of_channel.setdefault(row.channel if joined else "", {})
                rows.setdefault(layer, []).append(row)
        for channel, layers in of_channel.items():
            new = [layer for layer in layers if layer not in self._before]
            if not new:
                continue
            known = [layer for layer in layers if layer in self._before]
            controls = [x for x, rows in layers.items() if any(row.is_control for row in rows)]
            guides = known[:1] or controls or list(layers)
            low = min(float(x.contrast_limits[0]) for x in guides)
            high = max(float(x.contrast_limits[1]) for x in guides)
            for layer in new:
                self._before[layer] = tuple(layer.contrast_limits)
                self._channels[layer] = channel
                layer.events.contrast_limits.connect(self._on_limits)
            self._set(channel, (low, high))

    def _on_limits(self, event: Any) -> None:
        if not self._busy:
            self._set(self._channels[event.source], tuple(event.source.contrast_limits))

    def _set(self, channel: str, limits: tuple[float, float]) -> None:
        self._busy = True
        for layer, of in self._channels.items():
            if of == channel and tuple(layer.contrast_limits) != limits:
                low, high = layer.contrast_limits_range
                layer.contrast_limits_range = min(low, limits[0]), max(high, limits[1])
                layer.contrast_limits = limits
        self._busy = False
