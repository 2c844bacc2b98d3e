"""Folders of transformers with random weights, beside the library used by itself on each.

Some hold families that the package has itself, others those that it lets the library run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

# Only the modules of the models: the top of the package looks for torchvision and says so.
from transformers.models.beit.configuration_beit import BeitConfig
from transformers.models.beit.modeling_beit import BeitForImageClassification, BeitModel
from transformers.models.clip.configuration_clip import CLIPConfig, CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPModel, CLIPVisionModel
from transformers.models.data2vec.configuration_data2vec_vision import Data2VecVisionConfig
from transformers.models.data2vec.modeling_data2vec_vision import (
    Data2VecVisionForImageClassification,
    Data2VecVisionModel,
)
from transformers.models.deit.configuration_deit import DeiTConfig
from transformers.models.deit.modeling_deit import (
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
)
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
from transformers.models.ijepa.configuration_ijepa import IJepaConfig
from transformers.models.ijepa.modeling_ijepa import IJepaModel
from transformers.models.siglip.configuration_siglip import SiglipConfig, SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipModel, SiglipVisionModel
from transformers.models.vit.configuration_vit import ViTConfig
from transformers.models.vit.modeling_vit import ViTModel
from transformers.models.vit_mae.configuration_vit_mae import ViTMAEConfig
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEModel
from transformers.models.vit_msn.configuration_vit_msn import ViTMSNConfig
from transformers.models.vit_msn.modeling_vit_msn import ViTMSNModel

from models import published
from models.comparison import IMAGENET, TRANSFORMERS, Case, Difference, Tokens, compare, tiles_of
from napari_microdl.models.loading import load_published
from napari_microdl.models.registry import load_model, recipes

SHAPE = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
VISION = SHAPE | {"intermediate_size": 96}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HALVES = (np.full(3, 0.5), np.full(3, 0.5))
CLIP_CONSTANTS = (
    np.array([0.48145466, 0.4578275, 0.40821073]),
    np.array([0.26862954, 0.26130258, 0.27577711]),
)


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


@dataclass(frozen=True)
class Library:
    """One kind of folder.

    Parameters
    ----------
    name : str
        For people.
    read : type
        The encoder alone, as the library loads it from that folder.
    config : object
        Configuration of the model that the folder is written with.
    n_prefix : int
        Tokens before those of the patches.
    constants : (means, deviations)
        Those of its image processor.
    resize : bool
        Whether the library wants to be told of another grid.
    saved : callable, optional
        That model, where it is more than the encoder.
    """

    name: str
    read: Any
    config: Any
    n_prefix: int
    constants: tuple[np.ndarray, np.ndarray] = HALVES
    resize: bool = True
    saved: Any = None

    def write(self, folder: Path, **options: Any) -> Path:
        """The folder as the library saves it."""
        randomised((self.saved or self.read)(self.config)).save_pretrained(folder, **options)
        return folder

    def tokens(self, folder: Path, images: np.ndarray) -> Tokens:
        """What the library says: its hidden states, and hooks on the out-projections."""
        model = self.read.from_pretrained(folder).eval()
        seen: list[torch.Tensor] = []
        for name, module in model.named_modules():
            if name.endswith((".o_proj", "attn.out_proj", ".attention.output.dense")):
                module.register_forward_hook(lambda _, __, out: seen.append(out))
        grid = [edge // model.config.patch_size for edge in images.shape[2:]]
        options = {"interpolate_pos_encoding": True} if self.resize else {}
        if self.read is ViTMAEModel:
            # It shuffles its tokens even where it hides none.
            options["noise"] = torch.arange(grid[0] * grid[1]).repeat(len(images), 1).float()
        with torch.inference_mode():
            images = torch.from_numpy(images.astype(np.float32))
            out = model(images, output_hidden_states=True, **options)
        # The first is what the first block reads.
        states = out.hidden_states[1:]
        assert len(states) == len(seen)
        return {
            (layer, site): tokens[:, self.n_prefix :].reshape(len(images), 1, *grid, -1).numpy()
            for site, found in (("residual", states), ("attention", seen))
            for layer, tokens in enumerate(found, start=1)
        }


DINO: dict[str, Any] = {"constants": IMAGENET, "resize": False}
REGISTERS = Dinov2WithRegistersConfig(**SHAPE)
GATED = {"num_register_tokens": 0, "use_gated_mlp": True, "hidden_act": "silu"}
OWN = (
    Library("DINOv2", Dinov2Model, Dinov2Config(**SHAPE), 1, **DINO),
    Library("DINOv2, SwiGLU", Dinov2Model, Dinov2Config(**SHAPE, use_swiglu_ffn=True), 1, **DINO),
    Library("DINOv2 with registers", Dinov2WithRegistersModel, REGISTERS, 5, **DINO),
    Library("DINOv3", DINOv3ViTModel, DINOv3ViTConfig(**VISION, num_register_tokens=4), 5, **DINO),
    Library("DINOv3, gated", DINOv3ViTModel, DINOv3ViTConfig(**VISION, **GATED), 1, **DINO),
    Library("ViT", ViTModel, ViTConfig(**VISION, qkv_bias=False), 1),
    Library("ViT-MAE", ViTMAEModel, ViTMAEConfig(**VISION, mask_ratio=0.0), 1, IMAGENET),
)
# BEiT and those after it: a class token, and relative positions, which fit any grid.
RELATIVE: dict[str, Any] = {"n_prefix": 1, "resize": False}
BOTH = {"vision_config": VISION, "text_config": TEXT}
SHARED = VISION | {"use_shared_relative_position_bias": True}
LIBRARY = (
    Library("DeiT", DeiTModel, DeiTConfig(**VISION), 2),
    Library(
        "DeiT with classifiers",
        DeiTModel,
        DeiTConfig(**VISION, qkv_bias=False),
        2,
        saved=DeiTForImageClassificationWithTeacher,
    ),
    Library(
        "BEiT",
        BeitModel,
        BeitConfig(**VISION, use_relative_position_bias=True, layer_scale_init_value=0.5),
        **RELATIVE,
        saved=BeitForImageClassification,
    ),
    Library(
        "BEiT, shared and absolute positions",
        BeitModel,
        BeitConfig(
            **SHARED,
            use_absolute_position_embeddings=True,
            use_mask_token=True,
            use_mean_pooling=False,
            layer_scale_init_value=0.0,
        ),
        **RELATIVE,
    ),
    Library(
        "data2vec",
        Data2VecVisionModel,
        Data2VecVisionConfig(**VISION, use_relative_position_bias=True),
        **RELATIVE,
        saved=Data2VecVisionForImageClassification,
    ),
    Library("data2vec, shared", Data2VecVisionModel, Data2VecVisionConfig(**SHARED), **RELATIVE),
    Library("I-JEPA", IJepaModel, IJepaConfig(**VISION), 0),
    Library("ViT-MSN", ViTMSNModel, ViTMSNConfig(**VISION), 1),
    Library("SigLIP, vision model", SiglipVisionModel, SiglipVisionConfig(**VISION), 0),
    Library("SigLIP", SiglipVisionModel, SiglipConfig(**BOTH), 0, saved=SiglipModel),
    Library("CLIP, vision model", CLIPVisionModel, CLIPVisionConfig(**VISION), 1, CLIP_CONSTANTS),
    Library("CLIP", CLIPVisionModel, CLIPConfig(**BOTH), 1, CLIP_CONSTANTS, saved=CLIPModel),
)
BY_NAME = {library.name: library for library in (*OWN, *LIBRARY)}
# Published models, whose shapes the registry has.
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
FULL_SIZE = {
    "dinov2-small": replace(
        BY_NAME["DINOv2"], name="DINOv2 ViT-S/14", config=Dinov2Config(**SMALL)
    ),
    "dinov2-with-registers-small": replace(
        BY_NAME["DINOv2 with registers"],
        name="DINOv2 ViT-S/14 with registers",
        config=Dinov2WithRegistersConfig(**SMALL),
    ),
    "dinov3-vits16": replace(
        BY_NAME["DINOv3"], name="DINOv3 ViT-S/16", config=DINOv3ViTConfig(num_register_tokens=4)
    ),
}


def transformers_case(
    library: Library, edges: tuple[int, int], which: str, model_id: str | None = None
) -> Case:
    """A folder beside the library; read as a published model where that is named."""

    def measure(folder: Path) -> Difference:
        place = library.write(folder / "folder")
        tiles = tiles_of(3, *edges, n=1 if model_id else 2)
        mean, std = (c.reshape(1, 3, 1, 1) for c in library.constants)
        expected = library.tokens(place, (tiles - mean) / std)
        name, weights = (model_id, place) if model_id else (place, None)
        return compare(load_model(name, weights=weights, device="cpu", joint=True), tiles, expected)

    return Case(f"{library.name}, {which}", TRANSFORMERS, measure)


def subcell(folder: Path) -> Difference:
    """SubCell's files are a ViT of transformers, without interpolation, behind a pooling head."""
    shape = SHAPE | {"image_size": 48, "patch_size": 16}
    library = replace(
        BY_NAME["ViT"],
        config=ViTConfig(**shape, intermediate_size=96, num_channels=4),
        saved=lambda config: ViTModel(config, add_pooling_layer=False),
    )
    place = library.write(folder / "folder")
    state = {f"encoder.{k}": v for k, v in load_file(place / "model.safetensors").items()}
    state["pool_model.attention.weight"] = torch.ones(2, 2)
    path = published.write(state, folder / "encoder.pth")
    recipe = recipes()["subcell-rybg"]
    sizes = {"dim": 48, "depth": 3}
    config = replace(recipe.config, **sizes, n_heads=4, hidden_dim=96, position_grid=(3, 3))
    recipe = replace(recipe, config=config, spec=replace(recipe.spec, **sizes))
    tiles = tiles_of(4, 64, 48)
    model = load_published(recipe, path, "cpu", "fp32")
    return compare(model, tiles, library.tokens(place, tiles))


GRIDS: Sequence[tuple[tuple[int, int], str]] = (((56, 56), "stored grid"), ((70, 42), "resized"))
TRANSFORMERS_CASES = (
    *(transformers_case(library, *grid) for library in (*OWN, *LIBRARY) for grid in GRIDS),
    *(
        transformers_case(library, (224, 224), "full size", model_id)
        for model_id, library in FULL_SIZE.items()
    ),
    Case("SubCell", TRANSFORMERS, subcell),
)
