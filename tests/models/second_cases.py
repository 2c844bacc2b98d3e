"""Families against the naive implementation, with random weights under their published names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from models import naive, published, published_input
from models.comparison import SECOND, Case, Difference, compare, tiles_of
from napari_microdl.models.loading import load_published
from napari_microdl.models.recipe import Recipe
from napari_microdl.models.registry import recipes


def numpy_state(state: dict[str, torch.Tensor], prefix: str = "") -> naive.Arrays:
    return {
        k.removeprefix(prefix): v.double().numpy() for k, v in state.items() if k.startswith(prefix)
    }


def images_apart(images: np.ndarray, each_channel: bool, repeat: int = 1) -> np.ndarray:
    """Tiles as the network sees them: whole, or one by one as grey images."""
    if not each_channel:
        return images
    return images.reshape(-1, 1, *images.shape[2:]).repeat(repeat, axis=1)


def second_case(
    name: str,
    recipe: Recipe,
    make_state: Callable[[Recipe], dict[str, torch.Tensor]],
    reference: Callable[[Recipe, naive.Arrays, np.ndarray], naive.Read],
    prepare: Callable[[np.ndarray], np.ndarray],
    channels: int,
    edges: tuple[int, int],
    wrap: Callable[[dict[str, torch.Tensor]], Any] | None = None,
    prefix: str = "",
) -> Case:
    """A family against the naive implementation.

    `prepare` makes its input from bytes; `wrap` says how its file holds the weights.
    """

    def measure(folder: Path) -> Difference:
        state = make_state(recipe)
        if wrap is None:
            path = folder / "weights.safetensors"
            save_file(state, path)
        else:
            path = folder / "weights.pth"
            torch.save(wrap(state), path)
        model = load_published(recipe, path, "cpu", "fp32")
        tiles = tiles_of(channels, *edges)
        rule, config = recipe.spec.channels, recipe.config
        each = config.tokenizer == "joint" and not rule.joint
        images = prepare(255.0 * images_apart(tiles, each, config.in_channels))
        w = numpy_state(state, prefix)
        read = [reference(recipe, w, image) for image in images]
        n_prefix = 1 + config.n_registers
        shape = (2, rule.n_token_channels(channels), *(e // config.patch_size for e in edges), -1)
        expected = {k: np.stack([r[k][n_prefix:] for r in read]).reshape(shape) for k in read[0]}
        return compare(model, tiles, expected)

    return Case(name, SECOND, measure)


def timm_read(recipe: Recipe, w: naive.Arrays, image: np.ndarray) -> naive.Read:
    config = recipe.config
    per_channel = config.tokenizer == "per_channel"
    tokens = (naive.channel_tokens if per_channel else naive.joint_tokens)(
        w, image, config.patch_size, 0.0 if config.n_registers else 0.1
    )
    angles = None
    if config.positions == "rope":
        grid = (image.shape[1] // config.patch_size, image.shape[2] // config.patch_size)
        angles = naive.rotation(grid, config.dim // config.n_heads)
    eps = 1e-5 if angles is not None else 1e-6
    return naive.sequential(w, tokens, config.n_heads, eps, angles)


def parallel_read(recipe: Recipe, w: naive.Arrays, image: np.ndarray) -> naive.Read:
    config = recipe.config
    if config.tokenizer == "per_channel":
        tokens = naive.channel_tokens(w, image, config.patch_size, 0.0, copies=11)
    else:
        tokens = naive.joint_tokens(w, image, config.patch_size, 0.0)
    return naive.parallel(w, tokens, config.n_heads, 1e-6)


def _cell_dino(name: str, channels: int, edges: tuple[int, int]) -> Case:
    return second_case(
        name,
        published.small(recipes()[name]),
        lambda recipe: published.timm_state(recipe.config),
        timm_read,
        published_input.cell_dino,
        channels,
        edges,
        wrap=published.chunked,
    )


def _some_channels(name: str, model_id: str, channels: list[int], *, embedding: bool) -> Case:
    """ChannelViT on some of the channels that its weights know, in another order than theirs."""
    recipe = published.small(recipes()[model_id])
    chosen = recipe.only([recipe.spec.channels.names[i] for i in channels])

    def read(recipe: Recipe, w: naive.Arrays, image: np.ndarray) -> naive.Read:
        config = recipe.config
        tokens = naive.channel_tokens(w, image, config.patch_size, 0.1, channels=channels)
        return naive.sequential(w, tokens, config.n_heads, 1e-6)

    return second_case(
        name,
        chosen,
        lambda recipe: published.timm_state(recipe.config, embedding=embedding),
        read,
        lambda pixels: published_input.jump(pixels, channels),
        len(channels),
        (24, 24),
        wrap=dict,
    )


def _teacher(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    inner = {f"backbone.{k}": v for k, v in state.items()}
    return {"teacher": inner | {"dino_head.mlp.0.weight": torch.ones(2, 2)}, "epoch": 3}


def _dino(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    inner = {f"module.backbone.{k}": v for k, v in state.items() if k != "mask_token"}
    return {"student": {}, "teacher": inner | {"module.head.last_layer.weight": torch.ones(2)}}


OPENPHENOM = recipes()["openphenom"]
MAE_L = published.small(recipes()["mae-vitl8"])
DINOV2 = recipes()["dinov2-small"].taking(True).alternative
DINOV2_REGISTERS = recipes()["dinov2-with-registers-small"].alternative
DINOV3 = recipes()["dinov3-vits16"].taking(True).alternative
assert DINOV2 is not None
assert DINOV2_REGISTERS is not None
assert DINOV3 is not None

SECOND_CASES = (
    second_case(
        "OpenPhenom, three channels, full size",
        OPENPHENOM,
        lambda recipe: published.parallel_state(recipe.config),
        parallel_read,
        published_input.openphenom,
        3,
        (256, 256),
        prefix="encoder.vit_backbone.",
    ),
    second_case(
        "OpenPhenom, five channels",
        published.small(OPENPHENOM),
        lambda recipe: published.parallel_state(recipe.config),
        parallel_read,
        published_input.openphenom,
        5,
        (48, 48),
        wrap=lambda state: {"state_dict": state},
        prefix="encoder.vit_backbone.",
    ),
    second_case(
        "MAE ViT-L/8 and ViT-G/8 layout",
        MAE_L,
        lambda recipe: published.parallel_state(recipe.config),
        parallel_read,
        published_input.openphenom,
        6,
        (24, 24),
        prefix="encoder.vit_backbone.",
    ),
    second_case(
        "DINOv2, Meta's files",
        published.small(DINOV2),
        lambda recipe: published.timm_state(recipe.config),
        timm_read,
        published_input.imagenet,
        3,
        (56, 28),
        wrap=dict,
    ),
    second_case(
        "DINOv2 with registers, Meta's files",
        published.small(DINOV2_REGISTERS),
        lambda recipe: published.timm_state(recipe.config),
        timm_read,
        published_input.imagenet,
        2,
        (42, 42),
        wrap=dict,
    ),
    second_case(
        "DINOv3, Meta's files",
        published.small(DINOV3),
        lambda recipe: published.timm_state(recipe.config, storage=True),
        timm_read,
        published_input.imagenet,
        3,
        (48, 64),
        wrap=dict,
    ),
    second_case(
        "DinoBloom",
        published.small(recipes()["dinobloom-s"]),
        lambda recipe: published.timm_state(recipe.config),
        timm_read,
        published_input.imagenet,
        3,
        (42, 42),
        wrap=_teacher,
    ),
    _cell_dino("cell-dino-hpa-vitl16", 4, (64, 48)),
    _cell_dino("cell-dino-cp-vits8", 5, (24, 24)),
    _cell_dino("channel-adaptive-dino-vitl16", 3, (48, 48)),
    second_case(
        "ChannelViT",
        published.small(recipes()["channelvit-jump-cp-bf"]),
        lambda recipe: published.timm_state(recipe.config),
        timm_read,
        published_input.jump,
        8,
        (24, 32),
        wrap=dict,
    ),
    second_case(
        "ChannelViT with channel sampling",
        published.small(recipes()["channelvit-jump-cp"]),
        lambda recipe: published.timm_state(recipe.config, embedding=True),
        timm_read,
        published_input.jump,
        5,
        (24, 24),
        wrap=dict,
    ),
    _some_channels(
        "ChannelViT, three of eight channels", "channelvit-jump-cp-bf", [4, 0, 6], embedding=False
    ),
    _some_channels(
        "ChannelViT with channel sampling, one of five channels",
        "channelvit-jump-cp",
        [3],
        embedding=True,
    ),
    second_case(
        "uniDINO",
        published.small(recipes()["unidino"]),
        lambda recipe: published.timm_state(recipe.config),
        timm_read,
        published_input.unit,
        3,
        (48, 64),
        wrap=_dino,
    ),
)
