"""All settings of a run: a group for each stage, shared by the window, the command line and files.

A group is what its stage is made from: the cache of stages compares it, the window marks a step by
it, and a dictionary records it. Which setting belongs to which stage is written here alone.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_text
from napari_microdl.core.reading import MOST_TEXT_BYTES, parse_json, read_bytes, refusing

Site = Literal["residual", "attention"]
Precision = Literal["fp32", "bf16", "fast"]
Orientations = Literal[1, 8]
Intensity = Literal["log", "linear"]
Selection = Literal["signed", "absolute"]
Refit = Literal["block", "full", "final"]
Threshold = Literal["local", "otsu"]
ScalingMode = Literal["image", "plate"]
UnitKind = Literal["cell", "crop", "token"]
Pooling = Literal["mean", "spread"]
ChannelTokens = Literal["concat", "mean"]
Update = Literal["newton", "adam"]
Init = Literal["data", "linear"]
# How the plates of a run are brought together.
PlateKind = Literal["together", "centre", "scale", "whiten"]
Independent = Literal["wells", "fields", "plates"]
Library = Literal["scikit-image", "cp_measure"]
# What a set of concepts is chosen by.
SetBy = Literal["both", "cosines"]
# With this weight hardly anything is left of what backgrounds show.
BACKGROUND_WEIGHT = 100.0
# Batches that are chosen by what there is.
AUTOMATIC = "auto"

# JSON has lists only.
Channels = Annotated[tuple[str, ...], Field(strict=False)]
Group = Literal["images", "model", "tokens", "cells", "units", "whitening", "dictionary"]

# Beside the settings stands what the window alone needs: its images and how they make up fields.
_WINDOW = "window"
_NO_GROUP = ("cache", "random_state")


class Settings(BaseModel):
    """Settings that cannot be changed, checked when they are made.

    Raises
    ------
    MicrodlError
        If a setting is not known or not possible; one sentence names it.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    if not TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise MicrodlError(_sentence(type(self), error)) from None

    def replace(self, **changes: Any) -> Self:
        """The same settings but for some, checked like all others.

        Parameters
        ----------
        **changes
            Fields of this group.
        """
        return type(self)(**{**self.__dict__, **changes})

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values that JSON can hold."""
        return self.model_dump(mode="json")


class ImagesConfig(Settings):
    """How the images of a table or plate are read.

    Parameters
    ----------
    illumination : bool, default=True
        Divide intensities by the illumination functions that a table names, or that lie beside it;
        images without any are taken as they are.
    level : int, default=0
        Which of the resolutions of OME-Zarr images, 0 for the full one.
    labels : str, optional
        Which of the labels in OME-Zarr images are the cells, by their name; where not given, the
        only ones, or of several those that are called cells.
    """

    illumination: bool = True
    level: Annotated[int, Field(ge=0)] = 0
    labels: str | None = None


class ModelConfig(Settings):
    """The model that reads tokens, and how it runs.

    Parameters
    ----------
    name : str, default="builtin"
        Name of the foundation model, a published one with its weights as ``NAME@PATH``, or a file,
        folder or place on the hub (`napari_microdl.models.registry.load_model`).
    joint : bool, optional
        Of models of RGB images: read three channels together (True) or each as a grey image
        (False). Where not given, as the model's rule says; if it leaves the choice, channels that
        are called red, green and blue (or R, G, B) go in together and others one by one.
    device : {"auto", "cpu", "cuda", "mps"}
        Where the model runs.
    precision : {"fp32", "bf16", "fast"}
        Arithmetic of the model; "fast" measures both and takes bfloat16 where it is faster.
    batch_size : int, default=8
        Tiles of one channel a forward pass; halved where memory runs out.
    """

    name: str = "builtin"
    joint: bool | None = None
    device: str = "auto"
    precision: Precision = "fp32"
    batch_size: int = 8


class TokensConfig(Settings):
    """What is read of the model, and from which images.

    Parameters
    ----------
    layer : int, optional
        Layer to read; the model's default where not given.
    site : {"residual", "attention"}
        Where in the block (paper, section 3).
    channels : tuple of str, optional
        Channels in the order to use. Where not given, those that the model names, found by their
        names (`napari_microdl.models.channels.match_channels`), or all for a model that takes any.
    channel_tokens : {"concat", "mean"}
        How the tokens of a patch's channels are joined.
    scaling : {"image", "plate"}
        Over what background and mean intensity are measured.
    tile_size : int, optional
        Edge of a tile in pixels; the model's native size where not given.
    halo : int, default=2
        Tokens dropped along the edges of a tile.
    remove_position : bool, default=True
        Remove what tokens owe to their place in the tile, measured on all fields.
    orientations : {1, 8}
        Whether the model sees every tile as it lies, or turned and flipped in all eight ways, whose
        tokens are averaged; that takes eight times as long.
    """

    layer: int | None = None
    site: Site = "residual"
    channels: Channels | None = None
    channel_tokens: ChannelTokens = "concat"
    scaling: ScalingMode = "image"
    tile_size: int | None = None
    halo: int = 2
    remove_position: bool = True
    orientations: Orientations = 1


class SegmentationConfig(Settings):
    """The built-in segmentation, for fields that come without labels.

    Parameters
    ----------
    channel : str, optional
        Channel to segment; the first where not given.
    diameter : float, default=40
        Typical diameter of a cell in pixels. Seeds lie at least about half of it apart.
    threshold : {"local", "otsu"}
        Local threshold, for uneven brightness, or one threshold for the image (Otsu).
    min_area : float, optional
        Smaller objects are dropped, in pixels; a sixth of a disc of `diameter` where not given.
    """

    channel: str | None = None
    diameter: Annotated[float, Field(ge=4)] = 40.0
    threshold: Threshold = "local"
    min_area: Annotated[float, Field(ge=0)] | None = None

    @property
    def smallest_area(self) -> float:
        """Area in pixels below which an object is dropped."""
        if self.min_area is not None:
            return self.min_area
        return float(np.pi * self.diameter**2 / 24)


class UnitsConfig(Settings):
    """What one sample is.

    Parameters
    ----------
    kind : {"cell", "crop", "token"}
        Cells, square crops, or single tokens.
    crop_size, crop_stride : int, default=64 and 32
        Geometry of crops in pixels.
    pooling : {"auto", "mean", "spread"}
        What is made of the tokens of a cell or crop: their mean, as in the paper, or their spread
        (`napari_microdl.tokens.spread`), in which cancels what all tokens of a field share. "auto"
        takes the spread of cells and the mean of crops and tokens.
    """

    kind: UnitKind = "cell"
    crop_size: int = 64
    crop_stride: int = 32
    pooling: Literal["auto"] | Pooling = "auto"

    @model_validator(mode="after")
    def _can_spread(self) -> Self:
        if self.kind == "token" and self.pooling == "spread":
            raise ValueError(
                "A single token has no spread; take cells or crops as the unit, or their mean."
            )
        return self

    @property
    def pooled_by(self) -> Pooling:
        """What is made of the tokens of a unit, "auto" decided."""
        if self.pooling != "auto":
            return self.pooling
        return "spread" if self.kind == "cell" else "mean"


class WhiteningConfig(Settings):
    """Whitening on controls (paper, section 3.1).

    Parameters
    ----------
    enabled : bool, default=True
        Centre and whiten on controls and normalise.
    shrinkage : float, optional
        Added to the eigenvalues, in units of their median; where not given, chosen on control
        fields that are left out (`napari_microdl.estimators.shrinkage.choose_shrinkage`).
    n_components : int, optional
        Whitened directions kept; all where not given.
    background_weight : float or "auto", default="auto"
        How often the covariance of the backgrounds of all fields, treated ones too, is added to
        that of the controls, so that what sets fields apart where no cell is counts less in cells
        (`napari_microdl.estimators.whitening.ControlWhitening.add_nuisance`). 100 leaves hardly
        anything of it. "auto" takes 100 where the background differs between conditions by more
        than chance, and 0 elsewhere (`napari_microdl.metrics.background`); it is for spreads of
        cells that leave room between them, so of all else it is 0. Not in the paper, which is 0.
    plates : {"together", "centre", "scale", "whiten"}, optional
        How several plates are brought together before their controls are whitened as one: as they
        are; each with the mean of its own controls as the origin; with the spread of its controls
        in every dimension brought to that of all, too; or with their whole covariance, where a
        plate has ten controls a dimension. Where not given, "centre" if there are several plates
        and all have controls, else "together" (`napari_microdl.estimators.plates`).
    """

    enabled: bool = True
    shrinkage: float | None = None
    n_components: int | None = None
    background_weight: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    plates: PlateKind | None = None


class DictionaryConfig(Settings):
    """How the dictionary is learned; parameters of `napari_microdl.estimators.icfl.ICFL`.

    Parameters
    ----------
    n_atoms, n_iterations, atoms_per_iteration : int, optional
        M, J and L of the dictionary; chosen from the number of samples where not given.
    update : {"newton", "adam"}
        How the dictionary is learned; "adam" with ``init="linear"`` is the printed algorithm.
    init : {"data", "linear"}
        First atoms.
    learning_rate : float, default=5e-5
        Rate of "adam".
    selection : {"signed", "absolute"}
        How atoms are picked.
    refit : {"auto", "block", "full", "final"}
        Which coefficients are refitted; "auto" suits the update.
    positive_code : bool, default=False
        Allow no negative coefficients.
    control_atoms : int, optional
        Atoms learned on controls and frozen before the others are learned on treated samples
        (control-first); where not given, all are learned on all samples.
    max_steps : int, optional
        Steps of the fit; chosen from the number of samples where not given.
    early_stopping : bool, default=False
        End the fit once the reconstruction of held-out samples no longer improves.
    n_starts : int, optional
        Fits from so many starts, of which the one is kept whose energy is on the fewest atoms
        (`napari_microdl.estimators.icfl.starts`); where not given, 8 up to 256 atoms and 50,000
        samples, and 1 above.
        No parameter of `ICFL`.
    """

    n_atoms: int | None = None
    n_iterations: int | None = None
    atoms_per_iteration: int | None = None
    update: Update = "newton"
    init: Init = "data"
    learning_rate: float = 5e-5
    selection: Selection = "signed"
    refit: Refit | Literal["auto"] = "auto"
    positive_code: bool = False
    control_atoms: int | None = None
    max_steps: int | None = None
    early_stopping: bool = False
    n_starts: Annotated[int, Field(ge=1)] | None = None


class EvaluationChoices(Settings):
    """What an evaluation of a run asks.

    Parameters
    ----------
    labels : str, default="Metadata_condition"
        Column of the units that concepts should tell, with or without ``Metadata_``.
    independent : {"wells", "fields", "plates"}
        What was treated as one: it is shuffled, drawn again and left out whole.
    n_permutations : int, default=999
        Shuffles of the null.
    handcrafted : bool, default=True
        Whether to measure the cells by hand too, where images and labels are given.
    library : {"scikit-image", "cp_measure"}
        Whose measurements these are, see `napari_microdl.metrics.cell_measurements`.
    n_seeds : int, default=0
        Dictionaries to fit with further seeds.
    unseen_only : bool, default=False
        Whether to leave out the fields that the dictionary was fitted on.
    random_state : int, default=0
        Seed.
    batches : str, default="auto"
        Column that tells the batches by which controls are compared, with or without ``Metadata_``;
        "auto" takes plates or, of one plate, sites: see `napari_microdl.report.batch_design`.
    wells : bool, default=False
        Whether wells are compared as well, as of a plate run: hits, replicates, what wells owe to
        their place, and how plates differ.
    sets_by : {"both", "cosines"}
        Whether a few concepts that tell a label together are chosen by their cosines and codes, or
        by cosines alone (`napari_microdl.concepts.concept_set`).
    take_off_positions : bool, default=False
        Whether what wells owe to their row, column and edge, measured on controls, is taken off
        their profiles (`napari_microdl.metrics.wells.position_effects`).
    """

    labels: str = "Metadata_condition"
    independent: Independent = "wells"
    n_permutations: Annotated[int, Field(ge=1)] = 999
    handcrafted: bool = True
    library: Library = "scikit-image"
    n_seeds: Annotated[int, Field(ge=0)] = 0
    unseen_only: bool = False
    random_state: int = 0
    batches: str = AUTOMATIC
    wells: bool = False
    sets_by: SetBy = "both"
    take_off_positions: bool = False


class PipelineConfig(Settings):
    """Settings of a run from fields to concepts, a group for each stage.

    Parameters
    ----------
    images : ImagesConfig
        How images are read.
    model : ModelConfig
        The model, and how it runs.
    tokens : TokensConfig
        What is read of it.
    cells : SegmentationConfig
        The built-in segmentation.
    units : UnitsConfig
        What one sample is.
    whitening : WhiteningConfig
        Whitening on controls.
    dictionary : DictionaryConfig
        How the dictionary is learned.
    cache : bool, default=True
        Keep tokens on disk, so that the same images need not go through the model again
        (`napari_microdl.tokens.TokenCache`).
    random_state : int, default=0
        Seed of everything random.

    Examples
    --------
    Groups can be given as dicts; `of` takes settings by their own names, whichever group they are
    in:

    >>> config = PipelineConfig(units={"kind": "crop"}, dictionary={"n_atoms": 64})
    >>> config == PipelineConfig.of(unit="crop", n_atoms=64)
    True
    """

    images: ImagesConfig = ImagesConfig()
    model: ModelConfig = ModelConfig()
    tokens: TokensConfig = TokensConfig()
    cells: SegmentationConfig = SegmentationConfig()
    units: UnitsConfig = UnitsConfig()
    whitening: WhiteningConfig = WhiteningConfig()
    dictionary: DictionaryConfig = DictionaryConfig()
    cache: bool = True
    random_state: int = 0

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """Settings by their own names; the others keep their defaults.

        Parameters
        ----------
        **settings
            Fields of any group; `kind` of the units is called ``unit``, `name` of the model
            ``model``, `enabled` of the whitening ``whiten``, and the group of the cells
            ``segmentation``.
        """
        return cls().with_settings(**settings)

    def with_settings(self, **settings: Any) -> Self:
        """The same settings but for some, given by their own names as in `of`."""
        return type(self)(**self._in_groups(settings))

    def _in_groups(self, settings: dict[str, Any]) -> dict[str, Any]:
        groups: dict[str, Any] = {name: dict(self.__dict__[name].__dict__) for name in _GROUPS}
        groups |= {name: self.__dict__[name] for name in _NO_GROUP}
        unknown = sorted(set(settings) - set(_PLACES))
        if unknown:
            raise MicrodlError(_unknown(unknown))
        for name, value in settings.items():
            group, field = _PLACES[name]
            if field is None:
                groups[group] = value
            else:
                groups[group][field] = value
        return groups

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Settings from plain values.

        Parameters
        ----------
        values : dict
            As `to_dict` gives them, or by their own names without groups, as the first version
            wrote them; what is missing keeps its default.

        Returns
        -------
        PipelineConfig

        Raises
        ------
        MicrodlError
            If a setting is not known or not possible.
        """
        # No version wrote a group beside settings without one: "model" was a text then.
        grouped = any(
            name in _GROUPS and (name != "model" or isinstance(values[name], dict))
            for name in values
        )
        return cls(**values) if grouped else cls.of(**values)

    @property
    def measures_background(self) -> bool:
        """Whether the background is measured with the samples; crops and tokens have none.

        Whether there is a whitening does not matter, so that samples need not be made anew for it.
        """
        weight, units = self.whitening.background_weight, self.units
        if units.kind != "cell":
            return False
        return units.pooled_by == "spread" if weight == "auto" else weight > 0

    @property
    def wants_background(self) -> bool:
        """Whether the background is to be looked at for the whitening."""
        return self.whitening.enabled and self.measures_background

    @property
    def background_weight(self) -> float:
        """Weight of the background where it is taken off, "auto" decided."""
        weight = self.whitening.background_weight
        return BACKGROUND_WEIGHT if weight == "auto" else weight

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with any setting."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


_GROUPS: dict[str, type[Settings]] = {
    "images": ImagesConfig,
    "model": ModelConfig,
    "tokens": TokensConfig,
    "cells": SegmentationConfig,
    "units": UnitsConfig,
    "whitening": WhiteningConfig,
    "dictionary": DictionaryConfig,
}
# Group and field of every setting by its own name; None stands for the whole group.
_PLACES: dict[str, tuple[str, str | None]] = {
    field: (group, field)
    for group, record in _GROUPS.items()
    if group != "cells"
    for field in record.model_fields
    if field not in ("name", "kind", "enabled")
} | {
    "model": ("model", "name"),
    "unit": ("units", "kind"),
    "whiten": ("whitening", "enabled"),
    "segmentation": ("cells", None),
    "cache": ("cache", None),
    "random_state": ("random_state", None),
}


def write_config(
    config: PipelineConfig, path: str | Path, window: dict[str, Any] | None = None
) -> None:
    """Write all settings as JSON.

    Parameters
    ----------
    config : PipelineConfig
        Settings.
    path : str or Path
        File; one that is there is replaced once the new one is whole.
    window : dict, optional
        What the window alone needs, see `read_window`.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    values = config.to_dict() if window is None else {**config.to_dict(), _WINDOW: window}
    write_text(json.dumps(values, indent=2) + "\n", path)


def read_config(path: str | Path) -> PipelineConfig:
    """Read settings.

    Parameters
    ----------
    path : str or Path
        JSON file as `write_config` writes it; settings that are left out keep their default, and
        what the window alone needs is passed over.

    Returns
    -------
    PipelineConfig

    Raises
    ------
    MicrodlError
        If the file cannot be read, or a setting is not known or of the wrong kind.
    """
    values = read_values(Path(path))
    values.pop(_WINDOW, None)
    return PipelineConfig.from_dict(values)


def read_window(path: str | Path) -> dict[str, Any] | None:
    """Read what the window alone needs, such as its images and the table of their fields.

    Parameters
    ----------
    path : str or Path
        JSON file as `write_config` writes it.

    Returns
    -------
    dict or None
        As it stands in the file, unchecked; None where the file was not written by the window.

    Raises
    ------
    MicrodlError
        If the file cannot be read.
    """
    found: dict[str, Any] | None = read_values(Path(path)).get(_WINDOW)
    return found


def read_values(path: Path) -> dict[str, Any]:
    """The JSON object in a file of settings, its window an object too.

    Raises
    ------
    MicrodlError
        If the file cannot be read or holds something else.
    """
    with refusing(
        f"The settings '{path.name}' cannot be read ({{reason}}); check that the file exists."
    ):
        content = read_bytes(path, MOST_TEXT_BYTES)
    with refusing(
        f"The settings '{path.name}' are not JSON ({{reason}}); correct or save them again."
    ):
        values = parse_json(content.decode("utf-8"))
    if not isinstance(values, dict):
        raise MicrodlError(
            f"The settings '{path.name}' are a {type(values).__name__}; a JSON object with one "
            "entry a setting is needed."
        )
    if not isinstance(values.get(_WINDOW, {}), dict):
        raise MicrodlError(
            f"The entry {_WINDOW} of the settings '{path.name}' is {json.dumps(values[_WINDOW])} "
            "but must be an object."
        )
    return values


# What a setting must be, by the kind of the error that pydantic found.
_MUST_BE = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "tuple_type": "a list of texts",
    "list_type": "a list of texts",
    "too_short": "a list with at least one entry",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def _sentence(record: type[Settings], error: ValidationError) -> str:
    errors = error.errors(include_url=False)
    unknown = sorted(str(e["loc"][-1]) for e in errors if e["type"] == "extra_forbidden")
    if unknown:
        return _unknown(unknown)
    first = errors[0]
    if first["type"] == "value_error":
        # A group has said it already.
        return str(first["ctx"]["error"])
    name, value = str(first["loc"][0]), first["input"]
    group = next((group for group, kind in _GROUPS.items() if issubclass(record, kind)), None)
    place = name if group is None else f"{group}.{name}"
    if first["type"] == "missing":
        return f"The setting {place} is missing."
    if first["type"] == "greater_than_equal":
        return f"The setting {place} is {value} but must be {first['ctx']['ge']:g} or more."
    if first["type"] == "literal_error":
        return (
            f"The setting {place} is {value!r}, which is not known; use one of "
            f"{', '.join(map(repr, _choices(record.model_fields[name].annotation)))}."
        )
    must_be = _MUST_BE.get(first["type"], first["msg"].removeprefix("Input should be "))
    annotation = record.model_fields[name].annotation
    must_be = " or ".join([must_be, *(f'"{word}"' for word in _choices(annotation))])
    if type(None) in get_args(annotation):
        must_be += " or null"
    shown = json.dumps(value, default=repr)
    return f"The setting {place} is {shown} but must be {must_be}."


def _choices(annotation: Any) -> list[str]:
    """What may be chosen."""
    parts = get_args(annotation)
    return [c for part in parts for c in ([part] if isinstance(part, str) else _choices(part))]


def _unknown(names: list[str]) -> str:
    return (
        f"The settings hold {', '.join(map(repr, names))}, which this version does not know; "
        "remove or correct them."
    )
