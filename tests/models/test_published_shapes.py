"""Names, shapes and heads of every published model, from numbers that are written down here.

The numbers are those of the publications and of the code that the weights come with, or of the
models in transformers; none is taken from the recipes that they are compared with. Weights are
allocated in the last test alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models import published
from models.transformers_cases import (
    FULL_SIZE,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ViTConfig,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)
from napari_microdl.core.errors import MicrodlError
from napari_microdl.models import loading
from napari_microdl.models.formats.custom import hugging_face_recipe
from napari_microdl.models.recipe import Recipe
from napari_microdl.models.registry import recipes
from napari_microdl.models.vit.config import VitConfig
from napari_microdl.models.weights.assembly import empty_network

Shapes = dict[str, tuple[int, ...]]
EVERY_FORM = [form for recipe in recipes().values() for form in recipe.forms()]


@dataclass(frozen=True)
class Numbers:
    """One published architecture.

    Parameters
    ----------
    image : int
        Edge in pixels that the stored positions, or the training, are for.
    millions : float
        Parameters of the encoder as the publication rounds them.
    registers : int
        Tokens beside the class token.
    hidden : int
        Width of the hidden layer; four times the width where 0.
    """

    width: int
    depth: int
    heads: int
    patch: int
    image: int
    channels: int
    millions: float
    registers: int = 0
    hidden: int = 0
    eps: float = 1e-6


# ViT-S, B and L of Dosovitskiy et al. 2021 and Touvron et al. 2021; ViT-G of Zhai et al. 2022.
S, B, L, G = (384, 12, 6), (768, 12, 12), (1024, 24, 16), (1664, 48, 16)
PUBLISHED = {
    # Meta's hubconf: vit_small, vit_base and vit_large at 518 px with patches of 14.
    "dinov2-small": Numbers(*S, 14, 518, 3, 21),
    "dinov2-base": Numbers(*B, 14, 518, 3, 86),
    "dinov2-large": Numbers(*L, 14, 518, 3, 300),
    "dinov2-with-registers-small": Numbers(*S, 14, 518, 3, 21, registers=4),
    "dinov2-with-registers-base": Numbers(*B, 14, 518, 3, 86, registers=4),
    "dinov2-with-registers-large": Numbers(*L, 14, 518, 3, 300, registers=4),
    # Meta's hubconf: four storage tokens, patches of 16, the norm with 1e-5.
    "dinov3-vits16": Numbers(*S, 16, 224, 3, 21, registers=4, eps=1e-5),
    "dinov3-vitb16": Numbers(*B, 16, 224, 3, 86, registers=4, eps=1e-5),
    # Loaders of others: the shapes of DINOv2 with 257 positions.
    "dinobloom-s": Numbers(*S, 14, 224, 3, 21),
    "dinobloom-b": Numbers(*B, 14, 224, 3, 86),
    "dinobloom-l": Numbers(*L, 14, 224, 3, 300),
    # Meta's cell_dino/backbones.py.
    "cell-dino-hpa-vitl16": Numbers(*L, 16, 224, 4, 300),
    "cell-dino-hpa-vitl14": Numbers(*L, 14, 518, 4, 300),
    "cell-dino-cp-vits8": Numbers(*S, 8, 128, 5, 21),
    "channel-adaptive-dino-vitl16": Numbers(*L, 16, 224, 1, 300),
    # model_config.yaml of SubCell: 768, 12, 12, 3072, 448 px, patches of 16, 1e-12.
    "subcell-rybg": Numbers(*B, 16, 448, 4, 86, eps=1e-12),
    "subcell-rbg": Numbers(*B, 16, 448, 3, 86, eps=1e-12),
    "subcell-ybg": Numbers(*B, 16, 448, 3, 86, eps=1e-12),
    "subcell-bg": Numbers(*B, 16, 448, 2, 86, eps=1e-12),
    # hubconf.py of ChannelViT: hcs_channelvit_small(patch_size=8, in_chans=5 or 8), 224 px.
    "channelvit-jump-cp": Numbers(*S, 8, 224, 5, 21),
    "channelvit-jump-cp-bf": Numbers(*S, 8, 224, 8, 21),
    # vit_small of uniDINO: patches of 16, one channel, 224 px.
    "unidino": Numbers(*S, 16, 224, 1, 21),
    # Recursion's vit.py: vit_small_patch16_256 behind one projection for all channels, and
    # vit_large_patch8_256 with six; of ViT-G/8 only its 1.9 billion parameters are published.
    "openphenom": Numbers(*S, 16, 256, 1, 22),
    "mae-vitl8": Numbers(*L, 8, 256, 6, 304),
    "mae-vitg8": Numbers(*G, 8, 256, 6, 1900, hidden=8192),
}
SUBCELL = tuple(name for name in PUBLISHED if name.startswith("subcell"))
# Three channels each, and nothing in their files tells which.
TWINS = {"subcell-rbg": ("subcell-ybg",), "subcell-ybg": ("subcell-rbg",)}
CHANNELVIT = ("channelvit-jump-cp", "channelvit-jump-cp-bf")
PARALLEL = ("openphenom", "mae-vitl8", "mae-vitg8")
ROTARY = ("dinov3-vits16", "dinov3-vitb16")
CELL_DINO = tuple(name for name in PUBLISHED if name.startswith(("cell-dino", "channel-adaptive")))


def shape_of(numbers: Numbers, **options: Any) -> VitConfig:
    """What the test's own lists of names are made from."""
    return VitConfig(
        dim=numbers.width,
        depth=numbers.depth,
        n_heads=numbers.heads,
        patch_size=numbers.patch,
        in_channels=numbers.channels,
        hidden_dim=numbers.hidden or 4 * numbers.width,
        n_registers=numbers.registers,
        **options,
    )


def stored(numbers: Numbers) -> dict[str, Any]:
    edge = numbers.image // numbers.patch
    return {"positions": "learned", "position_grid": (edge, edge)}


def pth_shapes(name: str, numbers: Numbers) -> Shapes:
    """Tensors of the ``.pth`` file that a model's own code reads."""
    if name in PARALLEL:
        tokenizer = "per_channel" if numbers.channels == 1 else "joint"
        return published.parallel_shapes(shape_of(numbers, tokenizer=tokenizer, **stored(numbers)))
    if name in CHANNELVIT:
        config = shape_of(numbers, tokenizer="per_channel", **stored(numbers))
        return published.timm_shapes(config, embedding=True)
    if name in ROTARY:
        config = shape_of(numbers, positions="rope", layer_scale=True)
        shapes = published.timm_shapes(config, storage=True)
        blocks = range(numbers.depth)
        shapes |= {f"blocks.{b}.attn.qkv.bias_mask": (3 * numbers.width,) for b in blocks}
        return shapes | {"rope_embed.periods": (numbers.width // numbers.heads // 4,)}
    scaled = name != "unidino"
    shapes = published.timm_shapes(shape_of(numbers, layer_scale=scaled, **stored(numbers)))
    return published.chunked(shapes, 4) if name in CELL_DINO else shapes


def shapes_in(model_class: Any, config: Any, prefix: str = "") -> Shapes:
    """Tensors of a model of transformers, without their memory."""
    with torch.device("meta"):
        model = model_class(config)
    return {f"{prefix}{name}": tuple(value.shape) for name, value in model.state_dict().items()}


def rgb_config(config_class: Any, numbers: Numbers, **options: Any) -> Any:
    """Configuration as on the hub."""
    return config_class(
        hidden_size=numbers.width,
        num_hidden_layers=numbers.depth,
        num_attention_heads=numbers.heads,
        patch_size=numbers.patch,
        image_size=numbers.image,
        num_channels=numbers.channels,
        **options,
    )


def folder_shapes(name: str, numbers: Numbers) -> Shapes:
    """Tensors of the model in transformers."""
    if name in ROTARY:
        options = {"intermediate_size": 4 * numbers.width, "num_register_tokens": 4}
        return shapes_in(DINOv3ViTModel, rgb_config(DINOv3ViTConfig, numbers, **options))
    if numbers.registers:
        config = rgb_config(Dinov2WithRegistersConfig, numbers, num_register_tokens=4)
        return shapes_in(Dinov2WithRegistersModel, config)
    return shapes_in(Dinov2Model, rgb_config(Dinov2Config, numbers))


def subcell_shapes(name: str, numbers: Numbers) -> Shapes:
    config = rgb_config(ViTConfig, numbers, intermediate_size=4 * numbers.width)
    shapes = shapes_in(lambda c: ViTModel(c, add_pooling_layer=False), config, "encoder.")
    return shapes | {"pool_model.attention.0.weight": (512, numbers.width)}


FILES: list[tuple[str, str, Callable[[str, Numbers], Shapes]]] = [
    *((name, "timm", pth_shapes) for name in PUBLISHED if name not in (*SUBCELL, *PARALLEL)),
    *((name, "parallel", pth_shapes) for name in PARALLEL),
    *((name, "subcell", subcell_shapes) for name in SUBCELL),
    *(
        (name, "huggingface", folder_shapes)
        for name in PUBLISHED
        if name.startswith(("dinov2", "dinov3"))
    ),
]


def test_the_numbers_of_every_model_and_every_set_of_names_are_written_down():
    assert set(PUBLISHED) == set(recipes())
    assert {(name, layout) for name, layout, _ in FILES} == {
        (form.spec.model_id, form.keys.name) for form in EVERY_FORM
    }


@pytest.fixture
def file_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Shapes], Path]:
    """A file that holds tensors of such names and shapes, as far as its reader can tell."""

    def pretend(shapes: Shapes) -> Path:
        monkeypatch.setattr(loading, "tensor_shapes", lambda _: shapes)
        return Path("weights.pth")

    return pretend


@pytest.mark.parametrize(("name", "layout", "shapes"), FILES, ids=[f"{n}-{k}" for n, k, _ in FILES])
def test_a_file_of_the_published_shapes_is_told_for_what_it_is(
    name: str,
    layout: str,
    shapes: Callable[[str, Numbers], Shapes],
    file_with: Callable[[Shapes], Path],
):
    path = file_with(shapes(name, PUBLISHED[name]))
    among = [form for form in EVERY_FORM if form.spec.model_id not in TWINS.get(name, ())]
    recipe = loading.recognise(path, among)
    assert (recipe.spec.model_id, recipe.keys.name) == (name, layout)


@pytest.mark.parametrize("name", ["subcell-rbg", "subcell-ybg"])
def test_two_models_of_one_shape_are_asked_for_by_name(
    name: str, file_with: Callable[[Shapes], Path]
):
    path = file_with(subcell_shapes(name, PUBLISHED[name]))
    with pytest.raises(MicrodlError, match=r"several models \(subcell-rbg, subcell-ybg\); write"):
        loading.recognise(path, EVERY_FORM)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 396},
        {"depth": 11},
        {"patch": 16, "image": 592},
        {"image": 504},
        {"channels": 4},
        {"registers": 0},
        {"hidden": 1024},
    ],
    ids=str,
)
def test_a_file_of_other_shapes_is_not(wrong: dict[str, int], file_with: Callable[[Shapes], Path]):
    name = "dinov2-with-registers-small"
    form = recipes()[name].alternative
    assert form is not None
    numbers = PUBLISHED[name]
    assert loading.recognise(file_with(pth_shapes(name, numbers)), [form]) is form
    with pytest.raises(MicrodlError, match="fits no model that is known"):
        loading.recognise(file_with(pth_shapes(name, replace(numbers, **wrong))), [form])


@pytest.mark.parametrize("recipe", EVERY_FORM, ids=lambda r: f"{r.spec.model_id}-{r.keys.name}")
def test_what_shapes_do_not_tell_is_as_published(recipe: Recipe):
    numbers, config, spec = PUBLISHED[recipe.spec.model_id], recipe.config, recipe.spec
    assert config.n_heads == numbers.heads
    assert config.norm_eps == numbers.eps
    assert (spec.dim, spec.depth, spec.patch_size) == (numbers.width, numbers.depth, numbers.patch)
    # DINOv2 was trained at 224 px and then for a while at 518; both sizes are its own.
    assert spec.tile_size == (224 if spec.model_id.startswith("dinov2") else numbers.image)
    millions = sum(p.numel() for p in empty_network(config).parameters()) / 1e6
    assert millions == pytest.approx(numbers.millions, rel=0.06)


@pytest.mark.parametrize(
    ("numbers", "hidden"),
    [
        (Numbers(*B, 16, 224, 3, 86), 3072),
        (Numbers(*L, 16, 224, 3, 304), 4096),
        (Numbers(1280, 32, 16, 14, 224, 3, 632), 5120),
    ],
    ids=["base", "large", "huge"],
)
def test_folders_of_vit_mae_are_of_their_published_shapes(
    numbers: Numbers, hidden: int, tmp_path: Path, file_with: Callable[[Shapes], Path]
):
    config = rgb_config(ViTMAEConfig, numbers, intermediate_size=hidden)
    config.save_pretrained(tmp_path)
    recipe = hugging_face_recipe(tmp_path)
    assert loading.recognise(file_with(shapes_in(ViTMAEModel, config)), [recipe]) is recipe
    assert (recipe.config.n_heads, recipe.config.norm_eps) == (numbers.heads, 1e-12)
    assert recipe.spec.tile_size == 224
    millions = sum(p.numel() for p in empty_network(recipe.config).parameters()) / 1e6
    assert millions == pytest.approx(numbers.millions, rel=0.06)


def test_the_pinned_file_of_registers_has_the_size_that_its_source_states(tmp_path: Path):
    # Header, names and numbers as transformers writes them: the file that is pinned has as many
    # bytes (docs/models.md).
    FULL_SIZE["dinov2-with-registers-small"].write(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size == 88_256_200
