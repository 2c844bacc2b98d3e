"""Units of a run from those that show a concept most to those that show its opposite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.concept_set import Concept

# Share of the active units that are stronger than those of a band.
_STRONGER = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
N_BANDS = len(_STRONGER) + 2
NONE, OPPOSITE = len(_STRONGER), len(_STRONGER) + 1


@dataclass(frozen=True, eq=False)
class Band:
    """Units that show a concept about equally.

    Parameters
    ----------
    rows : ndarray of int
        Rows of the table of units.
    values : ndarray, shape (n_rows,)
        Their activations; of the opposite, how unlike the concept they are (cosines).
    heading : str
        In two or three words, which units they are.
    meaning : str
        The same as a sentence.
    """

    rows: NDArray[np.int64]
    values: NDArray[np.float32]
    heading: str
    meaning: str


def random_units(rows: NDArray[np.bool_], n: int) -> NDArray[np.int64]:
    """Rows of `n` units of some that are drawn at random, the same ones every time."""
    among = np.flatnonzero(rows)
    drawn = np.random.default_rng(0).choice(among, min(n, len(among)), replace=False)
    return np.sort(drawn)


def band_of(activations: ConceptActivations, concept: Concept, number: int, n: int = 16) -> Band:
    """Units of one band of activation.

    Parameters
    ----------
    activations : ConceptActivations
        The run.
    concept : int or ConceptSet
        Which concept.
    number : int
        From 0, the strongest, to `N_BANDS` - 1: bands of active units, then `NONE`, units in which
        it is not active, drawn at random, and `OPPOSITE`, those that are least like it.
    n : int, default=16
        Units at most.

    Returns
    -------
    Band
        The strongest first. Bands of few active units overlap.
    """
    units = {"token": "patches"}.get(kind := activations.dictionary.spec.units.kind, f"{kind}s")
    values = activations.activation(concept)
    if number == OPPOSITE:
        rows = activations.top_units(concept, n, -1)
        unlike = activations.alignment(concept)[rows]
        return Band(rows, unlike, "opposite", f"The {units} that are least like the concept.")
    active = np.flatnonzero(values > 0)
    if number == NONE:
        without = values <= 0
        rows = random_units(without, n)
        meaning = f"Of the {without.sum():,} {units} without it, some drawn at random."
        return Band(rows, values[rows], "without it", meaning)
    order = active[np.argsort(-values[active], kind="stable")]
    begin = round(_STRONGER[number] * max(len(order) - n, 0))
    rows = order[begin : begin + n]
    if number in (0, NONE - 1):
        heading = f"{'weakest' if number else 'strongest'} of {len(order):,}"
        meaning = f"{heading.capitalize()} {units} that show it."
    else:
        weaker = (len(order) - begin - len(rows)) / len(order) if len(order) else 0.0
        heading = f"above {weaker:.0%} of {len(order):,}"
        meaning = f"Stronger than {weaker:.0%} of the {len(order):,} {units} that show it."
    return Band(rows, values[rows], heading, meaning)
