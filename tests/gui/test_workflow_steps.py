"""Single steps of the workflow dock, run by their own buttons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QThreadPool

from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.segmentation import segment_cells
from napari_microdl.gui.session.layers import TAG
from napari_microdl.gui.workflow.dock import ConceptWorkflow
from napari_microdl.pipeline.run import run_pipeline

from .conftest import SIZE, SMALL, small_fields, take_squares
from .patience import PATIENCE
from .steps import cancel_at, choose, click, open_workflow, outputs, run, run_step, write


def states(workflow: ConceptWorkflow) -> list[str]:
    return [step.state.text() for step in workflow.steps.values()]


def test_steps_are_run_one_by_one_and_nothing_is_done_twice(viewer, workflow, qtbot):
    workflow.session.settings.configure(n_atoms=4)
    selected = set(viewer.layers.selection)

    assert run_step(qtbot, workflow, "cells") == ["fields", "cells"]
    assert states(workflow) == ["", "done", "", "", ""]
    expected = [segment_cells(f.read()[0]) for f in small_fields()]
    shown = outputs(viewer)
    assert [x.name for x in shown] == [f"cells, {f.name}" for f in small_fields()]
    for layer, cells in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(layer.data, cells)
    counts = [int(cells.max()) for cells in expected]
    assert workflow.status.text() == (
        f"{sum(counts)} cells in 4 fields, {min(counts)} to {max(counts)} in each; shown on 4 "
        "images."
    )
    assert set(viewer.layers.selection) == selected

    assert run_step(qtbot, workflow, "tokens") == ["fields", "tokens", "whitening"]
    assert states(workflow) == ["", "done", "done", "", ""]
    assert workflow.status.text().startswith("Images are read: 1600 patches in 4 fields, 192 ")
    assert "Measured when images were last read: GFP background" in workflow.tokens.measured.text()

    spectrum = workflow.whitening.spectrum
    assert spectrum.isHidden()
    assert run_step(qtbot, workflow, "whitening") == ["fields", "whitening"]
    assert states(workflow) == ["", "done", "done", "done", ""]
    assert spectrum.isVisible()
    whitening = workflow.session.run.whitening
    assert f"are whitened on {whitening.n_samples_seen_} controls" in workflow.status.text()
    assert workflow.session.run.current is None

    assert run_step(qtbot, workflow, "dictionary") == ["fields", "dictionary", "activations"]
    assert states(workflow) == [""] * 5
    result = workflow.session.run.current.result
    assert {x.metadata[TAG]["kind"] for x in outputs(viewer)} == {"activation"}
    same = run_pipeline(small_fields(), workflow.session.plan.run_config())
    np.testing.assert_array_equal(
        result.activations.codes.toarray(), same.activations.codes.toarray()
    )
    # The time that a stage took is told, although it ran before.
    assert all(seconds > 0 for seconds in result.report["seconds"].values())


def test_a_changed_dictionary_is_fitted_on_what_is_there(workflow, qtbot):
    workflow.session.settings.configure(unit="crop")
    grids = run(qtbot, workflow).activations.grids
    click(qtbot, workflow.dictionary.heading)
    write(qtbot, workflow.dictionary.n_atoms, "30")
    assert states(workflow) == ["", "", "", "", "changed"]
    assert run_step(qtbot, workflow, "dictionary") == ["fields", "dictionary", "activations"]
    again = workflow.session.run.current.result
    assert again.activations.n_concepts == 30
    # The very same tokens, so that they are in memory once.
    assert again.activations.grids is grids


def test_a_step_that_was_run_again_is_done_and_those_behind_it_are_out_of_date(workflow, qtbot):
    workflow.session.settings.configure(n_atoms=4)
    run(qtbot, workflow)
    shown = workflow.session.run.current
    click(qtbot, workflow.cells.heading)
    write(qtbot, workflow.cells.diameter, "24")
    assert states(workflow) == ["", "changed", "", "out of date", "out of date"]
    assert run_step(qtbot, workflow, "cells") == ["fields", "cells"]
    assert states(workflow) == ["", "done", "", "out of date", "out of date"]
    assert workflow.session.run.current is shown
    write(qtbot, workflow.cells.diameter, "25")
    assert states(workflow) == ["", "changed", "", "out of date", "out of date"]
    write(qtbot, workflow.cells.diameter, "40")
    assert states(workflow) == [""] * 5


def test_cancel_keeps_finished_steps_and_nothing_of_what_is_shown_changes(viewer, workflow, qtbot):
    workflow.session.settings.configure(n_atoms=4)
    run(qtbot, workflow)
    shown, layers = workflow.session.run.current, list(viewer.layers)
    workflow.session.settings.configure(layer=3, max_steps=100_000)
    cancel_at(qtbot, workflow, "dictionary", lambda: click(qtbot, workflow.cancel_button))
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    assert workflow.status.text() == (
        "Cancelled: nothing was changed. Done and kept for the next run: 'cells', 'tokens', "
        "'whitening'."
    )
    assert workflow.session.run.current is shown
    assert list(viewer.layers) == layers
    assert states(workflow) == ["", "", "done", "done", "changed"]
    workflow.session.settings.configure(max_steps=10)
    assert run_step(qtbot, workflow, "dictionary") == ["fields", "dictionary", "activations"]
    assert workflow.session.run.current.result.config.tokens.layer == 3


def test_a_step_asks_for_what_it_needs_and_not_for_more(workflow, qtbot):
    images = workflow.session.images
    images.edit_rows(range(len(images.rows)), is_control=False)
    run_step(qtbot, workflow, "cells")
    run_step(qtbot, workflow, "tokens")
    click(qtbot, workflow.fields.heading)
    for name in ("whitening", "dictionary"):
        click(qtbot, workflow.steps[name].run_button)
        assert workflow.status.text().startswith("⚠ Pick at least one control field")
        assert not workflow.jobs.is_running
    assert workflow.fields.is_expanded
    click(qtbot, workflow.whitening.heading)
    workflow.session.settings.configure(whiten=False)
    assert workflow.whitening.run_button.isHidden()


def test_painting_in_labels_makes_what_was_made_of_them_out_of_date(viewer, workflow, qtbot):
    workflow.session.settings.configure(n_atoms=4)
    labels, *_ = take_squares(qtbot, workflow)
    assert workflow.cells.run_button.text() == "Check cells"
    run_step(qtbot, workflow, "cells")
    assert workflow.status.text() == "100 cells in 4 fields, 25 to 25 in each; of your labels."
    assert outputs(viewer) == []
    run(qtbot, workflow)
    assert states(workflow) == [""] * 5
    labels.fill((5, 5), 77)
    assert states(workflow) == ["", "changed", "", "out of date", "out of date"]
    assert 77 in run(qtbot, workflow).activations.units["label"].to_numpy()


def test_cells_of_a_time_series_are_one_layer_and_keyed_by_frame(viewer, qtbot):
    workflow = open_workflow(viewer)
    frames = np.stack([f.read()[0][:SIZE, :SIZE] for f in transfluor()[:3]])
    movie = viewer.add_image(frames, name="movie", scale=(1, 2, 2))
    movie.axis_labels = ("t", "y", "x")
    workflow.session.images.update(viewer.layers)
    click(qtbot, workflow.fields.heading)
    click(qtbot, workflow.fields.heading)
    choose(qtbot, workflow.fields.channel_axis, "none: every plane is a field")
    assert [row.name for row in workflow.session.images.rows] == [f"movie [{t}]" for t in range(3)]
    run_step(qtbot, workflow, "cells")
    (cells,) = outputs(viewer)
    np.testing.assert_array_equal(cells.data, [segment_cells(frame) for frame in frames])
    np.testing.assert_array_equal(cells.scale, movie.scale)
    np.testing.assert_array_equal(cells.translate, movie.translate)

    own = viewer.add_labels(np.asarray(cells.data).copy(), name="tracked")
    own.data[:, :40, :40] = 500
    workflow.session.images.edit_rows([0], is_control=True)
    config = SMALL.with_settings(unit="cell", n_atoms=4, max_steps=5)
    workflow.session.plan.take_config(config)
    click(qtbot, workflow.cells.heading)
    choose(qtbot, workflow.cells.source, "My Labels layers")
    units = run(qtbot, workflow).activations.units
    # One number in three frames is three cells.
    assert units.loc[units["label"] == 500, "field"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["cells", "tokens", "whitening"])
def test_a_step_that_ends_after_its_dock_was_closed_adds_no_layer(viewer, workflow, qtbot, name):
    layers = list(viewer.layers)
    began: list[Any] = []

    def close(progress: Any) -> None:
        if not began:
            began.append(progress)
            viewer.window.remove_dock_widget(workflow)

    workflow.jobs.progressed.connect(close)
    click(qtbot, workflow.steps[name].run_button)
    qtbot.waitUntil(lambda: bool(began))
    workflow.jobs.progressed.disconnect(close)
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    qtbot.wait(50)
    assert list(viewer.layers) == layers
