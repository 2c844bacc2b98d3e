"""Everything that can be measured of a run, as plain values."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.activations import ConceptActivations
from napari_microdl.errors import MicrodlError
from napari_microdl.evaluation import (
    active,
    average_selectivity,
    batch_effects,
    best_selectivity_null,
    dead_features,
    direction_separation,
    group_folds,
    probe_scores,
    reconstruction_curve,
    relative_accuracy,
    selectivity_counts,
    selectivity_intervals,
)

_N_STEPS = 6


@dataclass(frozen=True)
class EvaluationStep:
    """Where an evaluation is.

    Parameters
    ----------
    done, total : int
        Measures.
    message : str
        A sentence for people.
    """

    done: int
    total: int
    message: str


@dataclass
class EvaluationReport:
    """What was measured, in values that JSON can hold; what is not known is None.

    Parameters
    ----------
    summary : dict
        ``n_samples``, ``n_concepts``, ``n_dead``, ``mean_active``, and ``passes_<threshold>``, the
        concepts whose average selectivity passes it for at least one label.
    labels : list of dict
        A row a label: its best concept, the selectivity with its null and interval, and the area of
        the direction. See `best_selectivity_null` and `selectivity_intervals`.
    separation : list of dict
        Histograms of the best direction of every label, as `DirectionSeparation`.
    reconstruction : list of dict
        Rows of `reconstruction_curve`.
    probes : list of dict
        A row a representation: ``of`` "x", "reconstruction" or "codes", the entries of
        `ProbeScores`, and ``relative`` to x.
    batches : list of dict
        Rows of `batch_effects`, the strongest first.
    notes : list of str
        What was not measured, and why.
    """

    summary: dict[str, Any] = field(default_factory=dict)
    labels: list[dict[str, Any]] = field(default_factory=list)
    separation: list[dict[str, Any]] = field(default_factory=list)
    reconstruction: list[dict[str, Any]] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"


def well_groups(units: pd.DataFrame) -> NDArray[np.str_]:
    """Plate and well of every unit; the field where no well is known.

    Parameters
    ----------
    units : DataFrame
        As `napari_microdl.activations.unit_table` makes it.

    Returns
    -------
    ndarray of str, shape (n_units,)
    """
    plate, well = (units[f"Metadata_{k}"].fillna("").astype(str) for k in ("Plate", "Well"))
    name = ("well " + plate + " " + well).where(well != "", "field " + units["field"].astype(str))
    names: NDArray[np.str_] = name.to_numpy().astype(str)
    return names


def iter_evaluation(
    activations: ConceptActivations,
    labels: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    *,
    n_permutations: int = 999,
    random_state: int = 0,
) -> Generator[EvaluationStep, None, EvaluationReport]:
    """Measure everything that a run allows, one measure an iteration.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run, best on fields that the dictionary was not fitted on.
    labels : sequence of length n_units, optional
        What concepts should tell; the condition where not given.
    groups : sequence of length n_units, optional
        What is independent of one another; see `well_groups` where not given.
    n_permutations : int, default=999
        Shuffles of the null.
    random_state : int, default=0
        Seed.

    Yields
    ------
    EvaluationStep
        Stop iterating to cancel.

    Returns
    -------
    EvaluationReport
        What cannot be measured is left out, with a note.

    Raises
    ------
    MicrodlError
        If there are no units or the lengths differ.
    """
    units, codes, x = activations.units, activations.codes, activations.vectors
    if not len(units):
        raise MicrodlError("There are no units to evaluate; the fields have no cells.")
    names = units["Metadata_condition"] if labels is None else labels
    label = np.asarray(names).astype(str)
    group = well_groups(units) if groups is None else np.asarray(groups).astype(str)
    control = units["Metadata_control"].to_numpy(bool)
    icfl = activations.dictionary.icfl
    report = EvaluationReport()

    yield _step(0, "Counting active concepts")
    classes, selectivity = average_selectivity(codes, label)
    report.summary = {
        "n_samples": len(units),
        "n_concepts": activations.n_concepts,
        "n_dead": int(dead_features(codes).sum()),
        "mean_active": active(codes).nnz / len(units),
        **{f"passes_{t:g}": n for t, n in selectivity_counts(selectivity).items()},
    }
    if len(classes) > 1:
        yield _step(1, "Shuffling labels")
        best = selectivity.argmax(axis=1)
        table = selectivity_intervals(codes, label, group, best, random_state=random_state)
        try:
            null = best_selectivity_null(
                codes, label, group, n_permutations=n_permutations, random_state=random_state
            )
            table = table.join(null.drop(columns=["concept", "selectivity"]))
        except MicrodlError as error:
            report.notes.append(f"No null: {error}")
        yield _step(2, "Comparing cosines with directions")
        directions = activations.dictionary.directions
        for name, concept in zip(classes, best, strict=True):
            found = direction_separation(x, directions[concept], label == name)
            table.loc[name, "auc"] = found.auc
            report.separation += _plain([{"name": str(name), "concept": concept, **vars(found)}])
        report.labels = _plain(table.reset_index().to_dict("records"))
    else:
        report.notes.append("There is only one label, so there is nothing to tell apart.")

    yield _step(3, "Reconstructing")
    most = int(icfl.n_iterations_) * int(icfl.atoms_per_iteration_)
    ks = sorted({max(1, round(most * part)) for part in (0.1, 0.25, 0.5, 1)})
    report.reconstruction = _plain(reconstruction_curve(icfl, x, ks).to_dict("records"))

    yield _step(4, "Fitting linear probes")
    try:
        fold = group_folds(label, group, random_state=random_state)
        given = {"x": x, "reconstruction": icfl.inverse_transform(codes), "codes": codes}
        scores = {of: probe_scores(v, label, fold, group) for of, v in given.items()}
        report.probes = _plain(
            {"of": of, **asdict(s), "relative": relative_accuracy(s, scores["x"])}
            for of, s in scores.items()
        )
    except MicrodlError as error:
        report.notes.append(f"No linear probe: {error}")

    yield _step(5, "Looking for batch effects in controls")
    try:
        plates = units["Metadata_Plate"].fillna("").astype(str).to_numpy()
        effects = batch_effects(codes, plates, control, group)
        effects = effects.sort_values("epsilon_squared", ascending=False, kind="stable")
        report.batches = _plain(effects.reset_index().to_dict("records"))
    except MicrodlError as error:
        report.notes.append(f"No batch effects: {error}")
    yield _step(_N_STEPS, "Done")
    return report


def _step(done: int, message: str) -> EvaluationStep:
    return EvaluationStep(done, _N_STEPS, message)


def _plain(value: Any) -> Any:
    """Values that JSON can hold; None for what is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return [_plain(entry) for entry in value]
