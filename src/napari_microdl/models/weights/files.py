"""Files of weights, those that an index names together, and the settings beside them; no torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_microdl.core import reading as core_reading
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import plain_file, refusing
from napari_microdl.core.safetensors_files import file_sha256
from napari_microdl.core.text import shortened
from napari_microdl.models.vit.config import Preprocessing

INDEX_SUFFIX = ".index.json"
# What transformers calls weights, the preferred ones first.
WEIGHTS_NAMES = (
    "model.safetensors",
    f"model.safetensors{INDEX_SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX_SUFFIX}",
)
_CHUNK_BYTES = 1 << 20
# A processor of its own, or that of images beside the one of texts.
IMAGE_PROCESSOR_NAMES = ("preprocessor_config.json", "processor_config.json")
_LARGEST_BYTE = 255
_MOST_EDGE = 65_536


def is_index(path: Path) -> bool:
    """Whether a file names the files of weights, and is none itself."""
    return path.name.endswith(INDEX_SUFFIX)


def weight_map(index: Path) -> dict[str, str]:
    """File of each tensor, which lies beside an ``*.index.json`` as transformers writes it.

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
    """The files that hold tensors: the file itself, or those of an index in alphabetical order.

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
    """Hex SHA-256 digest of a file of weights, or of the files of an index one behind the other.

    As ``cat model-*.safetensors | sha256sum`` tells it. The index itself adds nothing: that it
    says where every tensor is, is checked when they are read.
    """
    if not is_index(path):
        return file_sha256(path)
    digest = hashlib.sha256()
    for file in weights_files(path):
        with plain_file(file) as content:
            while chunk := content.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Settings from a JSON file, which must hold an object."""
    with refusing(f"'{path.name}' cannot be read as JSON; fetch it again."):
        content = core_reading.read_json(path)
    if not isinstance(content, dict):
        raise MicrodlError(f"'{path.name}' does not hold settings; fetch it again.")
    return content


def square_edge(value: Any, what: str) -> int:
    """One edge of a square, in pixels, which may be written twice."""
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]
    if type(value) is not int or not 1 <= value <= _MOST_EDGE:
        raise MicrodlError(
            f"The {what} '{shortened(str(value))}' is no edge of a square; only squares are read."
        )
    return value


def read_preprocessing(
    folder: Path, channels: int, mean: Sequence[float], std: Sequence[float]
) -> Preprocessing:
    """What the image processor of a folder does to intensities.

    Parameters
    ----------
    folder : Path
        ``preprocessor_config.json``, or ``processor_config.json`` with an ``image_processor``; it
        may lack both.
    channels : int
        Channels that the network reads at once.
    mean, std : sequence of float
        What the family takes where the folder does not say it, for intensities of 0 to 1.

    Returns
    -------
    Preprocessing
        For tiles of about 0 to 1, which stand for bytes divided by 255. A processor that divides
        by something else is met by other means and deviations. One that does not divide at all is
        taken to want 0 to 1, as images that were divided before, unless a mean is above 1: then
        bytes are meant.
    """
    settings: dict[str, Any] = {}
    for name in IMAGE_PROCESSOR_NAMES:
        if (folder / name).is_file():
            content = read_json(folder / name)
            settings = content.get("image_processor", content)
            break
    with refusing(f"The image processor of '{folder.name}' cannot be read; fetch its files again."):
        settings = {name: value for name, value in settings.items() if value is not None}
        normalised = settings.get("do_normalize") is not False
        means = settings.get("image_mean", mean) if normalised else (0.0,)
        stds = settings.get("image_std", std) if normalised else (1.0,)
        means, stds = (tuple(float(x) for x in values) for values in (means, stds))
        factor = _LARGEST_BYTE * float(settings.get("rescale_factor", 1 / _LARGEST_BYTE))
    if settings.get("do_rescale") is False:
        factor = _LARGEST_BYTE if max(means, default=0) > 1 else 1
    if not 0 < factor < math.inf:
        raise MicrodlError(
            f"The image processor of '{folder.name}' scales by {factor / _LARGEST_BYTE:g}, which "
            "leaves no image; correct it."
        )
    for kind, values in (("means", means), ("deviations", stds)):
        if len(values) not in (1, channels):
            raise MicrodlError(
                f"'{folder.name}' reads {channels} channels, but has {len(values)} {kind}; write "
                f"one for each channel in its {IMAGE_PROCESSOR_NAMES[0]}."
            )
    if math.isclose(factor, 1):
        return Preprocessing(mean=means, std=stds)
    return Preprocessing(mean=tuple(m / factor for m in means), std=tuple(s / factor for s in stds))
