"""Clicks that need more than a place."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest


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
