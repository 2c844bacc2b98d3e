"""Arithmetic on arrays that several rooms need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from napari_microdl.core.child_process import call_in_child
from napari_microdl.core.errors import MicrodlError

# Up to this width a decomposition takes less than half a second.
WIDE = 768
# Rows looked at at a time, so that memory does not grow with the number of samples.
_CHUNK_ROWS = 8192
_Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def eigh(matrix: NDArray[np.float64], *, wide: int = WIDE) -> _Pair:
    """Eigenvalues and eigenvectors of a symmetric matrix; cancelling need not wait for LAPACK.

    Parameters
    ----------
    matrix : ndarray of shape (n, n)
        float64.
    wide : int
        A wider matrix is decomposed in a process of its own.

    Returns
    -------
    values : ndarray of shape (n,)
        In ascending order.
    vectors : ndarray of shape (n, n)
        In columns.
    """
    if len(matrix) <= wide:
        with blas_threads(1):
            return _eigh(matrix)
    return call_in_child(_eigh, matrix)


def right_vectors(matrix: NDArray[np.float64], *, wide: int = WIDE) -> _Pair:
    """Singular values and right singular vectors; cancelling need not wait for LAPACK.

    Parameters
    ----------
    matrix : ndarray of shape (m, n)
        float64.
    wide : int
        As for `eigh`.

    Returns
    -------
    values : ndarray of shape (min(m, n),)
        In descending order.
    vectors : ndarray of shape (min(m, n), n)
        In rows.
    """
    if min(matrix.shape) ** 2 * max(matrix.shape) <= wide**3 // 8:
        with blas_threads(1):
            return _right_vectors(matrix)
    return call_in_child(_right_vectors, matrix)


def blas_threads(n: int) -> AbstractContextManager[Any]:
    """Context in which products and decompositions of numpy take so many threads at most.

    Threads of OpenBLAS wait for each other by running. Of matrices that a core does in milliseconds
    that brings little on a free machine, and where other work keeps the cores busy it took fifty
    times as long.
    """
    limited: AbstractContextManager[Any] = _blas().limit(limits=n, user_api="blas")
    return limited


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Context in which torch, and with it the pursuit, takes so many threads at most."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(before, n))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    """The linear algebra libraries that are loaded: looking for them takes a while."""
    return ThreadpoolController()


def drawn_rows(n: int, most: int, seed: int | None) -> NDArray[np.int64]:
    """All of `n` rows, or as many as allowed that are drawn at random, in ascending order."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


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


def require_finite(x: NDArray[Any]) -> None:
    """Refuse samples that hold NaN or infinity.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Samples.

    Raises
    ------
    MicrodlError
        If any value is NaN or infinite.
    """
    bad = 0
    first = -1
    for start in range(0, len(x), _CHUNK_ROWS):
        wrong = np.flatnonzero(~np.isfinite(x[start : start + _CHUNK_ROWS]).all(axis=1))
        if len(wrong) and first < 0:
            first = start + int(wrong[0])
        bad += len(wrong)
    if bad:
        raise MicrodlError(
            f"{bad} of {len(x)} samples hold NaN or inf (infinity), the first of them row {first}: "
            "remove or repair these samples first."
        )


def _eigh(matrix: NDArray[np.float64]) -> _Pair:
    values, vectors = np.linalg.eigh(matrix)
    return values, vectors


def _right_vectors(matrix: NDArray[np.float64]) -> _Pair:
    _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
    return values, vectors
