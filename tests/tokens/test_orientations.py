"""Tokens averaged over the orientations of a tile turn with the image."""

from __future__ import annotations

import numpy as np
import pytest

from napari_microdl.models.registry import load_model
from napari_microdl.tokens import TilePlan, TokenCache, embed_field

EDGE = 64
RNG = np.random.default_rng(0)
IMAGE = RNG.random((1, EDGE, EDGE)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return load_model("random-init", device="cpu", seed=1)


def tokens_of(model, image, orientations, cache=None):
    plan = TilePlan(model.spec.patch_size, EDGE, 0)
    options = {"layer": 2, "orientations": orientations, "cache": cache}
    return np.asarray(embed_field(image, model, plan, **options).tokens)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flipped", [False, True])
def test_tokens_turn_with_the_image(model, turns, flipped):
    def turned(array, axes):
        array = np.rot90(array, turns, axes)
        return np.ascontiguousarray(np.flip(array, axes[1]) if flipped else array)

    seen = tokens_of(model, turned(IMAGE, (1, 2)), 8)
    expected = turned(tokens_of(model, IMAGE, 8), (0, 1))
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_as_it_lies_a_turned_image_has_other_tokens(model):
    plain = np.rot90(tokens_of(model, IMAGE, 1), 1, (0, 1))
    turned = tokens_of(model, np.ascontiguousarray(np.rot90(IMAGE, 1, (1, 2))), 1)
    assert np.abs(plain - turned).max() > 0.01


def test_the_cache_keeps_both_apart(model, tmp_path):
    cache = TokenCache(tmp_path)
    plain, mean = (tokens_of(model, IMAGE, n, cache) for n in (1, 8))
    for n, expected in ((1, plain), (8, mean)):
        np.testing.assert_array_equal(tokens_of(model, IMAGE, n, cache), expected)
    assert cache.hits == 2
    assert np.abs(plain - mean).max() > 0.01
