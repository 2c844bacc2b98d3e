"""Small pictures of units as one figure, for a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.pictures import check_picture, write_figure


@dataclass(frozen=True, eq=False)
class Picture:
    """One unit as it is shown.

    Parameters
    ----------
    pixels : ndarray of shape (height, width) or (height, width, 3)
        Grey, or red, green and blue; uint8.
    lines : ndarray of shape (n, 4)
        x and y of both ends of each line, in pixels from the upper left corner.
    colour : str
        Of the lines.
    title : str
        What stands above it.
    """

    pixels: NDArray[np.uint8]
    lines: NDArray[np.float64]
    colour: str
    title: str


def save_pictures(rows: Sequence[tuple[str, Sequence[Picture]]], path: str | Path) -> None:
    """Write rows of pictures, each with its heading, as PNG, SVG or PDF, dark on white.

    Raises `MicrodlError` if there are none, or the suffix is none of these.
    """
    path = check_picture(path)
    columns = max(len(pictures) for _, pictures in rows)
    if not columns:
        raise MicrodlError(
            "There are no pictures: nothing is shown yet, or the images of this run are not open."
        )
    # Imported when it is needed: napari starts faster without matplotlib.
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    from napari_microdl.report.text import figure_text

    figure = Figure(figsize=(1.35 * columns + 0.4, 1.7 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (heading, pictures) in zip(axes, rows, strict=True):
        line[0].set_ylabel(heading, size=8)
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
        for axis in line[len(pictures) :]:
            axis.set_axis_off()
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow(picture.pixels, cmap="gray", vmin=0, vmax=255)
            # A line on the edge of a pixel lies half a pixel before its number.
            ends = picture.lines.reshape(-1, 2, 2) - 0.5
            axis.add_collection(LineCollection(ends.tolist(), colors=picture.colour, linewidths=1))
            axis.set_title("\n".join(map(figure_text, picture.title.splitlines())), size=8)
    write_figure(figure, path)
