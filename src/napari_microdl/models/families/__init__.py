"""Families of models: one file each, in this folder or behind an entry point of another package.

A family is a module with one of two things:

- ``SPEC``, or ``SPECS`` where it has several models, and a function ``load`` that returns a
  `napari_microdl.models.base.TokenModel`. ``load`` is given what it has parameters for: ``spec``,
  ``device``, ``precision``, ``seed``, ``weights`` and ``sha256``
  (`napari_microdl.models.registry.load_model` says what they are).
- ``RECIPES``, for vision transformers that this package can build itself
  (`napari_microdl.models.recipe.Recipe`).

Files in this folder are found by being there, those of other packages by the entry point group
``napari_microdl.models``. Models are listed without torch, so a family imports it in ``load``.
``docs/new_model.md`` shows a whole family.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib import import_module
from importlib.metadata import entry_points
from inspect import Parameter, signature
from pkgutil import iter_modules
from typing import Any

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.models.base import ModelSpec, TokenModel
from napari_microdl.models.recipe import Recipe

ENTRY_POINTS = "napari_microdl.models"


@dataclass(frozen=True)
class KnownModel:
    """A model of a family.

    Parameters
    ----------
    spec : ModelSpec
        Facts about it.
    recipe : Recipe, optional
        How this package builds it.
    loader : callable, optional
        The family's ``load``; needed where there is no recipe.
    """

    spec: ModelSpec
    recipe: Recipe | None = None
    loader: Callable[..., TokenModel] | None = None

    @cached_property
    def _parameters(self) -> Mapping[str, Parameter]:
        return {} if self.loader is None else signature(self.loader).parameters

    @property
    def takes_weights(self) -> bool:
        """Whether its weights may be given as a file."""
        return self.recipe is not None or "weights" in self._parameters

    @property
    def needs_weights(self) -> bool:
        """Whether they must be: they are not on the hub, and the family has none of its own."""
        if self.recipe is not None:
            return self.recipe.hub is None
        return self.takes_weights and self._parameters["weights"].default is Parameter.empty

    def load(self, **options: Any) -> TokenModel:
        """Call the family's ``load`` with those of the options that it has parameters for."""
        assert self.loader is not None
        takes_all = any(p.kind is Parameter.VAR_KEYWORD for p in self._parameters.values())
        given = options.items()
        return self.loader(**{k: v for k, v in given if takes_all or k in self._parameters})


@cache
def known_models() -> Mapping[str, KnownModel]:
    """Every model of every family by its name, those that need no file of weights first.

    A family that cannot be opened is left out, with a note. Families are looked for once, and again
    after ``known_models.cache_clear()``.

    Returns
    -------
    dict of str to KnownModel
    """
    found: dict[str, KnownModel] = {}
    for name, open_family in _families():
        try:
            models = _models_of(open_family())
            for model in models:
                _check_name(model.spec.model_id, found)
        # A family is a stranger's code: whatever is wrong with it, the others are to be had.
        except Exception as error:
            current_task().note(
                f"The models of '{name}' are left out: {type(error).__name__}, {error}"
            )
            continue
        found |= {model.spec.model_id: model for model in models}
    return dict(sorted(found.items(), key=lambda item: item[1].takes_weights))


def _families() -> Iterator[tuple[str, Callable[[], Any]]]:
    for module in iter_modules(__path__):
        name = f"{__name__}.{module.name}"
        yield name, partial(import_module, name)
    for entry in entry_points(group=ENTRY_POINTS):
        yield entry.name, entry.load


def _models_of(family: Any) -> list[KnownModel]:
    if hasattr(family, "RECIPES"):
        return [KnownModel(recipe.spec, recipe=recipe) for recipe in family.RECIPES]
    specs = family.SPECS if hasattr(family, "SPECS") else (family.SPEC,)
    return [KnownModel(spec, loader=family.load) for spec in specs]


def _check_name(name: str, others: Mapping[str, KnownModel]) -> None:
    if not re.fullmatch(r"[\w-]+", name):
        raise MicrodlError(f"the name '{name}' may hold letters, digits, '-' and '_' only.")
    if name in others:
        raise MicrodlError(f"there is a model of the name '{name}' already.")
