"""Intensity scaling: percentiles of an image or of a whole plate, never of a tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_microdl.errors import MicrodlError
from napari_microdl.fields import Field

ScalingMode = Literal["image", "plate"]

# A percentile of this many pixels is known to a few parts in ten thousand; more would only cost
# time on large images.
_SAMPLED_PIXELS = 1_000_000


class IntensityScaling:
    """Maps the low percentile of a channel to 0 and its high percentile to 1.

    Parameters
    ----------
    mode : {"image", "plate"}, default="image"
        Whether the percentiles are taken in every field by itself, or over all fields together.
        A plate keeps differences of brightness between its fields.
    low, high : float, default=0.5 and 99.8
        Percentiles, in percent.
    ceiling : float, default=2.0
        Values above are clipped here, so that a speck of dust cannot dominate its patch.

    Attributes
    ----------
    limits_ : ndarray of shape (n_fields, n_channels, 2)
        Intensities that become 0 and 1, in the unit of the images.
    """

    def __init__(
        self,
        mode: ScalingMode = "image",
        *,
        low: float = 0.5,
        high: float = 99.8,
        ceiling: float = 2.0,
    ) -> None:
        if mode not in get_args(ScalingMode):
            raise MicrodlError(f"Scaling mode '{mode}' is not known; use 'image' or 'plate'.")
        if not 0 <= low < high <= 100:
            raise MicrodlError(
                f"Scaling percentiles {low} and {high} are not in rising order between 0 and 100."
            )
        self.mode = mode
        self.low = low
        self.high = high
        self.ceiling = ceiling
        self.limits_: NDArray[np.float64]

    def fit(
        self, fields: Sequence[Field], channels: tuple[str, ...] | None = None
    ) -> IntensityScaling:
        """Measure the percentiles.

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
            If a field holds NaN or infinite values, or if a channel is constant.
        """
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
            float32 between 0 and `ceiling`.
        """
        low, high = self.limits_[index, :, 0], self.limits_[index, :, 1]
        scaled = image.astype(np.float32)
        scaled -= low.astype(np.float32)[:, None, None]
        scaled /= (high - low).astype(np.float32)[:, None, None]
        return np.clip(scaled, 0, self.ceiling, out=scaled)

    def _limits(self, values: NDArray[np.float64]) -> tuple[float, float]:
        low, high = np.percentile(values, [self.low, self.high])
        if high <= low:
            # A few bright specks on black: the percentiles coincide although there is signal.
            low, high = values.min(), values.max()
        return float(low), float(high)

    def _sample(
        self, field: Field, channels: tuple[str, ...] | None
    ) -> list[NDArray[np.float64]]:
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
