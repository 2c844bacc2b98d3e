"""Which few concepts together tell each condition, beside what else would tell it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.concepts.concept_set import set_values, some_rows
from napari_microdl.core.config import SetBy
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.metrics import choose_set, fold_scores, group_folds
from napari_microdl.report import standard_measures  # noqa: F401 (they come first)
from napari_microdl.report.measures import EvaluationInput, measure
from napari_microdl.report.options import asks_conditions
from napari_microdl.report.results import EvaluationReport
from napari_microdl.report.swaps import N_REFITS, Coded, SwapTest, luck_sentence, swap_test

# A difference in area that a reader should know of.
_BETTER = 0.02
_STRENGTH = 0.01


def set_area(coded: Coded, inside: NDArray[np.bool_], by: SetBy = "both") -> float:
    """Area under the ROC curve of sets of concepts in wells that they were not chosen on.

    Parameters
    ----------
    coded : Coded
        Units; those without a well take no part.
    inside : ndarray of bool, shape (n_units,)
        Which of them are of the label.
    by : {"both", "cosines"}
        Whether codes are among what is summed.

    Returns
    -------
    float
        Minus infinity where a side has fewer than two wells.
    """
    part = coded.wells >= 0
    try:
        values = set_values(coded.vectors[part], coded.codes[part], coded.directions, by)
        return choose_set(values, inside[part], coded.wells[part]).auc
    except MicrodlError:
        return float("-inf")


def _sentences(report: EvaluationReport, unit: str) -> Iterator[str]:
    rows = [row for row in report.rows("sets") if row["auc"] is not None]
    if not rows:
        return
    row = max(rows, key=lambda row: row["auc"])
    sentence = (
        f"Together, {row['set']} tell '{row['label']}' with an AUC of {row['auc']:.2f} in wells "
        f"left out; the best concept alone with {row['auc_first']:.2f}, all that the model says "
        f"with {row['auc_all']:.2f}"
    )
    if len(row["concepts"]) == 1:
        sentence = (
            f"No set of concepts tells a label better than one alone: {row['set']} tells "
            f"'{row['label']}' with an AUC of {row['auc']:.2f} in wells left out, all that the "
            f"model says with {row['auc_all']:.2f}"
        )
    handcrafted = row["auc_handcrafted"]
    if handcrafted is not None:
        sentence += f", handcrafted measurements with {handcrafted:.2f}"
    sentence += "."
    if row["p_value"] is not None:
        sentence += f" {luck_sentence(row['p_value'], row['smallest_p'])}"
    if handcrafted is not None and handcrafted > row["auc"] + _BETTER:
        sentence += " So simple measurements do better here."
    yield sentence


@measure(
    "sets",
    title="A few concepts together",
    meaning=(
        "For each label up to five concepts whose weighted sum tells its units best, from those of "
        "controls where there are any, else from all others. Areas are of wells that were left out."
    ),
    legend={
        "label": ("Label", "What is told apart."),
        "set": (
            "Concepts",
            "Which, and how much of the difference each one makes by cosine and code. All of them "
            "are stronger in the label.",
        ),
        "auc": (
            "AUC",
            "Probability that the sum is larger in a unit of the label than in one of the others; "
            "0.5 is chance, 1 perfect.",
        ),
        "auc_first": ("One", "The same of the best concept alone."),
        "auc_all": (
            "All",
            "The same of a logistic regression on the whole samples: what the model knows.",
        ),
        "auc_handcrafted": (
            "By hand",
            "The same of a logistic regression on handcrafted measurements.",
        ),
        "p_value": (
            "p",
            "Of the label that is told best: how often wells that swap conditions give as good a "
            "set, all fitted and chosen anew.",
        ),
    },
    needs=("several labels",),
    what="sets of concepts",
    message="Choosing concepts that tell a label together",
    sentences=_sentences,
)
def _sets(run: EvaluationInput) -> pd.DataFrame:
    task, n = current_task(), len(run.classes) + 1
    control = run.activations.units["Metadata_control"].to_numpy(bool)
    conditions = asks_conditions(run.activations.units, run.choices.labels)
    against = control if conditions and control.any() else None
    some = some_rows(run.some, run.activations.n_concepts)
    values = set_values(
        np.asarray(run.activations.vectors[some]),
        run.activations.codes[some],
        run.activations.dictionary.directions,
        run.choices.sets_by,
    )
    found: list[dict[str, Any]] = []
    for number, name in enumerate(run.classes):
        inside = run.label == name
        if against is not None and (inside & against).any():
            continue
        with task.step(number, n, None):
            part = inside[some] | (True if against is None else against[some])
            try:
                found.append(_row(run, str(name), some[part], values[part]))
            except MicrodlError as error:
                run.notes.append(f"No set of concepts for '{name}': {error}")
    if found and against is not None:
        best = max(found, key=lambda row: row["auc"])
        with task.step(n - 1, n, None):
            tested = _swapped(run, best["label"], len(found))
            best["p_value"], best["smallest_p"] = tested.p_value, tested.smallest_p
    return pd.DataFrame(found, dtype=object)


def _row(
    run: EvaluationInput, label: str, rows: NDArray[np.int64], values: NDArray[np.float32]
) -> dict[str, Any]:
    """The set of one label, from the rows of its units and of those that it is told from."""
    task, inside, wells = current_task(), run.label[rows] == label, run.group[rows]
    chosen = choose_set(values, inside, wells)
    if not len(chosen.chosen):
        raise MicrodlError("no concept is stronger in it.")
    names, fold = run.activations.dictionary.names, group_folds(inside, wells)
    with task.step(0, 2, None):
        of_all = _linear_area(run.activations.vectors[rows], inside, fold)
    handcrafted = None
    if run.choices.handcrafted and run.has_measurements:
        measured = run.measurements.to_numpy()[rows]
        with task.step(1, 2, None):
            handcrafted = _linear_area(measured, inside, fold)
    pairs = zip(chosen.chosen.tolist(), chosen.shares.tolist(), strict=True)
    return {
        "label": label,
        "set": ", ".join(f"{names[concept]} ({share:.0%})" for concept, share in pairs),
        "concepts": chosen.chosen.tolist(),
        "weights": chosen.weights[:, 0].tolist(),
        "code_weights": chosen.weights[:, 1].tolist() if run.choices.sets_by == "both" else None,
        "shares": chosen.shares.tolist(),
        "auc": chosen.auc,
        "auc_first": chosen.auc_first,
        "auc_all": of_all,
        "auc_handcrafted": handcrafted,
        "p_value": None,
        "smallest_p": None,
    }


def _linear_area(
    vectors: NDArray[np.floating], inside: NDArray[np.bool_], fold: NDArray[np.int64]
) -> float:
    areas = fold_scores(np.asarray(vectors), inside.astype(np.int64), fold, _STRENGTH)[:, 1]
    return float(np.nanmean(areas))


def _swapped(run: EvaluationInput, label: str, n_labels: int) -> SwapTest:
    units = run.activations.units
    return swap_test(
        run.activations,
        run.label == label,
        units["Metadata_control"].to_numpy(bool),
        partial(set_area, by=run.choices.sets_by),
        n_treatments=n_labels,
        # Of codes that stay as they are a set takes longer than a count.
        n_refits=run.n_refits or max(N_REFITS, 20 * n_labels),
    )
