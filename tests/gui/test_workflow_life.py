"""What the workflow knows from layers, and what outlives docks, runs and viewers."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from napari.components import LayerList
from napari.layers import Image
from napari.settings import get_settings
from qtpy.QtCore import Qt, QThreadPool, QTimer
from qtpy.QtWidgets import QApplication, QDialog

from napari_microdl.gui.explorer.dock import ConceptExplorer
from napari_microdl.gui.session.layers import TAG, Layout
from napari_microdl.gui.session.run import Work
from napari_microdl.gui.session.session import Session

from .conftest import SMALL, small_layers
from .patience import PATIENCE
from .steps import bring_to_front, cancel_at, click, open_workflow, outputs, run, write


def channels_of(*layers: Image, model: str) -> dict[str, str | None]:
    session = Session()
    session.images.set_layout(Layout(arrangement="channels"), LayerList(layers))
    session.settings.configure(model=model)
    return session.plan.model.channels()


def grey(name: str, colormap: str) -> Image:
    return Image(np.random.default_rng(0).random((64, 64)), name=name, colormap=colormap)


def test_after_a_run_the_explorer_is_in_front_and_nothing_is_done_twice(viewer, workflow, qtbot):
    click(qtbot, workflow.run_button)
    qtbot.waitUntil(lambda: not workflow.jobs.is_running)
    qtbot.waitUntil(lambda: workflow.visibleRegion().isEmpty())
    (explorer,) = workflow.window().findChildren(ConceptExplorer)
    qtbot.waitUntil(lambda: not explorer.visibleRegion().isEmpty())
    bring_to_front(workflow)
    run_before, layers = workflow.session.run.current, list(viewer.layers)
    click(qtbot, workflow.run_button)
    qtbot.waitUntil(lambda: not workflow.jobs.is_running)
    assert workflow.status.text().startswith("Up to date")
    assert workflow.session.run.current is run_before
    assert list(viewer.layers) == layers
    bring_to_front(workflow)
    # What a person has dragged apart stays so.
    explorer.parent().setFloating(True)
    bring_to_front(workflow)
    assert explorer.isVisible()


def test_channels_are_found_by_name_and_by_colour_where_names_say_nothing():
    stains = [
        grey("w1", "blue"), grey("ER", "green"), grey("w3", "red"),
        grey("mito", "magenta"), grey("w5", "gray"),
    ]  # fmt: skip
    found = channels_of(*stains, model="cell-dino-cp-vits8")
    (nucleus,) = [wanted for wanted, name in found.items() if name == "w1"]
    assert nucleus.lower() in {"dna", "nucleus", "nuclei"}
    # Green, red and grey are stains of many things.
    assert {name for name in found.values() if name} == {"w1", "ER", "mito"}
    # Two in blue: a person has to say.
    stains[4].colormap = "blue"
    assert "w1" not in channels_of(*stains, model="cell-dino-cp-vits8").values()


def test_another_colour_is_followed_and_a_choice_is_kept(viewer, workflow, qtbot):
    viewer.layers.clear()
    for name in ("a", "b", "c", "d", "e"):
        viewer.add_image(np.random.default_rng(0).random((64, 64)), name=name)
    qtbot.waitUntil(lambda: len(workflow.session.images.rows) == 5)
    session = workflow.session
    session.images.set_layout(Layout(arrangement="channels"), viewer.layers)
    session.settings.configure(model="cell-dino-cp-vits8")
    assert set(session.plan.model.channels().values()) == {None}
    viewer.layers["c"].colormap = "blue"
    (wanted,) = [w for w, name in session.plan.model.channels().items() if name == "c"]
    assert workflow.tokens.channels[wanted].currentText() == "c"
    session.plan.model.choose_channel(wanted, "d")
    viewer.layers["b"].colormap = "blue"
    assert session.plan.model.channels()[wanted] == "d"


def test_wells_and_sites_are_columns_where_they_are_known(viewer, workflow, qtbot):
    model = workflow.fields.table.fields_model

    def headings() -> list[str]:
        return [model.headerData(i, Qt.Orientation.Horizontal) for i in range(model.columnCount())]

    assert headings() == ["Use", "Field", "Condition", "Control", "Well", "Site"]
    assert model.data(model.index(0, 4)) == "O05"
    assert model.setData(model.index(0, 4), "P05")
    assert workflow.session.images.rows[0].well == "P05"
    viewer.layers.clear()
    viewer.add_image(np.zeros((8, 8)))
    qtbot.waitUntil(lambda: len(workflow.session.images.rows) == 1)
    assert headings() == ["Use", "Field", "Condition", "Control"]


def test_a_dock_that_is_opened_again_shows_what_the_old_one_showed(viewer, workflow, qtbot):
    click(qtbot, workflow.cells.heading)
    click(qtbot, workflow.dictionary.heading)
    workflow.session.settings.configure(unit="crop")
    run(qtbot, workflow)
    write(qtbot, workflow.dictionary.n_atoms, "9")
    status, notes = workflow.status.text(), workflow.notes.text()
    viewer.window.remove_dock_widget(workflow)
    again = open_workflow(viewer)
    qtbot.wait(50)
    assert again is not workflow
    assert [s.is_expanded for s in again.steps.values()] == [True, True, False, False, True]
    assert (again.status.text(), again.notes.text()) == (status, notes)
    assert again.dictionary.n_atoms.value() == 9
    assert again.dictionary.state.text() == "changed"
    assert again.dictionary.curve.isVisible()
    assert again.whitening.spectrum.has_contents()


def test_two_viewers_run_at_once_and_each_has_its_own(open_viewer, qtbot, monkeypatch):
    run, both_begun = Work.run, threading.Event()

    def held(work: Work) -> Any:
        # Else the first could be done before the second is clicked.
        both_begun.wait()
        return run(work)

    monkeypatch.setattr(Work, "run", held)
    opened = []
    for number in range(2):
        viewer = open_viewer()
        workflow = open_workflow(viewer)
        for layer in small_layers():
            viewer.add_layer(layer)
        qtbot.waitUntil(lambda w=workflow: len(w.session.images.rows) == 4)
        config = SMALL.with_settings(n_atoms=5 + number, layer=2, max_steps=10)
        workflow.session.plan.take_config(config)
        opened.append((viewer, workflow))
    for _, workflow in opened:
        click(qtbot, workflow.run_button)
    assert all(workflow.jobs.is_running for _, workflow in opened)
    both_begun.set()
    for _, workflow in opened:
        qtbot.waitUntil(lambda w=workflow: w.session.run.current is not None)
    for number, (viewer, workflow) in enumerate(opened):
        assert workflow.session.run.current.result.activations.n_concepts == 5 + number
        runs = {x.metadata[TAG]["run_id"] for x in outputs(viewer)}
        assert runs == {workflow.session.run.current.run_id}
    # The end of one is no end of the other.
    (first, ended), (second, workflow) = opened
    workflow.session.settings.configure(layer=3)
    click(qtbot, workflow.run_button)
    # Its dock and not its window: on closing one, vispy draws the other with what it has deleted.
    first.window.remove_dock_widget(ended)
    shown = workflow.session.run.current
    qtbot.waitUntil(lambda: workflow.session.run.current is not shown)
    assert len(outputs(second)) == 4


@pytest.mark.own_window
@pytest.mark.parametrize("confirmed", [False, True])
def test_the_dialog_before_a_viewer_is_closed_does_not_disturb_the_run(workflow, qtbot, confirmed):
    workflow.session.settings.configure(unit="crop", max_steps=100_000)
    window = workflow.window()
    settings = get_settings().application
    before = settings.confirm_close_window
    settings.confirm_close_window = True
    asked: list[str] = []

    def answer() -> None:
        dialog = QApplication.activeModalWidget()
        assert isinstance(dialog, QDialog)
        asked.append(type(dialog).__name__)
        assert workflow.jobs.is_running
        if confirmed:
            dialog.accept()
        else:
            dialog.reject()

    try:
        cancel_at(qtbot, workflow, "dictionary", lambda: None)
        QTimer.singleShot(300, answer)
        window.close(quit_app=False, confirm_need=True)
        assert asked == ["ConfirmCloseDialog"]
        if not confirmed:
            assert workflow.jobs.is_running
            click(qtbot, workflow.cancel_button)
        assert QThreadPool.globalInstance().waitForDone(PATIENCE)
        qtbot.wait(50)
        assert not workflow.jobs.is_running
        if confirmed:
            # Closed by its own button, so that napari's fixture has nothing left to close.
            del workflow.viewer.window._qt_window
    finally:
        settings.confirm_close_window = before
