"""Both docks without a mouse: the Tab key is pressed until it leaves them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QComboBox,
    QHeaderView,
    QLineEdit,
    QRadioButton,
    QTabBar,
    QWidget,
)

from napari_microdl.gui.explorer.concept_table import HEADINGS
from napari_microdl.gui.session.layers import TAG
from napari_microdl.gui.widgets.plots import point_by_key
from napari_microdl.report.concept_figures import volcano_places

from .clicks import write_in_editor
from .steps import (
    CONTROLS,
    assert_outlined,
    covered,
    open_plot,
    open_tab,
    rings,
    selection_outlines,
    shown_names,
)

TAB = Qt.Key.Key_Tab
MOST = 150


def look_at(qtbot: Any, dock: QWidget, widget: QWidget) -> None:
    """Give a control the focus of the keyboard, in a window that is in front."""
    dock.window().activateWindow()
    widget.setFocus()
    qtbot.waitUntil(widget.hasFocus)


def controls(dock: QWidget) -> list[QWidget]:
    """Everything in view that a person can use, parts of another control left out."""
    found: list[QWidget] = []
    for widget in dock.findChildren(QWidget):
        part_of = widget.parent()
        if isinstance(part_of, QComboBox | QAbstractSpinBox | QLineEdit | QTabBar):
            continue
        # Clicks on headings have keys in their table.
        if isinstance(widget, QHeaderView):
            continue
        if isinstance(widget, CONTROLS) and widget.isVisible() and widget.isEnabled():
            found.append(widget)
    return found


def tab_through(dock: QWidget, start: QWidget) -> list[QWidget]:
    """Press Tab from a control until the focus is outside of a dock; what had it until then."""
    window = dock.window()
    start.setFocus()
    seen: list[QWidget] = []
    while (widget := window.focusWidget()) is not None and dock.isAncestorOf(widget):
        assert len(seen) < MOST, f"Tab does not leave {seen[-1]}"
        seen.append(widget)
        QTest.keyClick(widget, TAB)
    return seen


def missed(dock: QWidget, seen: list[QWidget]) -> list[str]:
    """Controls that were not reached; of radio buttons arrow keys reach those beside the chosen."""
    names = []
    for widget in controls(dock):
        if isinstance(widget, QRadioButton) and not widget.isChecked():
            assert widget.group() is not None
            assert widget.group().checkedButton() in seen
        elif widget not in seen:
            text = widget.text() if isinstance(widget, QAbstractButton) else ""
            names.append(f"{type(widget).__name__} {text or widget.accessibleName()}")
    return names


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("cell", "segmentation"),
        ("cell", "labels"),
        ("crop", "segmentation"),
        ("token", "segmentation"),
    ],
)
def test_tab_reaches_every_control_of_the_workflow_and_leaves_it(
    viewer, workflow, qtbot, unit, source
):
    viewer.add_labels(np.ones((160, 160), int), name="mine")
    for step in workflow.steps.values():
        step.set_expanded(True)
    workflow.session.settings.choose(cell_source=source)
    # A model with channels that have to be said, and files.
    workflow.session.settings.configure(model="cell-dino-cp-vits8", unit=unit)
    workflow.session.settings.choose(apply_dictionary=False)
    qtbot.wait(50)
    seen = tab_through(workflow, workflow.fields.heading)
    assert missed(workflow, seen) == []
    assert len(seen) == len(set(seen)) > 40
    assert (workflow.cells.crop_size in seen) == (unit == "crop")
    boxes = list(workflow.tokens.channels.values())
    assert len(boxes) == 5
    if source == "labels":
        boxes += [workflow.cells.labels.cellWidget(row, 1) for row in range(4)]
    # Boxes that were made last are reached where they stand.
    places = [widget.mapTo(workflow, widget.rect().topLeft()).y() for widget in seen]
    for box in boxes:
        number = seen.index(box)
        assert places[number - 1] <= places[number] <= places[number + 1]


@pytest.mark.parametrize("number", range(8))
def test_tab_reaches_every_control_of_the_explorer_and_leaves_it(explorer, qtbot, number):
    explorer.selection.select([5])
    bar = explorer.tabs.tabBar()
    bar.setFocus()
    for _ in range(number):
        qtbot.keyClick(bar, Qt.Key.Key_Right)
    panel = explorer.panels[number]
    assert explorer.tabs.currentWidget() is panel
    for plot in (explorer.compare.plot, explorer.map.plot, explorer.plate.plot):
        if panel.isAncestorOf(plot):
            qtbot.waitUntil(plot.has_contents)
    first = explorer.card.buttons[0][0]
    qtbot.waitUntil(first.isVisible)
    seen = tab_through(explorer, first)
    assert missed(explorer, seen) == []
    assert explorer.card.name in seen
    assert seen[-3:] == [explorer.where, explorer.open_button, explorer.save_button]
    assert (explorer.compare.plot in seen) == (panel is explorer.compare)


def test_tab_reaches_every_control_of_the_dialog_that_fills_fields(dialog, qtbot):
    for number in range(dialog.tabs.count()):
        dialog.tabs.setCurrentIndex(number)
        bar = dialog.tabs.tabBar()
        bar.setFocus()
        seen: list[QWidget] = []
        # A dialog of its own has nothing to leave to, so Tab comes round.
        while dialog.focusWidget() not in seen:
            assert len(seen) < MOST
            seen.append(dialog.focusWidget())
            QTest.keyClick(seen[-1], TAB)
        assert missed(dialog, seen) == []


def test_fields_are_edited_by_the_keyboard(workflow, qtbot):
    table = workflow.fields.table
    look_at(qtbot, workflow, table)
    table.setCurrentIndex(table.model().index(0, 2))
    qtbot.keyClick(table, Qt.Key.Key_F2)
    write_in_editor(qtbot, table, "DMSO")
    qtbot.waitUntil(lambda: workflow.session.images.rows[0].condition == "DMSO")
    before = workflow.session.images.rows[0].is_control
    qtbot.keyClick(table, Qt.Key.Key_Right)
    qtbot.keyClick(table, Qt.Key.Key_Space)
    assert workflow.session.images.rows[0].is_control != before
    qtbot.keyClick(table, Qt.Key.Key_Down)
    assert table.currentIndex().row() == 1


def test_channels_are_edited_by_the_keyboard(viewer, workflow, qtbot):
    viewer.layers.clear()
    viewer.add_image(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), name="smear")
    qtbot.waitUntil(lambda: len(workflow.session.images.rows) == 1)
    qtbot.keyClick(workflow.fields.split_rgb, Qt.Key.Key_Space)
    table = workflow.fields.channels
    look_at(qtbot, workflow, table)
    table.setCurrentIndex(table.model().index(0, 0))
    qtbot.keyClick(table, Qt.Key.Key_Down)
    assert table.currentRow() == 1
    qtbot.keyClick(table, Qt.Key.Key_Space)
    assert [c.use for c in workflow.session.images.channels] == [True, False, True]
    qtbot.keyClick(table, Qt.Key.Key_Right)
    qtbot.keyClick(table, Qt.Key.Key_F2)
    write_in_editor(qtbot, table, "eosin")
    names = ["red", "eosin", "blue"]
    qtbot.waitUntil(lambda: [c.name for c in workflow.session.images.channels] == names)


def test_labels_are_chosen_by_the_keyboard_and_the_focus_stays(viewer, workflow, qtbot):
    layers = [viewer.add_labels(np.ones((160, 160), int), name=f"cells {i}") for i in range(3)]
    workflow.cells.set_expanded(True)
    workflow.session.settings.choose(cell_source="labels")
    box = workflow.cells.labels.cellWidget(1, 1)
    box.setFocus()
    window = workflow.window()
    for layer in layers:
        assert window.focusWidget() is box
        qtbot.keyClick(window.focusWidget(), Qt.Key.Key_Down)
        assert workflow.session.images.rows[1].labels_layer().name == layer.name
    assert box.currentText() == "cells 2"
    first, second, *_ = workflow.session.images.rows
    assert first.labels_layer() is not second.labels_layer()


def test_cells_are_picked_one_by_one_with_the_keyboard(viewer, explorer, activations, qtbot):
    open_tab(explorer, explorer.cell, qtbot)
    viewer.layers.selection.active = explorer.session.run.current.sources[2].layer()
    rows = activations.rows_of_field(2)
    assert len(rows) > 3
    explorer.cell.next.setFocus()
    for row in rows[:3]:
        qtbot.keyClick(explorer.cell.next, Qt.Key.Key_Space)
        assert explorer.selection.current == row
        unit = activations.units.iloc[row]
        assert f"crop {unit['label']} of {unit['Metadata_Field']}" in explorer.cell.heading.text()
        (layer,) = selection_outlines(viewer)
        image = explorer.session.run.current.sources[2].layer()
        box = activations.geometry[2].boxes[[row - rows[0]]]
        assert_outlined(layer, image, covered(box, image.data.shape))
    assert explorer.tabs.currentWidget() is explorer.cell
    for row in (rows[1], rows[0], rows[-1]):
        qtbot.keyClick(explorer.cell.previous, Qt.Key.Key_Space)
        assert explorer.selection.current == row
    # Of another image that is selected, the first.
    viewer.layers.selection.active = explorer.session.run.current.sources[0].layer()
    qtbot.keyClick(explorer.cell.next, Qt.Key.Key_Space)
    assert explorer.selection.current == 0
    viewer.layers.selection.active = explorer.session.run.current.sources[1].layer()
    qtbot.keyClick(explorer.cell.previous, Qt.Key.Key_Space)
    assert explorer.selection.current == activations.rows_of_field(1)[-1]


def test_without_images_every_cell_is_reached(bare_explorer, activations, qtbot):
    panel, selection = bare_explorer.cell, bare_explorer.selection
    assert not panel.next.isEnabled()
    bare_explorer.session.open_activations(activations)
    bare_explorer.tabs.setCurrentWidget(panel)
    last = len(activations.units) - 1
    buttons = (panel.next, panel.next, panel.previous, panel.previous, panel.next)
    for button, row in zip(buttons, (0, 1, 0, last, 0), strict=True):
        qtbot.keyClick(button, Qt.Key.Key_Space)
        assert selection.current == row


def test_arrow_keys_go_from_point_to_point_of_the_comparison(explorer, activations, qtbot):
    plot = open_plot(explorer, explorer.compare, qtbot)
    explorer.compare.by.setCurrentText("by cells")
    places = volcano_places(activations.compare(*explorer.compare.chosen))
    plot.setFocus()
    qtbot.keyClick(plot, Qt.Key.Key_Home)
    seen = [explorer.session.view.concept]
    for _ in range(len(places) - 1):
        qtbot.keyClick(plot, Qt.Key.Key_Right)
        seen.append(explorer.session.view.concept)
    assert sorted(seen) == list(range(len(places)))
    assert (np.diff(places[seen, 0]) >= 0).all()
    qtbot.keyClick(plot, Qt.Key.Key_Right)
    assert explorer.session.view.concept == seen[-1]
    qtbot.keyClick(plot, Qt.Key.Key_Left)
    assert explorer.session.view.concept == seen[-2]
    qtbot.keyClick(plot, Qt.Key.Key_End)
    assert explorer.session.view.concept == seen[-1]
    heights = [places[explorer.session.view.concept, 1]]
    for key in [Qt.Key.Key_Up] * len(places) + [Qt.Key.Key_Down] * 3:
        qtbot.keyClick(plot, key)
        heights.append(places[explorer.session.view.concept, 1])
    assert heights[len(places)] == places[:, 1].max()
    assert np.diff(heights[: len(places)]).min() >= 0 >= np.diff(heights[len(places) :]).max()
    # The ring follows, and the table.
    qtbot.waitUntil(lambda: not explorer._rest.isActive())
    np.testing.assert_allclose(rings(plot)[0], places[explorer.session.view.concept])
    assert explorer.table.selected_concepts() == [explorer.session.view.concept]
    # A frame shows that it hears keys.
    corners = {}
    for widget in (explorer.compare.first, plot):
        look_at(qtbot, explorer, widget)
        corners[widget] = plot.grab().toImage().pixelColor(0, plot.height() // 2).name()
    assert corners[plot] == plot.colours["text"].lower()
    assert corners[explorer.compare.first] != corners[plot]


def test_points_that_are_not_drawn_are_passed_over():
    places = np.array([[2.0, 1.0], [np.nan, 5.0], [1.0, 1.0], [1.0, 1.0], [3.0, np.inf]])
    right, left, up = Qt.Key.Key_Right, Qt.Key.Key_Left, Qt.Key.Key_Up
    assert point_by_key(places, None, right) == 2
    assert [point_by_key(places, 2, right), point_by_key(places, 3, right)] == [3, 0]
    assert point_by_key(places, 0, right) is None
    assert point_by_key(places, 1, left) == 0
    assert point_by_key(places, 3, up) == 0
    assert point_by_key(places, 0, Qt.Key.Key_A) is None
    assert point_by_key(np.full((3, 2), np.nan), 0, right) is None


def pick(qtbot: Any, button: Any, number: int) -> None:
    """Open a menu with the space bar and pick an entry with the arrow keys."""
    menu = button.menu()
    button.setFocus()
    qtbot.keyClick(button, Qt.Key.Key_Space)
    assert menu.isVisible()
    for _ in range(number + 1):
        qtbot.keyClick(menu, Qt.Key.Key_Down)
    qtbot.keyClick(menu, Qt.Key.Key_Return)
    assert not menu.isVisible()


def test_cells_are_selected_by_condition_image_or_concept_without_a_lasso(
    viewer, explorer, activations, qtbot
):
    open_plot(explorer, explorer.map, qtbot)
    button = explorer.map.select_button
    conditions = activations.units["Metadata_condition"]
    names = sorted(conditions.unique())
    entries = [action.text() for action in button.menu().actions() if not action.isSeparator()]
    assert entries == [
        "Crops with the concept on show",
        "Crops of the image in view",
        *(f"Condition {name}" for name in names),
    ]
    active = np.flatnonzero(activations.codes.toarray()[:, explorer.session.view.concept] > 0)
    explorer.session.view.show(all_fields=True)
    viewer.layers.selection.active = explorer.session.run.current.sources[2].layer()
    of_conditions = [np.flatnonzero(conditions == name) for name in names]
    for number, expected in enumerate((active, activations.rows_of_field(2), *of_conditions)):
        pick(qtbot, button, number)
        assert len(expected)
        assert explorer.selection.rows.tolist() == expected.tolist()
        assert f"{len(expected)} crops selected" in explorer.map.message.text()
        outlined = {layer.metadata[TAG]["field"] for layer in selection_outlines(viewer)}
        assert outlined == set(activations.units["field"].to_numpy()[expected].tolist())
    qtbot.keyClick(explorer.map.clear_button, Qt.Key.Key_Space)
    assert not len(explorer.selection.rows)


def test_a_column_is_sorted_by_the_keyboard(explorer, qtbot):
    table = explorer.table
    look_at(qtbot, explorer, table)
    names = shown_names(explorer)
    qtbot.keyClick(explorer.advanced, Qt.Key.Key_Space)
    while table.currentIndex().column() < HEADINGS.index("AUC"):
        qtbot.keyClick(table, Qt.Key.Key_Right)
    assert table.currentIndex().column() == HEADINGS.index("AUC")
    concept = explorer.session.view.concept
    for key, reverse in ((Qt.Key.Key_Down, True), (Qt.Key.Key_Up, False)):
        qtbot.keyClick(table, key, Qt.KeyboardModifier.AltModifier)
        proxy = table.proxy
        column = HEADINGS.index("AUC")
        shown = [proxy.index(row, column).data() for row in range(proxy.rowCount())]
        assert [float(text) for text in shown] == sorted(map(float, shown), reverse=reverse)
        assert shown_names(explorer) != names
        assert explorer.session.view.concept == concept
    assert [action.text() for action in table.actions()] == [
        "Sort by this column, smallest first",
        "Sort by this column, largest first",
        "Table of concepts...",
    ]


def test_a_whole_run_takes_no_mouse(viewer, workflow, qtbot):
    workflow.cells.heading.setFocus()
    window = workflow.window()

    def press(key: Any) -> None:
        qtbot.keyClick(window.focusWidget(), key)

    press(Qt.Key.Key_Space)
    assert workflow.cells.is_expanded
    while window.focusWidget() is not workflow.cells.unit:
        press(TAB)
    press(Qt.Key.Key_Down)
    assert workflow.session.settings.config.units.kind == "crop"
    while window.focusWidget() is not workflow.run_button:
        press(TAB)
    press(Qt.Key.Key_Space)
    assert workflow.jobs.is_running
    qtbot.waitUntil(lambda: workflow.session.run.current is not None)
    while window.focusWidget() is not workflow.explore_button:
        press(TAB)
    press(Qt.Key.Key_Space)
    qtbot.waitUntil(
        lambda: any(name.startswith("Concept explorer") for name in viewer.window.dock_widgets)
    )
