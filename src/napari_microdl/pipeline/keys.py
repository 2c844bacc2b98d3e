"""What the result of every stage is made from, to tell whether one that is kept still holds."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Generator, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import DICTIONARY_SETTINGS, WHITENING_SETTINGS, PipelineConfig
from napari_microdl.core.progress import Progress
from napari_microdl.core.stepping import retold
from napari_microdl.fields.field import Field

# Settings that decide each stage, beside the stages before it.
_SEGMENT = ("unit",)
_READ = (
    "model",
    "joint",
    "layer",
    "site",
    # A model of a file or folder reads these in their order, or finds its own where there are none.
    "channels",
    "channel_tokens",
    "scaling",
    "tile_size",
    "halo",
    "remove_position",
    "device",
    "precision",
    "batch_size",
)
_POOL = ("unit", "crop_size", "crop_stride")
# Files that may say what is in the weights beside them, or be the weights of a description.
_OF_A_MODEL = {".toml", ".json", ".safetensors", ".bin", ".pt", ".pth"}


@dataclasses.dataclass(frozen=True)
class StageKeys:
    """What the results of every stage are made from; equal keys mean equal results.

    Parameters
    ----------
    segment, read, pool, whiten, learn : hashable
        One a stage.
    """

    segment: Hashable
    read: Hashable
    pool: Hashable
    whiten: Hashable
    learn: Hashable


def iter_keys(
    fields: Sequence[Field],
    config: PipelineConfig,
    dictionary: ConceptDictionary | None,
    channels: tuple[str, ...],
) -> Generator[Progress, None, StageKeys]:
    """Find out what every stage would be made from.

    Arrays in memory count by their content, as a person may paint in labels or change an image in
    place; lazy ones by the name that dask gives them, as they may be larger than memory.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    config : PipelineConfig
        Settings, those of `dictionary` filled in.
    dictionary : ConceptDictionary or None
        The one that is applied.
    channels : tuple of str
        Channels that the model sees.

    Yields
    ------
    Progress
        One a channel of a field.

    Returns
    -------
    StageKeys
    """
    cells, images = [], []
    segmented = (config.cells.channel,) if config.cells.channel else None
    for index, f in enumerate(fields):
        step = Progress("scale", index, len(fields), f"Looking at {f.name}")
        yield step
        content = yield from retold(_iter_content(f.data), step)
        images.append((content, f.channel_indices(channels)))
        if config.units.kind != "cell":
            continue
        if f.labels is not None:
            cells.append((yield from retold(_iter_content(f.labels), step)))
        else:
            cells.append((content, f.channel_indices(segmented)[0], config.cells))
    # The seed is the weights of an untrained model; others have none of it.
    seed = config.random_state if config.model.name == "random-init" else None
    # A position component and a curve that are given; held, so that no other is taken for them.
    given = None if dictionary is None else (dictionary.position, dictionary.spec)
    segment = (_of(config, _SEGMENT), tuple(cells))
    read = (_of(config, _READ), channels, tuple(images), _file(config.model.name), seed, given)
    pool = (read, segment, _of(config, _POOL))
    whiten = (pool, tuple(f.is_control for f in fields), _of(config, WHITENING_SETTINGS))
    learn = (whiten, _of(config, DICTIONARY_SETTINGS))
    return StageKeys(segment, read, pool, whiten, learn)


def _of(config: PipelineConfig, names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in names)


class _Same:
    """An array that nothing is known of: equal to itself only."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.array is self.array

    def __hash__(self) -> int:
        return id(self.array)


def _iter_content(array: Any) -> Generator[None, None, Hashable]:
    if isinstance(array, np.ndarray):
        digest = hashlib.blake2b(digest_size=16)
        for plane in array if array.ndim > 2 else array[None]:
            yield
            digest.update(np.ascontiguousarray(plane).data)
        return (array.shape, array.dtype.str, digest.hexdigest())
    name = getattr(array, "name", None)
    return (array.shape, name) if hasattr(array, "dask") and name else _Same(array)


def _file(model: str) -> Hashable:
    """When the weights, and what lies beside them to describe them, were last written."""
    path = Path(model.partition("@")[2] or model)
    try:
        beside = path.iterdir() if path.is_dir() else path.parent.glob("*.*")
        files = sorted(file for file in beside if path.is_dir() or file.suffix in _OF_A_MODEL)
        if path not in files and not path.is_dir():
            files.append(path)
        return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    except OSError:
        return None
