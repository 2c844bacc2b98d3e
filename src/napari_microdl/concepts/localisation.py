"""Where a concept lies: in the cells, or in the whole field, which its background tells as well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.concepts.heat import HeatMaps
from napari_microdl.core.task import current_task
from napari_microdl.metrics import separation_auc
from napari_microdl.tokens.units import Units

# Background that tells a condition from controls by more than this makes it a concept of the field.
FIELD_AUC = 0.7
PLACES = ("", "cells", "field")
COLUMNS = ("place", "in_cells", "background_auc", "auc_left", "within_wells")
_CONTROL_FIELDS = 12
_FIELDS_OF_A_LABEL = 4
# With fewer patches without a cell, a field has no background to speak of.
_LEAST_BACKGROUND = 20
# A patch counts as cell where cells cover half of it.
_CELL = 0.5


def unknown_places(n_concepts: int) -> dict[str, NDArray[np.generic]]:
    """The columns of `locate_concepts` where nothing is known."""
    return {
        name: np.full(n_concepts, "", "<U5") if name == "place" else np.full(n_concepts, np.nan)
        for name in COLUMNS
    }


def locate_concepts(
    heat: HeatMaps,
    geometry: Sequence[Units],
    of_unit: NDArray[np.integer],
    conditions: NDArray[np.str_],
    control: NDArray[np.bool_],
    wells: NDArray[np.generic],
    labels: NDArray[np.str_],
) -> dict[str, NDArray[np.generic]]:
    """Where each concept lies in the condition that it is most selective for.

    Parameters
    ----------
    heat : HeatMaps
        Of the run.
    geometry : sequence of Units
        Cells of every field.
    of_unit : ndarray of shape (n_units,)
        Field of every unit, in the order of the fields.
    conditions, control, wells : ndarray of shape (n_units,)
        Condition of every unit, whether it is a control, and its well.
    labels : ndarray of str, shape (n_concepts,)
        Condition that each concept is most selective for.

    Returns
    -------
    dict of str to ndarray of shape (n_concepts,)
        ``in_cells``: probability that a patch of a cell is hotter than one of the background of the
        same field, in fields of the label. ``background_auc``: probability that a background patch
        of the label is hotter than one of a control field; above 0.7 the concept is one of the
        whole field. ``auc_left``: area under the ROC curve of label against controls that is left
        when the mean heat of its field's background is taken from every cell. ``within_wells``:
        share of the variance of the label's cells that lies within wells, 0 to 1. ``place``:
        "cells", "field", or empty where there is too little background to tell. NaN where it
        cannot be told. At most 12 control fields and 4 of a label are looked at.
    """
    fields = {name: np.unique(of_unit[conditions == name])[:_FIELDS_OF_A_LABEL] for name in labels}
    controls = np.unique(of_unit[control])
    controls = controls[:: max(1, -(-len(controls) // _CONTROL_FIELDS))]
    wanted = sorted({*controls.tolist(), *(f for some in fields.values() for f in some.tolist())})
    found: dict[int, _Heat] = {}
    for field in wanted:
        current_task().check()
        found[field] = _heat_of(heat, geometry[field], field)
    table = unknown_places(len(labels))
    rows_of = {field: np.flatnonzero(of_unit == field) for field in wanted}
    for concept, label in enumerate(labels):
        current_task().check()
        treated = [f for f in fields[label].tolist() if f not in controls]
        place, values = _locate(
            concept,
            {f: found[f] for f in treated},
            {f: found[f] for f in controls.tolist()},
            {f: wells[rows_of[f]] for f in treated},
        )
        table["place"][concept] = place
        for name, value in zip(COLUMNS[1:], values, strict=True):
            table[name][concept] = value
    return table


class _Heat:
    """Heat of all concepts on one field: on cell patches, on background, and the mean of units."""

    def __init__(
        self,
        cells: NDArray[np.float32],
        background: NDArray[np.float32],
        units: NDArray[np.float32],
    ) -> None:
        self.cells = cells
        self.background = background
        self.units = units


def _heat_of(heat: HeatMaps, units: Units, field: int) -> _Heat:
    every = heat.of_all_concepts(field)
    covered = np.asarray(units.weights.sum(axis=0)).ravel() / heat.patch_area(field)
    area = np.asarray(units.weights.sum(axis=1)).ravel()[:, None]
    background = every[covered == 0]
    return _Heat(
        every[covered >= _CELL],
        background if len(background) >= _LEAST_BACKGROUND else background[:0],
        np.asarray(units.weights @ every / area, np.float32),
    )


def _locate(
    concept: int,
    treated: dict[int, _Heat],
    controls: dict[int, _Heat],
    wells: dict[int, NDArray[np.generic]],
) -> tuple[str, tuple[float, float, float, float]]:
    """Place, and values of the other columns in their order."""
    inside = [_auc(h.cells[:, concept], h.background[:, concept]) for h in treated.values()]
    inside = [value for value in inside if np.isfinite(value)]
    background = _auc(
        _joined([h.background[:, concept] for h in treated.values()]),
        _joined([h.background[:, concept] for h in controls.values()]),
    )
    own = [
        _joined([h.units[:, concept] - h.background[:, concept].mean() for h in some.values()])
        if all(len(h.background) for h in some.values())
        else np.empty(0, np.float32)
        for some in (treated, controls)
    ]
    values = _joined([h.units[:, concept] for h in treated.values()])
    well = np.concatenate([w.astype(str) for w in wells.values()]) if wells else np.empty(0, str)
    place = "" if np.isnan(background) else ("field" if background > FIELD_AUC else "cells")
    return place, (
        float(np.mean(inside)) if inside else np.nan,
        background,
        _auc(*own),
        _within(values, well),
    )


def _joined(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _auc(above: NDArray[np.float32], below: NDArray[np.float32]) -> float:
    positive = np.arange(len(above) + len(below)) < len(above)
    return separation_auc(np.concatenate([above, below]), positive)


def _within(values: NDArray[np.float32], groups: NDArray[np.generic]) -> float:
    """Share of the variance that lies within groups."""
    if len(values) < 2 or np.ptp(values) == 0:
        return np.nan
    by_group = pd.Series(values.astype(np.float64)).groupby(groups)
    return float(((values - by_group.transform("mean")) ** 2).sum() / (len(values) * values.var()))
