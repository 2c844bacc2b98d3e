"""The docks that the manifest names, imported while the window goes on being drawn."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from threading import Thread
from typing import Any

from qtpy.QtCore import QEventLoop, Qt, QThread
from qtpy.QtWidgets import QApplication

_MODULE_OF = {
    "ConceptExplorer": "napari_microdl.gui.explorer.dock",
    "ConceptWorkflow": "napari_microdl.gui.workflow.dock",
}
# What a run shows at its end: imported once the first dock is there.
_LATER = ("matplotlib.backends.backend_qtagg", _MODULE_OF["ConceptExplorer"])


def _import_all(names: Iterable[str]) -> None:
    for name in names:
        # What fails here fails again, and is told, where it is needed.
        try:
            import_module(name)
        except Exception:
            return


class _Importing(QThread):
    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def run(self) -> None:
        _import_all([self._name])


def _import_in_background(name: str) -> None:
    """Import a dock in a thread, for seconds; the window is drawn meanwhile, clicks wait."""
    app = QApplication.instance()
    if not isinstance(app, QApplication) or name in sys.modules:
        return
    loop, thread = QEventLoop(), _Importing(name)
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
    _import_in_background(_MODULE_OF[name])
    dock = getattr(import_module(_MODULE_OF[name]), name)
    if any(later not in sys.modules for later in _LATER):
        Thread(target=_import_all, args=[_LATER], name="microdl-imports").start()
    return dock
