"""Pictures of units at one size, and which units and fields to show."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.concept_set import Concept
from napari_microdl.concepts.painting import channel_correlations, window_at
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field

_SMALLEST = 24
# Of the square root of its area, for the edge of the picture of a unit: two diameters of a disc.
_MARGIN = 2.25

Window = tuple[slice, slice]


def followed_channel(
    activations: ConceptActivations, fields: Sequence[Field], concept: Concept
) -> int:
    """The channel that the heatmap of a concept follows where it is strongest; 0 of one channel."""
    if fields[0].n_channels == 1:
        return 0
    number = int(activations.units["field"].iloc[activations.top_units(concept, 1)[0]])
    correlations = channel_correlations(
        activations.heatmap(number, concept),
        fields[number].read(),
        activations.grids[number].patch_size,
    )
    return int(np.nan_to_num(correlations, nan=-1.0).argmax())


def strongest_units(
    activations: ConceptActivations, concept: Concept, rows: NDArray[np.bool_], n: int
) -> NDArray[np.int64]:
    """Rows of the `n` units with the highest activation among some, strongest first."""
    among = np.flatnonzero(rows)
    # Where it is not active in so many, the most aligned follow.
    order = activations.activation(concept)[among] + 1e-6 * activations.alignment(concept)[among]
    return _first(among, -order, n)


def typical_units(
    activations: ConceptActivations, concept: Concept, rows: NDArray[np.bool_], n: int
) -> NDArray[np.int64]:
    """Rows of `n` units of some with the cosine nearest to their median, and of usual size."""
    among = np.flatnonzero(rows)
    area = activations.units["area"].to_numpy()[among]
    if len(among):
        low, high = np.quantile(area, [0.25, 0.75])
        among = among[(low <= area) & (area <= high)]
    cosines = activations.alignment(concept)[among]
    return _first(among, np.abs(cosines - np.median(cosines)) if len(among) else cosines, n)


def _first(among: NDArray[np.int64], order: NDArray[np.floating], n: int) -> NDArray[np.int64]:
    n = min(n, len(among))
    if not n:
        return among[:0]
    chosen = np.argpartition(order, n - 1)[:n]
    rows: NDArray[np.int64] = among[chosen[np.argsort(order[chosen], kind="stable")]]
    return rows


def typical_field(
    activations: ConceptActivations, concept: Concept, rows: NDArray[np.bool_]
) -> int | None:
    """Number of the field with the median share of active units; None where there are no units."""
    of_field = activations.units["field"].to_numpy()[rows]
    if not len(of_field):
        return None
    active = (activations.activation(concept) > 0)[rows]
    numbers, place = np.unique(of_field, return_inverse=True)
    shares = np.bincount(place, active) / np.bincount(place)
    return int(numbers[np.argsort(shares, kind="stable")[(len(shares) - 1) // 2]])


def picture_edge(activations: ConceptActivations) -> int:
    """Edge of the pictures of units in pixels, the same for all units of a run."""
    area = float(np.quantile(activations.units["area"], 0.75)) if len(activations.units) else 0.0
    return max(_SMALLEST, round(_MARGIN * math.sqrt(area)))


def picture_of(field: Field, window: Window, channel: int) -> NDArray[np.generic]:
    """Intensities of a part of a field; nothing but its rows is read of a lazy file."""
    rows, columns = window
    part: NDArray[np.generic] = field.read_rows(rows.start, rows.stop, (channel,))[0][:, columns]
    return part


def fullest_window(activations: ConceptActivations, field: int, edge: int) -> Window:
    """Square part of a field with the most units."""
    units = activations.units.iloc[activations.rows_of_field(field)]
    y, x = units["y"].to_numpy(), units["x"].to_numpy()
    shape = activations.grids[field].image_shape
    best, most = window_at(shape[0] / 2, shape[1] / 2, edge, shape), -1
    # Of very many units some are tried.
    for at in range(0, len(units), max(1, len(units) // 500)):
        window = window_at(y[at], x[at], edge, shape)
        rows, columns = window
        count = int(
            ((y >= rows.start) & (y < rows.stop) & (x >= columns.start) & (x < columns.stop)).sum()
        )
        if count > most:
            best, most = window, count
    return best


def outlines_in(
    activations: ConceptActivations,
    labels: NDArray[np.integer] | None,
    field: int,
    window: Window,
) -> list[tuple[int, NDArray[np.float64]]]:
    """Outlines of the units in a part of a field.

    Parameters
    ----------
    activations : ConceptActivations
        The run.
    labels : ndarray of shape (height, width) or None
        Cells of the field; None where units are boxes.
    field : int
        Its number.
    window : tuple of slice
        Rows and columns of pixels.

    Returns
    -------
    list of (row, ndarray of shape (n, 2))
        Row of the table of units, and x and y of the corners of a line around it, in pixels from
        the centre of the first one of the window. A cell in parts has several.
    """
    of_field = activations.rows_of_field(field)
    units, (rows, columns) = activations.geometry[field], window
    corner = np.array([columns.start, rows.start])
    if labels is None:
        top, left, bottom, right = units.boxes.T
        seen = (
            (bottom > rows.start) & (top < rows.stop)
            & (right > columns.start) & (left < columns.stop)
        )  # fmt: skip
        return [
            (int(of_field[at]), np.array([(x, y), (u, y), (u, v), (x, v), (x, y)]) - 0.5 - corner)
            for at in np.flatnonzero(seen).tolist()
            for y, x, v, u in [units.boxes[at].tolist()]
        ]
    from scipy import ndimage
    from skimage.measure import find_contours

    row_of = dict(zip(units.ids.tolist(), of_field.tolist(), strict=True))
    found = []
    inside = labels[window]
    names, numbered = np.unique(inside, return_inverse=True)
    for number, box in enumerate(ndimage.find_objects(numbered.reshape(inside.shape) + 1)):
        row = row_of.get(int(names[number]))
        if row is None or box is None:
            continue
        mask = np.pad(inside[box] == names[number], 1).astype(np.float32)
        start = np.array([box[1].start, box[0].start]) - 1
        found += [(row, line[:, ::-1] + start) for line in find_contours(mask, 0.5)]
    return found


def require_images(fields: Sequence[Field], activations: ConceptActivations) -> None:
    """Refuse a run without its images, or without units.

    Raises
    ------
    MicrodlError
        Says what to do.
    """
    if not fields or not activations.grids:
        raise MicrodlError(
            "The images of this run are not open, so there is nothing to draw; run the workflow "
            "with its dictionary on the images first."
        )
    if not len(activations.units):
        raise MicrodlError(
            f"There is no {activations.dictionary.spec.units.kind} in these images, so there is "
            "nothing to draw."
        )
