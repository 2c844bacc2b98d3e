"""Figures of an evaluation, and pictures of the concepts that it names."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.heat import SHOWN_TO
from napari_microdl.concepts.painting import channel_correlations, grid_to_pixels
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field
from napari_microdl.report.concept_figures import draw_channels
from napari_microdl.report.figures import (
    CONDITION_COLOURS,
    CONTROL_COLOUR,
    draw_distribution,
    gallery_figure,
    grey,
    shown_heat,
)
from napari_microdl.report.results import EvaluationReport
from napari_microdl.report.text import figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CONCEPTS = 8
_MOST_HISTOGRAMS = 12
_DOTS_PER_INCH = 80
# Grey images, one colour map and words need no more, and are then a third as large.
_COLOURS = 256
_CURVES = (("cosine", CONDITION_COLOURS[5], "o"), ("r2", CONDITION_COLOURS[0], "s"))


@dataclass(frozen=True)
class ConceptPictures:
    """What a concept looks like.

    Parameters
    ----------
    concept : int
        Which concept.
    heading : str
        Its name, and the labels it is the best concept of.
    gallery : bytes
        PNG of the most and least aligned units, and of the most aligned patches.
    details : bytes
        PNG of a heatmap, the channels it follows, and the cosines of every condition.
    caption : str
        What the pictures show, in sentences.
    """

    concept: int
    heading: str
    gallery: bytes
    details: bytes
    caption: str


def pictures(
    report: EvaluationReport,
    activations: ConceptActivations,
    fields: Sequence[Field],
    most: int = MOST_CONCEPTS,
) -> list[ConceptPictures]:
    """Draw the best concepts of the labels.

    Parameters
    ----------
    report : EvaluationReport
        Of an evaluation.
    activations : ConceptActivations
        The run evaluated.
    fields : sequence of Field
        All its fields.
    most : int, default=8
        Of more concepts, those that are most selective.

    Returns
    -------
    list of ConceptPictures
        The most selective first.
    """
    # Whitened tokens are kept of the field looked at last; a window may be looking at another one.
    activations = activations.of_fields(activations.units["field"].unique())
    labels: dict[int, list[str]] = {}
    for row in sorted(report.labels, key=lambda row: -row["selectivity"]):
        labels.setdefault(row["concept"], []).append(f"'{row['label']}'")
    chosen = list(labels.items())[:most]
    drawn = []
    for number, (concept, of) in enumerate(chosen):
        name = str(activations.dictionary.names[concept])
        current_task().progress(number, len(chosen), f"Drawing {name}")
        heading = f"{name}, best for {', '.join(of)}"
        drawn.append(_pictures(activations, list(fields), concept, heading))
    return drawn


def _pictures(
    activations: ConceptActivations, fields: list[Field], concept: int, heading: str
) -> ConceptPictures:
    unit = activations.dictionary.spec.units.kind
    number = int(activations.units["field"].iloc[activations.top_units(concept, 1)[0]])
    field = fields[number]
    heatmap = activations.heatmap(number, concept)
    patch_size = activations.grids[number].patch_size
    correlations = channel_correlations(heatmap, field.read(), patch_size)
    known = np.nan_to_num(correlations, nan=-1.0)
    channel = int(known.argmax())
    gallery = gallery_figure(activations, fields, [concept], channel=channel, patches=True)

    figure = Figure(figsize=(12.4, 3.4), layout="constrained")
    image, bars, cosines = figure.subplots(1, 3, width_ratios=[1.1, 1, 1.2])
    image.imshow(grey(field, channel), cmap="gray")
    compared = activations.heat.usual(concept).compare(heatmap)
    pixels = shown_heat(grid_to_pixels(compared, patch_size, field.shape))
    drawn = image.imshow(pixels, cmap="PuOr_r", vmin=-SHOWN_TO, vmax=SHOWN_TO, alpha=0.6)
    image.set_xticks([])
    image.set_yticks([])
    image.set_title(f"{figure_text(field.name)}: heat, 1 is unusual in controls", size=9)
    figure.colorbar(drawn, ax=image, shrink=0.8)
    draw_channels(bars, list(field.channel_names), correlations, "black")
    bars.set_title("channels that the heatmap follows", size=9)
    draw_distribution(cosines, activations, concept, unit)
    cosines.set_title("conditions", size=9)
    shown = field.channel_names[channel]
    caption = (
        f"The {unit}s most and least aligned with the concept, and the most aligned patches, in "
        f"channel {shown}; orange and blue lines go around patches that are aligned and "
        f"anti-aligned. Below: the heatmap of the field with the most aligned {unit}, its "
        "correlation with every channel there, and the cosines of all conditions."
    )
    return ConceptPictures(concept, heading, _png(gallery), _png(figure), caption)


def _png(figure: Figure) -> bytes:
    drawn, small = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(drawn, format="png", dpi=_DOTS_PER_INCH)
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(_COLOURS).save(small, "PNG", optimize=True)
    return small.getvalue()


def draw_reconstruction(axes: Axes, rows: list[dict[str, Any]], text: str = "black") -> None:
    """Cosine and explained share of reconstructions against the number of non-zeros.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    rows : list of dict
        `EvaluationReport.reconstruction`.
    text : str, default="black"
        Colour of words.
    """
    for key, colour, marker in _CURVES:
        known = [(row["k"], row[key]) for row in rows if row[key] is not None]
        if known:
            label = "share explained" if key == "r2" else key
            axes.plot(*zip(*known, strict=True), color=colour, marker=marker, label=label)
    axes.set_xticks([row["k"] for row in rows])
    axes.set_xlabel("concepts that a sample may have (K)")
    axes.legend(frameon=False, labelcolor=text, fontsize=8)


def reconstruction_figure(rows: list[dict[str, Any]]) -> Figure:
    """`draw_reconstruction` as a figure.

    Parameters
    ----------
    rows : list of dict
        `EvaluationReport.reconstruction`.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(5, 3), layout="constrained")
    draw_reconstruction(figure.subplots(), rows)
    return figure


def separation_figure(rows: list[dict[str, Any]]) -> Figure:
    """Cosines with the direction of each label's best concept, the label against all others.

    Parameters
    ----------
    rows : list of dict
        `EvaluationReport.separation`; the first 12 are drawn.

    Returns
    -------
    Figure
    """
    rows = rows[:_MOST_HISTOGRAMS]
    n_columns = min(3, len(rows))
    n_rows = -(-len(rows) // n_columns)
    figure = Figure(figsize=(4 * n_columns, 2.6 * n_rows), layout="constrained")
    all_axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes, row in zip(all_axes, rows, strict=False):
        axes.stairs(row["others"], row["edges"], color=CONTROL_COLOUR, fill=True, alpha=0.6)
        axes.stairs(row["label"], row["edges"], color=CONDITION_COLOURS[3], linewidth=1.5)
        auc = "" if row["auc"] is None else f", AUC {row['auc']:.2f}"
        axes.set_title(f"{figure_text(row['name'])}: concept {row['concept']}{auc}")
        axes.set_xlabel("cosine")
    for axes in all_axes[len(rows) :]:
        axes.set_axis_off()
    return figure
