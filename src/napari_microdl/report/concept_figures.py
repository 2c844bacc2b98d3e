"""Plots of one concept, of two conditions, and of all units, on axes that the caller makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.concept_set import Concept
from napari_microdl.report.figures import (
    CONDITION_COLOURS,
    CONTROL_COLOUR,
    condition_colours,
    condition_groups,
    condition_name,
)
from napari_microdl.report.text import figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGNIFICANT = 0.05
_MOST_NAMED = 5
_SMALLEST_P = 1e-300
_BINS = 40


def draw_wells(
    axes: Axes, activations: ConceptActivations, concept: Concept, text: str, most: int = 40
) -> None:
    """Mean alignment of every well, with the middle half of its units.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    activations : ConceptActivations
        Result of a run.
    concept : int or ConceptSet
        Which concept.
    text : str
        Colour of lines.
    most : int, default=40
        Of more wells, the halves of the highest and of the lowest means are drawn.

    Notes
    -----
    A field without a well counts as its own.
    """
    units = activations.units
    grouped = pd.DataFrame(
        {
            "value": activations.alignment(concept),
            "well": activations.wells,
            "condition": units["Metadata_condition"].astype(str),
            "control": units["Metadata_control"].astype(bool),
        }
    ).groupby(["well", "condition", "control"], sort=False)["value"]
    table = pd.DataFrame(
        {"mean": grouped.mean(), "low": grouped.quantile(0.25), "high": grouped.quantile(0.75)}
    ).sort_values("mean", ascending=False)
    if len(table) > most:
        table = pd.concat([table[: most // 2], table[-most // 2 :]])
    colours = condition_colours(activations)
    for place, ((_, condition, control), row) in enumerate(table.iterrows()):
        colour = colours[condition, control]
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=3, alpha=0.6)
        axes.plot(row["mean"], place, "o", color=colour, markersize=5)
    axes.axvline(0, color=text, alpha=0.4, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(table)), [figure_text(key[0]) for key in table.index])
    axes.invert_yaxis()
    axes.set_xlabel("cosine with the concept (mean, middle half)")
    axes.set_title(figure_text(activations.name_of(concept)))


def draw_channels(
    axes: Axes, names: list[str], correlations: NDArray[np.float64], text: str
) -> None:
    """Bars of the correlation of a heatmap with every channel.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    names : list of str
        Channels.
    correlations : ndarray of shape (n_channels,)
        As `channel_correlations` gives them; NaN is drawn as no bar.
    text : str
        Colour of lines.
    """
    places = np.arange(len(names))
    colours = [CONDITION_COLOURS[3] if r > 0 else CONDITION_COLOURS[5] for r in correlations]
    axes.barh(places, np.nan_to_num(correlations), color=colours, height=0.6)
    axes.axvline(0, color=text, linewidth=0.8)
    labels = [
        f"{figure_text(name)} ({'same everywhere' if np.isnan(r) else format(r, '+.2f')})"
        for name, r in zip(names, correlations, strict=True)
    ]
    axes.set_yticks(places, labels)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-1, 1)
    axes.set_xlabel("correlation of heatmap and channel (Pearson)")


def draw_cosines(
    axes: Axes, activations: ConceptActivations, concept: Concept, label: str, text: str
) -> None:
    """Histograms of the cosine of one condition's units with a concept, and of all others.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    activations : ConceptActivations
        Result of a run.
    concept : int or ConceptSet
        Which concept.
    label : str
        The condition.
    text : str
        Colour of lines.
    """
    values = activations.alignment(concept)
    inside = activations.units["Metadata_condition"].to_numpy().astype(str) == label
    edges = np.histogram_bin_edges(values, _BINS)
    for rows, colour, name in (
        (~inside, CONTROL_COLOUR, "the rest"),
        (inside, CONDITION_COLOURS[0], figure_text(label or "no condition")),
    ):
        if rows.any():
            weights = np.full(rows.sum(), 1 / rows.sum())
            axes.hist(
                values[rows], edges.tolist(), weights=weights, color=colour, alpha=0.65,
                label=f"{name} ({rows.sum():,})",
            )  # fmt: skip
    axes.legend(fontsize=8, frameon=False, labelcolor=text)
    axes.axvline(0, color=text, alpha=0.4, linewidth=0.8, zorder=0)
    axes.set_xlabel("cosine with the concept")
    axes.set_ylabel("share of units")
    axes.set_title(figure_text(activations.name_of(concept)))


def volcano_places(compared: pd.DataFrame, q_column: str = "q_cells") -> NDArray[np.float64]:
    """Effect and minus the decadic logarithm of the corrected p-value, shape (n_concepts, 2)."""
    q = np.maximum(compared[q_column].to_numpy(float), _SMALLEST_P)
    return np.column_stack([compared["effect"].to_numpy(float), -np.log10(q)])


def draw_volcano(
    axes: Axes,
    compared: pd.DataFrame,
    names: list[str],
    shown: int | None,
    conditions: tuple[str, str],
    text: str,
    q_column: str = "q_cells",
) -> None:
    """Every concept by its effect between two conditions and how sure it is.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    compared : DataFrame
        As `ConceptActivations.compare` gives it.
    names : list of str
        Names of the concepts.
    shown : int or None
        The concept that gets a ring.
    conditions : tuple of str
        The first and the second.
    text : str
        Colour of lines.
    q_column : {"q_cells", "q_wells"}
        Whether cells or wells count as independent. By cells nothing is called sure: the strongest
        effects have names, but there is no line at 0.05, and no colour above it.
    """
    places = volcano_places(compared, q_column)
    by_wells = q_column == "q_wells"
    sure = (compared[q_column] < SIGNIFICANT).to_numpy() & by_wells
    up = sure & (places[:, 0] > 0)
    for rows, colour in (
        (~sure, CONTROL_COLOUR),
        (up, CONDITION_COLOURS[3]),
        (sure & ~up, CONDITION_COLOURS[5]),
    ):
        axes.scatter(places[rows, 0], places[rows, 1], s=14, color=colour, alpha=0.8, linewidths=0)
    if by_wells:
        axes.axhline(-np.log10(SIGNIFICANT), color=text, alpha=0.5, linewidth=0.8, linestyle=":")
    axes.axvline(0, color=text, alpha=0.4, linewidth=0.8)
    named = sure if by_wells else places[:, 0] != 0
    strongest = np.argsort(-np.abs(places[:, 0]) * named, kind="stable")[:_MOST_NAMED]
    for concept in strongest[named[strongest]]:
        axes.annotate(
            figure_text(names[concept]), places[concept], xytext=(3, 3), textcoords="offset points",
            size=7, color=text,
        )  # fmt: skip
    if shown is not None:
        axes.scatter(
            places[shown, 0],
            places[shown, 1],
            s=70,
            facecolors="none",
            edgecolors=text,
            linewidths=1.5,
        )
    first, second = map(figure_text, conditions)
    axes.set_xlabel(f"more in {first}   ←   effect   →   more in {second}")
    kind = "wells" if by_wells else "cells"
    axes.set_ylabel(f"-log10 corrected p ({kind})")


def draw_map(
    axes: Axes,
    activations: ConceptActivations,
    places: NDArray[np.float32],
    selected: NDArray[np.int64],
    text: str,
    most: int = 20_000,
) -> None:
    """Units on a flat map, coloured by condition, the selected ones ringed.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    activations : ConceptActivations
        Result of a run.
    places : ndarray of shape (n_units, 2)
        As `pca_map` or `umap_map` gives them; those that are NaN are not drawn.
    selected : ndarray of int
        Rows of units.
    text : str
        Colour of lines.
    most : int, default=20,000
        Of more units, about as many are drawn at random.
    """
    random = np.random.default_rng(0)
    known = np.isfinite(places).all(axis=1)
    share = min(1.0, most / max(int(known.sum()), 1))
    drawn = known & (random.random(len(places)) < share)
    colours = condition_colours(activations)
    for condition, is_control, rows in condition_groups(activations):
        name = condition_name(condition, is_control)
        x, y = places[rows & drawn].T
        colour = colours[condition, is_control]
        axes.scatter(x, y, s=6, color=colour, alpha=0.6, linewidths=0, label=name)
    if len(selected):
        x, y = places[selected].T
        axes.scatter(x, y, s=26, facecolors="none", edgecolors=text, linewidths=0.8)
    axes.legend(fontsize=7, frameon=False, labelcolor=text, markerscale=2, loc="best")
    axes.set_xticks([])
    axes.set_yticks([])
