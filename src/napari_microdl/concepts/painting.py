"""Values of units and patches as images of the field."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_SMALLEST_WINDOW = 24
_WINDOW_MARGIN = 1.4
_ROWS_AT_ONCE = 64


class LabelPainter:
    """Paints one value a cell on the pixels of the cell.

    Parameters
    ----------
    labels : ndarray of shape (height, width)
        Cell labels.
    ids : ndarray of shape (n,)
        Labels that get values; all others are painted as background (NaN).
    """

    def __init__(self, labels: NDArray[np.integer], ids: NDArray[np.int64]) -> None:
        # Any numbers may serve as labels, so each pixel stores the place of its label among `ids`
        # and painting is one lookup.
        order = np.argsort(ids, kind="stable")
        places = np.searchsorted(ids, labels, sorter=order)
        places = order[np.minimum(places, len(ids) - 1)]
        # Of the type that numpy looks up with: any other is converted for every picture anew, which
        # takes longer than the look-up.
        self._slots = np.where(ids[places] == labels, places + 1, 0).astype(np.intp)

    def paint(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Image of the values, NaN outside cells."""
        lut = np.concatenate([[np.nan], values]).astype(np.float32)
        return np.take(lut, self._slots)


class BoxPainter:
    """Paints one value a box, the mean where boxes overlap.

    Parameters
    ----------
    boxes : ndarray of shape (n, 4)
        First row, first column, last row + 1, last column + 1.
    shape : tuple of int
        Height and width of the image.
    """

    def __init__(self, boxes: NDArray[np.int32], shape: tuple[int, int]) -> None:
        self._boxes = boxes
        self._shape = shape
        self._count = self._total(np.ones(len(boxes), np.float32))

    def _total(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        # Four corners a box and two running sums cost the same however large the boxes are.
        corners = np.zeros((self._shape[0] + 1, self._shape[1] + 1))
        top, left, bottom, right = self._boxes.T
        np.add.at(corners, (top, left), values)
        np.add.at(corners, (bottom, right), values)
        np.add.at(corners, (top, right), -values)
        np.add.at(corners, (bottom, left), -values)
        return corners.cumsum(0).cumsum(1)[:-1, :-1]

    def paint(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Image of the values, NaN where there is no box."""
        count = np.round(self._count)
        total = self._total(values)
        mean = np.full(self._shape, np.nan, np.float32)
        np.divide(total, count, out=mean, where=count > 0, casting="same_kind")
        return mean


def coarsest_step(patch_size: int, shape: tuple[int, int]) -> int:
    """Edge of the largest squares that patches and image can both be cut into.

    Parameters
    ----------
    patch_size : int
        Edge of a patch in pixels.
    shape : tuple of int
        Height and width of the image in pixels.

    Returns
    -------
    int
        Pixels; the patch size itself where patches fill the image exactly.
    """
    return math.gcd(patch_size, *shape)


def grid_to_pixels(
    grid: NDArray[np.float32], patch_size: int, shape: tuple[int, int], step: int = 1
) -> NDArray[np.float32]:
    """Values of patches, interpolated between their centres.

    Parameters
    ----------
    grid : ndarray of shape (grid_h, grid_w)
        One value a patch.
    patch_size : int
        Edge of a patch in pixels.
    shape : tuple of int
        Height and width of the image in pixels.
    step : int, default=1
        Edge of the squares of pixels that get one value, that at their centre; see `coarsest_step`.

    Returns
    -------
    ndarray of shape (height // step, width // step)
        Bilinear; beyond the outermost centres the nearest value is kept.
    """
    shape = shape[0] // step, shape[1] // step
    low, part = _between_centres(grid.shape[1], patch_size, shape[1], step)
    rises = np.diff(grid, axis=1, append=grid[:, -1:])
    wide = grid[:, low] + rises[:, low] * part
    # Rows last, a few at once: whole rows are copied faster than single pixels, and what is added
    # to them stays in the cache.
    low, part = _between_centres(grid.shape[0], patch_size, shape[0], step)
    rises = np.diff(wide, axis=0, append=wide[-1:])
    tall = np.empty(shape, np.float32)
    for begin in range(0, shape[0], _ROWS_AT_ONCE):
        rows = slice(begin, begin + _ROWS_AT_ONCE)
        np.multiply(rises[low[rows]], part[rows, None], out=tall[rows])
        tall[rows] += wide[low[rows]]
    return tall


def _between_centres(
    n: int, patch_size: int, length: int, step: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For every square, the patch whose centre lies before it and how far it is to the next."""
    position = np.clip((np.arange(length) + 0.5) * step / patch_size - 0.5, 0, n - 1)
    low = np.floor(position).astype(np.intp)
    return low, (position - low).astype(np.float32)


def window_of(box: NDArray[np.int32], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Square part of an image around a unit, moved so that it lies inside where it can.

    Parameters
    ----------
    box : ndarray of shape (4,)
        First row, first column, last row + 1, last column + 1.
    shape : tuple of int
        Height and width of the image.

    Returns
    -------
    tuple of slice
        Rows and columns.
    """
    top, left, bottom, right = (int(v) for v in box)
    size = max(_SMALLEST_WINDOW, round(_WINDOW_MARGIN * max(bottom - top, right - left)))
    parts = []
    for first, last, length in ((top, bottom, shape[0]), (left, right, shape[1])):
        extent = min(size, length)
        start = int(np.clip((first + last - extent) // 2, 0, length - extent))
        parts.append(slice(start, start + extent))
    return parts[0], parts[1]
