"""The small channel-agnostic masked autoencoder that ships with the package.

Every channel is tokenized and encoded by itself with the same weights (a "bag of channels"), so any
number of channels in any order is accepted; how the channels' tokens are put together is the
caller's choice. Trained by ``training/train.py``; see ``model_card.md`` beside the weights.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_microdl.core.config import Precision
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.safetensors_files import file_sha256, read_safetensors
from napari_microdl.models.base import ModelSpec
from napari_microdl.models.vit.config import Preprocessing, VitConfig

if TYPE_CHECKING:
    from napari_microdl.models.encoder import EncoderModel
    from napari_microdl.models.vit.network import VisionTransformer

WEIGHTS = files("napari_microdl") / "data" / "mae" / "microdl_mae.safetensors"
CONFIG = VitConfig(dim=192, depth=8, n_heads=3, patch_size=8, in_channels=1)
PREPROCESSING = Preprocessing(mean=(0.25,), std=(0.3,))
BUILTIN = ModelSpec(
    model_id="builtin",
    title="Built-in MAE ViT-T/8, channel-agnostic",
    patch_size=CONFIG.patch_size,
    dim=CONFIG.dim,
    depth=CONFIG.depth,
    default_layer=6,
    spread_layer=2,
    tile_size=128,
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
SPECS = (BUILTIN, RANDOM_INIT)
# torch has one source of random numbers for all threads: two that drew at once would each get other
# weights than their seed stands for.
_DRAWING = threading.Lock()


def load(spec: ModelSpec, device: str, precision: Precision, seed: int) -> EncoderModel:
    """The trained model, or the untrained one."""
    if spec == BUILTIN:
        return load_builtin(device, precision)
    return random_init(device, precision, seed)


def load_builtin(device: str = "auto", precision: Precision = "fp32") -> EncoderModel:
    """The trained model; its weights are checked, as an installation may be damaged."""
    with as_file(WEIGHTS) as path:
        sha256 = file_sha256(path)
        try:
            network = read_network(path)
        except RuntimeError as error:
            raise MicrodlError(
                "The built-in weights do not fit this version; reinstall napari-microdl."
            ) from error
    return _model(network, replace(BUILTIN, weights_sha256=sha256), device, precision)


def load_weights(path: Path, device: str = "auto", precision: Precision = "fp32") -> EncoderModel:
    """The model with other weights, as ``training/export.py`` writes them."""
    spec = replace(BUILTIN, weights_sha256=file_sha256(path), title=path.stem)
    return _model(read_network(path), spec, device, precision)


def read_network(path: Path) -> VisionTransformer:
    """The network with the weights of a file; RuntimeError if they do not fit."""
    # Only here, so that models can be listed without torch, which takes seconds to import.
    import torch

    from napari_microdl.models.vit.network import VisionTransformer

    tensors, _ = read_safetensors(path)
    network = VisionTransformer(CONFIG)
    state = {name: torch.from_numpy(value.astype(np.float32)) for name, value in tensors.items()}
    network.load_state_dict(state)
    return network


def random_init(device: str = "auto", precision: Precision = "fp32", seed: int = 0) -> EncoderModel:
    """The same architecture before any training: the baseline that a model has to beat."""
    import torch

    from napari_microdl.models.vit.network import VisionTransformer

    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = VisionTransformer(CONFIG)
    digest = hashlib.sha256(f"random-init seed {seed}".encode()).hexdigest()
    spec = replace(RANDOM_INIT, weights_sha256=digest, title=f"Untrained ViT-T/8, seed {seed}")
    return _model(network, spec, device, precision)


def _model(
    network: VisionTransformer, spec: ModelSpec, device: str, precision: Precision
) -> EncoderModel:
    from napari_microdl.models.encoder import EncoderModel, resolve_device

    return EncoderModel(network, spec, resolve_device(device), precision, PREPROCESSING)
