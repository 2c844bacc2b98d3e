"""Random weights under the names and in the shapes of the published files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from napari_microdl.models.families.builtin import WEIGHTS
from napari_microdl.models.recipe import Recipe
from napari_microdl.models.vit.config import VitConfig

# A tensor or its shape.
Named = TypeVar("Named")


def small(recipe: Recipe, depth: int = 3, grid: int = 3) -> Recipe:
    """The same model with little of everything but what its code distinguishes."""
    config = replace(recipe.config, dim=24, n_heads=3, depth=depth, hidden_dim=96)
    if config.position_grid is not None:
        config = replace(config, position_grid=(grid, grid))
    edge = grid * config.patch_size
    spec = replace(recipe.spec, dim=24, depth=depth, tile_size=edge, default_layer=depth)
    return replace(recipe, config=config, spec=spec, alternative=None)


def seeded(module: Callable[[VitConfig], Any], config: VitConfig) -> Any:
    """The package's own module with its starting weights, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return module(config).eval()


def _random(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Values of such a size that every part shows in the tokens, and attention is not one-hot."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        fan_in = value[0].numel() if name.endswith("weight") and len(shape) > 1 else 0
        state[name] = value * (fan_in**-0.5 if fan_in else 0.3)
        if "norm" in name and name.endswith("weight"):
            state[name] = 1 + value * 0.2
    return state


def timm_shapes(
    config: VitConfig, *, storage: bool = False, embedding: bool = False
) -> dict[str, tuple[int, ...]]:
    """DINO, DINOv2, DINOv3 (`storage`), ChannelViT without (and with `embedding`) sampling."""
    d, hidden, p = config.dim, config.hidden, config.patch_size
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, d), "norm.weight": (d,)}
    shapes |= {"norm.bias": (d,), "mask_token": (1, d)}
    if config.tokenizer == "per_channel":
        shapes["patch_embed.proj.weight"] = (d, 1, 1, p, p)
        if embedding:
            shapes["patch_embed.channel_embed.weight"] = (config.in_channels, d)
        else:
            shapes["patch_embed.channel_embed"] = (1, d, config.in_channels, 1, 1)
    else:
        shapes["patch_embed.proj.weight"] = (d, config.in_channels, p, p)
    shapes["patch_embed.proj.bias"] = (d,)
    if config.position_grid is not None:
        shapes["pos_embed"] = (1, 1 + config.position_grid[0] * config.position_grid[1], d)
    if config.n_registers:
        name = "storage_tokens" if storage else "register_tokens"
        shapes[name] = (1, config.n_registers, d)
    for block in range(config.depth):
        start = f"blocks.{block}."
        for norm in ("norm1", "norm2"):
            shapes |= {f"{start}{norm}.weight": (d,), f"{start}{norm}.bias": (d,)}
        for name, rows, columns in (
            ("attn.qkv", 3 * d, d),
            ("attn.proj", d, d),
            ("mlp.fc1", hidden, d),
            ("mlp.fc2", d, hidden),
        ):
            shapes |= {f"{start}{name}.weight": (rows, columns), f"{start}{name}.bias": (rows,)}
        if config.layer_scale:
            shapes |= {f"{start}ls{i}.gamma": (d,) for i in (1, 2)}
    return shapes


def timm_state(
    config: VitConfig, seed: int = 0, *, storage: bool = False, embedding: bool = False
) -> dict[str, Tensor]:
    """Random weights for `timm_shapes`."""
    state = _random(timm_shapes(config, storage=storage, embedding=embedding), seed)
    d = config.dim
    if storage:
        mask = torch.ones(3 * d)
        mask[d : 2 * d] = 0
        state |= {f"blocks.{b}.attn.qkv.bias_mask": mask.clone() for b in range(config.depth)}
        state["rope_embed.periods"] = torch.ones(config.dim // config.n_heads // 4)
    return state


def chunked(state: dict[str, Named], chunks: int = 2) -> dict[str, Named]:
    """The names that DINOv2's code gives to blocks in chunks; numbers count through."""
    depth = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks."))
    size = -(-depth // chunks)

    def renamed(name: str) -> str:
        if not name.startswith("blocks."):
            return name
        _, number, rest = name.split(".", 2)
        return f"blocks.{int(number) // size}.{number}.{rest}"

    return {renamed(name): value for name, value in state.items()}


def parallel_shapes(config: VitConfig) -> dict[str, tuple[int, ...]]:
    """OpenPhenom and its larger siblings, the encoder alone."""
    d, hidden, p = config.dim, config.hidden, config.patch_size
    per_channel = config.tokenizer == "per_channel"
    assert config.position_grid is not None
    patches = config.position_grid[0] * config.position_grid[1]
    size = d // config.n_heads
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, d),
        "patch_embed.proj.weight": (d, 1 if per_channel else config.in_channels, p, p),
        "patch_embed.proj.bias": (d,),
        "pos_embed": (1, 1 + patches * (11 if per_channel else 1), d),
        "fc_norm.weight": (d,),
        "fc_norm.bias": (d,),
    }
    for block in range(config.depth):
        start = f"blocks.{block}."
        shapes |= {f"{start}in_norm.{x}": (d,) for x in ("weight", "bias")}
        shapes |= {f"{start}{n}_norm.{x}": (size,) for n in "qk" for x in ("weight", "bias")}
        shapes |= {
            f"{start}in_proj.weight": (hidden + 3 * d, d),
            f"{start}mlp_bias": (hidden,),
            f"{start}attn_out_proj.weight": (d, d),
            f"{start}attn_out_proj.bias": (d,),
            f"{start}mlp_out_proj.weight": (d, hidden),
            f"{start}mlp_out_proj.bias": (d,),
            f"{start}ls.gamma": (d,),
        }
    return {f"encoder.vit_backbone.{name}": shape for name, shape in shapes.items()}


def parallel_state(config: VitConfig, seed: int = 0) -> dict[str, Tensor]:
    """Random weights for `parallel_shapes`, with a little of the decoder beside the encoder."""
    state = _random(parallel_shapes(config), seed)
    if config.tokenizer == "per_channel":
        # One table, stored once for each of eleven channels.
        table = state["encoder.vit_backbone.pos_embed"]
        patches = (table.shape[1] - 1) // 11
        table[:, 1:] = table[:, 1 : 1 + patches].repeat(1, 11, 1)
    others = {"decoder.mask_token": (1, 1, 8), "encoder_decoder_proj.weight": (8, config.dim)}
    return state | _random(others | {"decoder_pred.bias": (config.patch_size**2,)}, seed + 1)


def write(state: dict[str, Tensor], path: Path) -> Path:
    """As safetensors or, by its suffix, as a PyTorch checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def described(folder: Path) -> Path:
    """The package's own weights beside a description, as a lab would give its own."""
    (folder / "own.safetensors").write_bytes(WEIGHTS.read_bytes())
    description = 'weights = "own.safetensors"\nlayout = "microdl"\n[vit]\ndim = 192\ndepth = 8\n'
    description += "n_heads = 3\npatch_size = 8\n[preprocessing]\nmean = [0.25]\nstd = [0.3]\n"
    (folder / "own.toml").write_text(description)
    return folder / "own.toml"
