"""What a comparison with an independent implementation is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.refusals import refusal
from napari_microdl.models.encoder import EncoderModel
from napari_microdl.models.registry import load_model

IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
TRANSFORMERS, SECOND = "transformers", "second implementation"
Tokens = dict[tuple[int, str], np.ndarray]


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference over all layers and sites, and the largest token value."""

    largest: float
    scale: float


@dataclass(frozen=True)
class Case:
    name: str
    against: str
    measure: Callable[[Path], Difference]

    def __str__(self) -> str:
        return self.name


def compare(model: EncoderModel, tiles: np.ndarray, expected: Tokens) -> Difference:
    """Every layer and site; `expected` holds arrays of the shape of the tokens."""
    largest, scale = 0.0, 0.0
    layers = range(1, model.spec.depth + 1)
    assert set(expected) == {(k, s) for k in layers for s in ("attention", "residual")}
    for site in ("attention", "residual"):
        for layer, tokens in model.tokens_of_layers(tiles, layers, site).items():
            wanted = expected[layer, site]
            assert tokens.shape == wanted.shape
            largest = max(largest, float(np.abs(tokens - wanted).max()))
            scale = max(scale, float(np.abs(wanted).max()))
    return Difference(largest, scale)


def tiles_of(channels: int, height: int, width: int | None = None, n: int = 2) -> np.ndarray:
    return np.random.default_rng(5).random((n, channels, height, width or height), np.float32)


def tokens_of(folder: Path, layer: int = 3) -> np.ndarray:
    """Of two channels of a folder's model."""
    return load_model(str(folder), device="cpu").tokens(tiles_of(2, 56), layer, "residual")


def refused(place: Path | str, **options: Any) -> str:
    """The sentence that a model is refused with."""
    return refusal(load_model, place, device="cpu", **options)
