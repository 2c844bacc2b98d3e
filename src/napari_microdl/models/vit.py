"""One vision transformer in plain torch, read at any layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_microdl.errors import MicrodlError
from napari_microdl.models.base import Site


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
        Channels that the tokenizer reads at once. ``1`` makes the model channel-agnostic:
        every channel is tokenized by the same weights.
    mlp_ratio : float, default=4
        Width of the hidden layer of a block over `dim`.
    """

    dim: int
    depth: int
    n_heads: int
    patch_size: int
    in_channels: int = 1
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.dim % self.n_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of n_heads {self.n_heads}.")
        if self.dim % 4:
            raise ValueError(
                f"dim {self.dim} is not a multiple of 4, which sin-cos positions need."
            )


def sincos_positions(grid_h: int, grid_w: int, dim: int) -> Tensor:
    """Fixed two-dimensional sine-cosine position embedding.

    Parameters
    ----------
    grid_h, grid_w : int
        Rows and columns of the token grid.
    dim : int
        Width of a token, a multiple of 4.

    Returns
    -------
    Tensor of shape (grid_h * grid_w, dim)
        First half encodes the column, second half the row, as in the MAE reference layout.
    """
    frequencies = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))

    def encode(positions: Tensor) -> Tensor:
        angles = positions.reshape(-1, 1) * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    rows, columns = torch.meshgrid(
        torch.arange(grid_h, dtype=torch.float64),
        torch.arange(grid_w, dtype=torch.float64),
        indexing="ij",
    )
    return torch.cat([encode(columns), encode(rows)], dim=1).float()


class Attention(nn.Module):
    """Multi-head self-attention with a fused query-key-value projection."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, dim) to the same shape."""
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.n_heads, d // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(b, n, d))
        return out


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, n_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, n_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def attend(self, x: Tensor) -> Tensor:
        """Attention output after its out-projection, before it is added to the residual."""
        out: Tensor = self.attn(self.norm1(x))
        return out

    def feed_forward(self, x: Tensor) -> Tensor:
        """Output of the hidden layer, before it is added to the residual."""
        out: Tensor = self.mlp(self.norm2(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, dim) to the same shape."""
        x = x + self.attend(x)
        return x + self.feed_forward(x)


class VisionTransformer(nn.Module):
    """Vision transformer encoder whose patch tokens can be read at any layer.

    Parameters
    ----------
    config : VitConfig
        Shape of the model.

    Notes
    -----
    Positions are fixed sine-cosine codes computed for the grid at hand, so any image whose edges
    are multiples of the patch size is accepted.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Conv2d(
            config.in_channels, config.dim, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.blocks = nn.ModuleList(
            Block(config.dim, config.n_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the MAE reference does: Xavier-uniform linears, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.weight.view(self.config.dim, -1))
        if self.patch_embed.bias is not None:
            nn.init.zeros_(self.patch_embed.bias)
        nn.init.normal_(self.cls_token, std=0.02)

    def tokenize(self, images: Tensor) -> Tensor:
        """Patch tokens with their positions, before the first block.

        Parameters
        ----------
        images : Tensor of shape (n, in_channels, height, width)
            Model input.

        Returns
        -------
        Tensor of shape (n, grid_h * grid_w, dim)
        """
        x: Tensor = self.patch_embed(images)
        grid_h, grid_w = x.shape[-2:]
        positions = sincos_positions(grid_h, grid_w, self.config.dim).to(x)
        return x.flatten(2).transpose(1, 2) + positions

    def prepend_class(self, tokens: Tensor) -> Tensor:
        """Put the class token before the patch tokens."""
        return torch.cat([self.cls_token.expand(len(tokens), -1, -1).to(tokens), tokens], dim=1)

    def forward(self, images: Tensor, layer: int | None = None, site: Site = "residual") -> Tensor:
        """Patch tokens of one layer; nothing after that layer is computed.

        Parameters
        ----------
        images : Tensor of shape (n, in_channels, height, width)
            Model input; both edges are multiples of the patch size.
        layer : int, optional
            From 1 (after the first block) to the depth (the default).
        site : {"residual", "attention"}
            Residual stream after the block, or attention output after its out-projection
            (Donhauser et al. 2025, section 3).

        Returns
        -------
        Tensor of shape (n, grid_h, grid_w, dim)
            The class token is dropped.

        Raises
        ------
        MicrodlError
            If the layer or the site does not exist or the image does not divide into patches.
        """
        depth = self.config.depth
        layer = depth if layer is None else layer
        if not 1 <= layer <= depth:
            raise MicrodlError(f"Layer {layer} does not exist: this model has layers 1 to {depth}.")
        if site not in get_args(Site):
            raise MicrodlError(f"Site '{site}' is not known; use residual or attention.")
        p = self.config.patch_size
        height, width = images.shape[-2:]
        if height % p or width % p:
            raise MicrodlError(
                f"A {height} x {width} image does not divide into patches of {p} x {p} pixels."
            )
        x = self.prepend_class(self.tokenize(images))
        for block in self.blocks[: layer - 1]:
            x = block(x)
        last: Block = self.blocks[layer - 1]  # type: ignore[assignment]
        x = last.attend(x) if site == "attention" else last(x)
        return x[:, 1:].reshape(len(images), height // p, width // p, self.config.dim)
