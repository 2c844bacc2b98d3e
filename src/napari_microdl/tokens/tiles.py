"""How a field is cut into tiles, and whether a model takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from napari_microdl.core.config import ChannelTokens
from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.base import ModelSpec


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


def check_channel_tokens(channel_tokens: str) -> None:
    """Refuse a way to join channels that does not exist."""
    if channel_tokens not in get_args(ChannelTokens):
        raise MicrodlError(f"Channel tokens '{channel_tokens}' are not known; use concat or mean.")


def check_wants(spec: ModelSpec, plan: TilePlan, n_channels: int) -> None:
    """Refuse channels or tiles that a model does not take.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    plan : TilePlan
        How images are cut.
    n_channels : int
        Channels of the images.

    Raises
    ------
    MicrodlError
        Says what the model takes and what to do.
    """
    rule = spec.channels
    too_many = rule.most is not None and n_channels > rule.most
    if n_channels < rule.least or too_many:
        if rule.most == rule.least:
            wanted = f"{rule.least}"
        elif rule.most is None:
            wanted = f"at least {rule.least}"
        else:
            wanted = f"{rule.least} to {rule.most}"
        names = f" ({', '.join(rule.names)})" if rule.names else ""
        ways = f"choose {'fewer' if too_many else 'more'} channels or another model"
        if rule.subsets and not too_many:
            some = f"{spec.model_id}[{rule.names[0]}]"
            ways = f"name those that are there, as in '{some}', or choose more"
        noun = "channel" if wanted.endswith(" 1") or wanted == "1" else "channels"
        raise MicrodlError(
            f"The model '{spec.title}' takes {wanted} {noun}{names}, but {n_channels} "
            f"{'is' if n_channels == 1 else 'are'} chosen; {ways}."
        )
    if plan.patch_size != spec.patch_size:
        raise MicrodlError(
            f"The tiles are planned for patches of {plan.patch_size} px but the model "
            f"'{spec.title}' has patches of {spec.patch_size} px; plan them for this model."
        )
    if spec.fixed_tile and plan.tile_size != spec.tile_size:
        raise MicrodlError(
            f"The model '{spec.title}' takes tiles of {spec.tile_size} px only, not of "
            f"{plan.tile_size} px; leave the tile size at {spec.tile_size}."
        )
