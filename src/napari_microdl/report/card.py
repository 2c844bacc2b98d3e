"""A concept in one sentence that a biologist reads, and the few units that show it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.core.text import counted
from napari_microdl.metrics.group_tests import smallest_p
from napari_microdl.report.results import EvaluationReport
from napari_microdl.report.swaps import sides_of

_PLACES = {"cells": "lies in the cells", "field": "lies in the whole field, background as well"}
_UNITS = {"cell": "cells", "crop": "crops", "token": "patches"}
WELLS_RULE = (
    "A well counts where a larger share of its cells shows the concept than in the control well "
    "that shows it most; a field without a well counts as one."
)


@dataclass(frozen=True)
class ConceptCard:
    """What is known of a concept, in numbers.

    Parameters
    ----------
    name : str
        Its name.
    label : str
        The condition that it tells best; empty where conditions are not known.
    units : str
        What is counted, such as "cells".
    rate_label, rate_controls : float
        Share of the units of the label, and of controls, in which it is active, 0 to 1; NaN where
        there are none.
    wells_showing, wells_label : int
        Wells of the label in which it is active in a larger share of the units than in any control
        well, and all of them. Both 0 where there are no controls.
    place : {"cells", "field", ""}
        Where it lies, see `locate_concepts`; empty where it is not known.
    times_found, n_seeds : int
        How many dictionaries of other seeds have it, and of how many; both 0 where an evaluation
        did not ask.
    """

    name: str
    label: str
    units: str
    rate_label: float
    rate_controls: float
    wells_showing: int = 0
    wells_label: int = 0
    place: str = ""
    times_found: int = 0
    n_seeds: int = 0

    def sentence(self) -> str:
        """All of it that is known, such as "In 58 % of 'puncta' cells and 6 % of controls"."""
        whose = f" of '{self.label}' {self.units}" if self.label else f" of {self.units}"
        rates = f"in {percent(self.rate_label)}{whose}"
        if np.isfinite(self.rate_controls):
            rates += f" and {percent(self.rate_controls)} of controls"
        parts = [rates]
        if self.wells_label:
            parts.append(f"in {self.wells_showing} of {counted(self.wells_label, 'well')}")
        if self.place:
            parts.append(_PLACES[self.place])
        if self.n_seeds:
            parts.append(f"other seeds find it {self.times_found} of {self.n_seeds} times")
        return f"{self.name}: {'; '.join(parts)}."


def percent(share: float) -> str:
    """A share in whole percent, and "<1 %" where it is less than that but not nothing."""
    if not np.isfinite(share):
        return "-"
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def concept_card(
    activations: ConceptActivations, concept: int, report: EvaluationReport | None = None
) -> ConceptCard:
    """What is known of one concept.

    Parameters
    ----------
    activations : ConceptActivations
        The run.
    concept : int
        Which concept.
    report : EvaluationReport, optional
        What was measured of the run.

    Returns
    -------
    ConceptCard
    """
    known = activations.ranking.loc[concept]
    label, control = str(known["label"]), activations.units["Metadata_control"].to_numpy(bool)
    inside = activations.units["Metadata_condition"].astype(str).to_numpy() == label
    # Counted here, as the ranking of an older folder does not have them.
    on = activations.activation(concept) > 0
    showing, wells = 0, 0
    if control.any() and not control.all():
        shares = _well_shares(activations, on, inside & ~control)
        highest = _well_shares(activations, on, control).max()
        showing, wells = int((shares > highest).sum()), len(shares)
    found = {} if report is None else report.seeds
    times = found.get("times_found") or []
    return ConceptCard(
        name=str(known["name"]),
        label=label,
        units=_UNITS[activations.dictionary.spec.units.kind],
        rate_label=float(on[inside].mean()) if inside.any() else float("nan"),
        rate_controls=float(on[control].mean()) if control.any() else float("nan"),
        wells_showing=showing,
        wells_label=wells,
        place=str(known["place"]),
        times_found=int(times[concept]) if times else 0,
        n_seeds=int(found["n_seeds"]) if times else 0,
    )


def _well_shares(
    activations: ConceptActivations, on: NDArray[np.bool_], rows: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Share of some units that show a concept, well by well."""
    number, _ = pd.factorize(activations.wells[rows])
    shares: NDArray[np.float64] = np.bincount(number, on[rows]) / np.bincount(number)
    return shares


def card_units(
    activations: ConceptActivations, concept: int, n: int = 3
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Units for the pictures of a card.

    Parameters
    ----------
    activations : ConceptActivations
        The run.
    concept : int
        Which concept.
    n : int, default=3
        How many of each kind.

    Returns
    -------
    strongest : ndarray of at most n rows
        Units of the condition that the concept tells best with the highest activation, highest
        first.
    controls : ndarray of at most n rows
        Control units, drawn at random and the same for every concept.
    """
    label = str(activations.ranking.loc[concept, "label"])
    control = activations.units["Metadata_control"].to_numpy(bool)
    inside = activations.units["Metadata_condition"].astype(str).to_numpy() == label
    of_label = np.flatnonzero(inside & ~control if (inside & ~control).any() else inside)
    order = np.argsort(-activations.activation(concept)[of_label], kind="stable")
    controls = np.flatnonzero(control)
    drawn = np.random.default_rng(0).choice(len(controls), min(n, len(controls)), replace=False)
    return of_label[order[:n]], controls[np.sort(drawn)]


def wells_limit(activations: ConceptActivations, first: str, second: str | None = None) -> str:
    """What a test by wells of two conditions can show at most, in a sentence.

    Parameters
    ----------
    activations : ConceptActivations
        The run.
    first : str
        A condition.
    second : str, optional
        Another one; controls where not given.

    Returns
    -------
    str
    """
    units = activations.units
    # A field has one condition and one well, so its first unit tells both.
    _, rows = np.unique(units["field"].to_numpy(), return_index=True)
    fields = units.iloc[rows]
    condition, control = fields["Metadata_condition"].astype(str), fields["Metadata_control"]
    well = pd.Series(activations.wells[rows], fields.index)
    other = control.astype(bool) if second is None else condition == second
    n, against = well[condition == first].nunique(), well[other].nunique()
    sides = sides_of(n, against)
    if min(n, against) < 2:
        return f"{sides}: a test by wells needs two of each, so add wells."
    return f"{sides}: no p can be below {smallest_p(n, against):.2g}, however large the effect."
