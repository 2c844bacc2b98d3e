"""Samples: the mean token of every unit."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.progress import Progress
from napari_microdl.fields.field import Field
from napari_microdl.pipeline.reading import Tokens
from napari_microdl.tokens.units import Units, pool, units_of


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of every field.

    Parameters
    ----------
    geometry : list of Units
        Units of every field.
    vectors : ndarray of shape (n_units, d)
        Mean tokens.
    """

    geometry: list[Units]
    vectors: NDArray[np.float32]

    def of_field(self) -> NDArray[np.int64]:
        """Number of the field of every unit, shape (n_units,)."""
        counts = [len(units) for units in self.geometry]
        return np.repeat(np.arange(len(counts), dtype=np.int64), counts)

    def is_control(self, fields: Sequence[Field]) -> NDArray[np.bool_]:
        """Whether every unit lies in a control field, shape (n_units,)."""
        return np.array([f.is_control for f in fields], bool)[self.of_field()]


def iter_pool(
    fields: Sequence[Field],
    config: PipelineConfig,
    labels: Sequence[NDArray[np.integer] | None],
    tokens: Tokens,
) -> Generator[Progress, None, Samples]:
    """Mean token of every unit.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    config : PipelineConfig
        Settings.
    labels : sequence of (ndarray of shape (height, width) or None)
        Cells of every field.
    tokens : Tokens
        Tokens of every field.

    Yields
    ------
    Progress
        One a field.

    Returns
    -------
    Samples

    Raises
    ------
    MicrodlError
        If a field has no units.
    """
    geometry: list[Units] = []
    vectors: list[NDArray[np.float32]] = []
    for index, (f, grid, cells) in enumerate(zip(fields, tokens.grids, labels, strict=True)):
        yield Progress("whiten", index, len(fields), f"Averaging tokens in {f.name}")
        try:
            units = units_of(
                grid,
                config.units.kind,
                labels=cells,
                crop_size=config.units.crop_size,
                crop_stride=config.units.crop_stride,
            )
        except MicrodlError as error:
            raise MicrodlError(f"Field '{f.name}': {error}") from error
        geometry.append(units)
        vectors.append(pool(grid, units))
    return Samples(geometry, np.concatenate(vectors))
