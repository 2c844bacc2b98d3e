"""What is done for one field, in whichever process: files are left, and a receipt is returned.

Each of these is given what can be pickled, looks first whether its file is there and whole, and
holds nothing of a field once it is done.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.arrays import unit_length
from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import refusing
from napari_microdl.core.safetensors_files import read_record
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field
from napari_microdl.metrics import active
from napari_microdl.models.base import TokenModel
from napari_microdl.pipeline.inputs import check_fields, load_model_of
from napari_microdl.pipeline.plate.listing import PlateField, Receipt, left_out_of
from napari_microdl.pipeline.plate.shards import Tensors, read_shard, whole_shard, write_shard
from napari_microdl.pipeline.stages import (
    FieldBackground,
    background_of,
    cells_of,
    measure_intensities,
    tokens_of,
    units_of_field,
    vectors_of,
)
from napari_microdl.tokens import MemoryLimited, TokenCache, TokenGrid, mean_token
from napari_microdl.tokens.positions import PositionComponent, sums_by_position
from napari_microdl.tokens.spread import distances_by_place
from napari_microdl.tokens.units import Units

Pass = Literal["places", "scales", "vectors", "codes"]
# Where the vectors of fields lie in the folder of a run.
VECTORS = "fields/vectors"
# What the file of the position component is called inside.
PLACES_KEY = "napari_microdl_places"
# So many numbers of the mean token tell fields apart; all of them would be no receipt.
_ORDER = 4
# Columns of the table of units that are kept for each.
COLUMNS = ("label", "y", "x", "area")


@dataclass(frozen=True)
class Job:
    """What is the same for all fields of a run, pickled with each of them.

    Parameters
    ----------
    folder : Path
        Folder of the run, which every worker can write to.
    config : PipelineConfig
        Settings, those of a dictionary that is applied filled in.
    channels : tuple of str
        Channels that the model sees.
    key : str
        Digest of what decides the samples of every field.
    places : Path, optional
        File with the position component, once there is one.
    dictionary : Path, optional
        The dictionary, once there is one.
    fingerprint : str
        That of the dictionary, and of the references of its plates.
    applied : bool
        Whether the dictionary was given and not fitted in this run.
    """

    folder: Path
    config: PipelineConfig
    channels: tuple[str, ...]
    key: str
    places: Path | None = None
    dictionary: Path | None = None
    fingerprint: str = ""
    applied: bool = False

    def file(self, what: Pass, number: int) -> Path:
        """Where a pass over the fields leaves what it made of one."""
        return field_file(self.folder, what, number)


def field_file(folder: Path, what: Pass, number: int) -> Path:
    """Where a pass over the fields leaves what it made of one, in the folder of a run."""
    return folder / "fields" / what / f"{number:06d}.safetensors"


@lru_cache(maxsize=1)
def model_of(config: PipelineConfig, channels: tuple[str, ...]) -> MemoryLimited:
    """The model of this process, loaded once."""
    return MemoryLimited(load_model_of(config, channels))


@lru_cache(maxsize=1)
def _dictionary(path: Path, fingerprint: str) -> ConceptDictionary:
    return ConceptDictionary.load(path)


@lru_cache(maxsize=1)
def _position(path: Path, written: int) -> PositionComponent:
    otherwise = f"'{path.name}' was not written by this version; remove it and run again."
    record = read_record(path, PLACES_KEY, otherwise)
    with refusing(f"'{path.name}' is damaged ({{reason}}); remove it and run again."):
        return PositionComponent(**record.tensors)


def prepare(job: Job) -> None:
    """Load what every field needs, so that the first one does not wait for it."""
    model_of(job.config, job.channels)


def let_go() -> None:
    """Let go of what this process holds between fields."""
    for held in (model_of, _dictionary, _position):
        held.cache_clear()


def position_of(job: Job) -> PositionComponent | None:
    """The position component that is taken off tokens, where there is one."""
    if job.applied and job.dictionary is not None:
        return _dictionary(job.dictionary, job.fingerprint).position
    return None if job.places is None else _position(job.places, job.places.stat().st_mtime_ns)


# Passes over the fields -------------------------------------------------------------------------


def sum_places(job: Job, item: PlateField) -> Receipt:
    """Sums of tokens by their place in the tile."""

    def make(field: Field) -> tuple[Tensors, dict[str, Any]]:
        grid, model = _tokens(job, field)
        sums, counts = sums_by_position([grid], _n_places(grid, model, job))
        return {"sums": sums, "counts": counts}, {"n_units": 1, **_order(grid)}

    return _of_field(job, "places", item, make)


def sum_distances(job: Job, item: PlateField) -> Receipt:
    """Sums of the distances of tokens from the mean of their cell, by their place in the tile."""

    def make(field: Field) -> tuple[Tensors, dict[str, Any]]:
        grid, model = _tokens(job, field)
        order, grid = _order(grid), _without_position(job, grid)
        units = units_of_field(field, grid, cells_of(field, job.config), job.config)
        names = ("sums", "squares", "counts")
        found = distances_by_place([grid], [units], _n_places(grid, model, job))
        return dict(zip(names, found, strict=True)), {"n_units": 1, **order}

    return _of_field(job, "scales", item, make, made_from=_written(job.places))


def read_vectors(job: Job, item: PlateField) -> Receipt:
    """Vectors of the units of a field, in half precision, with the rows of the table of units."""

    def make(field: Field) -> tuple[Tensors, dict[str, Any]]:
        found = _units(job, field, again=item.sampled)
        if found is None:
            return {}, {"n_units": 0, "pixel_size": field.pixel_size}
        units, vectors, background, order = found
        room: Tensors = {}
        if background is not None:
            shares = np.array([background.share, background.cover])
            means = {"background": background.mean, "far": background.far}
            # Where cells leave no room it is not known, and what is no number is not written.
            room = {name: mean for name, mean in means.items() if np.isfinite(mean).all()}
            room["shares"] = np.nan_to_num(shares)
        with np.errstate(over="ignore"):
            stored: NDArray[np.floating] = vectors.astype(np.float16)
        if not np.isfinite(stored).all():
            stored = vectors
        facts = {"n_units": len(units), "pixel_size": field.pixel_size, **order}
        return {"vectors": stored, **room, **_rows(units)}, facts

    return _of_field(job, "vectors", item, make, made_from=_written(job.places))


def apply_dictionary(job: Job, item: PlateField) -> Receipt:
    """Codes of the units of a field by a dictionary that was given, from the images at once."""

    def make(field: Field) -> tuple[Tensors, dict[str, Any]]:
        found = _units(job, field, again=False)
        if found is None:
            return {}, {"n_units": 0, "pixel_size": field.pixel_size}
        units, vectors, _, order = found
        facts = {"n_units": len(units), "pixel_size": field.pixel_size, **order}
        return {**_rows(units), **_codes(job, vectors, item)}, facts

    return _of_field(job, "codes", item, make, made_from=job.fingerprint)


def encode_vectors(job: Job, item: PlateField) -> Receipt:
    """Codes of the units of a field by the dictionary of the run, from the vectors kept."""
    path = job.file("vectors", item.number)
    try:
        tensors, facts, digest = read_shard(path)
    except MicrodlError as error:
        return left_out_of(item, "unreadable", str(error))

    def make(_: Field | None) -> tuple[Tensors, dict[str, Any]]:
        if not facts["n_units"]:
            return {}, facts
        vectors = tensors.pop("vectors").astype(np.float32)
        for name in ("background", "far", "shares"):
            tensors.pop(name, None)
        return {**tensors, **_codes(job, vectors, item)}, facts

    # The plate decides by which controls a field is placed.
    made_from = f"{job.fingerprint} {item.source.plate!r} {digest}"
    return _of_field(job, "codes", item, make, made_from=made_from, opened=False)


def _of_field(
    job: Job,
    what: Pass,
    item: PlateField,
    make: Callable[[Any], tuple[Tensors, dict[str, Any]]],
    *,
    made_from: str = "",
    opened: bool = True,
) -> Receipt:
    """Make and write what is not there yet; what is wrong with one field ends nothing else."""
    started = time.perf_counter()
    path = job.file(what, item.number)
    stamp = item.stamp if opened else ""
    key = hashlib.sha256(f"{job.key} {what} {made_from} {stamp}".encode()).hexdigest()
    known = whole_shard(path, key)
    fresh = known is None
    if known is None:
        # What is wrong with the model or the position component is wrong for all fields, and ends
        # the run.
        position_of(job)
        if opened:
            model_of(job.config, job.channels)
        try:
            field = item.open() if opened else None
            if field is not None:
                check_fields([field], job.config, fitting=False)
                field.channel_indices(job.channels)
            with current_task().taking_notes() as notes:
                tensors, facts = make(field)
            if notes:
                facts = {**facts, "notes": notes}
        except FileNotFoundError as error:
            return left_out_of(item, "not imaged", str(error), _since(started))
        except MicrodlError as error:
            return left_out_of(item, "unreadable", str(error), _since(started))
        except Exception as error:
            # Images hold whatever a microscope and a disk have made of them.
            reason = f"{type(error).__name__}: {error}"
            return left_out_of(item, "unreadable", reason, _since(started))
        known = facts, write_shard(path, tensors, key, facts)
    facts, digest = known
    return Receipt(
        number=item.number,
        name=item.source.name,
        status="done" if facts["n_units"] else "no cells",
        n_units=facts["n_units"],
        digest=digest,
        order=tuple(facts.get("order", ())),
        notes=tuple(facts.get("notes", ())),
        pixel_size=facts.get("pixel_size"),
        seconds=_since(started),
        fresh=fresh,
    )


# Parts ------------------------------------------------------------------------------------------


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 3)


def _written(path: Path | None) -> str:
    """Digest of a file that others are made from."""
    return "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def _order(grid: TokenGrid) -> dict[str, Any]:
    return {"order": mean_token(grid)[:_ORDER].tolist()}


def _rows(units: Units) -> Tensors:
    return {"label": units.ids, "y": units.y, "x": units.x, "area": units.area}


def _n_places(grid: TokenGrid, model: TokenModel, job: Job) -> int:
    tile = job.config.tokens.tile_size or model.spec.tile_size
    return int((tile // grid.patch_size) ** 2)


def _tokens(job: Job, field: Field, *, again: bool = True) -> tuple[TokenGrid, MemoryLimited]:
    """Tokens of a field as the model gives them, kept on disk where they are read again."""
    model, curve = model_of(job.config, job.channels), None
    if job.applied and job.dictionary is not None:
        curve = _dictionary(job.dictionary, job.fingerprint).spec.model.intensity
    measured = measure_intensities([field], job.config, model.spec, job.channels, curve)
    cache = TokenCache() if job.config.cache and again else None
    scaler = measured.scaler.of_field(0)
    return tokens_of(field, scaler, model, job.config, job.channels, cache=cache), model


def _without_position(job: Job, grid: TokenGrid) -> TokenGrid:
    position = position_of(job)
    return grid if position is None else position.remove(grid)


def _units(
    job: Job, field: Field, *, again: bool
) -> tuple[Units, NDArray[np.float32], FieldBackground | None, dict[str, Any]] | None:
    """Units, vectors, background (None where not wanted), place of a field; None without cells."""
    labels = cells_of(field, job.config)
    if labels is not None and not (labels > 0).any():
        return None
    grid, _ = _tokens(job, field, again=again)
    order, grid = _order(grid), _without_position(job, grid)
    units = units_of_field(field, grid, labels, job.config)
    position = position_of(job)
    scales = None if position is None else position.scales
    background = None
    if job.config.measures_background:
        background = background_of(grid, units, job.config, scales)
    return units, vectors_of(grid, units, job.config, scales), background, order


def _codes(job: Job, vectors: NDArray[np.float32], item: PlateField) -> Tensors:
    """Codes by a dictionary, the vectors in its space, and sums for profiles of wells."""
    assert job.dictionary is not None
    dictionary = _dictionary(job.dictionary, job.fingerprint)
    whitened = dictionary.whiten(vectors, item.source.plate)
    codes = sparse.csr_array(dictionary.icfl.transform(whitened))
    cosines = unit_length(whitened) @ dictionary.directions.T
    sums = [
        np.asarray(codes.sum(axis=0), np.float64).ravel(),
        np.asarray(active(codes).sum(axis=0), np.float64).ravel(),
        cosines.sum(axis=0, dtype=np.float64),
    ]
    return {
        "whitened": np.asarray(whitened, np.float32),
        "data": codes.data.astype(np.float32),
        "indices": codes.indices.astype(np.int32),
        "indptr": codes.indptr.astype(np.int32),
        "sums": np.stack(sums),
    }
