"""The open images: which are fields, what is known of each, which channels they have."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer
from numpy.typing import NDArray
from psygnal import Signal

from napari_microdl.gui.session.layers import (
    Channel,
    ImageRow,
    Layout,
    asks_for_axis,
    channel_names,
    is_input,
    labelled_channel_axis,
    leading_shape,
    plane_shape,
    rows_of,
    shown_colour,
)
from napari_microdl.gui.session.own_labels import (
    Place,
    lie_apart,
    looks_like_labels,
    match_by_name,
    names_of,
    places_of,
)

# What decides where a layer lies.
_PLACE = ("scale", "translate", "rotate", "shear", "affine")
# What the channels of a field have in common.
_SHARED = frozenset({"condition", "is_control", "well", "site", "plate", "labels"})


class Images:
    """Rows of the table of images, their layout and their channels.

    Attributes
    ----------
    arranged : mapping of Layer to ndarray
        Affine transforms of layers that were arranged, as they were before.

    Signals
    -------
    changed
        Rows, layout, channels, what a layer holds, or whether labels lie on their image.
    channel_renamed
        How a channel was called, and how it is called now.
    """

    changed = Signal()
    channel_renamed = Signal(str, str)

    def __init__(self) -> None:
        self.rows: list[ImageRow] = []
        self.layout = Layout()
        self.channels: list[Channel] = []
        self.arranged: weakref.WeakKeyDictionary[Layer, NDArray[Any]] = weakref.WeakKeyDictionary()
        self._apart: list[tuple[Labels, Image]] = []
        # Rows whose labels, or that they have none, a person has chosen.
        self._labelled_by_hand: set[Any] = set()
        # How channels were called before they were renamed, to notice when the images change.
        self._native_channels: tuple[str, ...] = ()
        # How often the contents of each layer were changed.
        self._versions: weakref.WeakKeyDictionary[Layer, int] = weakref.WeakKeyDictionary()
        # Whether an image looks like labels, by its version, and those that are fields anyway.
        self._looks: weakref.WeakKeyDictionary[Layer, tuple[int, bool]]
        self._looks = weakref.WeakKeyDictionary()
        self._fields_anyway: weakref.WeakSet[Layer] = weakref.WeakSet()
        self._label_like: list[weakref.ref[Image]] = []
        self._labels: weakref.WeakSet[Labels] = weakref.WeakSet()
        # What layers were called when their rows were named.
        self._names: weakref.WeakKeyDictionary[Layer, str] = weakref.WeakKeyDictionary()

    def update(self, layers: Iterable[Any]) -> None:
        """Follow the open layers; what was entered for those that stay is kept."""
        layers = [layer for layer in layers if is_input(layer)]
        labels = [layer for layer in layers if isinstance(layer, Labels)]
        pictures = [layer for layer in layers if isinstance(layer, Image)]
        self._watch([*pictures, *labels])
        images = [image for image in pictures if not self._is_label_like(image)]
        self._label_like = [weakref.ref(image) for image in pictures if image not in images]
        if self.layout.channel_axis == "ask":
            labelled = {labelled_channel_axis(i) for i in images if asks_for_axis(i, self.layout)}
            if len(labelled) == 1 and (axis := labelled.pop()) is not None:
                self.layout = dataclasses.replace(self.layout, channel_axis=axis)
        before = {row.key: row for row in self.rows}
        self._name_rows(images, before)
        self._labels = weakref.WeakSet(labels)
        self._suggest_labels()
        self._update_channels()
        self.changed.emit()

    def expect(self, layer: Any) -> None:
        """Look at a layer that was just opened, since of many together it would take long."""
        if isinstance(layer, Image):
            self._watch([layer])
            self._is_label_like(layer)

    def label_like(self) -> list[Image]:
        """Image layers that look like labels, and are therefore no fields."""
        return [image for found in self._label_like if (image := found()) is not None]

    def use_as_fields(self, images: Iterable[Image], layers: Iterable[Any]) -> None:
        """Take images as fields although they look like labels."""
        self._fields_anyway.update(images)
        self.update(layers)

    def _is_label_like(self, image: Image) -> bool:
        version = self._versions[image]
        if self._looks.get(image, (-1, False))[0] != version:
            self._looks[image] = version, looks_like_labels(image)
        return self._looks[image][1] and image not in self._fields_anyway

    def _name_rows(self, images: Sequence[Image], before: Mapping[Any, ImageRow]) -> None:
        """Rows of images; of those that were there, names that came from the layer follow it."""
        called = names_of(images)
        rows = []
        for image in images:
            was_called = self._names.get(image)
            for now in rows_of(image, self.layout, called[image]):
                row = before.get(now.key, now)
                if was_called not in (None, called[image]):
                    suffix = now.name.removeprefix(called[image])
                    row = dataclasses.replace(
                        row,
                        name=now.name if row.name == f"{was_called}{suffix}" else row.name,
                        channel=now.channel if row.channel == was_called else row.channel,
                    )
                rows.append(row)
            self._names[image] = called[image]
        self.rows = rows

    def places(self) -> list[Place]:
        """The fields that each have one layer of labels."""
        return places_of(self.rows, by_channel=self.layout.arrangement == "channels")

    def _suggest_labels(self) -> None:
        """Fill in the Labels layer of a row where name or number, and place, leave no doubt."""
        candidates = list(self._labels)
        places = self.places()
        named = {
            match.place: match.labels
            for match in match_by_name(places, candidates)
            if not self.lie_apart(match.labels, match.place.images[0])
        }
        if len(places) == 1 and places[0] not in named:
            only = [c for c in candidates if places[0].fits(c)]
            if len(only) == 1 and not self.lie_apart(only[0], places[0].images[0]):
                named[places[0]] = only[0]
        for place in places:
            labels = weakref.ref(named[place]) if place in named else None
            for number in place.rows:
                row = self.rows[number]
                gone = row.labels is not None and row.labels() not in candidates
                # What was filled in may be wrong by now: the layer that it belongs to was opened.
                if gone or row.key not in self._labelled_by_hand:
                    self._labelled_by_hand.discard(row.key)
                    self._change(number, {"labels": labels})

    def shift_of(self, layer: Layer) -> NDArray[np.float64]:
        """How far a layer was moved, in height and width, when the fields were arranged."""
        before = self.arranged.get(layer)
        if before is None:
            return np.zeros(2)
        return np.asarray(layer.affine.affine_matrix - before)[-3:-1, -1]

    def lie_apart(self, labels: Layer, image: Layer) -> bool:
        """Whether labels lie elsewhere than an image, now and before fields were arranged."""
        by = self.shift_of(image) - self.shift_of(labels)
        return lie_apart(labels, image) and lie_apart(labels, image, by)

    def apart(self) -> list[tuple[Labels, Image]]:
        """Labels that were chosen for an image of their size which lies elsewhere."""
        pairs = dict.fromkeys((row.labels_layer(), row.layer()) for row in self.first_rows())
        return [
            (labels, image)
            for labels, image in pairs
            if labels is not None
            and image is not None
            and plane_shape(labels) == plane_shape(image)
            and self.lie_apart(labels, image)
        ]

    def _on_moved(self) -> None:
        apart = self.apart()
        if apart != self._apart:
            self._apart = apart
            self.changed.emit()

    def _update_channels(self) -> None:
        if self.layout.arrangement == "channels":
            native = tuple(dict.fromkeys(row.channel for row in self.used_rows()))
        else:
            used = self.used_rows() or self.rows
            native = channel_names(used[0]) if used else ()
        if native != self._native_channels:
            self._native_channels = native
            self.channels = [Channel(name) for name in native]

    def used_rows(self) -> list[ImageRow]:
        """Rows that take part in a run."""
        return [row for row in self.rows if row.use]

    def set_layout(self, layout: Layout, layers: Iterable[Any]) -> None:
        """Change how images make up fields."""
        self.layout = layout
        self.update(layers)

    def edit_rows(self, numbers: Iterable[int], **changes: Any) -> None:
        """Change rows; condition and control are shared by the channels of a field."""
        self.fill(dict.fromkeys(numbers, changes))

    def fill(self, changes: Mapping[int, Mapping[str, Any]]) -> None:
        """Change attributes of rows, by their number, each in its own way."""
        # Fields first: what is shared goes to all rows of the field as it is then.
        for number, values in changes.items():
            self._change(number, {k: v for k, v in values.items() if k not in _SHARED})
        for number, values in changes.items():
            siblings = [number]
            if self.layout.arrangement == "channels":
                group = self.rows[number].group
                siblings = [n for n, row in enumerate(self.rows) if row.group == group]
            for sibling in siblings:
                self._change(sibling, {k: v for k, v in values.items() if k in _SHARED})
                if "labels" in values:
                    self._labelled_by_hand.add(self.rows[sibling].key)
            # Cells that were found here and then corrected by hand were no input before.
            if "labels" in values and (labels := self.rows[number].labels_layer()) is not None:
                self._watch([labels])
                self._labels.add(labels)
        if any("group" in values for values in changes.values()):
            # Whose labels they are may be clear now.
            self._suggest_labels()
        self._update_channels()
        self.changed.emit()

    def conflict(self, changes: Mapping[int, Mapping[str, Any]]) -> str:
        """Why changes cannot be filled in: channels of one field would differ in what they share.

        Empty where they can.
        """
        if self.layout.arrangement != "channels":
            return ""
        seen: dict[tuple[str, str], Any] = {}
        for number, values in changes.items():
            group = values.get("group", self.rows[number].group)
            for name, value in values.items():
                first = seen.setdefault((group, name), value)
                if name in _SHARED and first != value:
                    what = name.removeprefix("is_")
                    return (
                        f"The images of field '{group}' would get the {what} '{first}' and "
                        f"'{value}'; give them different fields first, by {{field}}, or by "
                        "{well} and {site}."
                    )
        return ""

    def _change(self, number: int, values: Mapping[str, Any]) -> None:
        self.rows[number] = dataclasses.replace(self.rows[number], **values)

    def edit_channel(
        self, number: int, *, name: str | None = None, use: bool | None = None
    ) -> None:
        """Rename a channel or take it in or out.

        Where images are channels, all images of the channel get the name.
        """
        channel = self.channels[number]
        if name is not None:
            before, channel.name = channel.name, name.strip() or channel.name
            if self.layout.arrangement == "channels":
                for row_number, row in enumerate(self.rows):
                    if row.channel == before:
                        self._change(row_number, {"channel": channel.name})
                # It is the same channel as before, ticked or not.
                self._native_channels = tuple(c.name for c in self.channels)
                self._update_channels()
            self.channel_renamed.emit(before, channel.name)
        if use is not None:
            channel.use = use
        self.changed.emit()

    def first_rows(self) -> list[ImageRow]:
        """One row a field."""
        rows = self.used_rows()
        if self.layout.arrangement == "channels":
            return list({row.group: row for row in reversed(rows)}.values())
        return rows

    def channel_colours(self) -> dict[str, str]:
        """Red, green or blue, or empty, of the channels whose layers are all shown alike."""
        colours: dict[str, set[str]] = {}
        if self.layout.arrangement == "channels":
            for row in self.used_rows():
                layer = row.layer()
                if layer is not None and not layer.rgb:
                    colours.setdefault(row.channel, set()).add(shown_colour(layer))
        return {name: seen.pop() for name, seen in colours.items() if len(seen) == 1}

    def _watch(self, layers: Iterable[Layer]) -> None:
        """Notice when what a layer holds is changed."""
        for layer in layers:
            if layer not in self._versions:
                self._versions[layer] = 0
                layer.events.data.connect(self._on_contents)
                layer.events.name.connect(self._on_name)
                for name in _PLACE:
                    layer.events[name].connect(self._on_moved)
                if isinstance(layer, Labels):
                    layer.events.paint.connect(self._on_contents)
                else:
                    layer.events.colormap.connect(self._on_colour)

    def _on_contents(self, event: Any) -> None:
        layer = event.source
        self._versions[layer] = self._versions.get(layer, 0) + 1
        self.changed.emit()

    def _on_name(self) -> None:
        """A layer that is renamed is renamed in the table, where nobody gave the row a name.

        It may be clear now whose labels it has, or is.
        """
        images = {id(image): image for row in self.rows if (image := row.layer()) is not None}
        self._name_rows(list(images.values()), {row.key: row for row in self.rows})
        self._suggest_labels()
        self._update_channels()
        self.changed.emit()

    def _on_colour(self) -> None:
        self.changed.emit()

    def contents(self, layer: Layer | None) -> tuple[str, int]:
        """What tells the contents of a layer from what it held before, and from other layers."""
        if layer is None:
            return "", 0
        return str(layer.unique_id), self._versions.get(layer, 0)

    def problems(self) -> Generator[str, None, None]:
        """What the images still need, as sentences."""
        used = self.used_rows()
        if not self.rows:
            yield "Open images first: Import folder, or File > Open Sample > MicroDL."
            return
        if not used:
            yield "Tick at least one image in the column Use."
            return
        for row in used:
            layer = row.layer()
            if layer is not None and layer.rgb and not self.layout.split_rgb:
                yield (
                    f"'{layer.name}' is an RGB image but grey channels are meant; choose to use "
                    "red, green and blue as channels, or untick it."
                )
                return
            if layer is not None and asks_for_axis(layer, self.layout):
                shape = " x ".join(map(str, (*leading_shape(layer), *plane_shape(layer))))
                yield f"'{layer.name}' is a stack of {shape}; say which axis holds the channels."
                return
        if not any(c.use for c in self.channels):
            yield "Tick at least one channel."
