"""Cell labels of fields."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.progress import Progress
from napari_microdl.core.stepping import retold
from napari_microdl.fields.field import Field
from napari_microdl.fields.segmentation import iter_segment_cells


def iter_segment(
    fields: Sequence[Field], config: PipelineConfig
) -> Generator[Progress, None, list[NDArray[np.integer] | None]]:
    """Cell labels of every field, its own or found; None where the unit is no cell.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    config : PipelineConfig
        Settings.

    Yields
    ------
    Progress
        Several a field.

    Returns
    -------
    list of (ndarray of shape (height, width) or None)
    """
    labels: list[NDArray[np.integer] | None] = [None] * len(fields)
    if config.units.kind != "cell":
        return labels
    for index, f in enumerate(fields):
        progress = Progress("segment", index, len(fields), f"Finding cells in {f.name}")
        yield progress
        labels[index] = f.read_labels()
        if labels[index] is None:
            name = config.cells.channel
            channel = f.channel_indices((name,) if name else None)[0]
            steps = iter_segment_cells(f.read((channel,))[0], config.cells)
            labels[index] = yield from retold(steps, progress)
    return labels
