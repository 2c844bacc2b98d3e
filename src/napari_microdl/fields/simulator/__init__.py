"""Fields that look like Cell Painting, with a truth known for every cell, for tests and tutorials.

Cells are drawn from a few shapes: a wobbly ellipse with a nucleus in it, textures of smoothed
noise, and spots. Factors, the planted perturbations, are graded from 0 to 1 and set for each cell;
nuisances vary in every well, treated or not. Nothing here claims to be biology.
"""

from napari_microdl.fields.simulator.drawing import CHANNELS
from napari_microdl.fields.simulator.fields import (
    CONTROL,
    FACTORS,
    Nuisances,
    SimulatedField,
    simulate_field,
)
from napari_microdl.fields.simulator.plates import simulate_plate, simulate_wells

__all__ = [
    "CHANNELS",
    "CONTROL",
    "FACTORS",
    "Nuisances",
    "SimulatedField",
    "simulate_field",
    "simulate_plate",
    "simulate_wells",
]
