"""Small pictures of the units of a run, in one contrast that treated and control share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.painting import unit_window
from napari_microdl.fields.field import Field

# Percentiles of the pixels of controls that are black and white in the contrast for all.
PERCENTILES = (1.0, 99.8)
# Brightened, so that dim cells are seen in a small picture.
_GAMMA = 0.6
_MOST_FIELDS = 12
_PIXELS_OF_A_FIELD = 250_000
# Of channels that are laid over each other; their own where they are called so, as those of RGB.
_RGB = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}
_COLOURS = {
    "green": (0, 1, 0),
    "magenta": (1, 0, 1),
    "light blue": (0, 0.6, 1),
    "yellow": (1, 1, 0),
    "orange": (1, 0.3, 0),
}

Channel = int | Literal["composite", "side by side"]


@dataclass(frozen=True)
class PictureChoice:
    """How units are shown.

    Parameters
    ----------
    channel : int, "composite" or "side by side"
        One channel in grey, all laid over each other in colours, or all beside each other.
    same_contrast : bool
        Whether all pictures have the contrast of the controls, and not each its own.
    patches : bool
        Whether the patches are outlined that make a unit show its concept.
    """

    channel: Channel = 0
    same_contrast: bool = True
    patches: bool = False


class UnitPictures:
    """Pictures of the units of one run; its contrast is measured when it is first needed.

    Parameters
    ----------
    activations : ConceptActivations
        The run.
    fields : sequence of Field
        Its fields.
    """

    def __init__(self, activations: ConceptActivations, fields: Sequence[Field]) -> None:
        self._activations = activations
        self._fields = fields
        self._limits: dict[int, tuple[float, float]] = {}
        # Of several threads that ask for the same, one measures.
        self._lock = Lock()

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels."""
        return self._fields[0].channel_names if self._fields else ()

    def colours(self) -> list[tuple[str, tuple[float, float, float]]]:
        """Colour of every channel in a composite: its name, and red, green and blue, 0 to 1."""
        names = [name.lower() for name in self.channel_names]
        if set(names) <= set(_RGB):
            return [(name, _RGB[name]) for name in names]
        known = list(_COLOURS.items())
        return [known[number % len(known)] for number in range(len(names))]

    def limits(self, channel: int) -> tuple[float, float]:
        """Intensities that are black and white in the contrast for all.

        Parameters
        ----------
        channel : int
            Number of the channel.

        Returns
        -------
        low, high : float
            The 1st and the 99.8th percentile of pixels of controls, of all fields where there are
            none; of more than 12 fields, 12 evenly spaced ones are looked at.
        """
        with self._lock:
            if channel not in self._limits:
                fields = [field for field in self._fields if field.is_control] or self._fields
                some = fields[:: -(-len(fields) // _MOST_FIELDS)]
                pixels = np.concatenate([_thinned(field, channel) for field in some])
                # A channel that the model does not read may have gaps.
                pixels = pixels[np.isfinite(pixels)]
                low, high = np.percentile(pixels, PERCENTILES) if len(pixels) else (0.0, 1.0)
                self._limits[channel] = float(low), float(high)
            return self._limits[channel]

    def picture(self, row: int, choice: PictureChoice) -> NDArray[np.uint8]:
        """One unit and what is around it.

        Parameters
        ----------
        row : int
            Row of the table of units.
        choice : PictureChoice
            How it is shown.

        Returns
        -------
        ndarray of shape (size, size), (size, size, 3) or (size, n_channels * size)
            Grey, the colours of a composite, or channels side by side.
        """
        if isinstance(choice.channel, int):
            return _bytes(self._scaled(row, choice.channel, choice.same_contrast))
        channels = [
            self._scaled(row, number, choice.same_contrast)
            for number in range(len(self.channel_names))
        ]
        if choice.channel == "side by side":
            return _bytes(np.concatenate(channels, axis=1))
        return _bytes(
            np.tensordot(
                np.stack(channels, -1), np.array([colour for _, colour in self.colours()]), 1
            )
        )

    def _scaled(self, row: int, channel: int, same_contrast: bool) -> NDArray[np.float64]:
        number, (rows, columns) = unit_window(self._activations, row)
        crop = np.nan_to_num(np.asarray(self._fields[number].data[channel, rows, columns], float))
        low, high = self.limits(channel) if same_contrast else (crop.min(), crop.max())
        scaled: NDArray[np.float64] = np.clip((crop - low) / max(high - low, 1e-12), 0, 1) ** _GAMMA
        return scaled


def _thinned(field: Field, channel: int) -> NDArray[np.float64]:
    """Evenly spaced pixels of one channel."""
    height, width = field.shape
    step = max(1, int(np.sqrt(height * width / _PIXELS_OF_A_FIELD)))
    return np.asarray(field.data[channel, ::step, ::step], np.float64).ravel()


def _bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.ascontiguousarray((np.minimum(values, 1) * 255).astype(np.uint8))
