"""Small pictures of the units of a run, in one contrast that treated and control share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.painting import unit_window
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field

# Percentiles of the pixels that are black and white in the contrast for all.
PERCENTILES = (0.5, 99.8)
GAMMA = 0.6
# Fields, and pixels of each, that decide the contrast.
_MOST_FIELDS = 12
_MOST_PIXELS = 250_000
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


class Contrast(NamedTuple):
    """Intensities that are shown black and white; between them a gamma brightens dim cells."""

    low: float
    high: float

    def apply(self, plane: NDArray[np.generic]) -> NDArray[np.float32]:
        """Shades from 0 to 1."""
        scaled = (plane.astype(np.float32) - self.low) / max(self.high - self.low, 1e-12)
        # A channel that the model does not read may have gaps.
        shown: NDArray[np.float32] = np.clip(np.nan_to_num(scaled), 0, 1) ** np.float32(GAMMA)
        return shown


def shared_contrast(fields: Sequence[Field], channel: int) -> Contrast:
    """One contrast for a channel of all fields.

    Parameters
    ----------
    fields : sequence of Field
        Of these, at most twelve are looked at, half of them controls where there are any.
    channel : int
        Which channel.

    Returns
    -------
    Contrast
        Percentiles 0.5 and 99.8 of their pixels.
    """
    sides = [[f for f in fields if f.is_control is side] for side in (True, False)]
    looked_at = [
        field for side in sides for field in side[:: max(1, -(-len(side) // (_MOST_FIELDS // 2)))]
    ]
    pixels = []
    for number, field in enumerate(looked_at):
        current_task().progress(number, len(looked_at), "Measuring the contrast")
        plane = field.read((channel,))[0].ravel()
        pixels.append(plane[:: max(1, len(plane) // _MOST_PIXELS)])
    known = np.concatenate(pixels)
    known = known[np.isfinite(known)]
    low, high = np.percentile(known, PERCENTILES) if len(known) else (0.0, 1.0)
    return Contrast(float(low), float(high))


@dataclass(frozen=True)
class PictureChoice:
    """How units are shown.

    Parameters
    ----------
    channel : int, "composite" or "side by side"
        One channel in grey, all laid over each other in colours, or all beside each other.
    same_contrast : bool
        Whether all pictures have one contrast, see `shared_contrast`, and not each its own.
    patches : bool
        Whether the patches are outlined that make a unit show its concept.
    """

    channel: Channel = 0
    same_contrast: bool = True
    patches: bool = False

    def in_one_picture(self) -> PictureChoice:
        """The same for a place that has room for a single picture of a unit."""
        return replace(self, channel="composite") if self.channel == "side by side" else self


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
        self._contrasts: dict[int, Contrast] = {}
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

    def contrast(self, channel: int) -> Contrast:
        """The contrast that all pictures of a channel have; see `shared_contrast`."""
        with self._lock:
            if channel not in self._contrasts:
                self._contrasts[channel] = shared_contrast(self._fields, channel)
            return self._contrasts[channel]

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
            return _bytes(self._shades(row, choice.channel, choice.same_contrast))
        channels = [
            self._shades(row, number, choice.same_contrast)
            for number in range(len(self.channel_names))
        ]
        if choice.channel == "side by side":
            return _bytes(np.concatenate(channels, axis=1))
        return _bytes(
            np.tensordot(
                np.stack(channels, -1), np.array([colour for _, colour in self.colours()]), 1
            )
        )

    def _shades(self, row: int, channel: int, same_contrast: bool) -> NDArray[np.float32]:
        number, (rows, columns) = unit_window(self._activations, row)
        crop = np.nan_to_num(np.asarray(self._fields[number].data[channel, rows, columns]))
        own = Contrast(float(crop.min()), float(crop.max()))
        return (self.contrast(channel) if same_contrast else own).apply(crop)


def _bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.ascontiguousarray((np.minimum(values, 1) * 255).astype(np.uint8))
