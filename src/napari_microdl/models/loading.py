"""Makes models of weights, and tells which published model weights belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from napari_microdl.core.config import Precision
from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.encoder import EncoderModel, check_precision, resolve_device
from napari_microdl.models.formats.transformers import TransformersRecipe
from napari_microdl.models.formats.transformers_network import (
    TransformersNetwork,
    load_transformers,
)
from napari_microdl.models.recipe import Recipe
from napari_microdl.models.vit.network import VisionTransformer
from napari_microdl.models.weights.assembly import DoesNotFitError, assemble, needed_names
from napari_microdl.models.weights.reading import load_network, tensor_shapes


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
    if isinstance(recipe, TransformersRecipe):
        network, digest = load_transformers(recipe, path, sha256)
    else:
        network, digest = load_network(recipe, path, sha256)
    spec = replace(recipe.spec, weights_sha256=digest)
    return EncoderModel(network, spec, where, precision, recipe.preprocessing)


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
