"""Sets of concepts of a run, beside what else tells its conditions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from napari_microdl.core.arrays import unit_length
from napari_microdl.metrics import choose_set, group_folds
from napari_microdl.report import EvaluationChoices, evaluate, summary_sentences, unit_groups
from napari_microdl.report.concept_sets import set_area
from napari_microdl.report.swaps import Coded, swap_test
from report.test_evaluation import cells, fields  # noqa: F401 (fixtures)
from report.test_findings import CELLS, STEPS, coded, drawn, fitted

FEW = EvaluationChoices(n_permutations=19, handcrafted=False)
CONDITIONS = ["DMSO"] * 4 + ["drug"] * 3


def test_codes_may_be_left_out():
    activations = fitted(drawn(7, 3.0, 3), CONDITIONS)
    report = evaluate(activations, FEW.replace(sets_by="cosines"))
    (row,) = report.rows("sets")
    inside = (activations.units["Metadata_condition"] == "drug").to_numpy()
    cosines = values_of(activations)[..., 0]
    expected = choose_set(cosines, inside, unit_groups(activations.units))
    assert row["concepts"] == expected.chosen.tolist()
    np.testing.assert_allclose(row["weights"], expected.weights, rtol=1e-4)
    assert row["code_weights"] is None
    assert row["auc"] == pytest.approx(expected.auc)


def cosines_and_codes(x: np.ndarray, codes, directions: np.ndarray) -> np.ndarray:
    return np.stack([unit_length(x) @ directions.T, codes.toarray()], axis=-1)


def values_of(activations) -> np.ndarray:
    directions = activations.dictionary.directions
    return cosines_and_codes(activations.vectors, activations.codes, directions)


def test_a_row_is_the_set_of_a_label_against_controls():
    activations = fitted(drawn(9, 3.0, 5), [*CONDITIONS, "other", "other"])
    report = evaluate(activations, FEW)
    rows = {row["label"]: row for row in report.rows("sets")}
    assert list(rows) == ["drug", "other"]
    condition = activations.units["Metadata_condition"].to_numpy()
    wells = unit_groups(activations.units)
    for label, row in rows.items():
        part = np.isin(condition, ["DMSO", label])
        inside = condition[part] == label
        expected = choose_set(values_of(activations)[part], inside, wells[part])
        assert row["concepts"] == expected.chosen.tolist()
        assert row["shares"] == pytest.approx(expected.shares, rel=1e-5)
        weights = np.stack([row["weights"], row["code_weights"]], axis=1)
        np.testing.assert_allclose(weights, expected.weights, rtol=1e-5)
        assert (row["auc"], row["auc_first"]) == pytest.approx((expected.auc, expected.auc_first))
        for concept, share in zip(row["concepts"], row["shares"], strict=True):
            assert f"concept {concept} ({share:.0%})" in row["set"]
        # A logistic regression on the same parts.
        fold, x, areas = group_folds(inside, wells[part]), activations.vectors[part], []
        for number in np.unique(fold):
            out = fold == number
            scaler = StandardScaler().fit(x[~out])
            model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
            model.fit(scaler.transform(x[~out]), inside[~out])
            told = model.decision_function(scaler.transform(x[out]))
            areas.append(roc_auc_score(inside[out], told))
        assert row["auc_all"] == pytest.approx(np.mean(areas))
        assert row["auc_handcrafted"] is None
    (told,) = [s for s in summary_sentences(report, "cell") if "in wells left out" in s]
    best = max(rows.values(), key=lambda row: row["auc"])
    assert best["set"] in told
    assert f"AUC of {best['auc']:.2f}" in told


@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_p_is_the_share_of_arrangements_fitted_anew_whose_sets_do_as_well(shift: float):
    vectors = drawn(7, shift, 3)
    activations = fitted(vectors, CONDITIONS)
    drug = (activations.units["Metadata_condition"] == "drug").to_numpy()
    found = swap_test(activations, drug, ~drug, set_area, refit_steps=STEPS)
    well, areas = np.repeat(np.arange(7), CELLS), {}
    for way in combinations(range(7), 3):
        inside = np.isin(well, way)
        _, icfl, x = coded(vectors, ~inside)
        values = cosines_and_codes(x, icfl.transform(x), unit_length(icfl.components_))
        # Wells are numbered anew in the test, so the parts that are left out are drawn as there.
        areas[way] = choose_set(values, inside, well).auc
    expected = np.mean(np.array(list(areas.values())) >= areas[4, 5, 6] - 1e-12)
    if expected <= 0.05:
        assert found.p_value == pytest.approx(expected)
    else:
        assert found.p_value > 0.05


def test_of_wells_that_were_not_seen_codes_stay_as_they_are():
    applied = fitted(drawn(7, 4.0, 3, seed=2), CONDITIONS, fitted_on=False)
    applied.dictionary.provenance = {"fields": [{"name": "elsewhere"}]}
    drug = (applied.units["Metadata_condition"] == "drug").to_numpy()
    found = swap_test(applied, drug, ~drug, set_area)
    well, values = np.repeat(np.arange(7), CELLS), values_of(applied)
    areas = [choose_set(values, np.isin(well, way), well).auc for way in combinations(range(7), 3)]
    assert found.how == "unseen wells"
    assert found.p_value == pytest.approx(np.mean(np.array(areas) >= areas[-1] - 1e-12))


def test_one_well_of_a_side_tells_nothing():
    activations = fitted(drawn(3, 3.0, 1), ["DMSO", "DMSO", "drug"])
    report = evaluate(activations, FEW)
    assert report.rows("sets") == []
    assert any(note.startswith("No set of concepts for 'drug':") for note in report.notes)
    part = Coded(
        activations.codes, activations.vectors, activations.dictionary.directions,
        activations.units["field"].to_numpy(),
    )  # fmt: skip
    assert set_area(part, part.wells == 2) == -np.inf


def test_measurements_by_hand_stand_beside(cells, fields):  # noqa: F811
    choices = FEW.replace(handcrafted=True)
    report = evaluate(cells.activations, choices, fields=fields, cells=cells.labels)
    (row,) = report.rows("sets")
    assert 0.5 < row["auc_handcrafted"] <= 1
    (told,) = [s for s in summary_sentences(report, "cell") if "in wells left out" in s]
    assert f"handcrafted measurements with {row['auc_handcrafted']:.2f}" in told
    better = row["auc_handcrafted"] > row["auc"] + 0.02
    assert ("simple measurements do better" in told) == better
