"""Foundation models by name, file, folder or place on the hub."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from napari_microdl.core.config import Precision
from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.base import ModelSpec, TokenModel
from napari_microdl.models.families import dino, microdl, microscopy, recursion
from napari_microdl.models.families.transformers import TransformersRecipe
from napari_microdl.models.recipe import HubSource, Joint, Recipe
from napari_microdl.models.weights.first_use import recorded_digest
from napari_microdl.models.weights.shards import WEIGHTS_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

# These need no file.
MODEL_NAMES = ("builtin", "random-init")
_OWN = {spec.model_id: spec for spec in (microdl.BUILTIN, microdl.RANDOM_INIT)}
RECIPES: Mapping[str, Recipe] = {
    recipe.spec.model_id: recipe
    for recipe in (*recursion.RECIPES, *dino.RECIPES, *microscopy.RECIPES)
}
# These need weights: from the hub where a commit is pinned, else a file of the user's.
PUBLISHED_NAMES = tuple(RECIPES)
# A published model, some of its channels, and where its weights lie.
_NAME = re.compile(r"(?P<model>[\w-]+)(?:\[(?P<channels>[^]]*)\])?(?:@(?P<place>.*))?", re.DOTALL)
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


class PublishedName(NamedTuple):
    """Parts of ``MODEL[CHANNEL,CHANNEL]@PATH``, of which only the first must be there.

    Parameters
    ----------
    model : str
        Name in the registry.
    channels : tuple of str or None
        Those that are kept of the channels that the model names; None for all.
    place : str
        File or folder of the weights, or "".
    """

    model: str
    channels: tuple[str, ...] | None
    place: str

    def __str__(self) -> str:
        channels = "" if self.channels is None else f"[{','.join(self.channels)}]"
        return f"{self.model}{channels}" + (f"@{self.place}" if self.place else "")


def published_name(name: str) -> PublishedName | None:
    """Parts of the name of a published model; None where it is a file, a folder or anything else.

    Parameters
    ----------
    name : str
        As for `load_model`.
    """
    found = _NAME.fullmatch(name)
    if not found or found["model"] not in RECIPES:
        return None
    given = found["channels"]
    channels = None if given is None else tuple(part.strip() for part in given.split(","))
    return PublishedName(found["model"], channels, found["place"] or "")


def _recipe(name: PublishedName) -> Recipe:
    recipe = RECIPES[name.model]
    return recipe if name.channels is None else recipe.only(name.channels)


def model_spec(name: str | Path, *, joint: Joint = None) -> ModelSpec:
    """Facts about a model, without loading it.

    Parameters
    ----------
    name : str or Path
        As for `load_model`. Torch is imported only to tell which model a bare file of weights
        belongs to, and of a repository on the hub only the configuration is fetched.
    joint : bool or "preferred", optional
        As for `load_model`.

    Returns
    -------
    ModelSpec
        `weights_sha256` is the digest that is pinned, or that was recorded when the weights first
        came from the hub, and otherwise empty.

    Raises
    ------
    MicrodlError
        If the name is not known, or the file or folder cannot be read.
    """
    name = str(name)
    if name in _OWN:
        return _OWN[name]
    published = published_name(name)
    recipe: Recipe | TransformersRecipe
    if published is not None:
        recipe = _recipe(published).taking(joint)
    elif name.startswith("hf://"):
        recipe = _from_hub(name).taking(joint)
    else:
        recipe = _locate(name, None)[0].taking(joint)
    return replace(recipe.spec, weights_sha256=_known_digest(_source(name)))


def known_spec(name: str, *, joint: Joint = None) -> ModelSpec | None:
    """Facts about a model that its name alone tells; no file is looked at and nothing fetched.

    Parameters
    ----------
    name : str
        As for `load_model`.
    joint : bool or "preferred", optional
        As for `load_model`.

    Returns
    -------
    ModelSpec or None
        None for a file, a folder, a place on the hub, and what is not known at all.

    Raises
    ------
    MicrodlError
        If a published model does not have the channels named, or leaves no choice of `joint`.
    """
    known = name in _OWN or published_name(name) is not None
    return model_spec(name, joint=joint) if known else None


def _source(name: str) -> HubSource | None:
    """Where on the hub the weights of a model lie; None where they come from elsewhere."""
    published = published_name(name)
    if published is not None:
        return None if published.place else RECIPES[published.model].hub
    return _referred_to(name) if name.startswith("hf://") else None


def _referred_to(reference: str) -> HubSource:
    """Repository and commit of a reference, with the digest if this commit is pinned."""
    from napari_microdl.models.weights.hub import parse_reference

    source = parse_reference(reference)
    pins = (recipe.hub for recipe in RECIPES.values() if recipe.hub is not None)
    known = (p for p in pins if (p.repository, p.revision) == (source.repository, source.revision))
    return next(known, source)


def _known_digest(source: HubSource | None) -> str:
    if source is None or source.sha256:
        return source.sha256 if source else ""
    # A record that cannot be read stops the loading, not the list of models.
    with suppress(MicrodlError):
        return recorded_digest(source)
    return ""


def weights_pin(name: str) -> str:
    """What is known of weights from the hub before they are fetched, as a sentence.

    Parameters
    ----------
    name : str
        As for `load_model`.

    Returns
    -------
    str
        Empty for weights from elsewhere.
    """
    source = _source(name)
    if source is None or not source.revision:
        return ""
    commit = f"Commit {source.revision[:12]}"
    if source.sha256:
        return f"{commit}, sha256 {source.sha256[:12]}."
    if digest := _known_digest(source):
        return f"{commit}, sha256 {digest[:12]} at the first download."
    return f"{commit}; the sha256 of the first download will be kept and asked for from then on."


def list_models() -> tuple[ModelSpec, ...]:
    """Facts about every known model, those that need no file first; torch is not imported."""
    return tuple(model_spec(name) for name in (*MODEL_NAMES, *PUBLISHED_NAMES))


def needs_weights(name: str) -> bool:
    """Whether a file has to be given: the model is published, but neither placed nor on the hub.

    Parameters
    ----------
    name : str
        As for `load_model`.

    Returns
    -------
    bool
    """
    published = published_name(name)
    return published is not None and not published.place and RECIPES[published.model].hub is None


def _unknown(name: str) -> str:
    return (
        f"Model '{name}' is not known; give a file, a folder, hf://organisation/name@commit, or "
        f"one of {', '.join((*MODEL_NAMES, *PUBLISHED_NAMES))}."
    )


def load_model(
    name: str | Path = "builtin",
    *,
    device: str = "auto",
    precision: Precision = "fp32",
    seed: int = 0,
    joint: Joint = None,
    weights: str | Path | None = None,
    sha256: str | None = None,
) -> TokenModel:
    """Load a model.

    Parameters
    ----------
    name : str or Path, default="builtin"
        One of:

        - "builtin", the trained model of the package, or "random-init", the same architecture
          untrained as a baseline;
        - a published model, see `list_models`, whose weights come from `weights`, from
          ``NAME@PATH`` in one string, or from the hub; ``NAME[DNA,ER]`` is a model of named
          channels, such as ChannelViT, for images that have only some of them;
        - a file or folder: a folder of transformers, a TOML that describes weights, or weights of
          a published model, told by the names and shapes of their tensors;
        - ``hf://organisation/name@commit``.
    device : {"auto", "cpu", "cuda", "mps"}
        Where it runs.
    precision : {"fp32", "bf16", "fast"}
        Arithmetic of the forward pass; "fast" measures both once and takes bfloat16 where it wins.
    seed : int, default=0
        Seed of an untrained model.
    joint : bool or "preferred", optional
        For models of RGB images: three channels together (True), or each channel by itself as a
        grey image (False). As the model's rule says unless given. "preferred" is True for a model
        that leaves the choice, and nothing given for any other.
    weights : str or Path, optional
        File, or folder with a file, of a published model's weights.
    sha256 : str, optional
        Digest that the weights file must have.

    Returns
    -------
    TokenModel

    Raises
    ------
    MicrodlError
        If the name, the device or the precision is not known, or the weights cannot be read, are
        not those of the model, or differ from the digest.
    """
    name = str(name)
    if name in MODEL_NAMES:
        # torch takes seconds to import, so the names above can be listed without it.
        from napari_microdl.models.families.builtin import load_builtin, random_init

        if name == "builtin":
            return load_builtin(device, precision)
        return random_init(device, precision, seed)
    from napari_microdl.models.weights.loading import load_published

    recipe, path, pinned = _locate(name, weights)
    return load_published(recipe.taking(joint), path, device, precision, sha256 or pinned)


def _locate(name: str, weights: str | Path | None) -> tuple[Recipe | TransformersRecipe, Path, str]:
    """Recipe, weights file and pinned digest for what `load_model` was given."""
    from napari_microdl.models.weights.hub import SCHEME, fetch

    published = published_name(name)
    if published is not None:
        recipe = _recipe(published)
        place = str(weights) if weights is not None else published.place
        if place:
            file = _weights_file(Path(place))
            if recipe.alternative is not None:
                from napari_microdl.models.weights.loading import matching_form

                recipe = matching_form(recipe, file)
            return recipe, file, ""
        if recipe.hub is None:
            raise MicrodlError(
                f"The weights of {recipe.spec.title} are not on the hub; get them from "
                f"{recipe.spec.source} and give their file."
            )
        return recipe, fetch(recipe.hub), recipe.hub.sha256
    if weights is not None:
        raise MicrodlError(_unknown(name))
    if name.startswith(SCHEME):
        source = _referred_to(name)
        return _from_hub(name), fetch(source), source.sha256
    if not name or not Path(name).exists():
        raise MicrodlError(_unknown(name))
    return _from_place(Path(name))


def _from_hub(reference: str) -> Recipe | TransformersRecipe:
    """Recipe for a repository on the hub; only its configuration is fetched, if anything."""
    from napari_microdl.models.families.custom import hugging_face_recipe
    from napari_microdl.models.weights.hub import fetch, parse_reference

    source = parse_reference(reference)
    known = (r for r in RECIPES.values() if r.hub and r.hub.repository == source.repository)
    recipe: Recipe | TransformersRecipe | None = next(known, None)
    if recipe is None:
        recipe = hugging_face_recipe(fetch(source, ("config.json",)).parent)
    return replace(recipe, spec=replace(recipe.spec, source=reference))


def _from_place(path: Path) -> tuple[Recipe | TransformersRecipe, Path, str]:
    """Recipe for a file or folder, which says by itself what it is."""
    from napari_microdl.models.families.custom import hugging_face_recipe, toml_recipe

    if path.is_dir() and (path / "config.json").is_file():
        if recursion.is_openphenom(path / "config.json"):
            return recursion.OPENPHENOM, _weights_file(path), ""
        return hugging_face_recipe(path), _weights_file(path), ""
    if path.is_dir() and len(found := sorted(path.glob("*.toml"))) == 1:
        path = found[0]
    if path.suffix == ".toml":
        return toml_recipe(path)
    from napari_microdl.models.weights.loading import recognise

    file = _weights_file(path)
    return recognise(file, [form for r in RECIPES.values() for form in r.forms()]), file, ""


def _weights_file(path: Path) -> Path:
    """The file itself, or the one weights file of a folder, or the index of several."""
    if not path.is_dir():
        return path
    for name in WEIGHTS_NAMES:
        if (path / name).is_file():
            return path / name
    found = sorted(p for p in path.iterdir() if p.suffix in WEIGHTS_SUFFIXES)
    if len(found) != 1:
        raise MicrodlError(
            f"'{path.name}' holds {len(found)} files of weights, not one; name the file itself."
        )
    return found[0]
