"""The measures of this package, in the order in which they are taken and shown.

Each is a plain function that returns a table; `napari_microdl.report.evaluate` takes them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pandas as pd

from napari_microdl.concepts.dictionary import TAGS
from napari_microdl.concepts.localisation import COLUMNS as PLACE_COLUMNS
from napari_microdl.concepts.localisation import PLACES_IN_WORDS
from napari_microdl.core.task import current_task
from napari_microdl.metrics import (
    ProbeScores,
    active,
    agreement_of,
    batch_effects,
    best_selectivity_null,
    dead_features,
    direction_separation,
    reconstruction_curve,
    relative_accuracy,
    selectivity_counts,
    selectivity_intervals,
    separation_auc,
    tag_recall,
    times_found,
)
from napari_microdl.report.findings import find_finding
from napari_microdl.report.handcrafted import compare_handcrafted
from napari_microdl.report.measures import EvaluationInput, measure
from napari_microdl.report.options import asks_conditions, seen_units
from napari_microdl.report.results import TECHNICAL_Q, EvaluationReport, technical_concepts
from napari_microdl.report.seeds import same_samples

# Technical concepts that a sentence names.
_MOST_NAMES = 10
# Concepts of which the page says where they lie; the table of concepts has all.
_MOST_PLACES = 20
_CONCEPT = ("Concept", "Name of the concept.")
_LABEL = ("Label", "What is told apart.")


def _summary_sentences(report: EvaluationReport, unit: str) -> Iterator[str]:
    known = report.summary
    if report.labels:
        best = max(report.labels, key=lambda row: row["selectivity"])
        interval = ""
        if best["low"] is not None:
            interval = f", 95 % interval {best['low']:.2f} to {best['high']:.2f}"
        p = ""
        # Codes of wells that were fitted know which of them are controls.
        if best.get("p_value") is not None and known["n_fields_seen"] == 0:
            p = f", p = {best['p_value']:.2g}"
        yield (
            f"The best is '{best['concept_name']}' for '{best['label']}', with an average "
            f"selectivity of {best['selectivity']:.2f}{interval}{p}."
        )
    yield (
        f"{known['n_samples']:,} {unit}s of {known['n_fields']:,} fields; {known['n_concepts']:,} "
        f"concepts, {known['n_dead']:,} of them active in no {unit} here and "
        f"{known['n_dead_in_fit']:,} dead in the fit; {known['mean_active']:.1f} active in a "
        f"{unit}."
    )
    if report.labels:
        passed = "; ".join(
            f"above {key.removeprefix('passes_')}: {known[key]:,}"
            for key in known
            if key.startswith("passes_")
        )
        yield (
            f"Concepts by their average selectivity for some of {len(report.labels)} labels: "
            f"{passed}."
        )


@measure(
    "summary",
    message="Counting active concepts",
    record=True,
    sentences=_summary_sentences,
)
def _summary(run: EvaluationInput) -> pd.DataFrame:
    codes, units = run.activations.codes, run.activations.units
    seen = seen_units(run.activations.dictionary, units)
    counted = {
        "n_samples": len(run.label),
        "n_fields": units["field"].nunique(),
        "n_fields_seen": None if seen is None else units["field"][seen].nunique(),
        "n_concepts": run.activations.n_concepts,
        "n_dead": int(dead_features(codes).sum()),
        "n_dead_in_fit": int(np.sum(run.activations.dictionary.icfl.dead_)),
        "mean_active": active(codes).nnz / len(run.label),
        **{f"passes_{t:g}": n for t, n in selectivity_counts(run.selectivity).items()},
    }
    return pd.DataFrame([counted], dtype=object)


@measure(
    "finding",
    needs=("several labels",),
    what="test of the best concept",
    message="Testing the best concept",
    wanted=lambda run: asks_conditions(run.activations.units, run.choices.labels),
    record=True,
    sentences=lambda report, unit: [report.finding["sentence"]] if report.finding else [],
)
def _finding(run: EvaluationInput) -> pd.DataFrame:
    found = find_finding(run.activations, n_refits=run.n_refits)
    return pd.DataFrame([{"sentence": found.sentence(), **found.to_dict()}], dtype=object)


@measure(
    "labels",
    title="Best concept of every label",
    meaning=(
        "For each label the concept that is active most often in it and least often elsewhere."
    ),
    legend={
        "label": _LABEL,
        "concept_name": ("Concept", "The most selective concept of the label."),
        "selectivity": (
            "Average selectivity: share of the label's samples that show the concept, less its "
            "share among all others; 1 is perfect, 0 is nothing."
        ),
        "low": "Lower end of the 95 % interval, from groups drawn again.",
        "high": "Upper end of the 95 % interval, from groups drawn again.",
        "p_value": (
            "p",
            "Share of shuffles of the labels, over whole groups, in which the best of all concepts "
            "did as well: small means that it is hardly luck, but not on groups that the "
            "dictionary was fitted on, which it was told apart.",
        ),
        "null_0.95": (
            "By luck",
            "What the best concept reaches in the luckiest 5 % of the shuffles; a selectivity "
            "below it means little.",
        ),
        "auc": (
            "AUC",
            "Probability that a sample of the label is more like the concept than one of the "
            "rest; 0.5 is chance, 1 perfect.",
        ),
        "found_again": (
            "Again",
            "How alike its partners in dictionaries of other seeds are, in the mean; near 1 means "
            "that every seed finds it.",
        ),
        "n_groups": ("Groups", "Wells, fields or plates of the label."),
        "arrangements": (
            "Ways",
            "In how many ways the label can fall on the groups; p cannot be less than one over it.",
        ),
    },
    needs=("several labels",),
    what="selectivities",
    message="Drawing wells again",
)
def _labels(run: EvaluationInput) -> pd.DataFrame:
    return selectivity_intervals(
        run.activations.codes,
        run.label,
        run.group,
        run.best,
        random_state=run.choices.random_state,
    )


@measure("null", needs=("several labels",), what="null", message="Shuffling labels", into="labels")
def _null(run: EvaluationInput) -> pd.DataFrame:
    table = best_selectivity_null(
        run.activations.codes,
        run.label,
        run.group,
        n_permutations=run.choices.n_permutations,
        random_state=run.choices.random_state,
    )
    return table.drop(columns=["concept", "selectivity"])


@measure(
    "separation",
    needs=("several labels",),
    what="directions",
    message="Comparing cosines with directions",
)
def _separation(run: EvaluationInput) -> pd.DataFrame:
    directions, rows = run.activations.dictionary.directions, []
    for number, (name, concept) in enumerate(zip(run.classes, run.best, strict=True)):
        current_task().progress(number, len(run.classes))
        found = direction_separation(
            run.activations.vectors, directions[concept], run.label == name
        )
        rows.append({"name": str(name), "concept": concept, **vars(found)})
    return pd.DataFrame(rows)


@measure("auc", needs=("separation",), into="labels")
def _auc(run: EvaluationInput) -> pd.DataFrame:
    table = run.found["separation"]
    return table[["auc"]].set_axis(pd.Index(table["name"], name="label"))


def _place_sentences(report: EvaluationReport, unit: str) -> Iterator[str]:
    if not report.places:
        return
    row = report.places[0]
    place = PLACES_IN_WORDS[row["place"]]
    if row["place"] and row["gone"] is not None:
        yield (
            f"The first of the ranking, '{row['concept_name']}', is {place}: where every field's "
            f"own background is its reference, an AUC of {row['auc_left']:.2f} against controls is "
            f"left of {row['auc']:.2f}, so {row['gone']:.0%} of what it tells beyond chance goes."
        )
    of_field = [r for r in report.places if r["place"] == "field"]
    if of_field:
        yield (
            f"Of the {len(report.places)} first concepts of the ranking background shows "
            f"{len(of_field)} as well, so that these may be of the whole field: exposure, focus or "
            "haze of the treated images."
        )


@measure(
    "places",
    title="Where the concepts lie",
    meaning=(
        "Do the cells show a concept, or the whole field? The first concepts of the ranking, each "
        "in images of the condition that it tells best."
    ),
    legend={
        "concept_name": _CONCEPT,
        "label": ("Label", "The condition that it tells best."),
        "where": (
            "Where",
            "In the cells, or of the whole field, because the background between cells tells the "
            "condition from controls as well (AUC above 0.7).",
        ),
        "in_cells": (
            "On cells",
            "Probability that a patch of a cell is hotter than one of the background of the same "
            "field; 0.5 is as often as not.",
        ),
        "background_auc": (
            "Background",
            "Probability that a background patch of the condition is hotter than one of a control.",
        ),
        "within_wells": (
            "In wells",
            "Share of its variance among cells of the condition that lies within wells, so from "
            "cell to cell; 1 is all.",
        ),
        "auc": ("AUC", "How well its direction alone tells cells of the condition from controls."),
        "auc_left": (
            "Left",
            "The same by its heat, where every field's own background is its reference.",
        ),
        "gone": ("Gone", "Share of what the AUC has above chance that goes with it."),
    },
    wanted=lambda run: (
        asks_conditions(run.activations.units, run.choices.labels)
        and bool(run.activations.ranking[list(PLACE_COLUMNS[1:])].notna().any(axis=None))
    ),
    what="places of concepts",
    message="Asking where concepts lie",
    sentences=_place_sentences,
)
def _places(run: EvaluationInput) -> pd.DataFrame:
    activations = run.activations
    conditions = activations.units["Metadata_condition"].to_numpy().astype(str)
    control = activations.units["Metadata_control"].to_numpy(bool)
    table = activations.ranking.loc[:, ["label", *PLACE_COLUMNS]].head(_MOST_PLACES)
    table = table.rename_axis("concept").reset_index()
    table["where"] = [PLACES_IN_WORDS[place] for place in table["place"]]
    areas = []
    for concept, label in zip(table["concept"].tolist(), table["label"], strict=True):
        inside = (conditions == label) & ~control
        rows = inside | control
        areas.append(separation_auc(activations.alignment(concept)[rows], inside[rows]))
    table["auc"] = areas
    above = table["auc"] - 0.5
    gone = 1 - (table["auc_left"] - 0.5) / above.where(above > 0)
    # Without its length a cell is told a little better or worse than by its heat.
    table["gone"] = gone.clip(lower=0)
    return table


@measure(
    "probes",
    title="Linear probes on groups not seen",
    meaning=(
        "A linear classifier is fitted on some groups and tested on the others: how much of the "
        "label do the representations hold?"
    ),
    legend={
        "of": (
            "On",
            "x: the samples as the dictionary gets them; reconstruction: what codes make of them; "
            "codes: the activations; handcrafted: measurements of shape, intensity and texture.",
        ),
        "balanced_accuracy": (
            "Accuracy",
            "Mean over the labels of the share told right in groups not seen.",
        ),
        "chance": "Accuracy of guessing: one over the number of labels.",
        "relative": ("Kept", "Share of what x gains over chance that is kept."),
        "auc": ("AUC", "Of one label against the rest, the mean; 0.5 is chance."),
        "spread": "Standard deviation of the accuracy over the parts left out.",
        "n_folds": ("Parts", "In how many parts the groups were left out."),
        "n_samples": ("Samples", "How many samples."),
    },
    what="linear probe",
    message="Fitting linear probes",
)
def _probes(run: EvaluationInput) -> pd.DataFrame:
    activations, some = run.activations, run.some
    codes = activations.codes[some]
    given = {
        "x": activations.vectors[some],
        "reconstruction": activations.dictionary.icfl.inverse_transform(codes),
        "codes": codes,
    }
    if len(some) < len(run.label):
        run.notes.append(
            f"Probes and reconstructions are of {len(some):,} of the {len(run.label):,} samples, "
            "drawn at random."
        )
    scores = {}
    for number, (of, vectors) in enumerate(given.items()):
        with current_task().step(number, len(given), f"Fitting a linear probe on {of}"):
            scores[of] = run.probe(vectors)
    return _probe_table(scores, scores["x"])


def _probe_table(scores: dict[str, ProbeScores], reference: ProbeScores) -> pd.DataFrame:
    rows = [asdict(s) | {"relative": relative_accuracy(s, reference)} for s in scores.values()]
    return pd.DataFrame(rows, index=pd.Index(list(scores), name="of"))


@measure(
    "reconstruction",
    title="Reconstruction against the number of non-zeros",
    meaning="How well a sample is put together again from few concepts.",
    legend={
        "k": ("K", "Concepts that a sample may have."),
        "non_zeros": ("Non-zeros", "Concepts that a sample has in the mean."),
        "cosine": ("Alike", "Samples and reconstructions, in the mean; 1 is perfect."),
        "r2": ("Explained", "Share of the variance of the samples that is explained."),
    },
    what="reconstruction",
)
def _reconstruction(run: EvaluationInput) -> pd.DataFrame:
    icfl, x = run.activations.dictionary.icfl, run.activations.vectors[run.some]
    most = int(icfl.n_iterations_) * int(icfl.atoms_per_iteration_)
    ks = sorted({max(1, round(most * part)) for part in (0.1, 0.25, 0.5, 1)})
    curves = []
    for number, k in enumerate(ks):
        current_task().progress(number, len(ks), f"Reconstructing with {k} non-zeros")
        curves.append(reconstruction_curve(icfl, x, [k]))
    return pd.concat(curves)


def _batch_sentences(report: EvaluationReport, unit: str) -> Iterator[str]:
    if not report.batches:
        return
    technical, design = technical_concepts(report), report.batch_design
    names = {row["concept"]: row["concept_name"] for row in report.batches}
    few = ", ".join(f"'{names[concept]}'" for concept in technical[:_MOST_NAMES])
    more = f" and {len(technical) - _MOST_NAMES:,} more" if technical[_MOST_NAMES:] else ""
    within = f" within {design['within']}" if design["within"] else ""
    yield (
        f"Technical, for telling {design['by']} apart{within} among controls beyond chance "
        f"(q below {TECHNICAL_Q:g}): {f'{few}{more}' if technical else 'no concept'}."
    )


@measure(
    "batches",
    title="Batch effects in controls",
    meaning=(
        "Controls of different plates, or of different sites in a well, should not differ: a "
        "concept that tells them apart is rather technical than biological."
    ),
    legend={
        "concept_name": _CONCEPT,
        "by": (
            "What was compared: plates of controls, or sites within wells of controls, or the "
            "column that was asked for."
        ),
        "epsilon_squared": (
            "Share",
            "Share of the variance among controls (of sites, of that within wells) that lies "
            "between them, less what chance gives; 0 is no batch effect.",
        ),
        "q_value": (
            "q",
            "p-value of the F test, corrected over all concepts; below "
            f"{TECHNICAL_Q:g} the concept is marked technical.",
        ),
        "auc": (
            "AUC",
            "How well the concept tells the plate or site that differs most from the others; 0.5 "
            "is not at all.",
        ),
        "batch": ("Differs", "The plate or site that differs most."),
    },
    what="batch effects",
    message="Looking for batch effects in controls",
    sentences=_batch_sentences,
)
def _batches(run: EvaluationInput) -> pd.DataFrame:
    design = run.batch_design
    effects = batch_effects(
        run.activations.codes, design.batches, design.compared, design.groups, design.blocks
    )
    if design.left_out:
        run.notes.append(
            f"Batch effects are without {', '.join(design.left_out)}: only one well of controls "
            f"has it, so that of these {design.by} none can be told from its well."
        )
    effects["by"] = design.by
    effects["technical"] = effects["q_value"] < TECHNICAL_Q
    return effects.sort_values("epsilon_squared", ascending=False, kind="stable")


@measure("batch_design", needs=("batches",), record=True)
def _batch_design(run: EvaluationInput) -> pd.DataFrame:
    design = run.batch_design
    described = {
        "column": design.column,
        "by": design.by,
        "within": "" if design.blocks is None else "wells",
        "n_batches": len(np.unique(design.batches[design.compared])),
        "n_groups": len(np.unique(design.groups[design.compared])),
        "left_out": design.left_out,
    }
    return pd.DataFrame([described])


def _handcrafted_sentences(report: EvaluationReport, unit: str) -> Iterator[str]:
    found = report.handcrafted
    if not found:
        return
    row = max(found["labels"], key=lambda row: row["concept_selectivity"])
    together = ""
    if found["correlation"] is not None:
        together = (
            " Over the labels, best selectivities of measurements and concepts correlate with "
            f"r = {found['correlation']:.2f} (Pearson)."
        )
    yield (
        f"Of {found['n_measurements']} handcrafted measurements ({found['library']}), "
        f"{row['auc_measurement']}, {row['side']} in '{row['label']}', tells it best: "
        f"AUC {row['auc']:.2f}.{together}"
    )


@measure(
    "handcrafted",
    title="Handcrafted measurements",
    meaning=(
        "The measurements of shape, intensity or texture that tell each label best: made as sparse "
        "as the codes, as in the paper, and as they are."
    ),
    legend={
        "label": _LABEL,
        "measurement": "The most selective measurement of the label.",
        "selectivity": (
            "Average selectivity of the measurement where it counts as active in its largest "
            "values only, as many as the codes have non-zeros."
        ),
        "limit": "The most it could be, as every measurement is active in the same share of cells.",
        "concept_selectivity": ("Concept's", "That of the best concept, to compare."),
        "auc_measurement": (
            "As it is",
            "The measurement that tells the label best without being made sparse.",
        ),
        "side": "Whether it is larger or smaller in the label.",
        "auc": (
            "AUC",
            "Probability that it tells a cell of the label from one of the rest; compare with the "
            "AUC of the best concept.",
        ),
    },
    message="Measuring the cells",
    wanted=lambda run: run.choices.handcrafted,
    sentences=_handcrafted_sentences,
)
def _handcrafted(run: EvaluationInput) -> pd.DataFrame:
    table = compare_handcrafted(run.activations, run.measurements, run.label)
    table.attrs = {"library": run.choices.library, **table.attrs}
    return table


@measure(
    "handcrafted_probe",
    needs=("handcrafted", "probes"),
    message="Fitting a linear probe on handcrafted measurements",
    wanted=lambda run: run.choices.handcrafted,
    into="probes",
)
def _handcrafted_probe(run: EvaluationInput) -> pd.DataFrame:
    scores = run.probe(run.measurements.to_numpy()[run.some])
    on_x = ProbeScores(**run.found["probes"].drop(columns="relative").loc["x"])
    return _probe_table({"handcrafted": scores}, on_x)


def _seed_sentences(report: EvaluationReport, unit: str) -> Iterator[str]:
    seeds = report.seeds
    if seeds:
        yield (
            f"With {seeds['n_seeds']} further seed{'s' if seeds['n_seeds'] > 1 else ''}, matched "
            f"concepts are alike by {seeds['matched_cosine']:.2f} in the mean (1 is the same), and "
            f"{seeds['matched_share']:.0%} of them by at least 0.9."
        )


@measure(
    "seeds",
    what="agreement between seeds",
    message="Fitting dictionaries with further seeds",
    wanted=lambda run: run.choices.n_seeds > 0,
    record=True,
    sentences=_seed_sentences,
)
def _seeds(run: EvaluationInput) -> pd.DataFrame:
    same = same_samples(run.whole.dictionary, run.samples_of_fit)
    agreement = agreement_of(run.matches)
    if not same:
        run.notes.append(
            "Further seeds were not fitted on exactly the fields of the dictionary, so they also "
            "differ by what lies between the fields."
        )
    found = {
        "n_seeds": run.choices.n_seeds,
        "n_samples": len(run.samples_of_fit.units),
        "same_samples": same,
        **agreement,
        "times_found": times_found(run.matches[: run.choices.n_seeds], run.whole.n_concepts),
    }
    return pd.DataFrame([found])


@measure(
    "found_again",
    needs=("seeds", "labels"),
    wanted=lambda run: run.choices.n_seeds > 0,
    into="labels",
)
def _found_again(run: EvaluationInput) -> pd.DataFrame:
    n_seeds, again = run.choices.n_seeds, np.zeros(run.whole.n_concepts)
    for match in run.matches[:n_seeds]:
        again[match.first] += match.cosine / n_seeds
    labels = run.found["labels"]
    return pd.DataFrame({"found_again": again[labels["concept"]]}, index=labels.index)


@measure(
    "tags",
    title="Cells tagged by a person",
    meaning=(
        "Single-cell identity: does the likeness to the best concept of a treated label agree with "
        "tags of single cells?"
    ),
    legend={
        "label": _LABEL,
        "concept_name": _CONCEPT,
        "of": (
            "vector: likeness of the whole cell to the concept; heatmap: mean of the heatmap "
            "inside the mask of the cell."
        ),
        "n_control_like": ("Control-like", "Cells tagged control-like."),
        "recalled": "Those of them below the middle between both medians.",
        "recall": "Their share.",
        "n_perturbed": ("Perturbed", "Cells tagged perturbed."),
        "false_alarms": ("Mistaken", "Those of them below that middle."),
        "p_value": (
            "p",
            "One-sided Mann-Whitney U test: are perturbed cells more like the concept?",
        ),
        "median_perturbed": "Median likeness of perturbed cells.",
        "median_control_like": ("Median control-like", "That of control-like cells."),
        "median_background": "That of patches outside all cells.",
    },
    what="recall against tags",
    message="Comparing with tags",
    wanted=lambda run: len(run.classes) > 1 and run.has_tags,
)
def _tags(run: EvaluationInput) -> pd.DataFrame:
    activations = run.activations
    treated = ~activations.units["Metadata_control"].to_numpy(bool)
    rows = np.flatnonzero(activations.unit_tags != "")
    tagged = [activations.unit_tags[rows] == tag for tag in TAGS]
    found = []
    for number, (name, concept) in enumerate(zip(run.classes, run.best, strict=True)):
        current_task().progress(number, len(run.classes))
        # Perturbed cells should show the concept; of one that marks controls they should not.
        if not (treated & (run.label == name)).any():
            continue
        inside, background = activations.mask_values(int(concept), rows)
        for of, values in (
            ("vector", activations.alignment(int(concept))[rows]),
            ("heatmap", inside),
        ):
            medians = [np.median(values[side]) if side.any() else np.nan for side in tagged]
            known = of == "heatmap" and len(background) > 0
            found.append(
                {
                    "label": str(name),
                    "concept": int(concept),
                    "of": of,
                    **asdict(tag_recall(values, *tagged)),
                    "median_control_like": medians[0],
                    "median_perturbed": medians[1],
                    "median_background": np.median(background) if known else np.nan,
                }
            )
    return pd.DataFrame(found)
