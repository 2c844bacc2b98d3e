"""Inner products of all atoms with each other, in full and in rounded numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.pursuit.threads import limited_blas

if TYPE_CHECKING:
    import torch

# Edge of the blocks by which a triangle is mirrored.
_MIRROR_ROWS = 256
_MOST = np.iinfo(np.int16).max


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


def rounded_gram_matrix(
    atoms: torch.Tensor,
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Inner products of different atoms as 16-bit integers.

    Parameters
    ----------
    atoms : torch.Tensor of float32, shape (n_atoms, n_features)
        Dictionary, on the processor.

    Returns
    -------
    gram : ndarray of int16, shape (n_atoms, n_atoms)
        Inner products in steps; 0 on the diagonal.
    steps : ndarray of float32, shape (n_atoms,)
        What 1 stands for in each row: the row's largest magnitude is 32,767 of them.
    """
    full: NDArray[Any] = gram_matrix(atoms).numpy()
    np.fill_diagonal(full, 0)
    gram = np.empty(full.shape, np.int16)
    steps = np.empty(len(full), np.float32)
    for start in range(0, len(full), _MIRROR_ROWS):
        rows = slice(start, start + _MIRROR_ROWS)
        largest = np.abs(full[rows]).max(axis=1)
        steps[rows] = np.where(largest > 0, largest, 1) / _MOST
        gram[rows] = np.rint(full[rows] / steps[rows, None])
    return gram, steps
