"""Pictures that lie over fields: made once, hidden where they are not wanted, and used again."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from napari.layers import Image, Layer
from napari.utils.colormaps import Colormap
from napari.viewer import Viewer
from numpy.typing import NDArray

from napari_microdl.gui.session.layers import (
    TAG,
    add_unselected,
    is_output,
    move_to,
    output_data,
    output_geometry,
    tag_output,
)
from napari_microdl.gui.session.run import Run


class Pictures:
    """The layers over the fields of a run, at most one a field and kind.

    A layer that is not wanted any more is put away, hidden, and serves again for its field or for
    another one: napari takes half a second for each layer that is removed and made anew.

    Parameters
    ----------
    viewer : Viewer
        Held weakly.
    looked_at : bound method
        Told of a layer that was put away and that a person makes visible by its eye.
    """

    def __init__(self, viewer: Viewer, looked_at: Callable[[Layer], None]) -> None:
        self._viewer = weakref.ref(viewer)
        self._looked_at: Any = weakref.WeakMethod(looked_at)
        self._put_away: weakref.WeakSet[Layer] = weakref.WeakSet()
        self._hidden: weakref.WeakSet[Layer] = weakref.WeakSet()
        self._changing = False

    @contextmanager
    def changing(self) -> Iterator[None]:
        """What happens to layers in here is our own doing, and no person's."""
        before, self._changing = self._changing, True
        try:
            yield
        finally:
            self._changing = before

    @property
    def is_changing(self) -> bool:
        """Whether it is our own doing."""
        return self._changing

    def of_run(self, run: Run) -> list[Layer]:
        """All layers over fields of a run, those that were put away too."""
        viewer = self._viewer()
        layers = [] if viewer is None else [x for x in viewer.layers if is_output(x)]
        return [x for x in layers if x.metadata[TAG].get("run_id") == run.run_id]

    def shown(self, run: Run, kind: str) -> dict[int, Any]:
        """Layers of a kind that are wanted, by the number of their field."""
        return {
            x.metadata[TAG]["field"]: x
            for x in self.of_run(run)
            if x.metadata[TAG]["kind"] == kind and x not in self._put_away
        }

    def is_put_away(self, layer: Layer) -> bool:
        """Whether nobody wants it now."""
        return layer in self._put_away

    def find(self, run: Run, kind: str, field: int) -> Any:
        """The layer of a kind over a field; None where there is none yet."""
        for layer in self.of_run(run):
            tag = layer.metadata[TAG]
            if (tag["kind"], tag["field"]) == (kind, field):
                return layer
        return None

    def add(self, layer: Layer) -> None:
        """Take a new layer in, and leave the user's selected."""
        viewer = self._viewer()
        assert viewer is not None
        layer.events.visible.connect(self._on_visible)
        add_unselected(viewer, layer)

    @staticmethod
    def tag(layer: Layer, run: Run, field: int, kind: str, **facts: Any) -> None:
        """Mark a layer as ours, over a field of a run."""
        source = run.sources[field]
        tag_output(
            layer,
            run_id=run.run_id,
            source=source.name,
            place=source.key,
            config_hash=run.result.config.hash,
            kind=kind,
            field=field,
            **facts,
        )

    def put(
        self,
        run: Run,
        field: int,
        kind: str,
        plane: NDArray[Any],
        *,
        name: str,
        limits: tuple[float, float],
        colormap: Colormap,
        opacity: float = 1.0,
        smooth: bool = False,
        corner: tuple[float, float] = (0, 0),
        step: float = 1,
        wanted: Collection[int] = (),
        **facts: Any,
    ) -> None:
        """Lay a picture over a field: its own layer, or one of a field that is not wanted, or new.

        The corner and the step are those of `output_geometry`, facts go into the tag.
        """
        source = run.sources[field]
        data = output_data(plane, source)
        geometry = output_geometry(source, corner, step)
        layer = self.find(run, kind, field) or self._spare(run, kind, data.ndim, wanted)
        if layer is None:
            layer = Image(
                data,
                contrast_limits=limits,
                colormap=colormap,
                blending="translucent",
                opacity=opacity,
                name=name,
                # The value of a cell ends at its edge, those of patches run into each other.
                interpolation2d="linear" if smooth else "nearest",
                **geometry,
            )
            layer.contrast_limits_range = limits
            self.tag(layer, run, field, kind, **facts)
            self.add(layer)
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
        self.tag(layer, run, field, kind, **facts)

    def _spare(self, run: Run, kind: str, ndim: int, wanted: Collection[int]) -> Any:
        """A picture of this kind that is on no field that is wanted; None where there is none."""
        for layer in self.of_run(run):
            tag = layer.metadata[TAG]
            fits = isinstance(layer, Image) and tag["kind"] == kind and layer.ndim == ndim
            if fits and tag["field"] not in wanted:
                return layer
        return None

    def show_only(
        self,
        run: Run,
        wanted: Callable[[str, int], bool],
        kinds: Collection[str],
        seconds: float = math.inf,
    ) -> bool:
        """Hide what is not wanted any more, and show again what was hidden for that.

        At least one layer is switched, and more as far as the time allows; whether all are.
        """
        end = time.monotonic() + seconds
        switched = False
        for layer in self.of_run(run):
            tag = layer.metadata[TAG]
            show = wanted(tag["kind"], tag["field"])
            if tag["kind"] not in kinds or show != (layer in self._put_away):
                continue
            if switched and time.monotonic() > end:
                return False
            if show:
                self._put_away.discard(layer)
            else:
                self._put_away.add(layer)
            layer.visible = show
            switched = True
        return True

    def take_over(self, run: Run) -> None:
        """Give the pictures of the run before to this one, where they lie on the same images."""
        viewer = self._viewer()
        places = {source.key: number for number, source in enumerate(run.sources)}
        for layer in [] if viewer is None else viewer.layers:
            tag = layer.metadata[TAG] if is_output(layer) else {}
            if isinstance(layer, Image) and tag.get("place") in places:
                tag["run_id"], tag["field"] = run.run_id, places[tag["place"]]

    def remove(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        """Remove layers by their tag."""
        viewer = self._viewer()
        with self.changing():
            for layer in [] if viewer is None else [x for x in viewer.layers if is_output(x)]:
                if viewer is not None and condition(layer.metadata[TAG]):
                    viewer.layers.remove(layer)

    def hide(self, run: Run) -> None:
        """Hide everything for a moment, to look at the image itself."""
        with self.changing():
            for layer in self.of_run(run):
                if layer.visible:
                    self._hidden.add(layer)
                    layer.visible = False

    def show_again(self) -> None:
        """Show what was hidden for a moment."""
        with self.changing():
            for layer in list(self._hidden):
                layer.visible = True
            self._hidden.clear()

    def _on_visible(self, event: Any) -> None:
        layer, looked_at = event.source, self._looked_at()
        if not self._changing and layer in self._put_away and looked_at is not None:
            looked_at(layer)
