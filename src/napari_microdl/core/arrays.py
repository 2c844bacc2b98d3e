"""Decompositions of wide matrices that can be stopped, though LAPACK cannot."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.child_process import iter_in_child

# Up to this width one takes less than half a second.
_WIDE = 768
Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def iter_eigh(matrix: NDArray[np.float64]) -> Generator[None, None, Pair]:
    """Eigenvalues and eigenvectors of a symmetric matrix.

    Parameters
    ----------
    matrix : ndarray of shape (n, n)
        float64.

    Yields
    ------
    None
        Many times a second where the matrix is wide; stop iterating to cancel.

    Returns
    -------
    values : ndarray of shape (n,)
        In ascending order.
    vectors : ndarray of shape (n, n)
        In columns.
    """
    if len(matrix) <= _WIDE:
        return eigh(matrix)
    found: Pair = yield from iter_in_child(eigh, matrix)
    return found


def eigh(matrix: NDArray[np.float64]) -> Pair:
    """`iter_eigh` in one go."""
    values, vectors = np.linalg.eigh(matrix)
    return values, vectors


def iter_right_vectors(matrix: NDArray[np.float64]) -> Generator[None, None, Pair]:
    """Singular values and right singular vectors.

    Parameters
    ----------
    matrix : ndarray of shape (m, n)
        float64.

    Yields
    ------
    None
        Many times a second where the matrix is large; stop iterating to cancel.

    Returns
    -------
    values : ndarray of shape (min(m, n),)
        In descending order.
    vectors : ndarray of shape (min(m, n), n)
        In rows.
    """
    if min(matrix.shape) ** 2 * max(matrix.shape) <= _WIDE**3 // 8:
        return right_vectors(matrix)
    found: Pair = yield from iter_in_child(right_vectors, matrix)
    return found


def right_vectors(matrix: NDArray[np.float64]) -> Pair:
    """`iter_right_vectors` in one go."""
    _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
    return values, vectors


def unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows divided by their L2 norm; zero rows stay zero.

    Parameters
    ----------
    vectors : ndarray of shape (n, d)
        Rows of any length.

    Returns
    -------
    ndarray of shape (n, d)
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.zeros_like(vectors)
    np.divide(vectors, norms, out=unit, where=norms > 0)
    return unit
