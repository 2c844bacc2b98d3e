"""Which part of an image shows a unit, and which patches of it make it aligned with a concept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.painting import window_of

# A patch is outlined if it is at least so aligned as this share of the most aligned in the picture.
_OUTLINED = 0.7


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


def outlines_of(
    activations: ConceptActivations, row: int, concept: int, sign: int
) -> NDArray[np.float64]:
    """Lines around the patches that make a unit aligned with a concept.

    Parameters
    ----------
    activations : ConceptActivations
        The run.
    row : int
        Row of the table of units.
    concept : int
        Which concept.
    sign : {1, -1}
        Aligned or anti-aligned patches.

    Returns
    -------
    ndarray of shape (n_lines, 4)
        x and y of both ends, in pixels of the picture. Outlined is every patch that the unit
        touches and that is at least 0.7 times as aligned as the most aligned of them; none where no
        patch is aligned.
    """
    number, place = _place_of(activations, row)
    _, (rows, columns) = unit_window(activations, row)
    p = activations.grids[number].patch_size
    top, left = rows.start // p, columns.start // p
    bottom, right = -(-rows.stop // p), -(-columns.stop // p)
    cosine = sign * activations.patch_cosines(
        number, slice(top, bottom), slice(left, right), concept
    )
    grid = activations.grids[number].tokens.shape[:2]
    touched = activations.geometry[number].weights[[place]].toarray().reshape(grid) > 0
    cosine[~touched[top:bottom, left:right]] = -1
    chosen = np.pad((cosine >= _OUTLINED * cosine.max()) & (cosine > 0), 1)
    lines = []
    # A line runs wherever a chosen patch borders on one that is not.
    for i, j in np.argwhere(chosen[1:] != chosen[:-1]):
        y = (top + i) * p - rows.start
        x = (left + j - 1) * p - columns.start
        lines.append((x, y, x + p, y))
    for i, j in np.argwhere(chosen[:, 1:] != chosen[:, :-1]):
        y = (top + i - 1) * p - rows.start
        x = (left + j) * p - columns.start
        lines.append((x, y, x, y + p))
    return np.array(lines, float).reshape(-1, 4)


def _place_of(activations: ConceptActivations, row: int) -> tuple[int, int]:
    """Number of the field of a unit, and the place of the unit there."""
    number = int(activations.units["field"].iloc[row])
    return number, int(np.searchsorted(activations.rows_of_field(number), row))
