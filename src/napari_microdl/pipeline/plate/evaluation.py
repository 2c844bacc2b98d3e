"""The concepts of a plate run measured, from its folder alone."""

from __future__ import annotations

from pathlib import Path

from napari_microdl.concepts.export import write_table
from napari_microdl.concepts.store import open_activations
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_text
from napari_microdl.core.task import current_task
from napari_microdl.pipeline.files import EVALUATION, EVALUATION_PAGE, RANKING
from napari_microdl.pipeline.plate.folder import sole_driver
from napari_microdl.pipeline.plate.profiles import ACTIVATIONS, with_features
from napari_microdl.report import (
    EvaluationChoices,
    EvaluationReport,
    evaluate,
    label_column,
    with_technical,
)
from napari_microdl.report.html import html_report


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
        What to ask; the defaults where not given.
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
    choices = choices or EvaluationChoices()
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
            page = html_report(report, activations.dictionary.spec.units.kind)
            write_text(report.to_json(), folder / EVALUATION)
            write_text(page, folder / EVALUATION_PAGE)
            concepts = with_technical(activations.concept_table(), report)
            write_table(with_features(activations, concepts), folder / RANKING)
    return report
