"""Cancel, clicked in the middle of everything that runs in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import pytest
from napari.utils import progress as napari_progress
from qtpy.QtCore import Qt, QThreadPool

from napari_microdl.concepts.store import save_activations
from napari_microdl.core import child_process
from napari_microdl.gui.explorer import compare_panel, map_panel, opening, saving
from napari_microdl.gui.session.work import Work
from napari_microdl.gui.workflow import cell_preview
from napari_microdl.gui.workflow import dock as workflow_module

from .clicks import click_entry
from .patience import PATIENCE
from .test_explorer_tabs import open_tab
from .test_workflow import cancel_at, click, docked, outputs, quiet

__all__ = ["docked", "quiet"]

LEFT = Qt.MouseButton.LeftButton


class Gate:
    """Holds the second step of a generator, so that a test can act meanwhile; counts what follows.

    Parameters
    ----------
    make : callable
        Returns the generator, which has several steps.
    """

    def __init__(self, make: Callable[..., Generator[Any, None, Any]]) -> None:
        self._make = make
        self._open = threading.Event()
        self._reached = threading.Event()
        self.steps_after = 0
        self.ended = False

    def __call__(self, *args: Any, **options: Any) -> Generator[Any, None, Any]:
        steps = self._make(*args, **options)
        try:
            yield next(steps)
            step = next(steps)
            # Here a person cancels, in the middle of the second step.
            self._reached.set()
            self._open.wait()
            while True:
                yield step
                self.steps_after += 1
                step = next(steps)
        except StopIteration as finished:
            self.ended = True
            return finished.value
        finally:
            steps.close()

    def __get__(self, owner: Any, _: type) -> Any:
        """As a method: a module's own name is none."""
        return partial(self, owner)

    def wait(self, qtbot: Any) -> None:
        """Wait until the second step has begun, however long ago that was."""
        qtbot.waitUntil(self._reached.is_set)

    def open(self) -> None:
        """Let the generator go on, and wait until its thread has ended."""
        self._open.set()
        assert QThreadPool.globalInstance().waitForDone(PATIENCE)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a gate into a generator function of a module."""
    made: list[Gate] = []

    def put(module: Any, name: str) -> Gate:
        made.append(Gate(getattr(module, name)))
        monkeypatch.setattr(module, name, made[-1])
        return made[-1]

    yield put
    for one in made:
        one._open.set()


@pytest.mark.parametrize("stage", ["scale", "segment", "embed", "whiten", "fit", "encode"])
def test_cancel_in_every_stage_of_a_run(docked, qtbot, stage):
    viewer, workflow = docked
    workflow.session.configure(unit="cell", n_atoms=4, max_steps=500)
    layers = list(viewer.layers)
    cancel_at(qtbot, workflow, stage, lambda: click(qtbot, workflow.cancel_button))
    assert workflow.status.text().startswith("Cancelled: nothing was changed.")
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    qtbot.wait(50)
    assert list(viewer.layers) == layers
    assert workflow.session.run is None
    assert not workflow.cancel_button.isEnabled()
    assert not napari_progress._all_instances


@pytest.mark.parametrize("name", ["cells", "model", "whitening"])
def test_cancel_in_a_single_step(docked, qtbot, gate, name):
    viewer, workflow = docked
    workflow.session.configure(unit="cell", n_atoms=4)
    stopped = gate(Work, "steps")
    step = workflow.steps[name]
    click(qtbot, step.heading)
    workflow.scroll.ensureWidgetVisible(step.run_button)
    click(qtbot, step.run_button)
    stopped.wait(qtbot)
    click(qtbot, workflow.cancel_button)
    stopped.open()
    assert stopped.steps_after == 0
    assert not stopped.ended
    assert workflow.status.text().startswith("Cancelled: nothing was changed.")
    assert outputs(viewer) == []


def test_cancel_of_the_comparison_of_layers(docked, qtbot, gate):
    _, workflow = docked
    workflow.session.configure(unit="crop")
    stopped = gate(workflow_module, "compare_layers")
    click(qtbot, workflow.model.heading)
    click(qtbot, workflow.model.compare)
    stopped.wait(qtbot)
    click(qtbot, workflow.cancel_button)
    stopped.open()
    assert stopped.steps_after == 0
    assert not workflow.model.curve.has_contents()
    assert workflow.status.text().startswith("Cancelled")


def test_cancel_of_a_preview(docked, qtbot, gate):
    viewer, workflow = docked
    stopped = gate(cell_preview, "_segment_part")
    click(qtbot, workflow.cells.heading)
    assert not workflow.cancel_button.isEnabled()
    click(qtbot, workflow.cells.preview)
    stopped.wait(qtbot)
    click(qtbot, workflow.cancel_button)
    stopped.open()
    assert stopped.steps_after == 0
    qtbot.wait(50)
    assert outputs(viewer) == []
    assert workflow.status.text() == "Cancelled: there is no new preview."
    assert not workflow.cancel_button.isEnabled()


@pytest.mark.parametrize("method", ["pca", "umap"])
def test_cancel_of_a_map_and_the_way_back(explored, qtbot, gate, method):
    if method == "umap":
        pytest.importorskip("umap")
    _, explorer = explored
    panel = explorer.map
    stopped = gate(map_panel, f"iter_{method}_map")
    open_tab(explorer, panel, qtbot)
    if method == "umap":
        qtbot.waitUntil(panel.plot.has_contents)
        panel.method.setFocus()
        qtbot.keyClick(panel.method, Qt.Key.Key_Down)
    stopped.wait(qtbot)
    assert panel.job_bar.isVisible()
    qtbot.mouseClick(panel.job_bar.cancel_button, LEFT)
    stopped.open()
    assert stopped.steps_after == 0
    assert panel.message.text() == "Cancelled."
    assert panel.job_bar.isHidden()
    # Another concept is no reason to begin again; the button is.
    explorer.session.show_concept(3)
    qtbot.wait(300)
    assert not panel.jobs.is_running
    if method == "pca":
        qtbot.mouseClick(panel.make_button, LEFT)
        qtbot.waitUntil(panel.plot.has_contents)
        assert panel.make_button.isHidden()


def test_a_umap_ends_with_its_process_when_the_explorer_is_closed(explored, qtbot, monkeypatch):
    pytest.importorskip("umap")
    viewer, explorer = explored
    started: list[Any] = []
    start = child_process._start

    def noted() -> Any:
        started.append(start())
        return started[-1]

    monkeypatch.setattr(child_process, "_start", noted)
    open_tab(explorer, explorer.map, qtbot)
    qtbot.waitUntil(explorer.map.plot.has_contents)
    explorer.map.method.setFocus()
    qtbot.keyClick(explorer.map.method, Qt.Key.Key_Down)
    qtbot.waitUntil(lambda: bool(started))
    assert started[0].poll() is None
    viewer.window.remove_dock_widget(explorer)
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    assert started[0].returncode not in (None, 0)


def test_cancel_of_a_comparison_and_the_way_back(explored, qtbot, gate):
    _, explorer = explored
    panel = explorer.compare
    stopped = gate(compare_panel, "_compare_steps")
    open_tab(explorer, panel, qtbot)
    stopped.wait(qtbot)
    qtbot.mouseClick(panel.job_bar.cancel_button, LEFT)
    stopped.open()
    assert stopped.steps_after == 0
    assert panel.message.text() == "Cancelled."
    explorer.session.show_concept(3)
    qtbot.wait(300)
    assert not panel.jobs.is_running
    assert panel.comparison() is None
    qtbot.mouseClick(panel.compare_button, LEFT)
    qtbot.waitUntil(panel.plot.has_contents)
    assert panel.compare_button.isHidden()


SAVES = {
    "concepts": ("_concepts_steps", "concepts.csv"),
    "units": ("_units_steps", "cells.csv"),
    "comparison": ("_comparison_steps", "comparison.csv"),
    "anndata": ("iter_write_anndata", "cells.h5ad"),
    "heatmap": ("_heatmap_steps", "heatmap.tif"),
    "dictionary": ("_dictionary_steps", "mine.microdl.safetensors"),
    "folder": ("_folder_steps", "activations"),
}


@pytest.mark.parametrize("entry", SAVES)
def test_a_cancelled_save_writes_nothing(explored, qtbot, gate, monkeypatch, tmp_path, entry):
    _, explorer = explored
    steps, name = SAVES[entry]
    said: list[str] = []
    monkeypatch.setattr(saving, "show_info", said.append)
    monkeypatch.setattr(
        saving.QFileDialog, "getSaveFileName", lambda *_, **__: (str(tmp_path / name), "")
    )
    stopped = gate(saving, steps)
    button = explorer.save_button
    click_entry(button, button.entries[entry])
    stopped.wait(qtbot)
    assert not button.isEnabled()
    qtbot.mouseClick(button.job_bar.cancel_button, LEFT)
    assert button.isEnabled()
    stopped.open()
    assert stopped.steps_after == 0
    assert not stopped.ended
    assert list(tmp_path.iterdir()) == []
    assert said == []


def test_cancel_while_a_folder_is_opened(explored, qtbot, gate, small_run, monkeypatch, tmp_path):
    _, explorer = explored
    folder = save_activations(small_run.result.activations, tmp_path / "activations")
    monkeypatch.setattr(opening.QFileDialog, "getExistingDirectory", lambda *_: str(folder))
    stopped = gate(opening, "_open_steps")
    run = explorer.session.run
    qtbot.mouseClick(explorer.open_button, LEFT)
    stopped.wait(qtbot)
    qtbot.mouseClick(explorer.open_button.job_bar.cancel_button, LEFT)
    stopped.open()
    assert stopped.steps_after == 0
    qtbot.wait(50)
    assert explorer.session.run is run
    assert explorer.open_button.isEnabled()
