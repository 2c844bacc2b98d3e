"""Activations in the features of Labels layers, of stacks for the plane in view.

napari finds the features of a label by the column ``index`` alone, and of several rows with the
same index it takes the last. In a stack one number may mean another cell in every plane, so the
features of a stack have one row a plane and label, told apart by the columns ``field`` and
``frame``, and the rows of the plane in view are kept last: what is hovered is what is read.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from napari.layers import Image, Labels
from napari.viewer import Viewer

from napari_microdl.concepts.export import label_features
from napari_microdl.gui.session.layers import TAG, ImageRow, Source, is_output
from napari_microdl.gui.session.run import Run

_Planes: TypeAlias = tuple[weakref.ref[Image], tuple[int, ...]]


class CopiedFeatures:
    """Copies activations beside labels, and keeps those of the plane in view in reach."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = weakref.ref(viewer)
        # Layers whose numbers mean other cells in other planes; the image and its axes that say
        # which plane is in view.
        self._stacks: weakref.WeakKeyDictionary[Labels, _Planes] = weakref.WeakKeyDictionary()
        viewer.dims.events.point.connect(self._on_point)

    def copy(
        self,
        run: Run,
        rows: Sequence[ImageRow],
        concepts: Sequence[int],
        technical: Collection[int] = (),
    ) -> tuple[int, int]:
        """Put activations into the features of the open Labels layers that show the cells.

        The rows of the session know the user's own labels; columns of technical concepts say so.
        Returns how many layers have features now, and how many of them a row a plane and label.
        """
        layers = self._layers_of(run, rows)
        fields_of: dict[int, list[int]] = {}
        for number, layer in layers.items():
            fields_of.setdefault(id(layer), []).append(number)
        stacks = 0
        for numbers in fields_of.values():
            layer = layers[numbers[0]]
            self._stacks.pop(layer, None)
            tables = []
            for number in numbers:
                source = run.sources[number]
                table = label_features(run.result.activations, number, list(concepts), technical)
                table.insert(1, "field", source.name)
                table.insert(2, "frame", _frame(_places(source)))
                tables.append(table)
            if len(tables) == 1:
                layer.features = tables[0].drop(columns=["field", "frame"])
                continue
            stacks += 1
            layer.features = pd.concat(tables, ignore_index=True)
            first = run.sources[numbers[0]]
            axes = tuple(axis for axis, place in enumerate(first.index) if place is not None)
            if axes:
                self._stacks[layer] = first.layer, axes
        self._on_point()
        return len(fields_of), stacks

    def _layers_of(self, run: Run, rows: Sequence[ImageRow]) -> dict[int, Labels]:
        """Layers by the number of a field; planes of a stack of labels have the same one."""
        viewer = self._viewer()
        found: dict[int, Labels] = {}
        if viewer is None:
            return found
        for layer in viewer.layers:
            tag = layer.metadata[TAG] if is_output(layer) else {}
            if tag.get("kind") == "cells" and tag.get("run_id") == run.run_id:
                found[tag["field"]] = layer
        for number, source in enumerate(run.sources):
            own = [row.labels_layer() for row in rows if row.key == source.key]
            own = [layer for layer in own if layer is not None and layer in viewer.layers]
            if source.has_own_labels and own:
                found[number] = own[0]
        return found

    def _on_point(self) -> None:
        """Put the rows of the plane in view last."""
        viewer = self._viewer()
        for layer, (reference, axes) in list(self._stacks.items()):
            image, features = reference(), layer.features
            if viewer is None or image is None or "frame" not in features:
                continue
            point = image.world_to_data(viewer.dims.point[-image.ndim :])
            frame = _frame([round(float(point[axis])) for axis in axes])
            here = (features["frame"] == frame).to_numpy(bool)
            if here.any() and not here[-int(here.sum()) :].all():
                order = np.concatenate([np.flatnonzero(~here), np.flatnonzero(here)])
                layer.features = features.iloc[order].reset_index(drop=True)


def _places(source: Source) -> list[int]:
    """Position of a field along the axes of a stack, its channel axis left out."""
    return [place for place in source.index if place is not None]


def _frame(places: Sequence[int]) -> Any:
    """A frame as a number, or, of several axes, their numbers as a text."""
    return places[0] if len(places) == 1 else ", ".join(map(str, places))
