"""Transformer blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_microdl.models.vit.config import VitConfig
from napari_microdl.models.vit.positions import rotate

Rotations = tuple[Tensor, Tensor]


class LayerScale(nn.Module):
    """A learned factor a dimension (Touvron et al. 2021)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to the same shape."""
        return x * self.gamma


class Attention(nn.Module):
    """Multi-head self-attention with a fused query-key-value projection."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotations: Rotations | None = None) -> Tensor:
        """(n, tokens, dim) to the same shape."""
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.n_heads, d // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if rotations is not None:
            q, k = rotate(q, rotations), rotate(k, rotations)
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(b, n, d))
        return out


class SwiGlu(nn.Module):
    """Gated hidden layer: the first half of one projection gates the second (Shazeer 2020)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, dim) to the same shape."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * value)
        return out


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, config.hidden
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn = Attention(dim, config.n_heads)
        self.ls1 = LayerScale(dim) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = (
            SwiGlu(dim, hidden)
            if config.feed_forward == "swiglu"
            else nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        )
        self.ls2 = LayerScale(dim) if config.layer_scale else nn.Identity()

    def attend(self, x: Tensor, rotations: Rotations | None = None) -> Tensor:
        """Attention output after its out-projection, before layer scale and residual."""
        out: Tensor = self.attn(self.norm1(x), rotations)
        return out

    def both(self, x: Tensor, rotations: Rotations | None = None) -> tuple[Tensor, Tensor]:
        """What `attend` gives, and the residual stream after the block."""
        attended = self.attend(x, rotations)
        x = x + self.ls1(attended)
        return attended, x + self.ls2(self.mlp(self.norm2(x)))

    def forward(self, x: Tensor, rotations: Rotations | None = None) -> Tensor:
        """(n, tokens, dim) to the same shape."""
        return self.both(x, rotations)[1]


class ParallelBlock(nn.Module):
    """Attention and hidden layer side by side, as OpenPhenom and its larger siblings have them.

    Notes
    -----
    One projection gives the hidden layer, queries, keys and values, in this order. It has no bias
    of its own. The `mlp_bias` of the published weights is added behind 3 * `dim` zeros to the
    whole output, although the hidden layer stands first in it: its first 3 * `dim` units get no
    bias, and queries, keys and values get the last 3 * `dim` entries. The weights were trained so.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, config.hidden
        self.n_heads = config.n_heads
        self.split = [hidden, dim, dim, dim]
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.in_proj = nn.Linear(dim, hidden + 3 * dim, bias=False)
        self.mlp_bias = nn.Parameter(torch.zeros(hidden))
        self.q_norm = nn.LayerNorm(dim // config.n_heads, eps=config.norm_eps)
        self.k_norm = nn.LayerNorm(dim // config.n_heads, eps=config.norm_eps)
        self.attn_out = nn.Linear(dim, dim)
        self.mlp_out = nn.Linear(hidden, dim)
        self.ls = LayerScale(dim) if config.layer_scale else nn.Identity()

    def _branches(self, x: Tensor, rotations: Rotations | None) -> tuple[Tensor, Tensor]:
        b, n, d = x.shape
        bias = F.pad(self.mlp_bias, (3 * d, 0))
        y = F.linear(self.norm(x), self.in_proj.weight, bias)
        hidden, *qkv = torch.split(y, self.split, dim=-1)
        q, k, v = (part.reshape(b, n, self.n_heads, -1).transpose(1, 2) for part in qkv)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotations is not None:
            q, k = rotate(q, rotations), rotate(k, rotations)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.attn_out(mixed.transpose(1, 2).reshape(b, n, d)), hidden

    def attend(self, x: Tensor, rotations: Rotations | None = None) -> Tensor:
        """Attention output after its out-projection, before layer scale and residual."""
        return self._branches(x, rotations)[0]

    def both(self, x: Tensor, rotations: Rotations | None = None) -> tuple[Tensor, Tensor]:
        """What `attend` gives, and the residual stream after the block."""
        attended, hidden = self._branches(x, rotations)
        return attended, x + self.ls(attended + self.mlp_out(F.gelu(hidden)))

    def forward(self, x: Tensor, rotations: Rotations | None = None) -> Tensor:
        """(n, tokens, dim) to the same shape."""
        return self.both(x, rotations)[1]
