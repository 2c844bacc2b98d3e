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
# Images whose signal is less hold no cells. Of camera noise it is 3 to 6, of noise that is alike in
# neighbouring pixels up to 8; of the 541 images of dsb2018, none of them empty, 17 at the least.
LEAST_SIGNAL = 12.0
# What is less above the darkest places, in standard deviations of the smoothed noise, is noise.
_LEAST_CONTRAST = 6.0
# Shares of the pixels, in percent, that may be defects of the camera.
_DEFECTS = (0.01, 99.99)
# Its mean over neighbours is 0 for a slope, and its variance 36 times that of white noise.
_SECOND_DIFFERENCES = np.outer((1, -2, 1), (1, -2, 1)).astype(np.float32)


@dataclass(frozen=True)
class Levels:
    """What the segmentation takes from the whole image, so that a part can be segmented as in it.

    Parameters
    ----------
    minimum, maximum : float
        Range of the pixels without the darkest and brightest in 10,000, of which some may be
        defects of the camera, in the unit of the image.
    signal : float
        How much the brightest place of the size of a cell stands out from what is around it, in
        standard deviations of what noise does there; about 4 in an image of nothing.
    noise : float
        Standard deviation of the noise in the image as it is smoothed, in its unit.
    otsu : float
        Otsu's threshold of the smoothed square roots.
    low : float
        Their first percentile.
    spread : float
        Standard deviation of the strongly smoothed square roots.
    base : float, default=0.0
        What was taken off pixels first, in the unit of the image; minimum and maximum are above it.
    """

    minimum: float
    maximum: float
    signal: float
    noise: float
    otsu: float
    low: float
    spread: float
    base: float = 0.0


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
    base = _base(image)
    return _measured(_checked(image, base), config, base)[0]


def _measured(
    intensity: NDArray[np.float32], config: SegmentationConfig, base: float
) -> tuple[Levels, NDArray[np.float32], NDArray[np.float32]]:
    """Levels of an image, and its square roots smoothed a little, and strongly."""
    from skimage.filters import threshold_otsu

    minimum, maximum = (float(v) for v in np.percentile(intensity, _DEFECTS))
    current_task().check()
    signal, noise = _signal_and_noise(np.clip(intensity, minimum, maximum), config.diameter)
    current_task().check()
    roots = _roots(intensity, minimum, maximum)
    smooth, brightness = _smoothed(roots, config)
    current_task().check()
    otsu = float(threshold_otsu(smooth))
    current_task().check()
    low = float(np.percentile(smooth, 1))
    current_task().check()
    levels = Levels(
        minimum=minimum,
        maximum=maximum,
        signal=signal,
        noise=noise,
        otsu=otsu,
        low=low,
        spread=float(brightness.std()) or 1.0,
        base=base,
    )
    current_task().check()
    return levels, smooth, brightness


def _roots(intensity: NDArray[np.float32], minimum: float, maximum: float) -> NDArray[np.float32]:
    """Square roots, which even out bright and dim cells, so that dim ones are not lost."""
    roots: NDArray[np.float32] = np.sqrt(np.clip(intensity, minimum, maximum) - minimum)
    return roots


def _signal_and_noise(intensity: NDArray[np.float32], diameter: float) -> tuple[float, float]:
    """What stands out on the scale of cells, and the noise of the smoothed image; see `Levels`.

    Notes
    -----
    The noise is measured in second differences of neighbours (Immerkaer 1996), after pixels were
    averaged in squares of a tenth of a cell, so that noise that is alike in neighbouring pixels
    counts as noise as well. Uneven light, up to the second order, is no signal.
    """
    from scipy import ndimage

    edge = max(1, round(diameter / 10))
    height, width = (n // edge for n in intensity.shape)
    if min(height, width) < 4:
        return np.inf, 0.0
    squares = intensity[: height * edge, : width * edge].reshape(height, edge, width, edge)
    mean = squares.mean((1, 3), dtype=np.float64)
    rounding = 1e-6 * float(np.abs(mean).max())
    y, x = (np.linspace(-1, 1, n) for n in mean.shape)
    terms = [np.outer(a, b) for a in (y**0, y, y**2) for b in (x**0, x, x**2)]
    basis = np.stack([term.ravel() for term in terms], axis=1)
    mean -= (basis @ np.linalg.lstsq(basis, mean.ravel(), rcond=None)[0]).reshape(mean.shape)
    current_task().check()
    residual = ndimage.convolve(mean, _SECOND_DIFFERENCES)[1:-1, 1:-1] / 6
    # Of a normal distribution 0.6745 is the median of the absolute values.
    noise = float(np.median(np.abs(residual))) / 0.6745
    fine, coarse = diameter / 8 / edge, diameter / edge
    band = ndimage.gaussian_filter(mean, fine) - ndimage.gaussian_filter(mean, coarse)
    highest = float(band.max())
    if highest <= rounding:
        return 0.0, 0.0
    # Of white noise of variance 1, by the squared norm of the difference of the two kernels.
    left = (1 / fine**2 + 1 / coarse**2 - 4 / (fine**2 + coarse**2)) / (4 * np.pi)
    smoothed = noise * edge / (2 * np.sqrt(np.pi) * diameter / 20)
    return (highest / (noise * np.sqrt(left)) if noise > 0 else np.inf), float(smoothed)


def _smoothed(
    roots: NDArray[np.float32], config: SegmentationConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Square roots of intensities smoothed a little, and strongly."""
    from skimage.filters import gaussian

    smooth = gaussian(roots, config.diameter / 20)
    current_task().check()
    return smooth, gaussian(roots, config.diameter / 8)


def _base(image: NDArray[np.generic]) -> float:
    """What is taken off first: of a small difference of large numbers float32 leaves nothing."""
    return float(image.min()) if image.size and not np.can_cast(image.dtype, np.float32) else 0.0


def _checked(image: NDArray[np.generic], base: float) -> NDArray[np.float32]:
    if image.ndim != 2:
        raise MicrodlError(
            f"Segmentation needs one grey image (y, x) but got the shape {image.shape}; "
            "choose one channel."
        )
    intensity = np.asarray(image.astype(np.float64) - base if base else image, np.float32)
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
        int32 labels from 1 without gaps, 0 is background. No cells where the image varies no more
        on the scale of cells than its own noise would.

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
    from skimage.segmentation import relabel_sequential, watershed

    config = config or SegmentationConfig()
    base = _base(image) if levels is None else levels.base
    intensity = _checked(image, base)
    current_task().check()
    if levels is None:
        levels, smooth, brightness = _measured(intensity, config, base)
    else:
        roots = _roots(intensity, levels.minimum, levels.maximum)
        smooth, brightness = _smoothed(roots, config)
    current_task().check()
    if levels.signal < LEAST_SIGNAL:
        return np.zeros(image.shape, np.int32)
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
    objects, area = np.arange(labels.max() + 1), np.bincount(labels.ravel())
    contrast = ndimage.mean(smooth**2, labels, objects) - levels.low**2
    chosen = (area > int(config.smallest_area)) & (contrast > _LEAST_CONTRAST * levels.noise)
    labels[~chosen[labels]] = 0
    current_task().check()
    relabelled: NDArray[np.int32] = relabel_sequential(labels)[0].astype(np.int32)
    return relabelled
