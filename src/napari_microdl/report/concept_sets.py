"""Which few concepts together tell each condition, beside what else would tell it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.core.arrays import unit_length
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.metrics import choose_set, fold_scores, group_folds
from napari_microdl.report import standard_measures  # noqa: F401 (they come first)
from napari_microdl.report.measures import EvaluationInput, measure
from napari_microdl.report.options import asks_conditions
from napari_microdl.report.results import EvaluationReport
from napari_microdl.report.swaps import LEVEL, N_REFITS, Coded, swap_test

# Cosines of all concepts that are held at once.
_MOST_COSINES = 2**26
# A difference in area that a reader should know of.
_BETTER = 0.02
_STRENGTH = 0.01


def set_area(coded: Coded, inside: NDArray[np.bool_]) -> float:
    """Area under the ROC curve of sets of concepts in wells that they were not chosen on.

    Parameters
    ----------
    coded : Coded
        Units; those without a well take no part.
    inside : ndarray of bool, shape (n_units,)
        Which of them are of the label.

    Returns
    -------
    float
        Minus infinity where a side has fewer than two wells.
    """
    part = coded.wells >= 0
    try:
        return choose_set(
            _cosines(coded.vectors[part], coded.directions), inside[part], coded.wells[part]
        ).auc
    except MicrodlError:
        return float("-inf")


def _cosines(vectors: NDArray[np.float32], directions: NDArray[np.float32]) -> NDArray[np.float32]:
    return unit_length(np.asarray(vectors)) @ directions.T


def _sentences(report: EvaluationReport, unit: str) -> Iterator[str]:
    rows = [row for row in report.rows("sets") if row["auc"] is not None]
    if not rows:
        return
    row = max(rows, key=lambda row: row["auc"])
    told = (
        f"Together, {row['set']} tell '{row['label']}' with an AUC of {row['auc']:.2f} in wells "
        f"left out; the best concept alone with {row['auc_first']:.2f}, all that the model says "
        f"with {row['auc_all']:.2f}"
    )
    if len(row["concepts"]) == 1:
        told = (
            f"No set of concepts tells a label better than one alone: {row['set']} tells "
            f"'{row['label']}' with an AUC of {row['auc']:.2f} in wells left out, all that the "
            f"model says with {row['auc_all']:.2f}"
        )
    by_hand = row["auc_handcrafted"]
    if by_hand is not None:
        told += f", handcrafted measurements with {by_hand:.2f}"
    told += "."
    if row["p_value"] is not None:
        luck = "hardly luck" if row["p_value"] <= LEVEL else "no more than luck may give"
        told += f" By wells that swap that is {luck} (p = {row['p_value']:.2g})."
    if by_hand is not None and by_hand > row["auc"] + _BETTER:
        told += " So simple measurements do better here."
    yield told


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
            "Which, and how much of the difference each one makes. All of them are stronger in the "
            "label.",
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
    activations, rows = run.activations, _some_rows(run)
    label, wells = run.label[rows], run.group[rows]
    control = activations.units["Metadata_control"].to_numpy(bool)[rows]
    against_controls = asks_conditions(run.activations.units, run.choices.labels) and control.any()
    cosines = _cosines(activations.vectors[rows], activations.dictionary.directions)
    names, found, told = activations.dictionary.names, [], []
    for number, name in enumerate(run.classes):
        inside = label == name
        if against_controls and (inside & control).any():
            continue
        current_task().progress(number, len(run.classes))
        part = inside | control if against_controls else np.ones(len(rows), bool)
        try:
            chosen = choose_set(cosines[part], inside[part], wells[part])
        except MicrodlError as error:
            run.notes.append(f"No set of concepts for '{name}': {error}")
            continue
        if not len(chosen.chosen):
            run.notes.append(f"No set of concepts for '{name}': no concept is stronger in it.")
            continue
        pairs = zip(chosen.chosen.tolist(), chosen.shares.tolist(), strict=True)
        fold = group_folds(inside[part], wells[part])
        everything = activations.vectors[rows[part]]
        row = {
            "label": str(name),
            "set": ", ".join(f"{names[concept]} ({share:.0%})" for concept, share in pairs),
            "concepts": chosen.chosen.tolist(),
            "weights": chosen.weights.tolist(),
            "shares": chosen.shares.tolist(),
            "auc": chosen.auc,
            "auc_first": chosen.auc_first,
            "auc_all": _linear_area(everything, inside[part], fold),
            "auc_handcrafted": None,
            "p_value": None,
        }
        if run.choices.handcrafted and run.has_measurements:
            by_hand = run.measurements.to_numpy()[rows[part]]
            row["auc_handcrafted"] = _linear_area(by_hand, inside[part], fold)
        found.append(row)
        told.append((chosen.auc, len(found) - 1))
    if found and against_controls:
        best = found[max(told)[1]]
        best["p_value"] = _p_value(run, str(best["label"]), len(found))
    return pd.DataFrame(found, dtype=object)


def _some_rows(run: EvaluationInput) -> NDArray[np.int64]:
    """Rows that are looked at; of very many concepts fewer."""
    most = max(1, _MOST_COSINES // run.activations.n_concepts)
    return run.some[:: max(1, -(-len(run.some) // most))]


def _linear_area(
    vectors: NDArray[np.floating], inside: NDArray[np.bool_], fold: NDArray[np.int64]
) -> float:
    areas = fold_scores(np.asarray(vectors), inside.astype(np.int64), fold, _STRENGTH)[:, 1]
    return float(np.nanmean(areas))


def _p_value(run: EvaluationInput, label: str, n_labels: int) -> float | None:
    units = run.activations.units
    few = run.choices.n_permutations if run.choices.n_permutations < N_REFITS else None
    tested = swap_test(
        run.activations,
        run.label == label,
        units["Metadata_control"].to_numpy(bool),
        set_area,
        n_treatments=n_labels,
        # Of codes that stay as they are a set takes longer than a count.
        n_refits=max(N_REFITS, 20 * n_labels) if few is None else few,
    )
    return tested.p_value
