"""The legend on the canvas: what the colours mean and on which field; it stays in screenshots."""

from __future__ import annotations

import weakref
from typing import Any

from napari.layers import Layer
from napari.viewer import Viewer

from napari_microdl.core.text import shortened
from napari_microdl.gui.overlays.overlays import Overlays
from napari_microdl.gui.overlays.view_region import visible_region
from napari_microdl.gui.session.layers import TAG
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.session.viewer_parts import scale_bar_of, text_of

_CORNER = "bottom_left"
_BAR = (12, 90)
_LONGEST = 36


class Legend:
    """A colour bar, what it is of, and a scale bar where the size of a pixel is known."""

    def __init__(self, viewer: Viewer, session: Session, overlays: Overlays) -> None:
        self._viewer = weakref.ref(viewer)
        self._session = session
        self._overlays = overlays
        self._bars: weakref.WeakSet[Layer] = weakref.WeakSet()
        self._text = ""
        self._scaled: str | None = None
        overlays.shown.connect(self.update)

    def update(self) -> None:
        """Follow what is shown."""
        viewer, run = self._viewer(), self._session.run.current
        if viewer is None or run is None:
            return
        layer = self._explained(run) if self._session.view.legend else None
        for other in self._bars:
            if other is not layer:
                _bar_of(other).visible = False
        self._bars.clear()
        if layer is not None and (bar := _bar_of(layer)) is not None:
            if not bar.visible:
                bar.position, bar.size, bar.font_size, bar.visible = _CORNER, _BAR, 8, True
            self._bars.add(layer)
        text = text_of(viewer)
        # What a person wrote there stays.
        if text.text in ("", self._text):
            self._text = "" if layer is None else self._lines(viewer, run, layer)
            if text.text != self._text:
                text.text = self._text
                text.position, text.font_size, text.visible = _CORNER, 9, bool(self._text)
        if self._scaled != run.run_id:
            self._scaled = run.run_id
            self._show_scale(viewer, run)

    def _explained(self, run: Run) -> Any:
        """The layer whose colours are explained: of the field looked at, the activation first."""
        field = self._overlays.field_in_view()
        for kind in ("activation", "heatmap"):
            shown = self._overlays.pictures.shown(run, kind)
            if shown:
                return shown.get(field, next(iter(shown.values())))
        return None

    def _lines(self, viewer: Viewer, run: Run, layer: Layer) -> str:
        tag = layer.metadata[TAG]
        activations = run.result.activations
        concept = self._session.view.concept
        assert concept is not None
        unit = run.result.config.units.kind
        of_colours = {
            "activation": f"activation in every {unit}, 0 is none",
            "heatmap": "heat: one control patch in 100 is above 1",
        }
        # Lines are short, for the colour bar stands beside them.
        lines = [shortened(activations.name_of(concept), _LONGEST), of_colours[tag["kind"]]]
        in_view = [n for n, source in enumerate(run.sources) if visible_region(viewer, source).area]
        if len(in_view) == 1 or not self._session.view.all_fields:
            field = tag["field"] if len(in_view) != 1 else in_view[0]
            lines.append(shortened(run.caption(field), _LONGEST))
        return "\n".join(lines)

    @staticmethod
    def _show_scale(viewer: Viewer, run: Run) -> None:
        sizes = run.pixel_sizes()
        if sizes and None not in sizes:
            scale_bar_of(viewer).visible = True


def _bar_of(layer: Layer) -> Any:
    """Its colour bar; None before napari 0.7, which had none."""
    return getattr(layer, "colorbar", None)
