"""Digests that tell whether numbers are still those that were written.

A file is cut into pieces whose CRC-32 are taken in several threads, and the list of these is
hashed: many times as fast as a cryptographic hash of all bytes, and what bad memory, disks and
copies do to a file is noticed as surely. It proves nothing of who wrote a file.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.reading import require_file
from napari_microdl.core.task import current_task

_PIECE = 4 * 2**20
_DIGEST_BYTES = 16
# More than these read memory no faster.
_MOST_THREADS = 4


def array_digest(array: NDArray[Any]) -> bytes:
    """Digest of the bytes of an array, 16 bytes long; its type and shape are not in it."""
    content: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    pieces = [content[begin : begin + _PIECE] for begin in range(0, len(content), _PIECE)]
    task, sums = current_task(), []
    if len(pieces) > 1:
        with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
            for found in threads.map(zlib.crc32, pieces):
                task.check()
                sums.append(found)
    else:
        sums = [zlib.crc32(piece) for piece in pieces]
    listed = struct.pack(f"<Q{len(sums)}I", len(content), *sums)
    return hashlib.blake2b(listed, digest_size=_DIGEST_BYTES).digest()


def content_digest(arrays: Mapping[str, NDArray[Any]], text: str) -> str:
    """Digest of named arrays with their types and shapes, and of what is said about them.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Arrays; their order does not matter.
    text : str
        What is said about them.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES)
    for name, array in sorted(arrays.items()):
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(array_digest(array))
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Digest of the bytes of a file, 32 hexadecimal digits.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    require_file(path)
    if not path.stat().st_size:
        return array_digest(np.empty(0, np.uint8)).hex()
    return array_digest(np.memmap(path, np.uint8, "r")).hex()
