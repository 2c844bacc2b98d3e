"""Images of a plate run, opened as its wells are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Layer
from napari.viewer import Viewer
from qtpy.QtCore import QObject, Signal

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.fields.tables import open_field
from napari_microdl.gui.overlays.coming_layers import ComingLayers, corners_beside
from napari_microdl.gui.session.layers import FIELD_TAG, Layout
from napari_microdl.gui.session.opening import (
    MOST_LAYERS,
    OpenedField,
    arrangement_of,
    can_be_in_micrometres,
    layers_of,
    read_all,
)
from napari_microdl.gui.session.preferences import token_cache
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.jobs import JobBar, JobRunner

if TYPE_CHECKING:
    from napari_microdl.pipeline.plate.looking import PlateRun, SeenField


@dataclass(frozen=True, eq=False)
class _Read:
    """Fields that were read for a run, controls beside them, and what is wrong with others."""

    run: Run
    opened: list[OpenedField]
    seen: list[SeenField]
    controls: list[SeenField]
    problems: list[str]


def _read(run: Run, plate: PlateRun, numbers: Sequence[int], controls: Sequence[int]) -> _Read:
    """Read fields and what is drawn over them; of controls, what is usual in them."""
    files, problems = plate.files_of(numbers)
    found, wrong = read_all(list(files.values()))
    problems += wrong
    of_name = {named.name: number for number, named in files.items()}
    opened: list[OpenedField] = []
    seen: list[SeenField] = []
    for one in found:
        try:
            seen.append(plate.see(of_name[one.named.name], one.field, token_cache()))
            opened.append(one)
        except MicrodlError as error:
            problems.append(str(error))
    beside: list[SeenField] = []
    for number, named in plate.files_of(controls)[0].items():
        current_task().check()
        try:
            beside.append(plate.see(number, open_field(named), token_cache()))
        except MicrodlError:
            # Others will do.
            continue
    return _Read(run, opened, seen, beside, problems)


class PlateImages(QObject):
    """Opens the images of the fields of a plate run.

    Signals
    -------
    opened(int)
        The images of a well are open, and can carry overlays: its first field.
    failed(str)
        A sentence on what could not be opened.
    """

    opened = Signal(int)
    failed = Signal(str)

    def __init__(self, viewer: Viewer, session: Session, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer, self._session = viewer, session
        self.jobs = JobRunner(self)
        self.job_bar = JobBar(self.jobs)
        self.jobs.succeeded.connect(self._on_read)
        self.jobs.failed.connect(self.failed)
        self._adding = ComingLayers(viewer, self)
        self._adding.ended.connect(self._on_added)
        self._now: _Read | None = None
        self._before: set[Layer] = set()
        # Fields and layers of the wells that are open, the first one opened first.
        self._wells: list[tuple[list[int], list[Layer]]] = []

    @property
    def is_busy(self) -> bool:
        """Whether images are being read or added."""
        return self.jobs.is_running or self._adding.is_active

    def open(self, run: Run, numbers: Sequence[int]) -> None:
        """Read fields in the background, and show them; what is asked for before is left."""
        if run.plate is None or self._adding.is_active:
            return
        controls = [] if run.plate.has_controls else run.plate.controls
        work = partial(_read, run, run.plate, list(numbers), controls)
        self.jobs.start(work, "Opening images", message="Reading images")

    def stop(self) -> None:
        """Open no more."""
        self.jobs.stop()
        self._adding.stop()
        self._now = None

    def _on_read(self, read: _Read) -> None:
        if read.problems:
            self.failed.emit(" ".join(read.problems))
        if not read.opened or self._session.run.current is not read.run:
            return
        fields, layers = [one.field for one in read.opened], self._viewer.layers
        arrangement = arrangement_of(read.opened)
        images = self._session.images
        images.set_layout(Layout(arrangement, "ask", images.layout.split_rgb), layers)
        scaled = can_be_in_micrometres(read.opened, layers)
        corners = corners_beside(self._viewer, fields, in_micrometres=scaled)
        self._now = read
        self._before = set(layers)
        self._adding.start(layers_of(read.opened, corners, arrangement, in_micrometres=scaled))

    def _on_added(self) -> None:
        read, self._now = self._now, None
        if read is None or self._session.run.current is not read.run:
            return
        self._session.images.update(self._viewer.layers)
        new = [layer for layer in self._viewer.layers if layer not in self._before]
        self._close_oldest(read, new)
        self._session.take_seen(read.run, read.seen, read.controls, _first_layers(read, new))
        self.opened.emit(read.seen[0].number)

    def _close_oldest(self, read: _Read, new: list[Layer]) -> None:
        """Close the images of earlier wells where there would be too many for napari."""
        there = self._viewer.layers
        self._wells = [(ns, [x for x in own if x in there]) for ns, own in self._wells]
        self._wells.append(([one.number for one in read.seen], new))
        while len(self._wells) > 1 and sum(len(x) for _, x in self._wells) > MOST_LAYERS:
            numbers, layers = self._wells.pop(0)
            assert read.run.plate is not None
            still = {number for ns, _ in self._wells for number in ns}
            read.run.plate.forget([number for number in numbers if number not in still])
            for layer in layers:
                if layer in self._viewer.layers:
                    self._viewer.layers.remove(layer)

    def forget(self) -> None:
        """Open no more, and leave what is open to the user, because another run is shown."""
        self.stop()
        self._wells.clear()


def _first_layers(read: _Read, new: Sequence[Layer]) -> list[Any]:
    """The layer of every field, or of its first channel."""
    by_field: dict[str, Layer] = {}
    for layer in new:
        name = layer.metadata.get(FIELD_TAG, {}).get("name")
        if name is not None:
            by_field.setdefault(name, layer)
    return [by_field[seen.field.name] for seen in read.seen]
