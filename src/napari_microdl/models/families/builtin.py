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

import numpy as np
import torch
from torch import Tensor

from napari_microdl.core.config import Precision
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.safetensors_files import file_sha256, read_safetensors
from napari_microdl.models.base import ModelSpec
from napari_microdl.models.device import resolve_device
from napari_microdl.models.encoder import EncoderModel, prepare
from napari_microdl.models.families.microdl import (
    BUILTIN,
    CONFIG,
    PREPROCESSING,
    RANDOM_INIT,
)
from napari_microdl.models.vit.network import VisionTransformer

WEIGHTS = files("napari_microdl") / "data" / "mae" / "microdl_mae.safetensors"
TILE_SIZE = BUILTIN.tile_size
# torch has one source of random numbers for all threads: two that drew at once would each get other
# weights than their seed stands for.
_DRAWING = threading.Lock()


def standardise(images: Tensor) -> Tensor:
    """Scaled intensities (about 0 to 1) to model input."""
    return prepare(images, PREPROCESSING)


class BuiltinModel(EncoderModel):
    """The built-in vision transformer as a `TokenModel`.

    Parameters
    ----------
    network : VisionTransformer
        Encoder with its weights.
    spec : ModelSpec
        Facts about it.
    device : torch.device
        Where it runs.
    precision : {"fp32", "bf16", "fast"}
        Arithmetic of the forward pass; tokens come back in float32.
    """

    def __init__(
        self,
        network: VisionTransformer,
        spec: ModelSpec,
        device: torch.device,
        precision: Precision,
    ) -> None:
        super().__init__(network, spec, device, precision, PREPROCESSING)


def load_builtin(device: str = "auto", precision: Precision = "fp32") -> BuiltinModel:
    """The trained model.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "mps"}
        Where it runs.
    precision : {"fp32", "bf16", "fast"}
        Arithmetic of the forward pass.

    Returns
    -------
    BuiltinModel

    Raises
    ------
    MicrodlError
        If the weights file of the installation is damaged.
    """
    with as_file(WEIGHTS) as path:
        tensors, _ = read_safetensors(path)
        sha256 = file_sha256(path)
    network = VisionTransformer(CONFIG)
    state = {name: torch.from_numpy(value.astype(np.float32)) for name, value in tensors.items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise MicrodlError(
            "The built-in weights do not fit this version; reinstall napari-microdl."
        ) from error
    spec = replace(BUILTIN, weights_sha256=sha256)
    return BuiltinModel(network, spec, resolve_device(device), precision)


def random_init(device: str = "auto", precision: Precision = "fp32", seed: int = 0) -> BuiltinModel:
    """The same architecture before any training: the baseline that a model has to beat.

    Parameters
    ----------
    device, precision : str
        As for `load_builtin`.
    seed : int, default=0
        Seed of the weights.

    Returns
    -------
    BuiltinModel
    """
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = VisionTransformer(CONFIG)
    digest = hashlib.sha256(f"random-init seed {seed}".encode()).hexdigest()
    spec = replace(RANDOM_INIT, weights_sha256=digest, title=f"Untrained ViT-T/8, seed {seed}")
    return BuiltinModel(network, spec, resolve_device(device), precision)
