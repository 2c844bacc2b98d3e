"""A flat map of samples by their activations."""

from __future__ import annotations

import importlib.util

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.core.arrays import drawn_rows
from napari_microdl.core.child_process import call_in_child
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task

_LEAST = 3
_LEAST_FOR_UMAP = 4
# As UMAP chooses where there are enough.
_NEIGHBOURS = 15


def pca_map(
    codes: sparse.csr_array, random_state: int = 0, *, most_fitted: int = 20_000
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """First two principal components of codes.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes; never unpacked.
    random_state : int, default=0
        Of the solver, and of the draw of samples.
    most_fitted : int, default=20,000
        Of more samples as many are drawn to fit the components, which then project all of them.

    Returns
    -------
    places : ndarray of shape (n_samples, 2)
        float32, centred on the samples that the components were fitted on.
    share : ndarray of shape (2,)
        Share of the variance along each axis, 0 to 1.

    Raises
    ------
    MicrodlError
        If there are fewer than three samples or concepts.
    """
    n, n_concepts = codes.shape
    if min(n, n_concepts) < _LEAST:
        raise MicrodlError(
            f"A map needs at least {_LEAST} units and {_LEAST} concepts; here are {n} and "
            f"{n_concepts}."
        )
    # Imported when a map is first drawn: scikit-learn takes a second.
    from sklearn.decomposition import PCA

    current_task().check()
    fitted = codes[drawn_rows(n, most_fitted, random_state)].astype(np.float64)
    current_task().check()
    pca = PCA(2, svd_solver="arpack", random_state=random_state).fit(fitted)
    places = np.empty((n, 2), np.float32)
    # Some at a time: a million samples may lie on disk.
    for begin in range(0, n, most_fitted):
        current_task().check()
        rows = slice(begin, begin + most_fitted)
        places[rows] = pca.transform(codes[rows].astype(np.float64))
    return places, pca.explained_variance_ratio_


def umap_is_installed() -> bool:
    """Whether the package umap-learn can be imported."""
    return importlib.util.find_spec("umap") is not None


def umap_map(
    codes: sparse.csr_array, random_state: int = 0, *, most_fitted: int = 20_000
) -> NDArray[np.float32]:
    """UMAP of codes, with the cosine as distance, in a process of its own: nothing else stops it.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes.
    random_state : int, default=0
        Seed of UMAP, and of the draw of samples.
    most_fitted : int, default=20,000
        Of more samples as many are drawn.

    Returns
    -------
    ndarray of shape (n_samples, 2)
        NaN for samples that were not drawn.

    Raises
    ------
    MicrodlError
        If umap-learn is not installed or there are too few samples.
    """
    if not umap_is_installed():
        raise MicrodlError("UMAP needs the package umap-learn: pip install umap-learn.")
    if codes.shape[0] < _LEAST_FOR_UMAP:
        raise MicrodlError(f"UMAP needs at least {_LEAST_FOR_UMAP} units.")
    drawn = drawn_rows(codes.shape[0], most_fitted, random_state)
    places = np.full((codes.shape[0], 2), np.nan, np.float32)
    neighbours = min(_NEIGHBOURS, len(drawn) - 1)
    few = sparse.csr_matrix(codes[drawn])
    places[drawn] = call_in_child(fit_umap, few, neighbours, random_state)
    return places


def fit_umap(codes: sparse.csr_matrix, neighbours: int, random_state: int) -> NDArray[np.float32]:
    """UMAP of all samples, in one go.

    Parameters
    ----------
    codes : csr_matrix of shape (n_samples, n_concepts)
        Codes.
    neighbours : int
        Of each sample.
    random_state : int
        Seed.

    Returns
    -------
    ndarray of shape (n_samples, 2)
    """
    # Imported in the process that needs it; most of its time it compiles.
    from umap import UMAP

    umap = UMAP(neighbours, metric="cosine", random_state=random_state, n_jobs=1)
    places: NDArray[np.float32] = umap.fit_transform(codes)
    return places
