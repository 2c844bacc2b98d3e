"""Fields to grids of patch tokens: tiles of native size with a halo, stitched into one grid."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_microdl.errors import MicrodlError
from napari_microdl.fields import Field
from napari_microdl.models.base import Site, TokenModel
from napari_microdl.models.registry import load_model
from napari_microdl.scaling import IntensityScaling, ScalingMode

ChannelTokens = Literal["concat", "mean"]


@dataclass(frozen=True, eq=False)
class TokenGrid:
    """Patch tokens of one field.

    Parameters
    ----------
    tokens : ndarray of shape (grid_h, grid_w, d)
        float32. ``tokens[i, j]`` stands for the patch whose first pixel is ``[i * p, j * p]``.
    position : ndarray of shape (grid_h, grid_w)
        Index of the place in the model's own grid that each token was computed at.
    patch_size : int
        Edge `p` of a patch in pixels.
    image_shape : tuple of int
        Height and width of the field in pixels; the last row and column of patches may stick out.
    """

    tokens: NDArray[np.float32]
    position: NDArray[np.int32]
    patch_size: int
    image_shape: tuple[int, int]


@dataclass(frozen=True)
class TilePlan:
    """How a field is cut into tiles that the model sees one at a time.

    Parameters
    ----------
    patch_size : int
        Edge of a patch in pixels.
    tile_size : int
        Edge of a tile in pixels, a multiple of `patch_size`.
    halo : int
        Tokens thrown away along every edge of a tile, where the model sees too little around them.
    """

    patch_size: int
    tile_size: int
    halo: int

    def __post_init__(self) -> None:
        if self.tile_size <= 0 or self.tile_size % self.patch_size:
            raise MicrodlError(
                f"Tile size {self.tile_size} px is not a multiple of the patch size "
                f"{self.patch_size} px."
            )
        if self.halo < 0 or self.inner < 1:
            raise MicrodlError(
                f"A halo of {self.halo} tokens leaves nothing of a tile of {self.tile_tokens} "
                "tokens; take a smaller halo or a larger tile."
            )

    @property
    def tile_tokens(self) -> int:
        """Tokens along the edge of a tile."""
        return self.tile_size // self.patch_size

    @property
    def inner(self) -> int:
        """Tokens kept along the edge of a tile."""
        return self.tile_tokens - 2 * self.halo

    def grid_shape(self, image_shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tokens that cover an image."""
        height, width = image_shape
        return -(-height // self.patch_size), -(-width // self.patch_size)

    def origins(self, image_shape: tuple[int, int]) -> list[tuple[int, int]]:
        """Row and column, in tokens, of the first kept token of every tile."""
        rows, columns = self.grid_shape(image_shape)
        return [(i, j) for i in range(0, rows, self.inner) for j in range(0, columns, self.inner)]


def embed_field(
    image: NDArray[np.float32],
    model: TokenModel,
    plan: TilePlan,
    *,
    layer: int | None = None,
    site: Site = "residual",
    channel_tokens: ChannelTokens = "concat",
    batch_size: int = 8,
) -> Generator[int, None, TokenGrid]:
    """Tokens of one scaled image, batch of tiles by batch of tiles.

    Parameters
    ----------
    image : ndarray of shape (channels, height, width)
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
    batch_size : int, default=8
        Tiles of one channel a forward pass; of several channels at least one tile.

    Yields
    ------
    int
        Tiles done so far; stop iterating to cancel.

    Returns
    -------
    TokenGrid
        d is the model's width, times the number of channels for ``"concat"``.
    """
    if channel_tokens not in get_args(ChannelTokens):
        raise MicrodlError(f"Channel tokens '{channel_tokens}' are not known; use concat or mean.")
    if batch_size < 1:
        raise MicrodlError(f"Batch size {batch_size} is not possible; use 1 or more.")
    layer = model.spec.default_layer if layer is None else layer
    channels, height, width = image.shape
    p, halo, inner = plan.patch_size, plan.halo, plan.inner
    grid_h, grid_w = plan.grid_shape((height, width))
    tiles_h, tiles_w = -(-grid_h // inner), -(-grid_w // inner)
    margin = halo * p
    padded = np.pad(
        image,
        (
            (0, 0),
            (margin, tiles_h * inner * p + margin - height),
            (margin, tiles_w * inner * p + margin - width),
        ),
        mode="reflect",
    )
    d = model.spec.dim * (channels if channel_tokens == "concat" else 1)
    whole = np.empty((tiles_h * inner, tiles_w * inner, d), np.float32)
    origins = plan.origins((height, width))
    # Channels are encoded one by one, so they count too: yields stay as close to one another.
    n_tiles = max(1, batch_size // channels)
    for start in range(0, len(origins), n_tiles):
        batch = origins[start : start + n_tiles]
        tiles = np.stack(
            [
                padded[:, i * p : i * p + plan.tile_size, j * p : j * p + plan.tile_size]
                for i, j in batch
            ]
        )
        tokens = model.tokens(tiles, layer, site)
        kept = tokens[:, :, halo : halo + inner, halo : halo + inner]
        for (i, j), block in zip(batch, kept, strict=True):
            joined = (
                block.mean(0)
                if channel_tokens == "mean"
                else np.moveaxis(block, 0, 2).reshape(inner, inner, d)
            )
            whole[i : i + inner, j : j + inner] = joined
        yield start + len(batch)

    places = np.arange(plan.tile_tokens**2, dtype=np.int32).reshape(2 * (plan.tile_tokens,))
    places = places[halo : halo + inner, halo : halo + inner]
    return TokenGrid(
        tokens=whole[:grid_h, :grid_w],
        position=np.tile(places, (tiles_h, tiles_w))[:grid_h, :grid_w],
        patch_size=p,
        image_shape=(height, width),
    )


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
    batch_size: int = 8,
) -> list[TokenGrid]:
    """Patch tokens of several fields.

    Parameters
    ----------
    fields : sequence of Field
        What to embed.
    model : TokenModel or str, default="builtin"
        Encoder, or its name in the registry.
    channels : tuple of str, optional
        Channels to use, in this order; all where not given.
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
    batch_size : int, default=8
        Tiles of one channel a forward pass; of several channels at least one tile.

    Returns
    -------
    list of TokenGrid
        One a field.

    Raises
    ------
    MicrodlError
        If an image holds NaN, is constant or lacks a channel, or an option is not known.
    """
    if isinstance(model, str):
        model = load_model(model)
    plan = TilePlan(model.spec.patch_size, tile_size or model.spec.tile_size, halo)
    scaler = IntensityScaling(scaling).fit(fields, channels)
    grids = []
    for index, field in enumerate(fields):
        image = scaler.apply(index, field.read(field.channel_indices(channels)))
        steps = embed_field(
            image,
            model,
            plan,
            layer=layer,
            site=site,
            channel_tokens=channel_tokens,
            batch_size=batch_size,
        )
        while True:
            try:
                next(steps)
            except StopIteration as finished:
                grids.append(finished.value)
                break
    return grids
