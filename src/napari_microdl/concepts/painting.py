"""Units and patches on the images of their fields: values painted, windows, outlines, channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.concept_set import Concept
from napari_microdl.core.errors import MicrodlError

_SMALLEST_WINDOW = 24
_WINDOW_MARGIN = 1.4
_ROWS_AT_ONCE = 64
# A patch is outlined if it is at least so aligned as this share of the most aligned in the picture.
_OUTLINED = 0.7


# Rows and columns of pixels.
Places: TypeAlias = tuple[NDArray[np.intp], NDArray[np.intp]]


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
        # Imported when it is needed: napari starts faster.
        from skimage.util import map_array

        # Any numbers may serve as labels, so each pixel stores the place of its label among `ids`
        # (from 1, 0 for others) and painting is one lookup. Of the type that numpy looks up with:
        # any other is converted for every picture anew, which takes longer than the look-up.
        slots = np.arange(1, len(ids) + 1, dtype=np.intp)
        self._slots = map_array(labels, ids.astype(labels.dtype), slots)

    def paint(self, values: NDArray[np.float32], at: Places | None = None) -> NDArray[np.float32]:
        """Image of the values, NaN outside cells; of some rows and columns alone, where given."""
        painted: NDArray[np.float32] = np.take(_with_background(values), self._slots_at(at))
        return painted

    def outline(
        self, values: NDArray[np.float32], width: int, at: Places | None = None
    ) -> NDArray[np.float32]:
        """Image of the values so many pixels wide along the edges of cells, NaN everywhere else."""
        # Small numbers are compared twice as fast.
        slots = self._slots_at(at).astype(np.int32)
        near = np.flatnonzero(rims(slots, width))
        painted = np.full(slots.shape, np.nan, np.float32)
        painted.reshape(-1)[near] = _with_background(values)[slots.reshape(-1)[near]]
        return painted

    def regions(self, chosen: NDArray[np.bool_], at: Places | None = None) -> NDArray[np.intp]:
        """Image of the numbers of chosen cells, -1 everywhere else; see `rims`."""
        numbers = np.concatenate([[-1], np.where(chosen, np.arange(len(chosen)), -1)])
        regions: NDArray[np.intp] = np.take(numbers, self._slots_at(at))
        return regions

    def _slots_at(self, at: Places | None) -> NDArray[np.intp]:
        # Rows and then columns: both at once take twice as long.
        slots: NDArray[np.intp] = self._slots
        return slots if at is None else slots.take(at[0], axis=0).take(at[1], axis=1)


def _with_background(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([[np.nan], values]).astype(np.float32)


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

    def paint(self, values: NDArray[np.float32], at: Places | None = None) -> NDArray[np.float32]:
        """Image of the values, NaN where there is no box, as `LabelPainter.paint`."""
        count = np.round(self._count)
        total = self._total(values)
        mean = np.full(self._shape, np.nan, np.float32)
        np.divide(total, count, out=mean, where=count > 0, casting="same_kind")
        return mean if at is None else mean[np.ix_(*at)]

    def outline(
        self, values: NDArray[np.float32], width: int, at: Places | None = None
    ) -> NDArray[np.float32]:
        """Image of the values along the edge of what boxes cover, as `LabelPainter.outline`."""
        covered = self.regions(np.ones(len(values), bool), at)
        return np.where(rims(covered, width), self.paint(values, at), np.float32(np.nan))

    def regions(self, chosen: NDArray[np.bool_], at: Places | None = None) -> NDArray[np.intp]:
        """Image that is 0 where chosen boxes cover it, -1 everywhere else; see `rims`."""
        return (self.paint(chosen.astype(np.float32), at) > 0).astype(np.intp) - 1


def rims(units: NDArray[np.integer], width: int) -> NDArray[np.bool_]:
    """Pixels near the edge of what they belong to.

    Parameters
    ----------
    units : ndarray of shape (height, width)
        One number a unit, another one between units, as `LabelPainter.regions` gives them.
    width : int
        Of a rim in pixels, on either side of an edge.

    Returns
    -------
    ndarray of shape (height, width)
        Where another number, or none, lies within so many steps up, down, left or right; the edge
        of the image is none.
    """
    found = np.zeros(units.shape, bool)
    for along, near in ((units, found), (units.T, found.T)):
        for step in range(1, width + 1):
            differs = along[step:] != along[:-step]
            near[step:] |= differs
            near[:-step] |= differs
    return found


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


def channel_correlations(
    heatmap: NDArray[np.float32], channels: NDArray[np.generic], patch_size: int
) -> NDArray[np.float64]:
    """Pearson correlation of a heatmap with every channel, pixel by pixel.

    Parameters
    ----------
    heatmap : ndarray of shape (grid_h, grid_w)
        One value a patch; interpolated to pixels as it is drawn.
    channels : ndarray of shape (n_channels, height, width)
        The image.
    patch_size : int
        Edge of a patch in pixels.

    Returns
    -------
    ndarray of shape (n_channels,)
        -1 to 1; NaN where the heatmap or the channel is the same everywhere.

    Raises
    ------
    MicrodlError
        If the image has no channel axis.

    Notes
    -----
    Paper (Donhauser et al. 2025), section 4: "channel attribution".
    """
    if channels.ndim != 3:
        raise MicrodlError(
            f"The image has {channels.ndim} dimensions; give channels x height x width."
        )
    values = grid_to_pixels(heatmap, patch_size, channels.shape[1:]).astype(np.float64).ravel()
    values -= values.mean()
    norm = np.sqrt(values @ values)
    found = np.full(len(channels), np.nan)
    for number, channel in enumerate(channels):
        # One channel at a time, so that a large image is copied once and not once a channel.
        pixels = np.asarray(channel, np.float64).ravel()
        if pixels.min() == pixels.max():
            continue
        pixels = pixels - pixels.mean()
        length = norm * np.sqrt(pixels @ pixels)
        if length > 0:
            found[number] = np.clip(values @ pixels / length, -1, 1)
    return found


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
    return window_at((top + bottom) / 2, (left + right) / 2, size, shape)


def window_at(y: float, x: float, edge: int, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Square part of an image around a place, moved so that it lies inside where it can.

    Parameters
    ----------
    y, x : float
        Centre in pixels.
    edge : int
        Pixels; where the image is smaller, it is what there is.
    shape : tuple of int
        Height and width of the image.

    Returns
    -------
    tuple of slice
        Rows and columns.
    """
    parts = []
    for centre, length in zip((y, x), shape, strict=True):
        extent = min(edge, length)
        start = min(max(math.floor(centre - extent / 2), 0), length - extent)
        parts.append(slice(start, start + extent))
    return parts[0], parts[1]


def unit_window(activations: ConceptActivations, row: int) -> tuple[int, tuple[slice, slice]]:
    """Part of an image that shows one unit.

    Parameters
    ----------
    activations : ConceptActivations
        The run.
    row : int
        Row of the table of units.

    Returns
    -------
    number : int
        Of the field.
    window : tuple of slice
        Rows and columns of pixels, square.
    """
    number, place = _place_of(activations, row)
    shape = activations.grids[number].image_shape
    return number, window_of(activations.geometry[number].boxes[place], shape)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Which patches make a unit show a concept.

    Parameters
    ----------
    lines : ndarray of shape (n_lines, 4)
        Around the patches that do most: x and y of both ends, in pixels of the picture of
        `unit_window`.
    n_outlined, n_touched : int
        How many these are, and how many the unit touches.
    share : float
        How much of all that speaks for the concept in the unit is theirs, 0 to 1. What a patch adds
        is exact (`HeatMaps.around_unit`), weighted by what the unit covers of it.
    """

    lines: NDArray[np.float64]
    n_outlined: int
    n_touched: int
    share: float

    def sentence(self) -> str:
        """In words."""
        if not self.n_outlined:
            return "None of its patches shows it."
        of = f"{self.n_outlined} of its {self.n_touched} patches"
        makes = "makes" if self.n_outlined == 1 else "make"
        return f"{of} {makes} {self.share:.0%} of it."


def explain_unit(
    activations: ConceptActivations, row: int, concept: Concept, sign: int
) -> Explanation:
    """The patches that make a unit aligned with a concept.

    Parameters
    ----------
    activations : ConceptActivations
        The run.
    row : int
        Row of the table of units.
    concept : int or ConceptSet
        Which concept.
    sign : {1, -1}
        Aligned or anti-aligned patches.

    Returns
    -------
    Explanation
        Outlined is every patch that the unit touches and that adds at least 0.7 times as much, for
        its area, as the one of them that adds most; none where no patch speaks for it.
    """
    number, place = _place_of(activations, row)
    _, (rows, columns) = unit_window(activations, row)
    p = activations.grids[number].patch_size
    top, left = rows.start // p, columns.start // p
    bottom, right = -(-rows.stop // p), -(-columns.stop // p)
    heat = sign * activations.heat.around_unit(
        number, place, slice(top, bottom), slice(left, right), concept
    )
    grid = activations.grids[number].tokens.shape[:2]
    covered = activations.geometry[number].weights[[place]].toarray().reshape(grid)
    covered = covered[top:bottom, left:right]
    heat[covered <= 0] = -np.inf
    chosen = (heat >= _OUTLINED * heat.max()) & (heat > 0)
    adds = np.maximum(heat, 0) * covered
    share = float(adds[chosen].sum() / adds.sum()) if chosen.any() else 0.0
    padded = np.pad(chosen, 1)
    lines = []
    # A line runs wherever a chosen patch borders on one that is not.
    for i, j in np.argwhere(padded[1:] != padded[:-1]):
        y = (top + i) * p - rows.start
        x = (left + j - 1) * p - columns.start
        lines.append((x, y, x + p, y))
    for i, j in np.argwhere(padded[:, 1:] != padded[:, :-1]):
        y = (top + i - 1) * p - rows.start
        x = (left + j) * p - columns.start
        lines.append((x, y, x, y + p))
    ends = np.array(lines, float).reshape(-1, 4)
    return Explanation(ends, int(chosen.sum()), int((covered > 0).sum()), share)


def outlines_of(
    activations: ConceptActivations, row: int, concept: Concept, sign: int
) -> NDArray[np.float64]:
    """Lines around the patches that make a unit aligned with a concept, see `explain_unit`."""
    return explain_unit(activations, row, concept, sign).lines


def _place_of(activations: ConceptActivations, row: int) -> tuple[int, int]:
    """Number of the field of a unit, and the place of the unit there."""
    number = int(activations.units["field"].iloc[row])
    return number, int(np.searchsorted(activations.rows_of_field(number), row))
