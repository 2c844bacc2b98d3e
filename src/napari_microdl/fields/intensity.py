"""Intensity scaling, measured over an image or a whole plate, never over a tile."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.config import Intensity, ScalingMode
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field, UnusableFieldsError

# The background of this many pixels is known to a few parts in ten thousand; more would only cost
# time on large images.
_SAMPLED_PIXELS = 1_000_000
# Beyond it whole numbers are not told apart.
_MOST = 2.0**53
# The mean intensity becomes _LEVEL * log(1 + _CONTRAST), about the middle of what the model saw in
# training.
_CONTRAST, _LEVEL = 2.0, 0.3


def log_scale(
    image: NDArray[np.generic],
    background: NDArray[np.float64] | float,
    mean: NDArray[np.float64] | float,
) -> NDArray[np.float32]:
    """Intensities on the curve "log" of `IntensityScaling`, as float32 not below 0.

    `background` and `mean` are in the unit of the image and broadcast against it.
    """
    factor = np.asarray(_CONTRAST / (np.asarray(mean) - background), np.float32)
    scaled = _above(image, background)
    scaled *= factor
    np.maximum(scaled, 0, out=scaled)
    np.log1p(scaled, out=scaled)
    scaled *= _LEVEL
    return scaled


def linear_scale(
    image: NDArray[np.generic],
    background: NDArray[np.float64] | float,
    top: NDArray[np.float64] | float,
) -> NDArray[np.float32]:
    """Intensities as float32 from 0 at the background to 1 at the top, clipped there."""
    scaled = _above(image, background)
    scaled *= np.asarray(1 / (np.asarray(top) - background), np.float32)
    np.clip(scaled, 0, 1, out=scaled)
    return scaled


def _above(
    image: NDArray[np.generic], background: NDArray[np.float64] | float
) -> NDArray[np.float32]:
    """Intensities above a background, as float32."""
    if np.can_cast(image.dtype, np.float32):
        scaled = image.astype(np.float32)
        scaled -= np.asarray(background, np.float32)
        return scaled
    # Of a small difference of large numbers float32 would leave nothing.
    return np.asarray(image.astype(np.float64) - background, np.float32)


@dataclass(frozen=True)
class ChannelLimits:
    """What the intensities of one channel of one field are measured against.

    Parameters
    ----------
    field, channel : str
        Their names.
    background : float
        Becomes 0, in the unit of the image.
    reference : float
        Mean of the channel for the curve "log", where it becomes a third; the high percentile for
        "linear", where it becomes 1.
    """

    field: str
    channel: str
    background: float
    reference: float


class IntensityScaling:
    """Intensities of every channel on the scale that a model wants.

    On the curve "log", the logarithm of the intensity above background, relative to its mean: the
    low percentile of a channel becomes 0 and its mean a third; ten times the mean gives 0.9. On the
    curve "linear", the low percentile becomes 0 and the high one 1.

    Parameters
    ----------
    mode : {"image", "plate"}, default="image"
        Whether background and mean are measured in every field by itself, or over all fields
        together. A plate keeps differences of brightness between its fields.
    background : float, default=0.5
        Percentile, in percent, that counts as background.
    curve : {"log", "linear"}
        Which scale; models say which one they were trained on.
    top : float, default=99.9
        Percentile, in percent, that becomes 1 on the curve "linear".

    Attributes
    ----------
    limits_ : ndarray of shape (n_fields, n_channels, 2)
        Background, and mean ("log") or high percentile ("linear"), in the unit of the images.

    Notes
    -----
    Scaling linearly to a high percentile lets the few brightest pixels set the contrast of all
    others: a treatment that makes bright spots then also dims the background, and the model sees
    that before it sees the spots.
    """

    def __init__(
        self,
        mode: ScalingMode = "image",
        *,
        background: float = 0.5,
        curve: Intensity = "log",
        top: float = 99.9,
    ) -> None:
        if mode not in get_args(ScalingMode):
            raise MicrodlError(f"Scaling mode '{mode}' is not known; use 'image' or 'plate'.")
        if not 0 <= background < 50:
            raise MicrodlError(
                f"A background percentile of {background} is not between 0 and 50 percent."
            )
        if curve not in get_args(Intensity):
            raise MicrodlError(f"Intensity scale '{curve}' is not known; use 'log' or 'linear'.")
        if not 50 < top <= 100:
            raise MicrodlError(f"A high percentile of {top} is not between 50 and 100 percent.")
        self.mode = mode
        self.background = background
        self.curve = curve
        self.top = top
        self.limits_: NDArray[np.float64]

    def fit(
        self, fields: Sequence[Field], channels: tuple[str, ...] | None = None
    ) -> IntensityScaling:
        """Measure background and mean, or background and high percentile.

        Lazy images are read once, some rows at a time.

        Parameters
        ----------
        fields : sequence of Field
            All fields that will be scaled, in the order used by `apply`.
        channels : tuple of str, optional
            Channels to use; all where not given.

        Returns
        -------
        IntensityScaling
            Itself.

        Raises
        ------
        UnusableFieldsError
            If fields cannot be read, hold NaN, infinite or very large values, or have a constant
            channel; says which, after all have been looked at.
        MicrodlError
            If there are no fields, or a channel is constant over all of them.
        """
        if not fields:
            raise MicrodlError("There are no fields to scale; choose at least one image.")
        samples: list[list[NDArray[np.float64]]] = []
        of_field: list[list[tuple[float, float]]] = []
        wrong: dict[int, str] = {}
        for index, field in enumerate(fields):
            message = f"Measuring intensities in {field.name}"
            with current_task().step(index, len(fields), message):
                try:
                    sample = self._sample(field, channels)
                except (MicrodlError, OSError) as error:
                    wrong[index] = str(error)
                    continue
            if self.mode == "plate":
                samples.append(sample)
                continue
            limits_here = [self._limits(p) for p in sample]
            if reason := _constant(limits_here, field, channels, f"field '{field.name}'"):
                wrong[index] = reason
            of_field.append(limits_here)
        if wrong:
            raise UnusableFieldsError(wrong)
        if self.mode == "plate":
            pooled = []
            for parts in zip(*samples, strict=True):
                current_task().check()
                pooled.append(self._limits(np.concatenate(parts)))
            if reason := _constant(pooled, fields[0], channels, "all fields"):
                raise MicrodlError(reason)
            of_field = [pooled] * len(fields)
        self.limits_ = np.array(of_field)
        self._names = [
            (field.name, tuple(field.channel_names[c] for c in field.channel_indices(channels)))
            for field in fields
        ]
        return self

    def describe(self) -> list[ChannelLimits]:
        """What was measured, for people: one entry a field and channel, in the fitted order."""
        return [
            ChannelLimits(field, channel, float(background), float(reference))
            for (field, channels), limits in zip(self._names, self.limits_, strict=True)
            for channel, (background, reference) in zip(channels, limits, strict=True)
        ]

    def of_field(self, index: int) -> IntensityScaling:
        """The scaling of one field alone, which is its first.

        Parameters
        ----------
        index : int
            Place of the field among those fitted.

        Returns
        -------
        IntensityScaling
        """
        one = copy(self)
        one.limits_, one._names = self.limits_[[index]], [self._names[index]]
        return one

    def apply(self, index: int, image: NDArray[np.generic]) -> NDArray[np.float32]:
        """Scale one field.

        Parameters
        ----------
        index : int
            Its place among the fitted fields.
        image : ndarray of shape (n_channels, height, width)
            Intensities of the fitted channels.

        Returns
        -------
        ndarray of shape (n_channels, height, width)
            float32, not below 0; on the curve "linear" not above 1 either.
        """
        background, reference = np.moveaxis(self.limits_[index], -1, 0)[..., None, None]
        scale = log_scale if self.curve == "log" else linear_scale
        return scale(image, background, reference)

    def _limits(self, values: NDArray[np.float64]) -> tuple[float, float]:
        if values.min() == values.max():
            # The mean of equal numbers can be off by rounding.
            return float(values[0]), float(values[0])
        low = np.percentile(values, self.background)
        high = values.mean() if self.curve == "log" else np.percentile(values, self.top)
        if high <= low:
            # Nearly every pixel has one value: what little is darker must be the background.
            low = values.min()
        if high <= low:
            # And what little is brighter must be the signal.
            high = values.max()
        return float(low), float(high)

    def _sample(self, field: Field, channels: tuple[str, ...] | None) -> list[NDArray[np.float64]]:
        height, width = field.shape
        step = max(1, int(np.sqrt(height * width / _SAMPLED_PIXELS)))
        n = field.strip_rows()
        values = []
        for c in field.channel_indices(channels):
            parts = []
            for start in range(0, height, n):
                current_task().check()
                strip = field.read_rows(start, min(start + n, height), (c,))[0]
                if strip.dtype.kind == "f" and not np.isfinite(strip).all():
                    raise MicrodlError(
                        f"Channel '{field.channel_names[c]}' of field '{field.name}' holds NaN or "
                        "infinite values; replace them before running."
                    )
                if strip.dtype.itemsize > 4 and _exceeds(strip):
                    raise MicrodlError(
                        f"Channel '{field.channel_names[c]}' of field '{field.name}' holds values "
                        f"beyond {_MOST:.0e}, which cannot be told apart; take off what they have "
                        "in common, or divide them."
                    )
                # Every step-th row of the field, wherever the strip begins.
                parts.append(strip[-start % step :: step, ::step].ravel().astype(np.float64))
            values.append(np.concatenate(parts))
        return values


def _exceeds(values: NDArray[np.generic]) -> bool:
    """Whether integers cannot be told apart as float64, or float64 is none that float32 holds."""
    return bool(values.max() > _MOST or values.min() < -_MOST)


def _constant(
    limits: list[tuple[float, float]],
    field: Field,
    channels: tuple[str, ...] | None,
    where: str,
) -> str:
    """Why the first constant channel cannot be used, as a sentence; empty where none is."""
    for channel, (background, reference) in zip(
        field.channel_indices(channels), limits, strict=True
    ):
        if reference <= background:
            return (
                f"Channel '{field.channel_names[channel]}' of {where} is constant "
                f"({background:g} everywhere), so it shows nothing; leave it out or check the file."
            )
    return ""
