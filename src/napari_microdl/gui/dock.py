"""What both docks share: the session of their viewer, and connections that end with the dock."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from napari.settings import get_settings
from napari.utils.theme import get_theme
from napari.viewer import Viewer
from npe2 import PluginManager
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

from napari_microdl.gui.overlays.arranging import Arranger
from napari_microdl.gui.overlays.contrast import OneContrast
from napari_microdl.gui.overlays.copied_features import CopiedFeatures
from napari_microdl.gui.overlays.legend import Legend
from napari_microdl.gui.overlays.overlays import Overlays
from napari_microdl.gui.session.preferences import PLUGIN, read_preferences
from napari_microdl.gui.session.running import Running
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.session.token_store import token_store
from napari_microdl.gui.widgets.inputs import take_font_size
from napari_microdl.gui.widgets.turns import do_in_turn

# As the manifest calls them.
WORKFLOW, EXPLORER = "Concept workflow", "Concept explorer"

# Pixels; narrower, tables show nothing.
LEAST_WIDTH = 380


class _OfViewer:
    """What belongs to one viewer, whether docks are open or not."""

    def __init__(self, viewer: Viewer) -> None:
        self.session = Session()
        # From now on, Preferences have its size and can clear it.
        token_store()
        chosen = read_preferences()
        self.session.settings.configure(device=chosen.device, unit=chosen.default_unit)
        self.running = Running(self.session)
        self.overlays = Overlays(viewer, self.session)
        self.features = CopiedFeatures(viewer)
        self.arranger = Arranger(viewer, self.session, self.overlays)
        self.legend = Legend(viewer, self.session, self.overlays)
        self.contrast = OneContrast(viewer, self.session)
        self.docks: weakref.WeakSet[Dock] = weakref.WeakSet()
        # One that is not in the window yet.
        self.prepared: weakref.ref[Dock] | None = None


_VIEWERS: weakref.WeakKeyDictionary[Viewer, _OfViewer] = weakref.WeakKeyDictionary()


def _of(viewer: Viewer) -> _OfViewer:
    if viewer not in _VIEWERS:
        _VIEWERS[viewer] = _OfViewer(viewer)
    return _VIEWERS[viewer]


def session_of(viewer: Viewer) -> Session:
    """The one session of a viewer (itself, no proxy); it goes when the viewer goes."""
    return _of(viewer).session


def running_of(viewer: Viewer) -> Running:
    """The run in progress of a viewer, as `session_of`."""
    return _of(viewer).running


def overlays_of(viewer: Viewer) -> Overlays:
    """The overlays of a viewer, as `session_of`."""
    return _of(viewer).overlays


def arranger_of(viewer: Viewer) -> Arranger:
    """What puts the fields of a viewer side by side, as `session_of`."""
    return _of(viewer).arranger


def contrast_of(viewer: Viewer) -> OneContrast:
    """What shows all fields of a viewer in one contrast, as `session_of`."""
    return _of(viewer).contrast


def features_of(viewer: Viewer) -> CopiedFeatures:
    """What copies activations beside the labels of a viewer, as `session_of`."""
    return _of(viewer).features


def open_dock(viewer: Viewer, name: str) -> Dock:
    """Open a dock by its name in the manifest, or bring it to the front where it is open.

    napari titles a dock after the plugin's name where it is opened from the Plugins menu, and after
    its package where a program opens it, so that two of a kind could stand side by side.
    """
    viewer = getattr(viewer, "__wrapped__", viewer)
    found = prepared_dock(viewer, name)
    if not found.is_docked:
        manifest = PluginManager.instance().get_manifest(PLUGIN)
        viewer.window.add_dock_widget(found, name=f"{name} ({manifest.display_name})")
        _of(viewer).prepared = None
    found.parent().show()
    do_in_turn(found.bring_to_front, first=True)
    return found


def prepared_dock(viewer: Viewer, name: str) -> Dock:
    """A dock that is open, or made so that `open_dock` has less to do in a later turn."""
    ours = _of(viewer)
    prepared = None if ours.prepared is None else ours.prepared()
    known = (d for d in ours.docks if d.name == name)
    found = next((d for d in known if d.is_docked or d is prepared), None)
    if found is None:
        widgets = PluginManager.instance().get_manifest(PLUGIN).contributions.widgets or []
        (command,) = (w.command for w in widgets if w.display_name == name)
        made: Dock = PluginManager.instance().commands.get(command)(viewer)
        ours.prepared = weakref.ref(made)
        found = made
    return found


class Connections:
    """Signal connections that are undone together.

    Slots are held weakly, so that a forgotten dock can still be collected.
    """

    def __init__(self) -> None:
        self._made: list[tuple[Any, weakref.WeakMethod]] = []

    def __bool__(self) -> bool:
        return bool(self._made)

    def connect(self, signal: Any, slot: Callable[..., Any]) -> None:
        """Connect a psygnal or napari signal to a bound method."""
        signal.connect(slot)
        self._made.append((signal, weakref.WeakMethod(slot)))

    def close(self) -> None:
        """Undo all connections; a second call does nothing."""
        for signal, reference in self._made:
            slot = reference()
            if slot is not None:
                with suppress(ValueError, RuntimeError):
                    signal.disconnect(slot)
        self._made.clear()


class Dock(QWidget):
    """A dock that listens to the viewer and the session for as long as it is docked."""

    # As the manifest has it.
    name = ""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        # napari hands plugins a proxy; identity of layers needs the viewer itself.
        self.viewer: Viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self.session: Session = session_of(self.viewer)
        self.connections = Connections()
        _of(self.viewer).docks.add(self)
        # The window may be destroyed with the dock inside, which gives no other warning.
        # A bound method of a plain object, which Qt holds weakly: a partial would be called after
        # the garbage collector has emptied it, which ends the process.
        self.destroyed.connect(self.connections.close)

    def event(self, event: QEvent | None) -> bool:
        """Follow docking and undocking; napari takes a closed dock's widget out of its parent."""
        if event is not None and event.type() == QEvent.Type.ParentChange:
            if self.parent() is None:
                self.suspend()
            else:
                self.resume()
        return super().event(event)

    @property
    def is_docked(self) -> bool:
        """Whether it is in a window; one that was closed, or destroyed with its window, is not."""
        return bool(self.connections) and isinstance(self.parent(), QDockWidget)

    def resume(self) -> None:
        """Connect to what the dock shows and bring it up to date; may be called again."""
        if not self.connections:
            self.connections.connect(get_settings().appearance.events.font_size, self._on_font)
            self.connect_signals()
            self._on_font()
            do_in_turn(self._join, first=True)

    def _join(self) -> None:
        """Lie as a tab over the other docks of this plugin, in front; who likes may drag it off."""
        mine, window = self.parent(), self.window()
        if not isinstance(mine, QDockWidget) or not isinstance(window, QMainWindow):
            return
        running_of(self.viewer).window = window
        for other in window.findChildren(Dock):
            beside = other.parent()
            if other is self or not isinstance(beside, QDockWidget):
                continue
            areas = {window.dockWidgetArea(mine), window.dockWidgetArea(beside)}
            if len(areas) == 1 and not (mine.isFloating() or beside.isFloating()):
                window.tabifyDockWidget(beside, mine)
        # Qt raises a tab for good only after it has laid the docks out.
        self.bring_to_front()
        do_in_turn(self.bring_to_front, first=True)

    def bring_to_front(self) -> None:
        """Show its tab."""
        if isinstance(dock := self.parent(), QDockWidget):
            dock.raise_()

    def _on_font(self) -> None:
        """Take the size of letters from the Preferences; napari gives it to some widgets only."""
        take_font_size(self)
        self.refresh()
        # What it shows is laid out anew before it is asked what it needs.
        do_in_turn(self._fit_width)

    def _fit_width(self) -> None:
        self.setMinimumWidth(max(LEAST_WIDTH, self.minimumSizeHint().width()))

    def suspend(self) -> None:
        """Stop listening, because the dock was closed."""
        self.connections.close()

    def connect_signals(self) -> None:
        """Connect to the viewer and the session, through `connections`."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Show the present state of the session."""
        raise NotImplementedError

    def theme_colours(self) -> dict[str, str]:
        """Background and text of the viewer's theme as ``#rrggbb``."""
        theme = get_theme(self.viewer.theme)
        names = ("background", "text")
        return {name: getattr(theme, name).as_hex(format="long") for name in names}
