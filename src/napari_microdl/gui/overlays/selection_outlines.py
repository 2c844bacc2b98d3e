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
    move_to,
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
_LINE = 2


class SelectionOutlines:
    """Keeps one Labels layer a shown field that outlines the selected units."""

    def __init__(self, viewer: Viewer, session: Session, overlays: Overlays) -> None:
        self._viewer = weakref.ref(viewer)
        self._session = session
        self._selection = session.selection
        self._overlays = overlays
        self._put_away: weakref.WeakSet[Labels] = weakref.WeakSet()
        self._busy = False
        session.selection.changed.connect(self.update)
        overlays.fields_changed.connect(self.update)
        viewer.layers.events.removed.connect(self._on_removed)

    def layers(self) -> dict[int, Labels]:
        """The layers that outline units, by the number of their field."""
        viewer = self._viewer()
        found = [] if viewer is None else [x for x in viewer.layers if _is_outline(x)]
        return {x.metadata[TAG]["field"]: x for x in found if x not in self._put_away}

    def _on_removed(self, event: Any) -> None:
        """Outlines that the user deletes are gone, and with them the selection."""
        if not self._busy and _is_outline(event.value) and event.value not in self._put_away:
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
        self._busy = True
        try:
            layers = self.layers()
            # Put away, for to remove a layer and make another takes napari half a second.
            spare = [layers.pop(field) for field in list(layers) if field not in of_field]
            spare += [x for x in viewer.layers if _is_outline(x) and x in self._put_away]
            for field, chosen in of_field.items():
                assert run is not None
                plane = (self._overlays.painter(field).paint(chosen) > 0).astype(np.uint8)
                data = output_data(plane, run.sources[field])
                if field in layers:
                    layers[field].data = data
                elif spare and spare[0].ndim == data.ndim:
                    layer = spare.pop(0)
                    layer.data = data
                    move_to(layer, output_geometry(run.sources[field]))
                    self._describe(layer, run, field)
                    if layer in self._put_away:
                        self._put_away.discard(layer)
                        layer.visible = True
                else:
                    self._add(viewer, run, field, data)
            for layer in spare:
                self._put_away.add(layer)
                layer.visible = False
        finally:
            self._busy = False

    @staticmethod
    def _add(viewer: Viewer, run: Any, field: int, data: Any) -> None:
        source = run.sources[field]
        layer = Labels(
            data,
            # For a map from labels to colours napari compiles code when it is first drawn, which
            # takes seconds; not for one that repeats its colours.
            colormap=CyclicLabelColormap(colors=[_CLEAR, YELLOW]),
            opacity=1,
            **output_geometry(source),
        )
        SelectionOutlines._describe(layer, run, field)
        layer.contour = _LINE
        add_unselected(viewer, layer)

    @staticmethod
    def _describe(layer: Labels, run: Any, field: int) -> None:
        layer.name = f"selected {run.result.config.units.kind}s, {run.sources[field].name}"
        tag_output(layer, run_id=run.run_id, kind=KIND, field=field)


def _is_outline(layer: Any) -> bool:
    return is_output(layer) and layer.metadata[TAG]["kind"] == KIND
