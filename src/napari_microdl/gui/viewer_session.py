"""The one session of a viewer, and the overlays that follow it."""

from __future__ import annotations

import weakref

from napari.viewer import Viewer

from napari_microdl.gui.overlays import Overlays
from napari_microdl.gui.session import Session

_SESSIONS: weakref.WeakKeyDictionary[Viewer, tuple[Session, Overlays]] = weakref.WeakKeyDictionary()


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
    if viewer not in _SESSIONS:
        session = Session()
        _SESSIONS[viewer] = session, Overlays(viewer, session)
    return _SESSIONS[viewer][0]
