"""Shape of a vision transformer and of its input, without torch: what a model list is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from napari_microdl.core.errors import MicrodlError

Blocks = Literal["sequential", "parallel"]
FeedForward = Literal["mlp", "swiglu"]
Positions = Literal["sincos", "learned", "rope"]
Tokenizer = Literal["joint", "per_channel"]
TileNorm = Literal["none", "standardise", "instance"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Far above every published model; what asks for more is damaged, and is not built.
_MOST = {
    "dim": 32_768,
    "depth": 512,
    "n_heads": 1_024,
    "patch_size": 1_024,
    "in_channels": 4_096,
    "n_registers": 1_024,
    "hidden_dim": 262_144,
}
_MOST_GRID = 4_096


@dataclass(frozen=True)
class VitConfig:
    """Shape of a vision transformer.

    Parameters
    ----------
    dim : int
        Width of a token.
    depth : int
        Number of transformer blocks.
    n_heads : int
        Attention heads per block; divides `dim`.
    patch_size : int
        Edge of a square patch in pixels.
    in_channels : int, default=1
        Channels that the tokenizer reads at once (``tokenizer="joint"``), or for which it has
        weights or embeddings of their own (``"per_channel"``).
    mlp_ratio : float, default=4
        Width of the hidden layer of a block over `dim`.
    hidden_dim : int, optional
        That width itself where a ratio does not say it.
    blocks : {"sequential", "parallel"}
        Attention and then the hidden layer, each on its own normed input; or both at once from one
        fused projection without bias, with normed queries and keys (Dehghani et al. 2023).
    feed_forward : {"mlp", "swiglu"}
        Hidden layer of a sequential block: GELU, or a gated SiLU (Shazeer 2020).
    layer_scale : bool, default=False
        Whether what a block adds is scaled by a learned factor a dimension.
    n_registers : int, default=0
        Learned tokens beside the class token (Darcet et al. 2024).
    positions : {"sincos", "learned", "rope"}
        Fixed sine-cosine codes, a stored table, or rotations of queries and keys as in DINOv3.
    position_grid : tuple of int, optional
        Rows and columns of the stored table.
    position_antialias : bool, default=False
        Whether a stored table is resized to smaller grids with antialiasing.
    position_offset : float, default=0
        What is added to rows and columns before the factor of a resized table is taken from them,
        as in DINO (0.1); 0 resizes to the grid itself.
    position_resize : bool, default=True
        Whether a stored table may be resized at all.
    position_resample : bool, default=False
        Whether a stored table goes through the interpolation on its own grid too, where an image
        has several channels. With an offset that moves its codes a little; the published code of
        ChannelViT does so, and its weights were trained with it.
    tokenizer : {"joint", "per_channel"}
        One token a patch from all channels, or a token a patch and channel, all of one image in one
        sequence (Bao et al. 2024; Kraus et al. 2024).
    channel_projections : bool, default=False
        Whether a per-channel tokenizer has a projection of its own for every channel.
    channel_embeddings : bool, default=False
        Whether a learned code of its channel is added to every token.
    norm_eps : float, default=1e-6
        Added to variances by the layer norms.
    """

    dim: int
    depth: int
    n_heads: int
    patch_size: int
    in_channels: int = 1
    mlp_ratio: float = 4.0
    hidden_dim: int | None = None
    blocks: Blocks = "sequential"
    feed_forward: FeedForward = "mlp"
    layer_scale: bool = False
    n_registers: int = 0
    positions: Positions = "sincos"
    position_grid: tuple[int, int] | None = None
    position_antialias: bool = False
    position_offset: float = 0.0
    position_resize: bool = True
    position_resample: bool = False
    tokenizer: Tokenizer = "joint"
    channel_projections: bool = False
    channel_embeddings: bool = False
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            least = 0 if name == "n_registers" else 1
            if value is None and name == "hidden_dim":
                continue
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} is {value!r} but must lie between {least} and {most:,}.")
        if self.position_grid is not None and not all(
            type(n) is int and 1 <= n <= _MOST_GRID for n in self.position_grid
        ):
            raise ValueError(f"position_grid is {self.position_grid} but holds 1 to {_MOST_GRID}.")
        for name in ("mlp_ratio", "norm_eps", "position_offset"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value <= _MOST["dim"]:
                raise ValueError(f"{name} is {value!r} but must be a number of 0 or more.")
        if self.dim % self.n_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of n_heads {self.n_heads}.")
        if self.positions == "sincos" and self.dim % 4:
            raise ValueError(
                f"dim {self.dim} is not a multiple of 4, which sin-cos positions need."
            )
        if self.positions == "rope" and (self.dim // self.n_heads) % 4:
            raise ValueError(
                f"A head of {self.dim // self.n_heads} is not a multiple of 4, which rotary "
                "positions need."
            )
        if (self.positions == "learned") != (self.position_grid is not None):
            raise ValueError("A position grid goes with learned positions, and only with those.")

    @property
    def hidden(self) -> int:
        """Width of the hidden layer of a block."""
        return int(self.dim * self.mlp_ratio) if self.hidden_dim is None else self.hidden_dim


@dataclass(frozen=True)
class Preprocessing:
    """What is done to tiles of about 0 to 1 before the tokenizer reads them.

    Parameters
    ----------
    mean, std : tuple of float
        Subtracted from and then divided into the channels; one for all of them or one each.
    tile_norm : {"none", "standardise", "instance"}
        Whether each channel of a tile is brought to mean 0 and variance 1 by itself, with `eps`
        added to the standard deviation ("standardise") or to the variance ("instance"). Some
        models were trained so and ask for it; every tile then loses its own brightness.
    eps : float
        See above.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    tile_norm: TileNorm = "none"
    eps: float = 0.0

    def __post_init__(self) -> None:
        if not all(s > 0 for s in self.std):
            raise MicrodlError("A model's std must be above 0 in every channel; correct it.")
        if self.tile_norm != "none" and not self.eps > 0:
            raise MicrodlError("A norm over tiles needs an eps above 0; give it one.")
