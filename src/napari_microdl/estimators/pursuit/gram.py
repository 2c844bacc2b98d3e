"""Inner products of all atoms with each other, in full and in rounded numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_microdl.estimators.pursuit.threads import limited_blas

if TYPE_CHECKING:
    import torch

# Edge of the blocks by which a triangle is mirrored.
_MIRROR_ROWS = 256
# Largest number whose upper eight bits are at most 127 once it is rounded to them.
_MOST = 127 * 256 + 127
# A step of eight bits above this share of a row's typical product leaves too little of it.
_COARSE = 0.1


def gram_matrix(atoms: torch.Tensor) -> torch.Tensor:
    """Inner products of the atoms.

    Parameters
    ----------
    atoms : torch.Tensor of shape (n_atoms, n_features)
        Dictionary, on any device.

    Returns
    -------
    torch.Tensor of shape (n_atoms, n_atoms)
        On the same device.
    """
    import torch

    if atoms.device.type != "cpu":
        return atoms @ atoms.T
    from scipy.linalg import get_blas_funcs

    w = atoms.numpy()
    (syrk,) = get_blas_funcs(("syrk",), (w,))
    with limited_blas():
        # One triangle, which is half of the work; numpy would take as long to copy it to the other.
        gram = syrk(1.0, w.T, trans=1, lower=1).T
    for start in range(0, len(gram), _MIRROR_ROWS):
        rows = slice(start, start + _MIRROR_ROWS)
        corner = gram[rows, rows]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T
        for other in range(start + _MIRROR_ROWS, len(gram), _MIRROR_ROWS):
            columns = slice(other, other + _MIRROR_ROWS)
            gram[columns, rows] = gram[rows, columns].T
    return torch.from_numpy(gram)


class RoundedGram(NamedTuple):
    """Inner products of different atoms in 16 bits, and the upper eight of these by themselves.

    Parameters
    ----------
    high, low : ndarray of int8, shape (n_atoms, n_atoms)
        ``(256 * high + low) * steps[:, None]`` are the inner products, 0 on the diagonal.
    steps : ndarray of float32, shape (n_atoms,)
        What 1 stands for in each row.
    uneven : ndarray of bool, shape (n_atoms,)
        Rows with single products so large that eight bits leave little of the others.
    """

    high: NDArray[np.int8]
    low: NDArray[np.int8]
    steps: NDArray[np.float32]
    uneven: NDArray[np.bool_]


def rounded_gram_matrix(atoms: torch.Tensor) -> RoundedGram:
    """Inner products of the atoms, rounded row by row.

    Parameters
    ----------
    atoms : torch.Tensor of float32, shape (n_atoms, n_features)
        Dictionary, on the processor.

    Returns
    -------
    RoundedGram
    """
    full: NDArray[Any] = gram_matrix(atoms).numpy()
    np.fill_diagonal(full, 0)
    high, low = np.empty(full.shape, np.int8), np.empty(full.shape, np.int8)
    steps = np.empty(len(full), np.float32)
    uneven = np.empty(len(full), bool)
    for start in range(0, len(full), _MIRROR_ROWS):
        rows = slice(start, start + _MIRROR_ROWS)
        part = full[rows]
        largest = np.abs(part).max(axis=1)
        steps[rows] = np.where(largest > 0, largest, 1) / _MOST
        rounded = np.rint(part / steps[rows, None])
        # The lower eight bits go from -128 to 127.
        upper = np.floor((rounded + 128) / 256)
        high[rows], low[rows] = upper, rounded - 256 * upper
        typical = np.sqrt(np.einsum("mn,mn->m", part, part) / len(full))
        uneven[rows] = 256 * steps[rows] > _COARSE * typical
    return RoundedGram(high, low, steps, uneven)
