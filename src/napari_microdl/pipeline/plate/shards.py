"""What was made of one field: a safetensors file that is there whole or not at all.

Why safetensors: one file and one rename a field (a folder of chunks, as zarr writes, is not whole
in one step), half precision and sparse codes as they are, a reader that trusts nothing, and no
further package on the workers.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import refusing
from napari_microdl.core.safetensors_files import read_safetensors, write_safetensors

Tensors = dict[str, NDArray[Any]]
_HEADER = "napari_microdl_plate"


def write_shard(path: Path, tensors: Tensors, key: str, facts: dict[str, Any]) -> str:
    """Write what was made of a field.

    Parameters
    ----------
    path : Path
        File; its folder is made where it is missing.
    tensors : dict of str to ndarray
        Arrays.
    key : str
        Digest of what it was made from.
    facts : dict
        Plain values.

    Returns
    -------
    str
        Digest of its content.

    Raises
    ------
    OSError
        If it cannot be written; nothing has changed then.
    """
    digest = _digest(tensors, facts)
    header = {"key": key, "digest": digest, "facts": facts}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, tensors, {_HEADER: json.dumps(header)})
    return digest


def read_shard(path: Path, key: str | None = None) -> tuple[Tensors, dict[str, Any], str]:
    """What was made of a field.

    Parameters
    ----------
    path : Path
        File as `write_shard` wrote it.
    key : str, optional
        What it has to be made from; anything where not given.

    Returns
    -------
    tensors : dict of str to ndarray
        Arrays.
    facts : dict
        Plain values.
    digest : str
        Of its content.

    Raises
    ------
    MicrodlError
        If it is not there, not whole, or made from something else.
    """
    tensors, metadata = read_safetensors(path)
    with refusing(f"'{path.name}' was not written by a plate run."):
        header = json.loads(metadata[_HEADER])
        found, digest, facts = header["key"], header["digest"], header["facts"]
    if digest != _digest(tensors, facts):
        raise MicrodlError(f"'{path.name}' is damaged; remove it and run again.")
    if key is not None and found != key:
        raise MicrodlError(f"'{path.name}' was made from something else.")
    return tensors, facts, str(digest)


def whole_shard(path: Path, key: str) -> tuple[dict[str, Any], str] | None:
    """Facts and digest of a file that is there, whole and made from this, or None."""
    if not path.exists():
        return None
    try:
        return read_shard(path, key)[1:]
    except MicrodlError:
        return None


# Of every byte, as what is made from a field is told by it.
def _digest(tensors: Tensors, facts: dict[str, Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(array.tobytes())
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()
