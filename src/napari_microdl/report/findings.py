"""Whether the best concept of a run is a finding, or only the best of many by luck.

The best of all concepts is taken for every arrangement of the wells, see
`napari_microdl.report.swaps`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.dictionary import CHOSEN
from napari_microdl.metrics.selectivity import (
    activation_shares,
    average_selectivity,
    separation_auc,
)
from napari_microdl.report.results import plain
from napari_microdl.report.swaps import (
    LEVEL,
    REFIT_STEPS,
    UNTESTED,
    Coded,
    Statistic,
    Swap,
    sides_of,
    swap_test,
)


@dataclass(frozen=True)
class Finding:
    """The concept that marks a condition best, and whether that is more than luck.

    Parameters
    ----------
    concept : int
        The best concept of the run; of a dictionary that is applied, the one that its fit chose.
    name : str
        Its name.
    label : str
        Condition that it marks.
    selectivity, auc : float
        Average selectivity for the label, and area of its direction, as in the ranking.
    rate_label, rate_others : float
        Share of the units of the label, and of controls (of all others where there are none), in
        which it is active.
    unit : str
        What one unit is.
    wells_label, wells_others : int
        Wells that swap conditions, or fields where no well is known.
    arrangements : float
        In how many ways the condition can fall on these wells, plates kept apart.
    smallest_p : float or None
        What p cannot be below, for the number of wells and of treatments that were tried.
    p_value : float or None
        How often wells that swap conditions give as selective a best concept, times the treatments
        that were tried; None where it was not tested.
    n_treatments : int
        Treatments among which the label was chosen.
    how : {"refits", "unseen wells", ""}
        Whether everything was fitted anew for each arrangement, or the dictionary had not seen the
        wells; empty where it was not tested.
    n_drawn : int
        Arrangements that were looked at, beside the true one.
    why_not : str
        Why it was not tested; empty where it was.
    best, best_name, best_label, best_selectivity
        The best of the run, where the concept was chosen before.
    """

    concept: int
    name: str
    label: str
    selectivity: float
    auc: float
    rate_label: float
    rate_others: float
    unit: str
    wells_label: int = 0
    wells_others: int = 0
    arrangements: float = 1.0
    smallest_p: float | None = None
    p_value: float | None = None
    n_treatments: int = 1
    how: str = ""
    n_drawn: int = 0
    why_not: str = ""
    best: int | None = None
    best_name: str = ""
    best_label: str = ""
    best_selectivity: float = float("nan")

    @property
    def is_finding(self) -> bool:
        """Whether at most one of twenty runs without any difference gives as much."""
        return self.p_value is not None and self.p_value <= LEVEL

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold, None for what is not known."""
        entries = {**asdict(self), "is_finding": self.is_finding}
        found: dict[str, Any] = plain(entries)
        return found

    def sentence(self) -> str:
        """What was found, or that nothing was."""
        if self.concept < 0:
            return f"No finding: {self.why_not}"
        figures = (
            f"active in {self.rate_label:.0%} of its {self.unit}s and in {self.rate_others:.0%} of "
            f"the {'control' if self.label else 'other'} {self.unit}s (average selectivity "
            f"{self.selectivity:.2f}, AUC of its direction {self.auc:.2f})"
        )
        if self.is_finding:
            text = (
                f"{self.name.capitalize()} marks the '{self.label}' condition: it is {figures}; "
                f"p = {self.p_value:.2g} by {self._wells()}."
            )
        elif self.why_not == UNTESTED:
            text = (
                f"The best candidate is {self.name} for '{self.label}', {figures}; {self.why_not}"
            )
        else:
            if self.p_value is not None:
                reason = f"no concept is shown to mark a condition (p = {self.p_value:.2g} by "
                reason += f"{self._wells()})."
            else:
                reason = self.why_not
            text = (
                f"No finding: {reason} The best candidate is {self.name} for '{self.label}', "
                f"{figures}."
            )
        if self.best is not None:
            whose = "It was chosen in the fit"
            if self.best == self.concept and self.best_label == self.label:
                text += f" {whose}, and is the best here too."
            else:
                text += (
                    f" {whose}; the best here is {self.best_name} for '{self.best_label}' "
                    f"(average selectivity {self.best_selectivity:.2f})."
                )
        return text

    def _wells(self) -> str:
        sides = sides_of(self.wells_label, self.wells_others)
        if self.smallest_p is None:
            return sides
        return f"{sides}, which allow no p below {self.smallest_p:.2g}"


def find_finding(
    activations: ConceptActivations,
    *,
    n_refits: int | None = None,
    refit_steps: int = REFIT_STEPS,
    random_state: int = 0,
) -> Finding:
    """Find the best concept of a run, and test whether it is more than the best of many by luck.

    Parameters
    ----------
    activations : ConceptActivations
        Of a fit, with its `fit_samples`, or of a dictionary that was applied.
    n_refits : int, optional
        Arrangements of the wells at most for which everything is fitted anew; 99, or more where
        there are more than five treatments, where not given, and 0 for no test. All are taken where
        there are no more. Once p cannot come out at 0.05 or below, no more are.
    refit_steps : int, default=30
        Steps of each of these fits.
    random_state : int, default=0
        Seed of the arrangements.

    Returns
    -------
    Finding

    Notes
    -----
    The statistic is the highest average selectivity (paper, section 4) of all concepts for the
    label. Under the null the wells of the label and those of controls can swap, within plates; a
    field without a well counts as its own, and one of both sides as two. p is exact for any number
    of arrangements: with all of them it is a permutation test, with some a Monte Carlo test, and
    where it stops early that of Besag and Clifford [1]_. For the choice of the label it is
    multiplied by the number of treatments (Bonferroni). The fits of the test take up to 2,000 units
    and few steps, for the true arrangement as for the others.

    Of a dictionary that was applied, the concept that its fit chose is tested on the wells that the
    fit has not seen; where it does not say which, the best of all is.

    References
    ----------
    .. [1] J. Besag and P. Clifford, "Sequential Monte Carlo p-values", Biometrika 78, 301 (1991).
    """
    units = activations.units
    conditions = units["Metadata_condition"].to_numpy().astype(str)
    control = units["Metadata_control"].to_numpy(bool)
    ranking = activations.ranking
    unit = activations.dictionary.spec.units.kind
    if not np.isfinite(ranking["selectivity"].iloc[0]):
        nothing = "there are no two conditions to tell apart."
        return Finding(
            -1, "", "", float("nan"), float("nan"), float("nan"), float("nan"), unit,
            why_not=nothing,
        )  # fmt: skip
    best, label = int(ranking.index[0]), str(ranking["label"].iloc[0])
    treatments = set(conditions[~control]) - set(conditions[control]) if control.any() else None
    n_treatments = len(treatments if treatments is not None else set(conditions)) or 1
    chosen = None if activations.fit_samples is not None else activations.chosen
    if chosen is not None and chosen[1] not in conditions:
        chosen = None
    concept, label = (best, label) if chosen is None else chosen
    others = control if control.any() else conditions != label
    inside = (conditions == label) & ~(others & control)
    facts = _facts(activations, concept, label, inside, others)
    if chosen is not None:
        first = ranking.iloc[0]
        facts |= {
            "best": best,
            "best_name": str(first["name"]),
            "best_label": str(first["label"]),
            "best_selectivity": float(first["selectivity"]),
        }
        n_treatments = 1
    facts["n_treatments"] = n_treatments
    if not inside.any() or (treatments is not None and label not in treatments):
        why = f"the units of '{label}' are not both treated and of another name than controls."
        return Finding(**facts, why_not=why)
    alone = None if chosen is None else concept
    tested = swap_test(
        activations,
        inside,
        others,
        _best,
        n_treatments=n_treatments,
        n_refits=n_refits,
        refit_steps=refit_steps,
        random_state=random_state,
        fixed=lambda swap, unseen: _fixed(activations, swap, unseen, alone),
    )
    return Finding(**facts, **asdict(tested))


def _facts(
    activations: ConceptActivations,
    concept: int,
    label: str,
    inside: NDArray[np.bool_],
    others: NDArray[np.bool_],
) -> dict[str, Any]:
    """Figures of one concept for one condition."""
    on = activations.activation(concept) > 0
    conditions = activations.units["Metadata_condition"].to_numpy().astype(str)
    of_label = conditions == label
    known = activations.ranking.loc[concept]
    selectivity, auc = float(known["selectivity"]), float(known["auc"])
    if str(known["label"]) != label:
        selectivity = _mean(on[of_label]) - _mean(on[~of_label])
        auc = separation_auc(activations.alignment(concept), of_label)
    return {
        "concept": concept,
        "name": str(activations.dictionary.names[concept]),
        "label": label,
        "selectivity": selectivity,
        "auc": auc,
        "rate_label": _mean(on[inside]),
        "rate_others": _mean(on[others]),
        "unit": activations.dictionary.spec.units.kind,
    }


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def chosen_figures(
    activations: ConceptActivations, finding: Finding | None = None
) -> dict[str, Any]:
    """What the figures of a dictionary say of the concept that its fit chose.

    Parameters
    ----------
    activations : ConceptActivations
        Of the fit.
    finding : Finding, optional
        What came of its test.

    Returns
    -------
    dict
        Under `CHOSEN`: ``concept``, ``label`` and ``selectivity`` of the best of the ranking, and
        ``p_value``, None where it was not tested. Empty where there are no two conditions.
    """
    first = activations.ranking.iloc[0]
    if not np.isfinite(first["selectivity"]):
        return {}
    chosen = {
        "concept": int(activations.ranking.index[0]),
        "label": str(first["label"]),
        "selectivity": float(first["selectivity"]),
        "p_value": None if finding is None else finding.p_value,
    }
    return {CHOSEN: chosen}


def best_concepts(activations: ConceptActivations, most: int = 5) -> str:
    """A sentence that names the concepts that mark a condition best.

    Parameters
    ----------
    activations : ConceptActivations
        Of a run.
    most : int, default=5
        How many are named.

    Returns
    -------
    str
        Candidates: that they come first in the ranking does not make them findings.
    """
    ranking = activations.ranking
    telling = ranking[(ranking["selectivity"] > 0) & ~ranking["dead"]]
    telling = telling[telling["duplicate_of"] < 0]
    if telling.empty:
        return "There is no concept that is active more often in one condition than in others."
    named = ", ".join(
        f"{row['name']} ('{row['label']}', {row['selectivity']:.2f})"
        for _, row in telling.head(most).iterrows()
    )
    return f"Most selective concepts (condition, average selectivity): {named}."


def _best(coded: Coded, inside: NDArray[np.bool_]) -> float:
    """Highest average selectivity of all concepts."""
    if not inside.any() or inside.all():
        return -math.inf
    _, selectivities = average_selectivity(coded.codes, inside)
    return float(selectivities[1].max())


def _fixed(
    activations: ConceptActivations,
    swap: Swap,
    unseen: NDArray[np.bool_],
    concept: int | None,
) -> Statistic:
    """Best selectivity of codes that stay as they are, of the units that the fit has not seen."""
    rows = np.flatnonzero(unseen)
    codes = activations.codes[rows]
    if concept is not None:
        codes = sparse.csr_array(codes[:, [concept]])
    # Units of other treatments have no well that swaps, and come last.
    group = np.where(swap.group < 0, len(swap.of_label), swap.group)[rows]
    wells, shares, sizes = activation_shares(codes, group)
    hits = shares * sizes[:, None]
    total, n = hits.sum(axis=0), sizes.sum()

    def statistic(of_label: NDArray[np.bool_]) -> float:
        chosen = np.append(of_label, False)[wells.astype(np.int64)]
        inside, size = hits[chosen].sum(axis=0), sizes[chosen].sum()
        return float((inside / size - (total - inside) / (n - size)).max())

    return statistic
