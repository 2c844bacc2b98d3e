"""One napari window for the tests of a module, as new before each of them.

To open and close a window takes longer than most of the tests that look at it.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any
from unittest.mock import patch

from napari import Viewer
from napari._qt.dialogs.qt_notification import NapariQtNotification
from napari._qt.qt_viewer import QtViewer
from napari.settings import get_settings
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QEvent, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QMainWindow

from napari_microdl.gui.dock import _VIEWERS


def handle_events() -> None:
    """Do what waits to be done, and delete what waits to be deleted."""
    QApplication.processEvents()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QApplication.processEvents()


def close_dialogs() -> None:
    """Close whatever stands in front of the windows."""
    while (popup := QApplication.activePopupWidget()) is not None:
        popup.close()
    for widget in QApplication.topLevelWidgets():
        if widget.isVisible() and not isinstance(widget, QMainWindow):
            widget.close()


def open_window() -> Viewer:
    """Open a window without napari's welcome and wait until it is on the screen."""
    viewer = Viewer(show=True, show_welcome_screen=False)
    assert QTest.qWaitForWindowExposed(viewer.window._qt_window)
    return viewer


def is_open(viewer: Viewer) -> bool:
    """Whether a test has left a window open."""
    return hasattr(viewer.window, "_qt_window")


def close_window(viewer: Viewer) -> None:
    """Close a window; its size is not kept for the next one."""
    if is_open(viewer):
        with patch.object(viewer.window._qt_window, "_save_current_window_settings"):
            viewer.close()
    else:
        viewer.close()


class Windows:
    """The windows of a module: one that goes from test to test, and further ones for a test."""

    def __init__(self) -> None:
        self._shared: Viewer | None = None
        self._in_use: list[Viewer] = []
        self._ended: list[weakref.ref[Any]] = []

    def open(self) -> Viewer:
        """The window as new, or another one where a test has it already."""
        self._nothing_left()
        viewer = self._shared
        if viewer is None or self._in_use:
            viewer = open_window()
        if self._shared is None:
            self._shared = viewer
            window = viewer.window._qt_window
            self._layout, self._size = window.saveState(), window.size()
            self._axis_labels = viewer.dims.axis_labels
        self._in_use.append(viewer)
        return viewer

    def end_test(self, *, keep: bool) -> None:
        """Take the windows back from a test.

        Parameters
        ----------
        keep : bool
            Whether the next test may have the window.
        """
        close_dialogs()
        get_settings().reset()
        # When one of two windows is closed, vispy draws the other with what it has deleted.
        if keep and len(self._in_use) == 1 and is_open(self._in_use[0]):
            self._clear(self._in_use[0])
        elif self._in_use:
            for viewer in self._in_use:
                close_window(viewer)
            self._shared = None
        self._in_use.clear()
        handle_events()

    def close(self) -> None:
        """Close the window; nothing of it may be left."""
        if self._shared is not None:
            close_window(self._shared)
            self._shared = None
            handle_events()

    def _nothing_left(self) -> None:
        """Check that the sessions of earlier tests are gone, as is what pytest held of them."""
        if any(ended() is not None for ended in self._ended):
            gc.collect()
        assert all(ended() is None for ended in self._ended)
        self._ended.clear()

    def _clear(self, viewer: Viewer) -> None:
        window = viewer.window._qt_window
        for dock in list(viewer.window._wrapped_dock_widgets.values()):
            inside = dock.widget()
            viewer.window.remove_dock_widget(dock)
            inside.deleteLater()
        # Its session goes, and whatever follows it.
        ours = _VIEWERS.pop(viewer, None)
        if ours is not None:
            self._ended.append(weakref.ref(ours.session))
        for notice in window.findChildren(NapariQtNotification):
            notice.close()
        notification_manager.records.clear()
        # A canvas that is drawn while its layers go can take the process with it.
        canvas = viewer.window._qt_viewer.canvas.native
        canvas.setUpdatesEnabled(False)
        viewer.layers.clear()
        handle_events()
        canvas.setUpdatesEnabled(True)
        viewer.dims.ndisplay = 2
        viewer.dims.axis_labels = self._axis_labels
        viewer.canvas.grid.enabled = False
        viewer.theme = get_settings().appearance.theme
        viewer.title, viewer.status, viewer.help = "napari", "Ready", ""
        viewer.reset_view()
        if window.windowState() != Qt.WindowState.WindowNoState:
            window.showNormal()
        window.restoreState(self._layout)
        window.resize(self._size)
        handle_events()
        window.activateWindow()
        viewer.window._qt_viewer.setFocus()


def no_window_left() -> None:
    """Check that every window is gone that was closed."""
    gc.collect()
    left = len(QtViewer._instances)
    QtViewer._instances.clear()
    assert left == 0
