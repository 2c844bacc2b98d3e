"""Cells of a run measured by hand, beside their codes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.fields.field import Field
from napari_microdl.metrics import (
    Library,
    active,
    average_selectivity,
    baseline_correlation,
    iter_cell_measurements,
    quantile_codes,
)


def iter_measurements(
    activations: ConceptActivations,
    fields: Sequence[Field],
    cells: Sequence[NDArray[np.integer] | None],
    library: Library = "scikit-image",
) -> Generator[tuple[float, str], None, pd.DataFrame]:
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

    Yields
    ------
    share, message : float and str
        Share of the cells that is done, 0 to 1; stop iterating to cancel.

    Returns
    -------
    DataFrame of n_units rows
        Columns of `cell_measurements`.
    """
    channels = activations.dictionary.spec.channel_names
    numbers = activations.units["field"].unique()
    before, total = 0, max(len(activations.units), 1)
    parts = []
    for number in numbers:
        field, labels = fields[number], cells[number]
        assert labels is not None
        rows = activations.rows_of_field(number)
        steps = iter_cell_measurements(
            field.read(field.channel_indices(channels)), labels, channels, library=library
        )
        while True:
            try:
                done, of_them = next(steps)
            except StopIteration as finished:
                table = finished.value
                break
            share = (before + len(rows) * done / of_them) / total
            yield share, f"Measuring the cells of {field.name}"
        before += len(rows)
        parts.append(table.loc[activations.units["label"].to_numpy()[rows]])
    return pd.concat(parts, ignore_index=True)


def compare_by_hand(
    activations: ConceptActivations, measured: pd.DataFrame, label: NDArray[np.str_]
) -> dict[str, Any]:
    """The best measurement of every label, beside its best concept.

    Parameters
    ----------
    activations : ConceptActivations
        The run.
    measured : DataFrame of n_units rows
        As `iter_measurements` returns it.
    label : ndarray of str, shape (n_units,)
        Labels, two or more.

    Returns
    -------
    dict
        See `EvaluationReport`.

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
    classes, by_hand = average_selectivity(codes, label)
    _, learned = average_selectivity(activations.codes, label)
    rows = []
    for number, (name, areas) in enumerate(
        zip(classes, _areas(measured.to_numpy(), label), strict=True)
    ):
        best, told = by_hand[number].argmax(), np.abs(areas - 0.5).argmax()
        of_label = int((label == name).sum())
        hits = codes.nnz / codes.shape[1]
        limit = min(hits / of_label, 1) - max(hits - of_label, 0) / (n - of_label)
        rows.append(
            {
                "label": str(name),
                "measurement": str(names[best]),
                "selectivity": by_hand[number, best],
                "limit": limit,
                "concept_selectivity": learned[number].max(),
                "auc_measurement": str(names[told]),
                "side": "larger" if areas[told] > 0.5 else "smaller",
                "auc": max(areas[told], 1 - areas[told]),
            }
        )
    return {
        "n_measurements": len(names),
        "non_zeros": codes.nnz / n,
        "correlation": baseline_correlation(by_hand.max(axis=1), learned.max(axis=1)),
        "labels": rows,
    }


def _areas(x: NDArray[np.floating], label: NDArray[np.str_]) -> NDArray[np.float64]:
    """Area under the curve of every measurement for every label against the rest."""
    ranks = stats.rankdata(x, axis=0)
    inside = label == np.unique(label)[:, None]
    n = inside.sum(axis=1)[:, None]
    u = inside.astype(np.float64) @ ranks - n * (n + 1) / 2
    areas: NDArray[np.float64] = u / (n * (len(label) - n))
    return areas
