"""The docks that the manifest names, imported while the window goes on being drawn."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from threading import Thread
from typing import Any

from qtpy.QtCore import QEventLoop, Qt, QThread, QTimer
from qtpy.QtWidgets import QApplication

_MODULE_OF = {
    "ConceptExplorer": "napari_microdl.gui.explorer.dock",
    "ConceptWorkflow": "napari_microdl.gui.workflow.dock",
}
# What takes seconds to import, of a core that knows no Qt: with Qt the window would wait for it.
_HEAVY = ("dask.array", "napari_microdl.pipeline.run", "napari_microdl.fields.sources")
# What knows Qt, in pieces between which the window is drawn.
_PIECES = (
    "napari_microdl.gui.session.images",
    "napari_microdl.gui.session.session",
    "napari_microdl.gui.session.files",
    "napari_microdl.gui.overlays.overlays",
    "napari_microdl.gui.dock",
    "napari_microdl.gui.workflow.import_folder",
    "napari_microdl.gui.workflow.steps.fields",
    _MODULE_OF["ConceptWorkflow"],
)
# What a run shows at its end, imported once the first dock is there and drawn.
_LATER = ("matplotlib.backends.backend_qtagg", _MODULE_OF["ConceptExplorer"])
_MILLISECONDS_UNTIL_LATER = 1000
_NO_CLICKS = QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents


def _import_all(names: Iterable[str]) -> None:
    for name in names:
        # What fails here fails again, and is told, where it is needed.
        try:
            import_module(name)
        except Exception:
            return


class _Importing(QThread):
    def run(self) -> None:
        _import_all(_HEAVY)
        _list_models()


def _list_models() -> None:
    """Look for the families of models, which reads a little of every installed package."""
    with suppress(Exception):
        import_module("napari_microdl.models.families").known_models()


def _import_in_background(app: QApplication) -> None:
    """Import what the docks need; the window is drawn meanwhile, clicks wait."""
    loop, thread = QEventLoop(), _Importing()
    thread.finished.connect(loop.quit)
    app.setOverrideCursor(Qt.CursorShape.BusyCursor)
    thread.start()
    loop.exec(_NO_CLICKS)
    thread.wait()
    for name in _PIECES:
        import_module(name)
        app.processEvents(_NO_CLICKS)
    # npe2 reads the manifests of all plugins anew for them.
    import_module("napari_microdl.gui.session.preferences").plugin_preferences()
    app.processEvents(_NO_CLICKS)
    app.restoreOverrideCursor()


def _import_later() -> None:
    Thread(target=_import_all, args=[_LATER], name="microdl-imports").start()


def __getattr__(name: str) -> Any:
    """A dock's class, when napari asks for it."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = QApplication.instance()
    if isinstance(app, QApplication):
        if any(heavy not in sys.modules for heavy in _HEAVY):
            _import_in_background(app)
        if any(later not in sys.modules for later in _LATER):
            QTimer.singleShot(_MILLISECONDS_UNTIL_LATER, _import_later)
    return getattr(import_module(_MODULE_OF[name]), name)
