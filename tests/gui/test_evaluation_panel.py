"""The tab Evaluation, driven by clicks and keys in a real window."""

from __future__ import annotations

import json
import threading
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import Qt, QThreadPool
from scipy import sparse, stats

from concepts.test_version_0_1 import assert_alike
from napari_microdl.concepts.store import open_activations, save_activations
from napari_microdl.gui.explorer import evaluation_panel
from napari_microdl.gui.explorer.concept_table import FLAG
from napari_microdl.gui.explorer.evaluation_panel import EvaluationPanel
from napari_microdl.report import (
    EvaluationChoices,
    EvaluationInput,
    EvaluationReport,
    evaluate,
    measure,
    measures,
)

from .clicks import click_save
from .patience import PATIENCE
from .steps import LEFT, click_item, open_explorer, open_tab

FEW = EvaluationChoices(n_permutations=19, handcrafted=False)


@pytest.fixture
def panel(explorer, qtbot) -> EvaluationPanel:
    """The tab in view, with few shuffles."""
    open_tab(explorer, explorer.evaluation, qtbot)
    explorer.evaluation.choices.shuffles.setValue(19)
    return explorer.evaluation


def evaluated(panel: EvaluationPanel, qtbot: Any) -> EvaluationReport:
    """Click Evaluate and wait."""
    before = panel.report
    qtbot.mouseClick(panel.evaluate_button, LEFT)
    # A short one may be done by the time that the click returns.
    assert panel.jobs.is_running or panel.report is not before
    qtbot.waitUntil(lambda: panel.report is not None)
    assert panel.report is not None
    return panel.report


def finish(explorer: Any, run: Any, **changes: Any) -> None:
    """Show a run on the images that are open, with another result where it is changed."""
    result = replace(run.result, **changes)
    explorer.session.finish(result, run.fields, explorer.session.run.current.sources)


def of_cells(explorer: Any) -> Any:
    """The run on show, as if its samples were cells."""
    run = explorer.session.run.current
    config = run.result.config.with_settings(unit="cell")
    return replace(run, result=replace(run.result, config=config))


def start_long(panel: EvaluationPanel, qtbot: Any) -> None:
    """Start what takes minutes, and wait until it is in the middle of a fit."""
    panel.choices.seeds.setValue(20)
    qtbot.mouseClick(panel.evaluate_button, LEFT)
    qtbot.waitUntil(lambda: "Fitting with seed" in panel.status.text())


def cells_of(view: Any) -> list[list[str]]:
    columns = range(view.columnCount())
    return [[view.item(row, c).text() for c in columns] for row in range(view.rowCount())]


def test_a_click_measures_the_run_and_shows_what_was_found(
    panel, viewer, explorer, activations, qtbot, tmp_path
):
    assert panel.summary.isHidden()
    assert not panel.save_button.isEnabled()
    report = evaluated(panel, qtbot)
    assert report == evaluate(activations, FEW)
    labels = panel.tables["labels"].view
    assert [row[0] for row in cells_of(labels)] == ["diffuse", "puncta"]
    assert [row[1:3] for row in cells_of(labels)] == [
        [r["concept_name"], f"{r['selectivity']:.3g}"] for r in report.labels
    ]
    probes = [row[0] for row in cells_of(panel.tables["probes"].view)]
    assert probes == ["x", "reconstruction", "codes"]
    assert "average selectivity of" in panel.summary.text()
    assert "optimistic" in panel.notes.text()
    drawn = panel.plot.canvas.figure.axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(drawn, [row["cosine"] for row in report.reconstruction])
    assert panel.tables["batches"].isHidden()
    assert panel.tables["handcrafted"].isHidden()
    # Room for what was found; a line says what was chosen.
    assert not panel.choices.is_expanded
    assert panel.choices.summary.text() == "Condition, by wells, 19 shuffles"
    assert panel.save_button.isEnabled()
    assert panel.bar.isHidden()
    # The curve follows the theme and can be saved.
    shades = {}
    for theme in ("dark", "light"):
        viewer.theme = theme
        shades[theme] = np.mean(panel.plot.canvas.figure.get_facecolor()[:3])
    assert shades["dark"] < 0.3 < 0.7 < shades["light"]
    assert panel.plot.canvas.figure.axes[0].get_xlabel().startswith("concepts that a sample")
    explorer.save_plot(tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").read_text("utf-8").startswith("<?xml")


def test_a_run_opened_from_a_folder_is_measured_without_its_images(
    panel, explorer, activations, qtbot, pick, tmp_path
):
    save_activations(activations, tmp_path / "saved")
    explorer.session.open_activations(open_activations(tmp_path / "saved"))
    panel.choices.seeds.setValue(1)
    report = evaluated(panel, qtbot)
    expected = evaluate(activations, FEW.replace(n_seeds=1))
    # A refit in another thread may round otherwise.
    for part in ("labels", "probes", "seeds"):
        assert_alike(getattr(report, part), getattr(expected, part), abs=0.05)
    panel.choices.offer(of_cells(explorer))
    assert not panel.choices.handcrafted.isEnabled()
    assert "not open" in panel.choices.handcrafted.toolTip()
    chosen = pick(tmp_path / "page.html")
    qtbot.mouseClick(panel.save_button, LEFT)
    qtbot.waitUntil(lambda: chosen.exists() and not panel.jobs.is_running)
    page = chosen.read_text(encoding="utf-8")
    assert "<img" not in page
    assert "<table" in page


def test_what_was_found_is_there_when_the_explorer_is_opened_again(panel, viewer, explorer, qtbot):
    panel.choices.independent.setCurrentIndex(1)
    report = evaluated(panel, qtbot)
    summary, labels = panel.summary.text(), cells_of(panel.tables["labels"].view)
    viewer.window.remove_dock_widget(explorer)
    again = open_explorer(viewer)
    open_tab(again, again.evaluation, qtbot)
    assert again is not explorer
    assert again.evaluation.report is report
    assert again.evaluation.summary.text() == summary
    assert cells_of(again.evaluation.tables["labels"].view) == labels
    assert again.evaluation.choices.summary.text() == "Condition, by fields, 19 shuffles"
    assert again.evaluation.outdated.isHidden()
    assert again.evaluation.save_button.isEnabled()


def test_every_number_says_what_it_means_and_a_row_shows_its_concept(panel, explorer, qtbot):
    report = evaluated(panel, qtbot)
    for table in panel.tables.values():
        view = table.view
        for column in range(view.columnCount()):
            meaning = view.horizontalHeaderItem(column).toolTip()
            assert meaning.endswith(".")
            for row in range(view.rowCount()):
                assert meaning in view.item(row, column).toolTip()
    choices = panel.choices
    for widget in (choices.labels, choices.independent, choices.shuffles, choices.seeds):
        assert widget.toolTip()
        assert widget.accessibleName()

    view = panel.tables["labels"].view
    panel.scroll.ensureWidgetVisible(view)
    concepts = [row["concept"] for row in report.labels]
    explorer.session.view.show_concept(next(c for c in range(24) if c not in concepts))
    click_item(qtbot, view, view.item(1, 0))
    assert explorer.session.view.concept == concepts[1]
    assert explorer.table.selected_concepts() == [concepts[1]]
    qtbot.keyClick(view, Qt.Key.Key_Up)
    assert explorer.session.view.concept == concepts[0]
    # A row that is selected already is meant again.
    explorer.session.view.show_concept(next(c for c in range(24) if c not in concepts))
    click_item(qtbot, view, view.item(0, 0))
    assert explorer.session.view.concept == concepts[0]
    # By the name that the concept has now.
    explorer.session.run.rename_concept(concepts[1], "spots")
    assert cells_of(view)[1][1] == "spots"


def test_a_measure_of_somebody_else_is_shown_beside_ours(panel, activations, qtbot, monkeypatch):
    monkeypatch.setattr(measures, "MEASURES", dict(measures.MEASURES))

    @measure(
        "field_sizes",
        title="Samples of every field",
        meaning="How many samples a field has.",
        legend={"field": "Name of the field.", "n": ("Samples", "How many.")},
    )
    def _(run: EvaluationInput) -> pd.DataFrame:
        sizes = run.activations.units.groupby("Metadata_Field").size()
        return sizes.rename_axis("field").to_frame("n")

    report = evaluated(panel, qtbot)
    sizes = activations.units["Metadata_Field"].value_counts().sort_index()
    view = panel.tables["field_sizes"].view
    assert [view.horizontalHeaderItem(c).text() for c in range(2)] == ["Field", "Samples"]
    assert cells_of(view) == [[name, str(n)] for name, n in sizes.items()]
    assert report.rows("field_sizes") == [{"field": k, "n": n} for k, n in sizes.items()]


def test_choices_are_asked_as_chosen(panel, activations, qtbot):
    choices = panel.choices
    offered = [choices.labels.itemText(i) for i in range(choices.labels.count())]
    assert offered == ["Condition", "Field", "Well", "Control or treated"]
    choices.labels.setCurrentText("Control or treated")
    choices.independent.setCurrentText("Fields")
    # What cannot be a batch is not offered.
    batches = [choices.batches.itemData(i) for i in range(choices.batches.count())]
    assert batches == ["auto", "Metadata_Well"]
    choices.batches.setCurrentText("Well")
    choices.seeds.setValue(1)
    report = evaluated(panel, qtbot)
    expected = FEW.replace(
        labels="Metadata_control", independent="fields", n_seeds=1, batches="Metadata_Well"
    )
    assert EvaluationChoices(**report.choices) == expected
    assert_alike(vars(report), vars(evaluate(activations, expected)), abs=0.05)
    assert "With 1 further seed, matched concepts" in panel.summary.text()
    assert panel.outdated.isHidden()
    # Figures stay, and say that they were measured with other settings.
    choices.labels.setCurrentText("Condition")
    assert panel.outdated.text().startswith("⚠ Measured with: Control or treated, by fields, 19 s")
    choices.labels.setCurrentText("Control or treated")
    assert panel.outdated.isHidden()


def test_cellprofilers_measurements_can_be_chosen_and_say_what_to_install(
    panel, explorer, qtbot, monkeypatch
):
    choices = panel.choices
    # Crops have no such measurements, and the box says so.
    assert not choices.handcrafted.isEnabled()
    assert "the samples of this run are crops" in choices.handcrafted.toolTip()
    assert not choices.choices().handcrafted
    assert not choices.library.isEnabled()
    choices.offer(of_cells(explorer))
    assert choices.library.isEnabled()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    choices.library.setFocus()
    qtbot.keyClick(choices.library, Qt.Key.Key_Down)
    assert choices.choices().library == "cp_measure"
    assert choices.to_install.isVisible()
    assert "pip install 'napari-microdl[cellprofiler]'" in choices.to_install.text()
    assert "handcrafted measurements (CellProfiler)" in choices.summary.text()
    qtbot.mouseClick(panel.evaluate_button, LEFT)
    qtbot.waitUntil(lambda: "pip install" in panel.status.text())
    qtbot.waitUntil(lambda: not panel.jobs.is_running)
    assert panel.report is None
    choices.handcrafted.click()
    assert choices.to_install.isHidden()
    assert not choices.library.isEnabled()
    # Where it is installed nothing is said.
    choices.handcrafted.click()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    choices.refresh()
    assert choices.to_install.isHidden()
    chosen = EvaluationChoices(n_permutations=9)
    choices.choose(chosen)
    assert choices.choices() == chosen


@pytest.mark.parametrize(
    ("n_fitted", "sentence", "can_choose"),
    [
        (4, "fitted on all these fields", False),
        (2, "fitted on 2 of these 4 fields", True),
        (0, "fitted on none of these fields", False),
        (None, "does not tell which fields", False),
    ],
)
def test_it_says_whether_fields_were_seen(
    panel, explorer, small_run, qtbot, n_fitted, sentence, can_choose
):
    dictionary = small_run.result.dictionary
    listed = dictionary.provenance["fields"]
    known = [{"name": "other"}, *listed[:n_fitted]] if n_fitted is not None else []
    changed = replace(dictionary, provenance={**dictionary.provenance, "fields": known})
    activations = replace(small_run.result.activations, dictionary=changed)
    finish(explorer, small_run, activations=activations)
    assert sentence in panel.warning.text()
    assert panel.choices.unseen.isEnabled() == can_choose
    # Honest figures unless somebody wants others.
    assert panel.choices.unseen.isChecked() == can_choose
    if can_choose:
        report = evaluated(panel, qtbot)
        assert report.summary["n_fields"] == 2
        qtbot.mouseClick(panel.choices.heading, LEFT)
        panel.scroll.ensureWidgetVisible(panel.choices.unseen)
        panel.choices.unseen.click()
        assert "fields not used for fitting" in panel.outdated.text()


def test_cancel_stops_at_once_and_keeps_what_was_shown(panel, qtbot):
    # The thread goes long before twenty fits are done.
    report = evaluated(panel, qtbot)
    start_long(panel, qtbot)
    assert panel.bar.isVisible()
    assert 0 < panel.bar.value() < 100
    assert not panel.evaluate_button.isEnabled()
    assert not panel.save_button.isEnabled()
    qtbot.mouseClick(panel.cancel_button, LEFT)
    assert not panel.jobs.is_running
    assert panel.status.text() == "Cancelled."
    assert panel.bar.isHidden()
    assert panel.report is report
    assert panel.evaluate_button.isEnabled()
    assert panel.save_button.isEnabled()


def test_a_result_of_an_earlier_run_is_not_shown(panel, explorer, small_run, qtbot, monkeypatch):
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> EvaluationReport:
        begun.set()
        assert go_on.wait(20)
        ended.set()
        return EvaluationReport(summary={})

    monkeypatch.setattr(evaluation_panel, "evaluate", slow)
    qtbot.mouseClick(panel.evaluate_button, LEFT)
    qtbot.waitUntil(begun.is_set)
    finish(explorer, small_run)
    go_on.set()
    qtbot.waitUntil(ended.is_set)
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    qtbot.wait(100)
    assert panel.report is None
    assert panel.summary.isHidden()
    assert panel.status.isHidden()
    assert panel.evaluate_button.isEnabled()


def test_another_run_clears_what_was_found_and_the_same_run_does_not(
    panel, explorer, small_run, qtbot
):
    evaluated(panel, qtbot)
    explorer.refresh()
    assert panel.report is not None
    finish(explorer, small_run)
    assert panel.report is None
    assert panel.tables["labels"].isHidden()
    assert panel.choices.is_expanded


def test_concepts_that_tell_plates_apart_are_flagged_until_another_run(
    panel, explorer, small_run, qtbot, pick, tmp_path
):
    whole = small_run.result.activations
    units, codes = whole.units.copy(), whole.codes.toarray()
    control = units["Metadata_control"].to_numpy(bool)
    random = np.random.default_rng(0)
    wells = random.integers(8, size=len(units))
    plates = np.where(wells % 2, "p1", "p2")
    units.loc[control, "Metadata_Well"] = [f"C{n}" for n in wells[control]]
    units["Metadata_Plate"] = plates
    # One that is neither dead nor like another gets a difference between the plates.
    ranking = whole.ranking
    plain = ranking.index[~ranking["dead"] & (ranking["duplicate_of"] < 0)]
    planted = int(plain[-1])
    codes[:, planted] = random.random(len(units)) + 2 * (plates == "p1")
    codes = sparse.csr_array(codes)
    made = replace(whole, units=units, codes=codes)
    finish(explorer, small_run, activations=made)

    def flags() -> dict[int, str]:
        model = explorer.table.concepts
        rows = range(model.rowCount())
        return {model.concept(row): model.index(row, FLAG).data() for row in rows}

    before = flags()
    assert not any("technical" in flag for flag in before.values())
    explorer.hide_flagged.click()
    shown = explorer.table.proxy.rowCount()
    assert shown == sum(not flag for flag in before.values())
    panel.choices.shuffles.setValue(19)
    evaluated(panel, qtbot)
    # The F test of scipy, on means of wells of controls.
    means = {
        plate: [
            codes.toarray()[control & (wells == n)].mean(axis=0)
            for n in np.unique(wells[control & (plates == plate)])
        ]
        for plate in ("p1", "p2")
    }
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        # Those that no control shows.
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        p = np.nan_to_num(stats.f_oneway(*means.values()).pvalue, nan=1)
    technical = set(np.flatnonzero(stats.false_discovery_control(p) < 0.05))
    assert planted in technical
    assert len(technical) < made.n_concepts / 2
    after = flags()
    assert {c for c, flag in after.items() if "technical" in flag} == technical
    for concept, flag in before.items():
        assert after[concept].startswith(flag)
    # What is hidden follows at once.
    hidden = {c for c in technical if not before[c]}
    assert explorer.table.proxy.rowCount() == shown - len(hidden)
    explorer.filter.setText("technical")
    assert explorer.table.proxy.rowCount() == 0
    explorer.hide_flagged.click()
    assert explorer.table.proxy.rowCount() == len(technical)
    explorer.filter.clear()
    assert f"'{made.dictionary.names[planted]}'" in panel.summary.text()
    assert "Technical, for telling plates apart" in panel.summary.text()
    anndata = pytest.importorskip("anndata")
    for entry, name in (("concepts", "concepts.csv"), ("anndata", "cells.h5ad")):
        pick(tmp_path / name)
        click_save(explorer, entry, qtbot)
    table = pd.read_csv(tmp_path / "concepts.csv", index_col="concept")
    assert set(table.index[table["technical"]]) == technical
    assert set(table["batch_by"]) == {"plates"}
    flagged = anndata.read_h5ad(tmp_path / "cells.h5ad").var["technical"].to_numpy(bool)
    assert set(np.flatnonzero(flagged)) == technical
    # The run's own ranking knows nothing of it, and another run has no such flag.
    assert "technical" not in made.ranking
    finish(explorer, small_run)
    assert not any("technical" in flag for flag in flags().values())


@pytest.mark.parametrize("how", ["viewer", "dock"])
def test_closing_in_the_middle_leaves_no_thread(panel, viewer, explorer, qtbot, how):
    start_long(panel, qtbot)
    if how == "viewer":
        viewer.close()
    else:
        viewer.window.remove_dock_widget(explorer)
        assert not panel.jobs.is_running


def test_two_viewers_evaluate_side_by_side(panel, small_run, open_viewer, explorer, qtbot):
    second = open_explorer(open_viewer())
    assert not second.evaluation.evaluate_button.isEnabled()
    second.session.finish(small_run.result, small_run.fields, explorer.session.run.current.sources)
    second.evaluation.choices.shuffles.setValue(9)
    second.evaluation.evaluate()
    first = evaluated(panel, qtbot)
    qtbot.waitUntil(lambda: second.evaluation.report is not None)
    assert first.choices["n_permutations"] == 19
    assert second.evaluation.report.choices["n_permutations"] == 9


def test_the_report_is_saved_as_a_page_and_as_figures(panel, qtbot, pick, tmp_path):
    report = evaluated(panel, qtbot)
    chosen = pick(tmp_path / "mine.html")
    qtbot.mouseClick(panel.save_button, LEFT)
    qtbot.waitUntil(lambda: "Saved" in panel.status.text())
    assert json.loads((tmp_path / "mine.json").read_text("utf-8")) == json.loads(report.to_json())
    page = chosen.read_text("utf-8")
    assert page.count("src=") == page.count('src="data:image/png;base64,') >= 2
    assert report.labels[0]["concept_name"] in page
    assert panel.report is report
    # A name that no file can have is said.
    pick(tmp_path / "missing" / "mine.html")
    qtbot.mouseClick(panel.save_button, LEFT)
    qtbot.waitUntil(lambda: "There is no folder" in panel.status.text())
    assert panel.save_button.isEnabled()


def test_it_is_worked_by_keys_alone(panel, qtbot):
    choices = panel.choices
    order = [choices.heading, choices.labels, choices.independent, choices.shuffles, choices.seeds]
    order += [panel.evaluate_button, panel.cancel_button, panel.save_button]
    widget, seen = choices.heading, []
    while (widget := widget.nextInFocusChain()) is not choices.heading:
        seen.append(widget)
    places = [seen.index(widget) for widget in order[1:]]
    assert places == sorted(places)
    assert all(w.focusPolicy() & Qt.FocusPolicy.TabFocus for w in order)
    panel.evaluate_button.setFocus()
    qtbot.keyClick(panel.evaluate_button, Qt.Key.Key_Space)
    qtbot.waitUntil(lambda: panel.report is not None)
    view = panel.tables["labels"].view
    assert view.focusPolicy() & Qt.FocusPolicy.TabFocus
    # Tab leaves a table; arrows move in it.
    assert not view.tabKeyNavigation()
