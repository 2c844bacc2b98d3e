"""The concepts of a plate run measured, from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.export import write_table
from napari_microdl.concepts.store import open_activations
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_text
from napari_microdl.core.task import current_task
from napari_microdl.fields.metadata import PREFIX
from napari_microdl.pipeline.files import EVALUATION, EVALUATION_PAGE, RANKING
from napari_microdl.pipeline.plate.folder import sole_driver
from napari_microdl.pipeline.plate.profiles import ACTIVATIONS, with_features
from napari_microdl.report import (
    EvaluationChoices,
    EvaluationReport,
    evaluate,
    label_column,
    unit_labels,
    with_technical,
)
from napari_microdl.report.html import html_report, svg_of
from napari_microdl.report.well_figures import well_figures
from napari_microdl.report.well_profiles import WellProfiles

FIGURES, HITS = "figures", "hits.csv"
# What is of a well and not of what was done to it.
_OF_WELLS = ("Metadata_Field", "Metadata_Well", "Metadata_Site", "Metadata_Plate")


def evaluate_plate(
    folder: Path, choices: EvaluationChoices | None = None, *, batches_given: bool = False
) -> EvaluationReport:
    """Measure the concepts of a plate run, and write the figures and a page to look at.

    Images are not opened again: what needs them is not measured, which is noted.

    Parameters
    ----------
    folder : Path
        Folder of a run that has ended.
    choices : EvaluationChoices, optional
        What to ask; the defaults, and wells, where not given.
    batches_given : bool, default=False
        Whether the batches are a column that has to be there.

    Returns
    -------
    EvaluationReport

    Raises
    ------
    MicrodlError
        If the folder holds no run that has ended, one is at work there, or a column is not there.
    """
    choices = choices or EvaluationChoices(wells=True)
    if not (folder / ACTIVATIONS).is_dir():
        raise MicrodlError(
            f"'{folder}' holds no plate run that has ended; run it first, or name its folder."
        )
    with sole_driver(folder):
        activations = open_activations(folder / ACTIVATIONS)
        for name in (choices.labels, *([choices.batches] if batches_given else [])):
            label_column(activations.units, name)
        report = evaluate(activations, choices)
        with current_task().step(0, 1, "Writing the evaluation"):
            figures = well_figures(report, activations, _profiles(report, activations, choices))
            (folder / FIGURES).mkdir(exist_ok=True)
            # Of an evaluation by other labels.
            for old in [*(folder / FIGURES).glob("*.svg"), folder / HITS]:
                old.unlink(missing_ok=True)
            for drawn in figures:
                write_text(svg_of(drawn.figure), folder / FIGURES / f"{drawn.name}.svg")
            page = html_report(report, activations.dictionary.spec.units.kind, figures=figures)
            write_text(report.to_json(), folder / EVALUATION)
            if rows := report.rows("hits"):
                write_table(hit_table(rows, activations, choices.labels), folder / HITS)
            write_text(page, folder / EVALUATION_PAGE)
            concepts = with_technical(activations.concept_table(), report)
            write_table(with_features(activations, concepts), folder / RANKING)
    return report


def hit_table(
    rows: list[dict[str, Any]], activations: ConceptActivations, labels: str
) -> pd.DataFrame:
    """The hit list as it stands in ``hits.csv``.

    Parameters
    ----------
    rows : list of dict
        Rows of the measure "hits".
    activations : ConceptActivations
        The run.
    labels : str
        Column that says what was done to a well.

    Returns
    -------
    DataFrame
        A row a treatment, the smallest p first: what its wells have in common as ``Metadata_*``,
        then what was measured.
    """
    column = label_column(activations.units, labels)
    units = activations.units[~activations.units["Metadata_control"].to_numpy(bool)]
    of_unit = unit_labels(units, labels)
    known = [c for c in units.columns if str(c).startswith(PREFIX) and c not in _OF_WELLS]
    groups = {label: units.loc[of_unit == label, known] for label in np.unique(of_unit).tolist()}
    shared = [
        {
            name: own[name].iloc[0]
            for name in known
            if name == column or own[name].nunique(dropna=False) == 1
        }
        for own in (groups[row["label"]] for row in rows)
    ]
    found = pd.DataFrame(rows).drop(columns=["label", "correlation_by_luck"], errors="ignore")
    ids = activations.dictionary.concept_id
    found["next_concepts"] = [" ".join(map(ids, row["next_concepts"])) for row in rows]
    table = pd.DataFrame(shared)[[column, *(c for c in pd.DataFrame(shared) if c != column)]]
    return pd.concat([table, found], axis=1)


def _profiles(
    report: EvaluationReport, activations: ConceptActivations, choices: EvaluationChoices
) -> WellProfiles | None:
    """Profiles of wells, where their place was measured."""
    if not report.rows("positions"):
        return None
    return WellProfiles.of(activations, unit_labels(activations.units, choices.labels))
