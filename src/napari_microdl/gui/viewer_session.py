"""The one session of a viewer, and the overlays that follow it."""

from __future__ import annotations

import weakref

from napari.viewer import Viewer

from napari_microdl.gui.overlays.copied_features import CopiedFeatures
from napari_microdl.gui.overlays.overlays import Overlays
from napari_microdl.gui.overlays.selection_outlines import Marks
from napari_microdl.gui.session.selection import Selection
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.session.settings import read_settings
from napari_microdl.gui.session.token_store import token_store


class _Parts:
    """What belongs to one viewer, whether docks are open or not."""

    def __init__(self, viewer: Viewer) -> None:
        self.session = Session()
        # From now on, Preferences have its size and can clear it.
        token_store()
        chosen = read_settings()
        self.session.configure(device=chosen.device, unit=chosen.default_unit)
        self.overlays = Overlays(viewer, self.session)
        self.selection = Selection(self.session)
        self.features = CopiedFeatures(viewer)
        self.marks = Marks(viewer, self.session, self.selection, self.overlays)


_PARTS: weakref.WeakKeyDictionary[Viewer, _Parts] = weakref.WeakKeyDictionary()


def _parts_of(viewer: Viewer) -> _Parts:
    if viewer not in _PARTS:
        _PARTS[viewer] = _Parts(viewer)
    return _PARTS[viewer]


def session_of(viewer: Viewer) -> Session:
    """The one session of a viewer; it goes when the viewer goes.

    Parameters
    ----------
    viewer : Viewer
        The viewer itself, no proxy.

    Returns
    -------
    Session
    """
    return _parts_of(viewer).session


def selection_of(viewer: Viewer) -> Selection:
    """The units that are selected in a viewer; goes when the viewer goes.

    Parameters
    ----------
    viewer : Viewer
        The viewer itself, no proxy.

    Returns
    -------
    Selection
    """
    return _parts_of(viewer).selection


def overlays_of(viewer: Viewer) -> Overlays:
    """The overlays of a viewer; they go when the viewer goes.

    Parameters
    ----------
    viewer : Viewer
        The viewer itself, no proxy.

    Returns
    -------
    Overlays
    """
    return _parts_of(viewer).overlays


def features_of(viewer: Viewer) -> CopiedFeatures:
    """What copies activations beside the labels of a viewer; it goes when the viewer goes.

    Parameters
    ----------
    viewer : Viewer
        The viewer itself, no proxy.

    Returns
    -------
    CopiedFeatures
    """
    return _parts_of(viewer).features
