"""What reading tokens will take, told by a run and before it by the window."""

from __future__ import annotations

from collections.abc import Sequence

from napari_microdl.core.config import PipelineConfig
from napari_microdl.models.base import ModelSpec
from napari_microdl.tokens import EmbeddingEstimate, TilePlan, estimate_embedding


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
        TilePlan(model.patch_size, config.tokens.tile_size or model.tile_size, config.tokens.halo),
        channel_tokens=config.tokens.channel_tokens,
        batch_size=config.model.batch_size,
        lazy=lazy,
        remove_position=config.tokens.remove_position,
    )
