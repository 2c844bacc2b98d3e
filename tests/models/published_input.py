"""What published models make of bytes before their first layer, in float64.

Written from the code that each comes with. Images have the shape (n, channels, height, width) and
hold 0 to 255.
"""

from __future__ import annotations

import numpy as np

from models.comparison import IMAGENET

# Means and deviations in bytes, from the configuration of ChannelViT for JUMP-CP.
JUMP_MEAN = (
    4.031743599139058, 1.565935237087539, 3.77367898215863, 3.4605251427133257,
    4.1723172504050225, 6.780529773318951, 6.787385700135139, 6.778120829362721,
)  # fmt: skip
JUMP_STD = (
    17.318438884455695, 12.015918256263747, 16.966058078452495, 15.064776266287147,
    17.964118200870608, 21.638766346725316, 21.670565699654457, 21.639488585095584,
)  # fmt: skip


def _centred(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each channel of each image less its mean, and its variance."""
    centred = images - images.mean((2, 3), keepdims=True)
    return centred, (centred**2).mean((2, 3), keepdims=True)


def openphenom(pixels: np.ndarray) -> np.ndarray:
    """Recursion's ``Normalizer``, then torch's ``InstanceNorm2d`` without weights."""
    centred, variance = _centred(pixels.astype(float) / 255.0)
    return centred / np.sqrt(variance + 1e-5)


def cell_dino(pixels: np.ndarray) -> np.ndarray:
    """Bytes over 255, then each channel over its own deviation and a little more."""
    centred, variance = _centred(pixels.astype(float) / 255.0)
    return centred / (np.sqrt(variance) + 1e-7)


def imagenet(pixels: np.ndarray) -> np.ndarray:
    """Bytes over 255, then the means and deviations of ImageNet."""
    mean, std = (c.reshape(1, 3, 1, 1) for c in IMAGENET)
    return (pixels.astype(float) / 255.0 - mean) / std


def jump(pixels: np.ndarray, channels: list[int] | None = None) -> np.ndarray:
    """Bytes as they are, less their mean over their deviation; of those channels."""
    rows = channels or list(range(pixels.shape[1]))
    mean, std = (np.array(c)[rows].reshape(1, -1, 1, 1) for c in (JUMP_MEAN, JUMP_STD))
    return (pixels.astype(float) - mean) / std


def unit(pixels: np.ndarray) -> np.ndarray:
    """Bytes over 255 and nothing else."""
    return pixels.astype(float) / 255.0
