"""Clicks that need more than a place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qtpy.QtCore import QPoint, Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QMenu


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
