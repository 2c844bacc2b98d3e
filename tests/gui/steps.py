"""What tests of several docks do and look at: the workflow dock, its clicks, what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLineEdit,
    QTabBar,
)
from scipy import ndimage

from napari_microdl.concepts.projection import umap_is_installed
from napari_microdl.gui.dock import overlays_of
from napari_microdl.gui.explorer.dock import ConceptExplorer
from napari_microdl.gui.overlays.overlays import SELECTION
from napari_microdl.gui.session.layers import TAG
from napari_microdl.gui.widgets.turns import _queue
from napari_microdl.gui.workflow.dock import ConceptWorkflow
from napari_microdl.gui.workflow.import_folder import ImportFolder
from napari_microdl.pipeline.run import PipelineResult

LEFT = Qt.MouseButton.LeftButton
# What a person can use.
CONTROLS = (QAbstractButton, QAbstractItemView, QAbstractSpinBox, QComboBox, QLineEdit, QTabBar)


def open_workflow(viewer: Any) -> ConceptWorkflow:
    return viewer.window.add_plugin_dock_widget("napari-microdl", "Concept workflow")[1]


def open_explorer(viewer: Any) -> ConceptExplorer:
    return viewer.window.add_plugin_dock_widget("napari-microdl", "Concept explorer")[1]


def bring_to_front(dock: Any) -> None:
    """Click the tab of a dock."""
    # A dock that was just opened comes to the front once it is laid out, a few turns later.
    QApplication.processEvents()
    while _queue().first or _queue().others:
        QApplication.processEvents()
    for bar in dock.window().findChildren(QTabBar):
        titles = [bar.tabText(i) for i in range(bar.count())]
        if (title := dock.parent().windowTitle()) in titles:
            place = bar.tabRect(titles.index(title)).center()
            QTest.mouseClick(bar, LEFT, Qt.KeyboardModifier.NoModifier, place)
    QApplication.processEvents()
    assert not dock.visibleRegion().isEmpty()


def click(qtbot: Any, button: Any) -> None:
    assert button.isEnabled()
    qtbot.mouseClick(button, LEFT)


def click_tick(qtbot: Any, box: Any) -> None:
    """Click a tick box or a radio button where it is drawn."""
    assert box.isEnabled()
    qtbot.mouseClick(box, LEFT, pos=QPoint(8, box.height() // 2))


def click_item(qtbot: Any, view: Any, item: Any) -> None:
    """Click an entry of a list or of a table of items."""
    view.scrollToItem(item)
    qtbot.mouseClick(view.viewport(), LEFT, pos=view.visualItemRect(item).center())


def click_cell(
    qtbot: Any, table: Any, row: int, column: int, held: Any = Qt.KeyboardModifier.NoModifier
) -> None:
    """Click a cell of a table, with a key held down."""
    place = table.visualRect(table.model().index(row, column)).center()
    qtbot.mouseClick(table.viewport(), LEFT, held, place)


def choose(qtbot: Any, box: Any, text: str) -> None:
    """Choose from a combo box with the keyboard, as one does with a click and a letter."""
    box.setFocus()
    number = box.findText(text)
    assert number >= 0
    steps = number - box.currentIndex()
    for _ in range(abs(steps)):
        qtbot.keyClick(box, Qt.Key.Key_Down if steps > 0 else Qt.Key.Key_Up)


def write(qtbot: Any, box: Any, text: str) -> None:
    """Write in a box in place of what is there, and press Enter."""
    box.setFocus()
    box.selectAll()
    qtbot.keyClicks(box, text)
    qtbot.keyClick(box, Qt.Key.Key_Return)


def tick(qtbot: Any, table: Any, row: int, column: int) -> None:
    """Click the tick box of a table cell."""
    box = table.visualRect(table.model().index(row, column))
    qtbot.mouseClick(table.viewport(), LEFT, pos=QPoint(box.left() + 10, box.center().y()))


def in_view(qtbot: Any, workflow: Any, widget: Any) -> None:
    """Scroll to a control, as a person has to before clicking it."""

    def seen() -> bool:
        # A step that was just opened is laid out a little later.
        workflow.scroll.ensureWidgetVisible(widget)
        return bool(widget.visibleRegion().contains(widget.rect().center()))

    qtbot.waitUntil(seen)


def look_in(qtbot: Any, workflow: ConceptWorkflow, place: Path) -> ImportFolder:
    """Open the dialog that imports a folder by its button, and write a folder."""
    click(qtbot, workflow.fields.import_folder)
    dialog = workflow.fields.findChild(ImportFolder)
    qtbot.waitExposed(dialog)
    with qtbot.waitSignal(dialog.looking.succeeded):
        write(qtbot, dialog.place, str(place))
    return dialog


def run(qtbot: Any, workflow: ConceptWorkflow) -> PipelineResult:
    """Press Run all, wait until it is done, and go back from the explorer to the workflow."""
    click(qtbot, workflow.run_button)
    qtbot.waitUntil(lambda: not workflow.jobs.is_running)
    assert workflow.status.text().startswith("Done: ")
    bring_to_front(workflow)
    return workflow.session.run.current.result


def run_step(qtbot: Any, workflow: ConceptWorkflow, name: Any) -> list[str]:
    """Click the button of a step; the stages that were reported."""
    heard: list[str] = []

    def hear(progress: Any) -> None:
        heard.append(progress.stage)

    workflow.jobs.progressed.connect(hear)
    click(qtbot, workflow.steps[name].run_button)
    qtbot.waitUntil(lambda: not workflow.jobs.is_running)
    workflow.jobs.progressed.disconnect(hear)
    assert not workflow.status.text().startswith("⚠")
    # After the last step the explorer is in front.
    bring_to_front(workflow)
    return list(dict.fromkeys(heard))


def cancel_at(qtbot: Any, workflow: ConceptWorkflow, stage: str, act: Any) -> None:
    """Press Run, and do something in the middle of a stage."""
    done = []

    def on_progress(progress: Any) -> None:
        if progress.stage == stage and not done:
            done.append(progress)
            act()

    workflow.jobs.progressed.connect(on_progress)
    click(qtbot, workflow.run_button)
    qtbot.waitUntil(lambda: bool(done))
    # The jobs outlive the dock, and would hold what is to be done.
    workflow.jobs.progressed.disconnect(on_progress)


def previewed(qtbot: Any, workflow: ConceptWorkflow, act: Any) -> Labels:
    """Do something that previews cells, and wait for them; the layer that shows them."""
    with qtbot.waitSignal(workflow.preview.jobs.succeeded):
        act()
    (layer,) = outputs(workflow.viewer)
    return layer


def outputs(viewer: Any) -> list[Any]:
    """Layers that the plugin made and shows, those too that come one after the other."""
    overlays_of(getattr(viewer, "__wrapped__", viewer)).complete()
    return [layer for layer in viewer.layers if TAG in layer.metadata and layer.visible]


def overlays(viewer: Any) -> dict[str, Any]:
    """Layers that the plugin made and shows, by their kind."""
    return {x.metadata[TAG]["kind"]: x for x in outputs(viewer)}


def selection_outlines(viewer: Any) -> list[Image]:
    """Layers that outline the selected units."""
    return [x for x in outputs(viewer) if x.metadata[TAG]["kind"] == SELECTION]


def assert_outlined(layer: Any, image: Any, inside: np.ndarray) -> None:
    """Every pixel of a layer that outlines a part of an image, against morphology on that part."""
    lines = layer.data.reshape(layer.data.shape[-2:])
    lead = (0,) * (layer.ndim - 2)
    corners = [layer.data_to_world((*lead, *at)) for at in ((0, 0), np.array(lines.shape) - 1)]
    first, last = (np.array(image.world_to_data(corner))[-2:] for corner in corners)
    rows, columns = (
        np.rint(np.linspace(*ends)).astype(int)
        for ends in zip(first, last, lines.shape, strict=True)
    )
    part = inside[np.ix_(rows, columns)]
    assert part.any()
    cross = ndimage.generate_binary_structure(2, 1)
    wide = np.zeros((7, 7), bool)
    wide[3], wide[:, 3] = True, True
    bright = part & ~ndimage.binary_erosion(part, wide, border_value=1)
    dark = ndimage.binary_dilation(part, cross) & ~part
    np.testing.assert_array_equal(lines == 1, bright)
    np.testing.assert_array_equal(lines == 0, dark)
    assert np.isnan(lines[~bright & ~dark]).all()


def canvas_of(viewer: Any) -> Any:
    """The widget that napari draws images on."""
    return viewer.__wrapped__.window._qt_viewer.canvas.native


def switch_theme(viewer: Any, qtbot: Any) -> None:
    """Press the keys that change between the dark and the light theme."""
    held = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    qtbot.keyClick(canvas_of(viewer), Qt.Key.Key_T, held)


def open_tab(explorer: ConceptExplorer, panel: Any, qtbot: Any) -> None:
    """Click a tab of the explorer."""
    bar = explorer.tabs.tabBar()
    number = explorer.tabs.indexOf(panel)
    # Tabs that do not fit are scrolled to.
    bar.setCurrentIndex(number - 1 if number else 1)
    qtbot.mouseClick(bar, LEFT, pos=bar.tabRect(number).center())
    assert explorer.tabs.currentWidget() is panel


def open_plot(explorer: ConceptExplorer, panel: Any, qtbot: Any) -> Any:
    """Click a tab of the explorer, and wait until its plot is drawn."""
    open_tab(explorer, panel, qtbot)
    qtbot.waitUntil(panel.plot.has_contents)
    return panel.plot


def choose_umap(explorer: ConceptExplorer, qtbot: Any) -> None:
    """Open the map, and go on to the second kind by a key."""
    # It is imported in a process of its own, which takes long.
    if not umap_is_installed():
        pytest.skip("umap-learn is not installed")
    open_plot(explorer, explorer.map, qtbot)
    explorer.map.method.setFocus()
    qtbot.keyClick(explorer.map.method, Qt.Key.Key_Down)


def shown_names(explorer: ConceptExplorer) -> list[str]:
    """Names of the concepts in the table, from top to bottom."""
    proxy = explorer.table.proxy
    return [proxy.index(row, 1).data() for row in range(proxy.rowCount())]


def shown_units(view: Any) -> list[int]:
    """Rows of the units in a list, or concepts."""
    return [view.item(n).data(Qt.ItemDataRole.UserRole) for n in range(view.count())]


def pixel_of(plot: Any, place: Any) -> QPoint:
    """Where a place of the only axes is drawn."""
    plot.canvas.draw()
    x, y = plot.canvas.figure.axes[0].transData.transform(place)
    return QPoint(round(x), round(plot.canvas.figure.bbox.height - y))


def covered(boxes: Any, shape: tuple[int, int]) -> Any:
    """Which pixels lie in any of some boxes."""
    inside = np.zeros(shape, bool)
    for top, left, bottom, right in boxes:
        inside[top:bottom, left:right] = True
    return inside


def rings(plot: Any) -> Any:
    """Places that are ringed on the only axes."""
    open_points = [c for c in plot.canvas.figure.axes[0].collections if not len(c.get_facecolor())]
    return open_points[0].get_offsets() if open_points else np.empty((0, 2))


def lasso(qtbot: Any, plot: Any, corners: Any) -> None:
    """Draw a closed line through places of the only axes with the mouse."""
    first, *others = [pixel_of(plot, corner) for corner in corners]
    qtbot.mousePress(plot.canvas, LEFT, pos=first)
    for place in [*others, first]:
        qtbot.mouseMove(plot.canvas, place)
    qtbot.mouseRelease(plot.canvas, LEFT, pos=first)
