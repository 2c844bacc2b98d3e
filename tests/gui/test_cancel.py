"""Cancel, clicked in the middle of everything that runs in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import pytest
from qtpy.QtCore import QThreadPool

from napari_microdl.concepts import store
from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.core.task import Stage, Task, current_task
from napari_microdl.gui.explorer import map_panel, saving
from napari_microdl.gui.session import running
from napari_microdl.gui.session.run import Work
from napari_microdl.gui.workflow import cell_preview
from tasks import processes_started

from .clicks import click_entry
from .patience import PATIENCE
from .steps import LEFT, cancel_at, choose_umap, click, open_tab, outputs

pytestmark = pytest.mark.own_window


class Gate:
    """Holds a function when it looks whether it was cancelled, so that a test can act meanwhile.

    Parameters
    ----------
    function : callable
        Runs in the background.
    at : int
        Which of its looks is held.
    """

    def __init__(self, function: Callable[..., Any], at: int) -> None:
        self._function = function
        self._at = at
        self._open = threading.Event()
        self._reached = threading.Event()
        self.looks = 0
        self.ended = False

    def __call__(self, *args: Any, **options: Any) -> Any:
        with _GatedTask(self, current_task()).active():
            result = self._function(*args, **options)
        self.ended = True
        return result

    def __get__(self, owner: Any, _: type) -> Any:
        """As a method: a module's own name is none."""
        return partial(self, owner)

    def look(self) -> None:
        """Hold the look that is meant."""
        self.looks += 1
        if self.looks == self._at:
            # Here a person cancels.
            self._reached.set()
            assert self._open.wait(PATIENCE)

    def wait(self, qtbot: Any) -> None:
        """Wait until the look is held, however long ago that was."""
        qtbot.waitUntil(self._reached.is_set)

    def open(self) -> None:
        """Let the function go on; it has to end at that very look."""
        self._open.set()
        assert QThreadPool.globalInstance().waitForDone(PATIENCE)
        assert self.looks == self._at
        assert not self.ended

    def cancel(self, qtbot: Any, button: Any) -> None:
        """Click a button that cancels while the look is held, and let the function go on."""
        self.wait(qtbot)
        click(qtbot, button)
        self.open()


class _GatedTask(Task):
    def __init__(self, gate: Gate, parent: Task) -> None:
        super().__init__(parent=parent)
        self._gate = gate

    def check(self) -> None:
        self._gate.look()
        super().check()


@pytest.fixture
def gate(monkeypatch) -> Any:
    """Puts a gate into a function of a module or a class."""
    made: list[Gate] = []

    def put(owner: Any, name: str, at: int = 2) -> Gate:
        made.append(Gate(getattr(owner, name), at))
        monkeypatch.setattr(owner, name, made[-1])
        return made[-1]

    yield put
    for one in made:
        one._open.set()


@pytest.mark.parametrize("stage", get_args(Stage))
def test_cancel_in_every_stage_of_a_run(viewer, workflow, qtbot, stage):
    # Long enough to be met in the middle, and short on the way to what comes after.
    n_steps = 100_000 if stage == "dictionary" else 5
    workflow.session.settings.configure(n_atoms=4, max_steps=n_steps)
    layers = list(viewer.layers)
    cancel_at(qtbot, workflow, stage, lambda: click(qtbot, workflow.cancel_button))
    assert workflow.status.text().startswith("Cancelled: nothing was changed.")
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    qtbot.wait(50)
    assert list(viewer.layers) == layers
    assert workflow.session.run.current is None
    assert workflow.session.settings.dictionary is None
    assert workflow.run_button.isEnabled()
    assert not workflow.cancel_button.isEnabled()
    assert not workflow.bar.isVisible()


@pytest.mark.parametrize("name", ["cells", "tokens", "whitening"])
def test_cancel_in_a_single_step(viewer, workflow, qtbot, gate, name):
    workflow.session.settings.configure(n_atoms=4)
    stopped = gate(Work, "run")
    step = workflow.steps[name]
    click(qtbot, step.heading)
    workflow.scroll.ensureWidgetVisible(step.run_button)
    click(qtbot, step.run_button)
    stopped.cancel(qtbot, workflow.cancel_button)
    assert workflow.status.text().startswith("Cancelled: nothing was changed.")
    assert outputs(viewer) == []


def test_cancel_of_the_comparison_of_layers(workflow, qtbot, gate):
    workflow.session.settings.configure(unit="crop")
    stopped = gate(running, "compare_layers")
    click(qtbot, workflow.tokens.heading)
    click(qtbot, workflow.tokens.compare)
    stopped.cancel(qtbot, workflow.cancel_button)
    assert not workflow.tokens.curve.has_contents()
    assert workflow.status.text().startswith("Cancelled")


def test_cancel_of_a_preview(viewer, workflow, qtbot, gate):
    stopped = gate(cell_preview, "_segment_part")
    click(qtbot, workflow.cells.heading)
    assert not workflow.cancel_button.isEnabled()
    click(qtbot, workflow.cells.preview)
    stopped.cancel(qtbot, workflow.cancel_button)
    qtbot.wait(50)
    assert outputs(viewer) == []
    assert workflow.status.text() == "Cancelled: there is no new preview."
    assert not workflow.cancel_button.isEnabled()


WORKS = {
    "principal components": ("map", map_panel, "pca_map", "make_button"),
    "UMAP": ("map", map_panel, "umap_map", "make_button"),
    "comparison": ("compare", ConceptActivations, "compare", "compare_button"),
}


@pytest.mark.parametrize("work", WORKS)
def test_cancel_of_a_plot_and_the_way_back(explorer, qtbot, gate, work):
    tab, owner, name, button = WORKS[work]
    panel = getattr(explorer, tab)
    stopped = gate(owner, name)
    if work == "UMAP":
        choose_umap(explorer, qtbot)
    else:
        open_tab(explorer, panel, qtbot)
    stopped.wait(qtbot)
    assert panel.job_bar.isVisible()
    qtbot.mouseClick(panel.job_bar.cancel_button, LEFT)
    stopped.open()
    assert panel.message.text() == "Cancelled."
    assert panel.job_bar.isHidden()
    # Another concept is no reason to begin again; the button is.
    explorer.session.view.show_concept(3)
    qtbot.wait(300)
    assert not panel.jobs.is_running
    if work == "comparison":
        assert panel.comparison() is None
    if work != "UMAP":
        assert not panel.plot.has_contents()
        again = getattr(panel, button)
        qtbot.mouseClick(again, LEFT)
        qtbot.waitUntil(panel.plot.has_contents)
        assert again.isHidden()


def test_a_umap_ends_with_its_process_when_the_explorer_is_closed(
    viewer, explorer, qtbot, monkeypatch
):
    started = processes_started(monkeypatch)
    choose_umap(explorer, qtbot)
    qtbot.waitUntil(lambda: bool(started))
    assert started[0].poll() is None
    viewer.window.remove_dock_widget(explorer)
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    assert started[0].returncode not in (None, 0)


SAVES = {
    "concepts": "concepts.csv",
    "units": "cells.csv",
    "comparison": "comparison.csv",
    "anndata": "cells.h5ad",
    "heatmap": "heatmap.tif",
    "dictionary": "mine.microdl.safetensors",
    "folder": "activations",
}


@pytest.mark.parametrize("entry", SAVES)
def test_a_cancelled_save_writes_nothing(explorer, qtbot, gate, pick, told, tmp_path, entry):
    pick(tmp_path / SAVES[entry])
    # A dictionary looks once, before the file takes its place.
    stopped = gate(saving, "_write", at=1 if entry == "dictionary" else 2)
    button = explorer.save_button
    click_entry(button, button.entries[entry])
    stopped.wait(qtbot)
    assert not button.isEnabled()
    qtbot.mouseClick(button.job_bar.cancel_button, LEFT)
    assert button.isEnabled()
    stopped.open()
    assert list(tmp_path.iterdir()) == []
    assert told == []


def test_cancel_while_a_folder_is_opened(explorer, qtbot, gate, activations, pick, tmp_path):
    pick(store.save_activations(activations, tmp_path / "activations"))
    stopped = gate(store, "open_activations")
    run = explorer.session.run.current
    qtbot.mouseClick(explorer.open_button, LEFT)
    stopped.cancel(qtbot, explorer.open_button.job_bar.cancel_button)
    qtbot.wait(50)
    assert explorer.session.run.current is run
    assert explorer.open_button.isEnabled()
