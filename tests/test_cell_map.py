from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.spatial.distance import pdist

from napari_microdl import cell_map
from napari_microdl.errors import MicrodlError


def codes(n: int = 60) -> sparse.csr_array:
    random = np.random.default_rng(0)
    return sparse.csr_array(
        random.random((n, 9)) * (random.random((n, 9)) < 0.3) * np.arange(1, 10)
    )


def test_places_and_shares_are_those_of_a_singular_value_decomposition():
    x = codes()
    places, share = cell_map.pca_map(x)
    centred = x.toarray() - x.toarray().mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    expected = u[:, :2] * s[:2]
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-5)
    np.testing.assert_allclose(pdist(places), pdist(expected), atol=1e-4)
    np.testing.assert_allclose(share, s[:2] ** 2 / (s**2).sum())


def test_of_many_units_a_draw_is_fitted_and_all_are_placed(monkeypatch):
    monkeypatch.setattr(cell_map, "_MOST_FITTED", 40)
    x = codes()
    places, _ = cell_map.pca_map(x)
    assert places.shape == (60, 2)
    again, _ = cell_map.pca_map(x)
    np.testing.assert_array_equal(places, again)
    # All are projected by one linear map, so places follow from codes.
    dense = np.column_stack([x.toarray(), np.ones(60)])
    fit, *_ = np.linalg.lstsq(dense, places, rcond=None)
    np.testing.assert_allclose(dense @ fit, places, atol=1e-5)


def test_too_few_units_are_said():
    with pytest.raises(MicrodlError, match="at least 3 units and 3 concepts; here are 2 and 9"):
        cell_map.pca_map(codes(2))


def test_umap_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(cell_map.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MicrodlError, match="pip install umap-learn"):
        cell_map.umap_map(codes())
