"""What reading tokens will take, before any has been read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache

import numpy as np

from napari_microdl.core.config import PipelineConfig
from napari_microdl.models.base import ModelSpec
from napari_microdl.pipeline.inputs import layer_of, tile_plan
from napari_microdl.tokens import EmbeddingEstimate, estimate_embedding

# Of the rate of one large product, what a vision transformer reaches: 0.65 for the built-in model,
# 0.84 to 0.90 for DINOv2 S and B (docs/embedding.md).
_SHARE_OF_RATE = 0.75
# The product is as large as one of a batch of tiles, and takes some hundredths of a second.
_ROWS, _WIDTH = 1024, 768
_REPEATS = 3


def estimate_run(
    shapes: Sequence[tuple[int, int]],
    n_channels: int,
    model: ModelSpec,
    config: PipelineConfig,
    *,
    lazy: bool,
) -> EmbeddingEstimate:
    """How many tiles a run will read, and what memory and disk space that will take.

    Parameters
    ----------
    shapes : sequence of (int, int)
        Height and width of every field in pixels.
    n_channels : int
        Channels that the model sees.
    model : ModelSpec
        The model.
    config : PipelineConfig
        Settings, those of a dictionary that is applied filled in.
    lazy : bool
        Whether any image is read from a file while the run goes on.

    Returns
    -------
    EmbeddingEstimate

    Raises
    ------
    MicrodlError
        If tiles cannot be cut so.
    """
    return estimate_embedding(
        shapes,
        n_channels,
        model,
        tile_plan(model, config),
        channel_tokens=config.tokens.channel_tokens,
        batch_size=config.model.batch_size,
        lazy=lazy,
        remove_position=config.tokens.remove_position,
    )


@cache
def processor_rate() -> float:
    """Floating-point operations a second, all threads together, measured once a process."""
    a, b = np.ones((_ROWS, _WIDTH), np.float32), np.ones((_WIDTH, _ROWS), np.float32)
    best = np.inf
    for _ in range(_REPEATS):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2.0 * _ROWS * _WIDTH * _ROWS / best


def operations(n_tiles: int, n_channels: int, model: ModelSpec, config: PipelineConfig) -> float:
    """Floating-point operations of a vision transformer on tiles, up to the layer that is read.

    Counted are the products: of the weights, with an MLP four times as wide as a token, and of
    attention. Channels that see each other cost more attention than is counted.
    """
    layers = layer_of(model, config)
    tokens = ((config.tokens.tile_size or model.tile_size) // model.patch_size) ** 2
    each = 24.0 * model.dim**2 + 4.0 * tokens * model.dim
    seen = n_tiles * config.tokens.orientations * model.channels.n_token_channels(n_channels)
    return seen * layers * tokens * each


def estimate_seconds(
    n_tiles: int, n_channels: int, model: ModelSpec, config: PipelineConfig, *, rate: float
) -> float:
    """Seconds that reading tokens will take on a processor of a rate, by its arithmetic alone."""
    return operations(n_tiles, n_channels, model, config) / (_SHARE_OF_RATE * rate)
