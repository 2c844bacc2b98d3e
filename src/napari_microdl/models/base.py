"""What the rest of the package asks of a foundation model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Site = Literal["residual", "attention"]
Precision = Literal["fp32", "bf16"]


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
        Hex digest of the weights file.
    licence : str
        SPDX identifier of the weights' licence.
    source : str
        Where the weights come from.
    non_commercial : bool
        Whether the licence forbids commercial use.
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
    non_commercial: bool = False


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
        ndarray of shape (n, channels, grid_h, grid_w, dim)
            float32 tokens, one a channel and patch; class and register tokens are dropped.
        """
