"""Fields that look like Cell Painting, with a truth known for every cell, for tests and tutorials.

Cells are drawn from a few shapes: a wobbly ellipse with a nucleus in it, textures of smoothed
noise, and spots. Factors, the planted perturbations, are graded from 0 to 1 and set for each cell;
nuisances vary in every well, treated or not. Nothing here claims to be biology.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from napari_microdl.errors import MicrodlError
from napari_microdl.fields import Field

CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito")
FACTORS = ("size", "elongation", "texture", "translocation", "puncta", "density")
CONTROL = "control"

_RADIUS = 20.0
_NUCLEUS_SHARE = 0.5
_BACKGROUND = 300.0
_BRIGHTNESS = 8000.0
_MOST_PUNCTA = 14
# Fineness of the ER's texture where it is coarse, in pixels.
_COARSE = 4.0
# Share of the cells that a field loses at density 1.
_LOSS = 0.6
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


@dataclass(frozen=True)
class Nuisances:
    """What varies in every well, treated or not.

    Parameters
    ----------
    illumination : float
        How much darker the image is at one side than at the other, 0 to 1.
    gain : float
        Factor on all intensities, as between batches.
    cell_cycle : float
        Spread of the cell cycle: 0 gives all nuclei the same size, 1 up to twice the DNA.
    noise : float
        Standard deviation of the camera's noise over the brightness of a cell.
    """

    illumination: float = 0.2
    gain: float = 1.0
    cell_cycle: float = 1.0
    noise: float = 0.01


@dataclass(frozen=True)
class SimulatedField:
    """A field and what was planted in it.

    Parameters
    ----------
    field : Field
        Intensities (uint16), with the cells' labels.
    truth : pandas.DataFrame
        One row a cell: field, well, condition, label, y and x (centre in pixels), one column of
        strength for each of `FACTORS`, and the nuisances illumination, gain and cell_cycle.
    nuclei : ndarray of int32, shape (height, width)
        Nuclei, by the labels of their cells.
    """

    field: Field
    truth: pd.DataFrame
    nuclei: NDArray[np.int32]


def simulate_field(
    factors: Mapping[str, float | Sequence[float]] | None = None,
    *,
    n_cells: int = 60,
    shape: tuple[int, int] = (512, 512),
    channels: Sequence[str] = CHANNELS,
    nuisances: Nuisances | None = None,
    name: str = "simulated",
    condition: str = CONTROL,
    is_control: bool = True,
    well: str = "",
    site: str = "",
    plate: str = "",
    seed: int = 0,
) -> SimulatedField:
    """Draw one field.

    With the same seed and shape, cells have the same places, textures and noise whatever the
    factors and nuisances are: two such fields differ by these alone.

    Parameters
    ----------
    factors : mapping of str to float or sequence of float, optional
        Strength of some of `FACTORS`, 0 (none, the default) to 1; one for all cells, or one for
        each of ``n_cells``. size: radius of cell and nucleus times up to 1.4. elongation: ratio of
        the axes up to 2.8 at the same area. texture: the ER becomes coarse and contrasty.
        translocation: RNA moves from the cytoplasm to the nucleus. puncta: up to 14 bright spots in
        the AGP. density: up to 60 % of the cells are missing (one number for the field, or the mean
        of the given ones).
    n_cells : int
        Cells to place; fewer where there is no room.
    shape : (int, int)
        Height and width in pixels.
    channels : sequence of str
        Some of `CHANNELS`, in the order wanted.
    nuisances : Nuisances, optional
        Other than the usual ones.
    name, condition, is_control, well, site, plate
        See `Field`.
    seed : int
        Of all draws.

    Returns
    -------
    SimulatedField
        Field, truth and nuclei.

    Raises
    ------
    MicrodlError
        If a name is not known, a strength is not in [0, 1], or a size is too small.
    """
    nuisances = nuisances or Nuisances()
    _require_drawable(shape, channels, n_cells)
    strengths = _strengths(factors or {}, n_cells)
    # A stream for each purpose, so that what one draws does not shift another.
    place, form, spots, loss = (np.random.default_rng([seed, purpose]) for purpose in range(4))
    centres = _centres(place, n_cells, shape)
    n = len(centres)
    strengths = strengths.iloc[:n]
    lost = round(_LOSS * float(strengths["density"].mean()) * n)
    # Each cell's draws are made for all, so that those that stay look the same.
    drawn = form.random((n, 8))
    spot_draws = spots.random((n, _MOST_PUNCTA))
    kept = np.sort(loss.permutation(n)[lost:])
    centres, drawn, spot_draws = centres[kept], drawn[kept], spot_draws[kept]
    strengths = strengths.iloc[kept].reset_index(drop=True)
    cycle = nuisances.cell_cycle * drawn[:, 0]
    labels, nuclei, depth = _masks(centres, strengths, drawn, cycle, shape)
    planes = _paint(labels, nuclei, depth, strengths, drawn, cycle, spot_draws, seed)
    image = nuisances.gain * np.stack([planes[c] for c in channels])
    # The darker side is the same in all fields of a microscope.
    ramp = np.linspace(1 + nuisances.illumination / 2, 1 - nuisances.illumination / 2, shape[1])
    image = image * ramp + _BACKGROUND
    for channel, plane in zip(channels, image, strict=True):
        camera = np.random.default_rng([seed, 6, CHANNELS.index(channel)])
        plane += camera.normal(size=shape) * nuisances.noise * _BRIGHTNESS
    counts = np.clip(image.round(), 0, np.iinfo(np.uint16).max).astype(np.uint16)
    field = Field(
        counts, tuple(channels), name, condition, is_control, well, site, plate, labels=labels
    )
    truth = pd.DataFrame(
        {
            "field": name,
            "well": well,
            "condition": condition,
            "label": np.arange(1, len(centres) + 1),
            "y": centres[:, 0],
            "x": centres[:, 1],
        }
    )
    truth = pd.concat([truth, strengths], axis=1)
    truth = truth.assign(illumination=nuisances.illumination, gain=nuisances.gain, cell_cycle=cycle)
    # A cell whose place others cover entirely cannot be measured, and is not in the truth.
    seen = np.bincount(labels.ravel(), minlength=len(centres) + 1)[1:] > 0
    return SimulatedField(field, truth[seen].reset_index(drop=True), nuclei)


def simulate_plate(
    conditions: Mapping[str, Mapping[str, float]],
    *,
    n_control_wells: int = 4,
    n_wells: int = 2,
    n_sites: int = 1,
    spread: float = 0.15,
    batch_spread: float = 0.1,
    n_cells: int = 60,
    shape: tuple[int, int] = (512, 512),
    channels: Sequence[str] = CHANNELS,
    plate: str = "P1",
    seed: int = 0,
) -> tuple[list[Field], pd.DataFrame]:
    """Draw the fields of a plate.

    Parameters
    ----------
    conditions : mapping of str to mapping of str to float
        Factors of each treatment; see `simulate_field`.
    n_control_wells, n_wells, n_sites : int
        Wells of untreated cells, wells of each treatment, and fields of each well.
    spread : float
        Standard deviation of a factor's strength among the cells that have it.
    batch_spread : float
        Standard deviation of the gain among wells.
    n_cells, shape, channels
        See `simulate_field`.
    plate : str
        Name of the plate.
    seed : int
        Of all draws.

    Returns
    -------
    fields : list of Field
        Controls first.
    truth : pandas.DataFrame
        See `SimulatedField`; one row a cell of all fields.

    Raises
    ------
    MicrodlError
        As `simulate_field`, or if a condition is called "control".
    """
    if CONTROL in conditions:
        raise MicrodlError(
            f"A condition is called '{CONTROL}', which is the name of the untreated cells: give it "
            "another name."
        )
    if min(n_control_wells, n_wells, n_sites) < 1:
        raise MicrodlError("A plate needs at least one well of each kind and one site a well.")
    wells: list[tuple[str, dict[str, float]]] = [(CONTROL, {})] * n_control_wells
    wells += [(name, dict(f)) for name, f in conditions.items() for _ in range(n_wells)]
    for factors in conditions.values():
        for factor, strength in factors.items():
            _require_strength(factor, strength)
    rng = np.random.default_rng([seed, 5])
    gains = np.exp(batch_spread * rng.normal(size=len(wells)))
    fields, tables = [], []
    for (number, (condition, planted)), site in product(enumerate(wells), range(n_sites)):
        own = {
            factor: strength
            if factor == "density"
            else np.clip(rng.normal(strength, spread, n_cells), 0, 1).tolist()
            for factor, strength in planted.items()
        }
        well = f"{chr(65 + number // 12)}{number % 12 + 1:02d}"
        simulated = simulate_field(
            own,
            n_cells=n_cells,
            shape=shape,
            channels=channels,
            nuisances=Nuisances(gain=float(gains[number])),
            name=f"{plate}_{well}_s{site + 1}",
            condition=condition,
            is_control=condition == CONTROL,
            well=well,
            site=str(site + 1),
            plate=plate,
            seed=int(rng.integers(2**31)),
        )
        fields.append(simulated.field)
        tables.append(simulated.truth)
    return fields, pd.concat(tables, ignore_index=True)


def _require_drawable(shape: tuple[int, int], channels: Sequence[str], n_cells: int) -> None:
    unknown = [c for c in channels if c not in CHANNELS]
    if unknown or not channels:
        raise MicrodlError(
            f"The channels {tuple(channels)} cannot be drawn: choose from {', '.join(CHANNELS)}."
        )
    if len(shape) != 2 or min(shape) < 4 * _RADIUS:
        raise MicrodlError(
            f"A field of {shape} pixels has no room for cells: make it at least "
            f"{4 * _RADIUS:.0f} pixels an edge."
        )
    if n_cells < 1:
        raise MicrodlError(f"n_cells is {n_cells} but must be at least 1.")


def _require_strength(factor: str, strength: object) -> None:
    if factor not in FACTORS:
        raise MicrodlError(f"There is no factor {factor!r}: choose from {', '.join(FACTORS)}.")
    values = np.asarray(strength, dtype=float)
    if not ((values >= 0) & (values <= 1)).all():
        raise MicrodlError(f"The strength of {factor} must lie between 0 and 1.")


def _strengths(factors: Mapping[str, float | Sequence[float]], n_cells: int) -> pd.DataFrame:
    """One column a factor, one row a cell."""
    for factor, strength in factors.items():
        _require_strength(factor, strength)
        if np.ndim(strength) and np.shape(strength) != (n_cells,):
            raise MicrodlError(
                f"{factor} has strengths of the shape {np.shape(strength)}: give one number, or "
                f"one for each of the {n_cells} cells."
            )
    return pd.DataFrame(
        {f: np.broadcast_to(np.asarray(factors.get(f, 0.0), float), n_cells) for f in FACTORS}
    )


def _centres(rng: np.random.Generator, n_cells: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Random places that keep a distance, as many as there is room for."""
    tried = rng.random((n_cells * 40, 2)) * (np.array(shape) - 1.6 * _RADIUS) + 0.8 * _RADIUS
    taken: NDArray[np.float64] = np.empty((0, 2))
    for one in tried:
        if (np.hypot(*(taken - one).T) > _SPACING * _RADIUS).all():
            taken = np.vstack([taken, one])
        if len(taken) == n_cells:
            break
    return taken


def _masks(
    centres: NDArray[np.float64],
    strengths: pd.DataFrame,
    drawn: NDArray[np.float64],
    cycle: NDArray[np.float64],
    shape: tuple[int, int],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Labels of cells and nuclei, and how far inside its cell (1: centre, 0: edge) a pixel is."""
    labels = np.zeros(shape, np.int32)
    nuclei = np.zeros(shape, np.int32)
    reach = np.full(shape, 1.0)
    radii = _RADIUS * (0.9 + 0.2 * drawn[:, 1]) * (1 + 0.4 * strengths["size"].to_numpy())
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


def _paint(
    labels: NDArray[np.int32],
    nuclei: NDArray[np.int32],
    depth: NDArray[np.float64],
    strengths: pd.DataFrame,
    drawn: NDArray[np.float64],
    cycle: NDArray[np.float64],
    spot_draws: NDArray[np.float64],
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Intensities of all channels, without background, illumination and noise."""
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
        planes[channel] = ndimage.gaussian_filter(plane, 0.8) * _BRIGHTNESS
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
    counts = np.round(_MOST_PUNCTA * strength).astype(int)
    for number in np.flatnonzero(counts):
        y, x = np.nonzero((labels == number + 1) & (nuclei == 0))
        if len(y):
            place = (draws[number, : counts[number]] * len(y)).astype(int)
            points[y[place], x[place]] = 1
    return np.asarray(ndimage.gaussian_filter(points, 1.0) * 2 * np.pi * 1.5)
