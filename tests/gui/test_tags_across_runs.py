"""Tags of cells outlive the run in which they were given, for as long as the cells are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_microdl.concepts.store import open_activations, save_activations
from napari_microdl.gui.explorer.dock import ConceptExplorer

from .conftest import SQUARES, take_squares
from .steps import LEFT, choose, click, open_explorer, open_tab, run, write

BOTH = {(1, 3): "control-like", (1, 8): "perturbed"}


@pytest.fixture
def explorer(viewer, workflow, qtbot) -> ConceptExplorer:
    """A run on labels of the user, with tags on the cells 3 and 8 of the second field."""
    workflow.session.settings.configure(n_atoms=4)
    take_squares(qtbot, workflow)
    run(qtbot, workflow)
    explorer = open_explorer(viewer)
    open_tab(explorer, explorer.tags, qtbot)
    for label, tag in BOTH.items():
        tag_unit(qtbot, explorer, *label, tag)
    return explorer


def tag_unit(qtbot: Any, explorer: Any, field: int, label: int, tag: str) -> None:
    """Select a unit, and click the button of a tag."""
    units = explorer.session.run.current.result.activations.units
    explorer.selection.select(np.flatnonzero((units["field"] == field) & (units["label"] == label)))
    assert len(explorer.selection.rows) == 1
    qtbot.mouseClick(explorer.tags.unit_buttons[tag], LEFT)


def tags_of(workflow: Any) -> dict[tuple[int, int], str]:
    activations = workflow.session.run.current.result.activations
    rows = np.flatnonzero(activations.unit_tags != "")
    units = activations.units.iloc[rows]
    keys = zip(units["field"].tolist(), units["label"].tolist(), strict=True)
    return dict(zip(keys, activations.unit_tags[rows].tolist(), strict=True))


def test_tags_are_there_after_another_fit_of_the_same_cells(explorer, workflow, qtbot):
    before = workflow.session.run.current
    click(qtbot, workflow.dictionary.heading)
    write(qtbot, workflow.dictionary.n_atoms, "5")
    run(qtbot, workflow)
    assert workflow.session.run.current is not before
    assert tags_of(workflow) == BOTH
    assert "lost" not in workflow.notes.text()
    assert "of 1 control-like cells recalled" in explorer.tags.recall.text()
    # A tag that is taken away stays away.
    tag_unit(qtbot, explorer, 1, 8, "")
    write(qtbot, workflow.dictionary.n_atoms, "6")
    run(qtbot, workflow)
    assert tags_of(workflow) == {(1, 3): "control-like"}


def test_a_cell_that_was_changed_loses_its_tag_and_that_is_said(explorer, workflow, qtbot):
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


def test_tags_wait_while_samples_are_crops_and_crops_are_of_one_image(
    viewer, workflow, explorer, qtbot
):
    choose(qtbot, workflow.cells.unit, "Square crops")
    run(qtbot, workflow)
    assert tags_of(workflow) == {}
    assert "2 tagged cells of the run before have lost their tags" in workflow.notes.text()
    tag_unit(qtbot, explorer, 0, 2, "perturbed")
    # Another image under the same name, in which the same crop shows something else.
    image = workflow.session.images.rows[0].layer()
    viewer.layers.remove(image)
    lies = {"translate": image.translate, "metadata": image.metadata}
    viewer.add_image(image.data[::-1], name=image.name, **lies)
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


def test_tags_of_a_folder_go_on_to_a_run_on_the_same_cells(explorer, workflow, qtbot, tmp_path):
    save_activations(workflow.session.run.current.result.activations, tmp_path / "a")
    tag_unit(qtbot, explorer, 1, 8, "")
    tag_unit(qtbot, explorer, 1, 3, "perturbed")
    workflow.session.open_activations(open_activations(tmp_path / "a"))
    assert tags_of(workflow) == BOTH
    run(qtbot, workflow)
    assert tags_of(workflow) == BOTH
