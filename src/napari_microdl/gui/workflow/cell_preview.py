"""Preview of the built-in segmentation on the part of an image that is in view."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.viewer import Viewer
from qtpy.QtCore import QObject, QTimer, Signal

from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field
from napari_microdl.gui.overlays.cell_layers import show_part
from napari_microdl.gui.overlays.view_region import Region, is_at_current_step, visible_region
from napari_microdl.gui.session.layers import Source
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.jobs import JobRunner

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_microdl.core.config import SegmentationConfig
    from napari_microdl.fields.segmentation import Levels

_MILLISECONDS_BEFORE_PREVIEW = 300
# Cells so many diameters inside of what is segmented are those of the whole image.
_MARGIN_DIAMETERS = 4
# Of larger images the whole is not looked at, only what is in view.
_MOST_PIXELS = 4096 * 4096


@dataclass(frozen=True, eq=False)
class _Preview:
    """Cells of the part in view; no levels where the whole image is too large to be looked at."""

    source: Source
    region: Region
    whole: bool
    labels: NDArray[np.int32]
    levels: Levels | None


def _segment_part(
    field: Field,
    source: Source,
    region: Region,
    config: SegmentationConfig,
    levels: Levels | None,
) -> _Preview:
    import numpy as np
    from skimage.segmentation import relabel_sequential

    from napari_microdl.fields.segmentation import measure_levels, segment_cells

    names = (config.channel,) if config.channel else None
    channel = field.channel_indices(names)[0]
    if levels is None and field.shape[0] * field.shape[1] <= _MOST_PIXELS:
        image = field.read((channel,))[0]
        levels = measure_levels(image, config)
    outer = region.grown(math.ceil(_MARGIN_DIAMETERS * config.diameter), field.shape)
    part = np.asarray(field.data[channel, outer.top : outer.bottom, outer.left : outer.right])
    labels = segment_cells(part, config, levels)
    labels = labels[region.within(outer)]
    whole = region == Region(0, 0, *field.shape)
    return _Preview(source, region, whole, relabel_sequential(labels)[0].astype(np.int32), levels)


class CellPreview(QObject):
    """Segments what is in view, once or whenever view, selection or settings change.

    Signals
    -------
    message
        A sentence for the status line.
    """

    message = Signal(str)

    def __init__(self, viewer: Viewer, session: Session, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = weakref.ref(viewer)
        self._session = session
        self.jobs = JobRunner(self)
        self.jobs.succeeded.connect(self._show)
        self.jobs.failed.connect(self._on_failed)
        self.live = False
        self.paused = False
        # The whole image as it was last measured, and what that depends on.
        self._levels: tuple[Any, Levels] | None = None
        self._asked: Any = None
        self._last: Any = None
        # Panning and typing change many times.
        self._soon = QTimer(self, singleShot=True, interval=_MILLISECONDS_BEFORE_PREVIEW)
        self._soon.timeout.connect(self._again)

    def set_live(self, live: bool) -> None:
        """Follow view, selection and settings, or no longer."""
        self.live = live
        self._last = None
        if live:
            self.follow()
        else:
            self._soon.stop()

    def follow(self, _event: Any = None) -> None:
        """Something changed: look again after a short pause, if the preview is live."""
        if self.live and not self.paused:
            self._soon.start()

    def pause(self, paused: bool) -> None:
        """Look no more while a run is in progress, which needs the processor."""
        self.paused = paused
        if paused:
            self.stop()

    def stop(self) -> None:
        """Forget what was asked for, because a run begins or the dock was closed."""
        self._soon.stop()
        self.jobs.stop()

    def cancel(self) -> None:
        """Stop looking, because a person said so; where it is live it looks at what is new."""
        self._soon.stop()
        if self.jobs.is_running:
            self.jobs.cancel()
            self.message.emit("Cancelled: there is no new preview.")

    def _again(self) -> None:
        self.look(only_news=True)

    def look(self, only_news: bool = False) -> None:
        """Segment what is in view; `only_news` does nothing where the same was done last."""
        viewer = self._viewer()
        if viewer is None:
            return
        try:
            field, source = self._field_in_view(viewer)
        except MicrodlError as error:
            if not only_news:
                self.message.emit(f"⚠ {error}")
            return
        config = self._session.settings.config.cells
        region = visible_region(viewer, source)
        if not region.area:
            region = Region(0, 0, *field.shape)
        contents = self._session.images.contents(source.layer())
        of_image = (contents, source.index, field.name, config.channel, config.diameter)
        asked = (of_image, config, region)
        if only_news and asked == self._last:
            return
        self._asked, self._last = of_image, asked
        known = self._levels[1] if self._levels and self._levels[0] == of_image else None
        self.jobs.start(partial(_segment_part, field, source, region, config, known))

    def _field_in_view(self, viewer: Viewer) -> tuple[Field, Source]:
        """The field of the selected image, or of the one that fills most of the view."""
        fields, sources, _ = self._session.plan.prepare("cells")
        here = [n for n, source in enumerate(sources) if is_at_current_step(source, viewer)]
        if not here:
            raise MicrodlError("No field is in view; move the sliders to one that is in use.")
        selected = viewer.layers.selection.active
        areas = {n: visible_region(viewer, sources[n]).area for n in here}
        best = max(here, key=lambda n: (sources[n].layer() is selected and areas[n] > 0, areas[n]))
        return fields[best], sources[best]

    def _on_failed(self, sentence: str) -> None:
        self.message.emit(f"⚠ {sentence}")

    def _show(self, preview: _Preview) -> None:
        viewer = self._viewer()
        if viewer is None:
            return
        if preview.levels is not None:
            self._levels = (self._asked, preview.levels)
        if preview.source.layer() not in viewer.layers:
            self.message.emit("The image was closed, so there is no preview.")
            return
        corner = (preview.region.top, preview.region.left)
        show_part(viewer, preview.source, preview.labels, corner, preview.whole)
        where = preview.source.name
        if not preview.whole:
            where = f"the part of {where} that is in view"
        brightness = ""
        if preview.levels is None:
            brightness = " The image is large: brightness was judged by this part alone."
        self.message.emit(f"{int(preview.labels.max())} cells in {where}.{brightness}")
