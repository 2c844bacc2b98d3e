"""Fields that lie on top of each other: put side by side with captions, or shown one at a time."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Layer, Points
from napari.utils.notifications import show_info
from napari.utils.theme import get_theme
from napari.viewer import Viewer
from numpy.typing import NDArray
from psygnal import Signal

from napari_microdl.gui.session.layers import (
    OVER,
    TAG,
    ImageRow,
    add_unselected,
    is_output,
    shift,
    tag_output,
)
from napari_microdl.gui.session.own_labels import lie_apart
from napari_microdl.gui.session.viewer_parts import grid_of

if TYPE_CHECKING:
    from napari_microdl.gui.overlays.overlays import Overlays
    from napari_microdl.gui.session.session import Session

CAPTIONS = "captions"
_FEW_IMAGES = 12
# Between fields, of the height and width of the largest; captions stand in the higher gap.
_GAPS = np.array([0.12, 0.05])
# Screens are wider than high.
_ASPECT = 1.5


def places(
    sizes: Sequence[tuple[float, float]], conditions: Sequence[tuple[bool, str]]
) -> list[tuple[float, float]]:
    """Upper left corners of fields side by side, a block a condition, controls on top.

    Sizes are heights and widths; a condition says whether it is a control's, and its name.
    """
    blocks = sorted(dict.fromkeys(conditions), key=lambda condition: not condition[0])
    largest = max((conditions.count(block) for block in blocks), default=1)
    columns = min(largest, int(np.ceil(np.sqrt(len(sizes) * _ASPECT))))
    step = np.max(sizes, axis=0) * (1 + _GAPS) if sizes else np.zeros(2)
    found: dict[int, tuple[float, float]] = {}
    top = 0
    for block in blocks:
        members = [i for i, condition in enumerate(conditions) if condition == block]
        for n, i in enumerate(members):
            y, x = step * (top + n // columns, n % columns)
            found[i] = (float(y), float(x))
        top += -(-len(members) // columns)
    return [found[i] for i in range(len(sizes))]


def share_a_place(boxes: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """Which boxes, each two corners in world coordinates, overlap with which others."""
    if not boxes:
        return np.zeros((0, 0), bool)
    corners = np.array([box[:, -2:] for box in boxes])
    low, high = corners[:, 0], corners[:, 1]
    common = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    # Neighbours touch, but for the last digits of their corners.
    found = (common > 1e-6 * (high - low)).all(-1)
    np.fill_diagonal(found, False)
    return np.asarray(found, bool)


def side_by_side(layers: Sequence[Layer | None]) -> bool:
    """Whether a few images lie beside each other, so that all can be looked at together."""
    if not 1 < len(layers) <= _FEW_IMAGES or None in layers:
        return False
    return not share_a_place([x.extent.world for x in layers if x is not None]).any()


@dataclass(frozen=True)
class _Place:
    """The layers of one field, or of a stack of fields, which lie together."""

    images: list[Image]
    labels: list[Labels]
    row: ImageRow
    caption: str

    @property
    def box(self) -> NDArray[Any]:
        extents = np.array([image.extent.world[:, -2:] for image in self.images])
        return np.array([extents[:, 0].min(0), extents[:, 1].max(0)])


class Arranger:
    """Puts the fields of a viewer, held weakly, side by side, and back.

    What moves is the last of a layer's transforms (`affine`), so its own place is kept.

    Signals
    -------
    changed
        Fields were arranged, or put back.
    """

    changed = Signal()

    def __init__(self, viewer: Viewer, session: Session, overlays: Overlays) -> None:
        self._viewer = weakref.ref(viewer)
        self._session = session
        self._overlays = overlays
        # Affine transforms as they were.
        self._before = session.images.arranged
        self._hidden: weakref.WeakSet[Layer] = weakref.WeakSet()
        self._arranged: list[tuple[bool, str]] = []
        session.images.changed.connect(self._on_images)
        overlays.fields_changed.connect(self._on_fields)
        session.view.changed.connect(self._on_fields)
        grid_of(viewer).events.enabled.connect(self._on_grid)
        viewer.events.theme.connect(self._show_captions)

    def _places(self) -> list[_Place]:
        viewer, images = self._viewer(), self._session.images
        if viewer is None:
            return []
        # To look a layer up in the list takes as long as the list is.
        there = set(viewer.layers)
        joined = images.layout.arrangement == "channels"
        of_place: dict[Any, list[ImageRow]] = {}
        for row in images.used_rows():
            layer = row.layer()
            if layer is not None and layer in there:
                of_place.setdefault(row.group if joined else id(layer), []).append(row)
        of_well = Counter(rows[0].well for rows in of_place.values())
        found = []
        for rows in of_place.values():
            layers = [layer for row in rows if (layer := row.layer()) is not None]
            labels = [x for row in rows if (x := row.labels_layer()) is not None]
            own_name = rows[0].group if joined else layers[0].name
            is_stack = not joined and len(rows) > 1
            found.append(
                _Place(
                    list(dict.fromkeys(layers)),
                    [x for x in dict.fromkeys(labels) if x in there],
                    rows[0],
                    own_name if is_stack else _caption(rows[0], own_name, of_well),
                )
            )
        return found

    @property
    def is_arranged(self) -> bool:
        """Whether there is something to put back."""
        return bool(self._before)

    def look(self) -> tuple[bool, bool]:
        """Whether fields share a place, and whether to arrange them changes where they are."""
        found = self._places()
        overlap = bool(share_a_place([place.box for place in found]).any())
        moved = self.is_arranged and self._arranged != _conditions(found)
        return overlap, overlap or moved

    def arrange(self) -> None:
        """Put all fields in use side by side, controls above treated, and look at all of them."""
        viewer, found = self._viewer(), self._places()
        if viewer is None or not found:
            return
        self._restore()
        boxes = [place.box for place in found]
        sizes = [(float(height), float(width)) for height, width in (b[1] - b[0] for b in boxes)]
        start = np.min([box[0] for box in boxes], axis=0)
        self._arranged = _conditions(found)
        corners = places(sizes, self._arranged)
        for place, box, corner in zip(found, boxes, corners, strict=True):
            for layer in (*place.images, *place.labels):
                if layer not in self._before:
                    self._before[layer] = layer.affine.affine_matrix.copy()
                    shift(layer, start + corner - box[0])
        self._after_moving(viewer)

    def restore(self) -> None:
        """Every layer where it was before."""
        viewer = self._viewer()
        if viewer is not None:
            self._restore()
            self._after_moving(viewer)

    def _restore(self) -> None:
        for layer, affine in self._before.items():
            layer.affine = affine
        self._before.clear()
        self._arranged = []

    def _after_moving(self, viewer: Viewer) -> None:
        run = self._session.run.current
        over = {str(layer.unique_id): layer for layer in viewer.layers}
        for layer in viewer.layers:
            if is_output(layer):
                tag = layer.metadata[TAG]
                source = over.get(tag.get(OVER, ""))
                if run is not None and tag.get("run_id") == run.run_id:
                    source = run.sources[tag["field"]].layer()
                if source is not None:
                    layer.affine = source.affine.affine_matrix
        self._show_captions()
        if run is not None:
            together = [source.layer() for source in run.sources]
            self._session.view.show(all_fields=side_by_side(together))
        viewer.reset_view()
        self.changed.emit()

    def _show_captions(self) -> None:
        """A text above every field that was arranged; its letters have one size at every zoom."""
        viewer = self._viewer()
        if viewer is None:
            return
        shown = [x for x in viewer.layers if is_output(x) and x.metadata[TAG]["kind"] == CAPTIONS]
        found = self._places() if self.is_arranged else []
        if not found:
            for layer in shown:
                viewer.layers.remove(layer)
            return
        boxes = [place.box for place in found]
        text = {
            "string": [place.caption for place in found],
            "anchor": "upper_left",
            "size": 9,
            "color": get_theme(viewer.theme).text.as_hex(format="long"),
        }
        corners = [(box[0, 0], box[0, 1]) for box in boxes]
        if shown:
            shown[0].data = np.array(corners)
            shown[0].text = text
            return
        units = found[0].images[0].units[-2:]
        layer = Points(corners, text=text, size=1, opacity=1, name="captions", units=units)
        layer.face_color = layer.border_color = "transparent"
        layer.editable = False
        tag_output(layer, kind=CAPTIONS)
        add_unselected(viewer, layer)

    def _on_images(self) -> None:
        if self.is_arranged:
            self._take_along()
            self._show_captions()

    def _take_along(self) -> None:
        """Labels that were chosen since follow their image, and will go back with it."""
        for place in self._places():
            image = place.images[0]
            by = self._session.images.shift_of(image)
            for labels in place.labels:
                if image not in self._before or labels in self._before:
                    continue
                before = labels.affine.affine_matrix.copy()
                if not lie_apart(labels, image):
                    # They were made where the image lies now.
                    before[-3:-1, -1] -= by
                elif not lie_apart(labels, image, by):
                    shift(labels, by)
                else:
                    continue
                self._before[labels] = before

    def _on_fields(self) -> None:
        """Where one field is looked at, those that share its place are not shown."""
        fields = self._overlays.shown_fields()
        if self._session.view.all_fields or len(fields) != 1:
            self._show_hidden()
        else:
            self.show_alone(fields[0])

    def _show_hidden(self) -> None:
        for layer in self._hidden:
            layer.visible = True
        self._hidden.clear()

    def show_alone(self, field: int) -> None:
        """Hide the images that share a place with a field of the run, and show its own."""
        run = self._session.run.current
        if run is None:
            return
        layer, found = run.sources[field].layer(), self._places()
        here = next((i for i, place in enumerate(found) if layer in place.images), None)
        if here is None:
            return
        sharing = share_a_place([place.box for place in found])[here]
        if not sharing.any():
            return
        for image in found[here].images:
            if image in self._hidden or image is layer:
                image.visible = True
                self._hidden.discard(image)
        for place in (place for place, shares in zip(found, sharing, strict=True) if shares):
            for image in (image for image in place.images if image.visible):
                image.visible = False
                self._hidden.add(image)

    def _on_grid(self) -> None:
        """Grid mode gives every layer a place of its own, overlays too: arranged instead."""
        viewer = self._viewer()
        if viewer is None or self._session.run.current is None:
            return
        if (grid := grid_of(viewer)).enabled:
            grid.enabled = False
            self.arrange()
            show_info(
                "Grid mode would part the overlays from their images, so the fields were arranged "
                "side by side; Put back in the step Fields undoes it."
            )


def _caption(row: ImageRow, otherwise: str, of_well: Counter[str]) -> str:
    """Short, for a field may be small on the screen: the site only where a well has several."""
    condition = "control" if row.is_control else row.condition
    site = f"s{row.site}" if row.well and row.site and of_well[row.well] > 1 else ""
    return " ".join(filter(None, (row.well or otherwise, site, condition)))


def _conditions(found: Sequence[_Place]) -> list[tuple[bool, str]]:
    return [(p.row.is_control, "" if p.row.is_control else p.row.condition) for p in found]
