"""A real viewer with small pieces of the sample, and one small finished run for all tests."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from napari.layers import Layer
from napari.utils._proxies import PublicOnlyProxy
from qtpy.QtCore import QThreadPool
from qtpy.QtWidgets import QWidget

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.gui.explorer.dock import ConceptExplorer
from napari_microdl.gui.plugin.sample_data import load_transfluor
from napari_microdl.gui.session.layers import Source
from napari_microdl.gui.workflow.fill_fields import FillFields
from napari_microdl.pipeline.run import PipelineResult, run_pipeline

from .patience import PATIENCE, PatientBot
from .steps import click
from .windows import Windows, no_window_left

SIZE = 160
# Two treated and two control wells are enough to run every stage.
WELLS = ("O05", "O07", "O11", "O12")
SMALL = PipelineConfig.of(
    model="random-init",
    unit="crop",
    crop_size=32,
    crop_stride=16,
    n_atoms=24,
    n_iterations=2,
    atoms_per_iteration=2,
    max_steps=40,
    device="cpu",
)


def small_fields() -> list[Field]:
    """Corners of four fields of the sample."""
    return [
        replace(f, data=f.data[:, :SIZE, :SIZE].copy()) for f in transfluor() if f.well in WELLS
    ]


def small_layers() -> list[Layer]:
    """The same corners as File > Open Sample would open them."""
    layers = [
        Layer.create(data[:SIZE, :SIZE], meta, kind) for data, meta, kind in load_transfluor()
    ]
    return [layer for layer in layers if layer.name.split()[0] in WELLS]


@dataclass(frozen=True)
class SmallRun:
    """A finished run on the small fields."""

    fields: list[Field]
    config: PipelineConfig
    result: PipelineResult


@pytest.fixture
def qtbot(qapp: Any, request: pytest.FixtureRequest) -> PatientBot:
    return PatientBot(request)


@pytest.fixture(scope="session")
def small_run() -> SmallRun:
    fields = small_fields()
    return SmallRun(fields, SMALL, run_pipeline(fields, SMALL))


@pytest.fixture(scope="session")
def cell_run() -> SmallRun:
    """Cells of the built-in segmentation in fields of two channels; the second is turned round."""
    fields = [
        replace(
            f,
            data=np.concatenate([f.read(), f.read()[:, ::-1, ::-1]]),
            channel_names=("GFP", "turned"),
        )
        for f in small_fields()
    ]
    config = SMALL.with_settings(unit="cell", n_atoms=8, channels=("GFP",))
    return SmallRun(fields, config, run_pipeline(fields, config))


@pytest.fixture(scope="module")
def windows(qapp: Any) -> Any:
    """The windows of a module; see there."""
    # What is there by now stays, and napari looks for garbage whenever a layer is removed.
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patches:
        # As napari's own fixture of viewers does: a thread less, and no console that starts slowly.
        patches.setattr("napari._qt.threads.status_checker.StatusChecker.start", lambda _: None)
        patches.setattr("napari._qt.qt_viewer.QtViewer._get_console", lambda _: NoConsole())
        patches.setattr("napari._qt.qt_main_window.SHOW_QT_WARNING", False)
        patches.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "True")
        opened = Windows()
        yield opened
        opened.close()
        no_window_left()


class NoConsole(QWidget):
    """Stands in for napari's console."""

    def _update_theme(self, *_: Any) -> None:
        pass


@pytest.fixture
def open_viewer(windows: Windows, request: pytest.FixtureRequest) -> Any:
    """Factory of viewers in windows that are shown, as napari hands them to plugins.

    The first is the one of the module, made as new; a test that is marked `own_window` gets one of
    its own, and so does every test after one that failed.
    """
    yield lambda: PublicOnlyProxy(windows.open())
    passed = hasattr(request.node, "rep_call") and not request.node.rep_call.failed
    own = request.node.get_closest_marker("own_window") is not None
    windows.end_test(keep=passed and not own)
    if own and passed:
        no_window_left()


def explore(viewer: Any, run: SmallRun, qtbot: Any) -> ConceptExplorer:
    """Open the explorer dock in a viewer and show a finished run in it."""
    _, explorer = viewer.window.add_plugin_dock_widget("napari-microdl", "Concept explorer")
    qtbot.waitUntil(explorer.message.isVisible)
    sources = [
        Source(weakref.ref(viewer.add_image(f.read()[0], name=f.name).__wrapped__), (), f.name)
        for f in run.fields
    ]
    explorer.session.finish(run.result, run.fields, sources)
    qtbot.waitUntil(lambda: explorer.table.currentIndex().isValid())
    return explorer


@pytest.fixture
def explored(open_viewer: Any, small_run: SmallRun, qtbot: Any) -> tuple[Any, ConceptExplorer]:
    """A viewer with a finished run and the explorer dock."""
    viewer = open_viewer()
    return viewer, explore(viewer, small_run, qtbot)


@pytest.fixture
def explored_cells(open_viewer: Any, cell_run: SmallRun, qtbot: Any) -> tuple[Any, ConceptExplorer]:
    """The same with cells, in images of two channels."""
    viewer = open_viewer()
    return viewer, explore(viewer, cell_run, qtbot)


@pytest.fixture(autouse=True)
def no_thread_left() -> Any:
    """Every test ends without a running worker."""
    yield
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)


@pytest.fixture
def image() -> np.ndarray:
    return small_fields()[0].read()[0]


@pytest.fixture(scope="session")
def cell_dictionary() -> ConceptDictionary:
    """A small dictionary of cells."""
    config = SMALL.with_settings(unit="cell", n_atoms=8)
    return run_pipeline(small_fields(), config).dictionary


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects what would pop up; the pop-up's own timers would outlive the test."""
    shown: list[str] = []
    monkeypatch.setattr("napari_microdl.gui.workflow.dock.show_error", shown.append)
    return shown


@pytest.fixture
def docked(open_viewer: Any, qtbot: Any) -> Any:
    """A viewer with the small layers and the workflow dock."""
    viewer = open_viewer()
    _, workflow = viewer.window.add_plugin_dock_widget("napari-microdl", "Concept workflow")
    for layer in small_layers():
        viewer.add_layer(layer)
    qtbot.waitUntil(lambda: len(workflow.session.images.rows) == 4)
    # Sizes that no person has to set; everything that a test is about is clicked.
    workflow.session.plan.take_config(SMALL.with_settings(unit="cell"))
    return viewer, workflow


@pytest.fixture
def dialog(docked: Any, qtbot: Any) -> FillFields:
    """The dialog that fills in the table of fields, opened by its button."""
    _, workflow = docked
    click(qtbot, workflow.fields.fill)
    found = workflow.fields.findChild(FillFields)
    qtbot.waitExposed(found)
    assert found.isVisible()
    return found
