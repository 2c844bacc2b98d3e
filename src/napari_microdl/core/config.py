"""All settings of a run in one frozen record, shared by the GUI, the command line and the files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from napari_microdl.core.errors import MicrodlError

Site = Literal["residual", "attention"]
Precision = Literal["fp32", "bf16", "fast"]
Intensity = Literal["log", "linear"]
Selection = Literal["signed", "absolute"]
Refit = Literal["block", "full", "final"]
Threshold = Literal["local", "otsu"]
ScalingMode = Literal["image", "plate"]
UnitKind = Literal["cell", "crop", "token"]
ChannelTokens = Literal["concat", "mean"]
Update = Literal["newton", "adam"]
Init = Literal["data", "linear"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "site": get_args(Site),
    "channel_tokens": get_args(ChannelTokens),
    "scaling": get_args(ScalingMode),
    "unit": get_args(UnitKind),
    "update": get_args(Update),
    "init": get_args(Init),
    "selection": get_args(Selection),
    "refit": ("auto", *get_args(Refit)),
    "precision": get_args(Precision),
}


@dataclass(frozen=True)
class SegmentationConfig:
    """Parameters of the built-in segmentation.

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
    diameter: float = 40.0
    threshold: Threshold = "local"
    min_area: float | None = None

    def __post_init__(self) -> None:
        if self.threshold not in get_args(Threshold):
            raise MicrodlError(f"Threshold '{self.threshold}' is not known; use local or otsu.")
        if not self.diameter >= 4:
            raise MicrodlError(
                f"A cell diameter of {self.diameter} px is too small; use 4 or more."
            )

        if self.min_area is not None and not self.min_area >= 0:
            raise MicrodlError(f"A smallest area of {self.min_area} px is below 0; use 0 or more.")

    @property
    def smallest_area(self) -> float:
        """Area in pixels below which an object is dropped."""
        if self.min_area is not None:
            return self.min_area
        return float(np.pi * self.diameter**2 / 24)


# Settings that decide the whitening, and those that decide the dictionary.
WHITENING_SETTINGS = ("whiten", "shrinkage", "n_components")
DICTIONARY_SETTINGS = (
    "n_atoms",
    "n_iterations",
    "atoms_per_iteration",
    "update",
    "init",
    "learning_rate",
    "selection",
    "refit",
    "positive_code",
    "control_atoms",
    "max_steps",
    "early_stopping",
    "random_state",
)


@dataclass(frozen=True)
class PipelineConfig:
    """Settings of a run from fields to concepts.

    Parameters
    ----------
    model : str, default="builtin"
        Name of the foundation model, a published one with its weights as ``NAME@PATH``, or a file,
        folder or place on the hub (`napari_microdl.models.registry.load_model`).
    joint : bool, optional
        Of models of RGB images: read three channels together (True) or each as a grey image
        (False). Where not given, as the model's rule says; if it leaves the choice, channels that
        are called red, green and blue (or R, G, B) go in together and others one by one.
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
    unit : {"cell", "crop", "token"}
        What one sample is.
    crop_size, crop_stride : int, default=64 and 32
        Geometry of crops in pixels.
    segmentation : SegmentationConfig
        Used for cells in fields that come without labels.
    remove_position : bool, default=True
        Remove what tokens owe to their place in the tile, measured on all fields.
    whiten : bool, default=True
        Centre and whiten on controls and normalise (paper, section 3.1).
    shrinkage : float, optional
        Added to the eigenvalues, in units of their median; where not given, chosen on control
        fields that are left out (`napari_microdl.estimators.shrinkage.choose_shrinkage`).
    n_components : int, optional
        Whitened directions kept; all where not given.
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
    positive_code : bool, default=False
        Allow no negative coefficients.
    control_atoms : int, optional
        Atoms learned on controls and frozen before the others are learned on treated samples
        (control-first); where not given, all are learned on all samples.
    refit : {"auto", "block", "full", "final"}
        Which coefficients are refitted; "auto" suits the update.
    max_steps : int, optional
        Steps of the fit; chosen from the number of samples where not given.
    early_stopping : bool, default=False
        End the fit once the reconstruction of held-out samples no longer improves.
    device : {"auto", "cpu", "cuda", "mps"}
        Where the model runs.
    precision : {"fp32", "bf16", "fast"}
        Arithmetic of the model; "fast" measures both and takes bfloat16 where it is faster.
    batch_size : int, default=8
        Tiles of one channel a forward pass; halved where memory runs out.
    cache : bool, default=True
        Keep tokens on disk, so that the same images need not go through the model again
        (`napari_microdl.tokens.TokenCache`).
    random_state : int, default=0
        Seed of everything random.
    """

    model: str = "builtin"
    joint: bool | None = None
    layer: int | None = None
    site: Site = "residual"
    channels: tuple[str, ...] | None = None
    channel_tokens: ChannelTokens = "concat"
    scaling: ScalingMode = "image"
    tile_size: int | None = None
    halo: int = 2
    unit: UnitKind = "cell"
    crop_size: int = 64
    crop_stride: int = 32
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    remove_position: bool = True
    whiten: bool = True
    shrinkage: float | None = None
    n_components: int | None = None
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
    device: str = "auto"
    precision: Precision = "fp32"
    batch_size: int = 8
    cache: bool = True
    random_state: int = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise MicrodlError(
                    f"The setting {name} is {value!r}, which is not known; use one of "
                    f"{', '.join(map(repr, choices))}."
                )

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PipelineConfig:
        """Settings from plain values.

        Parameters
        ----------
        values : dict
            As `to_dict` gives them; what is missing keeps its default.

        Returns
        -------
        PipelineConfig

        Raises
        ------
        MicrodlError
            If a setting is not known.
        """
        values = dict(values)
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise MicrodlError(
                f"The settings hold {', '.join(map(repr, unknown))}, which this version does not "
                "know; remove or correct them."
            )
        if values.get("channels") is not None:
            values["channels"] = tuple(values["channels"])
        if isinstance(values.get("segmentation"), dict):
            try:
                values["segmentation"] = SegmentationConfig(**values["segmentation"])
            except TypeError as error:
                raise MicrodlError(f"The segmentation settings do not fit: {error}.") from error
        return cls(**values)

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with any setting."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
