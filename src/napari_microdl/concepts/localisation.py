"""Where a concept lies: in the cells, or in the whole field, which its background tells as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.concepts.heat import HeatMaps
from napari_microdl.core.task import current_task
from napari_microdl.metrics import separation_auc
from napari_microdl.tokens.units import Units

# Background that tells a condition from controls by more than this makes it a concept of the field.
FIELD_AUC = 0.7
PLACES_IN_WORDS = {"": "", "cells": "in the cells", "field": "of the whole field"}
COLUMNS = ("place", "in_cells", "background_auc", "auc_left", "within_wells")
_CONTROL_FIELDS = 12
_FIELDS_OF_A_LABEL = 4
# With fewer patches without a cell, a field has no background to speak of.
_LEAST_BACKGROUND = 20
# Of each kind in a field; a field of 512 pixels has fewer.
_MOST_PATCHES = 4096
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
        share of the variance of the label's cells that lies within wells, 0 to 1; of one well
        nothing is known. ``place``: "cells", "field", or empty where there is too little background
        to tell. NaN where it cannot be told. At most 12 control fields and 4 of a label are looked
        at, spread over them evenly.
    """
    controls = np.unique(of_unit[control])
    controls = _spread(controls, _CONTROL_FIELDS)
    of_controls = [_patches_of(heat, geometry[field], field) for field in controls.tolist()]
    table, directions = unknown_places(len(labels)), heat.directions
    # A label at a time, so that only its own few fields are held beside those of controls.
    for label in np.unique(labels):
        treated = _spread(np.unique(of_unit[conditions == label]), _FIELDS_OF_A_LABEL)
        treated = treated[~np.isin(treated, controls)]
        of_label = [_patches_of(heat, geometry[field], field) for field in treated.tolist()]
        well = [wells[of_unit == field].astype(str) for field in treated]
        known_wells = np.concatenate(well) if well else np.empty(0, str)
        for concept in np.flatnonzero(labels == label).tolist():
            current_task().check()
            direction = directions[concept]
            place, values = _locate(
                [patches.heat(direction) for patches in of_label],
                [patches.heat(direction) for patches in of_controls],
                known_wells,
            )
            table["place"][concept] = place
            for name, value in zip(COLUMNS[1:], values, strict=True):
                table[name][concept] = value
    return table


@dataclass(frozen=True, eq=False)
class _Patches:
    """Cell patches, background and the mean of units: of one field whitened, or their heat."""

    cells: NDArray[np.float32]
    background: NDArray[np.float32]
    units: NDArray[np.float32]

    def heat(self, direction: NDArray[np.float32]) -> _Patches:
        return _Patches(self.cells @ direction, self.background @ direction, self.units @ direction)


def _patches_of(heat: HeatMaps, units: Units, field: int) -> _Patches:
    current_task().check()
    every = heat.whitened(field)
    covered = np.asarray(units.weights.sum(axis=0)).ravel() / heat.patch_area(field)
    area = np.asarray(units.weights.sum(axis=1)).ravel()[:, None]
    cells, background = np.flatnonzero(covered >= _CELL), np.flatnonzero(covered == 0)
    if len(background) < _LEAST_BACKGROUND:
        background = background[:0]
    return _Patches(
        every[_spread(cells, _MOST_PATCHES)],
        every[_spread(background, _MOST_PATCHES)],
        np.asarray(units.weights @ every / area, np.float32),
    )


def _spread(numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """So many at most, spread evenly over them."""
    return numbers[:: max(1, -(-len(numbers) // most))]


def _locate(
    treated: list[_Patches], controls: list[_Patches], wells: NDArray[np.str_]
) -> tuple[str, tuple[float, float, float, float]]:
    """Place of a concept by its heat, and values of the other columns in their order."""
    inside = [_auc(h.cells, h.background) for h in treated]
    inside = [value for value in inside if np.isfinite(value)]
    background = _auc(*(_joined([h.background for h in side]) for side in (treated, controls)))
    own = [
        _joined([h.units - h.background.mean() for h in side])
        if all(len(h.background) for h in side)
        else np.empty(0, np.float32)
        for side in (treated, controls)
    ]
    place = "" if np.isnan(background) else ("field" if background > FIELD_AUC else "cells")
    return place, (
        float(np.mean(inside)) if inside else np.nan,
        background,
        _auc(*own),
        _within(_joined([h.units for h in treated]), wells),
    )


def _joined(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _auc(above: NDArray[np.float32], below: NDArray[np.float32]) -> float:
    positive = np.arange(len(above) + len(below)) < len(above)
    return separation_auc(np.concatenate([above, below]), positive)


def _within(values: NDArray[np.float32], groups: NDArray[np.generic]) -> float:
    """Share of the variance that lies within groups; of one group it says nothing."""
    if len(np.unique(groups)) < 2 or np.ptp(values) == 0:
        return np.nan
    by_group = pd.Series(values.astype(np.float64)).groupby(groups)
    return float(((values - by_group.transform("mean")) ** 2).sum() / (len(values) * values.var()))
