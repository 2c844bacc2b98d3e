"""Measures of which the wells are the observations: hits, replicates, places and plates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import sparse, stats

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.text import counted
from napari_microdl.metrics import batch_effects
from napari_microdl.metrics.average_precision import mean_average_precision
from napari_microdl.metrics.wells import TERMS, compare_with_controls, replicate_correlation
from napari_microdl.report.measures import EvaluationInput, measure
from napari_microdl.report.results import EvaluationReport

# What a treatment is called a hit below, and a place or a plate an effect.
LEVEL = 0.05
_MOST_NAMES = 10


def _hit_sentences(report: EvaluationReport, unit: str) -> Iterator[str]:
    rows = report.rows("hits")
    if not rows:
        return
    hits = [row for row in rows if row["hit"]]
    if not report.more["hits"]["fair"]:
        hits = [row for row in rows if row["q_value"] <= LEVEL]
    names = ", ".join(f"'{row['label']}' ({row['concept_name']})" for row in hits[:_MOST_NAMES])
    more = f" and {len(hits) - _MOST_NAMES} more" if hits[_MOST_NAMES:] else ""
    if report.more["hits"]["fair"]:
        what = "is a hit" if len(hits) == 1 else "are hits"
    else:
        what = "would be a hit" if len(hits) == 1 else "would be hits"
    yield (
        f"{len(hits):,} of {counted(len(rows), 'treatment')} {what} (q at most {LEVEL:g})"
        f"{': ' if hits else ''}{names}{more}."
    )
    if not report.more["hits"]["fair"]:
        yield (
            "The whitening has seen all control wells, which therefore lie closer together than "
            "other wells do: p come out too small, and nothing is called a hit. Hold control wells "
            "back from the whitening, or apply the dictionary to another plate."
        )
    least = min(row["smallest_p"] for row in rows)
    facts = report.more["hits"]
    short = len(rows) * least > LEVEL
    yield (
        f"With {counted(facts['n_control_wells'], 'control well')} the p of a treatment cannot be "
        f"below {least:.2g}"
        + (
            f", so that one alone among {len(rows)} could not be a hit; more control wells, or "
            "more wells a treatment, could show it."
            if short
            else "."
        )
    )


@measure(
    "hits",
    title="Treatments against controls",
    what="hit list",
    meaning=(
        "Every treatment against the control wells of its plates, wells as observations: whether "
        "the largest difference over all concepts is larger than with wells that swap places."
    ),
    legend={
        "label": ("Treatment", "What was done to the wells."),
        "n_wells": ("Wells", "Its wells on plates with controls."),
        "concept_name": ("Concept", "The concept with the largest difference."),
        "robust_z": (
            "z",
            "Mean over its wells of the cosine with the concept, less the median of the controls "
            "of the plate, over the spread of controls (1.4826 MAD, at least a quarter of that of "
            "the median concept).",
        ),
        "p_value": (
            "p",
            "Share of arrangements of treated and control wells within plates whose largest "
            "difference over all concepts is as large; all, or 4,999 drawn ones.",
        ),
        "smallest_p": ("Smallest p", "What p cannot be below for this number of wells."),
        "q_value": ("q", "p after Benjamini and Hochberg over all treatments."),
        "hit": (
            "Hit",
            "Whether q is at most 0.05, against control wells that the whitening has not seen.",
        ),
        "correlation": (
            "Replicates",
            "Median correlation of the z of its wells, 1 is the same; none of one well.",
        ),
        "map": ("mAP", "Mean average precision of its wells against controls of the plate."),
        "map_q": ("q of mAP", "Against random rankings, after Benjamini and Hochberg."),
    },
    needs=("controls",),
    message="Comparing treatments with controls",
    wanted=lambda run: run.choices.wells,
    sentences=_hit_sentences,
)
def _hits(run: EvaluationInput) -> pd.DataFrame:
    wells, z = run.wells, run.well_z
    values = wells.values(take_off_positions=run.choices.take_off_positions)
    control, names = wells.control, run.activations.dictionary
    rows = []
    left_out = []
    for label in np.unique(wells.label[wells.treated]).tolist():
        treated = (wells.label == label) & wells.treated
        try:
            test = compare_with_controls(
                values, treated, control, wells.plate, random_state=run.choices.random_state
            )
        except MicrodlError:
            left_out.append(f"'{label}'")
            continue
        order = np.argsort(-np.abs(test.effect), kind="stable")
        best = int(order[0])
        used = treated & np.isfinite(z[:, best])
        rows.append(
            {
                "label": label,
                "n_wells": test.n_wells,
                "n_controls": test.n_controls,
                "n_units": int(wells.table["n_units"].to_numpy()[treated].sum()),
                "concept": best,
                "concept_id": names.concept_id(best),
                "robust_z": float(z[used, best].mean()),
                "next_concepts": [int(concept) for concept in order[1:3]],
                "p_value": test.p_value,
                "smallest_p": test.smallest_p,
            }
        )
    if left_out:
        unseen = "unseen " if wells.is_fair else ""
        run.notes.append(
            f"Not in the hit list, for want of {unseen}control wells on their plates: "
            f"{', '.join(left_out)}."
        )
    if not rows:
        raise MicrodlError("no plate has both treated wells and controls.")
    found = pd.DataFrame(rows).set_index("label")
    found["q_value"] = stats.false_discovery_control(found["p_value"])
    found["hit"] = (found["q_value"] <= LEVEL) & wells.is_fair
    found = found.sort_values(
        ["p_value", "robust_z"], key=lambda c: -c.abs() if c.name == "robust_z" else c
    )
    found.attrs = {
        "n_control_wells": int(control.sum()),
        "fair": wells.is_fair,
        "positions_taken_off": run.choices.take_off_positions,
    }
    return found


@measure(
    "replicates",
    needs=("hits",),
    into="hits",
    what="correlation of replicates",
    wanted=lambda run: run.choices.wells,
)
def _replicates(run: EvaluationInput) -> pd.DataFrame:
    wells = run.wells
    known = wells.treated & np.isfinite(run.well_z).all(axis=1)
    found, luck = replicate_correlation(run.well_z[known], wells.label[known])
    table = pd.DataFrame({"correlation": found}).rename_axis("label")
    return table.assign(correlation_by_luck=luck)


@measure(
    "map",
    needs=("hits",),
    into="hits",
    what="mean average precision (mAP)",
    wanted=lambda run: run.choices.wells,
)
def _map(run: EvaluationInput) -> pd.DataFrame:
    wells = run.wells
    known = (wells.treated | wells.control) & np.isfinite(run.well_z).all(axis=1)
    return mean_average_precision(
        run.well_z[known],
        wells.label[known],
        wells.control[known],
        wells.plate[known],
        random_state=run.choices.random_state,
    )


@measure(
    "positions",
    title="What wells owe to their place",
    what="effects of the place of a well",
    meaning=(
        "Row and column (straight lines over the plate) and edge (the outermost ring), by least "
        "squares on the control wells of all plates, each plate at its own level."
    ),
    legend={
        "term": ("Place", "Row, column or edge."),
        "n_concepts": ("Concepts", "How many follow it with a q of at most 0.05."),
        "share": (
            "Share",
            "Variance of control wells within plates that row, column and edge explain together, "
            "less what chance gives; the mean over concepts.",
        ),
        "concept_name": ("Strongest", "The concept with the smallest p."),
        "slope": (
            "Difference",
            "Of its cosine, from the first row or column to the last, or of the edge to the rest.",
        ),
        "p_value": ("p", "Of the strongest, not corrected; partial F test with wells as unit."),
        "q_value": ("q", "After Benjamini and Hochberg over all concepts."),
        "slope_of_counts": (
            "Number",
            "The same difference of the number of samples in a well, as a share.",
        ),
        "p_of_counts": ("p of the number", "Of that difference."),
    },
    needs=("controls",),
    wanted=lambda run: run.choices.wells,
    sentences=lambda report, unit: _position_sentences(report),
)
def _positions(run: EvaluationInput) -> pd.DataFrame:
    found, counts = run.wells.positions
    best = found.p_values.argmin(axis=1)
    rows = np.arange(len(TERMS))
    q = np.stack([stats.false_discovery_control(p) for p in found.p_values])
    return pd.DataFrame(
        {
            "n_concepts": (q <= LEVEL).sum(axis=1),
            "share": float(found.share.mean()),
            "concept": best,
            "slope": found.slopes[rows, best],
            "p_value": found.p_values[rows, best],
            "q_value": q[rows, best],
            "slope_of_counts": np.expm1(counts.slopes[:, 0]),
            "p_of_counts": counts.p_values[:, 0],
        },
        index=pd.Index(TERMS, name="term"),
    )


def _position_sentences(report: EvaluationReport) -> Iterator[str]:
    rows = [row for row in report.rows("positions") if row["n_concepts"]]
    if rows:
        taken = report.choices.get("take_off_positions")
        yield (
            "Control wells differ by their place: "
            + ", ".join(f"{row['term']} in {row['n_concepts']} concepts" for row in rows)
            + ("; this is taken off the profiles of the hit list." if taken else ".")
        )


@measure(
    "batch_score",
    what="batch score of plates",
    needs=("controls",),
    wanted=lambda run: run.choices.wells and run.activations.units["Metadata_Plate"].nunique() > 1,
    record=True,
    sentences=lambda report, unit: (
        [
            "Of what varies between control wells {share:.0%} lies between plates, less what "
            "chance gives (mean over {n_concepts:,} concepts).".format(**report.more["batch_score"])
        ]
        if report.more.get("batch_score")
        else []
    ),
)
def _batch_score(run: EvaluationInput) -> pd.DataFrame:
    control = run.wells.control
    if len(np.unique(run.wells.plate[control])) < 2:
        raise MicrodlError("controls of two plates or more are needed.")
    cosines = sparse.csr_array(run.wells.cosines[control])
    found = batch_effects(cosines, run.wells.plate[control], np.ones(int(control.sum()), bool))
    share = float(found["epsilon_squared"].mean())
    technical = int((found["q_value"] <= LEVEL).sum())
    return pd.DataFrame(
        [{"share": share, "n_concepts": len(found), "n_technical": technical}], dtype=object
    )
