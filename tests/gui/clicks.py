"""Clicks that need more than a place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from napari._qt.containers._base_item_model import ItemRole
from qtpy.QtCore import QPoint, Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QLineEdit, QMenu


def click_entry(button: Any, entry: Any) -> None:
    """Open the menu of a button and click one of its entries.

    Parameters
    ----------
    button : QPushButton or QToolButton
        In a window that is shown.
    entry : QAction
        Of the button's menu.
    """
    menu = button.menu()
    # A click on the button would wait here until the menu is closed.
    menu.popup(button.mapToGlobal(QPoint(0, button.height())))
    assert QTest.qWaitForWindowExposed(menu)
    assert entry.isEnabled()
    QTest.mouseClick(
        menu, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier,
        menu.actionGeometry(entry).center(),
    )  # fmt: skip
    assert not menu.isVisible()


def click_save(explorer: Any, entry: str, qtbot: Any) -> None:
    """Click an entry of the menu that saves what the explorer shows, and wait until it is saved."""
    button = explorer.save_button
    click_entry(button, button.entries[entry])
    qtbot.waitUntil(lambda: not button.jobs.is_running)


def click_menus(window: Any, *texts: str) -> None:
    """Click from the menu bar of a window through menus to an entry.

    Parameters
    ----------
    window : QMainWindow
        That is shown.
    *texts : str
        What the menus and the entry say, without the marks of keys.
    """
    menu: Any = window.menuBar()
    for number, text in enumerate(texts):
        entries = {action.text().replace("&", ""): action for action in menu.actions()}
        assert text in entries, list(entries)
        entry = entries[text]
        assert entry.isEnabled()
        place = menu.actionGeometry(entry).center()
        QTest.mouseMove(menu, place)
        QTest.mouseClick(menu, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, place)
        if number + 1 < len(texts):
            # A menu that the pointer has opened by then is closed by the click.
            if not QTest.qWaitForWindowExposed(entry.menu(), 1000):
                QTest.mouseClick(menu, Qt.MouseButton.LeftButton, pos=place)
            menu = entry.menu()
            assert QTest.qWaitForWindowExposed(menu)
    assert not menu.isVisible()


def click_layers(viewer: Any, *layers: Any) -> None:
    """Select layers by clicks in the list of layers, all but the first with Ctrl.

    Parameters
    ----------
    viewer : Viewer
        In a window that is shown.
    *layers : Layer
        Of the viewer.
    """
    view = viewer.window._qt_viewer.layers
    model = view.model()
    rows = {model.data(model.index(row, 0), ItemRole): row for row in range(model.rowCount())}
    for number, layer in enumerate(layers):
        index = model.index(rows[layer], 0)
        view.scrollTo(index)
        held = Qt.KeyboardModifier.ControlModifier if number else Qt.KeyboardModifier.NoModifier
        # Right of the thumbnail and of the eye that hides the layer.
        place = view.visualRect(index).center()
        QTest.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, held, place)
    assert set(viewer.layers.selection) == set(layers)


@contextmanager
def menu_answered(text: str, *, keys: bool = False) -> Iterator[None]:
    """Choose an entry of the menu that opens inside, which waits for it.

    Parameters
    ----------
    text : str
        Of the entry.
    keys : bool, default=False
        With the arrow keys and Enter, and not with a click.
    """
    seen: list[str] = []

    def look() -> None:
        menu = QApplication.activePopupWidget()
        if not isinstance(menu, QMenu):
            return
        timer.stop()
        try:
            seen.extend(action.text() for action in menu.actions())
            entry = menu.actions()[seen.index(text)]
            if keys:
                for _ in range(seen.index(text) + 1):
                    QTest.keyClick(menu, Qt.Key.Key_Down)
                assert menu.activeAction() is entry
                QTest.keyClick(menu, Qt.Key.Key_Return)
            else:
                centre = menu.actionGeometry(entry).center()
                QTest.mouseClick(
                    menu, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, centre
                )
        finally:
            # Otherwise a test that fails would never end.
            menu.close()

    timer = QTimer()
    timer.setInterval(20)
    timer.timeout.connect(look)
    timer.start()
    try:
        yield
        assert text in seen
    finally:
        timer.stop()


def click_choice(box: Any, text: str) -> None:
    """Open a combo box and click one of its choices.

    Parameters
    ----------
    box : QComboBox
        In a window that is shown.
    text : str
        What the choice says.
    """
    assert box.isEnabled()
    assert box.isVisible()
    number = box.findText(text)
    assert number >= 0, [box.itemText(i) for i in range(box.count())]
    view = box.view()
    # Without a window manager, news of the focus may come late, and closes what has popped up.
    for _ in range(3):
        QTest.mouseClick(box, Qt.MouseButton.LeftButton)
        # A release right after the list was opened counts as the end of the click that opened it.
        QTest.qWait(QApplication.doubleClickInterval() + 50)
        if view.isVisible():
            break
    assert view.isVisible()
    index = view.model().index(number, box.modelColumn(), box.rootModelIndex())
    view.scrollTo(index)
    place = view.visualRect(index).center()
    QTest.mouseMove(view.viewport(), place)
    QTest.mouseClick(
        view.viewport(), Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, place
    )
    assert not view.isVisible()


def write_in_table(qtbot: Any, table: Any, row: int, column: int, text: str) -> None:
    """Double-click an entry of a table and write another text.

    Parameters
    ----------
    qtbot : QtBot
        Of the test.
    table : QTableView
        In a window that is shown.
    row, column : int
        Which entry.
    text : str
        What to write.
    """
    table.window().activateWindow()
    place = table.visualRect(table.model().index(row, column)).center()
    # The first click of a double-click selects.
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    qtbot.mouseDClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    write_in_editor(qtbot, table, text)
    # What was written is taken once the key is done with.
    qtbot.waitUntil(lambda: table.state() == table.State.NoState)


def write_in_editor(qtbot: Any, table: Any, text: str) -> None:
    """Write a text in place of the one that is open in a table, and press Enter."""
    (editor,) = [found for found in table.findChildren(QLineEdit) if found.isVisible()]
    assert table.window().focusWidget() is editor
    editor.selectAll()
    if text:
        qtbot.keyClicks(editor, text)
    else:
        qtbot.keyClick(editor, Qt.Key.Key_Delete)
    qtbot.keyClick(editor, Qt.Key.Key_Return)
