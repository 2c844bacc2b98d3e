"""What an evaluation found, in values that JSON can hold."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd

# A concept that tells batches apart among controls with a lower q is marked technical.
TECHNICAL_Q = 0.05


@dataclass
class EvaluationReport:
    """What was measured; what is not known is None.

    Parameters
    ----------
    choices : dict
        What was asked, as `EvaluationChoices`.
    summary : dict
        ``n_samples``, ``n_fields``, ``n_fields_seen`` (those that the dictionary was fitted on;
        None where it does not tell), ``n_concepts``, ``n_dead`` among these samples,
        ``n_dead_in_fit`` over the last 1,000 steps of the fit, ``mean_active``, and
        ``passes_<threshold>``, the concepts whose average selectivity passes it for at least one
        label.
    finding : dict
        Entries of `napari_microdl.report.findings.Finding`, its ``sentence`` and ``is_finding``.
        Empty where other labels than the condition were asked for.
    labels : list of dict
        A row a label: its best concept, the selectivity with its null and interval, and the area of
        the direction. See `best_selectivity_null` and `selectivity_intervals`. With further seeds,
        ``found_again``: mean cosine of the concept with its partners in their dictionaries.
    separation : list of dict
        Histograms of the best direction of every label, as `DirectionSeparation`.
    places : list of dict
        A row each of the first concepts of the ranking: what `locate_concepts` says of it,
        ``where`` in words, its ``auc``, and the share of it above chance that is ``gone`` when
        every field's background is its reference. Empty where samples are no cells, or other labels
        than the condition were asked for.
    reconstruction : list of dict
        Rows of `reconstruction_curve`.
    probes : list of dict
        A row a representation: ``of`` "x", "reconstruction", "codes" or "handcrafted", the entries
        of `ProbeScores`, and ``relative`` to x.
    batches : list of dict
        Rows of `batch_effects`, the strongest first, with what they were compared ``by`` ("plates",
        "sites", ...) and whether the concept is ``technical``: it tells batches apart among
        controls with a q of less than `TECHNICAL_Q`.
    batch_design : dict
        ``column`` that tells the batches, ``by`` the same in a word, ``within`` "wells" where they
        were compared within wells and else "", ``n_batches``, ``n_groups`` (wells, or fields, of
        controls) and the batches ``left_out``. Empty where batch effects were not measured.
    handcrafted : dict
        ``library``, ``n_measurements``, their ``non_zeros`` as codes, ``correlation`` of best
        selectivities over the labels, and ``labels``: a row a label with the most selective
        ``measurement``, its ``selectivity``, the ``limit`` that the number of non-zeros sets to it,
        and the ``concept_selectivity`` it compares with; the ``auc_measurement`` that tells the
        label best without a threshold, its ``auc`` (0.5 to 1) and the ``side`` on which the label
        lies. Empty where nothing was measured by hand.
    sets : list of dict
        A row a label that can be told from controls by concepts together: ``set`` in words, the
        ``concepts`` with their ``weights`` and ``shares``, and areas under the ROC curve in wells
        left out, ``auc`` of the set, ``auc_first`` of one concept, ``auc_all`` of the samples and
        ``auc_handcrafted``; of the label that is told best, ``p_value`` and the ``smallest_p`` that
        its wells allow.
    seeds : dict
        ``n_seeds``, ``n_samples``, ``same_samples`` (whether the dictionary was fitted on the same
        fields), the entries of `agreement_of`, and ``times_found``, for every concept the number of
        further seeds that have it. Empty where no further seed was fitted.
    tags : list of dict
        Two rows a label that is not of controls alone: ``concept``, its best; ``of`` "vector", the
        cosine of each cell with it, and "heatmap", the mean of its heatmap in the mask of the cell;
        the entries of `TagRecall`, and medians of both kinds of cells and of the background. Empty
        without tags.
    notes : list of str
        What to know of the figures, and what was not measured and why.
    more : dict of str to list of dict
        Rows of further measures (`napari_microdl.report.measure`), by their names.
    """

    choices: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    finding: dict[str, Any] = field(default_factory=dict)
    labels: list[dict[str, Any]] = field(default_factory=list)
    separation: list[dict[str, Any]] = field(default_factory=list)
    places: list[dict[str, Any]] = field(default_factory=list)
    reconstruction: list[dict[str, Any]] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    batch_design: dict[str, Any] = field(default_factory=dict)
    handcrafted: dict[str, Any] = field(default_factory=dict)
    sets: list[dict[str, Any]] = field(default_factory=list)
    seeds: dict[str, Any] = field(default_factory=dict)
    tags: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Rows of the table of a measure; empty where it was not measured."""
        part = getattr(self, name) if hasattr(self, name) else self.more.get(name, [])
        return list(part.get("labels", [])) if isinstance(part, dict) else part

    def add(self, name: str, part: Any) -> None:
        """Write down what a measure found."""
        if name in {entry.name for entry in fields(self)}:
            setattr(self, name, part)
        else:
            self.more[name] = part

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"


def technical_concepts(report: EvaluationReport | None) -> list[int]:
    """Concepts that tell plates, or other batches, apart among controls beyond chance.

    Parameters
    ----------
    report : EvaluationReport or None
        Of the run; None where it was not evaluated.

    Returns
    -------
    list of int
        In rising order; empty where batch effects were not measured.
    """
    rows = [] if report is None else report.batches
    return sorted(row["concept"] for row in rows if row["technical"])


def batch_columns(report: EvaluationReport | None) -> pd.DataFrame | None:
    """What an evaluation says of the concepts as batches of controls show them.

    Parameters
    ----------
    report : EvaluationReport or None
        Of a run; None where it was not evaluated.

    Returns
    -------
    DataFrame indexed by concept, or None
        ``technical`` (a truth value), ``batch_by`` (what was compared, such as "plates"),
        ``batch_share`` (epsilon squared), ``batch_auc`` and ``batch_q``, see `batch_effects`; None
        where batch effects were not measured.
    """
    if report is None or not report.batches:
        return None
    rows = pd.DataFrame(report.batches).set_index("concept").sort_index()
    return pd.DataFrame(
        {
            "technical": rows["technical"].astype(bool),
            "batch_by": rows["by"],
            "batch_share": rows["epsilon_squared"],
            "batch_auc": rows["auc"],
            "batch_q": rows["q_value"],
        }
    )


def with_technical(ranking: pd.DataFrame, report: EvaluationReport | None) -> pd.DataFrame:
    """A ranking of concepts with what an evaluation says of them.

    Parameters
    ----------
    ranking : DataFrame indexed by concept
        As `napari_microdl.concepts.activations.ConceptActivations` has it; it is left as it is.
    report : EvaluationReport or None
        Of the same run.

    Returns
    -------
    DataFrame
        With the columns of `batch_columns` behind, where batch effects were measured.
    """
    more = batch_columns(report)
    return ranking.copy() if more is None else ranking.join(more)


def plain(value: Any) -> Any:
    """Values that JSON can hold; None for what is not finite.

    Parameters
    ----------
    value : object
        Numbers, texts, arrays, and dictionaries or iterables of them.

    Returns
    -------
    object
    """
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return [plain(entry) for entry in value]
