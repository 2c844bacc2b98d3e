"""Intensity scaling, measured over an image or a whole plate, never over a tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_microdl.errors import MicrodlError
from napari_microdl.fields import Field

ScalingMode = Literal["image", "plate"]

# The background of this many pixels is known to a few parts in ten thousand; more would only cost
# time on large images.
_SAMPLED_PIXELS = 1_000_000
# The mean intensity becomes _LEVEL * log(1 + _CONTRAST), about the middle of what the model saw in
# training.
_CONTRAST, _LEVEL = 2.0, 0.3


def log_scale(
    image: NDArray[np.generic],
    background: NDArray[np.float64] | float,
    mean: NDArray[np.float64] | float,
) -> NDArray[np.float32]:
    """Intensities on the scale of `IntensityScaling`.

    Parameters
    ----------
    image : ndarray
        Intensities.
    background, mean : float or ndarray
        In the unit of the image; they broadcast against it.

    Returns
    -------
    ndarray of the shape of `image`
        float32, not below 0.
    """
    factor = np.asarray(_CONTRAST / (np.asarray(mean) - background), np.float32)
    scaled = image.astype(np.float32)
    scaled -= np.asarray(background, np.float32)
    scaled *= factor
    np.maximum(scaled, 0, out=scaled)
    np.log1p(scaled, out=scaled)
    scaled *= _LEVEL
    return scaled


class IntensityScaling:
    """Logarithm of the intensity above background, relative to its mean.

    The low percentile of a channel becomes 0 and its mean a third; ten times the mean gives 0.9.

    Parameters
    ----------
    mode : {"image", "plate"}, default="image"
        Whether background and mean are measured in every field by itself, or over all fields
        together. A plate keeps differences of brightness between its fields.
    background : float, default=0.5
        Percentile, in percent, that counts as background.

    Attributes
    ----------
    limits_ : ndarray of shape (n_fields, n_channels, 2)
        Background and mean, in the unit of the images.

    Notes
    -----
    Scaling linearly to a high percentile lets the few brightest pixels set the contrast of all
    others: a treatment that makes bright spots then also dims the background, and the model sees
    that before it sees the spots.
    """

    def __init__(self, mode: ScalingMode = "image", *, background: float = 0.5) -> None:
        if mode not in get_args(ScalingMode):
            raise MicrodlError(f"Scaling mode '{mode}' is not known; use 'image' or 'plate'.")
        if not 0 <= background < 50:
            raise MicrodlError(
                f"A background percentile of {background} is not between 0 and 50 percent."
            )
        self.mode = mode
        self.background = background
        self.limits_: NDArray[np.float64]

    def fit(
        self, fields: Sequence[Field], channels: tuple[str, ...] | None = None
    ) -> IntensityScaling:
        """Measure background and mean.

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
        MicrodlError
            If there are no fields, a field holds NaN or infinite values, or a channel is constant.
        """
        if not fields:
            raise MicrodlError("There are no fields to scale; choose at least one image.")
        samples = [self._sample(field, channels) for field in fields]
        if self.mode == "plate":
            pooled = [np.concatenate(parts) for parts in zip(*samples, strict=True)]
            limits = np.array([[self._limits(p) for p in pooled]] * len(fields))
        else:
            limits = np.array([[self._limits(p) for p in sample] for sample in samples])
        flat = np.argwhere(limits[..., 1] <= limits[..., 0])
        if len(flat):
            index, channel = flat[0]
            field = fields[index]
            name = field.channel_names[field.channel_indices(channels)[channel]]
            where = "all fields" if self.mode == "plate" else f"field '{field.name}'"
            raise MicrodlError(
                f"Channel '{name}' of {where} is constant ({limits[index, channel, 0]:g} "
                "everywhere), so it shows nothing; leave it out or check the file."
            )
        self.limits_ = limits
        return self

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
            float32, not below 0.
        """
        background, mean = np.moveaxis(self.limits_[index], -1, 0)[..., None, None]
        return log_scale(image, background, mean)

    def _limits(self, values: NDArray[np.float64]) -> tuple[float, float]:
        if values.min() == values.max():
            # The mean of equal numbers can be off by rounding.
            return float(values[0]), float(values[0])
        low, mean = np.percentile(values, self.background), values.mean()
        if mean <= low:
            # Nearly every pixel has one value: what little is darker must be the background.
            low = values.min()
        return float(low), float(mean)

    def _sample(self, field: Field, channels: tuple[str, ...] | None) -> list[NDArray[np.float64]]:
        values = []
        for c in field.channel_indices(channels):
            plane = field.read((c,))[0]
            if plane.dtype.kind == "f" and not np.isfinite(plane).all():
                raise MicrodlError(
                    f"Channel '{field.channel_names[c]}' of field '{field.name}' holds NaN or "
                    "infinite values; replace them before running."
                )
            step = max(1, int(np.sqrt(plane.size / _SAMPLED_PIXELS)))
            values.append(plane[::step, ::step].ravel().astype(np.float64))
        return values
