"""Outlines of the selected units on the images."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import CyclicLabelColormap
from napari.viewer import Viewer

from napari_microdl.gui.session.layers import (
    TAG,
    add_unselected,
    is_output,
    output_data,
    output_geometry,
    tag_output,
)

if TYPE_CHECKING:
    from napari_microdl.gui.overlays.overlays import Overlays
    from napari_microdl.gui.session.session import Session

KIND = "selection"
# Bright on grey images and on both colour maps, for every kind of colour vision.
YELLOW = (0.94, 0.89, 0.26, 1.0)
_CLEAR = (0.0, 0.0, 0.0, 0.0)
# napari compiles code for a map from labels to colours when one is first drawn, for seconds; not
# for one that repeats its colours.
_COLOURS = CyclicLabelColormap(colors=[_CLEAR, YELLOW], name="selected")
_LINE = 2


class SelectionOutlines:
    """Keeps one Labels layer a shown field that outlines the selected units."""

    def __init__(self, viewer: Viewer, session: Session, overlays: Overlays) -> None:
        self._viewer = weakref.ref(viewer)
        self._session = session
        self._selection = session.selection
        self._overlays = overlays
        self._busy = False
        session.selection.changed.connect(self.update)
        overlays.fields_changed.connect(self.update)
        viewer.layers.events.removed.connect(self._on_removed)

    def layers(self) -> dict[int, Labels]:
        """The layers that outline units, by the number of their field."""
        viewer = self._viewer()
        layers = [] if viewer is None else [x for x in viewer.layers if _is_outline(x)]
        return {layer.metadata[TAG]["field"]: layer for layer in layers}

    def _on_removed(self, event: Any) -> None:
        """Outlines that the user deletes are gone, and with them the selection."""
        if not self._busy and _is_outline(event.value):
            self._selection.clear()

    def update(self) -> None:
        """Bring the outlines in line with the selection."""
        viewer, run = self._viewer(), self._session.run.current
        if viewer is None or self._busy:
            return
        of_field: dict[int, Any] = {}
        if run is not None and len(self._selection.rows):
            activations = run.result.activations
            for field in self._overlays.shown_fields():
                chosen = np.isin(activations.rows_of_field(field), self._selection.rows)
                if chosen.any():
                    of_field[field] = chosen.astype(np.float32)
        run_id = None if run is None else run.run_id
        self._busy = True
        try:
            layers = self.layers()
            for field, layer in layers.items():
                if field not in of_field or layer.metadata[TAG]["run_id"] != run_id:
                    viewer.layers.remove(layer)
            for field, chosen in of_field.items():
                assert run is not None
                data = (self._overlays.painter(field).paint(chosen) > 0).astype(np.uint8)
                layer = layers.get(field)
                if layer is not None and layer in viewer.layers:
                    layer.data = output_data(data, run.sources[field])
                else:
                    self._add(viewer, run, field, data)
        finally:
            self._busy = False

    @staticmethod
    def _add(viewer: Viewer, run: Any, field: int, data: Any) -> None:
        source = run.sources[field]
        layer = Labels(
            output_data(data, source),
            name=f"selected {run.result.config.units.kind}s, {source.name}",
            colormap=_COLOURS,
            opacity=1,
            **output_geometry(source),
        )
        tag_output(layer, run_id=run.run_id, kind=KIND, field=field)
        layer.contour = _LINE
        add_unselected(viewer, layer)


def _is_outline(layer: Any) -> bool:
    return is_output(layer) and layer.metadata[TAG]["kind"] == KIND
