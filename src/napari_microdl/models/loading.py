"""Makes models of weights, and tells which published model weights belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from napari_microdl.core.config import Precision
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import guarding
from napari_microdl.models.encoder import EncoderModel, check_precision, resolve_device
from napari_microdl.models.formats.transformers import TransformersRecipe
from napari_microdl.models.formats.transformers_network import (
    TransformersNetwork,
    load_transformers,
)
from napari_microdl.models.recipe import Recipe
from napari_microdl.models.vit.network import VisionTransformer
from napari_microdl.models.weights.assembly import (
    DoesNotFitError,
    assemble,
    empty_network,
    needed_names,
)
from napari_microdl.models.weights.reading import (
    encoder_tensors,
    finite,
    not_the_weights,
    tensor_shapes,
)


def load_published(
    recipe: Recipe | TransformersRecipe,
    path: Path,
    device: str,
    precision: Precision,
    sha256: str | None = None,
) -> EncoderModel:
    """A model from its recipe and the file of its weights; otherwise as `load_model`.

    Raises
    ------
    MicrodlError
        If device or precision is not known or the weights are not usable.
    """
    # Both are checked before a large file is read.
    where = resolve_device(device)
    check_precision(precision)
    network: VisionTransformer | TransformersNetwork
    with guarding(f"'{path.name}' cannot be made into a model ({{reason}}); fetch it again."):
        if isinstance(recipe, TransformersRecipe):
            network, digest = load_transformers(recipe, path, sha256)
        else:
            network, digest = _load_network(recipe, path, sha256)
    spec = replace(recipe.spec, weights_sha256=digest)
    return EncoderModel(network, spec, where, precision, recipe.preprocessing)


def _load_network(
    recipe: Recipe, path: Path, sha256: str | None = None
) -> tuple[VisionTransformer, str]:
    """A network with the weights of a file, in float32 on the CPU, and the digest of the file."""
    try:
        tensors, digest = encoder_tensors(path, recipe.keys, sha256)
        pieces: dict[str, Tensor] = {}
        for name, piece in needed_names(tensors, recipe.keys).items():
            tensor = tensors.pop(name)
            # DINOv3's masks of biases may hold NaN.
            is_mask = piece.endswith("bias_mask")
            pieces[piece] = tensor.float() if is_mask else finite(tensor, name, path)
        state = assemble(pieces, recipe.config)
    except DoesNotFitError as error:
        raise not_the_weights(path, recipe.spec.title, error) from error
    config = recipe.config
    if recipe.picked is not None:
        state["channel_embed"] = state["channel_embed"][list(recipe.picked)].clone()
        config = replace(config, in_channels=len(recipe.picked))
    network = empty_network(config)
    network.load_state_dict(state, assign=True)
    return network, digest


def _fits(recipe: Recipe, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    try:
        needed = needed_names(shapes, recipe.keys)
        pieces = {p: torch.empty(shapes[n], device="meta") for n, p in needed.items()}
        assemble(pieces, recipe.config)
    except DoesNotFitError:
        return False
    return True


def matching_form(recipe: Recipe, path: Path) -> Recipe:
    """The form of a recipe that a file's tensors fit, or the recipe itself where neither does."""
    shapes = tensor_shapes(path)
    return next((form for form in recipe.forms() if _fits(form, shapes)), recipe)


def recognise(path: Path, recipes: Iterable[Recipe]) -> Recipe:
    """The one recipe that a file's tensors fit, by their names and shapes.

    Raises
    ------
    MicrodlError
        If the file cannot be read, or none or several fit.
    """
    shapes = tensor_shapes(path)
    fitting = [recipe for recipe in recipes if _fits(recipe, shapes)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise MicrodlError(
            f"'{path.name}' fits no model that is known; describe it in a small TOML file and give "
            "that (see docs/models.md)."
        )
    names = ", ".join(recipe.spec.model_id for recipe in fitting)
    raise MicrodlError(
        f"'{path.name}' fits several models ({names}); write which, as in "
        f"{fitting[0].spec.model_id}@{path.name}."
    )
