"""What is called a finding, against arrangements of wells that are gone through by hand."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from concepts.test_activations import SPEC
from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.dictionary import CHOSEN, ConceptDictionary
from napari_microdl.concepts.fit_samples import FitSamples
from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.task import Cancelled, Progress, Task
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.estimators.whitening import ControlWhitening
from napari_microdl.report.findings import best_concepts, chosen_figures, find_finding

CELLS, STEPS, WIDTH = 12, 4, 6
CONFIG = PipelineConfig.of(n_atoms=8, n_iterations=1, atoms_per_iteration=2, shrinkage=0.5)


def drawn(n_wells: int, shift: float, shifted: int, seed: int = 0) -> np.ndarray:
    """Cells of wells that differ a little, the last of them shifted."""
    rng = np.random.default_rng(seed)
    well = np.repeat(np.arange(n_wells), CELLS)
    cells = rng.normal(size=(n_wells, WIDTH))[well] * 0.3 + rng.normal(size=(len(well), WIDTH))
    cells[well >= n_wells - shifted, 0] += shift
    return cells.astype(np.float32)


def coded(vectors: np.ndarray, control: np.ndarray) -> tuple[ControlWhitening, ICFL, np.ndarray]:
    """Whitening and dictionary as the settings have them, and the codes of all cells."""
    whitening = ControlWhitening(shrinkage=0.5).fit(vectors[control])
    found = whitening.transform(vectors).astype(np.float32)
    icfl = ICFL(8, 1, 2, max_steps=STEPS, random_state=CONFIG.random_state).fit(found)
    return whitening, icfl, found


def fitted(
    vectors: np.ndarray,
    conditions: list[str],
    *,
    control: str = "DMSO",
    plates: list[str] | None = None,
    fitted_on: bool = True,
) -> ConceptActivations:
    """A run on one field a well."""
    n = len(conditions)
    well = np.repeat(np.arange(n), CELLS)
    condition = np.array(conditions)[well]
    units = pd.DataFrame(
        {
            "Metadata_Field": [f"field {w}" for w in well],
            "Metadata_Plate": np.array(plates or [""] * n)[well],
            "Metadata_Well": [f"W{w}" for w in well],
            "Metadata_Site": "",
            "Metadata_condition": condition,
            "Metadata_control": condition == control,
            "field": well,
            "label": 1,
            "y": 0.0,
            "x": 0.0,
            "area": 1.0,
        }
    )
    whitening, icfl, found = coded(vectors, condition == control)
    dictionary = ConceptDictionary(SPEC, icfl, whitening)
    codes = sparse.csr_array(icfl.transform(found))
    activations = ConceptActivations(units, codes, found, dictionary, [], [])
    dictionary.provenance = {"fields": [{"name": f"field {w}"} for w in range(n)]}
    dictionary.figures = chosen_figures(activations)
    if fitted_on:
        activations.fit_samples = FitSamples.draw(vectors, CONFIG)
    return activations


def find(activations: ConceptActivations, **options: Any):
    with Task().active() as task, task.taking_notes():
        return find_finding(activations, refit_steps=STEPS, **options)


def best_of(vectors: np.ndarray, treated: list[int], n_wells: int) -> float:
    """Best selectivity after a fit in which these wells are the treated ones."""
    inside = np.isin(np.repeat(np.arange(n_wells), CELLS), treated)
    _, icfl, found = coded(vectors, ~inside)
    on = icfl.transform(found).toarray() > 0
    return float((on[inside].mean(axis=0) - on[~inside].mean(axis=0)).max())


@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_p_is_the_share_of_arrangements_fitted_anew_that_do_as_well(shift: float):
    vectors = drawn(7, shift, 3)
    activations = fitted(vectors, ["DMSO"] * 4 + ["drug"] * 3)
    found = find(activations)
    by_hand = [best_of(vectors, list(way), 7) for way in combinations(range(7), 3)]
    true = best_of(vectors, [4, 5, 6], 7)
    expected = np.mean(np.array(by_hand) >= true - 1e-12)
    assert (found.arrangements, found.smallest_p) == (35, pytest.approx(1 / 35))
    if expected <= 0.05:
        assert (found.p_value, found.n_drawn) == (pytest.approx(expected), 34)
    else:
        # It stops once p is above 0.05 for sure.
        assert found.p_value > 0.05
        assert found.n_drawn <= 34
    assert found.is_finding == (expected <= 0.05) == (shift > 0)
    assert found.sentence().startswith("Concept " if shift else "No finding: no concept is shown")


def test_of_all_ways_to_call_wells_treated_one_in_twenty_is_a_finding_at_most():
    """Wells that differ by themselves alone: whatever is called treated, the test holds."""
    vectors = drawn(6, 0.0, 0, seed=3)
    called = []
    for way in combinations(range(6), 3):
        conditions = ["drug" if w in way else "DMSO" for w in range(6)]
        called.append(find(fitted(vectors, conditions)).is_finding)
    assert sum(called) <= 1


def test_too_few_wells_cannot_show_it_and_nothing_is_fitted():
    activations = fitted(drawn(4, 4.0, 2), ["DMSO"] * 2 + ["drug"] * 2)
    found = find(activations)
    assert found.p_value is None
    assert found.smallest_p == pytest.approx(1 / 6)
    assert found.n_drawn == 0
    assert not found.is_finding
    name = activations.ranking["name"].iloc[0]
    assert found.sentence().startswith(
        "No finding: 2 wells against 2 cannot show it: the condition can fall on them in 6 ways, "
        f"so p cannot be below 0.17. The best candidate is {name} for 'drug', active in "
    )


def test_wells_stay_on_their_plates():
    vectors = drawn(8, 4.0, 4)
    conditions = ["DMSO"] * 4 + ["drug"] * 4
    assert find(fitted(vectors, conditions)).arrangements == 70
    both = find(fitted(vectors, conditions, plates=["a", "a", "b", "b"] * 2))
    assert both.arrangements == 36
    apart = find(fitted(vectors, conditions, plates=["a"] * 4 + ["b"] * 4))
    assert (apart.arrangements, apart.p_value) == (1, None)
    assert "in 1 way, so p cannot be below 1." in apart.sentence()


def test_the_choice_among_treatments_is_paid_for():
    conditions = ["DMSO"] * 4 + ["other"] * 4 + ["drug"] * 4
    activations = fitted(drawn(12, 5.0, 4), conditions)
    found = find(activations)
    assert (found.label, found.n_treatments, found.arrangements) == ("drug", 2, 70)
    assert found.smallest_p == pytest.approx(2 / 70)
    assert found.p_value == pytest.approx(2 / 70)
    few = find(activations, n_refits=19)
    assert few.p_value is None
    assert "19 refits cannot show it, times 2 treatments: p cannot be below 0.1." in few.sentence()


def test_what_is_applied_is_tested_on_other_wells_for_the_concept_chosen():
    vectors = drawn(12, 4.0, 6)
    first = fitted(vectors, ["DMSO"] * 6 + ["drug"] * 6)
    # Wells 0, 1, 6 and 7 were fitted; the others were not.
    first.dictionary.provenance = {"fields": [{"name": f"field {w}"} for w in (0, 1, 6, 7)]}
    order = first.ranking.index.tolist()
    chosen = order[1]
    first.dictionary.figures = {CHOSEN: {"concept": chosen, "label": "drug"}}
    applied = dataclasses.replace(first, fit_samples=None)
    assert applied.first_concept == chosen
    found = find_finding(applied)
    well = np.repeat(np.arange(12), CELLS)
    on = applied.activation(chosen) > 0
    shares = np.array([on[well == w].mean() for w in range(12)])
    others = [2, 3, 4, 5, 8, 9, 10, 11]
    values = [
        shares[list(way)].mean() - shares[[w for w in others if w not in way]].mean()
        for way in combinations(others, 4)
    ]
    expected = np.mean(np.array(values) >= values[-1] - 1e-12)
    assert (found.concept, found.how, found.arrangements) == (chosen, "unseen wells", 70)
    assert (found.p_value <= 0.05) == (expected <= 0.05)
    if expected <= 0.05:
        assert found.p_value == pytest.approx(expected)
    assert (found.best, found.best_label) == (order[0], "drug")
    name = applied.ranking["name"].iloc[0]
    assert f"It was chosen in the fit; the best here is {name} for 'drug'" in found.sentence()
    # Of an older file nobody knows what was chosen: the best of all is tested.
    first.dictionary.figures = {}
    older = find_finding(dataclasses.replace(first, fit_samples=None))
    assert (older.concept, older.best) == (order[0], None)


def test_wells_that_were_fitted_cannot_test_a_dictionary():
    activations = fitted(drawn(8, 4.0, 4), ["DMSO"] * 4 + ["drug"] * 4, fitted_on=False)
    found = find_finding(activations)
    assert found.p_value is None
    assert "was fitted on all of these wells" in found.sentence()
    activations.dictionary.provenance = {}
    assert "does not tell which fields it was fitted on" in find_finding(activations).sentence()


def test_without_a_test_there_is_a_candidate():
    activations = fitted(drawn(8, 4.0, 4), ["DMSO"] * 4 + ["drug"] * 4)
    found = find(activations, n_refits=0)
    assert not found.is_finding
    assert found.sentence().startswith("The best candidate is concept ")
    assert found.to_dict()["p_value"] is None


def test_without_two_conditions_there_is_nothing_to_find():
    activations = fitted(drawn(4, 0.0, 0), ["DMSO"] * 4)
    assert chosen_figures(activations) == {}
    found = find_finding(activations)
    assert found.sentence() == "No finding: there are no two conditions to tell apart."
    assert found.to_dict()["selectivity"] is None
    assert best_concepts(activations).startswith("There is no concept")


def test_concepts_are_named_best_first():
    activations = fitted(drawn(8, 4.0, 4), ["DMSO"] * 4 + ["drug"] * 4)
    first = activations.ranking.iloc[0]
    start = f"{first['name']} ('drug', {first['selectivity']:.2f})"
    assert start in best_concepts(activations, most=1)
    assert best_concepts(activations, most=1).count("'drug'") == 1


def test_the_test_tells_how_far_it_is_and_can_be_cancelled():
    activations = fitted(drawn(8, 4.0, 4), ["DMSO"] * 4 + ["drug"] * 4)
    heard: list[int] = []

    def hear(progress: Progress) -> None:
        heard.append(progress.done)
        task.cancel()

    task = Task(hear)
    with task.active(), task.taking_notes(), pytest.raises(Cancelled):
        find_finding(activations, refit_steps=STEPS)
    assert heard == [0]


def test_of_many_samples_some_are_drawn_whatever_their_condition():
    vectors = drawn(8, 4.0, 4)
    kept = FitSamples.draw(vectors, CONFIG, most=40)
    assert not kept.complete
    assert len(np.unique(kept.rows)) == 40
    np.testing.assert_array_equal(kept.vectors, vectors[kept.rows])
    activations = fitted(vectors, ["DMSO"] * 4 + ["drug"] * 4)
    activations.fit_samples = FitSamples.draw(vectors, CONFIG, most=60)
    assert find(activations).arrangements == 70
