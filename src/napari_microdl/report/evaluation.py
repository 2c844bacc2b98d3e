"""Everything that can be measured of a run, one measure after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.core.config import EvaluationChoices
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field
from napari_microdl.metrics import require_library
from napari_microdl.report.measures import NEEDS, EvaluationInput, Measure, is_ours, measures
from napari_microdl.report.options import seen_units
from napari_microdl.report.results import EvaluationReport, plain


def evaluate(
    activations: ConceptActivations,
    choices: EvaluationChoices | None = None,
    *,
    fields: Sequence[Field] | None = None,
    cells: Sequence[NDArray[np.integer] | None] | None = None,
    most_samples: int = 20_000,
) -> EvaluationReport:
    """Measure everything that a run allows.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run, best on fields that the dictionary was not fitted on.
    choices : EvaluationChoices, optional
        What to ask; the defaults where not given.
    fields : sequence of Field, optional
        All fields of the run, for handcrafted measurements.
    cells : sequence of ndarray of shape (height, width), optional
        Cells of every field, for handcrafted measurements.
    most_samples : int, default=20,000
        Of more samples as many are probed and reconstructed: those of more take longer and are
        hardly steadier.

    Returns
    -------
    EvaluationReport
        What cannot be measured is left out, with a note.

    Raises
    ------
    MicrodlError
        If there are no units, none are left, the column of labels is not there, or cells are to be
        measured with a library that is not installed.
    """
    choices = choices or EvaluationChoices()
    if choices.handcrafted:
        require_library(choices.library)
    if not len(activations.units):
        raise MicrodlError("There are no units to evaluate; the fields have no cells.")
    chosen, notes = _chosen_fields(activations, choices)
    run = EvaluationInput(chosen, choices, activations, fields, cells, most_samples, notes=notes)
    report = EvaluationReport(choices=choices.to_dict(), notes=notes)
    wanted = [measure for measure in measures() if measure.wanted(run)]
    task = current_task()
    for number, measure in enumerate(wanted):
        with task.step(number, len(wanted), None):
            _take(measure, run, report)
    task.progress(len(wanted), len(wanted), "Done")
    return report


def _chosen_fields(
    activations: ConceptActivations, choices: EvaluationChoices
) -> tuple[ConceptActivations, list[str]]:
    """The fields to look at, with a note on those that the dictionary was fitted on."""
    units = activations.units
    seen = seen_units(activations.dictionary, units)
    if seen is None:
        if choices.unseen_only:
            raise MicrodlError(
                "The dictionary does not tell which fields it was fitted on, so those not used "
                "cannot be told; give other fields, and evaluate all of them."
            )
        return activations, [
            "The dictionary does not tell which fields it was fitted on; if these are among them, "
            "the figures are optimistic."
        ]
    n_seen, n_fields = units["field"][seen].nunique(), units["field"].nunique()
    if not n_seen:
        return activations, []
    if not choices.unseen_only:
        return activations, [
            f"The dictionary was fitted on {n_seen} of these {n_fields} fields: figures on them "
            "are optimistic."
        ]
    if seen.all():
        raise MicrodlError(
            "The dictionary was fitted on all fields of this run, so none is left to evaluate; "
            "apply it to further fields, or evaluate these all the same."
        )
    chosen = activations.of_fields(units["field"][~seen].unique())
    return chosen, [f"{n_seen} fields that the dictionary was fitted on are left out."]


def _take(measure: Measure, run: EvaluationInput, report: EvaluationReport) -> None:
    """Write down what one measure finds, or why it finds nothing."""
    known = NEEDS.keys() | {other.table.key for other in measures()}
    unknown = [need for need in measure.needs if need not in known]
    if unknown:
        run.notes.append(f"No {measure.what}: it needs '{unknown[0]}', which is no measure.")
        return
    # What was not measured has said why itself.
    if any(need not in NEEDS and need not in run.found for need in measure.needs):
        return
    for need in measure.needs:
        if need in NEEDS and not NEEDS[need][0](run):
            if NEEDS[need][1] not in run.notes:
                run.notes.append(NEEDS[need][1])
            return
    current_task().progress(0, 1, measure.message)
    try:
        table = measure.function(run)
        rows = _rows(measure, table, run)
        if measure.into is None:
            _add(measure, report, rows, table.attrs)
        elif measure.into in run.found:
            _join(report.rows(measure.into), rows, str(table.index.name))
        run.found[measure.table.key] = table
    except MicrodlError as error:
        run.notes.append(f"No {measure.what}: {error}")
    except Exception as error:
        # A stranger's measure must not take an hour's work with it.
        if is_ours(measure):
            raise
        run.notes.append(f"No {measure.what}: it failed with {type(error).__name__} ({error}).")


def _rows(measure: Measure, table: pd.DataFrame, run: EvaluationInput) -> list[dict[str, Any]]:
    """Plain rows of a table, with the names of its concepts."""
    if table.index.name is not None:
        table = table.reset_index()
    rows = table.to_dict("records")
    if any(column.key == "concept_name" for column in measure.table.columns):
        names = run.activations.dictionary.names
        rows = [{**row, "concept_name": names[int(row["concept"])]} for row in rows]
    found: list[dict[str, Any]] = plain(rows)
    return found


def _add(
    measure: Measure,
    report: EvaluationReport,
    rows: list[dict[str, Any]],
    facts: dict[Any, Any],
) -> None:
    if measure.record:
        report.add(measure.table.key, rows[0])
    elif facts:
        report.add(measure.table.key, {**plain(facts), "labels": rows})
    else:
        report.add(measure.table.key, rows)


def _join(rows: list[dict[str, Any]], more: list[dict[str, Any]], key: str) -> None:
    """Give rows the further entries of others, told by one entry, and those that are new."""
    known = {row[key]: row for row in rows}
    for row in more:
        if row[key] in known:
            known[row[key]].update(row)
        else:
            rows.append(row)
