"""The files that a run is made from and those that it writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from napari_microdl.concepts.export import write_table
from napari_microdl.core.config import UnitKind, write_config
from napari_microdl.core.files import write_text
from napari_microdl.core.pictures import write_figure
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field
from napari_microdl.fields.metadata import PREFIX, metadata_table
from napari_microdl.fields.tables import read_file_table
from napari_microdl.pipeline.run import PipelineResult
from napari_microdl.report import (
    EvaluationChoices,
    EvaluationReport,
    evaluate,
    label_column,
    with_technical,
)
from napari_microdl.report.atlas import concept_atlas
from napari_microdl.report.concept_page import DOTS_PER_INCH, concept_page
from napari_microdl.report.evaluation_figures import pictures
from napari_microdl.report.findings import Finding, chosen_figures
from napari_microdl.report.html import html_report

if TYPE_CHECKING:
    import pandas as pd

DICTIONARY = "dictionary.microdl.safetensors"
REPORT = "report.json"
SETTINGS = "settings.json"
RANKING = "concepts.csv"
EVALUATION = "evaluation.json"
EVALUATION_PAGE = "evaluation.html"
ATLAS = "atlas.html"
UNITS = tuple(f"{kind}s.csv" for kind in get_args(UnitKind))
# Of the run on the sample.
DEMO_PICTURES = ("overlay_heatmap.png", "overlay_units.png", "gallery.png", "distribution.png")
_CONCEPT_PICTURE = re.compile(r"concept_\d+\.pdf")


def is_of_a_run(name: str) -> bool:
    """Whether a file has a name that runs in one piece give to their files."""
    names = {DICTIONARY, REPORT, SETTINGS, RANKING, EVALUATION, EVALUATION_PAGE, ATLAS}
    return name in names | {*UNITS, *DEMO_PICTURES} or bool(_CONCEPT_PICTURE.fullmatch(name))


def write_run(
    result: PipelineResult,
    out: Path,
    *,
    concepts: list[int] | None = None,
    finding: Finding | None = None,
    remarks: dict[str, Any] | None = None,
) -> None:
    """Write tables, dictionary, settings and report of a run.

    The table of units is called ``cells.csv``, ``crops.csv`` or ``tokens.csv``.

    Parameters
    ----------
    result : PipelineResult
        The run.
    out : Path
        Folder, made where it is missing; files of an earlier run are replaced, each once it is
        whole. `napari_microdl.pipeline.run_folder.run_folder` replaces all of them together.
    concepts : list of int, optional
        Concepts in the table of units; all where not given.
    finding : Finding, optional
        What `find_finding` says of the run; stands in the report, and its p in the dictionary where
        it was fitted.
    remarks : dict, optional
        More entries for the report.
    """
    out.mkdir(parents=True, exist_ok=True)
    remarks = dict(remarks or {})
    if finding is not None:
        remarks = {"finding": finding.sentence(), "finding_figures": finding.to_dict(), **remarks}
        if result.activations.fit_samples is not None:
            result.dictionary.figures |= chosen_figures(result.activations, finding)
    with current_task().step(0, 1, "Writing the results"):
        # First what took longest to find: where the disk is full, it is there.
        result.dictionary.save(out / DICTIONARY)
        write_config(result.config, out / SETTINGS)
        write_table(result.activations.concept_table(), out / RANKING)
        units = result.activations.to_frame(concepts)
        write_table(units, out / f"{result.config.units.kind}s.csv")
        write_text(json.dumps({**remarks, **result.report}, indent=2) + "\n", out / REPORT)


def evaluate_run(
    result: PipelineResult,
    fields: Sequence[Field],
    out: Path,
    choices: EvaluationChoices | None = None,
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

    Returns
    -------
    EvaluationReport

    Raises
    ------
    MicrodlError
        If there is nothing to evaluate, or the column of labels is not there.
    """
    activations = result.activations
    report = evaluate(activations, choices, fields=fields, cells=result.labels)
    with current_task().step(0, 1, "Drawing the best concepts"):
        drawn = pictures(report, activations, fields)
    out.mkdir(parents=True, exist_ok=True)
    with current_task().step(0, 1, "Writing the evaluation"):
        page = html_report(report, result.config.units.kind, pictures=drawn)
        write_text(report.to_json(), out / EVALUATION)
        write_text(page, out / EVALUATION_PAGE)
        write_table(with_technical(activations.concept_table(), report), out / RANKING)
    return report


def write_pictures(
    result: PipelineResult, fields: Sequence[Field], out: Path, *, atlas: bool, n_figures: int
) -> list[str]:
    """Write what of a run is to be looked at or sent to others.

    Parameters
    ----------
    result : PipelineResult
        A run.
    fields : sequence of Field
        Its fields.
    out : Path
        Folder that exists; files of an earlier run are replaced.
    atlas : bool
        Whether to write the page with a card a concept.
    n_figures : int
        A page as PDF for each of so many concepts, the most telling first.

    Returns
    -------
    list of str
        Names of the files.
    """
    names = []
    for number, concept in enumerate(result.activations.ranking.index[:n_figures].tolist()):
        with current_task().step(number, n_figures, "Drawing figures of concepts"):
            figure = concept_page(result.activations, fields, concept, result.labels)
            names.append(f"concept_{concept}.pdf")
            write_figure(figure, out / names[-1], DOTS_PER_INCH)
    if atlas:
        write_text(concept_atlas(result.activations, fields), out / ATLAS)
        names.append(ATLAS)
    return names


def add_columns(
    units: pd.DataFrame, table: str | Path, rows_of_fields: Sequence[int] | None = None
) -> None:
    """Give units all ``Metadata_*`` columns of the table of their fields.

    Parameters
    ----------
    units : DataFrame
        With a column ``field``, the number of a field; columns that are there already stay as they
        are.
    table : str or Path
        As `napari_microdl.fields.tables.read_fields` takes it.
    rows_of_fields : sequence of int, optional
        Row of every field in the table, from 0; their numbers where not given.
    """
    known = {str(c).lower() for c in units.columns}
    rows = units["field"].to_numpy()
    if rows_of_fields is not None:
        rows = np.asarray(rows_of_fields)[rows]
    values = read_file_table(table)
    for name in values.columns:
        if str(name).startswith(PREFIX) and str(name).lower() not in known:
            units[name] = values[name].to_numpy()[rows]


def check_labels(
    fields: list[Field], table: str | Path, columns: Sequence[str], rows_of_fields: Sequence[int]
) -> None:
    """Refuse a column of labels, or of batches, that units will not have, before there are any.

    Parameters
    ----------
    fields : list of Field
        Fields of the table.
    table : str or Path
        Their table.
    columns : sequence of str
        The columns.
    rows_of_fields : sequence of int
        As for `add_columns`.

    Raises
    ------
    MicrodlError
        Lists those that there are.
    """
    units = metadata_table(fields).assign(field=range(len(fields)))
    add_columns(units, table, rows_of_fields)
    for name in columns:
        label_column(units, name)
