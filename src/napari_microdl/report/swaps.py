"""Wells that swap conditions: how often they show by luck what a run has shown.

The wells are what was repeated, so they swap conditions as a whole. The whitening and the
dictionary were fitted knowing which wells are controls, which alone makes controls and other wells
look different; so both are fitted anew for every arrangement of the wells. On wells that a
dictionary has not seen, its codes stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.fit_samples import FitSamples
from napari_microdl.core.arrays import unit_length
from napari_microdl.core.task import current_task
from napari_microdl.core.text import counted
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.estimators.plates import fit_references, moments_of
from napari_microdl.estimators.shrinkage import fit_whitening
from napari_microdl.metrics.background import CONTROL, LABEL
from napari_microdl.metrics.resampling import arrangements_of, count_arrangements, sequential_p
from napari_microdl.report.options import seen_units, unit_groups

LEVEL = 0.05
N_REFITS = 99
# Shuffles of labels over codes that stay as they are, which cost next to nothing.
N_SHUFFLES = 9_999
# Steps of each fit of the test, of the true labels as of shuffled ones: a tenth of the usual, which
# leaves R2 lower by 0.01, so that a hundred fits take seconds.
REFIT_STEPS = 30
UNTESTED = "it was not tested whether that is more than luck."


def luck_sentence(p_value: float, smallest_p: float | None = None) -> str:
    """What a p-value of wells that swap conditions says, and what it cannot be below."""
    luck = "hardly luck" if p_value <= LEVEL else "no more than luck may give"
    limit = "" if smallest_p is None else f"; so many wells allow no p below {smallest_p:.2g}"
    return f"By wells that swap conditions that is {luck} (p = {p_value:.2g}{limit})."


# What is asked of an arrangement of the wells, given as which of them take the label.
Statistic = Callable[[NDArray[np.bool_]], float]


@dataclass(frozen=True, eq=False)
class Coded:
    """Units with their codes.

    Parameters
    ----------
    codes : csr_array of shape (n_units, n_concepts)
        Codes.
    vectors : ndarray of shape (n_units, k)
        What was coded.
    directions : ndarray of shape (n_concepts, k)
        Of the concepts.
    wells : ndarray of int, shape (n_units,)
        Number of every unit's well; -1 where it takes no part.
    """

    codes: sparse.csr_array
    vectors: NDArray[np.float32]
    directions: NDArray[np.float32]
    wells: NDArray[np.int64]


# Given units, and which of them take the label.
Score = Callable[[Coded, NDArray[np.bool_]], float]


@dataclass(frozen=True)
class SwapTest:
    """What came of a test; the columns of a finding that are about it.

    Parameters
    ----------
    wells_label, wells_others, arrangements, smallest_p, p_value, how, n_drawn, why_not
        See `Finding`.
    """

    wells_label: int = 0
    wells_others: int = 0
    arrangements: float = 1.0
    smallest_p: float | None = None
    p_value: float | None = None
    how: str = ""
    n_drawn: int = 0
    why_not: str = ""


def swap_test(
    activations: ConceptActivations,
    inside: NDArray[np.bool_],
    others: NDArray[np.bool_],
    score: Score,
    *,
    n_treatments: int = 1,
    n_refits: int | None = None,
    refit_steps: int = REFIT_STEPS,
    random_state: int = 0,
    fixed: Callable[[Swap, NDArray[np.bool_]], Statistic] | None = None,
) -> SwapTest:
    """Ask whether wells that swap conditions reach as high a score as the true ones.

    Parameters
    ----------
    activations : ConceptActivations
        Of a fit, with its `fit_samples`, or of a dictionary that was applied.
    inside, others : ndarray of bool, shape (n_units,)
        Units of the label, and those that it is compared with.
    score : callable
        The score of units of an arrangement.
    n_treatments : int, default=1
        Treatments among which the label was chosen.
    n_refits, refit_steps, random_state
        See `find_finding`.
    fixed : callable, optional
        A quicker way to the score of an arrangement of wells that the fit has not seen, given the
        wells and the units that are kept; `score` where not given.

    Returns
    -------
    SwapTest
    """
    samples = activations.fit_samples
    unseen, why = np.ones(len(inside), bool), ""
    if samples is None:
        unseen, why = _unseen(activations)
    if why or n_refits == 0:
        return SwapTest(why_not=why or UNTESTED)
    swap = Swap.of(activations, inside & unseen, others & unseen)
    facts = swap.facts(n_treatments)
    if min(swap.n_label, swap.n_others) < 1:
        conditions = activations.units["Metadata_condition"].to_numpy().astype(str)
        label = conditions[inside][0]
        why = f"there are no wells of both '{label}' and others that the fit has not seen."
        return SwapTest(**facts, why_not=why)
    limit = N_REFITS if samples is not None else N_SHUFFLES
    n_most = max(limit, math.ceil(n_treatments / LEVEL) - 1) if n_refits is None else n_refits
    most = min(swap.ways, n_most + 1.0)
    facts["smallest_p"] = min(1.0, n_treatments / most)
    if facts["smallest_p"] > LEVEL:
        return SwapTest(**facts, why_not=_too_few(swap, n_treatments, facts["smallest_p"], most))
    if samples is not None:
        units = activations.units
        control = units["Metadata_control"].to_numpy(bool)
        statistic = _refitted(samples, swap, units["field"].to_numpy(), control, refit_steps, score)
    elif fixed is not None:
        statistic = fixed(swap, unseen)
    else:
        statistic = _as_they_are(activations, swap, unseen, score)
    drawn = arrangements_of(swap.of_label, swap.block, n_most, random_state)
    observed = statistic(swap.of_label)
    values = (statistic(arrangement) for arrangement in _counted(drawn))
    p, n_drawn = sequential_p(observed, values, len(drawn), LEVEL / n_treatments)
    how = "unseen wells" if samples is None else "refits"
    return SwapTest(**facts, p_value=min(1.0, n_treatments * p), how=how, n_drawn=n_drawn)


def sides_of(label: int, others: int) -> str:
    """How many wells of a label stand against how many others, in words."""
    return f"{counted(label, 'well')} against {others:,}"


def _counted(drawn: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """Arrangements, with word of how far they are."""
    for number, arrangement in enumerate(drawn):
        current_task().progress(number, len(drawn), "Asking whether wells that swap do as well")
        yield arrangement


def _unseen(activations: ConceptActivations) -> tuple[NDArray[np.bool_], str]:
    """Units of wells that the fit has not seen, and why there are none."""
    seen = seen_units(activations.dictionary, activations.units)
    if seen is None:
        return np.zeros(len(activations.units), bool), (
            "the dictionary does not tell which fields it was fitted on, and it can be tested on "
            "others only."
        )
    groups = unit_groups(activations.units)
    # Another field of a well that was seen is no other well.
    unseen = ~np.isin(groups, np.unique(groups[seen]))
    why = ""
    if not unseen.any():
        why = "the dictionary was fitted on all of these wells, and so they cannot test it."
    return unseen, why


def _too_few(swap: Swap, n_treatments: int, smallest: float, most: float) -> str:
    times = f", times {n_treatments} treatments" if n_treatments > 1 else ""
    if most < swap.ways:
        return f"{most - 1:,.0f} refits cannot show it{times}: p cannot be below {smallest:.2g}."
    ways = f"{swap.ways:,.0f} way{'s' if swap.ways > 1 else ''}"
    sides = sides_of(swap.n_label, swap.n_others)
    return (
        f"{sides} cannot show it: the condition can fall on them in {ways}{times}, so p cannot be "
        f"below {smallest:.2g}."
    )


@dataclass(frozen=True, eq=False)
class Swap:
    """Wells of a label and of others, which swap conditions as a whole.

    Parameters
    ----------
    group : ndarray of int, shape (n_units,)
        Number of every unit's well; -1 where it takes no part.
    of_label : ndarray of bool, shape (n_groups,)
        Which wells are of the label.
    block : ndarray of int, shape (n_groups,)
        Plate of each.
    """

    group: NDArray[np.int64]
    of_label: NDArray[np.bool_]
    block: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        activations: ConceptActivations,
        inside: NDArray[np.bool_],
        others: NDArray[np.bool_],
    ) -> Swap:
        """Wells of these units; one of both sides counts as two."""
        well = unit_groups(activations.units)
        rows = np.flatnonzero(inside | others)
        _, number = np.unique(well[rows], return_inverse=True)
        keys, first, group = np.unique(
            2 * number + inside[rows], return_index=True, return_inverse=True
        )
        plates = activations.units["Metadata_Plate"].fillna("").astype(str).to_numpy()[rows]
        _, block = np.unique(plates[first], return_inverse=True)
        every = np.full(len(inside), -1, np.int64)
        every[rows] = group
        return cls(every, keys % 2 == 1, np.asarray(block, np.int64))

    @property
    def n_label(self) -> int:
        """Wells of the label."""
        return int(self.of_label.sum())

    @property
    def n_others(self) -> int:
        """Wells that it is compared with."""
        return int((~self.of_label).sum())

    @property
    def ways(self) -> float:
        """In how many ways the label can fall on the wells, plates kept apart."""
        return count_arrangements(self.of_label, self.block)

    def facts(self, n_treatments: int) -> dict[str, Any]:
        """What a `SwapTest` tells of the wells."""
        return {
            "wells_label": self.n_label,
            "wells_others": self.n_others,
            "arrangements": self.ways,
            "smallest_p": min(1.0, n_treatments / self.ways),
        }

    def sides(self, of_label: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Units that take the label in an arrangement, and those that take the other side."""
        takes = self.group >= 0
        inside = takes & of_label[self.group]
        return inside, takes & ~inside


def _as_they_are(
    activations: ConceptActivations, swap: Swap, unseen: NDArray[np.bool_], score: Score
) -> Statistic:
    """Score of codes that stay as they are, of the units that the fit has not seen."""
    rows = np.flatnonzero(unseen)
    coded = Coded(
        activations.codes[rows],
        np.asarray(activations.vectors[rows]),
        activations.dictionary.directions,
        swap.group[rows],
    )
    return lambda of_label: score(coded, swap.sides(of_label)[0][rows])


def _refitted(
    samples: FitSamples,
    swap: Swap,
    fields: NDArray[np.integer],
    control: NDArray[np.bool_],
    steps: int,
    score: Score,
) -> Statistic:
    """Score of a whitening and a dictionary that are fitted for the arrangement."""
    rows, vectors, config = samples.rows, samples.vectors, samples.config
    settings = config.dictionary
    sizes: dict[str, Any] = {}
    if samples.complete:
        names = ("n_atoms", "n_iterations", "atoms_per_iteration", "control_atoms")
        sizes = {name: getattr(settings, name) for name in names}
    if settings.max_steps is not None:
        steps = min(steps, settings.max_steps)

    def statistic(of_label: NDArray[np.bool_]) -> float:
        task = current_task()
        inside, others = swap.sides(of_label)
        # Of wells that take no part, controls stay what they are.
        controls = (others & control.any()) | (control & ~inside & ~others)
        is_control = controls[rows]
        # That there are few samples was said of the run itself.
        with task.taking_notes():
            nuisance = samples.nuisance_for(_conditions(samples, fields, inside, others))
            found = _whitened(vectors, fields[rows], is_control, samples, nuisance)
            icfl = ICFL(
                **sizes,
                selection=settings.selection,
                positive_code=settings.positive_code,
                max_steps=steps,
                random_state=config.random_state,
            )
            with_controls = None if icfl.control_atoms is None else is_control
            for _ in icfl.fit_iter(found, controls=with_controls):
                task.check()
            atoms = unit_length(np.asarray(icfl.components_, np.float32))
            coded = Coded(icfl.transform(found), found, atoms, swap.group[rows])
            return score(coded, inside[rows])

    return statistic


def _conditions(
    samples: FitSamples,
    fields: NDArray[np.integer],
    inside: NDArray[np.bool_],
    others: NDArray[np.bool_],
) -> NDArray[np.str_] | None:
    """Conditions of all fields in an arrangement, for what decides by their backgrounds."""
    if samples.background is None:
        return None
    # Wells of the label and the others swap the places that they hold in the run.
    conditions = samples.background.conditions.copy()
    conditions[fields[inside]], conditions[fields[others]] = LABEL, CONTROL
    return conditions


def _whitened(
    vectors: NDArray[np.float32],
    fields: NDArray[np.integer],
    is_control: NDArray[np.bool_],
    samples: FitSamples,
    nuisance: NDArray[np.float64] | None,
) -> NDArray[np.float32]:
    """Samples whitened on the controls of an arrangement, as a run does it."""
    settings = samples.config.whitening
    if not settings.enabled:
        return vectors
    moments = moments_of(vectors, samples.plates, is_control)
    for plate in [name for name, sums in moments.items() if not sums.count]:
        # Of its controls none was drawn; all that was drawn of the plate stands for them.
        moments[plate].add(vectors[samples.plates == plate])
    plates = fit_references(moments, samples.kind)
    if plates is not None:
        vectors = plates.align_rows(vectors, samples.plates)
    whitening = fit_whitening(
        vectors[is_control],
        fields[is_control],
        settings.n_components,
        settings.shrinkage,
        nuisance,
    )
    return np.asarray(whitening.transform(vectors), np.float32)
