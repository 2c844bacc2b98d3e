from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from napari_microdl.concepts.channel_attribution import channel_correlations
from napari_microdl.concepts.painting import grid_to_pixels
from napari_microdl.core.errors import MicrodlError


@given(st.integers(0, 100), st.sampled_from([np.uint8, np.uint16, np.float32]))
def test_every_channel_is_correlated_as_scipy_does(seed, dtype):
    random = np.random.default_rng(seed)
    heatmap = random.normal(size=(4, 5)).astype(np.float32)
    image = random.integers(0, 200, (3, 30, 39)).astype(dtype)
    image[1] = 7
    pixels = grid_to_pixels(heatmap, 8, (30, 39))
    found = channel_correlations(heatmap, image, 8)
    assert np.isnan(found[1])
    for channel in (0, 2):
        expected = stats.pearsonr(pixels.ravel(), image[channel].ravel().astype(float))
        assert found[channel] == pytest.approx(expected.statistic, abs=1e-6)


def test_a_channel_that_is_the_heatmap_gets_one_and_its_negative_minus_one():
    heatmap = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    pixels = grid_to_pixels(heatmap, 4, (12, 12))
    np.testing.assert_allclose(
        channel_correlations(heatmap, np.stack([pixels * 9 + 2, -pixels]), 4), [1, -1]
    )


def test_a_heatmap_that_says_nothing_follows_no_channel():
    image = np.random.default_rng(0).random((2, 8, 8))
    assert np.isnan(channel_correlations(np.ones((2, 2), np.float32), image, 4)).all()


def test_an_image_without_channels_is_refused():
    with pytest.raises(MicrodlError, match="has 2 dimensions"):
        channel_correlations(np.ones((2, 2), np.float32), np.ones((8, 8)), 4)
