"""A plate drawn as a heat map of its wells, on axes that the caller makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.collections import PatchCollection
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from napari_microdl.concepts.wells import NO_CELLS, NOTED, plate_format
from napari_microdl.fields.metadata import row_letters
from napari_microdl.report.figures import CONDITION_COLOURS, CONTROL_COLOUR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS, SIGNED_COLOURS = "viridis", "PuOr_r"
_FLAGS = {"": "nothing noted", NOTED: "named in a note", NO_CELLS: "no {unit}s"}
_FLAG_COLOURS = (CONTROL_COLOUR, CONDITION_COLOURS[0], CONDITION_COLOURS[3])
# Rows and columns that are named, at least; all would overlap in a dock.
_NAMED = 6
# Part of its place that a well fills.
_SIZE = 0.86


class PlateValue(NamedTuple):
    """What a plate can be coloured by: its column, words for a person, whether it has a sign."""

    column: str
    title: str
    colour_bar: str
    signed: bool = False


VALUES = {
    value.column: value
    for value in (
        PlateValue("mean_activation", "Mean activation", "mean activation of the {unit}s"),
        PlateValue("share_active", "Share of active {unit}s", "{unit}s with the concept (%)"),
        PlateValue("n_units", "Number of {unit}s", "{unit}s in the well"),
        PlateValue("flag", "Flags", ""),
    )
}


def draw_plate(
    axes: Axes, wells: pd.DataFrame, column: str | PlateValue, unit: str, text: str
) -> None:
    """Wells of one plate as squares, coloured by what is known of them.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    wells : DataFrame
        Rows of one plate as `Wells.of_concept` gives them, all with a place on it.
    column : {"mean_activation", "share_active", "n_units", "flag"} or PlateValue
        What decides the colour; of others than these, a column of the table.
    unit : str
        What one unit is.
    text : str
        Colour of lines and words.

    Notes
    -----
    Places of which the run has no field are dots; a well with fields but without units has a cross
    and no colour, which tells it from one in which the concept is never active. Controls have a
    rim.
    """
    rows, columns = plate_format(wells)
    shown = column if isinstance(column, PlateValue) else VALUES[column]
    column = shown.column
    flags = column == "flag"
    colours: str | Colormap
    if flags:
        values = wells["flag"].map(list(_FLAGS).index).to_numpy(float)
        colours, norm = ListedColormap(_FLAG_COLOURS), Normalize(0, len(_FLAGS) - 1)
    else:
        values = wells[column].to_numpy(float) * (100 if column == "share_active" else 1)
        top = 100.0 if column == "share_active" else float(np.nanmax(values, initial=0)) or 1.0
        if shown.signed:
            top = float(np.nanmax(np.abs(values), initial=0)) or 1.0
        colours = SIGNED_COLOURS if shown.signed else COLOURS
        norm = Normalize(-top if shown.signed else 0, top)
    y, x = wells["row"].to_numpy(), wells["column"].to_numpy()
    known = np.isfinite(values) & (flags | (wells["n_units"] > 0).to_numpy())
    filled = PatchCollection(
        [_square(*place) for place in zip(y[known], x[known], strict=True)], cmap=colours, norm=norm
    )
    filled.set_array(values[known])
    axes.add_collection(filled)
    for chosen, width in ((~wells["control"], 0.4), (wells["control"], 1.8)):
        places = zip(y[chosen], x[chosen], strict=True)
        axes.add_collection(
            PatchCollection(
                [_square(*place) for place in places],
                facecolors="none", edgecolors=text, linewidths=width,
            )
        )  # fmt: skip
    without = (wells["n_units"] == 0).to_numpy()
    axes.plot(x[without], y[without], "x", color=text, markersize=4, markeredgewidth=1)
    taken = set(zip(y.tolist(), x.tolist(), strict=True))
    empty = [place for place in np.ndindex(rows, columns) if place not in taken]
    if empty:
        dots: NDArray[np.int64] = np.array(empty).T
        axes.plot(dots[1], dots[0], ".", color=text, markersize=1.5, alpha=0.5)
    _name_places(axes, rows, columns)
    handles = []
    if wells["control"].any():
        handles.append(Patch(facecolor="none", edgecolor=text, linewidth=1.8, label="control"))
    if flags:
        handles += [
            Patch(facecolor=colour, label=text.format(unit=unit))
            for colour, text in zip(_FLAG_COLOURS, _FLAGS.values(), strict=True)
        ]
    else:
        # Beside the plate and as high, whatever room there is.
        bar = axes.figure.colorbar(filled, cax=axes.inset_axes((1.02, 0, 0.025, 1)))
        bar.set_label(shown.colour_bar.format(unit=unit))
        bar.outline.set_visible(False)
    if not handles:
        return
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, frameon=False,
        fontsize=8, labelcolor=text, handlelength=1, handleheight=1,
    )  # fmt: skip


def _square(row: int, column: int) -> Rectangle:
    return Rectangle((column - _SIZE / 2, row - _SIZE / 2), _SIZE, _SIZE)


def _name_places(axes: Axes, rows: int, columns: int) -> None:
    axes.set_aspect("equal")
    axes.set_xlim(-0.6, columns - 0.4)
    axes.set_ylim(rows - 0.4, -0.6)
    for n, set_ticks, name in (
        (rows, axes.set_yticks, row_letters),
        (columns, axes.set_xticks, lambda column: str(column + 1)),
    ):
        named = range(0, n, n // _NAMED)
        set_ticks(list(named), [name(number) for number in named])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=1)
    for spine in axes.spines.values():
        spine.set_linewidth(0)
