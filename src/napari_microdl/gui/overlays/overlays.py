"""Overlays: the heatmap of a concept and its activation in every unit, painted over the images."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import Colormap
from napari.viewer import Viewer
from numpy.typing import NDArray
from psygnal import Signal

from napari_microdl.concepts.concept_set import Concept, ConceptSet
from napari_microdl.concepts.heat import SHOWN_TO
from napari_microdl.concepts.painting import BoxPainter, LabelPainter, coarsest_step, grid_to_pixels
from napari_microdl.gui.overlays.arranging import CAPTIONS, side_by_side
from napari_microdl.gui.overlays.view_region import is_at_current_step
from napari_microdl.gui.session.layers import (
    TAG,
    is_output,
    move_to,
    output_data,
    output_geometry,
    tag_output,
)
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.session.session import OverlayKind, Session

if TYPE_CHECKING:
    from napari_microdl.tokens.units import Units

_KINDS = get_args(OverlayKind)


def diverging(shown_from: float) -> Colormap:
    """Colours of a heatmap from `-SHOWN_TO` to `SHOWN_TO`; nearer to zero the image itself is seen.

    Blue and orange are told apart by every common kind of colour vision.
    """
    half = min(shown_from / SHOWN_TO, 0.99) / 2
    edges = (0.0, 0.5 - half - 1e-6, 0.5 - half, 0.5 + half, 0.5 + half + 1e-6, 1.0)
    name = f"microdl blue-orange from {shown_from:g}"
    return Colormap(
        [
            [0.10, 0.45, 0.85, 1.0],
            [0.45, 0.70, 0.95, 0.45],
            [1.0, 1.0, 1.0, 0.0],
            [1.0, 1.0, 1.0, 0.0],
            [0.98, 0.70, 0.30, 0.45],
            [0.90, 0.40, 0.00, 1.0],
        ],
        controls=edges,
        name=name,
        display_name=name,
    )


# The brighter half of magma; a cell without the concept keeps a trace of colour, so that it can be
# told from background.
SEQUENTIAL = Colormap(
    [
        [0.32, 0.07, 0.48, 0.15],
        [0.51, 0.15, 0.51, 0.55],
        [0.83, 0.25, 0.42, 0.8],
        [0.98, 0.53, 0.38, 0.95],
        [0.99, 0.99, 0.75, 1.0],
    ],
    name="microdl magma",
    display_name="microdl magma",
)


class Overlays:
    """Keeps the overlays of a viewer, held weakly, in step with its session.

    A layer that is not wanted any more is put away, hidden, and serves again for its field or for
    another one: napari takes half a second for each layer that is removed and made anew.

    Signals
    -------
    fields_changed
        Other images carry overlays now.
    """

    fields_changed = Signal()

    def __init__(self, viewer: Viewer, session: Session) -> None:
        self._viewer = weakref.ref(viewer)
        self._session = session
        self._painters: dict[int, LabelPainter | BoxPainter | None] = {}
        self._put_away: weakref.WeakSet[Layer] = weakref.WeakSet()
        self._busy = False
        session.run.changed.connect(self._on_run)
        session.view.concept_changed.connect(self.update)
        session.view.changed.connect(self.update)
        session.run.names_changed.connect(self.update)
        viewer.layers.selection.events.active.connect(self._on_active)
        viewer.dims.events.current_step.connect(self._on_active)
        viewer.layers.events.removed.connect(self._on_removed)

    def field_of(self, layer: Layer | None) -> int | None:
        """Number of the field that a layer shows: a source image, or an overlay of it."""
        viewer, run = self._viewer(), self._session.run.current
        if viewer is None or run is None or layer is None:
            return None
        if is_output(layer):
            tag = layer.metadata[TAG]
            return self._at_slider(tag["field"]) if tag.get("run_id") == run.run_id else None
        first = next((n for n, s in enumerate(run.sources) if s.layer() is layer), None)
        return None if first is None else self._at_slider(first)

    def _at_slider(self, field: int) -> int:
        """The field of the same image that the sliders show; the given one where they show none."""
        viewer, run = self._viewer(), self._session.run.current
        assert viewer is not None
        assert run is not None
        layer = run.sources[field].layer()
        if layer is None or not run.sources[field].index:
            return field
        here = (
            number
            for number, source in enumerate(run.sources)
            if source.layer() is layer and is_at_current_step(source, viewer)
        )
        return next(here, field)

    def shown_fields(self) -> list[int]:
        """Numbers of the fields that carry overlays now."""
        viewer, run = self._viewer(), self._session.run.current
        if viewer is None or run is None:
            return []
        alive = [i for i, source in enumerate(run.sources) if self._is_open(source.layer())]
        if self._session.view.all_fields:
            return alive
        field = self.field_of(viewer.layers.selection.active)
        if field is None or field not in alive:
            field = next((self._at_slider(f) for f in self._painters if f in alive), None)
        if field is None:
            field = alive[0] if alive else None
        return [] if field is None else [field]

    def field_in_view(self) -> int:
        """Number of the field that is looked at: of the active layer, else the first shown."""
        viewer = self._viewer()
        field = None if viewer is None else self.field_of(viewer.layers.selection.active)
        return next(iter(self.shown_fields()), 0) if field is None else field

    def _is_open(self, layer: Layer | None) -> bool:
        viewer = self._viewer()
        return layer is not None and viewer is not None and layer in viewer.layers

    def _on_run(self) -> None:
        viewer = self._viewer()
        run = self._session.run.current
        self._painters.clear()
        if viewer is not None and run is not None and run.is_first:
            self._session.view.all_fields = side_by_side([s.layer() for s in run.sources])
        if viewer is not None and run is not None:
            self._take_over(viewer, run)
        self._remove(
            lambda tag: tag["kind"] != CAPTIONS and (run is None or tag.get("run_id") != run.run_id)
        )
        self.update()

    @staticmethod
    def _take_over(viewer: Viewer, run: Run) -> None:
        """Give the pictures of the run before to this one, where they lie on the same images."""
        places = {source.key: number for number, source in enumerate(run.sources)}
        for layer in viewer.layers:
            tag = layer.metadata[TAG] if is_output(layer) else {}
            if isinstance(layer, Image) and tag.get("place") in places:
                tag["run_id"], tag["field"] = run.run_id, places[tag["place"]]

    def _on_active(self) -> None:
        if not self._busy and not self._session.view.all_fields:
            wanted = self.shown_fields()
            if wanted and wanted != list(self._painters):
                self.update()

    def _on_removed(self, event: Any) -> None:
        """An overlay that the user deletes is switched off; those of a closed image go with it."""
        layer = event.value
        run = self._session.run.current
        if self._busy or run is None or layer in self._put_away:
            return
        if not is_output(layer):
            if any(source.layer() is layer for source in run.sources):
                self.update()
            return
        tag = layer.metadata[TAG]
        if tag.get("run_id") == run.run_id and tag["kind"] in self._session.view.kinds:
            kind = tag["kind"]
            self._session.view.show(kinds=self._session.view.kinds - {kind})

    def _remove(self, condition: Any) -> None:
        viewer = self._viewer()
        if viewer is None:
            return
        busy, self._busy = self._busy, True
        try:
            for layer in [item for item in viewer.layers if is_output(item)]:
                if condition(layer.metadata[TAG]):
                    viewer.layers.remove(layer)
        finally:
            self._busy = busy

    def update(self) -> None:
        """Bring the overlay layers in line with the session: add, repaint in place, remove."""
        viewer, run, concept = self._viewer(), self._session.run.current, self._session.view.concept
        if viewer is None or run is None or concept is None or self._busy:
            return
        fields = self.shown_fields()
        kinds = self._session.view.kinds
        self._busy = True
        selection = set(viewer.layers.selection)
        active = viewer.layers.selection.active
        try:
            self._remove(
                lambda tag: (
                    tag.get("run_id") == run.run_id
                    and tag["kind"] in _KINDS
                    and not self._is_open(run.sources[tag["field"]].layer())
                )
            )
            before = list(self._painters)
            self._painters = {f: self._painters.get(f) for f in fields}
            if "cells" in kinds:
                self._show_cells(viewer, run, concept, fields)
            if "activation" in kinds:
                self._show_activation(viewer, run, concept, fields)
            if "heatmap" in kinds:
                self._show_heatmap(viewer, run, concept, fields)
            self._switch(viewer, run, fields)
            if selection:
                # New layers select themselves, but the user was looking at another.
                still = selection & set(viewer.layers)
                viewer.layers.selection = still
                if active in still:
                    viewer.layers.selection.active = active
                    viewer.layers.selection = still
        finally:
            self._busy = False
        if fields != before:
            self.fields_changed.emit()

    def _switch(self, viewer: Viewer, run: Run, fields: list[int]) -> None:
        """Hide what is not wanted any more, and show again what was hidden for that."""
        for layer in viewer.layers:
            tag = layer.metadata[TAG] if is_output(layer) else {}
            if tag.get("run_id") != run.run_id or tag["kind"] not in _KINDS:
                continue
            wanted = tag["kind"] in self._session.view.kinds and tag["field"] in fields
            if wanted and layer in self._put_away:
                self._put_away.discard(layer)
                layer.visible = True
            elif not wanted and layer not in self._put_away:
                self._put_away.add(layer)
                layer.visible = False

    def _on_visible(self, event: Any) -> None:
        """An overlay that was put away and is looked at by its eye is wanted again."""
        viewer, run, layer = self._viewer(), self._session.run.current, event.source
        if self._busy or viewer is None or run is None or layer not in self._put_away:
            return
        tag = layer.metadata[TAG]
        if tag["field"] not in self.shown_fields():
            viewer.layers.selection.active = run.sources[tag["field"]].layer()
        if tag["kind"] not in self._session.view.kinds:
            self._session.view.show(kinds=self._session.view.kinds | {tag["kind"]})

    def painter(self, field: int) -> LabelPainter | BoxPainter:
        """What paints the units of a field; kept for as long as the field is shown."""
        found = self._painters.get(field)
        if found is None:
            run = self._session.run.current
            assert run is not None
            units: Units = run.result.activations.geometry[field]
            labels = run.result.labels[field]
            if run.result.config.units.kind == "cell" and labels is not None:
                found = LabelPainter(labels, units.ids)
            else:
                shape = run.result.activations.grids[field].image_shape
                found = BoxPainter(units.boxes, shape)
            self._painters[field] = found
        return found

    def _show_heatmap(self, viewer: Viewer, run: Run, concept: Concept, fields: list[int]) -> None:
        activations = run.result.activations
        colours, limits = diverging(self._session.view.heat_from), (-SHOWN_TO, SHOWN_TO)
        for field in fields:
            heatmap = activations.heat.compared(field, concept)
            grid = activations.grids[field]
            # No finer than its patches need, since the graphics card interpolates: a picture of
            # every pixel takes ten times as long to be drawn, and gigabytes of a large image.
            step = coarsest_step(grid.patch_size, grid.image_shape)
            plane = grid_to_pixels(heatmap, grid.patch_size, grid.image_shape, step)
            self._put_image(viewer, run, concept, field, "heatmap", plane, limits, colours, step)

    def _show_activation(
        self, viewer: Viewer, run: Run, concept: Concept, fields: list[int]
    ) -> None:
        activations = run.result.activations
        # One range for all fields, so that colours compare between controls and treated.
        limit = float(activations.activation(concept).max(initial=0.0)) or 1.0
        for field in fields:
            _, values = activations.unit_values(field, concept)
            plane = self.painter(field).paint(values)
            self._put_image(
                viewer, run, concept, field, "activation", plane, (0.0, limit), SEQUENTIAL
            )

    def _show_cells(self, viewer: Viewer, run: Run, concept: Concept, fields: list[int]) -> None:
        """Cells of the built-in segmentation as a Labels layer whose features can be hovered."""
        activations = run.result.activations
        for field in fields:
            labels = run.result.labels[field]
            source = run.sources[field]
            if labels is None or source.has_own_labels:
                continue
            ids, values = activations.unit_values(field, concept)
            rows = np.flatnonzero(activations.units["field"].to_numpy() == field)
            features = pd.DataFrame(
                {
                    "index": ids,
                    "concept": activations.name_of(concept),
                    "activation": values,
                    "alignment": activations.alignment(concept)[rows],
                }
            )
            layer = self._find(viewer, run, field, "cells")
            if layer is None:
                layer = Labels(
                    output_data(labels, source),
                    name=f"cells, {source.name}",
                    **output_geometry(source),
                )
                layer.contour = 1
                layer.events.visible.connect(self._on_visible)
                self._tag(layer, run, field, "cells", concept)
                viewer.add_layer(layer)
            else:
                # What the explorer copied there stays when another concept is shown.
                known = layer.features
                for column in known.columns.difference(features.columns, sort=False):
                    features[column] = known[column].to_numpy()
            layer.features = features
            self._tag(layer, run, field, "cells", concept)

    def _put_image(
        self,
        viewer: Viewer,
        run: Run,
        concept: Concept,
        field: int,
        kind: OverlayKind,
        plane: NDArray[np.float32],
        limits: tuple[float, float],
        colormap: Any,
        step: int | None = None,
    ) -> None:
        source = run.sources[field]
        data = output_data(plane, source)
        name = f"{kind} of {run.result.activations.name_of(concept)}, {source.name}"
        geometry = output_geometry(source, step=step or 1)
        layer = self._find(viewer, run, field, kind) or self._spare(viewer, kind, data.ndim)
        if layer is None:
            layer = Image(
                data,
                contrast_limits=limits,
                colormap=colormap,
                blending="translucent",
                opacity=0.8,
                name=name,
                # The value of a cell ends at its edge, those of patches run into each other.
                interpolation2d="nearest" if step is None else "linear",
                **geometry,
            )
            layer.contrast_limits_range = limits
            layer.events.visible.connect(self._on_visible)
            self._tag(layer, run, field, kind, concept)
            viewer.add_layer(layer)
            return
        # Each of these draws the thumbnail anew, so what stays is not set again.
        layer.data = data
        move_to(layer, geometry)
        if tuple(layer.contrast_limits) != limits:
            layer.contrast_limits_range = limits
            layer.contrast_limits = limits
        if layer.colormap.name != colormap.name:
            layer.colormap = colormap
        layer.name = name
        self._tag(layer, run, field, kind, concept)

    def _spare(self, viewer: Viewer, kind: OverlayKind, ndim: int) -> Any:
        """A picture of this kind that is on no field in view; None where there is none."""
        for layer in viewer.layers:
            if is_output(layer) and layer.ndim == ndim:
                tag = layer.metadata[TAG]
                if tag["kind"] == kind and tag["field"] not in self._painters:
                    return layer
        return None

    @staticmethod
    def _find(viewer: Viewer, run: Run, field: int, kind: OverlayKind) -> Any:
        for layer in viewer.layers:
            if is_output(layer):
                tag = layer.metadata[TAG]
                if (tag.get("run_id"), tag["kind"], tag.get("field")) == (run.run_id, kind, field):
                    return layer
        return None

    @staticmethod
    def _tag(layer: Layer, run: Run, field: int, kind: OverlayKind, concept: Concept) -> None:
        tag_output(
            layer,
            run_id=run.run_id,
            source=run.sources[field].name,
            place=run.sources[field].key,
            config_hash=run.result.config.hash,
            kind=kind,
            field=field,
            concept=list(concept.concepts) if isinstance(concept, ConceptSet) else concept,
        )
