"""Families that transformers has, with random weights in the folders that it writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

# Only the modules of the models: the top of the package looks for torchvision and says so.
from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.dinov2_with_registers.configuration_dinov2_with_registers import (
    Dinov2WithRegistersConfig,
)
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
    Dinov2WithRegistersModel,
)
from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel
from transformers.models.vit.configuration_vit import ViTConfig
from transformers.models.vit.modeling_vit import ViTModel
from transformers.models.vit_mae.configuration_vit_mae import ViTMAEConfig
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEModel

from models import published
from models.comparison import IMAGENET, TRANSFORMERS, Case, Difference, Tokens, compare, tiles_of
from napari_microdl.models.loading import load_published
from napari_microdl.models.registry import load_model, recipes

HALVES = (np.full(3, 0.5), np.full(3, 0.5))
SHAPE = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 56}


def hugging_face_tokens(model: Any, images: np.ndarray, n_prefix: int, patch: int) -> Tokens:
    """What hooks on every block and attention of a transformers model see."""
    layers = [m for m in model.modules() if type(m).__name__.endswith("Layer")]
    attentions = [m for m in model.modules() if type(m).__name__.endswith("Attention")]
    seen: Tokens = {}
    hooks = []
    for site, modules in (("residual", layers), ("attention", attentions)):
        for number, module in enumerate(modules, start=1):

            def keep(_: Any, __: Any, out: Any, key: tuple[int, str] = (number, site)) -> None:
                out = out[0] if isinstance(out, tuple) else out
                seen[key] = out[:, n_prefix:].numpy()

            hooks.append(module.register_forward_hook(keep))
    options: dict[str, Any] = {}
    if type(model).__name__.startswith("ViT"):
        options["interpolate_pos_encoding"] = True
    grid = (images.shape[2] // patch, images.shape[3] // patch)
    if isinstance(model, ViTMAEModel):
        # It shuffles its tokens even where it hides none.
        options["noise"] = torch.arange(grid[0] * grid[1]).repeat(len(images), 1).float()
    with torch.inference_mode():
        model(torch.from_numpy(images.astype(np.float32)), **options)
    for hook in hooks:
        hook.remove()
    return {k: v.reshape(len(images), 1, *grid, -1) for k, v in seen.items()}


def randomised(model: Any) -> Any:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and name.endswith("weight"):
                parameter.copy_(value * parameter[0].numel() ** -0.5)
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * value)
            else:
                parameter.copy_(0.3 * value)
    return model.eval()


def transformers_case(
    name: str,
    model_class: Any,
    config: Any,
    edges: tuple[int, int],
    n_prefix: int,
    constants: tuple[np.ndarray, np.ndarray] = IMAGENET,
) -> Case:
    def measure(folder: Path) -> Difference:
        reference = randomised(model_class(config))
        reference.save_pretrained(folder / "folder")
        model = load_model(str(folder / "folder"), device="cpu", joint=True)
        tiles = tiles_of(3, *edges)
        mean, std = (c.reshape(1, 3, 1, 1) for c in constants)
        expected = hugging_face_tokens(reference, (tiles - mean) / std, n_prefix, config.patch_size)
        return compare(model, tiles, expected)

    return Case(name, TRANSFORMERS, measure)


def by_name_case(name: str, model_id: str, model_class: Any, config: Any, n_prefix: int) -> Case:
    """The shapes that the registry has for a published model are those of its folder."""

    def measure(folder: Path) -> Difference:
        reference = randomised(model_class(config))
        reference.save_pretrained(folder / "folder")
        model = load_model(model_id, weights=folder / "folder", device="cpu", joint=True)
        tiles = tiles_of(3, 224, 224, n=1)
        mean, std = (c.reshape(1, 3, 1, 1) for c in IMAGENET)
        images = (tiles - mean) / std
        expected = hugging_face_tokens(reference, images, n_prefix, config.patch_size)
        return compare(model, tiles, expected)

    return Case(f"{name}, full size", TRANSFORMERS, measure)


def subcell(folder: Path) -> Difference:
    """SubCell's files are a ViT of transformers, without interpolation, behind a pooling head."""
    config = ViTConfig(**SHAPE, intermediate_size=96, patch_size=16, num_channels=4)
    config.image_size = 48
    reference = randomised(ViTModel(config, add_pooling_layer=False))
    reference.save_pretrained(folder / "folder")
    state = load_file(folder / "folder" / "model.safetensors")
    state = {f"encoder.{k}": v for k, v in state.items()}
    state["pool_model.attention.weight"] = torch.ones(2, 2)
    path = published.write(state, folder / "encoder.pth")
    recipe = recipes()["subcell-rybg"]
    recipe = replace(
        recipe,
        config=replace(
            recipe.config, dim=48, n_heads=4, depth=3, hidden_dim=96, position_grid=(3, 3)
        ),
        spec=replace(recipe.spec, depth=3, dim=48),
    )
    tiles = tiles_of(4, 64, 48)
    expected = hugging_face_tokens(reference, tiles, 1, 16)
    return compare(load_published(recipe, path, "cpu", "fp32"), tiles, expected)


TRANSFORMERS_CASES = (
    transformers_case(
        "DINOv2, stored grid", Dinov2Model, Dinov2Config(**SHAPE, patch_size=14), (56, 56), 1
    ),
    transformers_case(
        "DINOv2, resized", Dinov2Model, Dinov2Config(**SHAPE, patch_size=14), (70, 42), 1
    ),
    transformers_case(
        "DINOv2, SwiGLU",
        Dinov2Model,
        Dinov2Config(**SHAPE, patch_size=14, use_swiglu_ffn=True),
        (56, 56),
        1,
    ),
    transformers_case(
        "DINOv2 with registers, stored grid",
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig(**SHAPE, patch_size=14),
        (56, 56),
        5,
    ),
    transformers_case(
        "DINOv2 with registers, resized",
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig(**SHAPE, patch_size=14),
        (28, 70),
        5,
    ),
    transformers_case(
        "DINOv3",
        DINOv3ViTModel,
        DINOv3ViTConfig(**SHAPE, patch_size=14, num_register_tokens=4, intermediate_size=96),
        (56, 70),
        5,
    ),
    transformers_case(
        "DINOv3, gated",
        DINOv3ViTModel,
        DINOv3ViTConfig(
            **SHAPE,
            patch_size=14,
            num_register_tokens=0,
            intermediate_size=96,
            use_gated_mlp=True,
            hidden_act="silu",
        ),
        (56, 56),
        1,
    ),
    transformers_case(
        "ViT",
        ViTModel,
        ViTConfig(**SHAPE, patch_size=14, intermediate_size=96, qkv_bias=False),
        (56, 70),
        1,
        HALVES,
    ),
    transformers_case(
        "ViT-MAE",
        ViTMAEModel,
        ViTMAEConfig(**SHAPE, patch_size=14, intermediate_size=96, mask_ratio=0.0),
        (56, 70),
        1,
    ),
    by_name_case(
        "DINOv2 ViT-S/14",
        "dinov2-small",
        Dinov2Model,
        Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14),
        1,
    ),
    by_name_case(
        "DINOv2 ViT-S/14 with registers",
        "dinov2-with-registers-small",
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig(
            hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14
        ),
        5,
    ),
    by_name_case(
        "DINOv3 ViT-S/16",
        "dinov3-vits16",
        DINOv3ViTModel,
        DINOv3ViTConfig(num_register_tokens=4),
        5,
    ),
    Case("SubCell", TRANSFORMERS, subcell),
)
