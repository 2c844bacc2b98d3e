"""The models of the package itself."""

from __future__ import annotations

from dataclasses import replace

from napari_microdl.models.base import ModelSpec
from napari_microdl.models.vit.config import Preprocessing, VitConfig

CONFIG = VitConfig(dim=192, depth=8, n_heads=3, patch_size=8, in_channels=1)
PREPROCESSING = Preprocessing(mean=(0.25,), std=(0.3,))

BUILTIN = ModelSpec(
    model_id="builtin",
    title="Built-in MAE ViT-T/8, channel-agnostic",
    patch_size=CONFIG.patch_size,
    dim=CONFIG.dim,
    depth=CONFIG.depth,
    default_layer=6,
    tile_size=128,
    weights_sha256="",
    licence="BSD-3-Clause",
    source="trained by napari-microdl on public images, see the model card",
    non_commercial=False,
)
RANDOM_INIT = replace(
    BUILTIN,
    model_id="random-init",
    title="Untrained ViT-T/8",
    source="random numbers: a baseline",
)
