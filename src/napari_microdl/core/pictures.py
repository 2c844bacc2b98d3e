"""Figures to files: PNG, SVG or PDF, as the suffix says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")


def check_picture(path: str | Path) -> Path:
    """Refuse a file name that is none of a picture."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise MicrodlError(f"'{path.name}' is no picture; end the name in {', '.join(SUFFIXES)}.")
    return path


def write_figure(figure: Figure, path: str | Path, dpi: int = 200) -> Path:
    """Write a figure, whole or not at all.

    Parameters
    ----------
    figure : Figure
        Of matplotlib; it needs no window.
    path : str or Path
        Ends in .png, .svg or .pdf.
    dpi : int, default=200
        Dots an inch, of a PNG and of images in the others.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    MicrodlError
        If the suffix is none of these, or the folder does not exist.
    """
    # Loaded with the figure by now.
    from matplotlib import rc_context

    path = check_picture(path)
    # Letters stay letters in a PDF, which journals ask for.
    with write_whole(path) as unfinished, rc_context({"pdf.fonttype": 42}):
        figure.savefig(unfinished, dpi=dpi)
    return path
