"""Where a token lies: fixed codes, stored tables and rotations."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ROPE_BASE = 100.0


def sincos_positions(grid_h: int, grid_w: int, dim: int) -> Tensor:
    """Fixed two-dimensional sine-cosine codes, of shape (grid_h * grid_w, dim).

    The first half encodes the column, the second the row, as in the MAE reference.
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


def resized_positions(
    table: Tensor,
    stored: tuple[int, int],
    grid: tuple[int, int],
    offset: float,
    antialias: bool,
    *,
    resample: bool = False,
) -> Tensor:
    """A stored position table on another grid, by bicubic interpolation in float32.

    Parameters
    ----------
    table : Tensor of shape (stored rows * columns, dim)
        Learned codes, row by row.
    stored, grid : tuple of int
        Rows and columns that the table has, and that are wanted.
    offset : float
        As in `VitConfig`: 0 lets the two grids span the same image; DINO takes the factor from
        (rows + 0.1) instead, which shifts the samples by a hair, and its weights expect that.
    antialias : bool
        Whether smaller grids are averaged over.
    resample : bool, default=False
        Whether the grid that the table has is interpolated, too.
    """
    if stored == grid and not resample:
        return table
    square = table.float().reshape(1, *stored, -1).permute(0, 3, 1, 2)
    if offset:
        factors = [(wanted + offset) / there for wanted, there in zip(grid, stored, strict=True)]
        out = F.interpolate(square, scale_factor=factors, mode="bicubic", antialias=antialias)
    else:
        out = F.interpolate(square, size=grid, mode="bicubic", antialias=antialias)
    return out.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)


def rotary_positions(grid_h: int, grid_w: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of DINOv3's rotary positions, each of shape (grid_h * grid_w, head_dim).

    The patch centres are laid out over -1 to 1, whatever the size of the grid. A quarter of a
    head is for rows, a quarter for columns, then again.
    """
    periods = ROPE_BASE ** torch.arange(0, 1, 4 / head_dim)
    rows = 2 * torch.arange(0.5, grid_h) / grid_h - 1
    columns = 2 * torch.arange(0.5, grid_w) / grid_w - 1
    centres = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2, 1)
    angles = (2 * math.pi * centres / periods).flatten(1).tile(2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotations: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the patch tokens, which stand last; class and register tokens stay as they are.

    `x` has the shape (n, heads, tokens, head_dim); see `rotary_positions` for the rotations.
    """
    cos, sin = (r.to(x) for r in rotations)
    others, patches = x[..., : -len(cos), :], x[..., -len(cos) :, :]
    first, second = patches.chunk(2, dim=-1)
    turned = patches * cos + torch.cat([-second, first], -1) * sin
    return torch.cat([others, turned], dim=-2)
