"""Built-in cell segmentation for images that come without labels."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.child_process import iter_in_child
from napari_microdl.core.config import SegmentationConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.stepping import run_through

# Of larger images, single steps take longer than a second.
_MOST_PIXELS = 2048 * 2048


@dataclass(frozen=True)
class Levels:
    """What the segmentation takes from the whole image, so that a part can be segmented as in it.

    Parameters
    ----------
    minimum : float
        Darkest pixel, in the unit of the image.
    otsu : float
        Otsu's threshold of the smoothed square roots.
    low : float
        Their first percentile.
    spread : float
        Standard deviation of the strongly smoothed square roots.
    """

    minimum: float
    otsu: float
    low: float
    spread: float


def measure_levels(image: NDArray[np.generic], config: SegmentationConfig | None = None) -> Levels:
    """Measure what the segmentation takes from the whole image.

    Parameters
    ----------
    image : ndarray of shape (height, width)
        One channel in which cells are bright.
    config : SegmentationConfig, optional
        Parameters; only the diameter counts.

    Returns
    -------
    Levels

    Raises
    ------
    MicrodlError
        If the image is not two-dimensional or holds NaN or infinite values.
    """
    return run_through(iter_measure_levels(image, config))


def iter_measure_levels(
    image: NDArray[np.generic], config: SegmentationConfig | None = None
) -> Generator[None, None, Levels]:
    """`measure_levels` in steps of less than a second for an image of 4k x 4k.

    Parameters
    ----------
    image, config
        As for `measure_levels`.

    Yields
    ------
    None
        Stop iterating to cancel.

    Returns
    -------
    Levels

    Raises
    ------
    MicrodlError
        As `measure_levels`.
    """
    config = config or SegmentationConfig()
    intensity = _checked(image)
    minimum = float(intensity.min())
    smooth, brightness = yield from _iter_smoothed(np.sqrt(intensity - minimum), config)
    return (yield from _iter_levels_of(minimum, smooth, brightness))


def _iter_smoothed(
    roots: NDArray[np.float32], config: SegmentationConfig
) -> Generator[None, None, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Square roots of intensities smoothed a little, and strongly."""
    from skimage.filters import gaussian

    smooth = gaussian(roots, config.diameter / 20)
    yield
    return smooth, gaussian(roots, config.diameter / 8)


def _iter_levels_of(
    minimum: float, smooth: NDArray[np.float32], brightness: NDArray[np.float32]
) -> Generator[None, None, Levels]:
    from skimage.filters import threshold_otsu

    yield
    otsu = float(threshold_otsu(smooth))
    yield
    low = float(np.percentile(smooth, 1))
    yield
    return Levels(minimum=minimum, otsu=otsu, low=low, spread=float(brightness.std()) or 1.0)


def _checked(image: NDArray[np.generic]) -> NDArray[np.float32]:
    if image.ndim != 2:
        raise MicrodlError(
            f"Segmentation needs one grey image (y, x) but got the shape {image.shape}; "
            "choose one channel."
        )
    intensity = np.asarray(image, np.float32)
    if not np.isfinite(intensity).all():
        raise MicrodlError(
            "The image to segment holds NaN or infinite values; replace them before running."
        )
    return intensity


def segment_cells(
    image: NDArray[np.generic],
    config: SegmentationConfig | None = None,
    levels: Levels | None = None,
) -> NDArray[np.int32]:
    """Cells by smoothing, a threshold and a seeded watershed.

    Parameters
    ----------
    image : ndarray of shape (height, width)
        One channel in which cells are bright.
    config : SegmentationConfig, optional
        Parameters; the defaults where not given.
    levels : Levels, optional
        Those of the whole image where `image` is a part of it; measured where not given. Cells
        farther than four diameters from where it was cut are those of the whole.

    Returns
    -------
    ndarray of shape (height, width)
        int32 labels from 1 without gaps, 0 is background.

    Raises
    ------
    MicrodlError
        If the image is not two-dimensional or holds NaN or infinite values.

    Notes
    -----
    Meant for a first look. A Labels layer from a trained segmentation is better where there is one.
    """
    return run_through(iter_segment_cells(image, config, levels))


def iter_segment_cells(
    image: NDArray[np.generic],
    config: SegmentationConfig | None = None,
    levels: Levels | None = None,
) -> Generator[None, None, NDArray[np.int32]]:
    """`segment_cells` in steps of less than a second.

    An image of more than 2k x 2k pixels is segmented in a process of its own, which ends where the
    iteration is stopped.

    Parameters
    ----------
    image, config, levels
        As for `segment_cells`.

    Yields
    ------
    None
        Stop iterating to cancel.

    Returns
    -------
    ndarray of shape (height, width)
        As `segment_cells`.

    Raises
    ------
    MicrodlError
        As `segment_cells`.
    """
    if image.size > _MOST_PIXELS:
        labels: NDArray[np.int32] = yield from iter_in_child(_iter_segment, image, config, levels)
        return labels
    return (yield from _iter_segment(image, config, levels))


def _iter_segment(
    image: NDArray[np.generic], config: SegmentationConfig | None, levels: Levels | None
) -> Generator[None, None, NDArray[np.int32]]:
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_local
    from skimage.morphology import remove_small_objects
    from skimage.segmentation import relabel_sequential, watershed

    config = config or SegmentationConfig()
    intensity = _checked(image)
    minimum = float(intensity.min()) if levels is None else levels.minimum
    # Square roots even out bright and dim cells, so that dim ones are not lost to the threshold.
    roots = np.sqrt(np.maximum(intensity - minimum, 0))
    yield
    smooth, brightness = yield from _iter_smoothed(roots, config)
    if levels is None:
        levels = yield from _iter_levels_of(minimum, smooth, brightness)
    yield
    if config.threshold == "otsu":
        foreground = smooth > levels.otsu
    else:
        block = int(3 * config.diameter) // 2 * 2 + 1
        # The floor keeps noise in empty regions from being called cells.
        floor = levels.low + 0.25 * (levels.otsu - levels.low)
        foreground = (smooth > threshold_local(smooth, block)) & (smooth > floor)
    yield
    foreground = ndimage.binary_opening(foreground, iterations=2)
    yield
    foreground = ndimage.binary_fill_holes(foreground)
    yield
    distance = ndimage.distance_transform_edt(foreground) / (config.diameter / 2)
    yield
    landscape = np.minimum(gaussian(distance, 1.5), 1) + 0.5 * brightness / levels.spread
    yield
    seeds = peak_local_max(
        landscape,
        min_distance=max(2, round(config.diameter * 0.4)),
        labels=foreground.astype(np.int32),
        exclude_border=False,
    )
    yield
    markers = np.zeros(image.shape, np.int32)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    labels = watershed(-landscape, markers, mask=foreground)
    yield
    labels = remove_small_objects(labels, max_size=int(config.smallest_area))
    yield
    relabelled: NDArray[np.int32] = relabel_sequential(labels)[0].astype(np.int32)
    return relabelled
