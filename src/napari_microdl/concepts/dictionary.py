"""A fitted concept dictionary and everything needed to apply it again: one safetensors file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy import sparse

from napari_microdl.core.arrays import unit_length
from napari_microdl.core.config import (
    Intensity,
    PlateKind,
    Pooling,
    Refit,
    Selection,
    Settings,
    TokensConfig,
    UnitsConfig,
    Update,
)
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import refusing
from napari_microdl.core.safetensors_files import note_missing_digest, read_record, write_record
from napari_microdl.core.text import plain_text
from napari_microdl.estimators.icfl import ATOM_GROUPS, ICFL
from napari_microdl.estimators.plates import PlateReferences
from napari_microdl.estimators.whitening import ControlWhitening
from napari_microdl.models.base import UNKNOWN_LICENCE, ChannelRule, ModelSpec
from napari_microdl.models.registry import known_spec
from napari_microdl.tokens import TilePlan
from napari_microdl.tokens.positions import PositionComponent

SCHEMA_VERSION = 2
SUFFIX = ".microdl.safetensors"
# What a person can say of a concept or a cell (paper, section 4, single-cell identity).
TAGS = ("control-like", "perturbed")
# Entry of the figures that says which concept the fit chose, and for which condition.
CHOSEN = "chosen"
_HEADER_KEY = "napari_microdl"
# Fitted attributes (less the trailing underscore) and parameters that codes depend on.
_ICFL_ARRAYS = ("components", "bias", "dead")
_ICFL_PARAMETERS = ("update", "selection", "refit", "allow_repeats", "positive_code")
_WHITENING_ARRAYS = ("mean", "components", "explained_variance", "scale")
_WHITENING_PARAMETERS = ("shrinkage", "eigenvalue_floor", "unit_norm")

Count = Annotated[int, Field(ge=1)]
# Rounds of a pursuit, and atoms that each takes: far above what any dictionary has.
Rounds = Annotated[int, Field(ge=1, le=100_000)]


class ModelFacts(Settings):
    """The model whose tokens were used.

    Parameters
    ----------
    id : str
        Name in the registry.
    weights_sha256, licence : str
        Of its weights.
    source : str
        Where the weights come from; empty where that is not known.
    non_commercial : bool, optional
        Whether the licence forbids commercial use; None where that is not stated.
    joint : bool
        Whether the model read its channels together.
    patch_size : int
        Edge of a patch in pixels.
    intensity : {"log", "linear"}
        Curve of the intensities, see `IntensityScaling`; files from before there was a choice
        have "log".
    """

    id: str
    weights_sha256: str
    licence: str
    source: str = ""
    non_commercial: bool | None = None
    joint: bool = False
    patch_size: Count
    intensity: Intensity = "log"


class SampleTokens(TokensConfig):
    """What was read of the model; nothing is left open."""

    layer: Count
    channels: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    tile_size: Count


class SampleUnits(UnitsConfig):
    """What one sample is."""

    crop_size: Count = 64
    crop_stride: Count = 32
    # Files from before there was a choice.
    pooling: Pooling = "mean"


class _FitRecord(Settings):
    n_iterations: Rounds
    atoms_per_iteration: Rounds
    update: Update
    selection: Selection
    refit: Refit | Literal["auto"]
    allow_repeats: bool | Literal["auto"]
    # The first files have none.
    positive_code: bool = False


class _WhiteningRecord(Settings):
    n_samples_seen: Count
    shrinkage: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    eigenvalue_floor: Annotated[float, Field(ge=0, lt=1)]
    unit_norm: bool


class _PlatesRecord(Settings):
    kind: PlateKind
    names: list[str]


class DictionarySpec(Settings):
    """What the samples of a dictionary are, so that new images can be treated the same.

    Parameters
    ----------
    model : ModelFacts
        The model.
    tokens : SampleTokens
        What was read of it; background and mean intensity of new images are measured anew.
    units : SampleUnits
        What one sample is.
    """

    model: ModelFacts
    tokens: SampleTokens
    units: SampleUnits

    @model_validator(mode="after")
    def _fits(self) -> Self:
        TilePlan(self.model.patch_size, self.tokens.tile_size, self.tokens.halo)
        channels = self.tokens.channels
        if twice := sorted({name for name in channels if channels.count(name) > 1}):
            raise MicrodlError(f"The channel '{twice[0]}' is named twice.")
        return self

    @classmethod
    def of(
        cls,
        model: ModelSpec,
        tokens: TokensConfig,
        units: UnitsConfig,
        plan: TilePlan,
        channels: tuple[str, ...],
    ) -> Self:
        """The samples of a run.

        Parameters
        ----------
        model : ModelSpec
            The model.
        tokens, units
            Settings; the layer is the model's default where it is not given.
        plan : TilePlan
            How fields are cut.
        channels : tuple of str
            Channels that the model sees.

        Raises
        ------
        MicrodlError
            If a setting is not possible.
        """
        layer = model.layer_for(units.pooled_by) if tokens.layer is None else tokens.layer
        read = {"layer": layer, "channels": channels, "tile_size": plan.tile_size}
        return cls(
            model=ModelFacts(
                id=model.model_id,
                weights_sha256=model.weights_sha256,
                licence=model.licence,
                source=model.source,
                non_commercial=model.non_commercial,
                joint=model.channels.joint,
                patch_size=plan.patch_size,
                intensity=model.intensity,
            ),
            tokens=SampleTokens(**{**dict(tokens), **read, "halo": plan.halo}),
            units=SampleUnits(**{**dict(units), "pooling": units.pooled_by}),
        )

    @property
    def plan(self) -> TilePlan:
        """How fields are cut."""
        return TilePlan(self.model.patch_size, self.tokens.tile_size, self.tokens.halo)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values that JSON can hold."""
        return self.model_dump(mode="json")

    def check_model(self, model: ModelSpec) -> None:
        """Refuse a model other than the one that the dictionary was made with.

        Parameters
        ----------
        model : ModelSpec
            The model at hand.

        Raises
        ------
        MicrodlError
            Says which model is needed.
        """
        if model.model_id != self.model.id:
            raise MicrodlError(
                f"The dictionary was made with the model '{self.model.id}' but "
                f"'{model.model_id}' is chosen; choose the dictionary's model."
            )
        if model.weights_sha256 != self.model.weights_sha256:
            raise MicrodlError(
                f"The dictionary was made with other weights of '{self.model.id}' (sha256 "
                f"{self.model.weights_sha256[:12]}, here {model.weights_sha256[:12]}); load those "
                "weights or fit a new dictionary."
            )


def unnamed(concept: int) -> str:
    """What a concept is called before a person names it."""
    return f"concept {concept}"


class _Header(Settings):
    schema_version: int
    spec: DictionarySpec
    icfl: _FitRecord
    whitening: _WhiteningRecord | None
    names: list[str]
    notes: list[str]
    # Files of version 0.1 have none.
    tags: list[str] = Field(default_factory=list)
    provenance: dict[str, Any]
    figures: dict[str, Any]
    pixel_size: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    # Only of dictionaries whose plates have references of their own.
    plates: _PlatesRecord | None = None


def _references(record: _PlatesRecord, parts: Mapping[str, NDArray[Any]]) -> PlateReferences:
    means = dict(zip(record.names, parts["means"].astype(np.float64), strict=True))
    maps = {
        name: parts[f"map.{number}"].astype(np.float32)
        for number, name in enumerate(record.names)
        if f"map.{number}" in parts
    }
    for name, factors in maps.items():
        if factors.shape not in (means[name].shape, 2 * means[name].shape):
            raise MicrodlError(f"the map of plate '{name}' has the shape {factors.shape}")
    return PlateReferences(record.kind, means, maps, parts.get("common"))


def _of_schema_1(header: Mapping[str, Any], *, position: bool) -> dict[str, Any]:
    """A header whose spec held all settings beside each other, in groups."""
    spec, provenance = dict(header["spec"]), dict(header["provenance"])
    if "weights_non_commercial" not in spec:
        terms = _older_terms(spec, provenance)
        spec |= terms
        provenance |= {name: terms[name] for name in provenance.keys() & terms.keys()}
    units = {"kind": spec.pop("unit")}
    units |= {name: spec.pop(name) for name in ("crop_size", "crop_stride")}
    tokens = {"channels": spec.pop("channel_names"), "remove_position": position}
    tokens |= {
        name: spec.pop(name)
        for name in ("layer", "site", "channel_tokens", "scaling", "tile_size", "halo")
    }
    names = {"model_id": "id"} | {
        f"weights_{n}": n for n in ("licence", "source", "non_commercial")
    }
    model = {names.get(name, name): value for name, value in spec.items()}
    groups = {"model": model, "tokens": tokens, "units": units}
    return {**header, "spec": groups, "provenance": provenance}


def _older_terms(spec: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Terms of the weights in a file from before its spec, of schema 1, held them."""
    # Its provenance says that commercial use is not forbidden also where nobody had stated that, so
    # it is believed only of a model whose licence is known here.
    known = None
    with suppress(MicrodlError):
        known = known_spec(spec["model_id"])
    if spec["weights_licence"] == UNKNOWN_LICENCE:
        known = None
    stated = provenance.get("weights_non_commercial")
    if known is None:
        return {
            "weights_non_commercial": stated or None,
            "weights_source": provenance.get("weights_source", ""),
        }
    return {
        "weights_non_commercial": known.non_commercial if stated is None else stated,
        "weights_source": provenance.get("weights_source", known.source),
    }


@dataclass(eq=False)
class ConceptDictionary:
    """Concepts learned from the tokens of a foundation model.

    Parameters
    ----------
    spec : DictionarySpec
        How samples are made.
    icfl : ICFL
        Fitted dictionary.
    whitening : ControlWhitening, optional
        Fitted whitening; None where the samples were used as they are.
    position : PositionComponent, optional
        Position component that is removed from tokens.
    names, notes : list of str
        One a concept; a person's words.
    tags : list of str
        One a concept: one of `TAGS`, or empty.
    provenance : dict
        Config, package versions, fields used, licences.
    figures : dict
        Numbers of the training run.
    pixel_size : float, optional
        Micrometres a pixel of the images that it was learned on, where all have the same.
    plates : PlateReferences, optional
        What brings the samples of each plate to those of all before they are whitened; of the
        plates that it was learned on or, once it is applied, of those that it is applied to. None
        where plates are taken as they are.
    """

    spec: DictionarySpec
    icfl: ICFL
    whitening: ControlWhitening | None = None
    position: PositionComponent | None = None
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list, kw_only=True)
    provenance: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    pixel_size: float | None = field(default=None, kw_only=True)
    plates: PlateReferences | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not self.names:
            self.names = [unnamed(i) for i in range(self.n_concepts)]
        if not self.notes:
            self.notes = [""] * self.n_concepts
        if not self.tags:
            self.tags = [""] * self.n_concepts
        if any(len(x) != self.n_concepts for x in (self.names, self.notes, self.tags)):
            raise MicrodlError(
                f"The dictionary has {self.n_concepts} concepts but {len(self.names)} names, "
                f"{len(self.notes)} notes and {len(self.tags)} tags."
            )
        # In place: they are shared by what is made of the same concepts.
        for words in (self.names, self.notes):
            words[:] = map(plain_text, words)
        unknown = set(self.tags) - {"", *TAGS}
        if unknown:
            raise MicrodlError(
                f"The tag '{min(unknown)}' is not known; use {' or '.join(TAGS)}, or none."
            )

    @property
    def n_concepts(self) -> int:
        """Number of dictionary atoms."""
        return len(self.icfl.components_)

    @cached_property
    def fingerprint(self) -> str:
        """Eight letters and digits that tell its concepts from those of every other dictionary.

        They come from the numbers that activations depend on: renaming changes nothing, and a copy
        has the same.
        """
        digest = hashlib.sha256()
        parts: list[NDArray[Any]] = [self.icfl.components_, self.icfl.bias_]
        if self.whitening is not None:
            parts += [self.whitening.mean_, self.whitening.components_, self.whitening.scale_]
        for part in parts:
            # The same on every kind of processor.
            digest.update(np.ascontiguousarray(part, np.dtype("<f4")).tobytes())
        return digest.hexdigest()[:8]

    def concept_id(self, concept: int) -> str:
        """What a concept is called for good, whatever its name: "1f3a9c2e-3"."""
        return f"{self.fingerprint}-{concept}"

    def column_of(self, concept: int) -> str:
        """How columns of tables call a concept: by its number, and the name that it was given."""
        name = self.names[concept]
        return str(concept) if name == unnamed(concept) else f"{concept}_{'_'.join(name.split())}"

    @property
    def token_width(self) -> int:
        """Width of a sample before it is whitened, the channels of a patch together."""
        if self.whitening is not None:
            return len(self.whitening.mean_)
        return int(self.icfl.n_features_in_)

    @property
    def model(self) -> ModelSpec:
        """The model of its samples, as far as the dictionary knows it: its depth is the layer."""
        model, tokens = self.spec.model, self.spec.tokens
        rule = ChannelRule(joint=model.joint)
        parts = rule.n_token_channels(len(tokens.channels))
        return ModelSpec(
            model_id=model.id,
            title=model.id,
            patch_size=model.patch_size,
            dim=self.token_width // (parts if tokens.channel_tokens == "concat" else 1),
            depth=tokens.layer,
            default_layer=tokens.layer,
            tile_size=tokens.tile_size,
            weights_sha256=model.weights_sha256,
            licence=model.licence,
            source=model.source,
            non_commercial=model.non_commercial,
            channels=rule,
            intensity=model.intensity,
        )

    @property
    def directions(self) -> NDArray[np.float32]:
        """Dictionary atoms at unit length, shape (n_concepts, d)."""
        return unit_length(np.asarray(self.icfl.components_, np.float32))

    def align(self, vectors: NDArray[np.float32], plate: str) -> NDArray[np.float32]:
        """Samples of a plate as they are whitened: about its own controls, if plates have these."""
        return vectors if self.plates is None else self.plates.align(vectors, plate)

    def whiten(self, vectors: NDArray[np.float32], plate: str = "") -> NDArray[np.float32]:
        """Samples in the space of the dictionary.

        Parameters
        ----------
        vectors : ndarray of shape (n, d)
            Mean tokens of units, position component removed.
        plate : str, default=""
            Their plate; matters where plates have references of their own.

        Returns
        -------
        ndarray of shape (n, k)
            Centred, whitened and normalised (paper, section 3.1), or as they came where the
            dictionary has no whitening.
        """
        vectors = self.align(vectors, plate)
        if self.whitening is None:
            return vectors
        whitened: NDArray[np.float32] = self.whitening.transform(vectors)
        return whitened

    def encode(self, vectors: NDArray[np.float32], plate: str = "") -> sparse.csr_array:
        """Concept activations of samples.

        Parameters
        ----------
        vectors : ndarray of shape (n, d)
            Mean tokens of units, position component removed.
        plate : str, default=""
            As for `whiten`.

        Returns
        -------
        csr_array of shape (n, n_concepts)
        """
        return sparse.csr_array(self.icfl.transform(self.whiten(vectors, plate)))

    def cosine(self, vectors: NDArray[np.float32], concept: int) -> NDArray[np.float32]:
        """Cosine of one concept's direction with whitened samples.

        Parameters
        ----------
        vectors : ndarray of shape (n, k)
            Output of `whiten`.
        concept : int
            Which concept.

        Returns
        -------
        ndarray of shape (n,)
            -1 to 1; 0 for a zero vector.
        """
        cosines: NDArray[np.float32] = unit_length(vectors) @ self.directions[concept]
        return cosines

    def save(self, path: str | Path) -> Path:
        """Write one file, all or nothing.

        Parameters
        ----------
        path : str or Path
            The suffix ``.microdl.safetensors`` is added where it is missing.

        Returns
        -------
        Path
            The file written.
        """
        path = Path(path)
        if not path.name.endswith(SUFFIX):
            path = path.with_name(
                path.name.removesuffix(".safetensors").removesuffix(".microdl") + SUFFIX
            )
        tensors, header = self._pack()
        write_record(path, _HEADER_KEY, tensors, header)
        return path

    def _pack(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, Any]]:
        icfl = self.icfl
        tensors: dict[str, NDArray[np.generic]] = {
            f"icfl.{name}": getattr(icfl, f"{name}_") for name in _ICFL_ARRAYS
        }
        tensors["icfl.groups"] = np.array(
            [ATOM_GROUPS.index(group) for group in icfl.groups_], dtype=np.uint8
        )
        header: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "spec": self.spec.to_dict(),
            "icfl": {
                "n_iterations": icfl.n_iterations_,
                "atoms_per_iteration": icfl.atoms_per_iteration_,
                **{name: getattr(icfl, name) for name in _ICFL_PARAMETERS},
            },
            "whitening": None,
            "names": self.names,
            "notes": self.notes,
            "tags": self.tags,
            "provenance": self.provenance,
            "figures": self.figures,
            "pixel_size": self.pixel_size,
        }
        if self.whitening is not None:
            header["whitening"] = {
                "n_samples_seen": self.whitening.n_samples_seen_,
                **{name: getattr(self.whitening, name) for name in _WHITENING_PARAMETERS},
            }
            for name in _WHITENING_ARRAYS:
                tensors[f"whitening.{name}"] = getattr(self.whitening, f"{name}_")
        if self.position is not None:
            tensors["position.offsets"] = self.position.offsets
            tensors["position.basis"] = self.position.basis
            if self.position.scales is not None:
                tensors["position.scales"] = self.position.scales
        if self.plates is not None:
            names = sorted(self.plates.means)
            header["plates"] = {"kind": self.plates.kind, "names": names}
            if self.plates.common is not None:
                tensors["plates.common"] = self.plates.common
            tensors["plates.means"] = np.stack([self.plates.means[name] for name in names])
            tensors |= {
                f"plates.map.{number}": self.plates.maps[name]
                for number, name in enumerate(names)
                if name in self.plates.maps
            }
        return tensors, header

    @classmethod
    def load(cls, path: str | Path) -> ConceptDictionary:
        """Read a dictionary file; everything is checked before anything is used.

        Parameters
        ----------
        path : str or Path
            File written by `save`.

        Returns
        -------
        ConceptDictionary

        Raises
        ------
        MicrodlError
            If the file is no safetensors file (a pickle is never opened), truncated, not a
            dictionary, of a newer schema, or if its parts do not fit together.
        """
        path = Path(path)
        record = read_record(
            path,
            _HEADER_KEY,
            f"'{path.name}' is a safetensors file but not a concept dictionary; choose a file "
            f"that ends in {SUFFIX}.",
        )
        with refusing(f"The header of '{path.name}' is damaged; save the dictionary again."):
            version = record.header["schema_version"]
        if version not in (1, SCHEMA_VERSION):
            raise MicrodlError(
                f"'{path.name}' has schema version {version} but this version of napari-microdl "
                f"reads 1 and {SCHEMA_VERSION}; update napari-microdl."
            )
        with refusing(
            f"The parts of '{path.name}' do not fit together ({{reason}}); save the dictionary "
            "again."
        ):
            dictionary = cls._unpack(record.tensors, record.header)
        if not record.has_digest:
            note_missing_digest(path.name)
        return dictionary

    @classmethod
    def _unpack(
        cls, tensors: dict[str, NDArray[np.generic]], entries: dict[str, Any]
    ) -> ConceptDictionary:
        def group(prefix: str) -> dict[str, Any]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        if entries["schema_version"] == 1:
            entries = _of_schema_1(entries, position="position.offsets" in tensors)
        header = _Header(**entries)
        spec = header.spec
        arrays = group("icfl.")
        if arrays["dead"].dtype != np.bool_:
            raise MicrodlError(f"dead atoms are marked by {arrays['dead'].dtype}, not by bool")
        if "groups" in arrays:
            arrays["groups"] = [ATOM_GROUPS[number] for number in arrays["groups"].tolist()]
        icfl = ICFL.from_arrays(**arrays, **dict(header.icfl))
        whitening = None
        if header.whitening is not None:
            whitening = ControlWhitening.from_arrays(
                **group("whitening."), **dict(header.whitening)
            )
            if len(whitening.components_) != icfl.n_features_in_:
                raise MicrodlError(
                    f"whitening gives {len(whitening.components_)} components but the atoms have "
                    f"{icfl.n_features_in_}"
                )
        position = None
        if "position.offsets" in tensors:
            parts = {name: part.astype(np.float32) for name, part in group("position.").items()}
            position = PositionComponent(**parts)
            offsets, basis, scales = position.offsets, position.basis, position.scales
            expected = spec.plan.tile_tokens**2
            width = len(whitening.mean_) if whitening is not None else icfl.n_features_in_
            if offsets.shape != (expected, width) or basis.shape[1:] != (width,):
                raise MicrodlError(
                    f"position means and directions have the shapes {offsets.shape} and "
                    f"{basis.shape}, {(expected, width)} and {('any', width)} expected"
                )
            if scales is not None and (scales.shape != offsets.shape or not (scales > 0).all()):
                raise MicrodlError(
                    f"scales of places have the shape {scales.shape}, {offsets.shape} expected, "
                    "and must be above 0"
                )
        plates = None
        if header.plates is not None:
            plates = _references(header.plates, group("plates."))
            if whitening is None or any(
                mean.shape != whitening.mean_.shape for mean in plates.means.values()
            ):
                raise MicrodlError("the means of plates are none of samples that are whitened")
        return cls(
            spec=spec,
            icfl=icfl,
            whitening=whitening,
            position=position,
            plates=plates,
            names=header.names,
            notes=header.notes,
            tags=header.tags,
            provenance=header.provenance,
            figures=header.figures,
            pixel_size=header.pixel_size,
        )
