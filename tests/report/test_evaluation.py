from __future__ import annotations

import dataclasses
import json
import math
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from sklearn.metrics import roc_auc_score

from concepts.test_activations import make
from core.refusals import refusal
from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.metrics import (
    agreement_of,
    average_selectivity,
    best_selectivity_null,
    cell_measurements,
    group_folds,
    match_dictionaries,
    probe_scores,
    quantile_codes,
    selectivity_intervals,
)
from napari_microdl.pipeline.run import PipelineResult, run_pipeline
from napari_microdl.report import (
    EvaluationChoices,
    EvaluationReport,
    batch_columns,
    batch_design,
    evaluate,
    label_columns,
    refitted,
    same_samples,
    seen_units,
    summary_sentences,
    tables,
    technical_concepts,
    unit_groups,
    unit_labels,
    with_technical,
)
from napari_microdl.report.seeds import refits
from napari_microdl.report.text import columns_of, value_text
from pipeline.small_run import small
from tasks import cancelled_by, recorded

FEW = EvaluationChoices(n_permutations=19)
CONFIG = small(layer=1, atoms_per_iteration=1, max_steps=30, random_state=0)


UNMEASURED = FEW.replace(handcrafted=False)


def six_fields() -> ConceptActivations:
    conditions = ("diffuse", "puncta", "diffuse", "puncta", "diffuse", "puncta")
    _, activations = make(conditions, (True, False) * 3)
    field = activations.units["field"]
    activations.units["Metadata_Plate"] = np.where(field < 3, "p1", "p2")
    activations.units["Metadata_Well"] = [f"A{n}" for n in field]
    return activations


def fitted_on(activations: ConceptActivations, numbers: list[int]) -> ConceptActivations:
    """The same, with a dictionary that says it was fitted on some of the fields."""
    units = activations.units.drop_duplicates("field").set_index("field").loc[numbers]
    known = units.filter(regex="Metadata_(Field|Well|Site|Plate)")
    known = known.rename(columns=lambda name: name.removeprefix("Metadata_").lower())
    known = known.rename(columns={"field": "name"}).assign(units=4)
    activations.dictionary.provenance["fields"] = known.to_dict("records")
    return activations


@pytest.fixture(scope="module")
def fields() -> list[Field]:
    """Corners of two control and two treated wells."""
    chosen = [f for f in transfluor() if f.well in {"O01", "O05", "O11", "O12"}]
    return [dataclasses.replace(f, data=f.data[:, :192, :192]) for f in chosen]


@pytest.fixture(scope="module")
def cells(fields: list[Field]) -> PipelineResult:
    return run_pipeline(fields, CONFIG)


# What is asked ----------------------------------------------------------------------------------


def test_wells_of_two_plates_differ_and_a_field_stands_for_what_is_not_known():
    units = six_fields().units
    units.loc[units["field"] > 3, "Metadata_Well"] = ""
    units.loc[units["field"] <= 3, "Metadata_Well"] = "A1"
    assert set(unit_groups(units)) == {"well p1 A1", "well p2 A1", "field 4", "field 5"}
    assert set(unit_groups(units, "fields")) == {f"field {n}" for n in range(6)}
    assert set(unit_groups(units, "plates")) == {"plate p1", "plate p2"}
    units.loc[units["field"] == 5, "Metadata_Plate"] = None
    assert set(unit_groups(units, "plates")) == {"plate p1", "plate p2", "field 5"}


def test_any_column_that_differs_can_be_the_label():
    units = six_fields().units
    units["Metadata_Dose"] = np.where(units["field"] == 1, "high", None)
    named = ("condition", "Field", "Plate", "Well", "control", "Dose")
    assert label_columns(units) == [f"Metadata_{name}" for name in named]
    assert list(unit_labels(units, "dose")[:8]) == [""] * 4 + ["high"] * 4
    assert set(unit_labels(units, "Metadata_control")) == {"control", "treated"}
    assert "no column 'area' to take labels from; use one of" in refusal(unit_labels, units, "area")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"independent": "days"}, "independent is 'days', which is not known; use one of 'wells'"),
        ({"n_permutations": 0}, "n_permutations is 0 but must be 1 or more"),
        ({"n_seeds": -1}, "n_seeds is -1 but must be 0 or more"),
        ({"library": "pillow"}, "library is 'pillow', which is not known; use one of"),
    ],
)
def test_choices_that_mean_nothing_are_refused(changes, sentence):
    assert sentence in refusal(EvaluationChoices, **changes)


def test_a_field_is_seen_if_its_name_was_used_and_nothing_tells_it_apart():
    activations = six_fields()
    units = activations.units
    assert seen_units(activations.dictionary, units) is None
    fitted_on(activations, [0, 3])
    those = np.isin(units["field"], [0, 3])
    np.testing.assert_array_equal(seen_units(activations.dictionary, units), those)
    # Another well of the same name of field, and one whose well nobody told.
    units.loc[units["field"] == 0, "Metadata_Well"] = "B7"
    units.loc[units["field"] == 3, "Metadata_Well"] = ""
    np.testing.assert_array_equal(seen_units(activations.dictionary, units), units["field"] == 3)
    activations.dictionary.provenance["fields"][0]["well"] = ""
    np.testing.assert_array_equal(seen_units(activations.dictionary, units), those)


# Measures ---------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_measures():
    activations = six_fields()
    with recorded() as steps:
        report = evaluate(activations, FEW)
    assert all(a.done <= b.done for a, b in pairwise(steps))
    assert steps[0].done == 0
    assert steps[-1].done == steps[-1].total == 14
    assert all(a.share <= b.share for a, b in pairwise(steps))
    units, codes = activations.units, activations.codes
    label, wells = units["Metadata_condition"].to_numpy(), unit_groups(units)
    selectivity = average_selectivity(codes, label)[1]
    assert [row["selectivity"] for row in report.labels] == pytest.approx(selectivity.max(axis=1))
    assert [row["arrangements"] for row in report.labels] == [20, 20]
    null = best_selectivity_null(codes, label, wells, n_permutations=19)
    assert [row["p_value"] for row in report.labels] == list(null["p_value"])
    low = selectivity_intervals(codes, label, wells, selectivity.argmax(axis=1))["low"]
    assert [row["low"] for row in report.labels] == list(low)
    directions = activations.dictionary.directions
    for row in report.labels:
        cosines = activations.vectors @ directions[row["concept"]]
        area = roc_auc_score(label == row["label"], cosines)
        assert row["auc"] == pytest.approx(area, abs=1e-6)
        assert row["concept_name"] == f"concept {row['concept']}"
    assert report.summary["n_samples"] == 24
    assert report.summary["n_fields"] == 6
    assert report.summary["n_dead_in_fit"] == activations.dictionary.icfl.dead_.sum()
    assert [row["of"] for row in report.probes] == ["x", "reconstruction", "codes"]
    score = probe_scores(codes, label, group_folds(label, wells), wells)
    assert report.probes[2]["balanced_accuracy"] == score.balanced_accuracy
    assert [row["k"] for row in report.reconstruction] == [1, 2]
    assert len(report.batches) == activations.n_concepts
    assert report.notes == [
        "The dictionary does not tell which fields it was fitted on; if these are among them, the "
        "figures are optimistic.",
        "No handcrafted measurements: they take the images and the labels of the cells.",
    ]
    assert json.loads(report.to_json()) == dataclasses.asdict(report)


def test_where_concepts_lie_is_that_of_the_ranking_and_what_goes_is_told(cells):
    report = evaluate(cells.activations, UNMEASURED)
    ranking, units = cells.activations.ranking, cells.activations.units
    assert [row["concept"] for row in report.places] == ranking.index[:20].tolist()
    control = units["Metadata_control"].to_numpy()
    for row in report.places:
        known = ranking.loc[row["concept"]]
        for name in ("in_cells", "background_auc", "auc_left", "within_wells"):
            assert row[name] == (None if np.isnan(known[name]) else known[name])
        area = roc_auc_score(~control, cells.activations.alignment(row["concept"]))
        assert row["auc"] == pytest.approx(area, abs=1e-6)
        if area > 0.5 and row["auc_left"] is not None:
            left = (row["auc_left"] - 0.5) / (area - 0.5)
            assert row["gone"] == pytest.approx(max(0, 1 - left), abs=1e-5)
    report.places[0] |= {"place": "field", "auc": 0.9, "auc_left": 0.6, "gone": 0.75}
    for row in report.places[1:]:
        row["place"] = "cells"
    told = " ".join(summary_sentences(report, "cell"))
    assert "of the whole field: where" in told
    assert "0.60 against controls is left of 0.90, so 75% of what" in told
    assert f"Of the {len(report.places)} first concepts of the ranking background shows 1" in told


def test_concepts_that_tell_plates_apart_are_named_and_marked_in_the_ranking():
    activations = six_fields()
    report = evaluate(activations, FEW)
    assert [row["technical"] for row in report.batches] == [
        row["q_value"] < 0.05 for row in report.batches
    ]
    start = "Technical, for telling plates apart among controls beyond chance (q below 0.05): "
    assert any(s.startswith(start) for s in summary_sentences(report, "cell"))
    assert {row["by"] for row in report.batches} == {"plates"}
    names = {"column": "Metadata_Plate", "by": "plates", "within": ""}
    assert report.batch_design == {**names, "n_batches": 2, "n_groups": 3, "left_out": []}
    for row in report.batches:
        row["technical"] = row["concept"] in {1, 3}
    assert technical_concepts(report) == [1, 3]
    table = with_technical(activations.ranking, report)
    assert set(table.index[table["technical"]]) == {1, 3}
    rows = {row["concept"]: row for row in report.batches}
    keys = {"by": "by", "share": "epsilon_squared", "auc": "auc", "q": "q_value"}
    for column, key in ((f"batch_{name}", key) for name, key in keys.items()):
        assert list(table[column]) == [rows[concept][key] for concept in table.index]
    assert table[activations.ranking.columns].equals(activations.ranking)
    assert any(s.endswith(": 'concept 1', 'concept 3'.") for s in summary_sentences(report, "cell"))
    # Where nothing was measured nothing is said.
    for unknown in (None, EvaluationReport()):
        assert technical_concepts(unknown) == []
        assert with_technical(activations.ranking, unknown).equals(activations.ranking)
        assert batch_columns(unknown) is None
    many = [dict(row, concept=n, technical=True) for n, row in enumerate(report.batches * 12)][:12]
    report.batches = many
    assert any(s.endswith(" and 2 more.") for s in summary_sentences(report, "cell"))


def of_one_plate(n_wells: int = 6) -> pd.DataFrame:
    """Units of one plate: two thirds of the wells are controls, with three sites of five cells."""
    well, site, _ = np.meshgrid(range(n_wells), range(3), range(5), indexing="ij")
    return pd.DataFrame(
        {
            "field": (well * 3 + site).ravel(),
            "Metadata_Plate": "p1",
            "Metadata_Well": np.char.add("A", well.ravel().astype(str)),
            "Metadata_Site": np.char.add("s", site.ravel().astype(str)),
            "Metadata_Day": np.where(well.ravel() % 2, "Monday", "Tuesday"),
            "Metadata_control": well.ravel() < 2 * n_wells // 3,
        }
    )


def test_batches_are_plates_where_there_are_two_and_else_sites_within_wells():
    units = of_one_plate()
    design = batch_design(units, "auto", "wells")
    assert (design.column, design.by, design.left_out) == ("Metadata_Site", "sites", [])
    np.testing.assert_array_equal(design.compared, units["Metadata_control"])
    np.testing.assert_array_equal(design.batches, units["Metadata_Site"])
    assert len(set(design.groups)) == 18
    np.testing.assert_array_equal(design.blocks, unit_groups(units))
    # Two plates, told by controls: treated wells of another plate are none.
    units.loc[~units["Metadata_control"], "Metadata_Plate"] = "p2"
    assert batch_design(units, "auto", "wells").by == "sites"
    units.loc[units["Metadata_Well"].isin(["A0", "A1"]), "Metadata_Plate"] = "p2"
    design = batch_design(units, "auto", "wells")
    assert (design.by, design.blocks) == ("plates", None)
    np.testing.assert_array_equal(design.groups, unit_groups(units))
    # A plate that nobody told is none.
    units.loc[units["Metadata_Well"] == "A3", "Metadata_Plate"] = None
    expected = units["Metadata_control"] & (units["Metadata_Well"] != "A3")
    np.testing.assert_array_equal(batch_design(units, "auto", "wells").compared, expected)


def test_a_site_of_one_well_alone_is_left_out_and_two_such_are_no_batches():
    units = of_one_plate()
    units.loc[(units["Metadata_Site"] == "s2") & (units["Metadata_Well"] != "A1"), "field"] = 99
    units.loc[units["field"] == 99, "Metadata_Site"] = "s1"
    design = batch_design(units, "auto", "wells")
    assert design.left_out == ["s2"]
    assert not design.compared[units["Metadata_Site"] == "s2"].any()
    # Numbers that go on through the plate: every site is of one well.
    units["Metadata_Site"] = units["field"].astype(str)
    with pytest.raises(MicrodlError, match="sites that are each in several wells of controls"):
        batch_design(units, "auto", "wells")


def test_batches_can_be_named():
    units = of_one_plate()
    day = batch_design(units, "day", "wells")
    assert (day.column, day.by, day.blocks) == ("Metadata_Day", "values of 'Day'", None)
    np.testing.assert_array_equal(day.groups, unit_groups(units))
    fields = unit_groups(units, "fields")
    np.testing.assert_array_equal(batch_design(units, "day", "fields").groups, fields)
    well = batch_design(units, "Metadata_Well", "wells")
    assert (well.by, well.blocks) == ("wells", None)
    np.testing.assert_array_equal(well.groups, fields)
    with pytest.raises(MicrodlError, match="no column 'week' to take labels from; use one of"):
        batch_design(units, "week", "wells")


def planted_sites(planted: float) -> ConceptActivations:
    """Codes of which concept 2 follows a site in controls and treated alike."""
    _, activations = make(("diffuse",) * 8 + ("puncta",) * 4, (True,) * 8 + (False,) * 4)
    random = np.random.default_rng(3)
    units = activations.units
    units["Metadata_Plate"] = "p1"
    units["Metadata_Well"] = [f"A{n // 2}" for n in units["field"]]
    units["Metadata_Site"] = [f"s{n % 2}" for n in units["field"]]
    codes = random.random(activations.codes.shape)
    codes[units["Metadata_Site"] == "s1", 2] += planted
    # The treatment does as much, and is no batch.
    codes[~units["Metadata_control"], 3] += 5
    return dataclasses.replace(activations, codes=sparse.csr_array(codes))


def test_a_planted_site_effect_is_technical_and_none_is_without_it():
    activations = planted_sites(3)
    report = evaluate(activations, UNMEASURED)
    assert technical_concepts(report) == [2]
    assert {row["by"] for row in report.batches} == {"sites"}
    design = report.batch_design
    assert (design["within"], design["n_batches"], design["n_groups"]) == ("wells", 2, 8)
    # By hand: two sites within wells are pairs, and F is the square of t.
    units, codes = activations.units, activations.codes.toarray()
    means = np.array([codes[units["field"] == n].mean(axis=0) for n in range(8)])
    p = stats.ttest_rel(means[::2], means[1::2]).pvalue
    control = units["Metadata_control"].to_numpy(bool)
    second = units["Metadata_Site"].to_numpy()[control] == "s1"
    for row in report.batches:
        assert row["p_value"] == pytest.approx(p[row["concept"]])
        area = roc_auc_score(second, codes[control, row["concept"]])
        assert row["auc"] == pytest.approx(max(area, 1 - area))
    sentence = "Technical, for telling sites apart within wells among controls beyond chance"
    assert any(s.startswith(sentence) for s in summary_sentences(report, "cell"))
    report = evaluate(planted_sites(0), UNMEASURED)
    assert technical_concepts(report) == []
    assert len(report.batches) == activations.n_concepts
    # Plates were asked for, and there is one.
    report = evaluate(activations, UNMEASURED.replace(batches="Plate"))
    assert any(n.startswith("No batch effects: Controls are of 1 batch") for n in report.notes)
    assert (report.batches, report.batch_design) == ([], {})
    # A site of one well alone is left out.
    units.loc[units["field"] == 0, "Metadata_Site"] = "s7"
    report = evaluate(activations, UNMEASURED)
    assert any(note.startswith("Batch effects are without s7: ") for note in report.notes)
    assert report.batch_design["left_out"] == ["s7"]


def test_labels_and_groups_are_those_chosen():
    activations = six_fields()
    choices = UNMEASURED.replace(labels="Plate", independent="fields")
    report = evaluate(activations, choices)
    assert [row["label"] for row in report.labels] == ["p1", "p2"]
    assert [row["n_groups"] for row in report.labels] == [3, 3]
    plate = activations.units["Metadata_Plate"].to_numpy()
    expected = average_selectivity(activations.codes, plate)[1].max(axis=1)
    assert [row["selectivity"] for row in report.labels] == pytest.approx(expected)
    assert report.choices == dict(choices)
    # Plates hold both conditions, so they cannot be shuffled or left out.
    report = evaluate(activations, UNMEASURED.replace(independent="plates"))
    assert report.labels[0]["low"] is not None
    assert "p_value" not in report.labels[0]
    assert any(note.startswith("No null: A group has samples of several") for note in report.notes)
    # Batch effects are told by wells all the same.
    assert len(report.batches) == activations.n_concepts


def test_only_fields_not_seen_are_measured_where_asked():
    activations = fitted_on(six_fields(), [0, 1])
    unseen = UNMEASURED.replace(unseen_only=True)
    report = evaluate(activations, unseen)
    assert report.notes[0] == "2 fields that the dictionary was fitted on are left out."
    assert (report.summary["n_fields"], report.summary["n_fields_seen"]) == (4, 0)
    rest = activations.of_fields([2, 3, 4, 5])
    expected = evaluate(rest, UNMEASURED)
    for part in ("labels", "separation", "reconstruction", "probes", "batches"):
        assert getattr(report, part) == getattr(expected, part)
    whole = evaluate(activations, FEW)
    assert whole.notes[0] == (
        "The dictionary was fitted on 2 of these 6 fields: figures on them are optimistic."
    )
    assert whole.summary["n_fields_seen"] == 2
    with pytest.raises(MicrodlError, match="fitted on all fields of this run"):
        evaluate(activations.of_fields([0, 1]), unseen)
    activations.dictionary.provenance.clear()
    assert "does not tell which fields" in refusal(evaluate, activations, unseen)


def test_what_cannot_be_measured_is_noted():
    _, activations = make(("only",) * 2, (True,) * 2)
    report = evaluate(activations)
    assert report.labels == report.probes == report.batches == []
    assert len(report.notes) == 5
    assert "NaN" not in report.to_json()
    assert len(summary_sentences(report, "cell")) == 1


def test_no_units_and_unknown_labels_are_refused():
    activations = six_fields()
    assert "no column 'dose'" in refusal(evaluate, activations, EvaluationChoices(labels="dose"))
    activations.units = activations.units[:0]
    assert "no units to evaluate" in refusal(evaluate, activations)


def test_of_very_many_samples_some_are_probed():
    report = evaluate(six_fields(), FEW, most_samples=20)
    assert report.probes[0]["n_samples"] == 20
    assert report.summary["n_samples"] == 24
    assert any("20 of the 24 samples" in note for note in report.notes)


def measured(cells: PipelineResult, fields: list[Field], **options: str) -> pd.DataFrame:
    """Measurements of every cell, in the order of the units."""
    tables = [
        cell_measurements(f.read(), labels, f.channel_names, **options).loc[units.ids]
        for f, labels, units in zip(fields, cells.labels, cells.activations.geometry, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)


def test_handcrafted_measurements_are_those_of_every_cell(cells, fields):
    activations = cells.activations
    with recorded() as steps:
        report = evaluate(activations, FEW, fields=fields, cells=cells.labels)
    x = measured(cells, fields)
    label = activations.units["Metadata_condition"].to_numpy()
    # One step a cell.
    assert sum(s.message.startswith("Measuring the cells of") for s in steps) >= len(x)
    found = report.handcrafted
    assert found["n_measurements"] == x.shape[1] == 24
    codes = quantile_codes(x.to_numpy(), report.summary["mean_active"])
    assert found["non_zeros"] == codes.nnz / len(x)
    _, expected = average_selectivity(codes, label)
    for row, values in zip(found["labels"], expected, strict=True):
        inside = label == row["label"]
        assert row["selectivity"] == pytest.approx(values.max())
        assert row["measurement"] == x.columns[values.argmax()]
        areas = [roc_auc_score(inside, x[name]) for name in x]
        best = int(np.abs(np.array(areas) - 0.5).argmax())
        assert row["auc_measurement"] == x.columns[best]
        assert row["auc"] == pytest.approx(max(areas[best], 1 - areas[best]))
        assert row["side"] == ("larger" if areas[best] > 0.5 else "smaller")
        assert row["selectivity"] <= row["limit"] + 0.02
        # All that are active are of the label, as far as it has so many.
        hits = round(codes.nnz / codes.shape[1])
        most = min(hits, inside.sum())
        limit = most / inside.sum() - (hits - most) / (~inside).sum()
        assert row["limit"] == pytest.approx(limit, abs=0.02)
    # Two labels are too few for a correlation.
    assert found["correlation"] is None
    assert report.probes[3]["of"] == "handcrafted"
    wells = unit_groups(activations.units)
    score = probe_scores(x.to_numpy(), label, group_folds(label, wells), wells)
    assert report.probes[3]["balanced_accuracy"] == pytest.approx(score.balanced_accuracy)
    assert any("handcrafted measurements" in s for s in summary_sentences(report, "cell"))


def test_measurements_and_concepts_are_correlated_over_labels(cells, fields):
    report = evaluate(
        cells.activations, FEW.replace(labels="Well"), fields=fields, cells=cells.labels
    )
    rows = report.handcrafted["labels"]
    expected = stats.pearsonr(
        [row["selectivity"] for row in rows], [row["concept_selectivity"] for row in rows]
    )
    assert report.handcrafted["correlation"] == pytest.approx(expected.statistic)
    assert [row["concept_selectivity"] for row in rows] == [
        row["selectivity"] for row in report.labels
    ]
    assert any("(Pearson)" in s for s in summary_sentences(report, "cell"))


def test_cellprofilers_measurements_are_compared_as_the_others(cells, fields):
    pytest.importorskip("cp_measure")
    activations = cells.activations
    choices = FEW.replace(library="cp_measure")
    with recorded() as steps:
        report = evaluate(activations, choices, fields=fields, cells=cells.labels)
    # Eight kinds of measurements of every field.
    assert sum(s.message.startswith("Measuring the cells of") for s in steps) >= 8 * len(fields)
    assert all(a.done <= b.done for a, b in pairwise(steps))
    x = measured(cells, fields, library="cp_measure")
    label = activations.units["Metadata_condition"].to_numpy()
    found = report.handcrafted
    assert found["library"] == "cp_measure"
    assert found["n_measurements"] == x.shape[1] > 200
    for row in found["labels"]:
        area = roc_auc_score(label == row["label"], x[row["auc_measurement"]])
        assert row["auc"] == pytest.approx(max(area, 1 - area))
    assert report.probes[3]["of"] == "handcrafted"
    assert any("measurements (cp_measure)" in s for s in summary_sentences(report, "cell"))


def test_a_library_that_is_not_installed_is_said_at_once(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    choices = FEW.replace(library="cp_measure")
    assert "pip install 'napari-microdl[cellprofiler]'" in refusal(evaluate, six_fields(), choices)
    # Where no cell is measured it is not needed.
    evaluate(six_fields(), choices.replace(handcrafted=False))


def test_the_limit_of_a_rare_label_counts_what_is_active_elsewhere(cells, fields):
    activations = cells.activations.of_fields(range(len(fields)))
    n = len(activations.units)
    activations.units["Metadata_kind"] = np.where(np.arange(n) < 2, "rare", "common")
    choices = FEW.replace(labels="kind", independent="fields")
    report = evaluate(activations, choices, fields=fields, cells=cells.labels)
    rows = {row["label"]: row for row in report.handcrafted["labels"]}
    hits = report.handcrafted["non_zeros"] * n / 24
    assert hits > 2
    assert rows["rare"]["limit"] == pytest.approx(1 - (hits - 2) / (n - 2))
    assert rows["common"]["limit"] == pytest.approx(hits / (n - 2))


def test_crops_have_no_handcrafted_measurements(fields):
    result = run_pipeline(fields, CONFIG.with_settings(unit="crop"))
    report = evaluate(result.activations, FEW, fields=fields, cells=result.labels)
    assert report.handcrafted == {}
    assert "No handcrafted measurements: they are of cells, and the samples of this run are " in (
        " ".join(report.notes)
    )


# Seeds ------------------------------------------------------------------------------------------


def test_further_seeds_are_fits_of_the_same_settings(cells):
    activations = cells.activations
    with recorded() as steps:
        report = evaluate(activations, UNMEASURED.replace(n_seeds=2))
    assert any("with seed 2 of 2" in s.message for s in steps)
    others = []
    for number in range(2):
        seed = int(np.random.RandomState([0, number, 1]).randint(2**31 - 1))
        icfl = ICFL(8, 2, 1, max_steps=30, random_state=seed).fit(activations.vectors)
        others.append(icfl.components_)
    atoms = cells.dictionary.icfl.components_
    expected = agreement_of(
        [match_dictionaries(*pair) for pair in combinations([atoms, *others], 2)]
    )
    assert report.seeds["same_samples"] is True
    assert report.seeds["n_samples"] == len(activations.units)
    for key, value in expected.items():
        assert report.seeds[key] == pytest.approx(value)
    matches = [match_dictionaries(atoms, other) for other in others]
    for row in report.labels:
        cosines = [m.cosine[list(m.first).index(row["concept"])] for m in matches]
        assert row["found_again"] == pytest.approx(np.mean(cosines))
        times = sum(cosine >= 0.9 for cosine in cosines)
        assert report.seeds["times_found"][row["concept"]] == times
    assert not any("Further seeds" in note for note in report.notes)
    assert any("With 2 further seeds" in s for s in summary_sentences(report, "cell"))


def test_further_seeds_have_as_many_starts_as_the_run(cells):
    config = CONFIG.with_settings(n_starts=2, max_steps=3)
    dictionary = dataclasses.replace(cells.dictionary, provenance={"config": config.to_dict()})
    with recorded() as steps:
        refits(dataclasses.replace(cells.activations, dictionary=dictionary), 2, 0)
    assert any("with seed 2 of 2, start 2 of 2" in s.message for s in steps)


def test_settings_of_a_fit_outlive_the_file(cells, tmp_path):
    config = CONFIG.with_settings(
        update="adam", init="linear", learning_rate=1e-3, positive_code=True, max_steps=7
    )
    other = dataclasses.replace(cells.dictionary, provenance={"config": config.to_dict()})
    loaded = type(other).load(other.save(tmp_path / "d"))
    icfl = refitted(loaded, 5)
    assert (icfl.n_atoms, icfl.n_iterations, icfl.atoms_per_iteration) == (8, 2, 1)
    assert (icfl.init, icfl.learning_rate, icfl.max_steps) == ("linear", 1e-3, 7)
    assert icfl.random_state == 5
    # How it codes is kept in the file itself.
    assert (icfl.update, icfl.positive_code) == ("newton", False)
    loaded.provenance.clear()
    assert refitted(loaded, 5).max_steps is None


def test_seeds_are_fitted_on_the_samples_of_the_fit_where_they_are_at_hand():
    choices = UNMEASURED.replace(n_seeds=1, unseen_only=True)
    activations = fitted_on(six_fields(), [0, 1, 2])
    assert not same_samples(activations.dictionary, activations)
    assert same_samples(activations.dictionary, activations.of_fields([0, 1, 2]))
    assert not same_samples(activations.dictionary, activations.of_fields([0, 1]))
    report = evaluate(activations, choices)
    assert report.summary["n_samples"] == 12
    assert (report.seeds["n_samples"], report.seeds["same_samples"]) == (12, True)
    # On other fields, dictionaries differ by more than the seed.
    rest = activations.of_fields([3, 4, 5])
    report = evaluate(rest, choices.replace(unseen_only=False))
    assert report.seeds["same_samples"] is False
    assert any(note.startswith("Further seeds were not fitted") for note in report.notes)


def test_a_fit_can_be_cancelled():
    with cancelled_by(lambda progress: "with seed 2 of 3" in progress.message):
        evaluate(six_fields(), FEW.replace(n_seeds=3))


# Tags -------------------------------------------------------------------------------------------


def test_tags_are_compared_with_cells_and_with_heatmaps_in_their_masks():
    activations = six_fields()
    report = evaluate(activations, FEW)
    assert report.tags == []
    control = activations.units["Metadata_control"].to_numpy()
    tagged = np.arange(24) % 4 != 3
    activations.tag_units(np.flatnonzero(control & tagged), "control-like")
    activations.tag_units(np.flatnonzero(~control & tagged), "perturbed")
    report = evaluate(activations, FEW)
    # The label of controls is left out.
    assert [(row["label"], row["of"]) for row in report.tags] == [
        ("puncta", "vector"),
        ("puncta", "heatmap"),
    ]
    concept = report.tags[0]["concept"]
    rows = np.flatnonzero(tagged)
    inside, background = activations.mask_values(concept, rows)
    for row, values in zip(
        report.tags, (activations.alignment(concept)[rows], inside), strict=True
    ):
        a, b = values[control[rows]], values[~control[rows]]
        test = stats.mannwhitneyu(b, a, alternative="greater")
        assert (row["n_control_like"], row["n_perturbed"]) == (9, 9)
        assert (row["u"], row["p_value"]) == pytest.approx((test.statistic, test.pvalue))
        assert row["recalled"] == (a < (np.median(a) + np.median(b)) / 2).sum()
        assert row["median_perturbed"] == pytest.approx(np.median(b))
    assert report.tags[0]["median_background"] is None
    expected = np.median(background) if len(background) else None
    assert report.tags[1]["median_background"] == expected


# Words ------------------------------------------------------------------------------------------


def test_every_column_is_of_the_report(cells, fields):
    activations = cells.activations.of_fields(range(len(fields)))
    activations.unit_tags[::2], activations.unit_tags[1::2] = "control-like", "perturbed"
    report = evaluate(activations, FEW.replace(n_seeds=1), fields=fields, cells=cells.labels)
    # Four wells are too few for batch effects.
    report.batches = evaluate(six_fields(), FEW).batches
    shown = tables()
    assert [table.key for table in shown] == [
        "labels", "places", "probes", "reconstruction", "batches", "handcrafted", "tags", "sets",
        "hits", "positions",
    ]  # fmt: skip
    # Those of wells, of which there are four: tests/pipeline/test_plate_hits.py.
    for table in shown[:-2]:
        assert columns_of(table, report.rows(table.key)) == list(table.columns)
        assert EvaluationReport().rows(table.key) == []
    assert columns_of(shown[0], []) == []


def test_values_are_written_for_people():
    shown = [value_text(v) for v in (None, 0.12345, 3, "x", math.pi * 1e6)]
    assert shown == ["-", "0.123", "3", "x", "3.14e+06"]
