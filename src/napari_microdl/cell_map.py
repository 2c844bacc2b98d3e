"""A flat map of samples by their activations."""

from __future__ import annotations

import importlib.util

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.errors import MicrodlError

# The components are fitted on so many samples at most; all samples are projected.
_MOST_FITTED = 20_000
_LEAST = 3
_LEAST_FOR_UMAP = 4


def pca_map(
    codes: sparse.csr_array, random_state: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """First two principal components of codes.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes; never unpacked.
    random_state : int, default=0
        Of the solver, and of the draw of samples where there are more than 20,000.

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

    codes = codes.astype(np.float64)
    fitted = codes
    if n > _MOST_FITTED:
        random = np.random.default_rng(random_state)
        fitted = codes[np.sort(random.choice(n, _MOST_FITTED, replace=False))]
    pca = PCA(2, svd_solver="arpack", random_state=random_state).fit(fitted)
    return pca.transform(codes).astype(np.float32), pca.explained_variance_ratio_


def umap_is_installed() -> bool:
    """Whether the package umap-learn can be imported."""
    return importlib.util.find_spec("umap") is not None


def umap_map(codes: sparse.csr_array, random_state: int = 0) -> NDArray[np.float32]:
    """UMAP of codes, with the cosine as distance.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes.
    random_state : int, default=0
        Seed.

    Returns
    -------
    ndarray of shape (n_samples, 2)

    Raises
    ------
    MicrodlError
        If umap-learn is not installed or there are too few samples.
    """
    if not umap_is_installed():
        raise MicrodlError("UMAP needs the package umap-learn: pip install umap-learn.")
    if codes.shape[0] < _LEAST_FOR_UMAP:
        raise MicrodlError(f"UMAP needs at least {_LEAST_FOR_UMAP} units.")
    from umap import UMAP

    places: NDArray[np.float32] = UMAP(metric="cosine", random_state=random_state).fit_transform(
        sparse.csr_matrix(codes)
    )
    return places
