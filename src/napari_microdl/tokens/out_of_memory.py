"""A model that goes on with smaller passes where memory runs out."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.config import Site
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.models.base import ModelSpec, TokenModel

# What torch says on the CPU (Linux and macOS, Windows), on CUDA and on MPS.
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory", re.IGNORECASE)

# What a model makes of tiles; never None.
Output = TypeVar("Output")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of NumPy or torch, on any device, says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    # torch's own class is a RuntimeError too, and torch need not be imported to know it.
    return isinstance(error, RuntimeError) and bool(
        type(error).__name__ == "OutOfMemoryError" or _NO_MEMORY.search(str(error))
    )


def tokens_of_layers(
    model: TokenModel, tiles: NDArray[np.float32], layers: Sequence[int], site: Site
) -> dict[int, NDArray[np.float32]]:
    """Patch tokens of several layers, by layer, in one pass where the model can do that.

    A model without ``tokens_of_layers`` makes a pass a layer; see `TokenModel.tokens`.
    """
    at_once = getattr(model, "tokens_of_layers", None)
    if at_once is not None and len(layers) > 1:
        several: dict[int, NDArray[np.float32]] = at_once(tiles, tuple(layers), site)
        return several
    return {layer: model.tokens(tiles, layer, site) for layer in layers}


class MemoryLimited:
    """A model whose passes are halved when memory runs out, and stay so.

    Parameters
    ----------
    model : TokenModel
        Any model.

    Attributes
    ----------
    most_tiles : int or None
        Tiles a pass since memory ran out; None while it never did.
    """

    def __init__(self, model: TokenModel) -> None:
        self.model = model
        self.most_tiles: int | None = None

    @property
    def spec(self) -> ModelSpec:
        """Facts about the model."""
        return self.model.spec

    def tokens(self, tiles: NDArray[np.float32], layer: int, site: Site) -> NDArray[np.float32]:
        """Patch tokens of a batch of tiles; see `TokenModel.tokens`."""
        return self.tokens_of_layers(tiles, (layer,), site)[layer]

    def tokens_of_layers(
        self, tiles: NDArray[np.float32], layers: Sequence[int], site: Site
    ) -> dict[int, NDArray[np.float32]]:
        """Patch tokens of several layers; see `tokens_of_layers`.

        Raises
        ------
        MicrodlError
            If there is not enough memory for a single tile.
        """

        def run(few: NDArray[np.float32]) -> dict[int, NDArray[np.float32]]:
            return tokens_of_layers(self.model, few, layers, site)

        parts: list[dict[int, NDArray[np.float32]]] = []
        done = 0
        while done < len(tiles):
            current_task().check()
            n, part = self._first(tiles[done:], run)
            parts.append(part)
            done += n
        if len(parts) == 1:
            return parts[0]
        return {layer: np.concatenate([part[layer] for part in parts]) for layer in layers}

    def settle_precision(
        self, tiles: NDArray[np.float32], layers: Sequence[int], site: Site
    ) -> None:
        """Let a model that chooses its precision by a trial choose it now, on these tiles."""
        settle = getattr(self.model, "settle_precision", None)
        if settle is not None:
            self._first(tiles, lambda few: settle(few, layers, site))

    def _first(
        self, tiles: NDArray[np.float32], run: Callable[[NDArray[np.float32]], Output]
    ) -> tuple[int, Output]:
        """What is made of the first of some tiles, as many as memory allows, and how many."""
        while True:
            n = min(self.most_tiles or len(tiles), len(tiles))
            output = self._try(run, tiles[:n])
            if output is not None:
                return n, output
            if n == 1:
                raise MicrodlError(_too_large(self.spec, tiles.shape))
            self.most_tiles = n // 2

    def _try(
        self, run: Callable[[NDArray[np.float32]], Output], tiles: NDArray[np.float32]
    ) -> Output | None:
        try:
            return run(tiles)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Only now are the frames of the failed pass gone, and with them what they held.
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None:
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            if torch.backends.mps.is_available():
                torch.mps.empty_cache()
        return None


def _too_large(spec: ModelSpec, shape: tuple[int, ...]) -> str:
    channels, edge = shape[1], shape[-1]
    ways = ["close other programs", "choose a smaller model"]
    if not spec.fixed_tile and edge > spec.patch_size:
        ways.insert(1, "use smaller tiles")
    if channels > spec.channels.least:
        ways.insert(1, "use fewer channels")
    return (
        f"There is not enough memory for the model '{spec.title}' to see a single tile of "
        f"{edge} x {edge} px with {channels} channel{'s' if channels > 1 else ''}; "
        f"{', '.join(ways[:-1])} or {ways[-1]}."
    )
