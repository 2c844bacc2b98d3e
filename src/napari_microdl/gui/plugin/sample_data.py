"""File > Open Sample: treated and control wells, with conditions and controls set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import simulated, transfluor
from napari_microdl.gui.session.layers import FIELD_TAG

_COLUMNS = 4
_GAP = 24
LayerTuple = tuple[Any, dict[str, Any], str]


def load_transfluor() -> list[LayerTuple]:
    """The eight fields as layers, controls in the upper row and treated wells below.

    What is known about each field lies in its metadata.
    """
    fields = transfluor()
    limits, layers = _limits(fields), []
    for field, place in zip(fields, _places(fields), strict=True):
        described = _described(field, limits, place)
        layers.append((field.read()[0], described, "image"))
    return layers


def load_simulated() -> list[LayerTuple]:
    """Twelve simulated fields of two channels, a row a condition, controls in the upper one.

    The first axis of every layer says that it is the channels.
    """
    fields, _ = simulated()
    limits, layers = _limits(fields), []
    for field, place in zip(fields, _places(fields), strict=True):
        described = _described(field, limits, (0, *place))
        layers.append((field.read(), described | {"axis_labels": ("c", "y", "x")}, "image"))
    return layers


def _places(fields: Sequence[Field]) -> list[tuple[int, int]]:
    """Corners of fields side by side, with those of a condition in a row, controls first."""
    controls = {f.condition: f.is_control for f in fields}
    rows = sorted(controls, key=lambda condition: not controls[condition])
    taken = dict.fromkeys(rows, 0)
    places = []
    for field in fields:
        height, width = field.shape
        row, column = rows.index(field.condition), taken[field.condition] % _COLUMNS
        taken[field.condition] += 1
        places.append((row * (height + _GAP), column * (width + _GAP)))
    return places


def _limits(fields: Sequence[Field]) -> tuple[float, float]:
    """One range for all, so that brightness compares between wells."""
    low, high = np.percentile(np.stack([f.read() for f in fields]), [0.5, 99.8])
    return float(low), float(high)


def _described(field: Field, limits: tuple[float, float], place: tuple[int, ...]) -> dict[str, Any]:
    """Keyword arguments of a layer."""
    what = "control" if field.is_control else field.condition
    return {
        "name": f"{field.well} {field.site} ({what})",
        "contrast_limits": limits,
        "translate": place,
        "metadata": {
            FIELD_TAG: {
                "channel_names": field.channel_names,
                **asdict(field.info),
            }
        },
    }
