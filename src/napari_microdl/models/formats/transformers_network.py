"""Vision transformers of the library transformers, read at any layer as the package's own are."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_microdl.core.config import Site
from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.formats.transformers import (
    TRANSFORMERS,
    TRANSFORMERS_FAMILIES,
    TransformersConfig,
    TransformersRecipe,
    require_transformers,
)
from napari_microdl.models.vit.network import check_reading
from napari_microdl.models.weights.assembly import DoesNotFitError, counted
from napari_microdl.models.weights.reading import encoder_tensors, finite, not_the_weights

# What the families call the attention of a block, its out-projection included.
_ATTENTIONS = ("attention", "self_attn")


class _EnoughRead(Exception):  # noqa: N818 - it is no error
    """Leaves a pass once the last layer that was asked for is there."""


@dataclass
class _Reading:
    """What one pass is to find, and what it has found."""

    layers: Sequence[int]
    site: Site
    found: dict[int, Tensor] = field(default_factory=dict)


class TransformersNetwork(nn.Module):
    """An encoder of the library whose patch tokens can be read at any layer.

    Parameters
    ----------
    encoder : Module
        Network of the library with its weights. Its blocks are one list.
    config : TransformersConfig
        Its shape.
    """

    def __init__(self, encoder: nn.Module, config: TransformersConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self._family = TRANSFORMERS_FAMILIES[config.family]
        # Passes of several threads do not see each other.
        self._pass = threading.local()
        for layer, block in enumerate(_blocks(encoder, config.depth), start=1):
            attention = next(getattr(block, name) for name in _ATTENTIONS if hasattr(block, name))
            block.register_forward_hook(partial(self._keep, layer, "residual"))
            attention.register_forward_hook(partial(self._keep, layer, "attention"))

    def _keep(self, layer: int, site: Site, _: nn.Module, __: tuple[Any, ...], out: Any) -> None:
        reading: _Reading | None = getattr(self._pass, "reading", None)
        if reading is None or site != reading.site or layer not in reading.layers:
            return
        reading.found[layer] = out[0] if isinstance(out, tuple) else out
        if layer == max(reading.layers):
            raise _EnoughRead

    def read(self, images: Tensor, layers: Sequence[int], site: Site) -> dict[int, Tensor]:
        """Patch tokens of several layers from one pass; see `VisionTransformer.read`."""
        config = self.config
        check_reading(config.depth, config.patch_size, images, layers, site)
        options = {"interpolate_pos_encoding": True} if self._family.asks_to_resize else {}
        reading = _Reading(layers, site)
        self._pass.reading = reading
        try:
            with suppress(_EnoughRead):
                self.encoder(pixel_values=images, **options)
        finally:
            self._pass.reading = None
        n, _, height, width = images.shape
        grid = (height // config.patch_size, width // config.patch_size)
        return {
            layer: tokens[:, self._family.n_prefix :].reshape(n, *grid, config.dim)
            for layer, tokens in reading.found.items()
        }


def _blocks(encoder: nn.Module, depth: int) -> nn.ModuleList:
    """The one list of as many blocks as there are layers, each with an attention."""
    lists = [
        module
        for module in encoder.modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == depth
        and all(any(hasattr(block, name) for name in _ATTENTIONS) for block in module)
    ]
    if len(lists) != 1:
        raise DoesNotFitError("this version of transformers has no one list of its blocks")
    return lists[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the library's reports and bars: what is wrong is an error here, and said once."""
    # By name, so that types are the same whether the extra is there or not.
    logging = import_module("transformers.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _filled(config: TransformersConfig, tensors: dict[str, Tensor]) -> nn.Module:
    """The library's network with these weights and no other."""
    family = TRANSFORMERS_FAMILIES[config.family]
    name = family.name or family.module
    place = f"transformers.models.{family.module}"
    network = getattr(import_module(f"{place}.modeling_{name}"), family.network)
    settings = getattr(import_module(f"{place}.configuration_{name}"), family.config)
    try:
        with _quiet():
            # Neither a name nor a folder is given: the library reads no file and fetches nothing,
            # and "sdpa" is in torch itself.
            encoder, report = network.from_pretrained(
                None,
                config=settings(**dict(config.settings)),
                state_dict=tensors,
                dtype=torch.float32,
                attn_implementation="sdpa",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **family.extras,
            )
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DoesNotFitError(f"transformers cannot make it ({lines[0].rstrip('.')})") from error
    _compare(report)
    made: nn.Module = encoder
    return made


def _compare(report: Mapping[str, Any]) -> None:
    """Refuse what the library would make up or leave out."""
    # Heads and the last norm are not run; whatever else is missing was drawn at random.
    missing = sorted(name for name in report["missing_keys"] if TRANSFORMERS.piece(name) != "")
    if missing:
        raise DoesNotFitError(f"{counted(missing)} missing, such as '{missing[0]}'")
    if extra := sorted(report["unexpected_keys"]):
        raise DoesNotFitError(
            f"it holds {counted(extra)} that the model does not have, such as '{extra[0]}'"
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, expected = mismatched[0]
        raise DoesNotFitError(
            f"'{name}' has the shape {tuple(found)}, where the model has {tuple(expected)}"
        )


def load_transformers(
    recipe: TransformersRecipe, path: Path, sha256: str | None = None
) -> tuple[TransformersNetwork, str]:
    """A network of the library with the weights of a file, in float32 on the CPU, and their digest.

    Raises
    ------
    MicrodlError
        If the library is missing or too old, or the weights cannot be read, are not that model's
        or are not all finite.
    """
    require_transformers(recipe.spec.title)
    try:
        tensors, digest = encoder_tensors(path, TRANSFORMERS, sha256)
        for name in list(tensors):
            tensors[name] = finite(tensors[name], name, path)
        encoder = _filled(recipe.config, tensors)
        network = TransformersNetwork(encoder, recipe.config)
    except DoesNotFitError as error:
        raise not_the_weights(path, recipe.spec.title, error) from error
    except ImportError as error:
        raise MicrodlError(
            f"{recipe.spec.title} is not in the version of transformers that is installed "
            f"({error}); pip install --upgrade 'napari-microdl[transformers]'."
        ) from error
    return network, digest
