"""One page about a concept, as a figure for a paper: pictures, cells, and wells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.concept_set import Concept
from napari_microdl.concepts.painting import window_at
from napari_microdl.concepts.pictures import GAMMA, Contrast, shared_contrast
from napari_microdl.concepts.wells import Wells, wells_of
from napari_microdl.core.task import current_task
from napari_microdl.core.text import one_line
from napari_microdl.fields.field import Field
from napari_microdl.report.cell_pictures import (
    Window,
    followed_channel,
    fullest_window,
    outlines_in,
    picture_edge,
    picture_of,
    require_images,
    strongest_units,
    typical_field,
    typical_units,
)
from napari_microdl.report.concept_summary import WELLS_RULE, ConceptSummary, summarize_concept
from napari_microdl.report.figures import CONDITION_COLOURS, CONTROL_COLOUR
from napari_microdl.report.text import figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOTS_PER_INCH = 300
# Inches: two columns of a journal.
_WIDTH, _HEIGHT, _MARGIN = 7.2, 9.0, 0.15
_INSIDE = _WIDTH - 2 * _MARGIN
_PAIR = 3.1
_IN_A_ROW = 8
_GAP = 0.06
# Diameters of a unit that the large pictures show, and the least pixels.
_UNITS_ACROSS, _LEAST_PIXELS = 9, 256
# As in the window; dark colours are not seen on dark images.
_COLOURS = ListedColormap(colormaps["magma"](np.linspace(0.25, 1, 256)))
_BINS = 40
_TEXT, _SMALL = 8.0, 7.0


def concept_page(
    activations: ConceptActivations,
    fields: Sequence[Field],
    concept: Concept,
    cells: Sequence[NDArray[np.integer] | None],
    *,
    channel: int | None = None,
    pixel_size: float | None = None,
) -> Figure:
    """Draw one page about a concept.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run on `fields`, with its tokens.
    fields : sequence of Field
        All fields of the run.
    concept : int or ConceptSet
        Which concept.
    cells : sequence of (ndarray of shape (height, width) or None)
        Labels of the cells of every field; None of a field whose units are boxes.
    channel : int, optional
        Channel of the fields to show; the one that the heatmap follows where not given.
    pixel_size : float, optional
        Micrometres a pixel, for scale bars; none are drawn where it is not known.

    Returns
    -------
    Figure
        7.2 x 9 inches. A treated and a control field side by side in one contrast and at one
        size, their units outlined in the colour of the activation; the strongest treated and
        typical control units; wells and units of both conditions.

    Raises
    ------
    MicrodlError
        If the images are not open, or there are no units.
    """
    require_images(fields, activations)
    # Whitened tokens are kept of the field looked at last; a window may be looking at another one.
    activations = activations.of_fields(activations.units["field"].unique())
    wells = wells_of(activations, fields)
    summary = summarize_concept(activations, wells, concept)
    if channel is None:
        channel = followed_channel(activations, fields, concept)
    page = _Page(
        activations,
        fields,
        concept,
        cells,
        channel,
        shared_contrast(fields, channel),
        pixel_size,
        wells,
        summary,
        Figure(figsize=(_WIDTH, _HEIGHT), dpi=DOTS_PER_INCH, facecolor="white"),
        Normalize(0, float(activations.activation(concept).max()) or 1.0),
    )
    page.head()
    current_task().progress(1, 4, "Drawing the fields")
    page.pair(top=0.82)
    current_task().progress(2, 4, "Drawing the cells")
    page.gallery(top=4.3)
    current_task().progress(3, 4, "Drawing the wells")
    page.plots(top=6.6)
    page.caption(top=8.4)
    return page.figure


@dataclass(frozen=True, eq=False)
class _Page:
    """What the parts of the page share."""

    activations: ConceptActivations
    fields: Sequence[Field]
    concept: Concept
    cells: Sequence[NDArray[np.integer] | None]
    channel: int
    contrast: Contrast
    pixel_size: float | None
    wells: Wells
    summary: ConceptSummary
    figure: Figure
    norm: Normalize

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at a place in inches from the upper left corner of the page."""
        return self.figure.add_axes(
            (left / _WIDTH, 1 - (top + height) / _HEIGHT, width / _WIDTH, height / _HEIGHT)
        )

    def write(
        self, left: float, top: float, text: str, size: float = _TEXT, weight: str = "normal"
    ) -> None:
        """Words below a place in inches; `text` is ready for a figure."""
        self.figure.text(
            left / _WIDTH, 1 - top / _HEIGHT, text, size=size, weight=weight, va="top", ha="left",
            linespacing=1.3,
        )  # fmt: skip

    def head(self) -> None:
        """The name, the sentence and the numbers."""
        name = fitted(self.summary.name, 12, _INSIDE, bold=True)
        self.write(_MARGIN, 0.12, figure_text(name), 12, "bold")
        text = f"{self.summary.sentence} {self.summary.numbers}"
        lines = wrapped(text, _TEXT, _INSIDE)[:3]
        self.write(_MARGIN, 0.38, "\n".join(map(figure_text, lines)))

    def pair(self, top: float) -> None:
        """A field of the condition and one it is held against, at one size."""
        sides = [
            (typical_field(self.activations, self.concept, rows), rows)
            for rows in (self.summary.inside, self.summary.against)
        ]
        shown = [field for field, _ in sides if field is not None]
        edge = min(
            *(length for field in shown for length in self.fields[field].shape),
            max(_LEAST_PIXELS, round(_UNITS_ACROSS * picture_edge(self.activations) / 2)),
        )
        for number, field in enumerate(shown):
            left = _MARGIN + number * (_PAIR + 2 * _GAP)
            self.letter("a" if number == 0 else "", left, top)
            title = fitted(self._title(field), _TEXT, _PAIR - 0.2)
            self.write(left + 0.2 * (number == 0), top, figure_text(title))
            axes = self.axes(left, top + 0.2, _PAIR, _PAIR)
            self.picture(axes, field, fullest_window(self.activations, field, edge))
            self.scale_bar(axes, edge)
        bar = self.axes(_MARGIN + 2 * _PAIR + 3 * _GAP + 0.05, top + 0.2, 0.1, _PAIR)
        legend = self.figure.colorbar(ScalarMappable(self.norm, _COLOURS), cax=bar)
        legend.outline.set_visible(False)
        bar.tick_params(labelsize=_SMALL, length=2, pad=1)
        bar.set_ylabel(f"activation of the {self.summary.unit}", size=_SMALL, labelpad=2)

    def _title(self, field: int) -> str:
        known = self.fields[field]
        condition = known.condition or ("control" if known.is_control else "no condition")
        role = " (control)" if known.is_control and known.condition else ""
        place = f"well {known.well}" if known.well else known.name
        return f"{condition}{role}, {place}"

    def picture(
        self, axes: Axes, field: int, window: Window, only: int | None = None, width: float = 1.0
    ) -> None:
        """A part of a field with the outlines of its units, or of one alone."""
        shades = self.contrast.apply(picture_of(self.fields[field], window, self.channel))
        axes.imshow(shades, cmap="gray", vmin=0, vmax=1, aspect="equal")
        axes.set_axis_off()
        found = outlines_in(self.activations, self.cells[field], field, window)
        found = [(row, line) for row, line in found if only is None or row == only]
        values = self.activations.activation(self.concept)
        # The strongest last, on top of their neighbours.
        found.sort(key=lambda outline: float(values[outline[0]]))
        for active, wide in ((False, 0.6 * width), (True, width)):
            some = [(row, line) for row, line in found if (values[row] > 0) == active]
            colours = [_COLOURS(self.norm(values[row])) if active else "white" for row, _ in some]
            lines = LineCollection([line for _, line in some], colors=colours, linewidths=wide)
            # A dark rim, for lines on bright cells.
            rim = patheffects.withStroke(linewidth=wide + 0.6, foreground="black", alpha=0.6)
            lines.set_path_effects([rim])
            axes.add_collection(lines, autolim=False)

    def scale_bar(self, axes: Axes, edge: int, size: float = _SMALL) -> None:
        """A bar with its length, where a pixel has a size."""
        if self.pixel_size is None:
            return
        length = round_length(0.3 * edge * self.pixel_size)
        pixels, rim = length / self.pixel_size, 0.04 * edge
        x, y = edge - rim - pixels, edge - 1.5 * rim
        around = [patheffects.withStroke(linewidth=1.5, foreground="black")]
        axes.add_patch(Rectangle((x, y), pixels, rim / 3, fc="white", ec="black", lw=0.5, zorder=4))
        axes.text(
            x + pixels, y - rim / 3, f"{length:g} µm", color="white", ha="right", va="bottom",
            size=size, path_effects=around, zorder=4,
        )  # fmt: skip

    def gallery(self, top: float) -> None:
        """The strongest units of the condition above typical ones that it is held against."""
        summary, edge = self.summary, picture_edge(self.activations)
        size = (_INSIDE - (_IN_A_ROW - 1) * _GAP) / _IN_A_ROW
        condition = f"'{summary.label}' " if summary.label else ""
        for number, (heading, rows) in enumerate(
            (
                (
                    f"{condition}{summary.unit}s with the highest activation",
                    strongest_units(self.activations, self.concept, summary.inside, _IN_A_ROW),
                ),
                (
                    f"typical {summary.unit}s of {summary.others}s",
                    typical_units(self.activations, self.concept, summary.against, _IN_A_ROW),
                ),
            )
        ):
            if not len(rows):
                continue
            above = top + number * (size + 0.3)
            self.letter("b" if number == 0 else "", _MARGIN, above)
            heading = fitted(heading, _TEXT, _INSIDE - 0.2)
            self.write(_MARGIN + 0.2 * (number == 0), above, figure_text(heading))
            for place, row in enumerate(rows.tolist()):
                unit = self.activations.units.iloc[row]
                field = int(unit["field"])
                window = window_at(unit["y"], unit["x"], edge, self.fields[field].shape)
                axes = self.axes(_MARGIN + place * (size + _GAP), above + 0.2, size, size)
                self.picture(axes, field, window, only=row, width=0.8)
                if place == 0:
                    self.scale_bar(axes, edge, 5.5)

    def plots(self, top: float) -> None:
        """Wells and units of both sides."""
        summary = self.summary
        colours = (CONDITION_COLOURS[3], CONTROL_COLOUR)
        sides = [
            (rows, colour, name, n_wells)
            for rows, colour, name, n_wells in (
                (summary.inside, colours[0], summary.label or "this condition", summary.n_wells),
                (summary.against, colours[1], f"{summary.others}s", summary.n_wells_others),
            )
            if rows.any()
        ]
        left, width, height = _MARGIN + 1.2, 2.15, 1.05
        axes = self.axes(left, top + 0.22, width, height)
        self.letter("c", _MARGIN, top)
        self.write(_MARGIN + 0.2, top, f"wells: share of their {summary.unit}s with the concept")
        active = self.activations.activation(self.concept) > 0
        random = np.random.default_rng(0)
        for place, (rows, colour, _, _) in enumerate(sides):
            shares = 100 * self.wells.mean(active, rows)
            shares = shares[np.isfinite(shares)]
            jitter = random.uniform(-0.2, 0.2, len(shares)) if len(shares) > 1 else np.zeros(1)
            axes.scatter(
                shares, place + jitter, s=16, color=colour, alpha=0.8, linewidths=0.4,
                edgecolors="white", clip_on=False, zorder=3,
            )  # fmt: skip
            axes.plot([np.median(shares)] * 2, [place - 0.32, place + 0.32], color="black", lw=1.2)
        names = [
            "\n".join((figure_text(fitted(name, _SMALL, 1.1)), f"{n} well{'' if n == 1 else 's'}"))
            for _, _, name, n in sides
        ]
        axes.set_yticks(range(len(sides)), names)
        axes.set_ylim(len(sides) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel(f"{summary.unit}s with the concept (%)", size=_SMALL, labelpad=2)
        _plain(axes)

        left, width = left + width + 0.75, _WIDTH - _MARGIN - left - width - 0.75
        axes = self.axes(left, top + 0.22, width, height)
        self.letter("d", left - 0.55, top)
        self.write(left - 0.35, top, f"{summary.unit}s: cosine with the concept")
        cosines = self.activations.alignment(self.concept)
        edges = np.histogram_bin_edges(cosines[summary.inside | summary.against], _BINS)
        for rows, colour, name, _ in reversed(sides):
            shares = np.histogram(cosines[rows], edges)[0] / rows.sum()
            text = f"{fitted(name, _SMALL, 1.1)} ({rows.sum():,})"
            treated = colour == colours[0]
            axes.stairs(
                100 * shares, edges, color=colour, fill=not treated, label=figure_text(text),
                alpha=1.0 if treated else 0.5, linewidth=1.2,
            )  # fmt: skip
        axes.set_ylabel(f"{summary.unit}s (%)", size=_SMALL, labelpad=2)
        axes.set_xlabel("cosine with the concept", size=_SMALL, labelpad=2)
        low, high = axes.get_ylim()
        # Room for the legend above the highest bin.
        axes.set_ylim(low, high * 1.3)
        axes.legend(
            fontsize=_SMALL, frameon=False, loc="upper right", ncols=2, handlelength=1,
            columnspacing=1, borderaxespad=0.1,
        )  # fmt: skip
        _plain(axes)

    def letter(self, letter: str, left: float, top: float) -> None:
        """The letter of a part of the figure."""
        self.write(left, top - 0.02, letter, 10, "bold")

    def caption(self, top: float) -> None:
        """What is drawn, and how."""
        unit, channel = self.summary.unit, self.fields[0].channel_names[self.channel]
        low, high = self.contrast.low, self.contrast.high
        size = "" if self.pixel_size is None else f" at {self.pixel_size:.4g} µm a pixel"
        text = (
            f"a, the fields in which the share of {unit}s with the concept is the median of their "
            f"condition; shown is the part with most {unit}s. Outlines have the colour of the "
            "activation; thin white ones: not active. b, outlined in the same colours; typical: of "
            "usual size, with the cosine nearest to the median. c, a point a well, bars are "
            f"medians. {WELLS_RULE} "
            f"Channel {channel}; all pictures in one contrast ({low:.4g} to {high:.4g}, "
            f"gamma {GAMMA:g}){size}. Concept {self.activations.id_of(self.concept)}."
        )
        lines = wrapped(text, 6.5, _INSIDE)[:4]
        self.write(_MARGIN, top, "\n".join(map(figure_text, lines)), 6.5)


def round_length(most: float) -> float:
    """The longest of 1, 2 and 5 times a power of ten that is not above a length."""
    power = 10.0 ** np.floor(np.log10(most))
    return float(power * max(step for step in (1, 2, 5) if step * power <= most * (1 + 1e-9)))


@cache
def _width_of(letter: str, bold: bool) -> float:
    """Width of a letter in inches, at a size of one point."""
    font = FontProperties(size=100, weight="bold" if bold else "normal")
    # Letters of a picture are a little wider, as their edges lie on its dots.
    width = text_to_path.get_text_width_height_descent(letter, font, ismath=False)[0]
    return 1.02 * float(width) / 100 / 72


def _inches(text: str, size: float, bold: bool = False) -> float:
    return size * sum(_width_of(letter, bold) for letter in text)


def fitted(text: str, size: float, width: float, *, bold: bool = False) -> str:
    """A text of a person in one line of a width in inches, cut where it is longer."""
    text = one_line(text)
    if _inches(text, size, bold) <= width:
        return text
    fits = next(
        n for n in range(len(text) - 1, -1, -1) if _inches(f"{text[:n]}…", size, bold) <= width
    )
    return f"{text[:fits].rstrip()}…"


def wrapped(text: str, size: float, width: float) -> list[str]:
    """A text in lines of a width in inches."""
    lines = [""]
    for word in one_line(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _inches(longer, size) > width:
            lines.append(fitted(word, size, width))
        else:
            lines[-1] = longer if _inches(longer, size) <= width else fitted(longer, size, width)
    return lines


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=_SMALL, length=2, pad=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
