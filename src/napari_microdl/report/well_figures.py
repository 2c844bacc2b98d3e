"""Figures of the wells of a run: plate maps, hits and replicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.wells import Wells, plate_format, wells_of
from napari_microdl.core.task import current_task
from napari_microdl.metrics.wells import place_terms
from napari_microdl.report.figures import CONDITION_COLOURS, CONTROL_COLOUR
from napari_microdl.report.plate_map import VALUES, PlateValue, draw_plate
from napari_microdl.report.results import EvaluationReport
from napari_microdl.report.text import figure_text
from napari_microdl.report.well_profiles import WellProfiles

MOST_CONCEPTS = 8
_MOST_NAMED = 12
_ACROSS = 4


@dataclass(frozen=True, eq=False)
class NamedFigure:
    """A figure, and what it is called.

    Parameters
    ----------
    name : str
        Of its file, without a suffix.
    heading, caption : str
        Words for a person.
    figure : Figure
        The figure.
    """

    name: str
    heading: str
    caption: str
    figure: Figure


def well_figures(
    report: EvaluationReport, activations: ConceptActivations, profiles: WellProfiles | None
) -> list[NamedFigure]:
    """Draw what an evaluation says of wells, as far as it was measured.

    Parameters
    ----------
    report : EvaluationReport
        Of an evaluation.
    activations : ConceptActivations
        The run.
    profiles : WellProfiles or None
        Its wells, where their place was measured.

    Returns
    -------
    list of NamedFigure
        Plate maps of the number of units, of the concepts of the hit list and of the best concepts
        of labels, and of what wells owe to their place; hits; replicates.
    """
    unit, names = activations.dictionary.spec.units.kind, activations.dictionary.names
    wells, drawn = wells_of(activations), []
    rows = report.rows("hits")
    if rows:
        drawn.append(_hits(rows))
        if any(row.get("correlation") is not None for row in rows):
            drawn.append(_replicates(rows))
    if not len(wells.on_plates):
        return drawn
    counts = VALUES["n_units"]
    drawn.append(
        NamedFigure(
            "plates_number",
            f"Number of {unit}s",
            f"{unit.capitalize()}s in every well; controls have a rim.",
            _plates(wells.on_plates, counts, unit),
        )
    )
    if profiles is not None:
        drawn += _positions(report, profiles, names, unit)
    chosen = [row["concept"] for row in [*rows, *report.labels]]
    chosen = list(dict.fromkeys(chosen))[:MOST_CONCEPTS]
    for number, concept in enumerate(chosen):
        current_task().progress(number, len(chosen), f"Drawing plates of {names[concept]}")
        drawn.append(_concept(activations, wells, concept, unit))
    return drawn


def _concept(activations: ConceptActivations, wells: Wells, concept: int, unit: str) -> NamedFigure:
    table = wells.of_concept(activations, concept)
    name = activations.dictionary.names[concept]
    return NamedFigure(
        f"plates_concept_{concept:04d}",
        f"Plates of {name}",
        f"Mean activation of {name} over the {unit}s of every well; controls have a rim.",
        _plates(table[table["row"] >= 0], VALUES["mean_activation"], unit),
    )


def _plates(wells: pd.DataFrame, shown: PlateValue, unit: str) -> Figure:
    """A map a plate, all in one figure."""
    names = list(dict.fromkeys(wells["plate"]))
    across = min(_ACROSS, len(names))
    down = -(-len(names) // across)
    rows, columns = plate_format(wells)
    height = 4.6 * (rows + 3) / columns
    figure = Figure(figsize=(5.4 * across, max(height, 2.4) * down), layout="constrained")
    all_axes = figure.subplots(down, across, squeeze=False).ravel()
    for axes, name in zip(all_axes, names, strict=False):
        draw_plate(axes, wells[wells["plate"] == name], shown, unit, "black")
        axes.set_title(figure_text(name) if name else "plate without a name", pad=16)
    for axes in all_axes[len(names) :]:
        axes.set_axis_off()
    return figure


def _positions(
    report: EvaluationReport, profiles: WellProfiles, names: list[str], unit: str
) -> list[NamedFigure]:
    """What wells owe to their place: of the concept that follows it most, on the first plate."""
    rows = report.rows("positions")
    if not rows:
        return []
    strongest = min(rows, key=lambda row: row["p_value"])
    concept = strongest["concept"]
    effects = profiles.positions[0]
    shape = plate_format(profiles.table)
    places = np.argwhere(np.ones(shape, bool))
    values = place_terms(places, shape) @ effects.slopes[:, concept]
    table = pd.DataFrame(places, columns=["row", "column"]).assign(
        plate="all plates", control=False, n_units=1, effect=values - values.mean()
    )
    shown = PlateValue("effect", "Place", "difference of the mean cosine", signed=True)
    return [
        NamedFigure(
            "plates_position",
            f"What wells owe to their place: {names[concept]}",
            "Row, column and edge together, as control wells of all plates have it, of the "
            f"concept that follows the place most ({strongest['term']}: p = "
            f"{strongest['p_value']:.2g}, q = {strongest['q_value']:.2g}); cosines of {unit}s.",
            _plates(table, shown, unit),
        )
    ]


def _hits(rows: list[dict[str, Any]]) -> NamedFigure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    z = np.array([np.nan if row["robust_z"] is None else row["robust_z"] for row in rows])
    p = -np.log10([row["p_value"] for row in rows])
    hit = np.array([row["hit"] for row in rows], bool)
    for which, colour, label in (
        (~hit, CONTROL_COLOUR, "no hit"),
        (hit, CONDITION_COLOURS[3], "hit"),
    ):
        if which.any():
            axes.plot(z[which], p[which], "o", color=colour, label=label, markersize=5)
    for place in np.flatnonzero(hit)[:_MOST_NAMED]:
        axes.annotate(
            figure_text(rows[place]["label"]), (z[place], p[place]),
            textcoords="offset points", xytext=(5, 3), fontsize=8,
        )  # fmt: skip
    least = -np.log10(min(row["smallest_p"] for row in rows))
    axes.axhline(least, color=CONTROL_COLOUR, linewidth=0.8, linestyle="--")
    axes.set_xlabel("z of the strongest concept")
    axes.set_ylabel("-log10 p")
    axes.legend(frameon=False, fontsize=8)
    return NamedFigure(
        "hits",
        "Hits",
        "A point a treatment; the broken line is the smallest p that its wells allow.",
        figure,
    )


def _replicates(rows: list[dict[str, Any]]) -> NamedFigure:
    known = [row for row in rows if row.get("correlation") is not None]
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.hist([row["correlation"] for row in known], bins=40, range=(-1, 1), color="#56b4e9")
    luck = known[0].get("correlation_by_luck")
    share = ""
    if luck is not None:
        axes.axvline(luck, color=CONTROL_COLOUR, linestyle="--", linewidth=0.8)
        above = np.mean([row["correlation"] > luck for row in known])
        share = (
            f" {above:.0%} of treatments are right of the broken line, as 5 % of pairs of "
            "different treatments are."
        )
    axes.set_xlabel("median correlation of the wells of a treatment")
    axes.set_ylabel("treatments")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return NamedFigure(
        "replicates", "Replicates", f"Treatments of two wells or more.{share}", figure
    )
