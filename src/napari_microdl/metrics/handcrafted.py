"""A baseline of measurements by hand: shape, intensity and texture of every cell, made sparse."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from skimage.feature import graycomatrix, graycoprops
from skimage.measure import regionprops
from skimage.segmentation import relabel_sequential

from napari_microdl.core.config import Library
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task

LIBRARIES: tuple[Library, ...] = get_args(Library)
_SHAPE = (
    "area",
    "perimeter",
    "eccentricity",
    "solidity",
    "extent",
    "axis_major_length",
    "axis_minor_length",
    "equivalent_diameter_area",
)
_TEXTURE = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
_DISTANCES = (1, 3)
_ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
# The last level stands for what lies outside the cell.
_LEVELS = 16
_PERCENTILES = (5, 50, 95)

_MISSING = (
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


def require_library(library: Library) -> None:
    """Refuse a library of measurements that cannot be had.

    Parameters
    ----------
    library : {"scikit-image", "cp_measure"}
        Whose measurements.

    Raises
    ------
    MicrodlError
        If it is not known or not installed.
    """
    if library not in LIBRARIES:
        raise MicrodlError(
            f"'{library}' is not known as a library of measurements; use one of "
            f"{', '.join(LIBRARIES)}."
        )
    if library == "cp_measure" and importlib.util.find_spec("cp_measure") is None:
        raise MicrodlError(_MISSING)


def cell_measurements(
    image: NDArray[np.generic],
    labels: NDArray[np.integer],
    channel_names: tuple[str, ...] = (),
    *,
    library: Library = "scikit-image",
) -> pd.DataFrame:
    """Measure every cell of an image.

    Parameters
    ----------
    image : ndarray of shape (n_channels, height, width)
        The image.
    labels : ndarray of int, shape (height, width)
        Cells; 0 is background.
    channel_names : tuple of str, optional
        Names in the columns; numbers where not given.
    library : {"scikit-image", "cp_measure"}
        Whose measurements: a few dozen from scikit-image, or the hundreds of CellProfiler as the
        package cp_measure has them.

    Returns
    -------
    DataFrame of one row a cell, indexed by label
        From scikit-image ``shape_<name>`` as `skimage.measure.regionprops` has them (pixels); for
        every channel ``intensity_<name>_<channel>``: mean, standard deviation, percentiles and mass
        displacement (pixels from the centre of the cell to that of its intensity), in units of the
        image; and
        ``texture_<name>_<distance>_<channel>`` of the grey-level co-occurrence matrix, mean over
        four angles, at distances of 1 and 3 pixels. Grey levels run from the 1st to the 99th
        percentile of the channel in the image.

        From cp_measure CellProfiler's names, with the channel behind: ``AreaShape_<name>`` (size
        and shape, Zernike and Feret; pixels), and for every channel ``Intensity_<name>_<channel>``
        in units of the image, ``RadialDistribution_``, ``Granularity_`` and ``Texture_``, the last
        of 255 grey levels over the same range as above. Places in the image are left out.

        What a cell has not, such as a texture where it is too small for pairs of pixels, is 0.

    Raises
    ------
    MicrodlError
        If the shapes do not fit, or the library is not known or not installed.
    """
    require_library(library)
    if image.ndim != 3 or image.shape[1:] != labels.shape:
        raise MicrodlError(
            f"The image has the shape {image.shape} and the labels {labels.shape}; give channels x "
            "height x width, and labels of the same height and width."
        )
    names = channel_names or tuple(str(n) for n in range(len(image)))
    if len(names) != len(image):
        raise MicrodlError(f"There are {len(image)} channels but {len(names)} names.")
    pixels = np.array(image, np.float64)
    scaled = np.stack([_scaled(channel) for channel in pixels])
    if library == "cp_measure":
        return _of_cellprofiler(pixels, scaled, labels, names)
    levels = np.round(scaled * (_LEVELS - 1)).astype(np.uint8)
    rows: dict[int, dict[str, float]] = {}
    regions = regionprops(labels)
    for number, region in enumerate(regions):
        current_task().progress(number, len(regions))
        row = {f"shape_{name}": float(region[name]) for name in _SHAPE}
        inside = region.image
        for channel, name in enumerate(names):
            row |= _intensities(pixels[channel][region.slice], inside, name)
            row |= _textures(levels[channel][region.slice], inside, name)
        rows[int(region.label)] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("label")


def _scaled(channel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Between 0 and 1 from the 1st to the 99th percentile."""
    low, high = np.percentile(channel, [1, 99])
    scaled = (channel - low) / max(high - low, np.finfo(np.float64).tiny)
    clipped: NDArray[np.float64] = np.clip(scaled, 0, 1)
    return clipped


def _intensities(
    pixels: NDArray[np.float64], inside: NDArray[np.bool_], name: str
) -> dict[str, float]:
    values = pixels[inside]
    places = np.argwhere(inside)
    weight = values - values.min()
    shift = 0.0
    if weight.sum() > 0:
        centre = (places * weight[:, None]).sum(axis=0) / weight.sum()
        shift = float(np.linalg.norm(centre - places.mean(axis=0)))
    return {
        f"intensity_mean_{name}": float(values.mean()),
        f"intensity_std_{name}": float(values.std()),
        **{
            f"intensity_p{q}_{name}": float(value)
            for q, value in zip(_PERCENTILES, np.percentile(values, _PERCENTILES), strict=True)
        },
        f"intensity_displacement_{name}": shift,
    }


def _textures(levels: NDArray[np.uint8], inside: NDArray[np.bool_], name: str) -> dict[str, float]:
    marked = np.where(inside, levels, _LEVELS)
    pairs = graycomatrix(marked, _DISTANCES, _ANGLES, levels=_LEVELS + 1, symmetric=True)
    # Pairs with a pixel outside the cell do not count.
    pairs = pairs[:_LEVELS, :_LEVELS].astype(np.float64)
    total = pairs.sum(axis=(0, 1))
    pairs = np.divide(pairs, total, out=np.zeros_like(pairs), where=total > 0)
    found = {}
    for kind in _TEXTURE:
        values = graycoprops(pairs, kind)
        for row, distance in enumerate(_DISTANCES):
            there = total[row] > 0
            mean = float(values[row][there].mean()) if there.any() else 0.0
            found[f"texture_{kind}_{distance}_{name}"] = mean
    return found


def _of_cellprofiler(
    image: NDArray[np.float64],
    levels: NDArray[np.float64],
    labels: NDArray[np.integer],
    channel_names: tuple[str, ...],
) -> pd.DataFrame:
    """Measurements of cp_measure; `levels` are the image from 0 to 1."""
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
    jobs = [(kind, image[0], "") for kind in _OF_SHAPE]
    for pixels, scaled, channel in zip(image, levels, channel_names, strict=True):
        jobs += [
            (kind, scaled if kind == "texture" else pixels, f"_{channel}") for kind in _OF_INTENSITY
        ]
    for number, (kind, pixels, suffix) in enumerate(jobs):
        current_task().progress(number, len(jobs))
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


def quantile_codes(
    features: NDArray[np.floating], non_zeros: float, *, both_tails: bool = False
) -> sparse.csr_array:
    """Measurements as sparse codes: active where they are among the largest of all samples.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        Measurements.
    non_zeros : float
        Wanted mean number of non-zeros of a sample, such as that of the codes compared with.
    both_tails : bool, default=False
        Take small values for a second set of features, as small means as much as large.

    Returns
    -------
    csr_array of shape (n_samples, n_features) or (n_samples, 2 * n_features)
        1.0 where active. Ties at the threshold are not, so features with many equal values have
        fewer non-zeros.

    Raises
    ------
    MicrodlError
        If more non-zeros are wanted than there are features, or values are not finite.

    Notes
    -----
    Paper, section 4: CellProfiler features, thresholded at a quantile so that they are as sparse as
    the codes.
    """
    x = np.asarray(features, np.float64)
    if both_tails:
        x = np.hstack([x, -x])
    if x.ndim != 2 or not 0 < non_zeros < x.shape[1] or not np.isfinite(x).all():
        raise MicrodlError(
            f"{non_zeros:g} non-zeros of features of the shape {x.shape} cannot be had; give "
            "finite features, and more of them than non-zeros."
        )
    threshold = np.quantile(x, 1 - non_zeros / x.shape[1], axis=0)
    return sparse.csr_array((x > threshold).astype(np.float64))


def baseline_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Pearson correlation of the best selectivities per label of two representations.

    Parameters
    ----------
    first, second : ndarray of shape (n_labels,)
        Best selectivity of every label, in the same order.

    Returns
    -------
    float
        -1 to 1; NaN with fewer than three labels or where one side is the same for all.

    Raises
    ------
    MicrodlError
        If the lengths differ.

    Notes
    -----
    Paper, section 4: 0.71 between ICFL and CellProfiler.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise MicrodlError(
            f"There are {a.size} and {b.size} labels; compare the same labels in the same order."
        )
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
