"""Docks in letters of other sizes, on a small laptop screen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tifffile
from napari.settings import get_settings
from qtpy.QtCore import Qt
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import QAbstractButton, QLabel, QTableView, QWidget

from .steps import click, look_in, open_tab, write

WIDTH, HEIGHT = 1366, 768


@pytest.fixture
def sized(request) -> Any:
    appearance = get_settings().appearance
    before = appearance.font_size
    yield lambda size: setattr(appearance, "font_size", size)
    appearance.font_size = before


def cut_off(inside: QWidget) -> list[str]:
    """Buttons and words that have less room than their text needs."""
    found = []
    for widget in inside.findChildren(QWidget):
        if not widget.isVisible() or not isinstance(widget, QAbstractButton | QLabel):
            continue
        if isinstance(widget, QLabel) and widget.wordWrap():
            needed = widget.heightForWidth(widget.width())
            if widget.height() < needed:
                found.append(f"{widget.text()[:40]}: {widget.height()} of {needed} px high")
            continue
        needed = widget.sizeHint()
        if widget.text() and (widget.width() < needed.width() or widget.height() < needed.height()):
            found.append(f"{widget.text()}: {widget.width()} of {needed.width()} px wide")
    return found


def nothing_cut_off(qtbot: Any, inside: QWidget) -> None:
    """Layouts follow the letters in several passes of Qt's event loop."""
    qtbot.wait(50)
    try:
        qtbot.waitUntil(lambda: cut_off(inside) == [])
    except qtbot.TimeoutError:
        assert cut_off(inside) == []


def test_docks_ask_for_little_room(workflow, explorer):
    for step in workflow.steps.values():
        step.set_expanded(True)
    for dock in (workflow, explorer):
        # Four pictures of cells side by side.
        assert dock.minimumSizeHint().width() <= 430
        assert dock.minimumSizeHint().height() <= 500


@pytest.mark.parametrize("size", [9, 16, 20])
def test_nothing_in_the_workflow_is_cut_off(viewer, workflow, qtbot, sized, size):
    viewer.window.resize(WIDTH, HEIGHT)
    sized(size)
    for number, step in enumerate(workflow.steps.values()):
        step.set_expanded(True)
        step.set_state("out of date" if number else "")
    window = workflow.window()
    assert (window.width(), window.height()) == (WIDTH, HEIGHT)
    assert workflow.font().pointSize() == size
    bold = QFontMetrics(workflow.tokens.heading.font())
    assert bold.height() >= QFontMetrics(workflow.font()).height()
    # Nothing is beyond the right edge; what is below is scrolled to.
    nothing_cut_off(qtbot, workflow)
    assert workflow.scroll.widget().width() <= workflow.scroll.viewport().width()
    for table in workflow.findChildren(QTableView):
        if table.isVisible():
            row = table.verticalHeader().defaultSectionSize()
            assert row >= QFontMetrics(table.font()).height()
            assert table.height() <= 350
    buttons = (workflow.run_button, workflow.cancel_button, workflow.settings_button)
    for button in buttons:
        corner = button.mapTo(window, button.rect().bottomRight())
        assert corner.x() < WIDTH
        assert corner.y() < HEIGHT


@pytest.mark.parametrize("size", [9, 16, 20])
def test_nothing_in_the_explorer_is_cut_off(viewer, explorer, qtbot, sized, size):
    viewer.window.resize(WIDTH, HEIGHT)
    sized(size)
    for number in range(explorer.tabs.count()):
        explorer.tabs.setCurrentIndex(number)
        nothing_cut_off(qtbot, explorer)
    window = explorer.window()
    assert (window.width(), window.height()) == (WIDTH, HEIGHT)
    corner = explorer.save_button.mapTo(window, explorer.save_button.rect().bottomRight())
    assert corner.x() < WIDTH
    assert corner.y() < HEIGHT
    explorer.map.jobs.stop()


def test_a_folder_is_imported_in_large_letters(viewer, bare_workflow, qtbot, sized, tmp_path):
    viewer.window.resize(WIDTH, HEIGHT)
    sized(16)
    for place in ("DMSO/Plate_A01_s1", "a treatment of a long name/Plate_A02_s1"):
        (tmp_path / place).parent.mkdir()
        for plane in (1, 2, 3):
            tifffile.imwrite(tmp_path / f"{place}_z{plane}_w1.tif", np.eye(64, dtype=np.uint16))
        tifffile.imwrite(tmp_path / f"{place}_w1_thumb.tif", np.eye(9, dtype=np.uint16))
    dialog = look_in(qtbot, bare_workflow, tmp_path)
    click(qtbot, dialog.details)
    dialog.way.setFocus()
    with qtbot.waitSignal(dialog.looking.succeeded):
        qtbot.keyClick(dialog.way, Qt.Key.Key_End)
    assert dialog.pattern.isVisible()
    with qtbot.waitSignal(dialog.looking.succeeded):
        write(qtbot, dialog.pattern, "{condition}/{plate}_{well}_{site}_{z}_{channel}")
    assert dialog.plane.isVisible()
    nothing_cut_off(qtbot, dialog)
    assert dialog.width() <= WIDTH
    assert dialog.height() <= HEIGHT
    header = dialog.table.horizontalHeader()
    row = dialog.table.verticalHeader().defaultSectionSize()
    assert row >= QFontMetrics(dialog.table.font()).height()
    # At least both fields are in view beside all that may stand around them.
    assert dialog.table.viewport().height() >= 2 * row
    for column in range(header.count()):
        if not header.isSectionHidden(column):
            assert header.sectionSize(column) >= header.sectionSizeHint(column)
    with qtbot.waitSignal(dialog.message):
        click(qtbot, dialog.open)
    assert [row.condition for row in bare_workflow.session.images.rows] == [
        "DMSO", "a treatment of a long name",
    ]  # fmt: skip
    nothing_cut_off(qtbot, bare_workflow)


def test_two_rows_of_pictures_are_in_view_in_large_letters(viewer, explorer, qtbot, sized):
    viewer.window.resize(WIDTH, HEIGHT)
    sized(16)
    qtbot.wait(50)
    open_tab(explorer, explorer.gallery, qtbot)
    pictures = explorer.gallery.list
    qtbot.waitUntil(lambda: pictures.count() >= 8)

    def in_view() -> int:
        seen = pictures.viewport().rect()
        boxes = [pictures.visualItemRect(pictures.item(i)) for i in range(pictures.count())]
        return sum(seen.contains(box) for box in boxes)

    qtbot.waitUntil(lambda: in_view() >= 8, timeout=5_000)
    # Where even the table has no room left the card folds; who unfolds it keeps it.
    sized(20)
    qtbot.wait(50)
    open_tab(explorer, explorer.plots, qtbot)
    qtbot.waitUntil(lambda: not explorer.session.view.card_open, timeout=5_000)
    click(qtbot, explorer.card.fold)
    open_tab(explorer, explorer.gallery, qtbot)
    qtbot.wait(50)
    assert explorer.session.view.card_open
