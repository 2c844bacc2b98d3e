"""Which part of a field is in view on the canvas."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from napari.viewer import Viewer

from napari_microdl.concepts.painting import Places
from napari_microdl.gui.session.layers import Source, plane_shape
from napari_microdl.gui.session.viewer_parts import camera_of, canvas_size

# Beside what is in view, of its height and width: a small move shows nothing new.
_MARGIN = 0.25
# More than a large screen has.
_MOST_SAMPLES = 2**22
# How much larger or smaller pixels of the screen may be than when it was drawn.
_TOLERANCE = 0.02


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


def visible_region(viewer: Viewer, source: Source) -> Region:
    """Part of a field that lies on the canvas, as the camera stands now.

    Without area where nothing of it is in view; the whole field in three dimensions. What napari
    keeps in a layer (`corner_pixels`) is of the last drawing, and in its grid mode of another
    place.
    """
    layer = source.layer()
    if layer is None:
        return Region(0, 0, 0, 0)
    height, width = plane_shape(layer)
    if viewer.dims.ndisplay == 3:
        return Region(0, 0, height, width)
    camera = camera_of(viewer)
    half = np.array(canvas_size(viewer)) / camera.zoom / 2
    world = np.array(layer.data_to_world((0,) * layer.ndim))
    corners = []
    for side in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        world[-2:] = np.asarray(camera.center[-2:]) + half * side
        corners.append(layer.world_to_data(world)[-2:])
    # A pixel reaches half of its edge beyond its centre.
    (top, left), (bottom, right) = np.min(corners, axis=0), np.max(corners, axis=0)
    top, bottom = np.clip(np.array([np.floor(top + 0.5), np.ceil(bottom + 0.5)]), 0, height)
    left, right = np.clip(np.array([np.floor(left + 0.5), np.ceil(right + 0.5)]), 0, width)
    return Region(int(top), int(left), int(bottom), int(right))


@dataclass(frozen=True)
class ScreenGrid:
    """A part of a field cut into squares as large as a pixel of the screen.

    Parameters
    ----------
    top, left : float
        Upper left corner, in pixels of the field, from the outer corner of the first.
    step : float
        Edge of a square in pixels of the field.
    height, width : int
        How many squares.
    """

    top: float
    left: float
    step: float
    height: int
    width: int

    @property
    def places(self) -> Places:
        """Rows and columns of the pixels in which the centres of squares lie."""
        first, number = (self.top, self.left), (self.height, self.width)
        rows, columns = (
            np.floor(f + (np.arange(n) + 0.5) * self.step).astype(np.intp)
            for f, n in zip(first, number, strict=True)
        )
        return rows, columns

    def serves(self, region: Region, step: float) -> bool:
        """Whether a region is covered in squares of that size."""
        return (
            abs(self.step / step - 1) < _TOLERANCE
            and self.top <= region.top + 1
            and self.left <= region.left + 1
            and self.top + (self.height + 1) * self.step >= region.bottom
            and self.left + (self.width + 1) * self.step >= region.right
        )


def screen_grid(viewer: Viewer, source: Source, before: ScreenGrid | None) -> ScreenGrid:
    """The part of a field that is in view, with a margin; `before` where that still serves.

    Of a field whose layer is open, and of which nothing is in view, all of it, pixel by pixel.
    """
    region, layer = visible_region(viewer, source), source.layer()
    assert layer is not None
    shape = plane_shape(layer)
    if not region.area:
        step = max(1.0, math.sqrt(shape[0] * shape[1] / _MOST_SAMPLES))
        whole = ScreenGrid(0, 0, step, int(shape[0] / step), int(shape[1] / step))
        return whole if before is None else before
    corner = np.zeros(layer.ndim)
    axes = np.eye(layer.ndim)[-2:]
    origin = np.asarray(layer.data_to_world(corner))
    edges = [np.linalg.norm(np.asarray(layer.data_to_world(axis)) - origin) for axis in axes]
    # No smaller than what fits into memory: of the whole field, before it is drawn.
    least = math.sqrt(region.area / _MOST_SAMPLES)
    step = max(1 / (camera_of(viewer).zoom * max(edges)), least)
    if before is not None and before.serves(region, step):
        return before
    margin = math.ceil(_MARGIN * max(region.bottom - region.top, region.right - region.left))
    outer = region.grown(margin, shape)
    height, width = outer.bottom - outer.top, outer.right - outer.left
    step = min(step, height, width)
    # The last square ends where the field does, or before.
    return ScreenGrid(outer.top, outer.left, step, int(height / step), int(width / step))


def is_at_current_step(source: Source, viewer: Viewer) -> bool:
    """Whether the sliders of the viewer stand at a field of a stack; True for a single image."""
    layer = source.layer()
    if layer is None:
        return False
    position = np.rint(layer.world_to_data(viewer.dims.point))
    return all(i is None or i == at for i, at in zip(source.index, position, strict=False))
