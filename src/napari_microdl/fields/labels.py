"""Labels as people have them, as whole numbers that tell one cell from another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_microdl.core.text import counted

# What programs write for "inside" where a picture holds no more than that.
_INSIDE = 255
_LARGEST = np.iinfo(np.int64).max


def number_cells(labels: NDArray[Any]) -> tuple[NDArray[np.int64], str]:
    """Labels as numbers from 1 for cells and 0 for the rest.

    Parameters
    ----------
    labels : ndarray of int or bool, shape (height, width)
        As a file or a person has them.

    Returns
    -------
    labels : ndarray of int64, shape (height, width)
        Each connected part of a mask (of truth values, or of 0 and 255) is a cell; numbers that
        int64 cannot hold became others; negative numbers stay, and count as background everywhere.
    note : str
        What was made of them, or what is odd, as a sentence without its field; may be empty.
    """
    if labels.dtype.kind == "b":
        return _parts_of(labels)
    if labels.dtype.kind == "u" and labels.size and labels.max() > _LARGEST:
        return _renumbered(labels)
    found = labels.astype(np.int64, copy=False)
    lowest, highest = (int(found.min()), int(found.max())) if found.size else (0, 0)
    if lowest < 0:
        n = len(np.unique(found[found < 0]))
        return found, (
            f"{counted(n, 'negative label')}, {lowest} the lowest, count as background; give these "
            "cells numbers above 0."
        )
    if highest == 0 or not np.isin(found, (0, highest)).all():
        return found, ""
    if highest == _INSIDE:
        return _parts_of(found > 0)
    n = int(ndimage.label(found > 0)[1])
    if n < 2:
        return found, ""
    return found, (
        f"the label {highest} is all there is, in {n:,} parts, and was taken for one cell; if it "
        "is a mask of many, give every cell a number of its own."
    )


def _parts_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], str]:
    parts, n = ndimage.label(mask)
    note = f"a mask was taken for labels: each of its {n:,} parts is a cell." if n > 1 else ""
    return parts.astype(np.int64), note


def _renumbered(labels: NDArray[np.unsignedinteger[Any]]) -> tuple[NDArray[np.int64], str]:
    """Labels whose largest numbers became the smallest that are free."""
    large = np.unique(labels[labels > _LARGEST])
    small = np.unique(labels[labels <= _LARGEST]).astype(np.int64)
    free = np.setdiff1d(np.arange(1, len(small) + len(large) + 1), small)[: len(large)]
    found = np.zeros(labels.shape, np.int64)
    is_large = labels > _LARGEST
    found[~is_large] = labels[~is_large]
    found[is_large] = free[np.searchsorted(large, labels[is_large])]
    return found, (
        f"{counted(len(large), 'label')} beyond {_LARGEST} became free numbers, from {free[0]} on."
    )
