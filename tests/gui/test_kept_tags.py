"""Tags of cells outlive the run in which they were given, for as long as the cells are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_microdl.concepts.store import open_activations, save_activations

from .steps import LEFT, choose, click, open_tab, run, write

SQUARES = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((32, 32), int)).astype(np.int32)


@pytest.fixture
def tagged(docked: Any, qtbot: Any) -> Any:
    """A run on labels of the user, with tags on the cells 3 and 8 of the second field."""
    viewer, workflow = docked
    workflow.session.settings.configure(n_atoms=4)
    for image in list(viewer.layers):
        viewer.add_labels(SQUARES.copy(), name=f"{image.name} cells")
    click(qtbot, workflow.cells.heading)
    choose(qtbot, workflow.cells.source, "My Labels layers")
    run(qtbot, workflow)
    _, explorer = viewer.window.add_plugin_dock_widget("napari-microdl", "Concept explorer")
    open_tab(explorer, explorer.tags, qtbot)
    for label, tag in ((3, "control-like"), (8, "perturbed")):
        explorer.selection.select([row_of(workflow, 1, label)])
        qtbot.mouseClick(explorer.tags.unit_buttons[tag], LEFT)
    return viewer, workflow, explorer


def row_of(workflow: Any, field: int, label: int) -> int:
    units = workflow.session.run.current.result.activations.units
    (row,) = np.flatnonzero((units["field"] == field) & (units["label"] == label))
    return int(row)


def tags_of(workflow: Any) -> dict[tuple[int, int], str]:
    activations = workflow.session.run.current.result.activations
    rows = np.flatnonzero(activations.unit_tags != "")
    units = activations.units.iloc[rows]
    keys = zip(units["field"].tolist(), units["label"].tolist(), strict=True)
    return dict(zip(keys, activations.unit_tags[rows].tolist(), strict=True))


BOTH = {(1, 3): "control-like", (1, 8): "perturbed"}


def test_tags_are_there_after_another_fit_of_the_same_cells(tagged: Any, qtbot: Any):
    _, workflow, explorer = tagged
    before = workflow.session.run.current
    click(qtbot, workflow.dictionary.heading)
    write(qtbot, workflow.dictionary.n_atoms, "5")
    run(qtbot, workflow)
    assert workflow.session.run.current is not before
    assert tags_of(workflow) == BOTH
    assert "lost" not in workflow.notes.text()
    assert "of 1 control-like cells recalled" in explorer.tags.recall.text()
    # A tag that is taken away stays away.
    explorer.selection.select([row_of(workflow, 1, 8)])
    qtbot.mouseClick(explorer.tags.unit_buttons[""], LEFT)
    write(qtbot, workflow.dictionary.n_atoms, "6")
    run(qtbot, workflow)
    assert tags_of(workflow) == {(1, 3): "control-like"}


def test_a_cell_that_was_changed_loses_its_tag_and_that_is_said(tagged: Any, qtbot: Any):
    _, workflow, _ = tagged
    labels = workflow.session.images.rows[1].labels_layer()
    # One pixel less is another cell; the number is the same.
    corner = tuple(i[:1] for i in np.nonzero(SQUARES == 8))
    labels.data_setitem(corner, 0)
    run(qtbot, workflow)
    assert tags_of(workflow) == {(1, 3): "control-like"}
    sentence = "1 tagged cell of the run before has lost its tag: this run does not have the same"
    assert sentence in workflow.notes.text()
    labels.undo()
    run(qtbot, workflow)
    assert tags_of(workflow) == BOTH
    assert "lost" not in workflow.notes.text()


def test_tags_wait_while_samples_are_crops_and_crops_are_of_one_image(tagged: Any, qtbot: Any):
    viewer, workflow, explorer = tagged
    choose(qtbot, workflow.cells.unit, "Square crops")
    run(qtbot, workflow)
    assert tags_of(workflow) == {}
    assert "2 tagged cells of the run before have lost their tags" in workflow.notes.text()
    explorer.selection.select([row_of(workflow, 0, 2)])
    qtbot.mouseClick(explorer.tags.unit_buttons["perturbed"], LEFT)
    # Another image under the same name, in which the same crop shows something else.
    image = workflow.session.images.rows[0].layer()
    viewer.layers.remove(image)
    viewer.add_image(image.data[::-1], name=image.name, metadata=image.metadata)
    name = workflow.session.run.current.fields[0].name
    qtbot.waitUntil(lambda: workflow.session.images.rows[-1].name == name)
    run(qtbot, workflow)
    assert tags_of(workflow) == {}
    assert "1 tagged crop of the run before has lost its tag" in workflow.notes.text()
    choose(qtbot, workflow.cells.unit, "Cells")
    run(qtbot, workflow)
    # The fields come in another order, and the cells are found by name.
    assert workflow.session.run.current.fields[-1].name == name
    assert tags_of(workflow) == {(0, 3): "control-like", (0, 8): "perturbed"}


def test_tags_of_a_folder_go_on_to_a_run_on_the_same_cells(tagged: Any, qtbot: Any, tmp_path: Any):
    _, workflow, _ = tagged
    save_activations(workflow.session.run.current.result.activations, tmp_path / "a")
    workflow.session.run.current.result.activations.unit_tags[:] = ""
    workflow.session.run.current.result.activations.unit_tags[row_of(workflow, 1, 3)] = "perturbed"
    workflow.session.open_activations(open_activations(tmp_path / "a"))
    assert tags_of(workflow) == BOTH
    run(qtbot, workflow)
    assert tags_of(workflow) == BOTH
