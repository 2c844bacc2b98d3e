"""Files that are there whole or not at all, also where their writing is stopped."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_microdl.core.errors import MicrodlError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to be written beside another, whose place it takes in the end.

    Parameters
    ----------
    path : Path
        Where the file is wanted; what is there stays until the new one is whole.

    Yields
    ------
    Path
        Where to write, with the same suffix. It is closed by the end of the block; where that ends
        otherwise (an error, a generator that is closed), nothing of it is left.

    Raises
    ------
    MicrodlError
        If the folder does not exist.
    OSError
        If it cannot be written to.
    """
    if not path.parent.is_dir():
        raise MicrodlError(f"There is no folder '{path.parent}'; choose another place.")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        yield partial
        partial.replace(path)
