"""Everything that can be measured of a run, one measure after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.dictionary import TAGS
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field
from napari_microdl.metrics import (
    ProbeScores,
    active,
    agreement_of,
    average_selectivity,
    batch_effects,
    dead_features,
    direction_separation,
    group_folds,
    iter_best_selectivity_null,
    iter_probe_scores,
    match_dictionaries,
    reconstruction_curve,
    relative_accuracy,
    require_library,
    selectivity_counts,
    selectivity_intervals,
)
from napari_microdl.metrics.tag_recall import tag_recall
from napari_microdl.report.batches import batch_design
from napari_microdl.report.handcrafted import compare_by_hand, iter_measurements
from napari_microdl.report.options import (
    EvaluationChoices,
    seen_units,
    unit_groups,
    unit_labels,
)
from napari_microdl.report.results import (
    TECHNICAL_Q,
    EvaluationReport,
    EvaluationStep,
    plain,
)
from napari_microdl.report.seeds import iter_refits, same_samples

# Probes and reconstructions of more samples take longer and are hardly steadier.
MOST_SAMPLES = 20_000
_PERCENT = 100

# Share that is done, 0 to 1, and a sentence.
_Steps = Iterator[tuple[float, str]]
_Found = TypeVar("_Found")


@dataclass
class _Asked:
    """What the measures look at, and the report that they fill in."""

    activations: ConceptActivations
    # All fields of the run, where some are left out of `activations`.
    whole: ConceptActivations
    choices: EvaluationChoices
    label: NDArray[np.str_]
    group: NDArray[np.str_]
    fields: Sequence[Field] | None
    cells: Sequence[NDArray[np.integer] | None] | None
    report: EvaluationReport
    classes: NDArray[np.generic] = field(init=False)
    selectivity: NDArray[np.float64] = field(init=False)
    # Rows that probes and reconstructions take, and the first probe.
    some: NDArray[np.int64] = field(init=False)
    on_x: ProbeScores | None = None

    def __post_init__(self) -> None:
        self.classes, self.selectivity = average_selectivity(self.activations.codes, self.label)
        n = len(self.label)
        self.some = np.arange(n)
        if n > MOST_SAMPLES:
            random = np.random.default_rng(self.choices.random_state)
            self.some = np.sort(random.choice(n, MOST_SAMPLES, replace=False))

    @property
    def best(self) -> NDArray[np.int64]:
        """Best concept of every label."""
        best: NDArray[np.int64] = self.selectivity.argmax(axis=1)
        return best


def iter_evaluation(
    activations: ConceptActivations,
    choices: EvaluationChoices | None = None,
    *,
    fields: Sequence[Field] | None = None,
    cells: Sequence[NDArray[np.integer] | None] | None = None,
) -> Generator[EvaluationStep, None, EvaluationReport]:
    """Measure everything that a run allows, a small step an iteration.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run, best on fields that the dictionary was not fitted on.
    choices : EvaluationChoices, optional
        What to ask; the defaults where not given.
    fields : sequence of Field, optional
        All fields of the run, for measurements by hand.
    cells : sequence of ndarray of shape (height, width), optional
        Cells of every field, for measurements by hand.

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
        If there are no units, none are left, the column of labels is not there, or cells are to be
        measured with a library that is not installed.
    """
    choices = choices or EvaluationChoices()
    if choices.handcrafted:
        require_library(choices.library)
    if not len(activations.units):
        raise MicrodlError("There are no units to evaluate; the fields have no cells.")
    report = EvaluationReport(choices=asdict(choices))
    looked_at = _choose_fields(activations, choices, report)
    asked = _Asked(
        looked_at,
        activations,
        choices,
        unit_labels(looked_at.units, choices.labels),
        unit_groups(looked_at.units, choices.independent),
        fields,
        cells,
        report,
    )
    measures: list[tuple[str, str, Callable[[_Asked], _Steps]]] = [
        ("count", "summary", _count),
        ("select", "selectivities", _select),
        ("shuffle", "null", _shuffle),
        ("separate", "directions", _separate),
        ("reconstruct", "reconstruction", _reconstruct),
        ("probe", "linear probe", _probe),
        ("batch", "batch effects", _batch),
    ]
    if len(asked.classes) < 2:
        del measures[1:4]
        report.notes.append("There is only one label, so there is nothing to tell apart.")
    if choices.handcrafted:
        measures.append(("measure", "handcrafted measurements", _measure))
    if choices.n_seeds:
        measures.append(("refit", "agreement between seeds", _refit))
    if all((activations.unit_tags == tag).any() for tag in TAGS) and len(asked.classes) > 1:
        measures.append(("tags", "recall against tags", _tags))
    total = _PERCENT * len(measures)
    for number, (stage, what, measure) in enumerate(measures):
        try:
            for share, message in measure(asked):
                done = _PERCENT * number + round(_PERCENT * share)
                yield EvaluationStep(stage, done, total, message)
        except MicrodlError as error:
            report.notes.append(f"No {what}: {error}")
    yield EvaluationStep("done", total, total, "Done")
    return report


def _choose_fields(
    activations: ConceptActivations, choices: EvaluationChoices, report: EvaluationReport
) -> ConceptActivations:
    """The fields to look at, with a note on those that the dictionary was fitted on."""
    units = activations.units
    seen = seen_units(activations.dictionary, units)
    n_fields = int(units["field"].nunique())
    report.summary = {"n_fields": n_fields, "n_fields_seen": None}
    if seen is None:
        if choices.unseen_only:
            raise MicrodlError(
                "The dictionary does not tell which fields it was fitted on, so those not used "
                "cannot be told; give other fields, and evaluate all of them."
            )
        report.notes.append(
            "The dictionary does not tell which fields it was fitted on; if these are among them, "
            "the figures are optimistic."
        )
        return activations
    n_seen = int(units["field"][seen].nunique())
    report.summary["n_fields_seen"] = n_seen
    if not choices.unseen_only:
        if n_seen:
            report.notes.append(
                f"The dictionary was fitted on {n_seen} of these {n_fields} fields: figures on "
                "them are optimistic."
            )
        return activations
    if seen.all():
        raise MicrodlError(
            "The dictionary was fitted on all fields of this run, so none is left to evaluate; "
            "apply it to further fields, or evaluate these all the same."
        )
    if n_seen:
        report.notes.append(f"{n_seen} fields that the dictionary was fitted on are left out.")
    report.summary.update(n_fields=n_fields - n_seen, n_fields_seen=0)
    return activations.of_fields(units["field"][~seen].unique())


# Measures ----------------------------------------------------------------------------------------


def _count(asked: _Asked) -> _Steps:
    yield 0, "Counting active concepts"
    codes = asked.activations.codes
    asked.report.summary = {
        "n_samples": len(asked.label),
        **asked.report.summary,
        "n_concepts": asked.activations.n_concepts,
        "n_dead": int(dead_features(codes).sum()),
        "n_dead_in_fit": int(np.sum(asked.activations.dictionary.icfl.dead_)),
        "mean_active": active(codes).nnz / len(asked.label),
        **{f"passes_{t:g}": n for t, n in selectivity_counts(asked.selectivity).items()},
    }


def _select(asked: _Asked) -> _Steps:
    yield 0, "Drawing wells again"
    table = selectivity_intervals(
        asked.activations.codes,
        asked.label,
        asked.group,
        asked.best,
        random_state=asked.choices.random_state,
    )
    asked.report.labels = _named(asked, table.reset_index().to_dict("records"))


def _shuffle(asked: _Asked) -> _Steps:
    steps = iter_best_selectivity_null(
        asked.activations.codes,
        asked.label,
        asked.group,
        n_permutations=asked.choices.n_permutations,
        random_state=asked.choices.random_state,
    )
    table = yield from _shares(steps, "Shuffling labels")
    rows = plain(table.drop(columns=["concept", "selectivity"]).to_dict("records"))
    for row, null in zip(asked.report.labels, rows, strict=True):
        row.update(null)


def _separate(asked: _Asked) -> _Steps:
    directions = asked.activations.dictionary.directions
    for number, (name, concept) in enumerate(zip(asked.classes, asked.best, strict=True)):
        yield number / len(asked.classes), "Comparing cosines with directions"
        found = direction_separation(
            asked.activations.vectors, directions[concept], asked.label == name
        )
        row = plain({"name": str(name), "concept": concept, **vars(found)})
        asked.report.separation.append(row)
        asked.report.labels[number]["auc"] = row["auc"]


def _reconstruct(asked: _Asked) -> _Steps:
    icfl, x = asked.activations.dictionary.icfl, asked.activations.vectors[asked.some]
    most = int(icfl.n_iterations_) * int(icfl.atoms_per_iteration_)
    ks = sorted({max(1, round(most * part)) for part in (0.1, 0.25, 0.5, 1)})
    for number, k in enumerate(ks):
        yield number / len(ks), f"Reconstructing with {k} non-zeros"
        rows = reconstruction_curve(icfl, x, [k]).to_dict("records")
        asked.report.reconstruction += plain(rows)


def _probe(asked: _Asked) -> _Steps:
    activations, some = asked.activations, asked.some
    codes = activations.codes[some]
    given = {
        "x": activations.vectors[some],
        "reconstruction": activations.dictionary.icfl.inverse_transform(codes),
        "codes": codes,
    }
    if len(some) < len(asked.label):
        asked.report.notes.append(
            f"Probes and reconstructions are of {len(some):,} of the {len(asked.label):,} samples, "
            "drawn at random."
        )
    fold = group_folds(
        asked.label[some], asked.group[some], random_state=asked.choices.random_state
    )
    for number, (of, vectors) in enumerate(given.items()):
        yield number / len(given), f"Fitting a linear probe on {of}"
        yield from _within(_probe_of(asked, of, vectors, fold), number, len(given))


def _probe_of(asked: _Asked, of: str, vectors: Any, fold: NDArray[np.int64]) -> _Steps:
    """Probe one representation, and compare it with x."""
    some = asked.some
    steps = iter_probe_scores(vectors, asked.label[some], fold, asked.group[some])
    scores = yield from _shares(steps, f"Fitting a linear probe on {of}")
    asked.on_x = asked.on_x or scores
    relative = relative_accuracy(scores, asked.on_x)
    asked.report.probes.append(plain({"of": of, **asdict(scores), "relative": relative}))


def _batch(asked: _Asked) -> _Steps:
    yield 0, "Looking for batch effects in controls"
    choices, report = asked.choices, asked.report
    design = batch_design(asked.activations.units, choices.batches, choices.independent)
    effects = batch_effects(
        asked.activations.codes, design.batches, design.compared, design.groups, design.blocks
    )
    if design.left_out:
        report.notes.append(
            f"Batch effects are without {', '.join(design.left_out)}: only one well of controls "
            f"has it, so that of these {design.by} none can be told from its well."
        )
    report.batch_design = plain(
        {
            "column": design.column,
            "by": design.by,
            "within": "" if design.blocks is None else "wells",
            "n_batches": len(np.unique(design.batches[design.compared])),
            "n_groups": len(np.unique(design.groups[design.compared])),
            "left_out": design.left_out,
        }
    )
    effects["by"] = design.by
    effects["technical"] = effects["q_value"] < TECHNICAL_Q
    effects = effects.sort_values("epsilon_squared", ascending=False, kind="stable")
    report.batches = _named(asked, effects.reset_index().to_dict("records"))


def _measure(asked: _Asked) -> _Steps:
    unit = asked.activations.dictionary.spec.unit
    if unit != "cell":
        raise MicrodlError(f"they are of cells, and the samples of this run are {unit}s.")
    if asked.fields is None or asked.cells is None or any(c is None for c in asked.cells):
        raise MicrodlError("they take the images and the labels of the cells.")
    if len(asked.classes) < 2:
        raise MicrodlError("there is only one label to compare them by.")
    library = asked.choices.library
    steps = iter_measurements(asked.activations, asked.fields, asked.cells, library)
    measured = yield from _within(steps, 0, 2)
    compared = compare_by_hand(asked.activations, measured, asked.label)
    asked.report.handcrafted = plain({"library": library, **compared})
    if asked.report.probes:
        some = asked.some
        fold = group_folds(
            asked.label[some], asked.group[some], random_state=asked.choices.random_state
        )
        yield from _within(_probe_of(asked, "handcrafted", measured.to_numpy()[some], fold), 1, 2)


def _refit(asked: _Asked) -> _Steps:
    whole, choices = asked.whole, asked.choices
    dictionary = whole.dictionary
    seen = seen_units(dictionary, whole.units)
    # Best the samples of the fit itself, where the run has them.
    samples = whole
    if seen is not None and seen.any():
        samples = whole.of_fields(whole.units["field"][seen].unique())
    same = same_samples(dictionary, samples)
    found = yield from iter_refits(samples, choices.n_seeds, choices.random_state)
    atoms = np.asarray(dictionary.icfl.components_)
    # With every seed's dictionary, the one at hand first.
    pairs = []
    for first, second in combinations([atoms, *found], 2):
        yield 1, "Matching the dictionaries"
        pairs.append(match_dictionaries(first, second))
    asked.report.seeds = plain(
        {
            "n_seeds": choices.n_seeds,
            "n_samples": len(samples.units),
            "same_samples": same,
            **agreement_of(pairs),
        }
    )
    again = np.zeros(len(atoms))
    for match in pairs[: len(found)]:
        again[match.first] += match.cosine / len(found)
    for row in asked.report.labels:
        row["found_again"] = float(again[row["concept"]])
    if not same:
        asked.report.notes.append(
            "Further seeds were not fitted on exactly the fields of the dictionary, so they also "
            "differ by what lies between the fields."
        )


def _tags(asked: _Asked) -> _Steps:
    activations = asked.activations
    treated = ~activations.units["Metadata_control"].to_numpy(bool)
    rows = np.flatnonzero(activations.unit_tags != "")
    marks = [activations.unit_tags[rows] == tag for tag in TAGS]
    for number, (name, concept) in enumerate(zip(asked.classes, asked.best, strict=True)):
        yield number / len(asked.classes), "Comparing with tags"
        # Perturbed cells should show the concept; of one that marks controls they should not.
        if not (treated & (asked.label == name)).any():
            continue
        inside, background = activations.mask_values(int(concept), rows)
        for of, values in (
            ("vector", activations.alignment(int(concept))[rows]),
            ("heatmap", inside),
        ):
            medians = [np.median(values[mark]) if mark.any() else np.nan for mark in marks]
            row = {
                "label": str(name),
                "concept": int(concept),
                "of": of,
                **asdict(tag_recall(values, *marks)),
                "median_control_like": medians[0],
                "median_perturbed": medians[1],
                "median_background": np.nan,
            }
            if of == "heatmap" and len(background):
                row["median_background"] = np.median(background)
            asked.report.tags += _named(asked, [row])


def _named(asked: _Asked, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Plain rows with the names of their concepts."""
    names = asked.activations.dictionary.names
    found: list[dict[str, Any]] = plain(
        {**row, "concept_name": names[int(row["concept"])]} for row in rows
    )
    return found


def _shares(steps: Generator[tuple[int, int], None, _Found], message: str) -> Any:
    """Counted steps as shares with a sentence."""
    while True:
        try:
            done, total = next(steps)
        except StopIteration as finished:
            return finished.value
        yield done / max(total, 1), message


def _within(steps: Any, number: int, of: int) -> Any:
    """Steps of one of several parts as steps of the whole."""
    while True:
        try:
            share, message = next(steps)
        except StopIteration as finished:
            return finished.value
        yield (number + share) / of, message
