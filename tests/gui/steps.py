"""What tests of several docks do and look at: the workflow dock, its clicks, what is drawn."""

from __future__ import annotations

from typing import Any

from napari.layers import Labels
from qtpy.QtCore import QPoint, Qt

from napari_microdl.gui.explorer.dock import ConceptExplorer
from napari_microdl.gui.overlays.selection_outlines import KIND
from napari_microdl.gui.session.layers import TAG
from napari_microdl.gui.workflow.dock import ConceptWorkflow

LEFT = Qt.MouseButton.LeftButton


def click(qtbot: Any, button: Any) -> None:
    assert button.isEnabled()
    qtbot.mouseClick(button, LEFT)


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


def run(qtbot: Any, workflow: ConceptWorkflow) -> None:
    """Press Run all and wait until it is done."""
    click(qtbot, workflow.run_button)
    qtbot.waitUntil(lambda: not workflow.jobs.is_running)
    assert workflow.status.text().startswith("Done: ")


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


def outputs(viewer: Any) -> list[Any]:
    """Layers that the plugin made."""
    return [layer for layer in viewer.layers if TAG in layer.metadata]


def overlays(viewer: Any) -> dict[str, Any]:
    """Layers that the plugin made, by their kind."""
    return {x.metadata[TAG]["kind"]: x for x in viewer.layers if TAG in x.metadata}


def selection_outlines(viewer: Any) -> list[Labels]:
    """Layers that outline the selected units."""
    return [x for x in viewer.layers if x.metadata.get(TAG, {}).get("kind") == KIND]


def canvas_of(viewer: Any) -> Any:
    """The widget that napari draws images on."""
    return viewer.__wrapped__.window._qt_viewer.canvas.native


def open_tab(explorer: ConceptExplorer, panel: Any, qtbot: Any) -> None:
    """Click a tab of the explorer."""
    bar = explorer.tabs.tabBar()
    number = explorer.tabs.indexOf(panel)
    # Tabs that do not fit are scrolled to.
    bar.setCurrentIndex(number - 1 if number else 1)
    qtbot.mouseClick(bar, LEFT, pos=bar.tabRect(number).center())
    assert explorer.tabs.currentWidget() is panel


def shown_names(explorer: ConceptExplorer) -> list[str]:
    """Names of the concepts in the table, from top to bottom."""
    proxy = explorer.table.proxy
    return [proxy.index(row, 1).data() for row in range(proxy.rowCount())]


def pixel_of(plot: Any, place: Any) -> QPoint:
    """Where a place of the only axes is drawn."""
    plot.canvas.draw()
    x, y = plot.canvas.figure.axes[0].transData.transform(place)
    return QPoint(round(x), round(plot.canvas.figure.bbox.height - y))
