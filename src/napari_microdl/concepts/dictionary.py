"""A fitted concept dictionary and everything needed to apply it again: one safetensors file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.core.arrays import unit_length
from napari_microdl.core.config import ChannelTokens, Intensity, ScalingMode, Site, UnitKind
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.safetensors_files import read_safetensors, write_safetensors
from napari_microdl.estimators.icfl import ATOM_GROUPS, ICFL
from napari_microdl.estimators.whitening import ControlWhitening
from napari_microdl.models.base import ChannelRule, ModelSpec
from napari_microdl.models.recipe import UNKNOWN_LICENCE
from napari_microdl.models.registry import known_spec
from napari_microdl.tokens import TilePlan
from napari_microdl.tokens.positions import PositionComponent

SCHEMA_VERSION = 1
SUFFIX = ".microdl.safetensors"
# What a person can say of a concept or a cell (paper, section 4, single-cell identity).
TAGS = ("control-like", "perturbed")
_HEADER_KEY = "napari_microdl"
# Fitted attributes (less the trailing underscore) and parameters that codes depend on.
_ICFL_ARRAYS = ("components", "bias", "dead")
_ICFL_PARAMETERS = ("update", "selection", "refit", "allow_repeats", "positive_code")
_WHITENING_ARRAYS = ("mean", "components", "explained_variance", "scale")
_WHITENING_PARAMETERS = ("shrinkage", "eigenvalue_floor", "unit_norm")


# What only some words are allowed for.
_OPTIONS = {
    "site": Site,
    "channel_tokens": ChannelTokens,
    "scaling": ScalingMode,
    "intensity": Intensity,
    "unit": UnitKind,
}


def _require_count(name: str, value: object) -> None:
    if not isinstance(value, int) or value < 1:
        raise MicrodlError(f"{name} is {value!r} where a whole number above 0 is needed.")


def _older_terms(spec: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Terms of the weights in a file from before its spec held them.

    Its provenance says that commercial use is not forbidden also where nobody had stated that, so
    it is believed only of a model whose licence is known here.
    """
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


@dataclass(frozen=True)
class DictionarySpec:
    """What the samples of a dictionary are, so that new images can be treated the same.

    Parameters
    ----------
    model_id, weights_sha256, weights_licence : str
        The model whose tokens were used.
    layer : int
        Layer, from 1.
    site : {"residual", "attention"}
        Where in the block.
    channel_names : tuple of str
        Channels in their order.
    channel_tokens : {"concat", "mean"}
        How the tokens of the channels were joined.
    scaling : {"image", "plate"}
        Over what background and mean intensity were measured; new images are measured anew.
    tile_size : int
        Edge of a tile in pixels.
    halo : int
        Tokens dropped along the edges of a tile.
    patch_size : int
        Edge of a patch in pixels.
    unit : {"cell", "crop", "token"}
        What one sample is.
    crop_size, crop_stride : int
        Geometry of crops in pixels.
    joint : bool
        Whether the model read its channels together.
    intensity : {"log", "linear"}
        Curve of the intensities, see `IntensityScaling`; files from before there was a choice
        have "log".
    weights_non_commercial : bool, optional
        Whether the licence of the weights forbids commercial use; None where that is not stated.
    weights_source : str
        Where the weights come from; empty where that is not known.
    """

    model_id: str
    weights_sha256: str
    weights_licence: str
    layer: int
    site: Site
    channel_names: tuple[str, ...]
    channel_tokens: ChannelTokens
    scaling: ScalingMode
    tile_size: int
    halo: int
    patch_size: int
    unit: UnitKind
    crop_size: int
    crop_stride: int
    intensity: Intensity = "log"
    joint: bool = False
    weights_non_commercial: bool | None = None
    weights_source: str = ""

    def __post_init__(self) -> None:
        for name in ("layer", "tile_size", "patch_size", "crop_size", "crop_stride"):
            _require_count(name, getattr(self, name))
        for name, kind in _OPTIONS.items():
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise MicrodlError(
                    f"{name} is {value!r} where one of {', '.join(known)} is needed."
                )
        if not isinstance(self.joint, bool):
            raise MicrodlError(f"joint is {self.joint!r} where true or false is needed.")
        if not isinstance(self.weights_non_commercial, bool | None):
            raise MicrodlError(
                f"weights_non_commercial is {self.weights_non_commercial!r} where true, false or "
                "null is needed."
            )
        if not isinstance(self.weights_source, str):
            raise MicrodlError(f"weights_source is {self.weights_source!r} where text is needed.")
        if not self.channel_names:
            raise MicrodlError("channel_names is empty where at least one channel is needed.")
        TilePlan(self.patch_size, self.tile_size, self.halo)

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
        if model.model_id != self.model_id:
            raise MicrodlError(
                f"The dictionary was made with the model '{self.model_id}' but "
                f"'{model.model_id}' is chosen; choose the dictionary's model."
            )
        if model.weights_sha256 != self.weights_sha256:
            raise MicrodlError(
                f"The dictionary was made with other weights of '{self.model_id}' (sha256 "
                f"{self.weights_sha256[:12]}, here {model.weights_sha256[:12]}); load those "
                "weights or fit a new dictionary."
            )


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

    def __post_init__(self) -> None:
        if not self.names:
            self.names = [f"concept {i}" for i in range(self.n_concepts)]
        if not self.notes:
            self.notes = [""] * self.n_concepts
        if not self.tags:
            self.tags = [""] * self.n_concepts
        if any(len(x) != self.n_concepts for x in (self.names, self.notes, self.tags)):
            raise MicrodlError(
                f"The dictionary has {self.n_concepts} concepts but {len(self.names)} names, "
                f"{len(self.notes)} notes and {len(self.tags)} tags."
            )
        unknown = set(self.tags) - {"", *TAGS}
        if unknown:
            raise MicrodlError(
                f"The tag '{min(unknown)}' is not known; use {' or '.join(TAGS)}, or none."
            )

    @property
    def n_concepts(self) -> int:
        """Number of dictionary atoms."""
        return len(self.icfl.components_)

    @property
    def token_width(self) -> int:
        """Width of a sample before it is whitened, the channels of a patch together."""
        if self.whitening is not None:
            return len(self.whitening.mean_)
        return int(self.icfl.n_features_in_)

    @property
    def model(self) -> ModelSpec:
        """The model of its samples, as far as the dictionary knows it: its depth is the layer."""
        spec = self.spec
        rule = ChannelRule(joint=spec.joint)
        parts = rule.n_token_channels(len(spec.channel_names))
        return ModelSpec(
            model_id=spec.model_id,
            title=spec.model_id,
            patch_size=spec.patch_size,
            dim=self.token_width // (parts if spec.channel_tokens == "concat" else 1),
            depth=spec.layer,
            default_layer=spec.layer,
            tile_size=spec.tile_size,
            weights_sha256=spec.weights_sha256,
            licence=spec.weights_licence,
            source=spec.weights_source,
            non_commercial=spec.weights_non_commercial,
            channels=rule,
            intensity=spec.intensity,
        )

    @property
    def directions(self) -> NDArray[np.float32]:
        """Dictionary atoms at unit length, shape (n_concepts, d)."""
        return unit_length(np.asarray(self.icfl.components_, np.float32))

    def whiten(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples in the space of the dictionary.

        Parameters
        ----------
        vectors : ndarray of shape (n, d)
            Mean tokens of units, position component removed.

        Returns
        -------
        ndarray of shape (n, k)
            Centred, whitened and normalised (paper, section 3.1), or as they came where the
            dictionary has no whitening.
        """
        if self.whitening is None:
            return vectors
        whitened: NDArray[np.float32] = self.whitening.transform(vectors)
        return whitened

    def encode(self, vectors: NDArray[np.float32]) -> sparse.csr_array:
        """Concept activations of samples.

        Parameters
        ----------
        vectors : ndarray of shape (n, d)
            Mean tokens of units, position component removed.

        Returns
        -------
        csr_array of shape (n, n_concepts)
        """
        return sparse.csr_array(self.icfl.transform(self.whiten(vectors)))

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
        write_safetensors(path, tensors, {_HEADER_KEY: json.dumps(header, allow_nan=False)})
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
            "spec": dataclasses.asdict(self.spec),
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
        tensors, metadata = read_safetensors(path)
        if _HEADER_KEY not in metadata:
            raise MicrodlError(
                f"'{path.name}' is a safetensors file but not a concept dictionary; choose a file "
                f"that ends in {SUFFIX}."
            )
        try:
            header = json.loads(metadata[_HEADER_KEY])
            version = header["schema_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MicrodlError(
                f"The header of '{path.name}' is damaged; save the dictionary again."
            ) from error
        if version != SCHEMA_VERSION:
            raise MicrodlError(
                f"'{path.name}' has schema version {version} but this version of napari-microdl "
                f"reads {SCHEMA_VERSION}; update napari-microdl."
            )
        try:
            return cls._unpack(tensors, header)
        except (
            KeyError,
            IndexError,
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
        ) as error:
            raise MicrodlError(
                f"The parts of '{path.name}' do not fit together ({error}); save the dictionary "
                "again."
            ) from error

    @classmethod
    def _unpack(
        cls, tensors: dict[str, NDArray[np.generic]], header: dict[str, Any]
    ) -> ConceptDictionary:
        def group(prefix: str) -> dict[str, Any]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        spec_fields = dict(header["spec"])
        spec_fields["channel_names"] = tuple(spec_fields["channel_names"])
        provenance = dict(header["provenance"])
        if "weights_non_commercial" not in spec_fields:
            terms = _older_terms(spec_fields, provenance)
            spec_fields |= terms
            provenance |= {name: terms[name] for name in provenance.keys() & terms.keys()}
        spec = DictionarySpec(**spec_fields)
        for name in ("n_iterations", "atoms_per_iteration"):
            _require_count(name, header["icfl"][name])
        arrays = group("icfl.")
        if "groups" in arrays:
            arrays["groups"] = [ATOM_GROUPS[number] for number in arrays["groups"].tolist()]
        icfl = ICFL.from_arrays(**arrays, **header["icfl"])
        whitening = None
        if header["whitening"] is not None:
            whitening = ControlWhitening.from_arrays(**group("whitening."), **header["whitening"])
            if len(whitening.components_) != icfl.n_features_in_:
                raise MicrodlError(
                    f"whitening gives {len(whitening.components_)} components but the atoms have "
                    f"{icfl.n_features_in_}"
                )
        position = None
        if "position.offsets" in tensors:
            offsets, basis = tensors["position.offsets"], tensors["position.basis"]
            expected = (spec.tile_size // spec.patch_size) ** 2
            width = len(whitening.mean_) if whitening is not None else icfl.n_features_in_
            if offsets.shape != (expected, width) or basis.shape[1:] != (width,):
                raise MicrodlError(
                    f"position means and directions have the shapes {offsets.shape} and "
                    f"{basis.shape}, {(expected, width)} and {('any', width)} expected"
                )
            position = PositionComponent(offsets.astype(np.float32), basis.astype(np.float32))
        return cls(
            spec=spec,
            icfl=icfl,
            whitening=whitening,
            position=position,
            names=[str(n) for n in header["names"]],
            notes=[str(n) for n in header["notes"]],
            # Files of version 0.1 have none.
            tags=[str(n) for n in header.get("tags", [])],
            provenance=provenance,
            figures=dict(header["figures"]),
        )
