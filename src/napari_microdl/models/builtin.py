"""The small channel-agnostic masked autoencoder that ships with the package.

Every channel is tokenized and encoded by itself with the same weights (a "bag of channels"), so any
number of channels in any order is accepted; how the channels' tokens are put together is the
caller's choice. Trained by ``training/train.py``; see ``model_card.md`` beside the weights.
"""

from __future__ import annotations

import hashlib
from importlib.resources import as_file, files
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_microdl.errors import MicrodlError
from napari_microdl.models.base import ModelSpec, Precision, Site
from napari_microdl.models.device import bounded_threads, resolve_device
from napari_microdl.models.vit import VisionTransformer, VitConfig
from napari_microdl.safe_tensors import file_sha256, read_safetensors

CONFIG = VitConfig(dim=192, depth=8, n_heads=3, patch_size=8, in_channels=1)
MEAN, SPREAD = 0.25, 0.3
WEIGHTS = files("napari_microdl") / "data" / "mae" / "microdl_mae.safetensors"
DEFAULT_LAYER = 6
TILE_SIZE = 128


def standardise(images: Tensor) -> Tensor:
    """Scaled intensities (about 0 to 1) to model input."""
    return (images - MEAN) / SPREAD


def _spec(model_id: str, title: str, sha256: str, source: str) -> ModelSpec:
    return ModelSpec(
        model_id=model_id,
        title=title,
        patch_size=CONFIG.patch_size,
        dim=CONFIG.dim,
        depth=CONFIG.depth,
        default_layer=DEFAULT_LAYER,
        tile_size=TILE_SIZE,
        weights_sha256=sha256,
        licence="BSD-3-Clause",
        source=source,
    )


class BuiltinModel:
    """The built-in vision transformer as a `TokenModel`.

    Parameters
    ----------
    network : VisionTransformer
        Encoder with its weights.
    spec : ModelSpec
        Facts about it.
    device : torch.device
        Where it runs.
    precision : {"fp32", "bf16"}
        Arithmetic of the forward pass; tokens come back in float32.
    """

    def __init__(
        self,
        network: VisionTransformer,
        spec: ModelSpec,
        device: torch.device,
        precision: Precision,
    ) -> None:
        if precision not in get_args(Precision):
            raise MicrodlError(f"Precision '{precision}' is not known; use 'fp32' or 'bf16'.")
        self.spec = spec
        self.device = device
        self.precision = precision
        self._network = network.to(device).eval().requires_grad_(requires_grad=False)

    def tokens(self, tiles: NDArray[np.float32], layer: int, site: Site) -> NDArray[np.float32]:
        """Patch tokens of a batch of tiles; see `TokenModel.tokens`."""
        n, channels, height, width = tiles.shape
        with (
            bounded_threads(),
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            grey = torch.from_numpy(tiles).reshape(n * channels, 1, height, width)
            out = self._network(standardise(grey.to(self.device)), layer, site)
        tokens: NDArray[np.float32] = out.float().cpu().numpy()
        return tokens.reshape(n, channels, *tokens.shape[1:])


def load_builtin(device: str = "auto", precision: Precision = "fp32") -> BuiltinModel:
    """The trained model.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "mps"}
        Where it runs.
    precision : {"fp32", "bf16"}
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
    spec = _spec(
        "builtin",
        "Built-in MAE ViT-T/8, channel-agnostic",
        sha256,
        "trained by napari-microdl on public images, see the model card",
    )
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = VisionTransformer(CONFIG)
    digest = hashlib.sha256(f"random-init seed {seed}".encode()).hexdigest()
    spec = _spec(
        "random-init", f"Untrained ViT-T/8, seed {seed}", digest, "random numbers: a baseline"
    )
    return BuiltinModel(network, spec, resolve_device(device), precision)
