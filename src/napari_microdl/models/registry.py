"""Foundation models by name, file, folder or place on the hub."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from napari_microdl.core.config import Precision
from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.base import ModelSpec, TokenModel
from napari_microdl.models.families import KnownModel, known_models
from napari_microdl.models.formats.custom import hugging_face_recipe, toml_recipe
from napari_microdl.models.formats.transformers import TransformersRecipe
from napari_microdl.models.recipe import Joint, Recipe, rule_taking
from napari_microdl.models.weights.files import WEIGHTS_NAMES, read_json
from napari_microdl.models.weights.hub import (
    SCHEME,
    HubSource,
    fetch,
    is_here,
    is_offline,
    parse_reference,
    recorded_digest,
)

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
# A model that takes weights, some of its channels, and where its weights lie.
_NAME = re.compile(r"(?P<model>[\w-]+)(?:\[(?P<channels>[^]]*)\])?(?:@(?P<place>.*))?", re.DOTALL)


class PublishedName(NamedTuple):
    """Parts of ``MODEL[CHANNEL,CHANNEL]@PATH``, of which only the first must be there.

    Parameters
    ----------
    model : str
        Name in the registry.
    channels : tuple of str or None
        Those that are used of the channels that the model names; None for all.
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
    """Parts of the name of a model that takes weights; None for anything else.

    Parameters
    ----------
    name : str
        As for `load_model`.
    """
    found = _NAME.fullmatch(name)
    model = known_models().get(found["model"]) if found else None
    if found is None or model is None or not model.takes_weights:
        return None
    given = found["channels"]
    channels = None if given is None else tuple(part.strip() for part in given.split(","))
    return PublishedName(found["model"], channels, found["place"] or "")


def recipes() -> dict[str, Recipe]:
    """Models that this package builds itself, by name."""
    models = known_models().items()
    return {name: model.recipe for name, model in models if model.recipe is not None}


def _known(name: str) -> tuple[KnownModel, PublishedName] | None:
    """The model of a name, with the parts of the name; None where it is no name of a family's."""
    published = published_name(name) or PublishedName(name, None, "")
    model = known_models().get(published.model)
    if model is None:
        return None
    if model.recipe is not None and published.channels is not None:
        recipe = model.recipe.only(published.channels)
        model = replace(model, spec=recipe.spec, recipe=recipe)
    elif published.channels is not None:
        raise MicrodlError(f"{model.spec.title} cannot run on some of its channels; name none.")
    return model, published


def _taking(spec: ModelSpec, joint: Joint) -> ModelSpec:
    """A model without a recipe with its channels together or one by one, if it has the choice."""
    if not spec.channels.either:
        return spec
    return replace(spec, channels=rule_taking(spec, joint))


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
    recipe: Recipe | TransformersRecipe | None
    if (known := _known(name)) is not None:
        recipe = known[0].recipe
        if recipe is None:
            return _taking(known[0].spec, joint)
    elif name.startswith(SCHEME):
        recipe = _from_hub(name)
    else:
        recipe = _locate(name)[0]
    return replace(recipe.taking(joint).spec, weights_sha256=_known_digest(_source(name)))


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
    return None if _known(name) is None else model_spec(name, joint=joint)


def _source(name: str) -> HubSource | None:
    """Where on the hub the weights of a model lie; None where they come from elsewhere."""
    published = published_name(name)
    if published is not None:
        recipe = known_models()[published.model].recipe
        return None if published.place or recipe is None else recipe.hub
    return _referred_to(name) if name.startswith(SCHEME) else None


def _referred_to(reference: str) -> HubSource:
    """Repository and commit of a reference, with the digest if this commit is pinned."""
    source = parse_reference(reference)
    pins = (recipe.hub for recipe in recipes().values() if recipe.hub is not None)
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


def to_be_fetched(name: str) -> str:
    """Repository on the hub that loading a model would fetch weights from.

    Parameters
    ----------
    name : str
        As for `load_model`.

    Returns
    -------
    str
        Empty where the weights are here, or cannot be fetched.
    """
    # What cannot be fetched is refused by who loads it.
    with suppress(MicrodlError, ImportError):
        source = _source(name)
        if source is not None and source.revision and not (is_offline() or is_here(source)):
            return source.repository
    return ""


def list_models() -> tuple[ModelSpec, ...]:
    """Facts about every known model, those that need no file first; torch is not imported."""
    return tuple(model_spec(name) for name in known_models())


def needs_weights(name: str) -> bool:
    """Whether a file has to be given: the model's weights are neither placed nor on the hub.

    Parameters
    ----------
    name : str
        As for `load_model`.

    Returns
    -------
    bool
    """
    published = published_name(name)
    if published is None or published.place:
        return False
    return known_models()[published.model].needs_weights


def _unknown(name: str) -> str:
    return (
        f"Model '{name}' is not known; give a file, a folder, hf://organisation/name@commit, or "
        f"one of {', '.join(known_models())}."
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

        - "builtin", the trained model of the package, "random-init", the same architecture
          untrained as a baseline, or another model that brings its weights, see `list_models`;
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
    known = _known(name)
    if known is not None and known[0].recipe is None:
        model, place = known[0], weights or known[1].place
        if weights is not None and not model.takes_weights:
            raise MicrodlError(f"{model.spec.title} takes no file of weights; leave it out.")
        if not place and model.needs_weights:
            raise MicrodlError(_nowhere(model.spec))
        options = {"weights": Path(place)} if place else {}
        return model.load(
            spec=_taking(model.spec, joint),
            device=device,
            precision=precision,
            seed=seed,
            sha256=sha256,
            **options,
        )
    # torch takes seconds to import, so models can be listed without it.
    from napari_microdl.models.loading import load_published

    recipe, path, pinned = _locate(name, weights)
    return load_published(recipe.taking(joint), path, device, precision, sha256 or pinned)


def _nowhere(spec: ModelSpec) -> str:
    return (
        f"The weights of {spec.title} are not on the hub; get them from {spec.source} and give "
        "their file."
    )


def _locate(
    name: str, weights: str | Path | None = None
) -> tuple[Recipe | TransformersRecipe, Path, str]:
    """Recipe, weights file and pinned digest for what `load_model` was given."""
    known = _known(name)
    if known is not None and (recipe := known[0].recipe) is not None:
        place = str(weights) if weights is not None else known[1].place
        if place:
            file = _weights_file(Path(place))
            if recipe.alternative is not None:
                from napari_microdl.models.loading import matching_form

                recipe = matching_form(recipe, file)
            return recipe, file, ""
        if recipe.hub is None:
            raise MicrodlError(_nowhere(recipe.spec))
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
    source = parse_reference(reference)
    known = (r for r in recipes().values() if r.hub and r.hub.repository == source.repository)
    recipe: Recipe | TransformersRecipe | None = next(known, None)
    if recipe is None:
        recipe = hugging_face_recipe(fetch(source, ("config.json",)).parent)
    return replace(recipe, spec=replace(recipe.spec, source=reference))


def _from_place(path: Path) -> tuple[Recipe | TransformersRecipe, Path, str]:
    """Recipe for a file or folder, which says by itself what it is."""
    if path.is_dir() and (path / "config.json").is_file():
        kind = read_json(path / "config.json").get("model_type")
        known = (r for r in recipes().values() if r.model_type and r.model_type == kind)
        return next(known, None) or hugging_face_recipe(path), _weights_file(path), ""
    if path.is_dir() and len(found := sorted(path.glob("*.toml"))) == 1:
        path = found[0]
    if path.suffix == ".toml":
        return toml_recipe(path)
    from napari_microdl.models.loading import recognise

    file = _weights_file(path)
    return recognise(file, [form for r in recipes().values() for form in r.forms()]), file, ""


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
