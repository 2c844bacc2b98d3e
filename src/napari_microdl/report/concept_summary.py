"""What a concept shows, in one sentence and a few numbers that a person reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.concept_set import Concept, ConceptSet
from napari_microdl.concepts.wells import Wells
from napari_microdl.core.text import counted
from napari_microdl.metrics.group_tests import smallest_p
from napari_microdl.report.results import EvaluationReport
from napari_microdl.report.swaps import sides_of

_PLACES = {"cells": "lies in the cells", "field": "lies in the whole field, background as well"}
WELLS_RULE = (
    "A well counts where its share is above that of every well of the others; a field without a "
    "well counts as one."
)


@dataclass(frozen=True, eq=False)
class ConceptSummary:
    """How often a concept is active in its condition and in the units it is held against.

    Parameters
    ----------
    name : str
        Of the concept.
    label : str
        The condition that it is most selective for.
    unit : str
        What one unit is.
    others : {"control", "other"}
        What the condition is held against: controls, or all other units where there are none, or
        the condition is one.
    inside, against : ndarray of bool, shape (n_units,)
        Units of the condition, and those it is held against.
    share, share_others : float
        Share of them in which the concept is active, 0 to 1; NaN where there are none.
    n_wells, n_wells_others : int
        Wells on both sides.
    n_wells_showing : int
        Wells of the condition that count by `WELLS_RULE`.
    place : {"cells", "field", ""}
        Where the concept lies, see `napari_microdl.concepts.localisation.locate_concepts`.
    times_found, n_seeds : int
        How many dictionaries of other seeds have it, and of how many; both 0 where no evaluation
        asked.
    """

    name: str
    label: str
    unit: str
    others: str
    inside: NDArray[np.bool_]
    against: NDArray[np.bool_]
    share: float
    share_others: float
    n_wells: int
    n_wells_others: int
    n_wells_showing: int
    place: str
    times_found: int = 0
    n_seeds: int = 0

    @property
    def sentence(self) -> str:
        """How often, in how many wells, where, and how surely: what is known of it."""
        whose = f"'{self.label}' {self.unit}s" if self.label else f"{self.unit}s"
        parts = [f"In {percent(self.share)} of {whose}"]
        if self.against.any():
            parts[0] += f" and {percent(self.share_others)} of {self.others}s"
            parts.append(f"in {self.n_wells_showing} of {counted(self.n_wells, 'well')}")
        if self.place:
            parts.append(_PLACES[self.place])
        if self.n_seeds:
            parts.append(f"other seeds find it {self.times_found} of {self.n_seeds} times")
        return "; ".join(parts) + "."

    @property
    def numbers(self) -> str:
        """How many units and wells are behind the sentence."""
        sides = (
            (self.inside, f"'{self.label}'" if self.label else "", self.n_wells),
            (self.against, self.others, self.n_wells_others),
        )
        parts = [
            f"{counted(int(rows.sum()), f'{whose} {self.unit}'.strip())} in "
            f"{counted(n_wells, 'well')}"
            for rows, whose, n_wells in sides
            if rows.any()
        ]
        return f"n = {' and '.join(parts)}."


def percent(share: float) -> str:
    """A share in whole percent, and "<1 %" where it is less than that but not nothing."""
    if not np.isfinite(share):
        return "-"
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def summarize_concept(
    activations: ConceptActivations,
    wells: Wells,
    concept: Concept,
    report: EvaluationReport | None = None,
) -> ConceptSummary:
    """Count where a concept is active.

    Parameters
    ----------
    activations : ConceptActivations
        The run.
    wells : Wells
        Its wells.
    concept : int or ConceptSet
        Which concept.
    report : EvaluationReport, optional
        What was measured of the run.

    Returns
    -------
    ConceptSummary
    """
    times, n_seeds = 0, 0
    if isinstance(concept, ConceptSet):
        label, place = concept.label, ""
    else:
        ranked = activations.ranking.loc[concept]
        label, place = str(ranked["label"]), str(ranked["place"])
        if report is not None and report.seeds.get("times_found"):
            times, n_seeds = report.seeds["times_found"][concept], report.seeds["n_seeds"]
    inside = (activations.units["Metadata_condition"].astype(str) == label).to_numpy(bool)
    control = activations.units["Metadata_control"].to_numpy(bool)
    held_against_controls = bool(control.any() and not control[inside].any())
    against = control if held_against_controls else ~inside
    active = activations.activation(concept) > 0
    share, share_others = (
        float(active[rows].mean()) if rows.any() else float("nan") for rows in (inside, against)
    )
    own, others = (wells.mean(active, rows) for rows in (inside, against))
    unit = activations.dictionary.spec.units.kind
    return ConceptSummary(
        name=activations.name_of(concept),
        label=label,
        unit=unit,
        others="control" if held_against_controls else "other",
        inside=inside,
        against=against,
        share=share,
        share_others=share_others,
        n_wells=int(np.isfinite(own).sum()),
        n_wells_others=int(np.isfinite(others).sum()),
        n_wells_showing=int((own > np.nanmax(others, initial=-1.0)).sum()),
        place=place,
        times_found=times,
        n_seeds=n_seeds,
    )


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
