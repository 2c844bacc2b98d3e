"""Families that the library runs, beside the library used by itself on the same folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from transformers.models.ijepa.configuration_ijepa import IJepaConfig
from transformers.models.ijepa.modeling_ijepa import IJepaModel
from transformers.models.siglip.configuration_siglip import SiglipConfig, SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipModel, SiglipVisionModel
from transformers.models.vit_msn.configuration_vit_msn import ViTMSNConfig
from transformers.models.vit_msn.modeling_vit_msn import ViTMSNModel

from models.comparison import TRANSFORMERS, Case, Difference, Tokens, compare, tiles_of
from models.transformers_cases import HALVES, SHAPE, randomised
from napari_microdl.models.registry import load_model

PATCH = 14
VISION = SHAPE | {"patch_size": PATCH, "intermediate_size": 96}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLIP_CONSTANTS = (
    np.array([0.48145466, 0.4578275, 0.40821073]),
    np.array([0.26862954, 0.26130258, 0.27577711]),
)


@dataclass(frozen=True)
class Library:
    """One kind of folder.

    Parameters
    ----------
    name : str
        For people.
    saved : type
        Model that a folder is written with.
    config : object
        Its configuration.
    read : type
        The encoder alone, as the library loads it from that folder.
    n_prefix : int
        Tokens before those of the patches.
    resize : dict
        What the library wants to be told on another grid.
    constants : (means, deviations)
        Those of its image processor.
    """

    name: str
    saved: Any
    config: Any
    read: Any
    n_prefix: int
    resize: dict[str, bool] = field(default_factory=lambda: {"interpolate_pos_encoding": True})
    constants: tuple[np.ndarray, np.ndarray] = HALVES

    def write(self, folder: Path) -> Path:
        """The folder as the library saves it."""
        randomised(self.saved(self.config)).save_pretrained(folder)
        return folder

    def tokens(self, folder: Path, images: np.ndarray) -> Tokens:
        """What the library says: its hidden states, and hooks on the out-projections."""
        model = self.read.from_pretrained(folder).eval()
        projections = [
            module
            for name, module in model.named_modules()
            if name.endswith((".o_proj", "attn.out_proj", ".attention.output.dense"))
        ]
        seen: list[torch.Tensor] = []
        for module in projections:
            module.register_forward_hook(lambda _, __, out: seen.append(out))
        with torch.inference_mode():
            out = model(
                torch.from_numpy(images.astype(np.float32)),
                output_hidden_states=True,
                **self.resize,
            )
        # The first is what the first block reads.
        states = out.hidden_states[1:]
        assert len(states) == len(seen) == SHAPE["num_hidden_layers"]
        grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
        shape = (len(images), 1, *grid, SHAPE["hidden_size"])
        return {
            (layer, site): tokens[:, self.n_prefix :].reshape(shape).numpy()
            for site, found in (("residual", states), ("attention", seen))
            for layer, tokens in enumerate(found, start=1)
        }


NOTHING: dict[str, bool] = {}
LIBRARY = (
    Library("DeiT", DeiTModel, DeiTConfig(**VISION), DeiTModel, 2),
    Library(
        "DeiT with classifiers",
        DeiTForImageClassificationWithTeacher,
        DeiTConfig(**VISION, qkv_bias=False),
        DeiTModel,
        2,
    ),
    Library(
        "BEiT",
        BeitForImageClassification,
        BeitConfig(**VISION, use_relative_position_bias=True, layer_scale_init_value=0.5),
        BeitModel,
        1,
        NOTHING,
    ),
    Library(
        "BEiT, shared and absolute positions",
        BeitModel,
        BeitConfig(
            **VISION,
            use_shared_relative_position_bias=True,
            use_absolute_position_embeddings=True,
            use_mask_token=True,
            use_mean_pooling=False,
            layer_scale_init_value=0.0,
        ),
        BeitModel,
        1,
        NOTHING,
    ),
    Library(
        "data2vec",
        Data2VecVisionForImageClassification,
        Data2VecVisionConfig(**VISION, use_relative_position_bias=True),
        Data2VecVisionModel,
        1,
        NOTHING,
    ),
    Library(
        "data2vec, shared positions",
        Data2VecVisionModel,
        Data2VecVisionConfig(**VISION, use_shared_relative_position_bias=True),
        Data2VecVisionModel,
        1,
        NOTHING,
    ),
    Library("I-JEPA", IJepaModel, IJepaConfig(**VISION), IJepaModel, 0),
    Library("ViT-MSN", ViTMSNModel, ViTMSNConfig(**VISION), ViTMSNModel, 1),
    Library(
        "SigLIP, vision model",
        SiglipVisionModel,
        SiglipVisionConfig(**VISION),
        SiglipVisionModel,
        0,
    ),
    Library(
        "SigLIP",
        SiglipModel,
        SiglipConfig(vision_config=VISION, text_config=TEXT),
        SiglipVisionModel,
        0,
    ),
    Library(
        "CLIP, vision model",
        CLIPVisionModel,
        CLIPVisionConfig(**VISION),
        CLIPVisionModel,
        1,
        constants=CLIP_CONSTANTS,
    ),
    Library(
        "CLIP",
        CLIPModel,
        CLIPConfig(vision_config=VISION, text_config=TEXT),
        CLIPVisionModel,
        1,
        constants=CLIP_CONSTANTS,
    ),
)


def library_case(library: Library, edges: tuple[int, int], which: str) -> Case:
    def measure(folder: Path) -> Difference:
        place = library.write(folder / "folder")
        tiles = tiles_of(3, *edges)
        mean, std = (c.reshape(1, 3, 1, 1) for c in library.constants)
        expected = library.tokens(place, (tiles - mean) / std)
        model = load_model(str(place), device="cpu", joint=True)
        return compare(model, tiles, expected)

    return Case(f"{library.name}, {which}", TRANSFORMERS, measure)


LIBRARY_CASES = tuple(
    library_case(library, edges, which)
    for library in LIBRARY
    for edges, which in (((56, 56), "stored grid"), ((70, 42), "resized"))
)
