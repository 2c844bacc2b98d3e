"""The docks that the manifest names, imported while the window goes on being drawn."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from qtpy.QtCore import QEventLoop, Qt, QThread
from qtpy.QtWidgets import QApplication

_MODULE_OF = {
    "ConceptExplorer": "napari_microdl.gui.explorer.dock",
    "ConceptWorkflow": "napari_microdl.gui.workflow.dock",
}
# What takes seconds to import, of a core that knows no Qt.
_HEAVY = ("dask.array", "napari_microdl.concepts.activations", "napari_microdl.report")


class _Importing(QThread):
    def run(self) -> None:
        for name in _HEAVY:
            # What fails here fails again, and is told, where the dock imports it.
            try:
                import_module(name)
            except Exception:
                return


def _import_in_background() -> None:
    """Import what the docks need in a thread; the window is drawn meanwhile, clicks wait."""
    app = QApplication.instance()
    if not isinstance(app, QApplication) or all(name in sys.modules for name in _HEAVY):
        return
    loop, thread = QEventLoop(), _Importing()
    thread.finished.connect(loop.quit)
    app.setOverrideCursor(Qt.CursorShape.BusyCursor)
    thread.start()
    loop.exec(QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents)
    thread.wait()
    app.restoreOverrideCursor()


def __getattr__(name: str) -> Any:
    """A dock's class, when napari asks for it."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _import_in_background()
    return getattr(import_module(_MODULE_OF[name]), name)
