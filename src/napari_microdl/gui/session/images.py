"""The open images: which are fields, what is known of each, which channels they have."""

from __future__ import annotations

import dataclasses
import re
import weakref
from collections.abc import Generator, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from napari.layers import Image, Labels, Layer
from psygnal import Signal

from napari_microdl.gui.session.layers import (
    Channel,
    ImageRow,
    Layout,
    channel_names,
    is_input,
    labelled_channel_axis,
    leading_shape,
    plane_shape,
    rows_of,
    shown_colour,
)

# What may stand beside the name of an image in the name of its labels.
_MASKS = frozenset({"cells", "label", "labels", "mask", "masks", "objects", "nuclei", "seg"})
_WORDS = _MASKS | {
    "cell", "object", "nucleus", "segmented", "segmentation", "cellpose", "cp", "stardist", "of",
    "in", "for", "and",
}  # fmt: skip
# What the channels of a field have in common.
_SHARED = frozenset({"condition", "is_control", "well", "site", "plate", "labels"})


class Images:
    """Rows of the table of images, their layout and their channels.

    Signals
    -------
    changed
        Rows, layout, channels, or what a layer holds.
    channel_renamed
        How a channel was called, and how it is called now.
    """

    changed = Signal()
    channel_renamed = Signal(str, str)

    def __init__(self) -> None:
        self.rows: list[ImageRow] = []
        self.layout = Layout()
        self.channels: list[Channel] = []
        # How channels were called before they were renamed, to notice when the images change.
        self._native_channels: tuple[str, ...] = ()
        # How often the contents of each layer were changed.
        self._versions: weakref.WeakKeyDictionary[Layer, int] = weakref.WeakKeyDictionary()

    def update(self, layers: Iterable[Any]) -> None:
        """Follow the open layers; what was entered for those that stay is kept."""
        layers = [layer for layer in layers if is_input(layer)]
        images = [layer for layer in layers if isinstance(layer, Image)]
        if self.layout.channel_axis == "ask":
            labelled = {labelled_channel_axis(i) for i in images if leading_shape(i)}
            if len(labelled) == 1 and (axis := labelled.pop()) is not None:
                self.layout = dataclasses.replace(self.layout, channel_axis=axis)
        before = {row.key: row for row in self.rows}
        rows = [row for image in images for row in rows_of(image, self.layout)]
        self.rows = [before.get(row.key, row) for row in rows]
        labels = [layer for layer in layers if isinstance(layer, Labels)]
        self._watch([*images, *labels])
        self._suggest_labels(labels)
        self._update_channels()
        self.changed.emit()

    def _suggest_labels(self, candidates: Sequence[Labels]) -> None:
        """Fill in the Labels layer of a row where the name or the number leaves no doubt."""
        for number, row in enumerate(self.rows):
            image = row.layer()
            chosen = row.labels_layer()
            if image is None or (chosen is not None and chosen in candidates):
                continue
            fitting = [c for c in candidates if plane_shape(c) == plane_shape(image)]
            named = [c for c in fitting if _are_of(c.name, image.name)]
            if len(named) != 1 and len({id(r.layer()) for r in self.rows}) == 1:
                named = fitting
            labels = weakref.ref(named[0]) if len(named) == 1 else None
            self._change(number, {"labels": labels})

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
            # Cells that were found here and then corrected by hand were no input before.
            if (labels := self.rows[number].labels_layer()) is not None:
                self._watch([labels])
        for number, values in changes.items():
            siblings = [number]
            if self.layout.arrangement == "channels":
                group = self.rows[number].group
                siblings = [n for n, row in enumerate(self.rows) if row.group == group]
            for sibling in siblings:
                self._change(sibling, {k: v for k, v in values.items() if k in _SHARED})
        self._update_channels()
        self.changed.emit()

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
                if isinstance(layer, Labels):
                    layer.events.paint.connect(self._on_contents)
                else:
                    layer.events.colormap.connect(self._on_colour)

    def _on_contents(self, event: Any) -> None:
        layer = event.source
        self._versions[layer] = self._versions.get(layer, 0) + 1
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
            yield "Open images first, or File > Open Sample > MicroDL."
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
            if layer is not None and leading_shape(layer) and self.layout.channel_axis == "ask":
                shape = " x ".join(map(str, (*leading_shape(layer), *plane_shape(layer))))
                yield f"'{layer.name}' is a stack of {shape}; say which axis holds the channels."
                return
        if not any(c.use for c in self.channels):
            yield "Tick at least one channel."


def _are_of(labels: str, image: str) -> bool:
    """Whether labels have the name of an image, and beside it only words such as "cells"."""
    labels, image = labels.casefold().strip(), image.casefold().strip()
    # In whole: the labels of site 10 are none of site 1.
    parts = re.split(rf"(?<![^\W_]){re.escape(image)}(?![^\W_])", labels, maxsplit=1)
    words = re.findall(r"[^\W_]+", " ".join(parts))
    # Some tools number their masks.
    known = [
        w in _WORDS or (w.isdigit() and before in _MASKS) for before, w in pairwise(["", *words])
    ]
    return bool(image) and len(parts) == 2 and all(known)
