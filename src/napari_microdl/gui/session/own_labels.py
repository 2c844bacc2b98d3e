"""Labels that a person brings: which layers look like some, and which belong to which field."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer
from numpy.typing import ArrayLike, NDArray

from napari_microdl.fields.file_patterns import differing, folders_in_common
from napari_microdl.gui.session.layers import ImageRow, file_of, is_lazy, plane_shape

# What may stand beside the name of an image in the name of its labels.
_MASKS = frozenset({"cells", "label", "labels", "mask", "masks", "objects", "nuclei", "seg"})
_TERMS = _MASKS | {
    "cell", "object", "nucleus", "segmented", "segmentation", "cellpose", "cp", "stardist", "of",
    "in", "for", "and",
}  # fmt: skip
# napari numbers layers of the same name.
_NUMBERED = re.compile(r" \[\d+\]$")
# Pixels that are looked at, and what their neighbours are in labels: among some hundred masks and
# images of public sets no image had over 78 % equal neighbours, nor over 1 % of the others at 0.
_MOST_PIXELS = 2**18
_LEAST_EQUAL, _LEAST_AT_BACKGROUND = 0.7, 0.3


def looks_like_labels(layer: Image) -> bool:
    """Whether an image holds numbered objects on a background of zeros, or a mask of them.

    Neighbouring pixels of an object are equal, and where pixels differ, one of them is mostly
    background. Lazy layers are not looked at, because it takes a while to read them.
    """
    if layer.rgb or layer.multiscale or is_lazy(layer) or layer.data.dtype.kind not in "uib":
        return False
    plane = layer.data[(0,) * (layer.ndim - 2)]
    step = -(-plane.size // _MOST_PIXELS)
    rows = plane[::step].astype(np.int64)
    left, right = rows[:, :-1], rows[:, 1:]
    objects = (left != 0) | (right != 0)
    left, right = left[objects], right[objects]
    edges = left != right
    if not edges.any():
        return False
    background = (left == 0) | (right == 0)
    return bool(
        1 - edges.mean() >= _LEAST_EQUAL and background[edges].mean() >= _LEAST_AT_BACKGROUND
    )


def numbered(data: NDArray[Any]) -> NDArray[np.integer]:
    """Labels from an image that looks like some; the parts of a mask of one number get their own.

    Parameters
    ----------
    data : ndarray of shape (..., height, width)
        Whole numbers, 0 is background.
    """
    first = int(data.max(initial=0))
    if first and not ((data != 0) & (data != first)).any():
        # Imported when it is needed: napari starts faster.
        from skimage.measure import label

        planes = data.reshape(-1, *data.shape[-2:])
        data = np.stack([label(plane != 0) for plane in planes]).reshape(data.shape)
    return data.astype(np.min_scalar_type(int(data.max(initial=0))), copy=False)


def labels_of(image: Image, numbers: NDArray[np.integer]) -> Labels:
    """A Labels layer in the place of an image."""
    placed = ("scale", "translate", "rotate", "shear", "units", "axis_labels")
    labels = Labels(
        numbers,
        name=image.name,
        affine=image.affine.affine_matrix,
        metadata=dict(image.metadata),
        **{name: getattr(image, name) for name in placed},
    )
    # Filled, they would hide what they lie on.
    labels.contour = 2
    return labels


@dataclass(frozen=True, eq=False)
class Place:
    """One field, or the fields of a stack, for which one layer holds labels.

    Parameters
    ----------
    name : str
        What people call it.
    rows : list of int
        Numbers of its rows.
    images : list of Image
        Its layers.
    """

    name: str
    rows: list[int]
    images: list[Image]

    def fits(self, labels: Layer) -> bool:
        """Whether labels have its size."""
        return plane_shape(labels) == plane_shape(self.images[0])


@dataclass(frozen=True, eq=False)
class Match:
    """Labels for a place, and by what they were found."""

    place: Place
    labels: Layer
    reason: str


def places_of(rows: Sequence[ImageRow], *, by_channel: bool) -> list[Place]:
    """Places of the rows whose layers are open."""
    found: dict[Any, Place] = {}
    for number, row in enumerate(rows):
        layer = row.layer()
        if layer is not None:
            name = row.group if by_channel else layer.name if row.index else row.name
            place = found.setdefault(row.group if by_channel else layer, Place(name, [], []))
            place.rows.append(number)
            if layer not in place.images:
                place.images.append(layer)
    return list(found.values())


def names_of(images: Sequence[Image]) -> dict[Image, str]:
    """Names by which images are told apart; of the same ones, the folder says what a number not."""
    same: dict[str, list[Image]] = {}
    for image in images:
        same.setdefault(_without_number(image.name), []).append(image)
    found = {image: image.name for image in images}
    for name, alike in same.items():
        folders = [file.parent.parts for image in alike if (file := file_of(image)) is not None]
        if len(alike) > 1 and len(set(folders)) == len(alike):
            folder_of = differing(folders)
            found |= {i: f"{folder_of[f]}_{name}" for i, f in zip(alike, folders, strict=True)}
    return found


def match_by_name(places: Sequence[Place], candidates: Sequence[Layer]) -> list[Match]:
    """Labels whose name leaves no doubt: one place has it in whole, and no other labels do."""
    of_place: dict[Place, list[Layer]] = {}
    for labels in candidates:
        fitting = _named_alike(labels, [place for place in places if place.fits(labels)])
        if len(fitting) == 1:
            of_place.setdefault(fitting[0], []).append(labels)
    return [
        Match(place, found[0], "same name") for place, found in of_place.items() if len(found) == 1
    ]


def match_labels(places: Sequence[Place], candidates: Sequence[Layer]) -> list[Match]:
    """Labels by name and, where as many fields as labels of their sizes are left, by order.

    The order is a guess, to be looked at by a person.
    """
    found = match_by_name(places, candidates)
    taken = {match.place for match in found}, {match.labels for match in found}
    left = [place for place in places if place not in taken[0]]
    others = [labels for labels in candidates if labels not in taken[1]]
    pairs = list(zip(left, others, strict=False))
    if len(left) == len(others) and all(place.fits(labels) for place, labels in pairs):
        reason = "same order" if len(pairs) > 1 else "the only one left"
        found += [Match(place, labels, reason) for place, labels in pairs]
    order = {place: number for number, place in enumerate(places)}
    return sorted(found, key=lambda match: order[match.place])


def _named_alike(labels: Layer, places: Sequence[Place]) -> list[Place]:
    """Places whose name labels have, of which the longest name and then the nearest file count."""
    for plain in (str, _without_number):
        names = {
            place: [
                name
                for name in dict.fromkeys([place.name, *(image.name for image in place.images)])
                if is_named_after(plain(labels.name), plain(name))
            ]
            for place in places
        }
        longest = max((len(n) for found in names.values() for n in map(plain, found)), default=0)
        fitting = [
            place for place, found in names.items() if longest in [len(plain(n)) for n in found]
        ]
        if len(fitting) > 1:
            near = {place: _nearness(labels, place) for place in fitting}
            fitting = [place for place in fitting if near[place] == max(near.values())]
        if fitting and longest:
            return fitting
    return []


def _without_number(name: str) -> str:
    return _NUMBERED.sub("", name)


def _nearness(labels: Layer, place: Place) -> int:
    """How many folders their files have in common."""
    own, other = file_of(labels), file_of(place.images[0])
    return 0 if own is None or other is None else folders_in_common(own, other)


def is_named_after(labels: str, image: str) -> bool:
    """Whether labels have the name of an image, and beside it only words such as "cells"."""
    labels, image = labels.casefold().strip(), image.casefold().strip()
    # In whole: the labels of site 10 are none of site 1.
    parts = re.split(rf"(?<![^\W_]){re.escape(image)}(?![^\W_])", labels, maxsplit=1)
    terms = re.findall(r"[^\W_]+", " ".join(parts))
    # Some tools number their masks.
    known = [
        w in _TERMS or (w.isdigit() and before in _MASKS) for before, w in pairwise(["", *terms])
    ]
    return bool(image) and len(parts) == 2 and all(known)


def lie_apart(labels: Layer, image: Layer, by: ArrayLike = 0) -> bool:
    """Whether less than half of the smaller of two layers lies on the other in the viewer.

    An image that lies, height and width, `by` further than it should counts where it should lie.
    """
    one, other = labels.extent.world[:, -2:], image.extent.world[:, -2:] - by
    common = np.minimum(one[1], other[1]) - np.maximum(one[0], other[0])
    smaller = min((box[1] - box[0]).prod() for box in (one, other))
    return bool(common.clip(0).prod() < smaller / 2)
