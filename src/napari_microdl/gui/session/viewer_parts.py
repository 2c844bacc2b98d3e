"""Parts of the viewer that napari 0.9 moved to other places."""

from __future__ import annotations

from typing import Any

from napari.viewer import Viewer


def camera_of(viewer: Viewer) -> Any:
    """Where a person looks at."""
    return getattr(viewer, "scene", viewer).camera


def grid_of(viewer: Viewer) -> Any:
    """Grid mode."""
    return getattr(viewer, "canvas", viewer).grid


def canvas_size(viewer: Viewer) -> tuple[int, int]:
    """In pixels of the screen."""
    size = viewer.canvas.size if hasattr(viewer, "canvas") else viewer._canvas_size
    return int(size[0]), int(size[1])


def text_of(viewer: Viewer) -> Any:
    """The text that is written on the canvas."""
    return viewer.canvas.overlays.text if hasattr(viewer, "canvas") else viewer.text_overlay


def scale_bar_of(viewer: Viewer) -> Any:
    """The scale bar on the canvas."""
    return viewer.canvas.overlays.scale_bar if hasattr(viewer, "canvas") else viewer.scale_bar
