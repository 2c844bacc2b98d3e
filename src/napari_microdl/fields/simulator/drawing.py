"""Cells as shapes, textures and spots."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito")
RADIUS = 20.0
_NUCLEUS_SHARE = 0.5
BRIGHTNESS = 8000.0
MOST_PUNCTA = 14
# Fineness of the ER's texture where it is coarse, in pixels.
_COARSE = 4.0
# Seeds of cells lie at least this many radii apart.
_SPACING = 1.7
# Brightness of cytoplasm and nucleus, fineness of the texture in pixels and its contrast.
_LOOKS = {
    "DNA": (0.02, 1.0, 2.5, 0.15),
    "ER": (0.7, 0.25, 1.6, 0.3),
    "RNA": (0.45, 0.55, 2.5, 0.2),
    "AGP": (0.5, 0.25, 2.0, 0.25),
    "Mito": (0.75, 0.08, 1.1, 0.5),
}


def place_cells(
    rng: np.random.Generator, n_cells: int, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Random y and x that keep a distance, as many as there is room for."""
    tried = rng.random((n_cells * 40, 2)) * (np.array(shape) - 1.6 * RADIUS) + 0.8 * RADIUS
    taken: NDArray[np.float64] = np.empty((0, 2))
    for one in tried:
        if (np.hypot(*(taken - one).T) > _SPACING * RADIUS).all():
            taken = np.vstack([taken, one])
        if len(taken) == n_cells:
            break
    return taken


def outline(
    centres: NDArray[np.float64],
    strengths: pd.DataFrame,
    drawn: NDArray[np.float64],
    cycle: NDArray[np.float64],
    shape: tuple[int, int],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Masks of cells and nuclei.

    Parameters
    ----------
    centres : ndarray of shape (n, 2)
        y and x of each cell.
    strengths : pandas.DataFrame
        Factors of each cell.
    drawn : ndarray of shape (n, 8)
        Numbers between 0 and 1 that make each cell its own.
    cycle : ndarray of shape (n,)
        Place in the cell cycle, 0 to 1.
    shape : (int, int)
        Height and width in pixels.

    Returns
    -------
    labels, nuclei : ndarray of int32
        Cells from 1 on, and their nuclei.
    depth : ndarray of float
        How far inside its cell a pixel is, 1 in the centre and 0 at the edge and outside.
    """
    labels = np.zeros(shape, np.int32)
    nuclei = np.zeros(shape, np.int32)
    reach = np.full(shape, 1.0)
    radii = RADIUS * (0.9 + 0.2 * drawn[:, 1]) * (1 + 0.4 * strengths["size"].to_numpy())
    # Squeezed by the root of the ratio and stretched by it, a cell keeps its area.
    stretch = np.sqrt((1.1 + 0.2 * drawn[:, 2]) * (1 + 1.4 * strengths["elongation"].to_numpy()))
    angles = np.pi * drawn[:, 3]
    for number, (centre, radius, long, angle) in enumerate(
        zip(centres, radii, stretch, angles, strict=True)
    ):
        half = int(1.25 * radius * long) + 2
        low = np.maximum(np.floor(centre).astype(int) - half, 0)
        high = np.minimum(np.floor(centre).astype(int) + half + 1, shape)
        box = (slice(low[0], high[0]), slice(low[1], high[1]))
        y = np.arange(low[0], high[0])[:, None] - centre[0]
        x = np.arange(low[1], high[1]) - centre[1]
        along = (np.cos(angle) * x + np.sin(angle) * y) / (radius * long)
        across = (np.cos(angle) * y - np.sin(angle) * x) / (radius / long)
        theta = np.arctan2(across, along)
        wobble = np.ones_like(theta)
        for waves in (2, 3, 4):
            wobble += 0.05 * np.cos(waves * theta + 2 * np.pi * drawn[number, 2 + waves])
        distance = np.hypot(along, across)
        from_edge = distance / wobble
        # Where cells touch, a pixel belongs to the one that it is deeper in.
        own = from_edge < reach[box]
        labels[box][own] = number + 1
        reach[box][own] = from_edge[own]
        # Twice the DNA makes a nucleus of about 1.6 times the area.
        share = _NUCLEUS_SHARE * np.sqrt(1 + 0.6 * cycle[number])
        nuclei[box][own] = np.where(distance[own] < share, number + 1, 0)
    return labels, nuclei, np.where(labels > 0, 1 - reach, 0)


def paint(
    labels: NDArray[np.int32],
    nuclei: NDArray[np.int32],
    depth: NDArray[np.float64],
    strengths: pd.DataFrame,
    drawn: NDArray[np.float64],
    cycle: NDArray[np.float64],
    spot_draws: NDArray[np.float64],
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Intensities of each channel, without background, illumination and noise.

    The arguments are those of `outline` and what it returns; `spot_draws` are the places of each
    cell's puncta, numbers between 0 and 1, and `seed` is that of the textures.
    """
    # Thin at the rim, as flat cells are.
    thickness = np.clip(depth / 0.35, 0, 1) ** 0.7
    of_pixel = {f: np.r_[0, strengths[f].to_numpy()][labels] for f in ("texture", "translocation")}
    brightness = np.r_[0, 0.9 + 0.2 * drawn[:, 7]][labels]
    inside = ndimage.gaussian_filter((nuclei > 0).astype(float), 0.7)
    planes = {}
    for number, channel in enumerate(CHANNELS):
        # A stream for each channel, so that it looks the same whichever others there are.
        rng = np.random.default_rng([seed, 7, number])
        cytoplasm, nucleus, fineness, contrast = _LOOKS[channel]
        grain = _grain(rng, labels.shape, fineness)
        plane_of_cytoplasm = np.full(labels.shape, cytoplasm)
        plane_of_nucleus = np.full(labels.shape, nucleus)
        if channel == "RNA":
            moved = of_pixel["translocation"]
            plane_of_cytoplasm *= 1 - 0.7 * moved
            plane_of_nucleus *= 1 + 0.9 * moved
        elif channel == "DNA":
            # The nucleus grows more slowly than its DNA.
            plane_of_nucleus *= np.r_[0, (1 + cycle) / (1 + 0.6 * cycle)][labels]
        elif channel == "ER":
            weight = of_pixel["texture"]
            coarse = _grain(rng, labels.shape, _COARSE)
            grain = np.sqrt(1 - weight) * grain + np.sqrt(weight) * coarse
            contrast = contrast * (1 + 1.5 * weight)
        plane = (1 - inside) * plane_of_cytoplasm + inside * plane_of_nucleus
        plane *= np.clip(1 + contrast * grain, 0.05, None)
        if channel == "AGP":
            # Membranes.
            plane += 0.5 * np.exp(-((depth / 0.07) ** 2)) * (labels > 0)
        rim = np.maximum(thickness, inside) if channel == "DNA" else np.maximum(thickness, 0.25)
        plane *= rim * brightness * (labels > 0)
        if channel == "AGP":
            plane += _spots(labels, nuclei, strengths["puncta"].to_numpy(), spot_draws)
        planes[channel] = ndimage.gaussian_filter(plane, 0.8) * BRIGHTNESS
    return planes


def _grain(
    rng: np.random.Generator, shape: tuple[int, ...], fineness: float
) -> NDArray[np.float64]:
    """Smooth noise of unit variance."""
    grain = ndimage.gaussian_filter(rng.normal(size=shape), fineness)
    return np.asarray(grain / grain.std())


def _spots(
    labels: NDArray[np.int32],
    nuclei: NDArray[np.int32],
    strength: NDArray[np.float64],
    draws: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Bright puncta in the cytoplasm, the more the stronger."""
    points = np.zeros(labels.shape)
    counts = np.round(MOST_PUNCTA * strength).astype(int)
    for number in np.flatnonzero(counts):
        y, x = np.nonzero((labels == number + 1) & (nuclei == 0))
        if len(y):
            place = (draws[number, : counts[number]] * len(y)).astype(int)
            points[y[place], x[place]] = 1
    return np.asarray(ndimage.gaussian_filter(points, 1.0) * 2 * np.pi * 1.5)
