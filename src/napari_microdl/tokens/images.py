"""Scaled images of which only a few rows are held at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_microdl.fields.field import Field
from napari_microdl.fields.intensity import IntensityScaling
from napari_microdl.tokens.tiles import TilePlan


class ScaledImage:
    """Scaled intensities of one field, read and scaled when they are asked for.

    Parameters
    ----------
    field : Field
        The field.
    scaler : IntensityScaling
        Fitted.
    index : int
        Place of the field among those that the scaler was fitted on.
    channels : tuple of str, optional
        Those that the scaler was fitted on.

    Attributes
    ----------
    shape : tuple of int
        Channels, height and width.
    """

    def __init__(
        self,
        field: Field,
        scaler: IntensityScaling,
        index: int,
        channels: tuple[str, ...] | None = None,
    ) -> None:
        self._field = field
        self._scaler = scaler
        self._index = index
        self._channels = field.channel_indices(channels)
        self._strip_rows = field.strip_rows(len(self._channels))
        self._strips: dict[int, NDArray[np.generic]] = {}
        self.shape = (len(self._channels), *field.shape)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Some rows of all channels.

        Parameters
        ----------
        start, stop : int
            First row and last row + 1.

        Returns
        -------
        ndarray of shape (channels, stop - start, width)
        """
        if isinstance(self._field.data, np.ndarray):
            raw = self._field.read_rows(start, stop, self._channels)
        else:
            raw = self._from_strips(start, stop)
        return self._scaler.apply(self._index, raw)

    def _from_strips(self, start: int, stop: int) -> NDArray[np.generic]:
        n = self._strip_rows
        # Neighbouring bands share rows, and files are read in whole chunks: every chunk once.
        self._strips = {
            k: self._strips[k]
            if k in self._strips
            else self._field.read_rows(k * n, min((k + 1) * n, self.shape[1]), self._channels)
            for k in range(start // n, -(-stop // n))
        }
        parts = [
            strip[:, max(start - k * n, 0) : stop - k * n] for k, strip in self._strips.items()
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class TileCutter:
    """Cuts tiles out of an image that goes on in mirrors beyond its edges.

    Parameters
    ----------
    image : ScaledImage or ndarray of shape (channels, height, width)
        Scaled intensities.
    plan : TilePlan
        How to cut.
    """

    def __init__(self, image: ScaledImage | NDArray[np.float32], plan: TilePlan) -> None:
        self._image = image
        self._plan = plan
        _, self._height, width = image.shape
        _, columns = plan.grid_shape((self._height, width))
        tiles = -(-columns // plan.inner)
        margin = plan.halo * plan.patch_size
        self._columns = reflected(-margin, tiles * plan.inner * plan.patch_size + margin, width)
        self._band: tuple[int, NDArray[np.float32]] | None = None

    def cut(self, origins: list[tuple[int, int]]) -> NDArray[np.float32]:
        """Tiles with their halo.

        Parameters
        ----------
        origins : list of tuple of int
            Row and column, in tokens, of the first kept token of each; rows in ascending order.

        Returns
        -------
        ndarray of shape (n, channels, tile_size, tile_size)
        """
        p, size = self._plan.patch_size, self._plan.tile_size
        return np.stack([self._band_at(i)[..., j * p : j * p + size] for i, j in origins])

    def _band_at(self, row: int) -> NDArray[np.float32]:
        """All tiles of one row side by side, shape (channels, tile_size, padded width)."""
        if self._band is None or self._band[0] != row:
            # Dropped first: two bands at once would double what is held.
            self._band = None
            top = (row - self._plan.halo) * self._plan.patch_size
            rows = reflected(top, top + self._plan.tile_size, self._height)
            low, high = int(rows.min()), int(rows.max()) + 1
            image = self._image
            read = image[:, low:high] if isinstance(image, np.ndarray) else image.rows(low, high)
            self._band = (row, read[:, rows - low][:, :, self._columns])
        return self._band[1]


def reflected(start: int, stop: int, length: int) -> NDArray[np.int64]:
    """Indices into an axis that goes on in mirrors, its ends not repeated.

    Parameters
    ----------
    start, stop : int
        Range of places, which may lie outside of the axis.
    length : int
        Length of the axis.

    Returns
    -------
    ndarray of shape (stop - start,)
        0 to `length` - 1.
    """
    period = max(1, 2 * (length - 1))
    places = np.arange(start, stop) % period
    return np.minimum(places, period - places) if length > 1 else np.zeros_like(places)
