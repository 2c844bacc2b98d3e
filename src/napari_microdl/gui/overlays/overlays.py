"""Overlays: a concept's heatmap, its activation in every unit, and what is selected."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from napari.layers import Labels, Layer
from napari.utils.colormaps import Colormap
from napari.viewer import Viewer
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_microdl.concepts.concept_set import Concept, ConceptSet
from napari_microdl.concepts.heat import SHOWN_TO
from napari_microdl.concepts.painting import (
    BoxPainter,
    LabelPainter,
    coarsest_step,
    grid_to_pixels,
    rims,
)
from napari_microdl.gui.overlays.arranging import CAPTIONS, side_by_side
from napari_microdl.gui.overlays.cell_layers import remove_cells
from napari_microdl.gui.overlays.pictures import Pictures
from napari_microdl.gui.overlays.view_region import (
    ScreenGrid,
    is_at_current_step,
    screen_grid,
    visible_region,
)
from napari_microdl.gui.session.layers import (
    TAG,
    is_output,
    output_data,
    output_geometry,
)
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.session.session import OverlayKind, Session
from napari_microdl.gui.session.viewer_parts import camera_of
from napari_microdl.gui.widgets.turns import call_off, do_in_turn, is_waiting

if TYPE_CHECKING:
    from napari_microdl.tokens.units import Units

_KINDS = get_args(OverlayKind)
_FROM_BELOW: tuple[OverlayKind, ...] = ("cells", "activation", "heatmap")
SELECTION = "selection"
# Of the screen.
_PIXELS_OF_RIM = 2
_PIXELS_OF_SELECTION = 3
_KEY_TO_PEEK = "H"
# Seconds for which layers that are there are drawn anew before waiting events are handled.
_AT_ONCE = 0.05
# Panning and zooming change many times.
_MILLISECONDS_OF_REST = 40


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


# What is selected: a line that is bright on every image and on both colour maps, for every kind of
# colour vision, beside one that sets it off from a bright image.
CYAN, DARK = (0.0, 0.85, 0.95, 1.0), (0.0, 0.0, 0.0, 1.0)
_SELECTED = Colormap(
    [DARK, CYAN], name="microdl selection", display_name="microdl selection", interpolation="zero"
)


class Overlays:
    """Keeps the overlays of a viewer, held weakly, in step with its session.

    Signals
    -------
    fields_changed
        Other images carry overlays now.
    shown
        Overlays were brought in line with the session.
    """

    fields_changed = Signal()
    shown = Signal()

    def __init__(self, viewer: Viewer, session: Session) -> None:
        self._viewer = weakref.ref(viewer)
        self._session = session
        self._painters: dict[int, LabelPainter | BoxPainter | None] = {}
        # Where and how finely lines were drawn, by field.
        self._grids: dict[int, ScreenGrid] = {}
        # What activation was drawn on.
        self._drawn: dict[int, ScreenGrid | None] = {}
        self.pictures = Pictures(viewer, self._on_looked_at)
        # Kinds and fields whose layers are still to be added or drawn anew, each in a turn of the
        # event loop of its own, so that the window answers in between.
        self._missing: deque[tuple[OverlayKind, int]] = deque()
        self._rest = QTimer(singleShot=True, interval=_MILLISECONDS_OF_REST)
        self._rest.timeout.connect(self._draw_lines)
        session.run.changed.connect(self._on_run)
        session.view.concept_changed.connect(self.update)
        session.view.changed.connect(self.update)
        session.run.names_changed.connect(self._on_names)
        session.selection.changed.connect(self._on_selection)
        viewer.layers.selection.events.active.connect(self._on_active)
        viewer.dims.events.current_step.connect(self._on_active)
        viewer.layers.events.removed.connect(self._on_removed)
        camera_of(viewer).events.connect(self._on_camera)
        _bind_peek(viewer, weakref.ref(self))

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
        self._grids.clear()
        self._drawn.clear()
        if viewer is not None:
            remove_cells(viewer)
        if viewer is not None and run is not None and run.is_first:
            self._session.view.all_fields = side_by_side([s.layer() for s in run.sources])
        if run is not None:
            self.pictures.take_over(run)
        self.pictures.remove(
            lambda tag: tag["kind"] != CAPTIONS and (run is None or tag.get("run_id") != run.run_id)
        )
        self.update()

    def _on_active(self) -> None:
        if not self.pictures.is_changing and not self._session.view.all_fields:
            wanted = self.shown_fields()
            if wanted and wanted != list(self._painters):
                self.update()

    def _on_removed(self, event: Any) -> None:
        """An overlay that the user deletes is switched off; those of a closed image go with it."""
        layer = event.value
        run = self._session.run.current
        if self.pictures.is_changing or run is None or self.pictures.is_put_away(layer):
            return
        if not is_output(layer):
            if any(source.layer() is layer for source in run.sources):
                self.update()
            return
        tag = layer.metadata[TAG]
        if tag.get("run_id") != run.run_id:
            return
        if tag["kind"] == SELECTION:
            self._session.selection.clear()
        elif (kind := tag["kind"]) in self._session.view.kinds:
            self._session.view.show(kinds=self._session.view.kinds - {kind})

    def update(self) -> None:
        """Bring the overlay layers in line with the session: add, repaint in place, put away."""
        viewer, run, concept = self._viewer(), self._session.run.current, self._session.view.concept
        if viewer is None or run is None or concept is None or self.pictures.is_changing:
            return
        fields = self.shown_fields()
        kinds = self._session.view.kinds
        with self.pictures.changing():
            self.pictures.remove(
                lambda tag: (
                    tag.get("run_id") == run.run_id
                    and not self._is_open(run.sources[tag["field"]].layer())
                )
            )
            before = list(self._painters)
            self._painters = {f: self._painters.get(f) for f in fields}
            self._grids = {f: grid for f, grid in self._grids.items() if f in fields}
            wanted = [(kind, f) for kind in _FROM_BELOW if kind in kinds for f in fields]
            in_view = {f for f in fields if visible_region(viewer, run.sources[f]).area}
            now = [p for p in wanted if p[1] in in_view and self.pictures.find(run, *p) is not None]
            # What is looked at follows at once, as far as nobody waits for it.
            end = time.monotonic() + _AT_ONCE
            drawn = []
            for kind, field in now:
                if time.monotonic() < end:
                    self._put(run, concept, kind, field)
                    drawn.append((kind, field))
        missing = [pair for pair in wanted if pair not in drawn]
        missing.sort(key=lambda pair: (pair[1] not in in_view, pair not in now))
        self._missing = deque(missing)
        all_switched = self._show_only(run)
        if fields != before:
            self.fields_changed.emit()
        if self._missing or not all_switched:
            if drawn:
                # The legend tells of what has changed already.
                self.shown.emit()
            do_in_turn(self._put_more)
        else:
            self._finish()

    def _finish(self) -> None:
        self._show_selection()
        self.shown.emit()

    def _on_selection(self) -> None:
        # Who selects a cell has mostly gone there, too, which is enough for one turn.
        do_in_turn(self._put_more)

    def complete(self) -> None:
        """Do at once what is still to be done."""
        while self._missing or is_waiting(self._put_more):
            call_off(self._put_more)
            self._put_more()

    def _put_more(self) -> None:
        """Add or draw one layer, which may take napari most of a tenth of a second.

        Once there is none left, outline what is selected, and say that all are there.
        """
        run, concept = self._session.run.current, self._session.view.concept
        if not self._missing:
            if run is None or self._show_only(run):
                self._finish()
            else:
                do_in_turn(self._put_more)
            return
        if run is None or concept is None or self.pictures.is_changing:
            self._missing.clear()
        else:
            kind, field = self._missing.popleft()
            if self._is_open(run.sources[field].layer()):
                with self.pictures.changing():
                    self._put(run, concept, kind, field)
        if run is not None:
            self._show_only(run)
        do_in_turn(self._put_more)

    def _show_only(self, run: Run) -> bool:
        """Switch layers on and off, as far as nobody waits for it; whether all are switched."""
        kinds, fields = self._session.view.kinds, self._painters
        with self.pictures.changing():
            return self.pictures.show_only(
                run, lambda kind, f: kind in kinds and f in fields, _KINDS, _AT_ONCE
            )

    def _put(self, run: Run, concept: Concept, kind: OverlayKind, field: int) -> None:
        put = {
            "cells": self._put_cells,
            "activation": self._put_activation,
            "heatmap": self._put_heatmap,
        }
        put[kind](run, concept, field)

    def _on_names(self) -> None:
        """Give the layers the new name of the concept; nothing else of them changes."""
        run, concept = self._session.run.current, self._session.view.concept
        if run is None or concept is None:
            return
        for kind in _KINDS:
            for field, layer in self.pictures.shown(run, kind).items():
                if kind == "cells":
                    layer.features = layer.features.assign(
                        concept=run.result.activations.name_of(concept)
                    )
                else:
                    layer.name = _name(kind, run, concept, field)
        self.shown.emit()

    def set_opacity(self, opacity: float) -> None:
        """Make heat and activation more or less transparent, from 0 to 1."""
        self._session.view.opacity = opacity
        if (run := self._session.run.current) is not None:
            for layer in self.pictures.of_run(run):
                if layer.metadata[TAG]["kind"] in ("heatmap", "activation"):
                    layer.opacity = opacity

    def peek(self, below: bool) -> None:
        """Hide everything for as long as a person looks at the image below, or show it again."""
        run = self._session.run.current
        if below and run is not None:
            self.pictures.hide(run)
        else:
            self.pictures.show_again()

    def _on_looked_at(self, layer: Layer) -> None:
        """An overlay that was put away and is looked at by its eye is wanted again."""
        viewer, run = self._viewer(), self._session.run.current
        if viewer is None or run is None:
            return
        tag = layer.metadata[TAG]
        if tag["kind"] not in _KINDS:
            return
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

    def _put_heatmap(self, run: Run, concept: Concept, field: int) -> None:
        activations = run.result.activations
        heatmap = activations.heat.compared(field, concept)
        grid = activations.grids[field]
        # No finer than its patches need, since the graphics card interpolates: a picture of every
        # pixel takes ten times as long to be drawn, and gigabytes of a large image.
        step = coarsest_step(grid.patch_size, grid.image_shape)
        self.pictures.put(
            run,
            field,
            "heatmap",
            grid_to_pixels(heatmap, grid.patch_size, grid.image_shape, step),
            name=_name("heatmap", run, concept, field),
            limits=(-SHOWN_TO, SHOWN_TO),
            colormap=diverging(self._session.view.heat_from),
            opacity=self._session.view.opacity,
            smooth=True,
            step=step,
            wanted=list(self._painters),
            concept=_in_tag(concept),
        )

    def _put_activation(self, run: Run, concept: Concept, field: int) -> None:
        activations = run.result.activations
        # One range for all fields, so that colours compare between controls and treated.
        limit = float(activations.activation(concept).max(initial=0.0)) or 1.0
        _, values = activations.unit_values(field, concept)
        grid = self._drawn[field] = self._grid(field) if self.draws_outlines else None
        painter = self.painter(field)
        if grid is None:
            plane = painter.paint(values)
        else:
            plane = painter.outline(values, _PIXELS_OF_RIM, grid.places)
        self.pictures.put(
            run,
            field,
            "activation",
            plane,
            name=_name("activation", run, concept, field),
            limits=(0.0, limit),
            colormap=SEQUENTIAL,
            opacity=self._session.view.opacity,
            corner=(0, 0) if grid is None else (grid.top, grid.left),
            step=1 if grid is None else grid.step,
            wanted=list(self._painters),
            concept=_in_tag(concept),
        )

    @property
    def draws_outlines(self) -> bool:
        """Whether activation is drawn on the rims of cells, and not over all of them."""
        run = self._session.run.current
        of_cells = run is not None and run.result.config.units.kind == "cell"
        return of_cells and self._session.view.outlined

    def _show_selection(self) -> None:
        """Outline the selected units."""
        viewer, run, rows = self._viewer(), self._session.run.current, self._session.selection.rows
        if viewer is None or run is None or self.pictures.is_changing:
            return
        of_field = {}
        for field in self.shown_fields() if len(rows) else []:
            chosen = np.isin(run.result.activations.rows_of_field(field), rows)
            if chosen.any():
                of_field[field] = chosen
        with self.pictures.changing():
            for field, chosen in of_field.items():
                grid = self._grid(field)
                units = self.painter(field).regions(chosen, grid.places)
                plane = np.full(units.shape, np.nan, np.float32)
                plane[rims(units, 1) & (units < 0)] = 0
                plane[rims(units, _PIXELS_OF_SELECTION) & (units >= 0)] = 1
                self.pictures.put(
                    run,
                    field,
                    SELECTION,
                    plane,
                    name=f"selected {run.result.config.units.kind}s, {run.sources[field].name}",
                    limits=(0.0, 1.0),
                    colormap=_SELECTED,
                    corner=(grid.top, grid.left),
                    step=grid.step,
                    wanted=list(of_field),
                )
            self.pictures.show_only(run, lambda _, field: field in of_field, [SELECTION])
            _raise(viewer, list(self.pictures.shown(run, SELECTION).values()))

    def _on_camera(self) -> None:
        if self._session.run.current is not None:
            self._rest.start()

    def _draw_lines(self) -> None:
        """Draw lines anew where the view has moved, as thick on the screen as they were."""
        run, concept = self._session.run.current, self._session.view.concept
        if run is None or concept is None or self.pictures.is_changing:
            return
        # The selection may have been drawn for the new view already.
        moved = [f for f in self.shown_fields() if self._grid(f) is not self._drawn.get(f)]
        # What is in view is known at once, however long drawing takes.
        self.shown.emit()
        if not moved:
            return
        if "activation" in self._session.view.kinds and self.draws_outlines:
            again: list[tuple[OverlayKind, int]] = [("activation", f) for f in moved]
            self._missing.extend(pair for pair in again if pair not in self._missing)
        do_in_turn(self._put_more)

    def _grid(self, field: int) -> ScreenGrid:
        """The pixels of the screen on a field."""
        viewer, run = self._viewer(), self._session.run.current
        assert viewer is not None
        assert run is not None
        grid = screen_grid(viewer, run.sources[field], self._grids.get(field))
        if grid is not self._grids.get(field):
            self._grids[field] = grid
        return grid

    def _put_cells(self, run: Run, concept: Concept, field: int) -> None:
        """Cells of the built-in segmentation as a Labels layer whose features can be hovered."""
        activations = run.result.activations
        labels, source = run.result.labels[field], run.sources[field]
        if labels is None or source.has_own_labels:
            return
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
        layer = self.pictures.find(run, "cells", field)
        is_new = layer is None
        if is_new:
            layer = Labels(
                output_data(labels, source),
                name=f"cells, {source.name}",
                **output_geometry(source),
            )
            layer.contour = 1
        else:
            features = _with_columns_of(layer.features, features)
        layer.features = features
        self.pictures.tag(layer, run, field, "cells", concept=_in_tag(concept))
        if is_new:
            self.pictures.add(layer)


def _with_columns_of(known: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Features with what the explorer or another plugin wrote beside them, cell by cell."""
    more = known.columns.difference(features.columns, sort=False)
    if "index" in known:
        by_cell = known.drop_duplicates("index").set_index("index")[more]
        return features.join(by_cell, on="index")
    # Without it, rows are told apart by their order alone.
    return features.assign(**known[more]) if len(known) == len(features) else features


def _name(kind: OverlayKind, run: Run, concept: Concept, field: int) -> str:
    return f"{kind} of {run.result.activations.name_of(concept)}, {run.sources[field].name}"


def _in_tag(concept: Concept) -> int | list[int]:
    return list(concept.concepts) if isinstance(concept, ConceptSet) else concept


def _bind_peek(viewer: Viewer, overlays: weakref.ref[Overlays]) -> None:
    """Hide overlays for as long as a key is held down over the images."""

    def peek(_: Viewer) -> Iterator[None]:
        if (found := overlays()) is not None:
            found.peek(True)
            yield
            found.peek(False)

    # A person may have given the key to something else.
    ours = [
        f for f in viewer.keymap.values() if getattr(f, "__qualname__", "") == peek.__qualname__
    ]
    with suppress(ValueError):
        viewer.bind_key(_KEY_TO_PEEK, peek, overwrite=bool(ours))


def _raise(viewer: Viewer, layers: list[Layer]) -> None:
    """Move layers above all others, where they are not there already."""
    if layers and set(viewer.layers[-len(layers) :]) != set(layers):
        viewer.layers.move_multiple([viewer.layers.index(x) for x in layers], -1)
