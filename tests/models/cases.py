"""Each family with random weights in its published layout, beside an independent implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

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

from models import naive, published
from napari_microdl.models.encoder import EncoderModel
from napari_microdl.models.loading import load_published
from napari_microdl.models.recipe import Recipe
from napari_microdl.models.registry import RECIPES, load_model

IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
HALVES = (np.full(3, 0.5), np.full(3, 0.5))
TRANSFORMERS, SECOND = "transformers", "second implementation"
SHAPE = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 56}
Tokens = dict[tuple[int, str], np.ndarray]


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference over all layers and sites, and the largest token value."""

    largest: float
    scale: float


@dataclass(frozen=True)
class Case:
    name: str
    against: str
    measure: Callable[[Path], Difference]

    def __str__(self) -> str:
        return self.name


def compare(model: EncoderModel, tiles: np.ndarray, expected: Tokens) -> Difference:
    """Every layer and site; `expected` holds arrays of the shape of the tokens."""
    largest, scale = 0.0, 0.0
    depth = model.spec.depth
    assert set(expected) == {(k, s) for k in range(1, depth + 1) for s in ("attention", "residual")}
    for (layer, site), wanted in expected.items():
        tokens = model.tokens(tiles, layer, site)
        assert tokens.shape == wanted.shape
        largest = max(largest, float(np.abs(tokens - wanted).max()))
        scale = max(scale, float(np.abs(wanted).max()))
    return Difference(largest, scale)


def tiles_of(channels: int, height: int, width: int, n: int = 2) -> np.ndarray:
    return np.random.default_rng(5).random((n, channels, height, width), np.float32)


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
    recipe = RECIPES["subcell-rybg"]
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


def instance_normed(images: np.ndarray, *, under_root: float, beside: float) -> np.ndarray:
    images = images.astype(float)
    mean = images.mean((2, 3), keepdims=True)
    variance = ((images - mean) ** 2).mean((2, 3), keepdims=True)
    return (images - mean) / (np.sqrt(variance + under_root) + beside)


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
    """A family against the naive implementation; `wrap` says how its file holds the weights."""

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
        images = prepare(images_apart(tiles, each, config.in_channels))
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


def imagenet(images: np.ndarray) -> np.ndarray:
    mean, std = (c.reshape(1, 3, 1, 1) for c in IMAGENET)
    return (images - mean) / std


def jump(images: np.ndarray) -> np.ndarray:
    """Bytes less their mean over their deviation, as the published configuration has them."""
    mean = [4.031743599139058, 1.565935237087539, 3.77367898215863, 3.4605251427133257]
    mean += [4.1723172504050225, 6.780529773318951, 6.787385700135139, 6.778120829362721]
    std = [17.318438884455695, 12.015918256263747, 16.966058078452495, 15.064776266287147]
    std += [17.964118200870608, 21.638766346725316, 21.670565699654457, 21.639488585095584]
    n = images.shape[1]
    columns = (np.array(c[:n]).reshape(1, n, 1, 1) for c in (mean, std))
    centre, spread = columns
    return (images.astype(float) * 255 - centre) / spread


def bytes_normed(images: np.ndarray) -> np.ndarray:
    """OpenPhenom's input: bytes over 255, then instance norm with torch's eps."""
    return instance_normed(images * 255.0 / 255.0, under_root=1e-5, beside=0.0)


def self_normed(images: np.ndarray) -> np.ndarray:
    """Cell-DINO's input."""
    return instance_normed(images, under_root=0.0, beside=1e-7)


def as_it_is(images: np.ndarray) -> np.ndarray:
    return images.astype(float)


def _cell_dino(name: str, channels: int, edges: tuple[int, int]) -> Case:
    return second_case(
        name,
        published.small(RECIPES[name]),
        lambda recipe: published.timm_state(recipe.config),
        timm_read,
        self_normed,
        channels,
        edges,
        wrap=published.chunked,
    )


def _teacher(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    inner = {f"backbone.{k}": v for k, v in state.items()}
    return {"teacher": inner | {"dino_head.mlp.0.weight": torch.ones(2, 2)}, "epoch": 3}


def _dino(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    inner = {f"module.backbone.{k}": v for k, v in state.items() if k != "mask_token"}
    return {"student": {}, "teacher": inner | {"module.head.last_layer.weight": torch.ones(2)}}


OPENPHENOM = RECIPES["openphenom"]
MAE_L = published.small(RECIPES["mae-vitl8"])
DINOV2 = RECIPES["dinov2-small"].taking(True).alternative
DINOV2_REGISTERS = RECIPES["dinov2-with-registers-small"].alternative
DINOV3 = RECIPES["dinov3-vits16"].taking(True).alternative
assert DINOV2 is not None
assert DINOV2_REGISTERS is not None
assert DINOV3 is not None

CASES = (
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
    second_case(
        "OpenPhenom, full size",
        OPENPHENOM,
        lambda recipe: published.parallel_state(recipe.config),
        parallel_read,
        bytes_normed,
        1,
        (256, 256),
        prefix="encoder.vit_backbone.",
    ),
    second_case(
        "OpenPhenom, five channels",
        published.small(OPENPHENOM),
        lambda recipe: published.parallel_state(recipe.config),
        parallel_read,
        bytes_normed,
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
        bytes_normed,
        6,
        (24, 24),
        prefix="encoder.vit_backbone.",
    ),
    second_case(
        "DINOv2, Meta's files",
        published.small(DINOV2),
        lambda recipe: published.timm_state(recipe.config),
        timm_read,
        imagenet,
        3,
        (56, 28),
        wrap=dict,
    ),
    second_case(
        "DINOv2 with registers, Meta's files",
        published.small(DINOV2_REGISTERS),
        lambda recipe: published.timm_state(recipe.config),
        timm_read,
        imagenet,
        2,
        (42, 42),
        wrap=dict,
    ),
    second_case(
        "DINOv3, Meta's files",
        published.small(DINOV3),
        lambda recipe: published.timm_state(recipe.config, storage=True),
        timm_read,
        imagenet,
        3,
        (48, 64),
        wrap=dict,
    ),
    second_case(
        "DinoBloom",
        published.small(RECIPES["dinobloom-s"]),
        lambda recipe: published.timm_state(recipe.config),
        timm_read,
        imagenet,
        3,
        (42, 42),
        wrap=_teacher,
    ),
    _cell_dino("cell-dino-hpa-vitl16", 4, (64, 48)),
    _cell_dino("cell-dino-cp-vits8", 5, (24, 24)),
    _cell_dino("channel-adaptive-dino-vitl16", 3, (48, 48)),
    second_case(
        "ChannelViT",
        published.small(RECIPES["channelvit-jump-cp-bf"]),
        lambda recipe: published.timm_state(recipe.config),
        timm_read,
        jump,
        8,
        (24, 32),
        wrap=dict,
    ),
    second_case(
        "ChannelViT with channel sampling",
        published.small(RECIPES["channelvit-jump-cp"]),
        lambda recipe: published.timm_state(recipe.config, embedding=True),
        timm_read,
        jump,
        5,
        (24, 24),
        wrap=dict,
    ),
    second_case(
        "uniDINO",
        published.small(RECIPES["unidino"]),
        lambda recipe: published.timm_state(recipe.config),
        timm_read,
        as_it_is,
        3,
        (48, 64),
        wrap=_dino,
    ),
)
