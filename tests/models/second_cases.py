"""Families against the naive implementation, with random weights under their published names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from models import naive, published, published_input
from models.comparison import SECOND, Case, Difference, Tokens, compare, tiles_of
from napari_microdl.models.loading import load_published
from napari_microdl.models.recipe import Recipe
from napari_microdl.models.registry import recipes
from napari_microdl.models.vit.config import VitConfig

State = dict[str, torch.Tensor]


def timm_read(
    recipe: Recipe, w: naive.Arrays, image: np.ndarray, channels: list[int] | None = None
) -> naive.Read:
    config = recipe.config
    offset = 0.0 if config.n_registers else 0.1
    if config.tokenizer == "per_channel":
        tokens = naive.channel_tokens(w, image, config.patch_size, offset, channels=channels)
    else:
        tokens = naive.joint_tokens(w, image, config.patch_size, offset)
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


@dataclass(frozen=True)
class Family:
    """A published model: random weights under their names, and what its own code makes of bytes."""

    recipe: Recipe
    prepare: Callable[[np.ndarray], np.ndarray]
    state: Callable[[VitConfig], State] = published.timm_state
    read: Callable[[Recipe, naive.Arrays, np.ndarray], naive.Read] = timm_read
    prefix: str = ""

    def small(self) -> Family:
        return replace(self, recipe=published.small(self.recipe))

    def tokens(self, state: State, tiles: np.ndarray) -> Tokens:
        """Every layer and site of tiles that hold 0 to 255."""
        config, rule = self.recipe.config, self.recipe.spec.channels
        n, channels, *edges = tiles.shape
        if config.tokenizer == "joint" and not rule.joint:
            # One by one, as grey images.
            tiles = tiles.reshape(-1, 1, *edges).repeat(config.in_channels, axis=1)
        weights = {
            name.removeprefix(self.prefix): value.double().numpy()
            for name, value in state.items()
            if name.startswith(self.prefix)
        }
        read = [self.read(self.recipe, weights, image) for image in self.prepare(tiles)]
        shape = (n, rule.n_token_channels(channels), *(e // config.patch_size for e in edges), -1)
        n_prefix = 1 + config.n_registers
        return {k: np.stack([r[k][n_prefix:] for r in read]).reshape(shape) for k in read[0]}


def meta(name: str, *, joint: bool = True) -> Recipe:
    """Of the files that Meta's own code reads."""
    form = recipes()[name].taking(joint).alternative
    assert form is not None
    return form


def openphenom(name: str) -> Family:
    state, prefix = published.parallel_state, "encoder.vit_backbone."
    return Family(recipes()[name], published_input.openphenom, state, parallel_read, prefix)


EMBEDDING = partial(published.timm_state, embedding=True)
FAMILIES = {
    "openphenom": openphenom("openphenom"),
    "mae-vitl8": openphenom("mae-vitl8"),
    "dinov2": Family(meta("dinov2-small"), published_input.imagenet),
    "dinov2-registers": Family(
        meta("dinov2-with-registers-small", joint=False), published_input.imagenet
    ),
    "dinov3": Family(
        meta("dinov3-vits16"),
        published_input.imagenet,
        partial(published.timm_state, storage=True),
    ),
    "dinobloom": Family(recipes()["dinobloom-s"], published_input.imagenet),
    "cell-dino-hpa": Family(recipes()["cell-dino-hpa-vitl16"], published_input.cell_dino),
    "cell-dino-cp": Family(recipes()["cell-dino-cp-vits8"], published_input.cell_dino),
    "channel-adaptive": Family(
        recipes()["channel-adaptive-dino-vitl16"], published_input.cell_dino
    ),
    "channelvit": Family(recipes()["channelvit-jump-cp-bf"], published_input.jump),
    "channelvit-sampling": Family(recipes()["channelvit-jump-cp"], published_input.jump, EMBEDDING),
    "unidino": Family(recipes()["unidino"], published_input.unit),
}


def some_channels(name: str, channels: list[int]) -> Family:
    """ChannelViT on some of the channels that its weights know, in another order than theirs."""
    family = FAMILIES[name].small()
    names = family.recipe.spec.channels.names
    return replace(
        family,
        recipe=family.recipe.only([names[i] for i in channels]),
        read=partial(timm_read, channels=channels),
        prepare=partial(published_input.jump, channels=channels),
    )


def second_case(
    name: str,
    family: Family,
    channels: int,
    edges: tuple[int, int],
    wrap: Callable[[State], Any] | None = None,
) -> Case:
    """A family against the naive implementation; `wrap` says how its file holds the weights."""

    def measure(folder: Path) -> Difference:
        state = family.state(family.recipe.config)
        if wrap is None:
            path = folder / "weights.safetensors"
            save_file(state, path)
        else:
            path = folder / "weights.pth"
            torch.save(wrap(state), path)
        model = load_published(family.recipe, path, "cpu", "fp32")
        tiles = tiles_of(channels, *edges, n=1 if "full size" in name else 2)
        return compare(model, tiles, family.tokens(state, 255.0 * tiles))

    return Case(name, SECOND, measure)


def small_case(name: str, family: str, *arguments: Any) -> Case:
    return second_case(name, FAMILIES[family].small(), *arguments)


def _teacher(state: State) -> dict[str, Any]:
    inner = {f"backbone.{k}": v for k, v in state.items()}
    return {"teacher": inner | {"dino_head.mlp.0.weight": torch.ones(2, 2)}, "epoch": 3}


def _dino(state: State) -> dict[str, Any]:
    inner = {f"module.backbone.{k}": v for k, v in state.items() if k != "mask_token"}
    return {"student": {}, "teacher": inner | {"module.head.last_layer.weight": torch.ones(2)}}


def _state_dict(state: State) -> dict[str, Any]:
    return {"state_dict": state}


SECOND_CASES = (
    second_case("OpenPhenom, two channels, full size", FAMILIES["openphenom"], 2, (256, 256)),
    small_case("OpenPhenom, five channels", "openphenom", 5, (48, 48), _state_dict),
    small_case("MAE ViT-L/8 and ViT-G/8 layout", "mae-vitl8", 6, (24, 24)),
    small_case("DINOv2, Meta's files", "dinov2", 3, (56, 28), dict),
    small_case("DINOv2 with registers, Meta's files", "dinov2-registers", 2, (42, 42), dict),
    small_case("DINOv3, Meta's files", "dinov3", 3, (48, 64), dict),
    small_case("DinoBloom", "dinobloom", 3, (42, 42), _teacher),
    small_case("cell-dino-hpa-vitl16", "cell-dino-hpa", 4, (64, 48), published.chunked),
    small_case("cell-dino-cp-vits8", "cell-dino-cp", 5, (24, 24), published.chunked),
    small_case("channel-adaptive-dino-vitl16", "channel-adaptive", 3, (48, 48), published.chunked),
    small_case("ChannelViT", "channelvit", 8, (24, 32), dict),
    small_case("ChannelViT with channel sampling", "channelvit-sampling", 5, (24, 24), dict),
    second_case(
        "ChannelViT, three of eight channels",
        some_channels("channelvit", [4, 0, 6]),
        3,
        (24, 24),
        dict,
    ),
    second_case(
        "ChannelViT with channel sampling, one of five channels",
        some_channels("channelvit-sampling", [3]),
        1,
        (24, 24),
        dict,
    ),
    small_case("uniDINO", "unidino", 3, (48, 64), _dino),
)
