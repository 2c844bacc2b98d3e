"""A plate of control and treated wells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field
from napari_microdl.fields.simulator.drawing import CHANNELS
from napari_microdl.fields.simulator.fields import (
    CONTROL,
    Nuisances,
    SimulatedField,
    require_strength,
    simulate_field,
)


def simulate_plate(
    conditions: Mapping[str, Mapping[str, float]],
    *,
    n_control_wells: int = 4,
    n_wells: int = 2,
    n_sites: int = 1,
    spread: float = 0.15,
    batch_spread: float = 0.1,
    nuisances: Mapping[str, Nuisances] | None = None,
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
    nuisances : mapping of str to Nuisances, optional
        Of the wells of a condition, "control" among them, where they are not the usual ones: what
        is confounded with a treatment. The gain of a well is that of its batch times this one.
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
        As `simulate_field`, or if a condition is called "control", or nuisances are those of a
        condition that is not there.
    """
    drawn = simulate_wells(
        conditions,
        n_control_wells=n_control_wells,
        n_wells=n_wells,
        n_sites=n_sites,
        spread=spread,
        batch_spread=batch_spread,
        nuisances=nuisances,
        n_cells=n_cells,
        shape=shape,
        channels=channels,
        plate=plate,
        seed=seed,
    )
    return [one.field for one in drawn], pd.concat([one.truth for one in drawn], ignore_index=True)


def simulate_wells(
    conditions: Mapping[str, Mapping[str, float]],
    *,
    n_control_wells: int = 4,
    n_wells: int = 2,
    n_sites: int = 1,
    spread: float = 0.15,
    batch_spread: float = 0.1,
    nuisances: Mapping[str, Nuisances] | None = None,
    n_cells: int = 60,
    shape: tuple[int, int] = (512, 512),
    channels: Sequence[str] = CHANNELS,
    plate: str = "P1",
    masks: bool = False,
    seed: int = 0,
) -> list[SimulatedField]:
    """Draw the fields of a plate, and keep all that is known of each.

    Parameters
    ----------
    conditions, n_control_wells, n_wells, n_sites, spread, batch_spread, nuisances
        See `simulate_plate`.
    n_cells, shape, channels, plate, masks, seed
        See `simulate_field`.

    Returns
    -------
    list of SimulatedField
        Controls first.

    Raises
    ------
    MicrodlError
        As `simulate_plate`.
    """
    if CONTROL in conditions:
        raise MicrodlError(
            f"A condition is called '{CONTROL}', which is the name of the untreated cells: give it "
            "another name."
        )
    if min(n_control_wells, n_wells, n_sites) < 1:
        raise MicrodlError("A plate needs at least one well of each kind and one site a well.")
    unknown = sorted(set(nuisances or {}) - {CONTROL, *conditions})
    if unknown:
        raise MicrodlError(
            f"There is no condition '{unknown[0]}' to give nuisances to: choose from "
            f"{', '.join((CONTROL, *conditions))}."
        )
    wells: list[tuple[str, dict[str, float]]] = [(CONTROL, {})] * n_control_wells
    wells += [(name, dict(f)) for name, f in conditions.items() for _ in range(n_wells)]
    for factors in conditions.values():
        for factor, strength in factors.items():
            require_strength(factor, strength)
    rng = np.random.default_rng([seed, 5])
    gains = np.exp(batch_spread * rng.normal(size=len(wells)))
    drawn = []
    for (number, (condition, planted)), site in product(enumerate(wells), range(n_sites)):
        own = {
            factor: strength
            if factor == "density"
            else np.clip(rng.normal(strength, spread, n_cells), 0, 1).tolist()
            for factor, strength in planted.items()
        }
        well = f"{chr(65 + number // 12)}{number % 12 + 1:02d}"
        usual = (nuisances or {}).get(condition, Nuisances())
        drawn.append(
            simulate_field(
                own,
                n_cells=n_cells,
                shape=shape,
                channels=channels,
                nuisances=dataclasses.replace(usual, gain=usual.gain * float(gains[number])),
                name=f"{plate}_{well}_s{site + 1}",
                condition=condition,
                is_control=condition == CONTROL,
                well=well,
                site=str(site + 1),
                plate=plate,
                masks=masks,
                seed=int(rng.integers(2**31)),
            )
        )
    return drawn
