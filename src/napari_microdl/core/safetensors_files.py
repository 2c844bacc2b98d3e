"""Reads safetensors files without trusting them, and writes them all or nothing.

A record is a file of this package: tensors, what is said about them as JSON, and a digest of both.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.digests import content_digest
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_whole
from napari_microdl.core.reading import plain_file, read_bytes, refusing
from napari_microdl.core.task import current_task

_MAX_HEADER_BYTES = 100_000_000
_MAX_TENSORS = 200_000
# Entry of a record's header that holds its digest.
_DIGEST = "digest"


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
    from safetensors.numpy import load

    path = Path(path)
    with refusing(f"'{path.name}' cannot be read ({{reason}}); check that the file exists."):
        content = read_bytes(path)
    prefix = f"'{path.name}' is not a readable safetensors file: "
    if len(content) < 10:
        raise MicrodlError(f"{prefix}it is only {len(content)} bytes long; fetch it again.")
    if not begins_as_safetensors(content):
        raise MicrodlError(
            f"{prefix}{describe_foreign(content)}; it was not opened, use a safetensors file."
        )
    (header_bytes,) = struct.unpack("<Q", content[:8])
    with refusing(f"{prefix}it is truncated or damaged; fetch it or save it again."):
        described = content[8 : 8 + header_bytes]
        if described.count(b"data_offsets") > _MAX_TENSORS:
            raise ValueError("too many tensors")
        # The library goes first: it bounds how deep a header may be nested, json does not.
        try:
            tensors: dict[str, NDArray[np.generic]] = load(content)
            missing = None
        except KeyError as error:
            missing = error
        header = json.loads(described)
    if missing is not None:
        raise MicrodlError(
            f"{prefix}its type {missing} does not exist in NumPy; convert it to float32 or float16."
        ) from missing
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


@dataclass(frozen=True)
class Record:
    """A file of this package.

    Parameters
    ----------
    tensors : dict of str to ndarray
        All values finite.
    header : dict
        What is said about them, as JSON gives it.
    has_digest : bool
        Whether it holds a digest, which then fits.
    """

    tensors: dict[str, NDArray[Any]]
    header: dict[str, Any]
    has_digest: bool


def write_record(
    path: str | Path,
    key: str,
    tensors: dict[str, NDArray[Any]],
    header: Mapping[str, Any],
    *,
    allow_nan: bool = False,
) -> None:
    """Write tensors and what is said about them with a digest of both, or leave the old file whole.

    Parameters
    ----------
    path : str or Path
        File to write.
    key : str
        Name that the kind of record has in the metadata.
    tensors : dict of str to ndarray
        Tensors.
    header : mapping
        What is said about them: plain values for JSON, none of them called "digest".
    allow_nan : bool, default=False
        Whether these may be NaN or infinite; ValueError where they may not.

    Raises
    ------
    MicrodlError
        If the folder does not exist.
    OSError
        If it cannot be written to or the disk is full. Nothing has changed then.
    """
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    # As reading gives it back: tuples become lists.
    said: dict[str, Any] = json.loads(json.dumps(dict(header), allow_nan=allow_nan))
    said.pop(_DIGEST, None)
    said[_DIGEST] = content_digest(tensors, json.dumps(said))
    write_safetensors(path, tensors, {key: json.dumps(said)})


def read_record(path: str | Path, key: str, otherwise: str) -> Record:
    """Read what `write_record` wrote, and make sure that it is still the same.

    Files of earlier versions hold no digest; see `note_missing_digest`.

    Parameters
    ----------
    path : str or Path
        The file.
    key : str
        Name that the kind of record has in the metadata.
    otherwise : str
        What a file is refused with that is another kind of safetensors file.

    Raises
    ------
    MicrodlError
        If the file cannot be read, is of another kind, or is not as it was written.
    """
    path = Path(path)
    tensors, metadata = read_safetensors(path)
    if key not in metadata:
        raise MicrodlError(otherwise)
    with refusing(f"The header of '{path.name}' is damaged ({{reason}}); save the file again."):
        header = dict(json.loads(metadata[key]))
    digest = header.pop(_DIGEST, None)
    if digest is not None and digest != content_digest(tensors, json.dumps(header)):
        raise MicrodlError(
            f"'{path.name}' is damaged: what it holds is not what was written; take another copy, "
            "or make it again."
        )
    return Record(tensors, header, digest is not None)


def note_missing_digest(name: str) -> None:
    """Say of a file of an earlier version that was read what nobody can tell of it."""
    current_task().note(
        f"'{name}' is of an earlier version and holds no digest of its numbers, so that damage to "
        "them would not be noticed; save it again."
    )


def file_sha256(path: str | Path) -> str:
    """Hex SHA-256 digest of a file.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with plain_file(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
