"""How a field is cut into tiles, a few rows at a time, and whether a model takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.config import ChannelTokens
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field
from napari_microdl.fields.intensity import IntensityScaling
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


class ScaledImage:
    """Scaled intensities of one field, read and scaled when they are asked for.

    Parameters
    ----------
    field : Field
        The field.
    scaler : IntensityScaling
        Fitted.
    index : int
        Place of the field among those that the scaler was fitted on.
    channels : tuple of str, optional
        Those that the scaler was fitted on.

    Attributes
    ----------
    shape : tuple of int
        Channels, height and width.
    """

    def __init__(
        self,
        field: Field,
        scaler: IntensityScaling,
        index: int,
        channels: tuple[str, ...] | None = None,
    ) -> None:
        self._field = field
        self._scaler = scaler
        self._index = index
        self._channels = field.channel_indices(channels)
        self._strip_rows = field.strip_rows(len(self._channels))
        self._strips: dict[int, NDArray[np.generic]] = {}
        self.shape = (len(self._channels), *field.shape)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Some rows of all channels, of shape (channels, stop - start, width)."""
        if isinstance(self._field.data, np.ndarray):
            raw = self._field.read_rows(start, stop, self._channels)
        else:
            raw = self._from_strips(start, stop)
        return self._scaler.apply(self._index, raw)

    def _from_strips(self, start: int, stop: int) -> NDArray[np.generic]:
        n = self._strip_rows
        # Neighbouring bands share rows, and files are read in whole chunks: every chunk once.
        self._strips = {
            k: self._strips[k]
            if k in self._strips
            else self._field.read_rows(k * n, min((k + 1) * n, self.shape[1]), self._channels)
            for k in range(start // n, -(-stop // n))
        }
        parts = [
            strip[:, max(start - k * n, 0) : stop - k * n] for k, strip in self._strips.items()
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class TileCutter:
    """Cuts tiles out of an image that goes on in mirrors beyond its edges.

    Parameters
    ----------
    image : ScaledImage or ndarray of shape (channels, height, width)
        Scaled intensities.
    plan : TilePlan
        How to cut.
    """

    def __init__(self, image: ScaledImage | NDArray[np.float32], plan: TilePlan) -> None:
        self._image = image
        self._plan = plan
        _, self._height, width = image.shape
        _, columns = plan.grid_shape((self._height, width))
        tiles = -(-columns // plan.inner)
        margin = plan.halo * plan.patch_size
        self._columns = reflected(-margin, tiles * plan.inner * plan.patch_size + margin, width)
        self._band: tuple[int, NDArray[np.float32]] | None = None

    def cut(self, origins: list[tuple[int, int]]) -> NDArray[np.float32]:
        """Tiles with their halo, of shape (n, channels, tile_size, tile_size).

        The origins, as `TilePlan.origins` gives them, come with their rows in ascending order.
        """
        p, size = self._plan.patch_size, self._plan.tile_size
        return np.stack([self._band_at(i)[..., j * p : j * p + size] for i, j in origins])

    def _band_at(self, row: int) -> NDArray[np.float32]:
        """All tiles of one row side by side, shape (channels, tile_size, padded width)."""
        if self._band is None or self._band[0] != row:
            # Dropped first: two bands at once would double what is held.
            self._band = None
            top = (row - self._plan.halo) * self._plan.patch_size
            rows = reflected(top, top + self._plan.tile_size, self._height)
            low, high = int(rows.min()), int(rows.max()) + 1
            image = self._image
            read = image[:, low:high] if isinstance(image, np.ndarray) else image.rows(low, high)
            self._band = (row, read[:, rows - low][:, :, self._columns])
        return self._band[1]


def reflected(start: int, stop: int, length: int) -> NDArray[np.int64]:
    """Indices into an axis that goes on in mirrors, its ends not repeated."""
    period = max(1, 2 * (length - 1))
    places = np.arange(start, stop) % period
    return np.minimum(places, period - places) if length > 1 else np.zeros_like(places)


def check_channel_tokens(channel_tokens: str) -> None:
    """Refuse a way to join channels that does not exist."""
    if channel_tokens not in get_args(ChannelTokens):
        raise MicrodlError(f"Channel tokens '{channel_tokens}' are not known; use concat or mean.")


def check_wants(spec: ModelSpec, plan: TilePlan, n_channels: int) -> None:
    """Refuse channels or tiles that a model does not take, with what it takes and what to do."""
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
