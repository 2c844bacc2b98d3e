"""Tokens that hardly depend on how an image lies: means over the eight orientations of its tiles.

A model sees a cell that is turned or flipped as another picture. Nothing in a culture dish has a
direction, so what differs between them is noise of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.config import Orientations, Site
from napari_microdl.tokens.out_of_memory import MemoryLimited, tokens_of_layers

_ALL = tuple(product(range(4), (False, True)))


def oriented_tokens(
    model: MemoryLimited,
    tiles: NDArray[np.float32],
    layers: Sequence[int],
    site: Site,
    orientations: Orientations,
) -> dict[int, NDArray[np.float32]]:
    """Tokens of tiles as they lie, or the mean over all ways in which a square can lie.

    Parameters
    ----------
    model : MemoryLimited
        Frozen encoder.
    tiles : ndarray of shape (n, channels, size, size)
        Scaled intensities.
    layers : sequence of int
        Layers to read.
    site : {"residual", "attention"}
        Where in the block to read.
    orientations : {1, 8}
        Four turns by 90 degrees of each tile and of its mirror image, or the tile alone.

    Returns
    -------
    dict of int to ndarray of shape (n, token_channels, rows, columns, dim)
        Each token where it lies in the tile as it came.
    """
    if orientations == 1:
        return tokens_of_layers(model, tiles, layers, site)
    sums: dict[int, NDArray[np.float64]] = {}
    for turns, flipped in _ALL:
        seen = np.rot90(tiles, turns, (2, 3))
        seen = np.ascontiguousarray(seen[..., ::-1] if flipped else seen)
        for layer, tokens in tokens_of_layers(model, seen, layers, site).items():
            back = tokens[:, :, :, ::-1] if flipped else tokens
            back = np.rot90(back, -turns, (2, 3))
            sums[layer] = sums[layer] + back if layer in sums else back.astype(np.float64)
    return {layer: (total / len(_ALL)).astype(np.float32) for layer, total in sums.items()}
