"""A field of view: one multi-channel image with what is known about where it came from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.text import counted, plain_text
from napari_microdl.fields.labels import number_cells

# What is read of a lazy file at once.
STRIP_BYTES = 32 * 2**20


class UnusableFieldsError(MicrodlError):
    """Fields that cannot be used, where the others may be.

    Parameters
    ----------
    reasons : dict of int to str
        A sentence for each, by its place among all fields.
    """

    def __init__(self, reasons: dict[int, str]) -> None:
        first, *others = reasons.values()
        more = f" {counted(len(others), 'more field')} cannot be used either." if others else ""
        super().__init__(f"{first}{more}")
        self.reasons = reasons


@dataclass(frozen=True)
class FieldInfo:
    """What is known about a field of view beside its image.

    Parameters
    ----------
    name : str
        What the field is called in tables and plots.
    condition : str, default=""
        Treatment of the well; empty where it is not known.
    is_control : bool, default=False
        Whether the field shows untreated cells, on which the whitening is fitted.
    well, site, plate : str, default=""
        Position in the experiment.

    Notes
    -----
    What no file and no page can hold of a text, such as halves of characters, is replaced.
    """

    name: str
    condition: str = ""
    is_control: bool = False
    well: str = ""
    site: str = ""
    plate: str = ""

    def __post_init__(self) -> None:
        for part in ("name", "condition", "well", "site", "plate"):
            object.__setattr__(self, part, plain_text(getattr(self, part)))

    @property
    def info(self) -> FieldInfo:
        """What is known, without an image."""
        return FieldInfo(**{f.name: getattr(self, f.name) for f in dataclasses.fields(FieldInfo)})

    def to_metadata(self) -> dict[str, Any]:
        """The columns ``Metadata_*`` of tables about fields and units."""
        return {
            "Metadata_Field": self.name,
            "Metadata_Plate": self.plate,
            "Metadata_Well": self.well,
            "Metadata_Site": self.site,
            "Metadata_condition": self.condition,
            "Metadata_control": self.is_control,
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class Field(FieldInfo):
    """One field of view and its experimental condition.

    Parameters
    ----------
    data : array of shape (channels, height, width)
        Intensities, in any unit. NumPy, dask and zarr arrays are kept as they are and read lazily.
    channel_names : tuple of str
        One name a channel, in the order of `data`.
    name, condition, is_control, well, site, plate
        As in `FieldInfo`.
    labels : array of shape (height, width), optional
        Integer cell labels, 0 is background.
    pixel_size : float, optional
        Micrometres a pixel, where that is known.
    corrected : tuple of str
        Channels whose intensities are divided by an illumination function.

    Raises
    ------
    MicrodlError
        If the shape, the type or the channel names do not fit together.
    """

    data: Any
    channel_names: tuple[str, ...]
    labels: Any | None = None
    pixel_size: float | None = None
    corrected: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "channel_names", tuple(map(plain_text, self.channel_names)))
        shape = tuple(self.data.shape)
        if len(shape) != 3:
            raise MicrodlError(
                f"Field '{self.name}' has {len(shape)} axes {shape}; "
                "give an array with the axes (channel, y, x)."
            )
        if 0 in shape:
            raise MicrodlError(f"Field '{self.name}' is empty: its shape is {shape}.")
        if np.dtype(self.data.dtype).kind not in "uifb":
            raise MicrodlError(
                f"Field '{self.name}' holds {self.data.dtype} values; real intensities are needed."
            )
        if self.pixel_size is not None and not 0 < self.pixel_size < float("inf"):
            raise MicrodlError(
                f"Field '{self.name}' has pixels of {self.pixel_size} micrometres; a positive "
                "number is needed, or none."
            )
        if len(self.channel_names) != shape[0]:
            raise MicrodlError(
                f"Field '{self.name}' has {shape[0]} channels but {len(self.channel_names)} channel"
                f" names {self.channel_names}; name every channel once."
            )
        if len(set(self.channel_names)) != len(self.channel_names):
            raise MicrodlError(
                f"Field '{self.name}' uses a channel name twice {self.channel_names}; "
                "give every channel a name of its own."
            )
        if self.labels is not None:
            if tuple(self.labels.shape) != shape[1:]:
                raise MicrodlError(
                    f"The labels of field '{self.name}' have the shape {tuple(self.labels.shape)} "
                    f"but its image is {shape[1:]}; choose the labels that belong to this image."
                )
            if np.dtype(self.labels.dtype).kind not in "uib":
                raise MicrodlError(
                    f"The labels of field '{self.name}' are {self.labels.dtype} values; "
                    "whole numbers are needed, one per cell."
                )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.data.shape[1]), int(self.data.shape[2])

    @property
    def n_channels(self) -> int:
        """Number of channels."""
        return int(self.data.shape[0])

    def channel_indices(self, names: tuple[str, ...] | None) -> tuple[int, ...]:
        """Indices of the named channels, in the order asked for; all where None.

        Raises
        ------
        MicrodlError
            If a channel is missing; the sentence lists those that exist.
        """
        if names is None:
            return tuple(range(self.n_channels))
        missing = [n for n in names if n not in self.channel_names]
        if missing:
            raise MicrodlError(
                f"Field '{self.name}' has no channel {', '.join(map(repr, missing))}; "
                f"its channels are {', '.join(map(repr, self.channel_names))}."
            )
        return tuple(self.channel_names.index(n) for n in names)

    def read(self, channels: tuple[int, ...] | None = None) -> NDArray[np.generic]:
        """Intensities as a NumPy array of shape (channels, height, width), in the type of the data.

        Parameters
        ----------
        channels : tuple of int, optional
            Which channels, in this order; all where not given.
        """
        if channels is None:
            return np.asarray(self.data)
        return np.stack([np.asarray(self.data[c]) for c in channels])

    def read_rows(
        self, start: int, stop: int, channels: tuple[int, ...] | None = None
    ) -> NDArray[np.generic]:
        """Some rows of what `read` gives; nothing else of a lazy file is read."""
        channels = tuple(range(self.n_channels)) if channels is None else channels
        planes = [np.asarray(self.data[c, start:stop]) for c in channels]
        # Of a single channel no copy is needed, and rows may be many.
        return planes[0][None] if len(planes) == 1 else np.stack(planes)

    def strip_rows(self, n_channels: int = 1) -> int:
        """Rows that are best read at once: whole chunks of a file, some ten megabytes of them.

        `n_channels` is how many channels are read together.
        """
        height, width = self.shape
        row_bytes = n_channels * width * int(np.dtype(self.data.dtype).itemsize)
        fitting = max(1, STRIP_BYTES // row_bytes)
        chunks = getattr(self.data, "chunks", None)
        # zarr gives one size an axis, dask all of them.
        chunk: int = np.max(chunks[1]).item() if chunks else 1
        # Larger chunks than that cannot be had in part, and are then read more than once.
        return min(height, fitting // chunk * chunk or fitting)

    def read_labels(self) -> NDArray[np.int64] | None:
        """Cell labels as a NumPy array of shape (height, width), or None; see `number_cells`."""
        return None if self.labels is None else number_cells(np.asarray(self.labels))[0]
