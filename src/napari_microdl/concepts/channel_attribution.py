"""Which image channel a concept's heatmap follows (Donhauser et al. 2025, section 4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_microdl.concepts.painting import grid_to_pixels
from napari_microdl.core.errors import MicrodlError


def channel_correlations(
    heatmap: NDArray[np.float32], channels: NDArray[np.generic], patch_size: int
) -> NDArray[np.float64]:
    """Pearson correlation of a heatmap with every channel, pixel by pixel.

    Parameters
    ----------
    heatmap : ndarray of shape (grid_h, grid_w)
        One value a patch; interpolated to pixels as it is drawn.
    channels : ndarray of shape (n_channels, height, width)
        The image.
    patch_size : int
        Edge of a patch in pixels.

    Returns
    -------
    ndarray of shape (n_channels,)
        -1 to 1; NaN where the heatmap or the channel is the same everywhere.

    Raises
    ------
    MicrodlError
        If the image has no channel axis.

    Notes
    -----
    Paper, section 4: "channel attribution".
    """
    if channels.ndim != 3:
        raise MicrodlError(
            f"The image has {channels.ndim} dimensions; give channels x height x width."
        )
    values = grid_to_pixels(heatmap, patch_size, channels.shape[1:]).astype(np.float64).ravel()
    values -= values.mean()
    norm = np.sqrt(values @ values)
    found = np.full(len(channels), np.nan)
    for number, channel in enumerate(channels):
        # One channel at a time, so that a large image is copied once and not once a channel.
        pixels = np.asarray(channel, np.float64).ravel()
        if pixels.min() == pixels.max():
            continue
        pixels = pixels - pixels.mean()
        length = norm * np.sqrt(pixels @ pixels)
        if length > 0:
            found[number] = np.clip(values @ pixels / length, -1, 1)
    return found
