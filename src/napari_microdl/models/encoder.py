"""Runs a vision transformer on scaled tiles, in the precision that was asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from napari_microdl.core.arrays import torch_threads
from napari_microdl.core.config import Precision, Site
from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.base import ModelSpec
from napari_microdl.models.formats.transformers import TransformersConfig
from napari_microdl.models.formats.transformers_network import TransformersNetwork
from napari_microdl.models.vit.config import Preprocessing, VitConfig
from napari_microdl.models.vit.network import VisionTransformer

TRIAL_TILES = 2
TRIAL_REPEATS = 3


def resolve_device(name: str) -> torch.device:
    """Device of a name; ``"auto"`` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    MicrodlError
        If the device is not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if not available.get(name, False):
        usable = ", ".join(device for device, there in available.items() if there)
        raise MicrodlError(f"Device '{name}' is not available here; choose one of: auto, {usable}.")
    return torch.device(name)


def check_precision(precision: str) -> None:
    """Refuse an arithmetic that does not exist."""
    if precision not in get_args(Precision):
        raise MicrodlError(f"Precision '{precision}' is not known; use fp32, bf16 or fast.")


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class PrecisionTrial:
    """What the precision "fast" measured on the first tiles.

    Parameters
    ----------
    used : {"fp32", "bf16"}
        Arithmetic that the model runs in from then on.
    speed_ratio : float
        Time in float32 over time in bfloat16, the best of three each; bfloat16 is used above 1.
    relative_error : float
        Norm of the difference of the tokens over the norm of the float32 tokens.
    """

    used: Precision
    speed_ratio: float
    relative_error: float


def prepare(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Scaled intensities (about 0 to 1), of shape (n, channels, height, width), to model input."""
    eps = preprocessing.eps
    if preprocessing.tile_norm == "instance":
        images = F.instance_norm(images, eps=eps)
    elif preprocessing.tile_norm == "standardise":
        mean = images.mean((-2, -1), keepdim=True)
        spread = images.std((-2, -1), correction=0, keepdim=True)
        images = (images - mean) / (spread + eps)
    constants = (preprocessing.mean, preprocessing.std)
    mean, std = (torch.tensor(c, device=images.device).reshape(1, -1, 1, 1) for c in constants)
    return (images - mean) / std


class EncoderModel:
    """A vision transformer with its weights as a `TokenModel`.

    Parameters
    ----------
    network : VisionTransformer or TransformersNetwork
        Encoder with its weights.
    spec : ModelSpec
        Facts about it; its channel rule says whether channels go in together. Where they do not and
        the network reads several at once, each is repeated so often, as a grey image.
    device : torch.device
        Where it runs.
    precision : {"fp32", "bf16", "fast"}
        Arithmetic of the forward pass; tokens come back in float32. "fast" measures both on the
        first tiles and takes bfloat16 where it is faster; `trial` then states what was found.
    preprocessing : Preprocessing
        From tiles to model input.

    Raises
    ------
    MicrodlError
        If the precision is not known.
    """

    def __init__(
        self,
        network: VisionTransformer | TransformersNetwork,
        spec: ModelSpec,
        device: torch.device,
        precision: Precision,
        preprocessing: Preprocessing,
    ) -> None:
        check_precision(precision)
        self.spec = spec
        self.device = device
        self.precision = precision
        self.trial: PrecisionTrial | None = None
        self.preprocessing = preprocessing
        self._network = network.to(device).eval().requires_grad_(requires_grad=False)

    @property
    def config(self) -> VitConfig | TransformersConfig:
        """Shape of the network."""
        return self._network.config

    @property
    def used_precision(self) -> Precision:
        """Arithmetic of the passes; "fast" until its trial has chosen."""
        return self.precision if self.trial is None else self.trial.used

    def tokens(self, tiles: NDArray[np.float32], layer: int, site: Site) -> NDArray[np.float32]:
        """Patch tokens of a batch of tiles; see `TokenModel.tokens`."""
        return self.tokens_of_layers(tiles, (layer,), site)[layer]

    def tokens_of_layers(
        self, tiles: NDArray[np.float32], layers: Sequence[int], site: Site
    ) -> dict[int, NDArray[np.float32]]:
        """Patch tokens of several layers from one pass; see `TokenModel.tokens`."""
        return self._run(tiles, layers, site, self.settle_precision(tiles, layers, site))

    def settle_precision(
        self, tiles: NDArray[np.float32], layers: Sequence[int], site: Site
    ) -> Precision:
        """Choose the arithmetic of all passes, by a trial on these tiles if "fast" had none yet."""
        self._check(tiles, layers)
        if self.precision == "fast" and self.trial is None:
            self.trial = self._try(tiles[:TRIAL_TILES], layers, site)
        return self.used_precision

    def _check(self, tiles: NDArray[np.float32], layers: Sequence[int]) -> None:
        if not layers:
            raise MicrodlError("No layer was asked for; name at least one.")
        rule, size = self.spec.channels, self.spec.tile_size
        channels, *edges = tiles.shape[1:]
        if channels < rule.least or (rule.most is not None and channels > rule.most):
            wanted = "at least" if rule.most is None else "from"
            amount = f"{wanted} {rule.least}" + ("" if rule.most is None else f" to {rule.most}")
            if rule.least == rule.most:
                amount = str(rule.least)
            which = f" ({', '.join(rule.names)})" if rule.names else ""
            raise MicrodlError(
                f"{self.spec.title} takes {amount} channels{which}, but the image has {channels}; "
                "choose that many."
            )
        if self.spec.fixed_tile and edges != [size, size]:
            raise MicrodlError(
                f"{self.spec.title} takes tiles of {size} x {size} pixels only, "
                f"not {edges[0]} x {edges[1]}."
            )

    def _input(self, tiles: NDArray[np.float32]) -> Tensor:
        # What torch cannot share memory with, or warns of, is copied.
        if not tiles.flags.writeable or min(tiles.strides) < 0:
            tiles = tiles.copy()
        images = torch.from_numpy(tiles).to(self.device)
        config = self._network.config
        if config.tokenizer == "joint" and not self.spec.channels.joint:
            images = images.reshape(-1, 1, *tiles.shape[2:])
            images = images.expand(-1, config.in_channels, -1, -1)
        return prepare(images, self.preprocessing)

    def _run(
        self, tiles: NDArray[np.float32], layers: Sequence[int], site: Site, precision: Precision
    ) -> dict[int, NDArray[np.float32]]:
        n, channels = tiles.shape[:2]
        with (
            # Oversubscribed threads are slower than one.
            torch_threads(usable_cores()),
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"),
        ):
            read = self._network.read(self._input(tiles), layers, site)
            found = {layer: tokens.float().cpu().numpy() for layer, tokens in read.items()}
        token_channels = self.spec.channels.n_token_channels(channels)
        return {
            layer: tokens.reshape(n, token_channels, *tokens.shape[-3:])
            for layer, tokens in found.items()
        }

    def _try(self, tiles: NDArray[np.float32], layers: Sequence[int], site: Site) -> PrecisionTrial:
        def best(
            run: Callable[[], dict[int, NDArray[np.float32]]],
        ) -> tuple[float, NDArray[np.float32]]:
            # The first run of each pays for set-up that the others do not.
            tokens = run()[max(layers)]
            seconds = []
            for _ in range(TRIAL_REPEATS):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
            return min(seconds), tokens

        slow, exact = best(lambda: self._run(tiles, layers, site, "fp32"))
        quick, rough = best(lambda: self._run(tiles, layers, site, "bf16"))
        ratio = slow / quick
        size = float(np.linalg.norm(exact))
        error = float(np.linalg.norm(rough - exact)) / size if size else 0.0
        return PrecisionTrial("bf16" if ratio > 1 else "fp32", ratio, error)
