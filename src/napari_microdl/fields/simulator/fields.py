"""One field with its cells, and what was planted in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field
from napari_microdl.fields.simulator.drawing import (
    BRIGHTNESS,
    CHANNELS,
    MOST_PUNCTA,
    RADIUS,
    outline,
    paint,
    place_cells,
)

FACTORS = ("size", "elongation", "texture", "translocation", "puncta", "density")
CONTROL = "control"

_BACKGROUND = 300.0
# Share of the cells that a field loses at density 1.
_LOSS = 0.6
# How far haze reaches, in pixels.
_HAZE_REACH = 30.0
# Factors that leave outlines as they are, so that pixels can be compared with and without them.
_PAINTED = ("texture", "translocation", "puncta")
# Least change of the light of a pixel, over the brightness of a cell, that counts.
_LEAST_CHANGE = 0.05


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
    blur : float
        Standard deviation of a Gaussian by which the light is out of focus, in pixels.
    haze : float
        Share of the light, 0 to 1, that is spread over the neighbourhood of where it comes from.
    background : float
        Level that is added everywhere, over the brightness of a cell.
    """

    illumination: float = 0.2
    gain: float = 1.0
    cell_cycle: float = 1.0
    noise: float = 0.01
    blur: float = 0.0
    haze: float = 0.0
    background: float = 0.0


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
    masks : dict of str to ndarray of bool, shape (height, width)
        Pixels that texture, translocation and puncta change by a twentieth of the brightness of a
        cell or more, in any of the channels; empty where they were not asked for.
    """

    field: Field
    truth: pd.DataFrame
    nuclei: NDArray[np.int32]
    masks: dict[str, NDArray[np.bool_]]


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
    masks: bool = False,
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
    masks : bool, default=False
        Whether to draw the pixels that each factor changes, too.
    seed : int
        Of all draws.

    Returns
    -------
    SimulatedField

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
    centres = place_cells(place, n_cells, shape)
    n = len(centres)
    strengths = strengths.iloc[:n]
    lost = round(_LOSS * float(strengths["density"].mean()) * n)
    # Each cell's draws are made for all, so that those that stay look the same.
    drawn = form.random((n, 8))
    spot_draws = spots.random((n, MOST_PUNCTA))
    present = np.sort(loss.permutation(n)[lost:])
    centres, drawn, spot_draws = centres[present], drawn[present], spot_draws[present]
    strengths = strengths.iloc[present].reset_index(drop=True)
    cycle = nuisances.cell_cycle * drawn[:, 0]
    labels, nuclei, depth = outline(centres, strengths, drawn, cycle, shape)

    def light(strengths: pd.DataFrame) -> NDArray[np.float64]:
        planes = paint(labels, nuclei, depth, strengths, drawn, cycle, spot_draws, seed)
        return np.stack([planes[c] for c in channels])

    image = light(strengths)
    changed = {
        factor: np.abs(image - light(strengths.assign(**{factor: 0.0}))).max(0)
        > _LEAST_CHANGE * BRIGHTNESS
        for factor in (_PAINTED if masks else ())
        if strengths[factor].any()
    }
    image = nuisances.gain * _seen(image, nuisances)
    # The darker side is the same in all fields of a microscope.
    ramp = np.linspace(1 + nuisances.illumination / 2, 1 - nuisances.illumination / 2, shape[1])
    image = image * ramp + _BACKGROUND
    for channel, plane in zip(channels, image, strict=True):
        camera = np.random.default_rng([seed, 6, CHANNELS.index(channel)])
        plane += camera.normal(size=shape) * nuisances.noise * BRIGHTNESS
    counts = np.clip(image.round(), 0, np.iinfo(np.uint16).max).astype(np.uint16)
    field = Field(
        data=counts,
        channel_names=tuple(channels),
        name=name,
        condition=condition,
        is_control=is_control,
        well=well,
        site=site,
        plate=plate,
        labels=labels,
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
    visible = np.bincount(labels.ravel(), minlength=len(centres) + 1)[1:] > 0
    return SimulatedField(field, truth[visible].reset_index(drop=True), nuclei, changed)


def _seen(light: NDArray[np.float64], nuisances: Nuisances) -> NDArray[np.float64]:
    """What an optical system that is out of focus, and a hazy sample, make of the light."""
    if nuisances.blur:
        light = ndimage.gaussian_filter(light, (0, nuisances.blur, nuisances.blur))
    if nuisances.haze:
        spread = ndimage.gaussian_filter(light, (0, _HAZE_REACH, _HAZE_REACH))
        light = (1 - nuisances.haze) * light + nuisances.haze * spread
    return light + nuisances.background * BRIGHTNESS


def _require_drawable(shape: tuple[int, int], channels: Sequence[str], n_cells: int) -> None:
    unknown = [c for c in channels if c not in CHANNELS]
    if unknown or not channels:
        raise MicrodlError(
            f"The channels {tuple(channels)} cannot be drawn: choose from {', '.join(CHANNELS)}."
        )
    if len(shape) != 2 or min(shape) < 4 * RADIUS:
        raise MicrodlError(
            f"A field of {shape} pixels has no room for cells: make it at least "
            f"{4 * RADIUS:.0f} pixels an edge."
        )
    if n_cells < 1:
        raise MicrodlError(f"n_cells is {n_cells} but must be at least 1.")


def require_strength(factor: str, strength: object) -> None:
    """Refuse a factor that is not known, and a strength that is not in [0, 1]."""
    if factor not in FACTORS:
        raise MicrodlError(f"There is no factor {factor!r}: choose from {', '.join(FACTORS)}.")
    values = np.asarray(strength, dtype=float)
    if not ((values >= 0) & (values <= 1)).all():
        raise MicrodlError(f"The strength of {factor} must lie between 0 and 1.")


def _strengths(factors: Mapping[str, float | Sequence[float]], n_cells: int) -> pd.DataFrame:
    """One column a factor, one row a cell."""
    for factor, strength in factors.items():
        require_strength(factor, strength)
        if np.ndim(strength) and np.shape(strength) != (n_cells,):
            raise MicrodlError(
                f"{factor} has strengths of the shape {np.shape(strength)}: give one number, or "
                f"one for each of the {n_cells} cells."
            )
    return pd.DataFrame(
        {f: np.broadcast_to(np.asarray(factors.get(f, 0.0), float), n_cells) for f in FACTORS}
    )
