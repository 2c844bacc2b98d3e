"""Built-in cell segmentation for images that come without labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.child_process import call_in_child
from napari_microdl.core.config import SegmentationConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task

# Of larger images, single steps take longer than a second.
PIXELS_IN_THIS_PROCESS = 2048 * 2048


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
    config = config or SegmentationConfig()
    intensity = _checked(image)
    minimum = float(intensity.min())
    smooth, brightness = _smoothed(np.sqrt(intensity - minimum), config)
    return _levels_of(minimum, smooth, brightness)


def _smoothed(
    roots: NDArray[np.float32], config: SegmentationConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Square roots of intensities smoothed a little, and strongly."""
    from skimage.filters import gaussian

    smooth = gaussian(roots, config.diameter / 20)
    current_task().check()
    return smooth, gaussian(roots, config.diameter / 8)


def _levels_of(
    minimum: float, smooth: NDArray[np.float32], brightness: NDArray[np.float32]
) -> Levels:
    from skimage.filters import threshold_otsu

    current_task().check()
    otsu = float(threshold_otsu(smooth))
    current_task().check()
    low = float(np.percentile(smooth, 1))
    current_task().check()
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
    *,
    pixels_in_this_process: int = PIXELS_IN_THIS_PROCESS,
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
    pixels_in_this_process : int, default=2048 * 2048
        A larger image is segmented in a process of its own, which ends at once where the task is
        cancelled.

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
    if image.size > pixels_in_this_process:
        labels: NDArray[np.int32] = call_in_child(_segment, image, config, levels)
        return labels
    return _segment(image, config, levels)


def _segment(
    image: NDArray[np.generic], config: SegmentationConfig | None, levels: Levels | None
) -> NDArray[np.int32]:
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
    current_task().check()
    smooth, brightness = _smoothed(roots, config)
    if levels is None:
        levels = _levels_of(minimum, smooth, brightness)
    current_task().check()
    if config.threshold == "otsu":
        foreground = smooth > levels.otsu
    else:
        block = int(3 * config.diameter) // 2 * 2 + 1
        # The floor keeps noise in empty regions from being called cells.
        floor = levels.low + 0.25 * (levels.otsu - levels.low)
        foreground = (smooth > threshold_local(smooth, block)) & (smooth > floor)
    current_task().check()
    foreground = ndimage.binary_opening(foreground, iterations=2)
    current_task().check()
    foreground = ndimage.binary_fill_holes(foreground)
    current_task().check()
    distance = ndimage.distance_transform_edt(foreground) / (config.diameter / 2)
    current_task().check()
    landscape = np.minimum(gaussian(distance, 1.5), 1) + 0.5 * brightness / levels.spread
    current_task().check()
    seeds = peak_local_max(
        landscape,
        min_distance=max(2, round(config.diameter * 0.4)),
        labels=foreground.astype(np.int32),
        exclude_border=False,
    )
    current_task().check()
    markers = np.zeros(image.shape, np.int32)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    labels = watershed(-landscape, markers, mask=foreground)
    current_task().check()
    labels = remove_small_objects(labels, max_size=int(config.smallest_area))
    current_task().check()
    relabelled: NDArray[np.int32] = relabel_sequential(labels)[0].astype(np.int32)
    return relabelled
