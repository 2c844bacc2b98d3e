"""Runs on a table of image files, and the files that a run writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import PipelineConfig, write_config
from napari_microdl.core.stepping import run_through
from napari_microdl.fields.field import Field
from napari_microdl.fields.metadata import PREFIX, metadata_table, read_table, select
from napari_microdl.fields.tables import read_fields
from napari_microdl.pipeline.run import PipelineResult, Progress, run_pipeline
from napari_microdl.report import (
    EvaluationChoices,
    EvaluationReport,
    EvaluationStep,
    iter_evaluation,
    label_column,
    with_technical,
)
from napari_microdl.report.html import iter_html_report

if TYPE_CHECKING:
    import pandas as pd

DICTIONARY = "dictionary.microdl.safetensors"
REPORT = "report.json"
SETTINGS = "settings.json"
RANKING = "concepts.csv"
EVALUATION = "evaluation.json"
EVALUATION_PAGE = "evaluation.html"


def units_file(result: PipelineResult) -> str:
    """Name of the table of units: ``cells.csv``, ``crops.csv`` or ``tokens.csv``.

    Parameters
    ----------
    result : PipelineResult
        The run.

    Returns
    -------
    str
    """
    return f"{result.config.units.kind}s.csv"


def write_run(
    result: PipelineResult,
    out: Path,
    *,
    concepts: list[int] | None = None,
    remarks: dict[str, Any] | None = None,
) -> None:
    """Write tables, dictionary, settings and report of a run.

    Parameters
    ----------
    result : PipelineResult
        The run.
    out : Path
        Folder, made where it is missing; files of an earlier run are replaced.
    concepts : list of int, optional
        Concepts in the table of units; all where not given.
    remarks : dict, optional
        More entries for the report.
    """
    out.mkdir(parents=True, exist_ok=True)
    result.activations.to_frame(concepts).to_csv(out / units_file(result), index=False)
    result.activations.ranking.to_csv(out / RANKING, index_label="concept")
    result.dictionary.save(out / DICTIONARY)
    write_config(result.config, out / SETTINGS)
    report = json.dumps({**(remarks or {}), **result.report}, indent=2)
    (out / REPORT).write_text(report + "\n", encoding="utf-8")


def table_fields(table: str | Path, controls: str | None = None) -> list[Field]:
    """Fields of a table of image files, with their controls.

    Parameters
    ----------
    table : str or Path
        As `napari_microdl.fields.tables.read_fields` takes it.
    controls : str, optional
        See `run_table`.

    Returns
    -------
    list of Field
        One a row, in the order of the table.

    Raises
    ------
    MicrodlError
        If the table, a file or the query cannot be used.
    """
    fields = read_fields(table)
    return fields if controls is None else mark_controls(fields, controls)


def run_table(
    table: str | Path,
    out: Path,
    config: PipelineConfig | None = None,
    *,
    dictionary: ConceptDictionary | None = None,
    controls: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> PipelineResult:
    """Fit or apply a dictionary on a table of image files, and write what comes of it.

    Parameters
    ----------
    table : str or Path
        As `napari_microdl.fields.tables.read_fields` takes it.
    out : Path
        Folder to write to.
    config : PipelineConfig, optional
        Settings; the defaults where not given.
    dictionary : ConceptDictionary, optional
        Dictionary to apply; one is fitted where not given.
    controls : str, optional
        Query that picks the control fields, such as ``Metadata_condition == 'DMSO'``, in place of
        the marks in the table; its columns are those of `metadata_table`.
    progress : callable, optional
        Called with every `Progress`.

    Returns
    -------
    PipelineResult

    Raises
    ------
    MicrodlError
        If the table, a file, the query or the settings cannot be used.
    """
    fields = table_fields(table, controls)
    # A folder that cannot be written to is found before the work, not after.
    out.mkdir(parents=True, exist_ok=True)
    result = run_pipeline(fields, config, dictionary=dictionary, progress=progress)
    write_run(result, out)
    return result


def evaluate_run(
    result: PipelineResult,
    fields: Sequence[Field],
    out: Path,
    choices: EvaluationChoices | None = None,
    *,
    progress: Callable[[EvaluationStep], None] | None = None,
) -> EvaluationReport:
    """Measure the concepts of a run, and write the figures and a page to look at.

    The ranking of the concepts is written again, as it then says which are technical.

    Parameters
    ----------
    result : PipelineResult
        A run, best on fields that the dictionary was not fitted on.
    fields : sequence of Field
        Its fields.
    out : Path
        Folder, made where it is missing.
    choices : EvaluationChoices, optional
        What to ask; the defaults where not given.
    progress : callable, optional
        Called with every `EvaluationStep`.

    Returns
    -------
    EvaluationReport

    Raises
    ------
    MicrodlError
        If there is nothing to evaluate, or the column of labels is not there.
    """
    activations = result.activations
    steps = iter_evaluation(activations, choices, fields=fields, cells=result.labels)
    report = run_through(steps, progress)
    page = run_through(iter_html_report(report, activations, fields), progress)
    out.mkdir(parents=True, exist_ok=True)
    (out / EVALUATION).write_text(report.to_json(), encoding="utf-8")
    (out / EVALUATION_PAGE).write_text(page, encoding="utf-8")
    with_technical(activations.ranking, report).to_csv(out / RANKING, index_label="concept")
    return report


def add_columns(units: pd.DataFrame, table: str | Path) -> None:
    """Give units all ``Metadata_*`` columns of the table of their fields.

    Parameters
    ----------
    units : DataFrame
        With a column ``field``, the number of a row of the table; columns that are there already
        stay as they are.
    table : str or Path
        As `napari_microdl.fields.tables.read_fields` takes it.
    """
    known = {str(c).lower() for c in units.columns}
    rows = units["field"].to_numpy()
    values = read_table(table)
    for name in values.columns:
        if str(name).startswith(PREFIX) and str(name).lower() not in known:
            units[name] = values[name].to_numpy()[rows]


def check_labels(fields: list[Field], table: str | Path, *columns: str) -> None:
    """Refuse a column of labels, or of batches, that units will not have, before there are any.

    Parameters
    ----------
    fields : list of Field
        As `table_fields` reads them.
    table : str or Path
        Their table.
    *columns : str
        The columns.

    Raises
    ------
    MicrodlError
        Lists those that there are.
    """
    units = metadata_table(fields).assign(field=range(len(fields)))
    add_columns(units, table)
    for name in columns:
        label_column(units, name)


def mark_controls(fields: list[Field], query: str) -> list[Field]:
    """Fields whose control mark says whether a query picks them.

    Parameters
    ----------
    fields : list of Field
        Fields.
    query : str
        See `run_table`.

    Returns
    -------
    list of Field
    """
    picked = select(metadata_table(fields), query)
    return [
        dataclasses.replace(field, is_control=bool(control))
        for field, control in zip(fields, picked, strict=True)
    ]
