"""Which part of a field is in view on the canvas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from napari.viewer import Viewer

from napari_microdl.gui.session.layers import Source, plane_shape


@dataclass(frozen=True)
class Region:
    """A rectangle of pixels: first row and column, last row + 1, last column + 1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Pixels inside."""
        return max(self.bottom - self.top, 0) * max(self.right - self.left, 0)

    def grown(self, margin: int, shape: tuple[int, int]) -> Region:
        """With a margin on every side, as far as the image goes."""
        return Region(
            max(self.top - margin, 0),
            max(self.left - margin, 0),
            min(self.bottom + margin, shape[0]),
            min(self.right + margin, shape[1]),
        )

    def within(self, outer: Region) -> tuple[slice, slice]:
        """Where it lies in an array that covers a larger region."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )


def visible_region(source: Source) -> Region:
    """Part of a field that the canvas showed when it was last drawn.

    Without area where nothing of it is in view; the whole field where that is not known, as in
    three dimensions or before the canvas was drawn.
    """
    layer = source.layer()
    if layer is None:
        return Region(0, 0, 0, 0)
    height, width = plane_shape(layer)
    corners = np.asarray(layer.corner_pixels)[:, -2:].astype(float)
    if layer.multiscale:
        corners *= np.asarray(layer.downsample_factors)[layer.data_level][-2:]
    if not corners.any():
        return Region(0, 0, height, width)
    if (corners[0] == corners[1]).any():
        # Beyond an edge, both corners are moved to it.
        return Region(0, 0, 0, 0)
    # napari gives the last pixel in view; one more where it rounded to the lower level.
    (top, left), (bottom, right) = np.floor(corners[0]), np.ceil(corners[1]) + 1
    return Region(
        int(max(top, 0)), int(max(left, 0)), int(min(bottom, height)), int(min(right, width))
    )


def is_at_current_step(source: Source, viewer: Viewer) -> bool:
    """Whether the sliders of the viewer stand at a field of a stack; True for a single image."""
    layer = source.layer()
    if layer is None:
        return False
    position = np.rint(layer.world_to_data(viewer.dims.point))
    return all(i is None or i == at for i, at in zip(source.index, position, strict=False))
