from __future__ import annotations

import json

import numpy as np
import pytest

from embedding.stand_ins import finish
from napari_microdl.activations import ConceptActivations
from napari_microdl.errors import MicrodlError
from napari_microdl.evaluation import average_selectivity, group_folds, probe_scores
from napari_microdl.html_report import html_report, write_html_report
from napari_microdl.run_evaluation import iter_evaluation, well_groups
from test_activations import make


def six_fields() -> ConceptActivations:
    conditions = ("diffuse", "puncta", "diffuse", "puncta", "diffuse", "puncta")
    _, activations = make(conditions, (True, False) * 3)
    field = activations.units["field"]
    activations.units["Metadata_Plate"] = np.where(field < 3, "p1", "p2")
    activations.units["Metadata_Well"] = [f"A{n}" for n in field]
    return activations


def test_the_figures_are_those_of_the_measures():
    activations = six_fields()
    steps, report = finish(iter_evaluation(activations, n_permutations=19))
    assert [s.done for s in steps] == list(range(7))
    assert steps[-1].total == 6
    units, codes = activations.units, activations.codes
    label = units["Metadata_condition"].to_numpy()
    selectivity = average_selectivity(codes, label)[1]
    assert [row["selectivity"] for row in report.labels] == pytest.approx(selectivity.max(axis=1))
    assert [row["arrangements"] for row in report.labels] == [20, 20]
    assert report.summary["n_samples"] == 24
    assert [row["of"] for row in report.probes] == ["x", "reconstruction", "codes"]
    wells = well_groups(units)
    score = probe_scores(codes, label, group_folds(label, wells), wells)
    assert report.probes[2]["balanced_accuracy"] == score.balanced_accuracy
    assert len(report.batches) == activations.n_concepts
    assert report.notes == []
    assert json.loads(report.to_json())["labels"] == report.labels


def test_what_cannot_be_measured_is_noted():
    _, activations = make(("only",) * 2, (True,) * 2)
    _, report = finish(iter_evaluation(activations))
    assert report.labels == report.probes == report.batches == []
    assert len(report.notes) == 3
    assert "NaN" not in report.to_json()


def test_wells_of_two_plates_differ_and_a_field_stands_for_a_missing_well():
    units = six_fields().units
    units.loc[units["field"] > 3, "Metadata_Well"] = ""
    units.loc[units["field"] <= 3, "Metadata_Well"] = "A1"
    assert set(well_groups(units)) == {"well p1 A1", "well p2 A1", "field 4", "field 5"}


def test_no_units_are_refused():
    activations = six_fields()
    activations.units = activations.units[:0]
    with pytest.raises(MicrodlError, match="no units to evaluate"):
        finish(iter_evaluation(activations))


def test_the_page_holds_all_it_needs_and_no_markup_of_labels(tmp_path):
    activations = six_fields()
    label = np.where(activations.units["Metadata_control"], "$a & <b>", "$c$ <script>")
    _, report = finish(iter_evaluation(activations, label, n_permutations=9))
    page = html_report(report, "A <title>")
    assert page.count("<svg") == 2
    assert page.count("<table>") == 5
    assert "<script" not in page
    assert "<td>$a &amp; &lt;b&gt;</td>" in page
    assert "A &lt;title&gt;" in page
    assert "src=" not in page
    assert (
        write_html_report(report, tmp_path / "r.html", "A <title>")
        .read_text("utf-8")
        .startswith("<!DOCTYPE html>")
    )
    report.batches = report.batches * 20
    assert f"{len(report.batches) - 50} more rows" in html_report(report)
