"""File > Open Sample: treated and control wells, with conditions and controls set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import simulated, transfluor
from napari_microdl.gui.overlays.arranging import places
from napari_microdl.gui.session.layers import FIELD_TAG

LayerTuple = tuple[Any, dict[str, Any], str]


def load_transfluor() -> list[LayerTuple]:
    """The eight fields as layers, controls in the upper row and treated wells below.

    What is known about each field lies in its metadata.
    """
    fields = transfluor()
    limits, layers = _limits(fields), []
    for field, place in zip(fields, _corners(fields), strict=True):
        described = _described(field, limits, place)
        layers.append((field.read()[0], described, "image"))
    return layers


def load_simulated() -> list[LayerTuple]:
    """Twelve simulated fields of two channels, a row a condition, controls in the upper one.

    The first axis of every layer says that it is the channels.
    """
    fields, _ = simulated()
    limits, layers = _limits(fields), []
    for field, place in zip(fields, _corners(fields), strict=True):
        described = _described(field, limits, (0, *place))
        layers.append((field.read(), described | {"axis_labels": ("c", "y", "x")}, "image"))
    return layers


def _corners(fields: Sequence[Field]) -> list[tuple[float, float]]:
    """Where fields lie, as the window arranges them."""
    return places([field.shape for field in fields], [(f.is_control, f.condition) for f in fields])


def _limits(fields: Sequence[Field]) -> tuple[float, float]:
    """One range for all, so that brightness compares between wells."""
    low, high = np.percentile(np.stack([f.read() for f in fields]), [0.5, 99.8])
    return float(low), float(high)


def _described(
    field: Field, limits: tuple[float, float], place: tuple[float, ...]
) -> dict[str, Any]:
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
