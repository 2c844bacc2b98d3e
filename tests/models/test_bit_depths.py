"""Images of any bit depth reach a model as the bytes that it was trained on.

The other side is the published input of bytes and the second implementation; neither the scaling of
intensities nor the recipe of the model has a part in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models import published, published_input
from models.second_cases import FAMILIES
from napari_microdl.fields.field import Field
from napari_microdl.models.loading import load_published
from napari_microdl.tokens import embed

CHANNELS = {
    "openphenom": 3,
    "mae-vitl8": 6,
    "cell-dino-cp": 5,
    "channelvit-sampling": 5,
    "dinov2": 3,
    "unidino": 2,
}


def cells_and_background(channels: int, edge: int) -> np.ndarray:
    """Bytes of two tiles side by side: one with cells, one with hardly anything.

    In every channel 2 in 100 pixels are 0 and 1 in 100 are 255, so that the ends of the scale are
    known whatever a few pixels beyond them do.
    """
    rng = np.random.default_rng(3)
    cells = rng.integers(0, 240, (channels, edge, edge))
    background = rng.integers(0, 4, (channels, edge, edge))
    some = edge**2 // 50 + 1
    for plane, empty in zip(cells, background, strict=True):
        plane.flat[rng.choice(edge**2, some, replace=False)] = 255
        empty.flat[rng.choice(edge**2, 2 * some, replace=False)] = 0
    return np.concatenate([cells, background], axis=-1)


def with_outliers(pixels: np.ndarray) -> np.ndarray:
    """A camera of 12 bits with an offset, a hot pixel and three dead ones in every channel."""
    image = (100 + 16 * pixels).astype(np.uint16)
    for plane, before in zip(image, pixels, strict=True):
        plane.flat[np.flatnonzero(before == 255)[0]] = 60_000
        plane.flat[np.flatnonzero(before == 0)[:3]] = 2
    return image


CAMERAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "8 bit": lambda pixels: pixels.astype(np.uint8),
    "16 bit": lambda pixels: (257 * pixels).astype(np.uint16),
    "12 bit with outliers": with_outliers,
    "float": lambda pixels: (pixels / 7 + 3.5).astype(np.float32),
}


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("name", CHANNELS)
def test_images_of_any_depth_give_the_tokens_of_the_published_input(
    name: str, camera: str, tmp_path: Path
):
    family = FAMILIES[name].small()
    state = family.state(family.recipe.config)
    model = load_published(family.recipe, published.write(state, tmp_path / "w.pth"), "cpu", "fp32")
    edge, depth = model.spec.tile_size, model.spec.depth
    pixels = cells_and_background(CHANNELS[name], edge)
    names = tuple(f"channel {c}" for c in range(len(pixels)))
    field = Field(data=CAMERAS[camera](pixels), channel_names=names, name="field")
    (grid,) = embed([field], model, channels=names, layer=depth, halo=0)
    tiles = np.stack([pixels[..., :edge], pixels[..., edge:]])
    wanted = family.tokens(state, tiles)[depth, "residual"]
    # Tiles side by side, and the channels of a patch in one token.
    wanted = wanted.transpose(2, 0, 3, 1, 4).reshape(3, 6, -1)
    assert grid.tokens.shape == wanted.shape
    np.testing.assert_allclose(grid.tokens, wanted, atol=1e-5 * np.abs(wanted).max())


def test_openphenom_would_see_another_image_if_bytes_were_not_divided():
    background = cells_and_background(1, 48)[None, ..., 48:]
    published_one = published_input.openphenom(background)
    assert np.abs(published_input.openphenom(255 * background) - published_one).max() > 0.1
