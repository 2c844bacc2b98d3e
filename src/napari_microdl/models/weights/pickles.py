"""Looks at PyTorch files before torch opens them: what they ask for, without making any of it."""

from __future__ import annotations

import os
import pickletools
import zipfile
from typing import BinaryIO

# torch makes nothing of a file but tensors and plain containers. Of these, one takes any number of
# bytes from a file of a few.
_FILLS_MEMORY = "bytearray"
_MOST_STEPS = 5_000_000
# A file that is no archive holds four pickles before the numbers.
_PICKLES = 5


def require_modest(file: BinaryIO, *, zipped: bool) -> None:
    """Refuse a file that asks for far more memory than it has bytes.

    Parameters
    ----------
    file : file
        Open for reading.
    zipped : bool
        Whether it is a zip archive, as PyTorch writes since version 1.6.

    Raises
    ------
    ValueError
        Says why.
    zipfile.BadZipFile, OSError
        If it cannot be read.
    """
    file.seek(0)
    if not zipped:
        for _ in range(_PICKLES):
            _look_through(file)
        return
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        # PyTorch writes numbers as they are, so that they can be mapped.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size:
            raise ValueError("its parts are larger than the whole")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                with archive.open(entry) as inner:
                    _look_through(inner)  # type: ignore[arg-type]


def _look_through(file: BinaryIO) -> None:
    for number, (_, argument, _) in enumerate(pickletools.genops(file)):
        if number > _MOST_STEPS:
            raise ValueError("it takes too many steps")
        if isinstance(argument, str) and _FILLS_MEMORY in argument:
            raise ValueError("it asks for empty memory")
