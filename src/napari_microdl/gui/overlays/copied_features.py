"""Activations in the features of Labels layers, of stacks for the plane in view.

napari finds the features of a label by the column ``index`` alone, and of several rows with the
same index it takes the last. In a stack one number may mean another cell in every plane, so the
features of a stack have one row a plane and label, told apart by the columns ``field`` and
``frame``, and the rows of the plane in view are kept last: what is hovered is what is read.

What a person has measured stays beside it. Which columns were written here stands in the metadata
of the layer, so that the next copy replaces them, in a duplicate too.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from napari.layers import Image, Labels
from napari.viewer import Viewer
from pandas.api.types import is_numeric_dtype

from napari_microdl.concepts.export import label_features
from napari_microdl.core.errors import MicrodlError
from napari_microdl.gui.session.layers import TAG, ImageRow, Source, is_output
from napari_microdl.gui.session.run import Run

_Planes: TypeAlias = tuple[weakref.ref[Image], tuple[int, ...]]
_COPIED = "napari_microdl_features"


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
        `MicrodlError` where measurements of a layer cannot be told apart; nothing has changed then.
        """
        layers = self._layers_of(run, rows)
        fields_of: dict[int, list[int]] = {}
        for number, layer in layers.items():
            fields_of.setdefault(id(layer), []).append(number)
        copied: dict[int, tuple[pd.DataFrame, pd.DataFrame]] = {}
        for numbers in fields_of.values():
            tables = []
            for number in numbers:
                source = run.sources[number]
                table = label_features(run.result.activations, number, list(concepts), technical)
                table.insert(1, "field", source.name)
                table.insert(2, "frame", _frame(_places(source)))
                tables.append(table)
            table = pd.concat(tables, ignore_index=True)
            if len(tables) == 1:
                table = table.drop(columns=["field", "frame"])
            copied[numbers[0]] = table, _with_measurements(table, layers[numbers[0]])
        stacks = 0
        for numbers in fields_of.values():
            layer = layers[numbers[0]]
            self._stacks.pop(layer, None)
            table, layer.features = copied[numbers[0]]
            layer.metadata[_COPIED] = list(table.columns)
            if len(numbers) > 1:
                stacks += 1
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


def _with_measurements(table: pd.DataFrame, layer: Labels) -> pd.DataFrame:
    """A table of activations, with what a person has in the features of a layer beside it."""
    before = layer.metadata.get(_COPIED, [])
    theirs = layer.features.drop(columns=set(before) - {"index", "frame"}, errors="ignore")
    if "index" not in theirs:
        # As napari reads them: rows without a number are those of the labels from 0 on.
        theirs.insert(0, "index", theirs.get("label", pd.Series(theirs.index)))
    keys = ["index"]
    if "frame" in theirs:
        once = theirs.drop(columns="frame").drop_duplicates()
        if "frame" in before and not once["index"].duplicated().any():
            # Measured once a label; an earlier copy has repeated it for every frame.
            theirs = once
        elif "frame" in table and is_numeric_dtype(theirs["frame"]):
            keys = ["index", "frame"]
    if theirs.duplicated(keys).any():
        raise MicrodlError(
            f"The features of '{layer.name}' have several rows for one label; number the frames in "
            "a column 'frame', or remove the rows that are too many."
        )
    if set(theirs) <= set(keys):
        return table
    both = {name for name in theirs if name in table and name not in keys}
    theirs = theirs.rename(columns={name: f"{name} (before)" for name in both})
    beside = table[keys].merge(theirs, how="left", on=keys).drop(columns=keys)
    units = table[keys].drop_duplicates()
    found = theirs[keys].merge(units, how="left", on=keys, indicator=True)["_merge"]
    others = theirs[(found == "left_only").to_numpy()]
    whole = pd.concat([table, beside], axis=1)
    return pd.concat([others, whole], ignore_index=True)[list(whole)] if len(others) else whole


def _places(source: Source) -> list[int]:
    """Position of a field along the axes of a stack, its channel axis left out."""
    return [place for place in source.index if place is not None]


def _frame(places: Sequence[int]) -> Any:
    """A frame as a number, or, of several axes, their numbers as a text."""
    return places[0] if len(places) == 1 else ", ".join(map(str, places))
