"""What the rest of the package asks of a foundation model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.config import Intensity, Pooling, Site

NO_COMMERCIAL_USE = "no commercial use"
NOT_STATED = "whether commercial use is allowed is not stated"
UNKNOWN_LICENCE = "not stated, see its source"


@dataclass(frozen=True)
class ChannelRule:
    """Which channels a model wants.

    Parameters
    ----------
    names : tuple of str, default=()
        Channels that the model was trained on, in its order, for people and for matching by name;
        empty where it takes any channel.
    joint : bool, default=False
        Whether the channels go into the model together and give one token a patch. Otherwise every
        channel gives tokens of its own.
    least, most : int
        How many channels are accepted; `most` is None where there is no limit.
    either : bool
        Whether the user may choose between joint and single reading, as of models of photographs.
    subsets : bool
        Whether some of the named channels will do, if the name of the model says which:
        ``channelvit-jump-cp[DNA,ER]``.
    """

    names: tuple[str, ...] = ()
    joint: bool = False
    least: int = 1
    most: int | None = None
    either: bool = False
    subsets: bool = False

    def n_token_channels(self, n_channels: int) -> int:
        """Tokens a patch of an image with this many channels."""
        return 1 if self.joint else n_channels


@dataclass(frozen=True)
class ModelSpec:
    """Facts about a model that a user is shown and a dictionary records.

    Parameters
    ----------
    model_id : str
        Name in the registry.
    title : str
        Name for people.
    patch_size : int
        Edge of the square of pixels behind one token.
    dim : int
        Width of a token of one channel.
    depth : int
        Number of layers that can be read, counted from 1.
    default_layer : int
        Layer read when none is asked for.
    spread_layer : int, optional
        The same where the spread of a unit's tokens is taken and not their mean, if it is another.
    tile_size : int
        Edge in pixels of the square image that the model sees at once.
    weights_sha256 : str
        Hex digest of the weights file; empty while they are not loaded and not pinned either.
        Tokens of a model without one are not written to the cache, which tells weights by it.
    licence : str, default="not stated, see its source"
        SPDX identifier of the weights' licence, or its name where it has none.
    source : str
        Where the weights come from.
    non_commercial : bool, optional
        Whether the licence forbids commercial use; None where that is not stated.
    channels : ChannelRule
        Which channels it wants.
    intensity : {"log", "linear"}
        Scale on which it wants intensities, see `napari_microdl.fields.intensity.IntensityScaling`.
    fixed_tile : bool
        Whether a tile must have the native size; otherwise any multiple of the patch size will do.
    """

    model_id: str
    title: str
    patch_size: int
    dim: int
    depth: int
    default_layer: int
    tile_size: int
    weights_sha256: str = ""
    licence: str = UNKNOWN_LICENCE
    source: str = ""
    non_commercial: bool | None = None
    channels: ChannelRule = field(default_factory=ChannelRule)
    intensity: Intensity = "log"
    fixed_tile: bool = False
    spread_layer: int | None = None

    def layer_for(self, pooling: Pooling) -> int:
        """Layer read when none is asked for, by what is made of the tokens of a unit."""
        if pooling == "spread" and self.spread_layer is not None:
            return self.spread_layer
        return self.default_layer


class TokenModel(Protocol):
    """A frozen encoder from scaled images to patch tokens.

    Notes
    -----
    What a model may have beyond that, and is asked for where it does:

    - ``tokens_of_layers(tiles, layers, site)``, a dict of what `tokens` returns by layer, from one
      pass;
    - ``device``, for people, and ``used_precision``: tokens in the cache are told apart by them;
    - ``settle_precision(tiles, layers, site)``, which chooses the precision before the first pass.
    """

    @property
    def spec(self) -> ModelSpec:
        """Facts about the model."""

    def tokens(self, tiles: NDArray[np.float32], layer: int, site: Site) -> NDArray[np.float32]:
        """Patch tokens of a batch of tiles.

        Parameters
        ----------
        tiles : ndarray of shape (n, channels, height, width)
            Scaled intensities, about 0 to 1; edges are multiples of the patch size.
        layer : int
            From 1 to the depth.
        site : {"residual", "attention"}
            Where in the block to read.

        Returns
        -------
        ndarray of shape (n, token_channels, grid_h, grid_w, dim)
            float32 tokens; class and register tokens are dropped. There is one token channel for
            every channel, or one in all where the model takes its channels jointly.
        """


def commercial_use(non_commercial: bool | None) -> str:
    """Words for `ModelSpec.non_commercial`.

    Parameters
    ----------
    non_commercial : bool or None
        Whether the licence forbids commercial use; None where nobody has said so.

    Returns
    -------
    str
        Without a full stop.
    """
    if non_commercial is None:
        return NOT_STATED
    return NO_COMMERCIAL_USE if non_commercial else "commercial use is allowed"


def terms_of(spec: ModelSpec) -> str:
    """Licence of a model's weights, whether it forbids commercial use, and where they come from.

    Parameters
    ----------
    spec : ModelSpec
        The model, as it is known before its weights are fetched.

    Returns
    -------
    str
        Two sentences.

    Examples
    --------
    >>> from napari_microdl.models.registry import model_spec
    >>> terms_of(model_spec("unidino")).partition(". ")[0]
    'Licence of the weights: CC-BY-NC-4.0 (no commercial use)'
    """
    return (
        f"Licence of the weights: {spec.licence} ({commercial_use(spec.non_commercial)}). "
        f"Source: {spec.source or 'not stated'}."
    )
