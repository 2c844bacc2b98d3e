"""The measure of docs/new_measure.md, decorated at hand and installed as a package."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from doors import Door
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.report import evaluate, measure, measures, summary_sentences, tables
from napari_microdl.report.html import html_report
from report.test_evaluation import UNMEASURED, six_fields

DOOR = Door("new_measure.md")


@pytest.fixture(autouse=True)
def _others_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers goes with it."""
    monkeypatch.setattr(measures, "MEASURES", dict(measures.MEASURES))
    measures.load_others.cache_clear()
    yield
    measures.load_others.cache_clear()
    sys.modules.pop("silent_units", None)


def test_the_example_is_short():
    assert len(DOOR.example.splitlines()) < 40


@pytest.mark.parametrize("installed", [False, True])
def test_the_measure_is_in_json_page_legend_and_sentences(installed, tmp_path, monkeypatch):
    if installed:
        DOOR.install(tmp_path, monkeypatch)
    else:
        exec(DOOR.example, {})
    activations = six_fields()
    report = evaluate(activations, UNMEASURED)
    label = activations.units["Metadata_condition"].to_numpy()
    without = np.diff(activations.codes.indptr) == 0
    expected = [
        {"label": name, "n_units": 12, "silent": without[label == name].mean()}
        for name in ("diffuse", "puncta")
    ]
    assert report.rows("silent") == expected
    assert json.loads(report.to_json())["more"] == {"silent": expected}
    # It comes after those of the package, with a heading of its own or one made of the column.
    assert [table.key for table in tables()][-1] == "silent"
    assert [c.heading for c in tables()[-1].columns] == ["Label", "Units", "Silent"]
    page = html_report(report, "cell")
    assert "<h2>Units without any concept</h2>" in page
    assert "<p>How many units of each label show no concept at all.</p>" in page
    assert "<li>Units: How many units have the label.</li>" in page
    assert "<td>12</td>" in page
    share = f"{expected[1]['silent']:.0%}"
    assert f"{share} of the cells of 'puncta' show no concept." in summary_sentences(report, "cell")


def test_what_a_measure_lacks_is_noted_and_the_others_go_on():
    exec(DOOR.example, {})

    @measure("odd", title="Odd numbers", needs=["images"])
    def odd(run):
        raise AssertionError("it is not called")

    @measure("wrong", title="Wrong numbers")
    def wrong(run):
        return run.nothing

    @measure("no table", title="Numbers in no table")
    def no_table(run):
        return {"a": 1}

    @measure("no JSON", title="Numbers that JSON cannot hold")
    def no_json(run):
        return pd.DataFrame({"a": [object()]})

    @measure("no rows", into="labels", title="Numbers of other rows")
    def no_rows(run):
        return pd.DataFrame({"a": [1]}, index=pd.Index(["x"], name="nowhere"))

    @measure("none", needs=["odd"])
    def none(run):
        raise AssertionError("it is not called")

    @measure("hopeful", title="Hope", needs=["labls"])
    def hopeful(run):
        raise AssertionError("it is not called")

    activations = six_fields()
    activations.codes = activations.codes * np.float32(0)
    report = evaluate(activations, UNMEASURED)
    assert report.more == {}
    notes = report.notes
    assert "No units without any concept: no concept is active anywhere." in notes
    assert "The images of the run are not at hand, so nothing is measured in them." in notes
    assert "No hope: it needs 'labls', which is no measure." in notes
    for what, error in (
        ("wrong numbers", "AttributeError"),
        ("numbers in no table", "AttributeError"),
        ("numbers that json cannot hold", "TypeError"),
        ("numbers of other rows", "KeyError"),
    ):
        assert any(note.startswith(f"No {what}: it failed with {error} (") for note in notes)
    assert report.labels


def test_columns_and_rows_can_go_into_another_table():
    @measure("twice", needs=["labels"], into="labels")
    def twice(run):
        return run.found["labels"][["selectivity"]].set_axis(["twice"], axis=1) * 2

    @measure("more rows", needs=["probes"], into="probes")
    def more(run):
        return pd.DataFrame({"auc": [0.5]}, index=pd.Index(["nothing"], name="of"))

    report = evaluate(six_fields(), UNMEASURED)
    assert [row["twice"] for row in report.labels] == [2 * r["selectivity"] for r in report.labels]
    assert report.probes[-1] == {"of": "nothing", "auc": 0.5}
    assert report.more == {}


def test_an_entry_point_that_cannot_be_loaded_is_left_out(tmp_path, monkeypatch):
    DOOR.install(tmp_path, monkeypatch, "import no_such_package\n")
    with current_task().taking_notes() as notes:
        report = evaluate(six_fields(), UNMEASURED)
    assert report.labels
    (note,) = notes
    assert note.startswith("The measure 'silent' is left out: ModuleNotFoundError")


def test_names_of_other_parts_of_the_report_are_refused():
    with pytest.raises(MicrodlError, match="No measure can be called 'notes'"):
        measure("notes")


def test_sentences_that_fail_leave_the_others_and_the_page(tmp_path):
    def failing(report, unit):
        raise KeyError("row")

    @measure("fragile", legend={"n": "A number."}, sentences=failing)
    def fragile(run):
        return pd.DataFrame({"n": [1]})

    report = evaluate(six_fields(), UNMEASURED)
    said = summary_sentences(report, "cell")
    assert said[-1] == "What was found by 'fragile' cannot be said: KeyError, 'row'."
    assert len(said) > 1
    assert "<td>1</td>" in html_report(report, "cell")
