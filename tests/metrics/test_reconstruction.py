from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import r2_score
from sklearn.metrics.pairwise import paired_cosine_distances

from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.metrics import (
    codes_of,
    largest_codes,
    reconstruction_cosine,
    reconstruction_curve,
    reconstruction_r2,
)
from references import dense_codes, matching_pursuit, planted_dictionary


@given(seed=st.integers(0, 300), n=st.integers(2, 20))
def test_cosine_and_r2_are_those_of_scikit_learn(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)) + 3
    y = x + rng.normal(size=(n, 4))
    assert reconstruction_cosine(x, y) == pytest.approx(1 - paired_cosine_distances(x, y).mean())
    assert reconstruction_r2(x, y) == pytest.approx(r2_score(x, y, multioutput="variance_weighted"))


def test_what_has_no_cosine_or_variance():
    assert reconstruction_cosine(np.eye(2), np.array([[1.0, 0], [0, 0]])) == 0.5
    assert np.isnan(reconstruction_cosine(np.empty((0, 2)), np.empty((0, 2))))
    assert np.isnan(reconstruction_r2(np.ones((3, 2)), np.ones((3, 2))))


@given(seed=st.integers(0, 300), k=st.integers(1, 6))
def test_the_largest_codes_stay(seed, k):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-3, 4, (7, 5)).astype(float)
    kept = largest_codes(sparse.csr_array(codes), k).toarray()
    for before, after in zip(codes, kept, strict=True):
        order = np.argsort(-np.abs(before), kind="stable")[:k]
        expected = np.zeros(5)
        expected[order] = before[order]
        assert after.tolist() == expected.tolist()
    assert largest_codes(codes, k).toarray().tolist() == kept.tolist()


def fitted(**options: int) -> tuple[ICFL, np.ndarray]:
    _, x = planted_dictionary(3000, 16, 32, 4, seed=0)
    icfl = ICFL(n_atoms=32, random_state=0, **options).fit(x[:2500])
    return icfl, x[2500:]


def test_an_icfl_codes_afresh_with_fewer_picks():
    icfl, x = fitted(n_iterations=3, atoms_per_iteration=2)
    for k, iterations, per_iteration in [(1, 1, 1), (2, 1, 2), (3, 3, 1), (6, 3, 2), (8, 4, 2)]:
        picks = matching_pursuit(
            (x[:40] - icfl.bias_).astype(np.float64),
            icfl.components_,
            iterations,
            per_iteration,
            "signed",
            "final",
            False,
        )
        np.testing.assert_allclose(
            codes_of(icfl, x[:40], k).toarray(), dense_codes(*picks, 32), atol=1e-4
        )
    assert (icfl.n_iterations_, icfl.atoms_per_iteration_) == (3, 2), "the ICFL was changed"
    np.testing.assert_array_equal(codes_of(icfl, x, 6).toarray(), icfl.transform(x).toarray())


def test_the_curve_rises_and_ends_where_the_coder_is():
    icfl, x = fitted(n_iterations=3, atoms_per_iteration=2)
    table = reconstruction_curve(icfl, x, (2, 4, 6))
    assert list(table["k"]) == [2, 4, 6]
    assert (table["non_zeros"] <= table["k"]).all()
    assert table["cosine"].is_monotonic_increasing
    assert table["r2"].is_monotonic_increasing
    back = icfl.inverse_transform(icfl.transform(x))
    assert table["cosine"].iloc[-1] == pytest.approx(1 - paired_cosine_distances(x, back).mean())
    assert table["cosine"].iloc[-1] > 0.9


def test_any_coder_can_be_measured():
    x = np.random.default_rng(0).normal(size=(200, 6)) * np.arange(1, 7)
    pca = PCA().fit(x)

    class Coder:
        def transform(self, X: np.ndarray) -> np.ndarray:
            return pca.transform(X)

        def inverse_transform(self, X: sparse.csr_array) -> np.ndarray:
            return pca.inverse_transform(X.toarray())

    table = reconstruction_curve(Coder(), x, (1, 6))
    # Axes are orthogonal, so what is lost is what was set to zero.
    scores = pca.transform(x)
    lost = 1 - (scores**2).max(axis=1).sum() / (scores**2).sum()
    assert table["r2"].iloc[0] == pytest.approx(1 - lost)
    assert table["r2"].iloc[1] == pytest.approx(1)
    assert list(table["non_zeros"]) == [1, 6]


def test_nothing_to_measure_is_refused():
    for x, ks in [(np.empty((0, 6)), (1,)), (np.eye(6), (0, 1)), (np.eye(6), ())]:
        with pytest.raises(MicrodlError, match="takes one sample or more"):
            reconstruction_curve(PCA(), x, ks)
