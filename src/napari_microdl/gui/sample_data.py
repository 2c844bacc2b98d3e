"""File > Open Sample: treated and control wells, with conditions and controls set."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_microdl.gui.layers import FIELD_TAG
from napari_microdl.samples import transfluor

_COLUMNS = 4
_GAP = 24


def load_transfluor() -> list[tuple[Any, dict[str, Any], str]]:
    """The eight fields as layers, controls in the upper row and treated wells below.

    Returns
    -------
    list of (data, keyword arguments, "image")
        Layer data tuples. What is known about each field lies in its metadata.
    """
    fields = transfluor()
    # One range for all, so that brightness compares between wells.
    limits = np.percentile(np.stack([f.read() for f in fields]), [0.5, 99.8])
    places = {True: 0, False: 0}
    layers = []
    for field in fields:
        column = places[field.is_control] % _COLUMNS
        places[field.is_control] += 1
        row = 0 if field.is_control else 1
        height, width = field.shape
        what = "control" if field.is_control else field.condition
        layers.append(
            (
                field.read()[0],
                {
                    "name": f"{field.well} {field.site} ({what})",
                    "contrast_limits": tuple(float(v) for v in limits),
                    "translate": (row * (height + _GAP), column * (width + _GAP)),
                    "metadata": {
                        FIELD_TAG: {
                            "name": field.name,
                            "channel_names": field.channel_names,
                            "condition": field.condition,
                            "is_control": field.is_control,
                            "well": field.well,
                            "site": field.site,
                            "plate": field.plate,
                        }
                    },
                },
                "image",
            )
        )
    return layers
