"""The figures of an evaluation in plain words: headings, what each means, and one summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from napari_microdl.report.results import (
    TECHNICAL_Q,
    EvaluationReport,
    technical_concepts,
)

# Technical concepts that a sentence names.
_MOST_NAMES = 10


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    key : str
        Entry of the rows of the report.
    heading : str
        A word or two.
    meaning : str
        A plain sentence.
    """

    key: str
    heading: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """How one part of a report is shown as a table.

    Parameters
    ----------
    key : str
        Part of the report.
    heading : str
        Title.
    meaning : str
        What the table tells.
    columns : tuple of Column
        From left to right; those that no row has are left out.
    """

    key: str
    heading: str
    meaning: str
    columns: tuple[Column, ...]


_CONCEPT = Column("concept_name", "Concept", "Name of the concept.")
_LABEL = Column("label", "Label", "What is told apart.")
_P = Column(
    "p_value",
    "p",
    "Share of shuffles of the labels, over whole groups, in which the best of all concepts did as "
    "well: small means that it is hardly luck.",
)

LABELS = Table(
    "labels",
    "Best concept of every label",
    "For each label the concept that is active most often in it and least often elsewhere.",
    (
        _LABEL,
        Column("concept_name", "Concept", "The most selective concept of the label."),
        Column(
            "selectivity",
            "Selectivity",
            "Average selectivity: share of the label's samples that show the concept, less its "
            "share among all others; 1 is perfect, 0 is nothing.",
        ),
        Column("low", "Low", "Lower end of the 95 % interval, from groups drawn again."),
        Column("high", "High", "Upper end of the 95 % interval, from groups drawn again."),
        _P,
        Column(
            "null_0.95",
            "By luck",
            "What the best concept reaches in the luckiest 5 % of the shuffles; a selectivity "
            "below it means little.",
        ),
        Column(
            "auc",
            "AUC",
            "Probability that a sample of the label has a higher cosine with the concept than one "
            "of the rest; 0.5 is chance, 1 perfect.",
        ),
        Column(
            "found_again",
            "Again",
            "Mean cosine with the partner of this concept in dictionaries of other seeds; near 1 "
            "means that every seed finds it.",
        ),
        Column("n_groups", "Groups", "Wells, fields or plates of the label."),
        Column(
            "arrangements",
            "Ways",
            "In how many ways the label can fall on the groups; p cannot be less than one over it.",
        ),
    ),
)
PROBES = Table(
    "probes",
    "Linear probes on groups not seen",
    "A linear classifier is fitted on some groups and tested on the others: how much of the label "
    "do the representations hold?",
    (
        Column(
            "of",
            "On",
            "x: the samples as the dictionary gets them; reconstruction: what codes make of them; "
            "codes: the activations; handcrafted: measurements of shape, intensity and texture.",
        ),
        Column(
            "balanced_accuracy",
            "Accuracy",
            "Mean over the labels of the share told right in groups not seen.",
        ),
        Column("chance", "Chance", "Accuracy of guessing: one over the number of labels."),
        Column("relative", "Kept", "Share of what x gains over chance that is kept."),
        Column("auc", "AUC", "Of one label against the rest, the mean; 0.5 is chance."),
        Column("spread", "Spread", "Standard deviation of the accuracy over the parts left out."),
        Column("n_folds", "Parts", "In how many parts the groups were left out."),
        Column("n_samples", "Samples", "How many samples."),
    ),
)
RECONSTRUCTION = Table(
    "reconstruction",
    "Reconstruction against the number of non-zeros",
    "How well a sample is put together again from few concepts.",
    (
        Column("k", "K", "Concepts that a sample may have."),
        Column("non_zeros", "Non-zeros", "Concepts that a sample has in the mean."),
        Column("cosine", "Cosine", "Between samples and reconstructions, the mean; 1 is perfect."),
        Column("r2", "R2", "Share of the variance of the samples that is explained."),
    ),
)
BATCHES = Table(
    "batches",
    "Batch effects in controls",
    "Controls of different plates, or of different sites in a well, should not differ: a concept "
    "that tells them apart is rather technical than biological.",
    (
        _CONCEPT,
        Column(
            "by",
            "By",
            "What was compared: plates of controls, or sites within wells of controls, or the "
            "column that was asked for.",
        ),
        Column(
            "epsilon_squared",
            "Share",
            "Share of the variance among controls (of sites, of that within wells) that lies "
            "between them, less what chance gives; 0 is no batch effect.",
        ),
        Column(
            "q_value",
            "q",
            "p-value of the F test, corrected over all concepts; below "
            f"{TECHNICAL_Q:g} the concept is marked technical.",
        ),
        Column(
            "auc",
            "AUC",
            "How well the concept tells the plate or site that differs most from the others; 0.5 "
            "is not at all.",
        ),
        Column("batch", "Differs", "The plate or site that differs most."),
    ),
)
HANDCRAFTED = Table(
    "handcrafted",
    "Handcrafted measurements",
    "The measurements of shape, intensity or texture that tell each label best: made as sparse as "
    "the codes, as in the paper, and as they are.",
    (
        _LABEL,
        Column("measurement", "Measurement", "The most selective measurement of the label."),
        Column(
            "selectivity",
            "Selectivity",
            "Average selectivity of the measurement where it counts as active in its largest "
            "values only, as many as the codes have non-zeros.",
        ),
        Column(
            "limit",
            "Limit",
            "The most it could be, as every measurement is active in the same share of cells.",
        ),
        Column("concept_selectivity", "Concept's", "That of the best concept, to compare."),
        Column(
            "auc_measurement",
            "As it is",
            "The measurement that tells the label best without being made sparse.",
        ),
        Column("side", "Side", "Whether it is larger or smaller in the label."),
        Column(
            "auc",
            "AUC",
            "Probability that it tells a cell of the label from one of the rest; compare with the "
            "AUC of the best concept.",
        ),
    ),
)
TAGS_RECALLED = Table(
    "tags",
    "Cells tagged by a person",
    "Single-cell identity: do cosines with the best concept of a treated label agree with tags of "
    "single cells?",
    (
        _LABEL,
        _CONCEPT,
        Column(
            "of",
            "Of",
            "vector: cosine of the whole cell with the concept; heatmap: mean of the heatmap "
            "inside the mask of the cell.",
        ),
        Column("n_control_like", "Control-like", "Cells tagged control-like."),
        Column("recalled", "Recalled", "Those of them below the middle between both medians."),
        Column("recall", "Recall", "Their share."),
        Column("n_perturbed", "Perturbed", "Cells tagged perturbed."),
        Column("false_alarms", "Mistaken", "Those of them below that middle."),
        Column(
            "p_value",
            "p",
            "One-sided Mann-Whitney U test: are perturbed cells more aligned with the concept?",
        ),
        Column("median_perturbed", "Median perturbed", "Median cosine of perturbed cells."),
        Column("median_control_like", "Median control-like", "That of control-like cells."),
        Column("median_background", "Median background", "That of patches outside all cells."),
    ),
)
TABLES = (LABELS, PROBES, RECONSTRUCTION, BATCHES, HANDCRAFTED, TAGS_RECALLED)


def rows_of(report: EvaluationReport, table: Table) -> list[dict[str, Any]]:
    """Rows of one part of a report.

    Parameters
    ----------
    report : EvaluationReport
        The report.
    table : Table
        Which part.

    Returns
    -------
    list of dict
        Empty where it was not measured.
    """
    part = getattr(report, table.key)
    rows: list[dict[str, Any]] = part.get("labels", []) if isinstance(part, dict) else part
    return rows


def columns_of(table: Table, rows: list[dict[str, Any]]) -> list[Column]:
    """Columns that some row has.

    Parameters
    ----------
    table : Table
        Which part.
    rows : list of dict
        Its rows.

    Returns
    -------
    list of Column
    """
    known = {key for row in rows for key in row}
    return [column for column in table.columns if column.key in known]


def value_text(value: Any) -> str:
    """A value as a person reads it; a dash where it is not known.

    Parameters
    ----------
    value : object
        Of a row.

    Returns
    -------
    str
    """
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def summary_sentences(report: EvaluationReport, unit: str) -> list[str]:
    """What was found, in sentences.

    Parameters
    ----------
    report : EvaluationReport
        The report.
    unit : str
        What one sample is.

    Returns
    -------
    list of str
    """
    known, found = report.summary, []
    if report.labels:
        best = max(report.labels, key=lambda row: row["selectivity"])
        interval = ""
        if best["low"] is not None:
            interval = f", 95 % interval {best['low']:.2f} to {best['high']:.2f}"
        p = f", p = {best['p_value']:.2g}" if best.get("p_value") is not None else ""
        found.append(
            f"The best is '{best['concept_name']}' for '{best['label']}', with an average "
            f"selectivity of {best['selectivity']:.2f}{interval}{p}."
        )
    found.append(
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
        found.append(
            f"Concepts by their average selectivity for some of {len(report.labels)} labels: "
            f"{passed}."
        )
    if report.batches:
        technical = technical_concepts(report)
        names = {row["concept"]: row["concept_name"] for row in report.batches}
        few = ", ".join(f"'{names[concept]}'" for concept in technical[:_MOST_NAMES])
        more = f" and {len(technical) - _MOST_NAMES:,} more" if technical[_MOST_NAMES:] else ""
        found.append(
            f"Technical, for telling {_compared(report)} beyond chance (q below "
            f"{TECHNICAL_Q:g}): {f'{few}{more}' if technical else 'no concept'}."
        )
    if report.handcrafted:
        by_hand = report.handcrafted
        row = max(by_hand["labels"], key=lambda row: row["concept_selectivity"])
        together = ""
        if by_hand["correlation"] is not None:
            together = (
                f" Over the labels, best selectivities of measurements and concepts correlate "
                f"with r = {by_hand['correlation']:.2f} (Pearson)."
            )
        found.append(
            f"Of {by_hand['n_measurements']} handcrafted measurements ({by_hand['library']}), "
            f"{row['auc_measurement']}, "
            f"{row['side']} in '{row['label']}', tells it best: AUC {row['auc']:.2f}.{together}"
        )
    if report.seeds:
        seeds = report.seeds
        found.append(
            f"With {seeds['n_seeds']} further seed{'s' if seeds['n_seeds'] > 1 else ''}, matched "
            f"concepts have a mean cosine of {seeds['matched_cosine']:.2f}, and "
            f"{seeds['matched_share']:.0%} of them one of at least 0.9."
        )
    return found


def _compared(report: EvaluationReport) -> str:
    """What batch effects are of."""
    design = report.batch_design
    within = f" within {design['within']}" if design["within"] else ""
    return f"{design['by']} apart{within} among controls"
