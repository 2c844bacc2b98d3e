"""Entries of napari's Layers menu: open the docks for the selected layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from napari.layers import Image
from napari.viewer import Viewer

from napari_microdl.gui.dock import EXPLORER, WORKFLOW, open_dock, overlays_of, session_of
from napari_microdl.gui.session.layers import is_input
from napari_microdl.gui.session.session import OverlayKind


def learn_from_selected(viewer: Viewer) -> None:
    """Open the workflow with the selected images ticked, all where none is selected."""
    viewer = _itself(viewer)
    open_dock(viewer, WORKFLOW)
    session = session_of(viewer)
    chosen = _selected_images(viewer)
    if chosen:
        for use in (True, False):
            rows = [
                number
                for number, row in enumerate(session.images.rows)
                if (row.layer() in chosen) == use and row.use != use
            ]
            if rows:
                session.images.edit_rows(rows, use=use)


def measure_selected(viewer: Viewer) -> None:
    """Open the workflow with cells as units, for the selected images."""
    learn_from_selected(viewer)
    session_of(_itself(viewer)).settings.configure(unit="cell")


def show_heatmap(viewer: Viewer) -> None:
    """Open the explorer with the concept's heatmap on the selected image."""
    _show(viewer, "heatmap")


def show_activation(viewer: Viewer) -> None:
    """Open the explorer with the concept's activations on the selected image."""
    _show(viewer, "activation")


def _show(viewer: Viewer, kind: OverlayKind) -> None:
    viewer = _itself(viewer)
    open_dock(viewer, EXPLORER)
    session = session_of(viewer)
    of_run = overlays_of(viewer).field_of(viewer.layers.selection.active) is not None
    session.view.show(kinds={kind}, all_fields=False if of_run else None)


def _selected_images(viewer: Viewer) -> list[Image]:
    selected: Iterable[Any] = viewer.layers.selection
    return [layer for layer in selected if isinstance(layer, Image) and is_input(layer)]


def _itself(viewer: Viewer) -> Viewer:
    # napari hands plugins a proxy; sessions belong to the viewer itself.
    return getattr(viewer, "__wrapped__", viewer)
