"""The transformer itself: tokenizer, positions, blocks, and the layer that is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from napari_microdl.core.config import Site
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.models.vit.blocks import Block, ParallelBlock, Rotations
from napari_microdl.models.vit.config import VitConfig
from napari_microdl.models.vit.positions import (
    resized_positions,
    rotary_positions,
    sincos_positions,
)


def check_reading(
    depth: int, patch_size: int, images: Tensor, layers: Sequence[int], site: Site
) -> None:
    """Refuse layers and a site that a network lacks, and images that do not divide into patches."""
    for layer in layers:
        if not 1 <= layer <= depth:
            raise MicrodlError(f"Layer {layer} does not exist: this model has layers 1 to {depth}.")
    if site not in get_args(Site):
        raise MicrodlError(f"Site '{site}' is not known; use residual or attention.")
    height, width = images.shape[-2:]
    if height % patch_size or width % patch_size or not height or not width:
        raise MicrodlError(
            f"A {height} x {width} image does not divide into patches of {patch_size} x "
            f"{patch_size} pixels."
        )


class VisionTransformer(nn.Module):
    """Vision transformer encoder whose patch tokens can be read at any layer.

    Parameters
    ----------
    config : VitConfig
        Shape of the model.

    Notes
    -----
    There is no norm after the last block: tokens are read from the residual stream, or from the
    attention output before it is scaled and added to it. With fixed or rotary positions any image
    whose edges are multiples of the patch size is accepted.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        # A projection of its own for every channel is a grouped convolution.
        own = config.tokenizer == "per_channel" and config.channel_projections
        self.patch_embed = nn.Conv2d(
            1 if config.tokenizer == "per_channel" and not own else config.in_channels,
            config.dim * (config.in_channels if own else 1),
            kernel_size=config.patch_size,
            stride=config.patch_size,
            groups=config.in_channels if own else 1,
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        if config.n_registers:
            self.registers = nn.Parameter(torch.zeros(1, config.n_registers, config.dim))
        if config.position_grid is not None:
            rows, columns = config.position_grid
            self.positions = nn.Parameter(torch.zeros(rows * columns, config.dim))
        if config.channel_embeddings:
            self.channel_embed = nn.Parameter(torch.zeros(config.in_channels, config.dim))
        block = ParallelBlock if config.blocks == "parallel" else Block
        self.blocks = nn.ModuleList(block(config) for _ in range(config.depth))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the MAE reference does: Xavier-uniform linears, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.weight.view(len(self.patch_embed.weight), -1))
        if self.patch_embed.bias is not None:
            nn.init.zeros_(self.patch_embed.bias)
        nn.init.normal_(self.cls_token, std=0.02)
        for name in ("registers", "positions", "channel_embed"):
            if (parameter := getattr(self, name, None)) is not None:
                nn.init.normal_(parameter, std=0.02)

    @property
    def n_prefix(self) -> int:
        """Tokens before the patch tokens: class and registers."""
        return 1 + self.config.n_registers

    def patch_positions(self, grid_h: int, grid_w: int, n_channels: int = 1) -> Tensor | None:
        """Position codes of a grid, of shape (grid_h * grid_w, dim), or None if rotary."""
        config = self.config
        if config.positions == "rope":
            return None
        if config.position_grid is None:
            return sincos_positions(grid_h, grid_w, config.dim)
        if not config.position_resize and (grid_h, grid_w) != config.position_grid:
            rows, columns = (edge * config.patch_size for edge in config.position_grid)
            raise MicrodlError(
                f"This model takes images of {rows} x {columns} pixels only; tile them so."
            )
        return resized_positions(
            self.positions,
            config.position_grid,
            (grid_h, grid_w),
            config.position_offset,
            config.position_antialias,
            resample=config.position_resample and n_channels > 1,
        )

    def _project(self, images: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, channels or 1, patches, dim)."""
        n, channels = images.shape[:2]
        config = self.config
        if config.tokenizer == "joint":
            x: Tensor = self.patch_embed(images)
            return x.flatten(2).transpose(1, 2).unsqueeze(1)
        if config.channel_projections:
            x = self.patch_embed(images)
        else:
            x = self.patch_embed(images.reshape(n * channels, 1, *images.shape[2:]))
        x = x.reshape(n, channels, config.dim, -1).transpose(2, 3)
        if config.channel_embeddings:
            x = x + self.channel_embed[:, None].to(x)
        return x

    def tokenize(self, images: Tensor) -> Tensor:
        """Patch tokens with their positions, before the first block, of shape (n, tokens, dim).

        A per-channel tokenizer puts the patches of one channel behind those of the other.
        """
        p = self.config.patch_size
        x = self._project(images)
        channels, height, width = images.shape[1:]
        positions = self.patch_positions(height // p, width // p, channels)
        if positions is not None:
            x = x + positions.to(x)
        return x.flatten(1, 2)

    def prepend_class(self, tokens: Tensor) -> Tensor:
        """Put the class token, and registers if there are any, before the patch tokens."""
        prefix: Tensor = self.cls_token
        if self.config.n_registers:
            prefix = torch.cat([prefix, self.registers], dim=1)
        return torch.cat([prefix.expand(len(tokens), -1, -1).to(tokens), tokens], dim=1)

    def _rotations(self, images: Tensor) -> Rotations | None:
        config = self.config
        if config.positions != "rope":
            return None
        grid = (images.shape[-2] // config.patch_size, images.shape[-1] // config.patch_size)
        cos, sin = rotary_positions(*grid, config.dim // config.n_heads)
        return cos.to(images.device), sin.to(images.device)

    def read(self, images: Tensor, layers: Sequence[int], site: Site) -> dict[int, Tensor]:
        """Patch tokens of several layers from one pass; nothing after the last one is computed.

        Parameters
        ----------
        images : Tensor of shape (n, channels, height, width)
            Model input; both edges are multiples of the patch size.
        layers : sequence of int
            From 1 (after the first block) to the depth.
        site : {"residual", "attention"}
            Residual stream after the block, or attention output after its out-projection and
            before layer scale (Donhauser et al. 2025, section 3).

        Returns
        -------
        dict of int to Tensor
            Of shape (n, grid_h, grid_w, dim), or (n, channels, grid_h, grid_w, dim) from a
            per-channel tokenizer. Class and register tokens are dropped.
        """
        check_reading(self.config.depth, self.config.patch_size, images, layers, site)
        x = self.prepend_class(self.tokenize(images))
        rotations = self._rotations(images)
        found: dict[int, Tensor] = {}
        last = max(layers)
        for layer, block in enumerate(self.blocks[:last], start=1):
            # On a processor, a pass of a large model takes many seconds.
            current_task().check()
            if site == "residual" or layer not in layers:
                x = block(x, rotations)
                if layer in layers:
                    found[layer] = x
            elif layer == last:
                found[layer] = block.attend(x, rotations)  # type: ignore[operator]
            else:
                found[layer], x = block.both(x, rotations)  # type: ignore[operator]
        n, channels, height, width = images.shape
        p = self.config.patch_size
        shape: tuple[int, ...] = (n, height // p, width // p, self.config.dim)
        if self.config.tokenizer == "per_channel":
            shape = (n, channels, *shape[1:])
        return {layer: tokens[:, self.n_prefix :].reshape(shape) for layer, tokens in found.items()}

    def forward(self, images: Tensor, layer: int | None = None, site: Site = "residual") -> Tensor:
        """What `read` finds in one layer; the last where none is given."""
        layer = self.config.depth if layer is None else layer
        return self.read(images, (layer,), site)[layer]
