"""A real viewer with small pieces of the sample, and one small finished run for all tests."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels, Layer
from napari.settings import get_plugin_settings
from napari.utils import progress as napari_progress
from napari.utils._proxies import PublicOnlyProxy
from qtpy.QtCore import QThreadPool
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.gui.explorer.dock import ConceptExplorer
from napari_microdl.gui.plugin.sample_data import load_transfluor
from napari_microdl.gui.session.layers import Source
from napari_microdl.gui.session.preferences import PLUGIN
from napari_microdl.gui.workflow.dock import ConceptWorkflow
from napari_microdl.gui.workflow.fill_fields import FillFields
from napari_microdl.pipeline.run import PipelineResult, run_pipeline

from .patience import PATIENCE, PatientBot
from .steps import choose, click, open_explorer, open_workflow
from .windows import Windows, handle_events, no_window_left

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
    n_starts=1,
    device="cpu",
)
# Labels of a person: 25 squares that fill an image.
SQUARES = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((32, 32), int)).astype(np.int32)


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


def take_squares(qtbot: Any, workflow: ConceptWorkflow) -> list[Labels]:
    """Add labels to every image, named so that they are found, and choose to use them."""
    viewer = workflow.viewer
    images = [layer for layer in viewer.layers if isinstance(layer, Image)]
    labels = [
        viewer.add_labels(SQUARES.copy(), name=f"{image.name} cells", translate=image.translate)
        for image in images
    ]
    click(qtbot, workflow.cells.heading)
    choose(qtbot, workflow.cells.source, "My Labels layers")
    return labels


def sources_of(layers: Sequence[Layer], fields: Sequence[Field]) -> list[Source]:
    """Where fields come from: an image each."""
    return [
        Source(weakref.ref(getattr(layer, "__wrapped__", layer)), (), field.name)
        for layer, field in zip(layers, fields, strict=True)
    ]


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
def activations(small_run) -> ConceptActivations:
    return small_run.result.activations


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
    interval = qapp.doubleClickInterval()
    # A list that a click has opened hears no other click for as long.
    qapp.setDoubleClickInterval(100)
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
    qapp.setDoubleClickInterval(interval)


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


@pytest.fixture
def viewer(open_viewer) -> Any:
    return open_viewer()


def explore(viewer: Any, run: SmallRun, qtbot: Any) -> ConceptExplorer:
    """Open the explorer dock in a viewer and show a finished run in it."""
    explorer = open_explorer(viewer)
    qtbot.waitUntil(explorer.message.isVisible)
    layers = [viewer.add_image(field.read()[0], name=field.name) for field in run.fields]
    explorer.session.finish(run.result, run.fields, sources_of(layers, run.fields))
    qtbot.waitUntil(lambda: explorer.table.currentIndex().isValid())
    return explorer


@contextmanager
def restored(run: SmallRun) -> Iterator[None]:
    """Undo what is named, noted, tagged and ranked otherwise inside: all tests share a run."""
    activations, dictionary = run.result.activations, run.result.dictionary
    words = (dictionary.names, dictionary.notes, dictionary.tags)
    before = [list(found) for found in words]
    tags, ranking = activations.unit_tags.copy(), activations.ranking
    yield
    for found, old in zip(words, before, strict=True):
        found[:] = old
    activations.unit_tags[:] = tags
    activations.ranking = ranking


@pytest.fixture
def bare_explorer(viewer) -> ConceptExplorer:
    """The explorer dock without a run."""
    return open_explorer(viewer)


@pytest.fixture
def explorer(viewer, small_run, qtbot) -> Any:
    """The explorer dock with a finished run on four images."""
    with restored(small_run):
        yield explore(viewer, small_run, qtbot)


@pytest.fixture
def cell_explorer(viewer, cell_run, qtbot) -> Any:
    """The same with cells, in images of two channels."""
    with restored(cell_run):
        yield explore(viewer, cell_run, qtbot)


@pytest.fixture(autouse=True)
def no_thread_left() -> Any:
    """Every test ends without a running worker, and without its bar in the activity dock."""
    yield
    assert QThreadPool.globalInstance().waitForDone(PATIENCE)
    # What a worker said last is heard a little later.
    handle_events()
    assert not napari_progress._all_instances


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects what would pop up; the pop-up's own timers would outlive the test."""
    shown: list[str] = []
    monkeypatch.setattr("napari_microdl.gui.workflow.dock.show_error", shown.append)
    return shown


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """Collects what napari would say in a corner of the window."""
    said: list[str] = []
    for module in ("explorer.dock", "explorer.saving", "widgets.save_actions"):
        monkeypatch.setattr(f"napari_microdl.gui.{module}.show_info", said.append)
    return said


class FileDialogs:
    """Stands in for the dialogs of the system, which no test can click."""

    def __init__(self) -> None:
        self._path = ""
        self.proposed: list[str] = []

    def __call__(self, path: Path | str) -> Path:
        """Return a path from every dialog from now on; an empty one is that of a closed dialog."""
        self._path = str(path)
        return Path(path)

    def file(self, _parent: Any, _title: str, proposed: str, *_: Any, **__: Any) -> tuple[str, str]:
        self.proposed.append(proposed)
        return self._path, ""

    def folder(self, *_: Any) -> str:
        return self._path


@pytest.fixture
def pick(monkeypatch) -> FileDialogs:
    """What the file dialogs will return."""
    dialogs = FileDialogs()
    monkeypatch.setattr(QFileDialog, "getOpenFileName", dialogs.file)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", dialogs.file)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", dialogs.folder)
    return dialogs


@pytest.fixture
def preferences() -> Any:
    """The Preferences of the plugin; put back afterwards."""
    runs = get_plugin_settings(PLUGIN).runs
    before = runs.model_dump()
    yield runs
    runs.update(before)


@pytest.fixture
def bare_workflow(viewer) -> ConceptWorkflow:
    """The workflow dock without images."""
    return open_workflow(viewer)


@pytest.fixture
def workflow(viewer, bare_workflow, qtbot) -> ConceptWorkflow:
    """The workflow dock with the small layers."""
    for layer in small_layers():
        viewer.add_layer(layer)
    qtbot.waitUntil(lambda: len(bare_workflow.session.images.rows) == 4)
    # Sizes that no person has to set; everything that a test is about is clicked.
    bare_workflow.session.plan.take_config(SMALL.with_settings(unit="cell", max_steps=10))
    return bare_workflow


@pytest.fixture
def dialog(workflow, qtbot) -> FillFields:
    """The dialog that fills in the table of fields, opened by its button."""
    click(qtbot, workflow.fields.fill)
    found = workflow.fields.findChild(FillFields)
    qtbot.waitExposed(found)
    assert found.isVisible()
    return found
