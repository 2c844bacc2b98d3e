"""Weights that lie in several files, which an index names; without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.safetensors_files import file_sha256
from napari_microdl.models.families.hugging_face_files import read_json

INDEX_SUFFIX = ".index.json"
# What transformers calls weights, the preferred ones first.
WEIGHTS_NAMES = (
    "model.safetensors",
    f"model.safetensors{INDEX_SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX_SUFFIX}",
)
_CHUNK_BYTES = 1 << 20


def is_index(path: Path) -> bool:
    """Whether a file names the files of weights, and is none itself."""
    return path.name.endswith(INDEX_SUFFIX)


def weight_map(index: Path) -> dict[str, str]:
    """File of each tensor.

    Parameters
    ----------
    index : Path
        ``*.index.json``, as transformers writes it.

    Returns
    -------
    dict of str to str
        Name of a file beside the index by name of a tensor.

    Raises
    ------
    MicrodlError
        If it cannot be read, names no file, or names one that does not lie beside it.
    """
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise MicrodlError(f"'{index.name}' names no files of weights; fetch it again.")
    for name in found.values():
        # A name that leads elsewhere would have any file of the machine read.
        if not isinstance(name, str) or not name.strip(".") or {"/", "\\", ":"} & set(name):
            raise MicrodlError(f"'{index.name}' names '{name}', which is no file beside it.")
    return found


def shard_names(index: Path) -> tuple[str, ...]:
    """Names of the files that an index names, in the order of the alphabet."""
    return tuple(sorted(set(weight_map(index).values())))


def weights_files(path: Path) -> tuple[Path, ...]:
    """The files that hold tensors.

    Parameters
    ----------
    path : Path
        A file of weights, or an index.

    Returns
    -------
    tuple of Path
        The file itself, or those that the index names, in the order of the alphabet.

    Raises
    ------
    MicrodlError
        If the index cannot be read or one of its files is missing.
    """
    if not is_index(path):
        return (path,)
    files = tuple(path.parent / name for name in shard_names(path))
    if missing := [file.name for file in files if not file.is_file()]:
        raise MicrodlError(
            f"'{missing[0]}' is missing, which '{path.name}' names; fetch it from the source of "
            "the others."
        )
    return files


def weights_sha256(path: Path) -> str:
    """Hex SHA-256 digest of weights.

    Parameters
    ----------
    path : Path
        A file of weights, or an index.

    Returns
    -------
    str
        Of an index, that of its files put one behind the other in the order of the alphabet, as
        ``cat model-*.safetensors | sha256sum`` tells it. The index itself adds nothing: that it
        says where every tensor is, is checked when they are read.

    Raises
    ------
    MicrodlError
        If the index cannot be read or one of its files is missing.
    """
    if not is_index(path):
        return file_sha256(path)
    digest = hashlib.sha256()
    for file in weights_files(path):
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
