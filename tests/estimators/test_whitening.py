from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

from core.refusals import refusal
from napari_microdl.estimators.whitening import ControlWhitening, FewControlsWarning
from tasks import cancelling


def controls(n_samples=300, n_features=12, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(n_features, n_features)) * np.geomspace(10, 0.1, n_features)
    return rng.normal(size=(n_samples, n_features)) @ mixing + 5 * rng.normal(size=n_features)


@pytest.mark.parametrize("n_components", [None, 5])
def test_without_shrinkage_it_is_pca_up_to_signs(n_components):
    x, treated = controls(), controls(seed=1)
    whitening = ControlWhitening(n_components, shrinkage=0, unit_norm=False).fit(x)
    pca = PCA(n_components, whiten=True, svd_solver="full").fit(x)
    signs = np.sign((whitening.components_ * pca.components_).sum(axis=1))
    assert_allclose(whitening.mean_, pca.mean_)
    assert_allclose(whitening.explained_variance_, pca.explained_variance_, rtol=1e-9)
    assert_allclose(whitening.components_, pca.components_ * signs[:, None], atol=1e-9)
    assert_allclose(whitening.transform(treated), pca.transform(treated) * signs, atol=1e-8)


def test_whitened_controls_have_zero_mean_and_unit_covariance():
    x = controls()
    whitened = ControlWhitening(shrinkage=0, unit_norm=False).fit_transform(x)
    assert_allclose(whitened.mean(axis=0), 0, atol=1e-10)
    assert_allclose(np.cov(whitened, rowvar=False), np.eye(12), atol=1e-10)


def test_shrinkage_adds_a_share_of_the_median_eigenvalue():
    x = controls()
    x[:, 0] *= 1e3
    whitening = ControlWhitening(shrinkage=0.3).fit(x)
    variance = whitening.explained_variance_
    assert_allclose(whitening.scale_, 1 / np.sqrt(variance + 0.3 * np.median(variance)))


def test_the_floor_bounds_the_scale_of_directions_that_controls_hardly_span():
    x = controls()
    x[:, 3] = x[:, 2]
    whitening = ControlWhitening(shrinkage=0, eigenvalue_floor=1e-4).fit(x)
    median = np.median(whitening.explained_variance_[:-1])
    assert_allclose(whitening.scale_[-1], 100 / np.sqrt(median), rtol=1e-9)
    bare = ControlWhitening(shrinkage=0, eigenvalue_floor=0).fit(x)
    assert bare.scale_[-1] == 0
    assert (bare.scale_[:-1] > 0).all()


def test_a_nuisance_adds_to_the_covariance_of_the_controls_however_they_came():
    x, other = controls(), controls(60, seed=3)
    extra = 100 * np.cov(other[:4], rowvar=False)
    plain = {"shrinkage": 0, "unit_norm": False}
    whitening = ControlWhitening(**plain).fit(x).add_nuisance(extra)
    whitened = whitening.transform(x)
    # The sum of both is what comes out with unit variance in all directions.
    back = whitening.components_ * whitening.scale_[:, None]
    assert_allclose(back @ (np.cov(x, rowvar=False) + extra) @ back.T, np.eye(12), atol=1e-8)
    spread = whitening.transform(other[:4]).var(axis=0, ddof=1).sum()
    assert spread < 0.1 * ControlWhitening(**plain).fit(x).transform(other[:4]).var(0, ddof=1).sum()
    streamed = ControlWhitening(**plain).partial_fit(x[:100]).add_nuisance(extra)
    assert_allclose(streamed.partial_fit(x[100:]).transform(x), whitened, atol=1e-8)
    again = ControlWhitening(**plain).fit(x)
    assert_array_equal(whitening.fit(x).transform(x), again.transform(x))


def test_a_nuisance_that_does_not_fit_is_refused():
    whitening = ControlWhitening().fit(controls())
    assert refusal(whitening.add_nuisance, np.eye(3)) == (
        "The covariance of a nuisance has the shape (3, 3), but samples have 12 features."
    )
    stored = ControlWhitening.from_arrays(
        whitening.mean_,
        whitening.components_,
        whitening.explained_variance_,
        whitening.scale_,
        n_samples_seen=300,
    )
    assert "fit a new one instead" in refusal(stored.add_nuisance, np.eye(12))


def test_samples_come_out_at_unit_length_and_the_mean_at_zero():
    x = controls()
    whitening = ControlWhitening().fit(x)
    assert_allclose(np.linalg.norm(whitening.transform(x), axis=1), 1)
    assert_array_equal(whitening.transform(whitening.mean_[None]), 0)


def test_inverse_undoes_all_but_the_length():
    x = controls()
    plain = ControlWhitening(unit_norm=False).fit(x)
    assert_allclose(plain.inverse_transform(plain.transform(x)), x, atol=1e-9)
    whitening = ControlWhitening().fit(x)
    back = whitening.inverse_transform(whitening.transform(x)) - whitening.mean_
    original = x - whitening.mean_
    cosine = (back * original).sum(axis=1)
    cosine /= np.linalg.norm(back, axis=1) * np.linalg.norm(original, axis=1)
    assert_allclose(cosine, 1)


def test_inverse_of_a_direction_that_was_dropped_is_the_mean():
    x = controls()
    x[:, 3] = x[:, 2]
    whitening = ControlWhitening(shrinkage=0, eigenvalue_floor=0, unit_norm=False).fit(x)
    last = np.eye(12)[-1:]
    assert_allclose(whitening.inverse_transform(last)[0], whitening.mean_)


@given(cuts=st.lists(st.integers(1, 299), max_size=6, unique=True))
def test_any_split_into_batches_gives_the_whole(cuts):
    x = controls()
    whole = ControlWhitening().fit(x)
    streamed = ControlWhitening()
    for batch in np.split(x, sorted(cuts)):
        streamed.partial_fit(batch)
    assert streamed.n_samples_seen_ == 300
    assert_allclose(streamed.mean_, whole.mean_, rtol=1e-12)
    assert_allclose(streamed.explained_variance_, whole.explained_variance_, rtol=1e-9)
    assert_allclose(streamed.transform(x), whole.transform(x), atol=1e-9)


def test_a_large_offset_costs_no_precision():
    x = controls()
    whole = ControlWhitening().fit(x)
    shifted = ControlWhitening().fit(x + 1e6)
    assert_allclose(shifted.explained_variance_, whole.explained_variance_, rtol=1e-6)


def test_float32_follows_float64():
    x = controls()
    whitening = ControlWhitening().fit(x)
    single = whitening.transform(x.astype(np.float32))
    assert single.dtype == np.float32
    assert_allclose(single, whitening.transform(x), atol=1e-4)
    assert whitening.transform(x.astype(np.float16)).dtype == np.float32
    assert whitening.inverse_transform(single).dtype == np.float32


def test_more_dimensions_than_controls_warns_and_works():
    x = controls(n_samples=20, n_features=50)
    with pytest.warns(FewControlsWarning, match=r"20 control samples for 50 dimensions, so 31"):
        whitening = ControlWhitening(unit_norm=False).fit(x)
    assert whitening.components_.shape == (50, 50)
    # Directions that the controls do not span get the shrinkage, not an explosion.
    measured = whitening.explained_variance_[:19]
    assert_allclose(whitening.scale_[19:], 1 / np.sqrt(0.1 * np.median(measured)))
    assert np.isfinite(whitening.transform(controls(seed=3, n_features=50))).all()


def test_enough_controls_give_no_warning():
    # A warning is an error of a test.
    ControlWhitening().fit(controls(n_samples=13))


def test_streaming_may_begin_with_one_sample():
    x = controls()
    whitening = ControlWhitening().partial_fit(x[:1])
    assert "at least 2 control samples but got n_samples = 1" in refusal(whitening.transform, x)
    whitening.partial_fit(x[1:])
    assert_allclose(whitening.transform(x), ControlWhitening().fit(x).transform(x), atol=1e-9)


def test_equal_controls_are_refused():
    told = refusal(ControlWhitening().fit, np.full((9, 4), 2.5))
    assert "All 9 control samples are the same" in told


def test_inverse_of_another_width_is_refused():
    whitening = ControlWhitening().fit(controls())
    assert "(n_samples, 12)" in refusal(whitening.inverse_transform, np.zeros((3, 4)))


def test_rebuilt_from_arrays_it_is_the_same():
    x = controls()
    whitening = ControlWhitening(n_components=7).fit(x)
    rebuilt = ControlWhitening.from_arrays(
        whitening.mean_,
        whitening.components_,
        whitening.explained_variance_,
        whitening.scale_,
        n_samples_seen=whitening.n_samples_seen_,
    )
    assert_array_equal(rebuilt.transform(x), whitening.transform(x))
    assert_array_equal(rebuilt.get_feature_names_out(), whitening.get_feature_names_out())
    assert rebuilt.n_samples_seen_ == 300
    assert "fit a new one" in refusal(rebuilt.partial_fit, x)
    assert_array_equal(rebuilt.transform(x), whitening.transform(x))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("mean", np.zeros(3), "do not belong together"),
        ("components", np.zeros(4), "do not belong together"),
        ("scale", np.zeros(3), "do not belong together"),
        ("scale", np.array([1, np.nan]), "NaN"),
    ],
)
def test_damaged_arrays_are_refused(name, array, message):
    good = {
        "mean": np.zeros(4),
        "components": np.eye(4)[:2],
        "explained_variance": np.ones(2),
        "scale": np.ones(2),
    }
    arrays = good | {name: array}
    assert message in refusal(ControlWhitening.from_arrays, **arrays, n_samples_seen=10)


def test_a_fit_that_is_cancelled_changes_nothing():
    # Three pieces are added up.
    x = controls(20_000)
    whitening = ControlWhitening()
    for looks in range(3):
        with cancelling(looks):
            whitening.fit(x)
        with pytest.raises(NotFittedError):
            whitening.transform(x)
        assert not hasattr(whitening, "components_")
    whitening.fit(x[:1000])
    before = whitening.transform(x)
    for looks in range(3):
        with cancelling(looks):
            whitening.partial_fit(x)
    assert_array_equal(whitening.transform(x), before)


def test_a_wide_matrix_is_solved_elsewhere_and_the_warning_arrives():
    x = controls(10, 800)
    with pytest.warns(FewControlsWarning):
        found = ControlWhitening(shrinkage=1.0).fit(x)
    variance = np.linalg.eigvalsh(np.cov(x, rowvar=False))[::-1]
    assert_allclose(found.explained_variance_[:9], variance[:9])
    with cancelling(1):
        ControlWhitening().fit(x)
