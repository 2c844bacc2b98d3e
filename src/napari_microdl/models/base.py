"""What the rest of the package asks of a foundation model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.config import Intensity, Site


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
    tile_size : int
        Edge in pixels of the square image that the model sees at once.
    weights_sha256 : str
        Hex digest of the weights file; empty while they are not loaded and not pinned either.
    licence : str
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
    weights_sha256: str
    licence: str
    source: str
    non_commercial: bool | None = None
    channels: ChannelRule = field(default_factory=ChannelRule)
    intensity: Intensity = "log"
    fixed_tile: bool = False


class TokenModel(Protocol):
    """A frozen encoder from scaled images to patch tokens."""

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

    def tokens_of_layers(
        self, tiles: NDArray[np.float32], layers: Sequence[int], site: Site
    ) -> dict[int, NDArray[np.float32]]:
        """Patch tokens of several layers from one pass through the model.

        Parameters
        ----------
        tiles : ndarray of shape (n, channels, height, width)
            As for `tokens`.
        layers : sequence of int
            Each from 1 to the depth.
        site : {"residual", "attention"}
            Where in the blocks to read.

        Returns
        -------
        dict of int to ndarray
            For each layer what `tokens` returns.
        """
