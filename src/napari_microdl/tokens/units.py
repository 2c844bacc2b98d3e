"""Units of analysis (cells, crops, tokens) and the exact share of every token that they cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from napari_microdl.core.config import UnitKind
from napari_microdl.core.errors import MicrodlError
from napari_microdl.tokens.grid import TokenGrid

# Edge of a square of background, in patches: with the built-in model that of a cell.
_SQUARE = 4


@dataclass(frozen=True, eq=False)
class Units:
    """What counts as one sample in one field.

    Parameters
    ----------
    ids : ndarray of shape (n,)
        Label of the cell, or running number of the crop or token from 1.
    y, x : ndarray of shape (n,)
        Centre in pixels.
    area : ndarray of shape (n,)
        Pixels covered.
    boxes : ndarray of shape (n, 4)
        First row, first column, last row + 1, last column + 1, in pixels.
    weights : csr_array of shape (n, grid_h * grid_w)
        Pixels of each token that lie inside the unit.
    """

    ids: NDArray[np.int64]
    y: NDArray[np.float32]
    x: NDArray[np.float32]
    area: NDArray[np.float32]
    boxes: NDArray[np.int32]
    weights: sparse.csr_array

    def __len__(self) -> int:
        return len(self.ids)


def units_of(
    grid: TokenGrid,
    kind: UnitKind,
    *,
    labels: NDArray[np.integer] | None = None,
    crop_size: int = 64,
    crop_stride: int = 64,
) -> Units:
    """Units of one field.

    Parameters
    ----------
    grid : TokenGrid
        The field's tokens; only its geometry is used.
    kind : {"cell", "crop", "token"}
        Cells of `labels`, square crops, or the patches themselves.
    labels : ndarray of shape (height, width), optional
        Cell labels, needed for cells; 0 is background and any positive number may be used. There
        may be none.
    crop_size, crop_stride : int, default=64
        Edge of a crop and distance between neighbours, in pixels. Crops lie wholly in the image.

    Returns
    -------
    Units

    Raises
    ------
    MicrodlError
        If there are no labels, their shape differs from the image, or no crop fits into it.
    """
    if kind == "cell":
        return _cells(grid, labels)
    if kind == "crop":
        return _crops(grid, crop_size, crop_stride)
    if kind == "token":
        return _crops(grid, grid.patch_size, grid.patch_size, whole_grid=True)
    raise MicrodlError(f"Unit '{kind}' is not known; use one of {', '.join(get_args(UnitKind))}.")


def background_squares(grid: TokenGrid, units: Units) -> Units:
    """The background of a field, cut into squares of four by four patches.

    Parameters
    ----------
    grid : TokenGrid
        The field's tokens; only its geometry is used.
    units : Units
        Cells of the field.

    Returns
    -------
    Units
        Squares of which half or more lies in no cell, and of each what lies in none; there may be
        none. They are alike in all fields, as the spread of tokens depends on how many there are.
    """
    edge = min(_SQUARE * grid.patch_size, *grid.image_shape)
    squares = _crops(grid, edge, edge)
    pixels = np.asarray(_crops(grid, grid.patch_size, grid.patch_size, whole_grid=True).area)
    free = 1 - np.asarray(units.weights.sum(axis=0)).ravel() / pixels
    weights = sparse.csr_array(squares.weights @ sparse.diags_array(free.astype(np.float32)))
    weights.eliminate_zeros()
    area = np.asarray(weights.sum(axis=1)).ravel()
    kept = np.flatnonzero(area >= squares.area / 2)
    return Units(
        ids=squares.ids[kept],
        y=squares.y[kept],
        x=squares.x[kept],
        area=area[kept],
        boxes=squares.boxes[kept],
        weights=weights[kept],
    )


def far_patches(grid: TokenGrid, units: Units) -> NDArray[np.bool_]:
    """Patches of a field that are farther from every cell than a cell's radius.

    Parameters
    ----------
    grid : TokenGrid
        The field's tokens; only its geometry is used.
    units : Units
        Cells of the field, at least one.

    Returns
    -------
    ndarray of bool, shape (grid_h, grid_w)
        None of them is of a cell, nor beside one.
    """
    covered = np.asarray(units.weights.sum(axis=0)).reshape(grid.tokens.shape[:2]) > 0
    radius = float(np.sqrt(np.median(units.area) / np.pi)) / grid.patch_size
    far: NDArray[np.bool_] = ndimage.distance_transform_edt(~covered) > max(radius, 1.0)
    return far


def pool(grid: TokenGrid, units: Units) -> NDArray[np.float32]:
    """Mean token of every unit, weighted by how much of each patch it covers.

    Parameters
    ----------
    grid : TokenGrid
        Tokens of the field.
    units : Units
        Units of the same field.

    Returns
    -------
    ndarray of shape (n_units, d)
        float32, summed in float64.
    """
    columns = grid.tokens.shape[1]
    weights = units.weights.astype(np.float64)
    totals = np.zeros((len(units), grid.tokens.shape[-1]))
    for rows, tokens in grid.bands():
        flat = tokens.reshape(-1, tokens.shape[-1])
        totals += weights[:, rows.start * columns : rows.stop * columns] @ flat
    pooled: NDArray[np.float32] = (totals / units.weights.sum(axis=1)[:, None]).astype(np.float32)
    return pooled


def _cells(grid: TokenGrid, labels: NDArray[np.integer] | None) -> Units:
    if labels is None:
        raise MicrodlError("There are no cell labels; choose a Labels layer or segment the image.")
    if labels.shape != grid.image_shape:
        raise MicrodlError(
            f"The labels have the shape {labels.shape} but the image is {grid.image_shape}; "
            "choose the labels that belong to this image."
        )
    rows, columns = np.nonzero(labels > 0)
    ids, cell = np.unique(labels[rows, columns], return_inverse=True)
    n = len(ids)
    grid_w = grid.tokens.shape[1]
    token = rows // grid.patch_size * grid_w + columns // grid.patch_size
    weights = sparse.coo_array(
        (np.ones(len(rows), np.float32), (cell, token)),
        shape=(n, grid.tokens.shape[0] * grid_w),
    ).tocsr()
    area = np.bincount(cell, minlength=n).astype(np.float64)
    boxes = np.empty((n, 4), np.int32)
    for axis, values in enumerate((rows, columns)):
        first = np.full(n, np.iinfo(np.int32).max)
        last = np.zeros(n, np.int64)
        np.minimum.at(first, cell, values)
        np.maximum.at(last, cell, values)
        boxes[:, axis], boxes[:, axis + 2] = first, last + 1
    return Units(
        ids=ids.astype(np.int64),
        y=(np.bincount(cell, rows, n) / area).astype(np.float32),
        x=(np.bincount(cell, columns, n) / area).astype(np.float32),
        area=area.astype(np.float32),
        boxes=boxes,
        weights=weights,
    )


def _overlap(
    starts: NDArray[np.int64], length: int, patch: int, n_patches: int, limit: int
) -> sparse.csr_array:
    """Pixels that each interval shares with each patch along one axis."""
    edges = np.arange(n_patches) * patch
    ends = np.minimum(starts + length, limit)
    low = np.maximum(starts[:, None], edges)
    high = np.minimum(ends[:, None], edges + patch)
    return sparse.csr_array(np.maximum(high - low, 0).astype(np.float32))


def _crops(grid: TokenGrid, size: int, stride: int, *, whole_grid: bool = False) -> Units:
    if size < 1 or stride < 1:
        raise MicrodlError(f"Crops of {size} px every {stride} px are not possible; use 1 or more.")
    height, width = grid.image_shape
    p = grid.patch_size
    grid_h, grid_w = grid.tokens.shape[:2]
    # Patches at the lower and right edge may stick out of the image; crops may not.
    reach = (grid_h * p, grid_w * p) if whole_grid else (height, width)
    tops = np.arange(0, reach[0] - size + 1, stride)
    lefts = np.arange(0, reach[1] - size + 1, stride)
    if not len(tops) or not len(lefts):
        raise MicrodlError(
            f"No crop of {size} px fits into an image of {height} x {width} px; take smaller crops."
        )
    along_y = _overlap(tops, size, p, grid_h, height)
    along_x = _overlap(lefts, size, p, grid_w, width)
    weights = sparse.csr_array(sparse.kron(along_y, along_x))
    top, left = (a.ravel() for a in np.meshgrid(tops, lefts, indexing="ij"))
    bottom, right = np.minimum(top + size, height), np.minimum(left + size, width)
    return Units(
        ids=np.arange(1, len(top) + 1),
        y=((top + bottom - 1) / 2).astype(np.float32),
        x=((left + right - 1) / 2).astype(np.float32),
        area=((bottom - top) * (right - left)).astype(np.float32),
        boxes=np.stack([top, left, bottom, right], axis=1).astype(np.int32),
        weights=weights,
    )
