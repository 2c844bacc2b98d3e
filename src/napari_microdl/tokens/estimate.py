"""How much memory an embedding takes, told before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from napari_microdl.core.config import ChannelTokens
from napari_microdl.fields.field import STRIP_BYTES
from napari_microdl.models.base import ModelSpec
from napari_microdl.tokens.grid import LARGEST_IN_MEMORY, MEMORY_BYTES
from napari_microdl.tokens.tiles import TilePlan

_FLOAT = 4
# At the widest place of a transformer block there are, for every token, the residual stream and
# its norm (2 d) and the hidden layer before and after its activation (4 d each); a channel's tokens
# then come back as an array (d). Allocators keep a quarter more than they hand out.
_WIDTHS_PER_TOKEN = 11 * 1.25


@dataclass(frozen=True)
class EmbeddingEstimate:
    """What an embedding will take beside the model's weights.

    Parameters
    ----------
    n_tiles : int
        Tiles of all fields.
    activations : int
        Bytes that one pass takes, on the device of the model.
    images : int
        Bytes of the scaled rows at hand, with the part of a lazy file that they come from.
    tokens : int
        Bytes of the tokens of all fields.
    tokens_on_disk : int
        How many of these go into files.
    disk : int
        Bytes of disk space at most, while one of those files is replaced by another.
    """

    n_tiles: int
    activations: int
    images: int
    tokens: int
    tokens_on_disk: int
    disk: int

    @property
    def memory(self) -> int:
        """Bytes of memory, all together."""
        return self.activations + self.images + self.tokens - self.tokens_on_disk

    def __str__(self) -> str:
        on_disk = f", and {_amount(self.disk)} of disk space" if self.disk else ""
        return f"{self.n_tiles} tiles will take about {_amount(self.memory)} of memory{on_disk}"


def _amount(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 5e8 else f"{max(1, round(n_bytes / 1e6))} MB"


def tiles_at_once(batch_size: int, spec: ModelSpec, n_channels: int) -> int:
    """Tiles a pass; those of a model that sees one channel at a time count once a channel."""
    return max(1, batch_size // spec.channels.n_token_channels(n_channels))


def estimate_embedding(
    shapes: Sequence[tuple[int, int]],
    n_channels: int,
    spec: ModelSpec,
    plan: TilePlan,
    *,
    channel_tokens: ChannelTokens = "concat",
    batch_size: int = 8,
    n_layers: int = 1,
    lazy: bool = False,
    remove_position: bool = False,
    memory_bytes: int = MEMORY_BYTES,
) -> EmbeddingEstimate:
    """How many tiles there are, and what memory they will take.

    Parameters
    ----------
    shapes : sequence of (int, int)
        Height and width of every field in pixels.
    n_channels : int
        Channels used.
    spec : ModelSpec
        The model.
    plan : TilePlan
        How fields are cut.
    channel_tokens : {"concat", "mean"}
        How the tokens of the channels of a patch are joined.
    batch_size : int, default=8
        Tiles of one channel a forward pass.
    n_layers : int, default=1
        Layers read.
    lazy : bool, default=False
        Whether images are read from files while they are embedded; of 16 bits a pixel.
    remove_position : bool, default=False
        Whether the position component is taken off the tokens afterwards, which writes the file of
        one field after the other anew before the old one goes.
    memory_bytes : int, default=512 MiB
        What all grids may take in memory together, see `TokenStorage`.

    Returns
    -------
    EmbeddingEstimate
        Reckoned from the shapes alone: nothing is loaded or read.
    """
    token_channels = spec.channels.n_token_channels(n_channels)
    n_at_once = tiles_at_once(batch_size, spec, n_channels)
    n_tiles = sum(len(plan.origins(shape)) for shape in shapes)
    n_at_once = min(n_at_once, max(1, n_tiles))
    per_tile = plan.tile_tokens**2 * token_channels
    tile_bytes = _FLOAT * n_channels * plan.tile_size**2
    activations = n_at_once * (
        # Tiles come as an array and go to the device as another, standardised.
        3 * tile_bytes + int(_FLOAT * per_tile * spec.dim * (_WIDTHS_PER_TOKEN + n_layers - 1))
    )
    width = spec.dim * (token_channels if channel_tokens == "concat" else 1)
    tokens = on_disk = largest_file = strip = bands = 0
    for shape in shapes:
        rows, columns = plan.grid_shape(shape)
        n_bytes = _FLOAT * rows * columns * width
        for _ in range(n_layers):
            if n_bytes > min(memory_bytes - (tokens - on_disk), LARGEST_IN_MEMORY):
                on_disk += n_bytes
                largest_file = max(largest_file, n_bytes)
                # Rows of tokens are put together before they are written.
                strip = max(strip, n_layers * _FLOAT * min(plan.inner, rows) * columns * width)
            tokens += n_bytes
        # Two copies while columns are mirrored, and what a lazy file gives at once.
        bands = max(bands, 3 * tile_bytes // plan.tile_size * (shape[1] + 2 * plan.tile_size))
    if lazy:
        # Two strips where a row of tiles reaches over both, and what the second is decoded from.
        largest = max((2 * n_channels * height * width for height, width in shapes), default=0)
        bands += 3 * min(STRIP_BYTES, largest)
    images = bands + strip
    disk = on_disk + (largest_file if remove_position else 0)
    return EmbeddingEstimate(n_tiles, activations, images, tokens, on_disk, disk)
