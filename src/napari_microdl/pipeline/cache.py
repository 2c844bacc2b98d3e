"""Results of stages, kept for the next run while what they were made from is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field

if TYPE_CHECKING:
    from napari_microdl.concepts.dictionary import ConceptDictionary
    from napari_microdl.models.base import TokenModel

CachedStage = Literal["cells", "tokens", "samples", "whitening", "dictionary"]
# Files that may say what is in the weights beside them, or be the weights of a description.
_OF_A_MODEL = {".toml", ".json", ".safetensors", ".bin", ".pt", ".pth"}
_MOST_BYTES = 512 * 2**20


class StageCache:
    """The last result of every stage, with what it was made from.

    A run that is given the same one again takes from it what is still true. One result a stage is
    held: after a run they are those that the run returned, so that they take no more memory.
    Entries are replaced whole, so that a run which was cancelled but is still in its last step
    cannot disturb the next.

    Parameters
    ----------
    most_bytes : int, default=512 MiB
        Larger samples are not held, as they are needed again only for another whitening, and can
        be made anew from the tokens.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._results: dict[CachedStage, tuple[Hashable, Any]] = {}

    def get(self, stage: CachedStage, key: Hashable) -> Any | None:
        """Result of a stage that was made from the same, or None."""
        made_from, result = self._results.get(stage, (None, None))
        return result if made_from == key else None

    def put(self, stage: CachedStage, key: Hashable, result: Any, n_bytes: int = 0) -> None:
        """Hold a result in place of the stage's last one; it is not to be changed any more."""
        if n_bytes <= self._most_bytes:
            self._results = {**self._results, stage: (key, result)}


def stage_settings(
    config: PipelineConfig, *, own_cells: bool = False
) -> dict[CachedStage, Hashable]:
    """Settings that decide each stage, beside those of the stages before it.

    Parameters
    ----------
    config : PipelineConfig
        Settings.
    own_cells : bool, default=False
        Whether fields bring their cells, so that those of the segmentation decide nothing.

    Returns
    -------
    dict
        Groups of the settings by stage; equal where nothing has changed.
    """
    kind = config.units.kind
    return {
        "cells": (kind, config.cells if kind == "cell" and not own_cells else None),
        "tokens": (
            config.model,
            config.tokens,
            # It decides the layer where none is chosen.
            config.units.pooled_by if config.tokens.layer is None else None,
        ),
        "samples": config.units,
        "whitening": config.whitening,
        "dictionary": (config.dictionary, config.random_state),
    }


def stage_keys(
    fields: Sequence[Field],
    config: PipelineConfig,
    channels: tuple[str, ...],
    *,
    dictionary: ConceptDictionary | None = None,
    model: TokenModel | None = None,
) -> dict[CachedStage, Hashable]:
    """What every stage would be made from: its settings, what it is given, the stages before it.

    Arrays in memory count by their content, as a person may paint in labels or change an image in
    place; lazy ones by the name that dask gives them, as they may be larger than memory.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    config : PipelineConfig
        Settings, those of `dictionary` filled in.
    channels : tuple of str
        Channels that the model sees.
    dictionary : ConceptDictionary, optional
        The one that is applied.
    model : TokenModel, optional
        The model, where it is not the one that the settings name.

    Returns
    -------
    dict
        Equal keys mean equal results.
    """
    task = current_task()
    by_cell = config.units.kind == "cell"
    segmented = (config.cells.channel,) if config.cells.channel else None
    cells, images = [], []
    for index, field in enumerate(fields):
        with task.step(index, len(fields), f"Looking at {field.name}"):
            content = _content(field.data)
            images.append((content, field.channel_indices(channels)))
            if by_cell and field.labels is not None:
                cells.append(_content(field.labels))
            elif by_cell:
                cells.append((content, field.channel_indices(segmented)[0]))
    own_cells = all(field.labels is not None for field in fields)
    settings = stage_settings(config, own_cells=own_cells)
    if model is None:
        # The seed is the weights of an untrained model; others have none of it.
        seed = config.random_state if config.model.name == "random-init" else None
        weights: Hashable = (weights_files(config.model.name), seed)
    else:
        weights = _of_model(model)
    # A position component and a curve that are given; held, so that no other is taken for them.
    given = None if dictionary is None else (dictionary.position, dictionary.spec)
    keys: dict[CachedStage, Hashable] = {}
    keys["cells"] = settings["cells"], tuple(cells)
    keys["tokens"] = settings["tokens"], channels, tuple(images), weights, given
    measured = settings["samples"], config.measures_background
    keys["samples"] = measured, keys["tokens"], keys["cells"]
    controls = tuple(field.is_control for field in fields)
    plates = tuple(field.plate for field in fields)
    keys["whitening"] = settings["whitening"], keys["samples"], controls, plates
    keys["dictionary"] = settings["dictionary"], keys["whitening"]
    return keys


def weights_files(model: str) -> Hashable:
    """When the weights, and what lies beside them to describe them, were last written.

    None where the model is no file or folder.
    """
    path = Path(model.partition("@")[2] or model)
    try:
        beside = path.iterdir() if path.is_dir() else path.parent.glob("*.*")
        files = sorted(file for file in beside if path.is_dir() or file.suffix in _OF_A_MODEL)
        if path not in files and not path.is_dir():
            files.append(path)
        return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    except OSError:
        return None


class _Same:
    """Something of which nothing is known: equal to itself only."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


def _of_model(model: TokenModel) -> Hashable:
    """A model by its weights, or by itself where their digest is not known."""
    how = (str(getattr(model, "device", "")), getattr(model, "precision", ""))
    return (model.spec, how) if model.spec.weights_sha256 else _Same(model)


def _content(array: Any) -> Hashable:
    if isinstance(array, np.ndarray):
        digest = hashlib.blake2b(digest_size=16)
        for plane in array if array.ndim > 2 else array[None]:
            current_task().check()
            digest.update(np.ascontiguousarray(plane).data)
        return (array.shape, array.dtype.str, digest.hexdigest())
    name = getattr(array, "name", None)
    return (array.shape, name) if hasattr(array, "dask") and name else _Same(array)
