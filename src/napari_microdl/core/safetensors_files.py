"""Reads safetensors files without trusting them, and writes them all or nothing."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_whole

_MAX_HEADER_BYTES = 100_000_000


def begins_as_safetensors(start: bytes) -> bool:
    """Whether a file with these first bytes, nine or more, begins as a safetensors file does."""
    (header_bytes,) = struct.unpack("<Q", start[:8])
    return bool(2 <= header_bytes <= _MAX_HEADER_BYTES and start[8:9] == b"{")


def describe_foreign(start: bytes) -> str:
    """What a file with these first bytes is instead, for a sentence."""
    if start[:2] == b"PK":
        return "it is a zip archive, as PyTorch checkpoints are, and may hold code"
    if start[:1] == b"\x80":
        return "it is a pickle, which may hold code"
    if start[:4] == b"\x89HDF":
        return "it is an HDF5 file"
    return "it does not begin as one"


def read_safetensors(path: str | Path) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    """Tensors and metadata of a safetensors file, after checking that it is one.

    Parameters
    ----------
    path : str or Path
        File to read.

    Returns
    -------
    tensors : dict of str to ndarray
        Every tensor, all values finite.
    metadata : dict of str to str
        The header's ``__metadata__``.

    Raises
    ------
    MicrodlError
        If the file is missing, a pickle under another name, truncated, damaged or holds NaN or
        infinite values. Nothing of the file is executed in any case.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MicrodlError(
            f"'{path.name}' cannot be read ({error.strerror}); check that the file exists."
        ) from error
    prefix = f"'{path.name}' is not a readable safetensors file: "
    if len(content) < 10:
        raise MicrodlError(f"{prefix}it is only {len(content)} bytes long; fetch it again.")
    if not begins_as_safetensors(content):
        raise MicrodlError(
            f"{prefix}{describe_foreign(content)}; it was not opened, use a safetensors file."
        )
    (header_bytes,) = struct.unpack("<Q", content[:8])
    try:
        # The library goes first: it bounds how deep a header may be nested, json does not.
        tensors: dict[str, NDArray[np.generic]] = load(content)
        header = json.loads(content[8 : 8 + header_bytes])
    except KeyError as error:
        raise MicrodlError(
            f"{prefix}its type {error} does not exist in NumPy; convert it to float32 or float16."
        ) from error
    except (ValueError, SafetensorError) as error:
        raise MicrodlError(
            f"{prefix}it is truncated or damaged; fetch it or save it again."
        ) from error
    for name, tensor in tensors.items():
        if tensor.dtype.kind in "fc" and not np.isfinite(tensor).all():
            raise MicrodlError(
                f"'{path.name}' holds NaN or infinite values in '{name}'; it was not used."
            )
    return tensors, dict(header.get("__metadata__") or {})


def write_safetensors(
    path: str | Path, tensors: dict[str, NDArray[Any]], metadata: dict[str, str]
) -> None:
    """Write a safetensors file, or leave the old one whole.

    Parameters
    ----------
    path : str or Path
        File to write.
    tensors : dict of str to ndarray
        Tensors.
    metadata : dict of str to str
        The header's ``__metadata__``.

    Raises
    ------
    MicrodlError
        If the folder does not exist.
    OSError
        If it cannot be written to or the disk is full. Nothing has changed then.
    """
    from safetensors.numpy import save

    content = save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata)
    with write_whole(Path(path)) as partial:
        partial.write_bytes(content)


def file_sha256(path: str | Path) -> str:
    """Hex SHA-256 digest of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
