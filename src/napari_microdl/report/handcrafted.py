"""Handcrafted measurements of the cells of a run, beside their codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field
from napari_microdl.metrics import (
    Library,
    active,
    average_selectivity,
    baseline_correlation,
    cell_measurements,
    quantile_codes,
)


def measurements(
    activations: ConceptActivations,
    fields: Sequence[Field],
    cells: Sequence[NDArray[np.integer] | None],
    library: Library = "scikit-image",
) -> pd.DataFrame:
    """Measure the cells of a run, in the order of its units.

    Parameters
    ----------
    activations : ConceptActivations
        The run, or some of its fields.
    fields : sequence of Field
        All fields of the run.
    cells : sequence of ndarray of shape (height, width)
        Their cells.
    library : {"scikit-image", "cp_measure"}
        Whose measurements, see `cell_measurements`.

    Returns
    -------
    DataFrame of n_units rows
        Columns of `cell_measurements`.
    """
    channels = activations.dictionary.spec.tokens.channels
    numbers, parts = activations.units["field"].unique(), []
    for place, number in enumerate(numbers):
        field, labels = fields[number], cells[number]
        assert labels is not None
        with current_task().step(place, len(numbers), f"Measuring the cells of {field.name}"):
            image = field.read(field.channel_indices(channels))
            table = cell_measurements(image, labels, channels, library=library)
        rows = activations.rows_of_field(number)
        parts.append(table.loc[activations.units["label"].to_numpy()[rows]])
    return pd.concat(parts, ignore_index=True)


def compare_handcrafted(
    activations: ConceptActivations, measured: pd.DataFrame, label: NDArray[np.str_]
) -> pd.DataFrame:
    """The best measurement of every label, beside its best concept.

    Parameters
    ----------
    activations : ConceptActivations
        The run.
    measured : DataFrame of n_units rows
        As `measurements` returns it.
    label : ndarray of str, shape (n_units,)
        Labels, two or more.

    Returns
    -------
    DataFrame of one row a label
        See `EvaluationReport`; what is of all labels together stands in ``attrs``.

    Raises
    ------
    MicrodlError
        If codes have more non-zeros than there are measurements.

    Notes
    -----
    Paper, section 4: handcrafted baseline. Thresholded at a quantile, every measurement is active
    in the same share of the samples, which limits its selectivity; the area under the curve needs
    no threshold.
    """
    names, n = measured.columns.to_numpy(), len(label)
    codes = quantile_codes(measured.to_numpy(), active(activations.codes).nnz / n)
    classes, measured_best = average_selectivity(codes, label)
    _, learned = average_selectivity(activations.codes, label)
    rows = []
    for number, (name, areas) in enumerate(
        zip(classes, _areas(measured.to_numpy(), label), strict=True)
    ):
        best, clearest = measured_best[number].argmax(), np.abs(areas - 0.5).argmax()
        of_label = int((label == name).sum())
        hits = codes.nnz / codes.shape[1]
        limit = min(hits / of_label, 1) - max(hits - of_label, 0) / (n - of_label)
        rows.append(
            {
                "label": str(name),
                "measurement": str(names[best]),
                "selectivity": measured_best[number, best],
                "limit": limit,
                "concept_selectivity": learned[number].max(),
                "auc_measurement": str(names[clearest]),
                "side": "larger" if areas[clearest] > 0.5 else "smaller",
                "auc": max(areas[clearest], 1 - areas[clearest]),
            }
        )
    table = pd.DataFrame(rows)
    table.attrs = {
        "n_measurements": len(names),
        "non_zeros": codes.nnz / n,
        "correlation": baseline_correlation(measured_best.max(axis=1), learned.max(axis=1)),
    }
    return table


def _areas(x: NDArray[np.floating], label: NDArray[np.str_]) -> NDArray[np.float64]:
    """Area under the curve of every measurement for every label against the rest."""
    ranks = stats.rankdata(x, axis=0)
    inside = label == np.unique(label)[:, None]
    n = inside.sum(axis=1)[:, None]
    u = inside.astype(np.float64) @ ranks - n * (n + 1) / 2
    areas: NDArray[np.float64] = u / (n * (len(label) - n))
    return areas
