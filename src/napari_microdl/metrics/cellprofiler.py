"""CellProfiler's measurements of every cell, as the package cp_measure has them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.segmentation import relabel_sequential

from napari_microdl.core.errors import MicrodlError

MISSING = (
    "CellProfiler's measurements need the package cp-measure: pip install "
    "'napari-microdl[cellprofiler]'."
)
# Where a cell lies is nothing of the cell; a label that is in one corner of the images would be
# told by it.
_PLACES = ("Center_", "BoundingBoxM", "Location_")
# Central moments of an order below two are zero or one in every cell, and not defined normalised.
_UNDEFINED = ("NormalizedMoment_0_0", "NormalizedMoment_0_1", "NormalizedMoment_1_0")
_OF_SHAPE = ("sizeshape", "zernike", "feret")
_OF_INTENSITY = ("intensity", "radial_distribution", "radial_zernikes", "granularity", "texture")
# In CellProfiler the names begin with the module; cp_measure leaves some of them out.
_MODULE = {**dict.fromkeys(_OF_SHAPE, "AreaShape_"), "texture": "Texture_"}

_Measure = Callable[[NDArray[np.integer], NDArray[np.float64]], dict[str, Any]]


def cp_measure_is_installed() -> bool:
    """Whether the package cp_measure can be imported."""
    return importlib.util.find_spec("cp_measure") is not None


def iter_cellprofiler_measurements(
    image: NDArray[np.float64],
    levels: NDArray[np.float64],
    labels: NDArray[np.integer],
    channel_names: tuple[str, ...],
) -> Generator[tuple[int, int], None, pd.DataFrame]:
    """CellProfiler's measurements, one kind of one channel an iteration.

    Parameters
    ----------
    image : ndarray of shape (n_channels, height, width)
        The image.
    levels : ndarray of shape (n_channels, height, width)
        The same from 0 to 1, of which the texture takes 255 grey levels.
    labels : ndarray of int, shape (height, width)
        Cells; 0 is background.
    channel_names : tuple of str
        Names in the columns.

    Yields
    ------
    done, total : int
        Kinds of measurements, those of intensity once a channel; stop iterating to cancel.

    Returns
    -------
    DataFrame of one row a cell, indexed by label
        See `napari_microdl.metrics.cell_measurements`.

    Raises
    ------
    MicrodlError
        If cp_measure is not installed.
    """
    if not cp_measure_is_installed():
        raise MicrodlError(MISSING)
    # It counts cells from 1 on without gaps.
    numbered, _, known = relabel_sequential(labels)
    names = np.asarray(known)[1:]
    found: dict[str, NDArray[np.float64]] = {}
    if not len(names):
        return pd.DataFrame(found, index=pd.Index(names, name="label"))
    measures = _measures()
    # To the texture, level 0 of 256 is what lies outside the cell.
    levels = (1 + 254 * levels) / 255
    # One channel does for the shapes, which do not look at it.
    tasks = [(kind, image[0], "") for kind in _OF_SHAPE]
    for pixels, scaled, channel in zip(image, levels, channel_names, strict=True):
        tasks += [
            (kind, scaled if kind == "texture" else pixels, f"_{channel}") for kind in _OF_INTENSITY
        ]
    for number, (kind, pixels, suffix) in enumerate(tasks):
        yield number, len(tasks)
        # A cell of few pixels has no spread to divide by, and no neighbours for a texture.
        with np.errstate(all="ignore"):
            values = measures[kind](numbered, pixels)
        for name, column in values.items():
            if name in _UNDEFINED or name.startswith(_PLACES):
                continue
            found[f"{_MODULE.get(kind, '')}{name}{suffix}"] = np.nan_to_num(
                np.asarray(column, np.float64), nan=0.0, posinf=0.0, neginf=0.0
            )
    return pd.DataFrame(found, index=pd.Index(names, name="label"))


def _measures() -> dict[str, _Measure]:
    from cp_measure.bulk import get_core_measurements

    measures: dict[str, _Measure] = get_core_measurements(sanitize=False)
    try:
        # Compiled, its texture gives the same to ten digits in a hundredth of the time; of the
        # other kinds none gets faster.
        from cp_measure.core.numba.measuretexture import get_texture
    except ImportError:
        return measures
    return {**measures, "texture": get_texture}
