from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.spatial.distance import pdist

from core.refusals import refusal
from napari_microdl.concepts import projection
from napari_microdl.core.errors import MicrodlError


def codes(n: int = 60) -> sparse.csr_array:
    random = np.random.default_rng(0)
    return sparse.csr_array(
        random.random((n, 9)) * (random.random((n, 9)) < 0.3) * np.arange(1, 10)
    )


def test_places_and_shares_are_those_of_a_singular_value_decomposition():
    x = codes()
    places, share = projection.pca_map(x)
    centred = x.toarray() - x.toarray().mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    expected = u[:, :2] * s[:2]
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-5)
    np.testing.assert_allclose(pdist(places), pdist(expected), atol=1e-4)
    np.testing.assert_allclose(share, s[:2] ** 2 / (s**2).sum())


def test_of_many_units_a_draw_is_fitted_and_all_are_placed():
    x = codes()
    places, _ = projection.pca_map(x, most_fitted=40)
    assert places.shape == (60, 2)
    again, _ = projection.pca_map(x, most_fitted=40)
    np.testing.assert_array_equal(places, again)
    # All are projected by one linear map, so places follow from codes.
    dense = np.column_stack([x.toarray(), np.ones(60)])
    fit, *_ = np.linalg.lstsq(dense, places, rcond=None)
    np.testing.assert_allclose(dense @ fit, places, atol=1e-5)


def test_too_few_units_are_said():
    with pytest.raises(MicrodlError, match="at least 3 units and 3 concepts; here are 2 and 9"):
        projection.pca_map(codes(2))


def test_umap_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(projection.importlib.util, "find_spec", lambda name: None)
    assert "pip install umap-learn" in refusal(projection.umap_map, codes())


# What umap-learn says on import without tensorflow, which only its parametric kind needs.
UMAP_IMPORT = "ignore:Tensorflow not installed:ImportWarning"


@pytest.mark.filterwarnings(UMAP_IMPORT)
def test_umap_keeps_neighbours_together_and_repeats_itself(monkeypatch):
    pytest.importorskip("umap")
    random = np.random.default_rng(0)
    kind = np.repeat([0, 1, 2], 30)
    dense = random.random((90, 9)) * 0.2
    dense[np.arange(90), 3 * kind] += 1
    x = sparse.csr_array(dense.astype(np.float32))
    # Not in a process of its own, as in the window: so UMAP is compiled once for all.
    monkeypatch.setattr(projection, "call_in_child", lambda work, *arguments: work(*arguments))
    drawn = np.isfinite(projection.umap_map(x, most_fitted=40))
    assert drawn.all(axis=1).sum() == drawn.any(axis=1).sum() == 40
    places = projection.umap_map(x)
    centres = np.stack([places[kind == k].mean(axis=0) for k in range(3)])
    nearest = np.linalg.norm(places[:, None] - centres, axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(nearest, kind)
    np.testing.assert_array_equal(projection.umap_map(x), places)
    # The fewest that it takes.
    assert np.isfinite(projection.umap_map(x[:4])).all()
    assert "at least 4 units" in refusal(projection.umap_map, x[:3])
