"""Models and readers that are simple enough to be predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from napari_microdl.models.base import ChannelRule, ModelSpec
from napari_microdl.tokens import TilePlan


def spec(patch_size: int = 4, **changes: Any) -> ModelSpec:
    facts = {
        "model_id": "patch-mean",
        "title": "Patch mean",
        "dim": 2,
        "depth": 3,
        "default_layer": 1,
        "tile_size": 4 * patch_size,
        "weights_sha256": "none",
        "licence": "none",
        "source": "none",
    }
    return ModelSpec(patch_size=patch_size, **{**facts, **changes})


class PatchMean:
    """A token is the mean of its patch times the layer, and its place in the tile."""

    def __init__(self, patch_size: int = 4, **changes: Any) -> None:
        self.spec = spec(patch_size, **changes)
        self.batches: list[tuple[int, ...]] = []

    def tokens(self, tiles: np.ndarray, layer: int, site: str) -> np.ndarray:
        self.batches.append(tiles.shape)
        n, channels, height, width = tiles.shape
        p = self.spec.patch_size
        rows, columns = height // p, width // p
        means = tiles.reshape(n, channels, rows, p, columns, p).mean((3, 5))
        if self.spec.channels.joint:
            means = means.mean(1, keepdims=True)
        place = np.broadcast_to(np.arange(rows * columns).reshape(rows, columns), means.shape)
        return np.stack([layer * means, place], axis=-1).astype(np.float32)


JOINT = ChannelRule(names=("red", "green", "blue"), joint=True, least=3, most=3)


def reflected(image: np.ndarray, y: int, x: int) -> np.ndarray:
    """The pixel at any place of an image that goes on in mirrors, edges not repeated."""
    places = []
    for place, length in ((y, image.shape[1]), (x, image.shape[2])):
        while not 0 <= place < length:
            place = 0 if length == 1 else -place if place < 0 else 2 * (length - 1) - place
        places.append(place)
    return image[:, places[0], places[1]]


def tile_at(image: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    return np.stack(
        [
            np.stack([reflected(image, top + y, left + x) for x in range(size)], axis=1)
            for y in range(size)
        ],
        axis=1,
    )


plans = st.builds(
    lambda patch, tokens, halo: TilePlan(patch, patch * tokens, min(halo, (tokens - 1) // 2)),
    st.integers(1, 5),
    st.integers(1, 7),
    st.integers(0, 3),
)
shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))
