"""Tokens of fields: tiles go through the model and are stitched into one grid."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.config import ChannelTokens, Orientations, ScalingMode, Site
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field
from napari_microdl.fields.intensity import IntensityScaling
from napari_microdl.models.base import TokenModel
from napari_microdl.models.channels import in_order_of
from napari_microdl.models.registry import load_model
from napari_microdl.tokens.cache import TokenCache
from napari_microdl.tokens.estimate import tiles_at_once
from napari_microdl.tokens.grid import TokenGrid, TokenStorage
from napari_microdl.tokens.orientations import oriented_tokens
from napari_microdl.tokens.out_of_memory import MemoryLimited
from napari_microdl.tokens.tiles import (
    ScaledImage,
    TileCutter,
    TilePlan,
    check_channel_tokens,
    check_wants,
)


def embed_field(
    image: ScaledImage | NDArray[np.float32],
    model: TokenModel,
    plan: TilePlan,
    *,
    layer: int | None = None,
    site: Site = "residual",
    channel_tokens: ChannelTokens = "concat",
    orientations: Orientations = 1,
    batch_size: int = 8,
    cache: TokenCache | None = None,
    storage: TokenStorage | None = None,
) -> TokenGrid:
    """Tokens of one scaled image; tiles are the steps of its progress.

    Parameters
    ----------
    image : ScaledImage or ndarray of shape (channels, height, width)
        Scaled intensities, about 0 to 1.
    model : TokenModel
        Frozen encoder.
    plan : TilePlan
        How to cut the image.
    layer : int, optional
        Layer to read; the model's default where not given.
    site : {"residual", "attention"}
        Where in the block to read (paper, section 3).
    channel_tokens : {"concat", "mean"}
        Whether the tokens of the channels of a patch are put one after the other or averaged.
    orientations : {1, 8}
        Whether tokens are those of the tiles as they lie, or the means over their eight
        orientations.
    batch_size : int, default=8
        Tiles of one channel a forward pass; of several channels at least one tile. Halved where
        memory runs out.
    cache : TokenCache, optional
        Where tokens seen before are kept; nowhere where not given.
    storage : TokenStorage, optional
        Where the grid is kept, with others of the same run.

    Returns
    -------
    TokenGrid
        d is the model's width, times the number of its token channels for ``"concat"``.

    Raises
    ------
    MicrodlError
        If the model does not take these channels or tiles, or memory does not suffice.
    """
    layer = model.spec.default_layer if layer is None else layer
    grids = embed_layers(
        image,
        model,
        plan,
        (layer,),
        site=site,
        channel_tokens=channel_tokens,
        orientations=orientations,
        batch_size=batch_size,
        cache=cache,
        storage=storage,
    )
    return grids[layer]


def embed_layers(
    image: ScaledImage | NDArray[np.float32],
    model: TokenModel,
    plan: TilePlan,
    layers: Sequence[int],
    *,
    site: Site = "residual",
    channel_tokens: ChannelTokens = "concat",
    orientations: Orientations = 1,
    batch_size: int = 8,
    cache: TokenCache | None = None,
    storage: TokenStorage | None = None,
) -> dict[int, TokenGrid]:
    """Tokens of several layers of one scaled image; otherwise as `embed_field`.

    Parameters
    ----------
    image, model, plan, site, channel_tokens, orientations, batch_size, cache, storage
        As for `embed_field`.
    layers : sequence of int
        Layers to read, from 1.

    Returns
    -------
    dict of int to TokenGrid
    """
    check_channel_tokens(channel_tokens)
    if batch_size < 1:
        raise MicrodlError(f"Batch size {batch_size} is not possible; use 1 or more.")
    channels, height, width = image.shape
    spec = model.spec
    if not spec.weights_sha256:
        # Nothing would tell tokens of these weights from those of others.
        cache = None
    check_wants(spec, plan, channels)
    if not isinstance(model, MemoryLimited):
        model = MemoryLimited(model)
    token_channels = spec.channels.n_token_channels(channels)
    d = spec.dim * (token_channels if channel_tokens == "concat" else 1)
    grid_shape = plan.grid_shape((height, width))
    storage = storage or TokenStorage()
    cutter = TileCutter(image, plan)
    origins = plan.origins((height, width))
    n_tiles = tiles_at_once(batch_size, spec, channels)
    with ExitStack() as stack:
        writers = {
            layer: stack.enter_context(closing(storage.writer((*grid_shape, d))))
            for layer in layers
        }
        for start in range(0, len(origins), n_tiles):
            batch = origins[start : start + n_tiles]
            tiles = cutter.cut(batch)
            found = _inner_tokens(tiles, model, tuple(layers), site, plan, orientations, cache)
            for layer, blocks in found.items():
                for (i, j), block in zip(batch, blocks, strict=True):
                    joined = (
                        block.mean(0)
                        if channel_tokens == "mean"
                        else np.moveaxis(block, 0, 2).reshape(*block.shape[1:3], d)
                    )
                    writers[layer].put(i, j, joined)
            current_task().progress(start + len(batch), len(origins))
        tokens = {layer: writer.finish() for layer, writer in writers.items()}
    position = _positions(plan, grid_shape)
    return {
        layer: TokenGrid(tokens[layer], position, plan.patch_size, (height, width))
        for layer in layers
    }


def _inner_tokens(
    tiles: NDArray[np.float32],
    model: MemoryLimited,
    layers: tuple[int, ...],
    site: Site,
    plan: TilePlan,
    orientations: Orientations,
    cache: TokenCache | None,
) -> dict[int, NDArray[np.float32]]:
    """Tokens without their halo, shape (n, token_channels, inner, inner, dim), of every layer."""
    found: dict[int, NDArray[np.float32]] = {}
    keys: dict[int, str] = {}
    if cache is not None:
        # Names tell the precision that is used, so a trial that chooses it comes before the first.
        model.settle_precision(tiles, layers, site)
        for layer in layers:
            keys[layer] = cache.key(tiles, model, layer, site, plan, orientations)
            known = cache.get(keys[layer])
            if known is not None:
                found[layer] = known
    missing = [layer for layer in layers if layer not in found]
    if missing:
        inside = slice(plan.halo, plan.halo + plan.inner)
        read = oriented_tokens(model, tiles, missing, site, orientations)
        for layer, tokens in read.items():
            _check_shape(tokens, tiles, model, plan)
            found[layer] = tokens[:, :, inside, inside]
            if cache is not None:
                cache.put(keys[layer], found[layer])
    return found


def _check_shape(
    tokens: NDArray[np.float32], tiles: NDArray[np.float32], model: TokenModel, plan: TilePlan
) -> None:
    n, channels = tiles.shape[:2]
    token_channels = model.spec.channels.n_token_channels(channels)
    wanted = (n, token_channels, plan.tile_tokens, plan.tile_tokens, model.spec.dim)
    if tokens.shape != wanted:
        raise MicrodlError(
            f"The model '{model.spec.title}' made tokens of the shape {tuple(tokens.shape)} where "
            f"its spec says {wanted}; correct one of them."
        )


def _positions(plan: TilePlan, grid_shape: tuple[int, int]) -> NDArray[np.int32]:
    """Place in the model's own grid that every token of a field was computed at."""
    inside = slice(plan.halo, plan.halo + plan.inner)
    places = np.arange(plan.tile_tokens**2, dtype=np.int32).reshape(2 * (plan.tile_tokens,))
    rows, columns = (-(-n // plan.inner) for n in grid_shape)
    return np.tile(places[inside, inside], (rows, columns))[: grid_shape[0], : grid_shape[1]]


def embed(
    fields: Sequence[Field],
    model: TokenModel | str = "builtin",
    *,
    channels: tuple[str, ...] | None = None,
    layer: int | None = None,
    site: Site = "residual",
    scaling: ScalingMode = "image",
    channel_tokens: ChannelTokens = "concat",
    tile_size: int | None = None,
    halo: int = 2,
    orientations: Orientations = 1,
    batch_size: int = 8,
    cache: TokenCache | None = None,
    storage: TokenStorage | None = None,
) -> list[TokenGrid]:
    """Patch tokens of several fields.

    Parameters
    ----------
    fields : sequence of Field
        What to embed.
    model : TokenModel or str, default="builtin"
        Encoder, or its name in the registry.
    channels : tuple of str, optional
        Channels to use, in this order, which is the model's where it names them; where not given,
        those that a model wants by their names, and all for one that takes any.
    layer : int, optional
        Layer to read, from 1; the model's default where not given.
    site : {"residual", "attention"}
        Where in the block to read (paper, section 3).
    scaling : {"image", "plate"}
        Over what background and mean intensity are measured.
    channel_tokens : {"concat", "mean"}
        How the tokens of the channels of a patch are joined.
    tile_size : int, optional
        Edge of a tile in pixels; the model's native size where not given.
    halo : int, default=2
        Tokens thrown away along the edges of a tile.
    orientations : {1, 8}
        As for `embed_field`.
    batch_size : int, default=8
        Tiles of one channel a forward pass; of several channels at least one tile. Halved where
        memory runs out.
    cache : TokenCache, optional
        Where tokens seen before are kept; nowhere where not given.
    storage : TokenStorage, optional
        Where the grids are kept; in memory up to 512 MiB, and in files after that, where not given.

    Returns
    -------
    list of TokenGrid
        One a field. What tokens owe to their place in the tile is still in them, so that seams
        between tiles show; `PositionComponent` takes it off, as in a run.

    Raises
    ------
    MicrodlError
        If an image holds NaN, is constant or lacks a channel, names leave a doubt about a channel
        of the model, the model does not take the channels or the tiles, or an option is not known.
    """
    if isinstance(model, str):
        model = load_model(model)
    if channels is None and fields:
        channels = in_order_of(model.spec, fields[0].channel_names)
    plan = TilePlan(model.spec.patch_size, tile_size or model.spec.tile_size, halo)
    scaler = IntensityScaling(scaling, curve=model.spec.intensity).fit(fields, channels)
    model = MemoryLimited(model)
    storage = storage or TokenStorage()
    grids = []
    for index, field in enumerate(fields):
        with current_task().step(index, len(fields), f"Reading patches of {field.name}"):
            grid = embed_field(
                ScaledImage(field, scaler, index, channels),
                model,
                plan,
                layer=layer,
                site=site,
                channel_tokens=channel_tokens,
                orientations=orientations,
                batch_size=batch_size,
                cache=cache,
                storage=storage,
            )
        grids.append(grid)
    return grids
