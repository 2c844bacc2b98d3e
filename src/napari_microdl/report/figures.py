"""Figures of a result, as matplotlib figures that the caller saves or shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.concept_set import Concept
from napari_microdl.concepts.heat import SHOWN_FROM, SHOWN_TO
from napari_microdl.concepts.painting import (
    BoxPainter,
    LabelPainter,
    grid_to_pixels,
    outlines_of,
    unit_window,
    window_of,
)
from napari_microdl.fields.field import Field
from napari_microdl.report.text import figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by every common kind of colour vision. Controls are grey: a
# lighter one is taken for their green and their purple where red and green look alike, a darker one
# is not seen on napari's dark theme.
CONTROL_COLOUR = "#727272"
CONDITION_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#0072b2", "#f0e442")
# Around anti-aligned and aligned patches, as the heatmap colours them.
_OUTLINES = ("#60b0ff", "#ffa040")
# Of more conditions the labels would overlap in a dock.
_MOST_WITH_TWO_LINES = 6
_MOST_POINTS = 400


def grey(field: Field, channel: int = 0) -> NDArray[np.float32]:
    """One channel between 0 and 1 for display, brightened so that dim cells are seen."""
    plane = field.read((channel,))[0].astype(np.float32)
    low, high = np.percentile(plane, [0.5, 99.8])
    shown: NDArray[np.float32] = np.clip((plane - low) / max(high - low, 1e-12), 0, 1) ** 0.6
    return shown


def _title(field: Field) -> str:
    state = "control" if field.is_control else field.condition or "condition not known"
    return figure_text(f"{field.name} ({state})")


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def _overlay_figure(
    fields: list[Field],
    overlays: dict[int, NDArray[np.float32]],
    *,
    colormap: str,
    limits: tuple[float, float],
    alpha: float,
    label: str,
) -> Figure:
    """Images above, the overlay of each below, one colour scale for all."""
    figure = Figure(figsize=(4 * len(overlays), 8), layout="constrained")
    axes = figure.subplots(2, len(overlays), squeeze=False)
    for column, (index, values) in enumerate(overlays.items()):
        image = grey(fields[index])
        for row in range(2):
            axes[row, column].imshow(image, cmap="gray")
            _bare(axes[row, column])
        axes[0, column].set_title(_title(fields[index]))
        low, high = limits
        drawn = axes[1, column].imshow(values, cmap=colormap, vmin=low, vmax=high, alpha=alpha)
    figure.colorbar(drawn, ax=list(axes[1]), shrink=0.8, label=label)
    return figure


def heatmap_figure(
    activations: ConceptActivations, fields: list[Field], shown: list[int], concept: int
) -> Figure:
    """Images above, the heat of the concept below, beside what is usual in controls.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run on `fields`.
    fields : list of Field
        All fields of the run.
    shown : list of int
        Numbers of the fields to show.
    concept : int
        Which concept.

    Returns
    -------
    Figure
        One colour scale for all fields (paper, section 4: token heatmap).
    """
    maps = {}
    for index in shown:
        grid = activations.grids[index]
        values = activations.heat.compared(index, concept)
        maps[index] = shown_heat(grid_to_pixels(values, grid.patch_size, grid.image_shape))
    return _overlay_figure(
        fields,
        maps,
        colormap="PuOr_r",
        limits=(-SHOWN_TO, SHOWN_TO),
        alpha=0.65,
        label=f"{figure_text(activations.dictionary.names[concept])}, 1 is unusual in controls",
    )


def shown_heat(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Heat as it is drawn: NaN, so that the image is seen, where it is usual in controls."""
    return np.where(np.abs(heat) < SHOWN_FROM, np.float32(np.nan), heat)


def unit_figure(
    activations: ConceptActivations,
    fields: list[Field],
    shown: list[int],
    concept: int,
    cells: Sequence[NDArray[np.integer] | None],
) -> Figure:
    """Images above, every unit coloured by its activation of the concept below.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run on `fields`.
    fields : list of Field
        All fields of the run.
    shown : list of int
        Numbers of the fields to show.
    concept : int
        Which concept.
    cells : sequence of ndarray or None
        Labels of the cells of every field; None of a field whose units are boxes.

    Returns
    -------
    Figure
        One colour scale for all fields.
    """
    painted = {}
    for index in shown:
        units, labels = activations.geometry[index], cells[index]
        painter = (
            BoxPainter(units.boxes, fields[index].shape)
            if labels is None
            else LabelPainter(labels, units.ids)
        )
        painted[index] = painter.paint(activations.unit_values(index, concept)[1])
    name = figure_text(activations.dictionary.names[concept])
    return _overlay_figure(
        fields,
        painted,
        colormap="magma",
        limits=(0.0, float(activations.activation(concept).max()) or 1.0),
        alpha=0.8,
        label=f"activation of {name} in each {activations.dictionary.spec.units.kind}",
    )


def gallery_figure(
    activations: ConceptActivations,
    fields: list[Field],
    concepts: list[int],
    n: int = 8,
    *,
    channel: int = 0,
    patches: bool = False,
) -> Figure:
    """Units most and least aligned with each concept, with the patches that make them so.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run on `fields`, or of some of them.
    fields : list of Field
        All fields of the run.
    concepts : list of int
        Concepts, two or three rows each.
    n : int, default=8
        Units a row.
    channel : int, default=0
        Channel of the fields to show.
    patches : bool, default=False
        Whether a third row shows the most aligned patches of the fields of the first row.

    Returns
    -------
    Figure
        Every picture is in the contrast of its field; orange and blue lines go around aligned and
        anti-aligned patches (paper, section 4: galleries).
    """
    images: dict[int, NDArray[np.float32]] = {}
    lines = [
        (f"{title}\n{name}" if not place else name, tiles)
        for concept in concepts
        for title in [figure_text(activations.dictionary.names[concept])]
        for place, (name, tiles) in enumerate(_gallery_rows(activations, concept, n, patches))
    ]
    figure = Figure(figsize=(1.35 * n + 1.6, 1.55 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), n, squeeze=False)
    for line, (name, tiles) in zip(axes, lines, strict=True):
        line[0].set_ylabel(name, size=9)
        for axis in line:
            _bare(axis)
        for axis in line[len(tiles) :]:
            axis.set_axis_off()
        for axis, tile in zip(line, tiles, strict=False):
            if tile.field not in images:
                images[tile.field] = grey(fields[tile.field], channel)
            axis.imshow(images[tile.field][tile.window], cmap="gray", vmin=0, vmax=1)
            # A line on the edge of a pixel lies half a pixel before its number.
            ends = tile.lines.reshape(-1, 2, 2) - 0.5
            colour = _OUTLINES[tile.cosine > 0]
            axis.add_collection(LineCollection(ends.tolist(), colors=colour, linewidths=1.2))
            field = fields[tile.field]
            state = "control" if field.is_control else field.condition
            axis.set_title(f"{figure_text(state)}\n{tile.cosine:+.2f}", size=8)
    return figure


@dataclass(frozen=True)
class _Tile:
    """One picture of a gallery."""

    field: int
    window: tuple[slice, slice]
    lines: NDArray[np.float64]
    cosine: float


def _gallery_rows(
    activations: ConceptActivations, concept: int, n: int, patches: bool
) -> list[tuple[str, list[_Tile]]]:
    """Rows of pictures of one concept, each with its name."""
    cosines = activations.alignment(concept)
    rows: list[tuple[str, list[_Tile]]] = []
    for sign, name in ((1, "most aligned"), (-1, "least aligned")):
        tiles = []
        for row in activations.top_units(concept, n, sign).tolist():
            field, window = unit_window(activations, row)
            lines = outlines_of(activations, row, concept, sign)
            tiles.append(_Tile(field, window, lines, float(cosines[row])))
        rows.append((name, tiles))
    if patches:
        looked_in = sorted({tile.field for tile in rows[0][1]})
        tiles = []
        for patch in activations.top_patches(concept, n, fields=looked_in).itertuples():
            grid = activations.grids[patch.field]
            p = grid.patch_size
            top, left = patch.row * p, patch.column * p
            height, width = grid.image_shape
            # The last patches may stick out of the image.
            box = np.array([top, left, min(top + p, height), min(left + p, width)])
            window = window_of(box, grid.image_shape)
            y, x = top - window[0].start, left - window[1].start
            corners = [(x, y), (x + p, y), (x + p, y + p), (x, y + p), (x, y)]
            edges = np.array([(*a, *b) for a, b in pairwise(corners)], float)
            tiles.append(_Tile(patch.field, window, edges, patch.cosine))
        rows.append(("patches", tiles))
    return rows


def condition_groups(activations: ConceptActivations) -> list[tuple[str, bool, NDArray[np.bool_]]]:
    """Rows of every condition, controls first: (condition, is control, rows)."""
    # Numbers are compared a hundred times faster than texts, which tells with a million units.
    number, names = pd.factorize(activations.units["Metadata_condition"].astype(str))
    key = 2 * number + activations.units["Metadata_control"].to_numpy(bool)
    kinds = [(str(names[k // 2]), bool(k % 2), k) for k in np.unique(key)]
    return [
        (condition, is_control, key == k)
        for condition, is_control, k in sorted(kinds, key=lambda kind: (not kind[1], kind[0]))
    ]


def condition_colours(activations: ConceptActivations) -> dict[tuple[str, bool], str]:
    """Colour of every condition, grey for controls: the same in all plots."""
    colours, treated = {}, 0
    for condition, is_control, _ in condition_groups(activations):
        if is_control:
            colours[condition, True] = CONTROL_COLOUR
        else:
            colours[condition, False] = CONDITION_COLOURS[treated % len(CONDITION_COLOURS)]
            treated += 1
    return colours


def condition_name(condition: str, is_control: bool) -> str:
    """A condition as a label of a figure says it."""
    return figure_text(condition or "no condition") + (" (control)" if is_control else "")


def draw_distribution(
    axes: Axes, activations: ConceptActivations, concept: Concept, unit: str, text: str = "black"
) -> None:
    """Alignment of the units of every condition with a concept, as points and a box.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    activations : ConceptActivations
        Result of a run.
    concept : int or ConceptSet
        Which concept.
    unit : str
        What one sample is, for the labels.
    text : str, default="black"
        Colour of lines and labels.
    """
    alignment = activations.alignment(concept)
    active = activations.activation(concept) > 0
    random = np.random.default_rng(0)
    colours = condition_colours(activations)
    labels = []
    groups = condition_groups(activations)
    for place, (condition, is_control, rows) in enumerate(groups):
        name = condition_name(condition, is_control)
        if len(groups) <= _MOST_WITH_TWO_LINES:
            name += f"\n{int(rows.sum()):,} {unit}s, {active[rows].mean():.0%} active"
        else:
            name += f", {active[rows].mean():.0%} active"
        labels.append(name)
        colour = colours[condition, is_control]
        values = alignment[rows]
        shown = values
        if len(values) > _MOST_POINTS:
            shown = random.choice(values, _MOST_POINTS, replace=False)
        jitter = random.uniform(-0.25, 0.25, len(shown))
        axes.scatter(shown, place + jitter, s=6, color=colour, alpha=0.6, linewidths=0)
        axes.boxplot(
            values,
            positions=[place],
            orientation="horizontal",
            widths=0.6,
            showfliers=False,
            manage_ticks=False,
            boxprops={"color": text},
            whiskerprops={"color": text},
            capprops={"color": text},
            medianprops={"color": text, "linewidth": 2},
        )
    axes.axvline(0, color=text, alpha=0.4, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("alignment with the concept (cosine)")
    axes.set_title(figure_text(activations.name_of(concept)))


def distribution_figure(activations: ConceptActivations, concepts: list[int], unit: str) -> Figure:
    """`draw_distribution` for several concepts, one below the other.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run.
    concepts : list of int
        Which concepts.
    unit : str
        What one sample is.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(6, 2.6 * len(concepts)), layout="constrained")
    for axes, concept in zip(
        figure.subplots(len(concepts), 1, squeeze=False)[:, 0], concepts, strict=True
    ):
        draw_distribution(axes, activations, concept, unit)
    return figure


def draw_layers(axes: Axes, table: pd.DataFrame, chosen: int | None = None) -> None:
    """How well every layer tells treated from control, as a curve with its spread.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    table : DataFrame
        From `napari_microdl.pipeline.layer_choice.layer_scores`.
    chosen : int, optional
        Layer to mark.
    """
    layers = table["layer"].to_numpy()
    curves = (
        ("auc", "AUC", CONDITION_COLOURS[5], "o"),
        ("balanced_accuracy", "balanced accuracy", CONDITION_COLOURS[0], "s"),
    )
    for column, label, colour, marker in curves:
        scores, spread = (table[c].to_numpy() for c in (column, f"{column}_spread"))
        axes.plot(layers, scores, color=colour, marker=marker, label=label)
        axes.fill_between(layers, scores - spread, scores + spread, color=colour, alpha=0.2)
    axes.axhline(0.5, color=CONTROL_COLOUR, linestyle=":", label="chance")
    if chosen is not None:
        axes.axvline(chosen, color=CONTROL_COLOUR, linestyle="--", label=f"layer {chosen}")
    axes.set_xticks(layers)
    axes.set_xlabel("layer")
    axes.set_ylabel("treated or control, fields left out")
    axes.legend(frameon=False)
