"""What is learned from all fields of a plate: by sums over them, and from a sample of units."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_microdl.concepts.dictionary import ConceptDictionary, DictionarySpec
from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.safetensors_files import write_record
from napari_microdl.core.task import current_task
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.estimators.plates import PlateReferences
from napari_microdl.estimators.shrinkage import choose_shrinkage
from napari_microdl.estimators.whitening import ControlWhitening, MomentSums
from napari_microdl.fields.field import FieldInfo
from napari_microdl.models.base import ModelSpec
from napari_microdl.pipeline.inputs import tile_plan
from napari_microdl.pipeline.plate.listing import Receipt
from napari_microdl.pipeline.plate.sampling import draw_units
from napari_microdl.pipeline.plate.shards import read_shard
from napari_microdl.pipeline.plate.work import PLACES_KEY, Job, Pass, position_of
from napari_microdl.pipeline.stages import (
    LEAST_TOKENS_PER_PLACE,
    FieldBackground,
    background_test,
    few_tokens,
    learn_atoms,
    nuisance_of,
)
from napari_microdl.tokens.positions import PositionComponent
from napari_microdl.tokens.spread import scales_of_sums

# Controls from which the shrinkage is chosen, and parts of them that are left out in turn: more
# would tell it no better.
_MOST_CONTROLS = 20_000
_MOST_PARTS = 24
# What is known of the background where no field has room for one.
_NO_ROOM = np.full(1, np.nan, np.float32)
# Rows of controls that are added to the moments at once.
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Known:
    """A field with units, and what the sampling has to know of it.

    Parameters
    ----------
    receipt : Receipt
        Of its vectors.
    plate, well : str
        Its plate, and its well, plate first.
    is_control : bool
        Whether it is a control that the whitening sees.
    info : FieldInfo
        What the source tells of it.
    """

    receipt: Receipt
    plate: str
    well: str
    is_control: bool
    info: FieldInfo


def fit_places(job: Job, receipts: Sequence[Receipt]) -> PositionComponent | None:
    """Position component from the sums of fields, in the order in which they are learned from.

    Returns
    -------
    PositionComponent or None
        None where there are too few tokens to tell the place from the image, which is noted.
    """
    sums, counts = _summed(job, "places", receipts)
    per_place = float(counts.sum() / max((counts > 0).sum(), 1))
    if per_place < LEAST_TOKENS_PER_PLACE:
        current_task().note(few_tokens(per_place))
        return None
    return PositionComponent.of_sums(sums, counts.astype(np.int64))


def fit_scales(job: Job, receipts: Sequence[Receipt]) -> NDArray[np.float32]:
    """What distances of tokens are divided by at each place of a tile, from sums of fields."""
    sums, squares, counts = _summed(job, "scales", receipts)
    return scales_of_sums(sums, squares, counts)


def _summed(job: Job, what: Pass, receipts: Sequence[Receipt]) -> list[NDArray[np.float64]]:
    total: dict[str, NDArray[np.float64]] = {}
    for number, receipt in enumerate(receipts):
        current_task().progress(number, len(receipts), "Removing what tokens owe to their place")
        tensors, _, _ = read_shard(job.file(what, receipt.number))
        for name, part in tensors.items():
            total[name] = total[name] + part if name in total else part.astype(np.float64)
    return [total[name] for name in ("sums", "squares", "counts") if name in total]


def write_places(path: Path, position: PositionComponent) -> None:
    """Write a position component, for the workers to read."""
    tensors = {"offsets": position.offsets, "basis": position.basis}
    if position.scales is not None:
        tensors["scales"] = position.scales
    write_record(path, PLACES_KEY, tensors, {})


def plate_moments(job: Job, fields: Sequence[Known]) -> dict[str, MomentSums]:
    """Sums over the controls of every plate, one field at a time.

    Parameters
    ----------
    job : Job
        The run.
    fields : sequence of Known
        Fields with units, in the order in which they are learned from.

    Returns
    -------
    dict of str to MomentSums
        Of every plate, those without controls as well.
    """
    found: dict[str, MomentSums] = {}
    controls = [known for known in fields if known.is_control]
    for number, (known, vectors) in enumerate(zip(controls, _vectors(job, controls), strict=True)):
        current_task().progress(number, len(controls), "Measuring the controls of every plate")
        found.setdefault(known.plate, MomentSums(vectors.shape[1])).add(vectors)
    plates = sorted({known.plate for known in fields})
    return {plate: found.get(plate) or MomentSums(0) for plate in plates}


def fit_whitening_of(
    job: Job, fields: Sequence[Known], plates: PlateReferences | None = None
) -> ControlWhitening | None:
    """Whitening of the controls of all fields, by moments that are summed over these.

    Its shrinkage is chosen, where it is not given, on as many controls as memory has room for.

    Parameters
    ----------
    job : Job
        Its settings are used.
    fields : sequence of Known
        Fields with units, in the order in which they are learned from.
    plates : PlateReferences, optional
        What brings those of each plate to those of all.

    Returns
    -------
    ControlWhitening or None
        None where the settings want none.
    """
    settings, task = job.config.whitening, current_task()
    if not settings.enabled:
        return None
    controls = [known for known in fields if known.is_control]
    shrinkage, kind = settings.shrinkage, f"{job.config.units.kind}s"
    n_controls = sum(known.receipt.n_units for known in controls)
    if shrinkage is None:
        rows = _drawn(controls, _MOST_CONTROLS, job.config.random_state)
        sample = np.concatenate(list(_vectors(job, controls, rows, plates)))
        parts = np.repeat(np.arange(len(controls)) % _MOST_PARTS, [len(r) for r in rows])
        shrinkage = choose_shrinkage(sample, parts)
        chosen_on = f", chosen on {len(sample)} of them" if len(sample) < n_controls else ""
        task.note(
            f"{n_controls} control {kind} with {sample.shape[1]} dimensions: the whitening is "
            f"shrunk by {shrinkage:g} times the median eigenvalue{chosen_on}."
        )
    whitening = ControlWhitening(settings.n_components, shrinkage=shrinkage)
    held: list[NDArray[np.float32]] = []
    for number, vectors in enumerate(_vectors(job, controls, plates=plates)):
        task.progress(number, len(controls), f"Whitening on {n_controls} control {kind}")
        held.append(vectors)
        if sum(map(len, held)) >= _ROWS_AT_ONCE or number + 1 == len(controls):
            whitening.partial_fit(np.concatenate(held))
            held = []
    backgrounds = _backgrounds(job, fields)
    test = background_test(backgrounds, [known.info for known in fields], job.config)
    sums = _background_sums(fields, backgrounds, plates)
    nuisance, taken_off = nuisance_of(sums, job.config, len(fields), test)
    if nuisance is not None and taken_off:
        whitening.add_nuisance(nuisance)
    # Solved for now, so that what is to be said of it is said here.
    _ = whitening.scale_
    return whitening


def fit_dictionary(
    job: Job,
    fields: Sequence[Known],
    model: ModelSpec,
    whitening: ControlWhitening | None,
    most_samples: int | None,
    plates: PlateReferences | None = None,
) -> ConceptDictionary:
    """Dictionary learned from units of every well.

    Parameters
    ----------
    job : Job
        Its settings are used.
    fields : sequence of Known
        Fields with units, in the order in which they are learned from.
    model : ModelSpec
        The model.
    whitening : ControlWhitening or None
        Of the controls.
    most_samples : int or None
        Of more units as many are drawn, wells alike; None takes all, from a file.
    plates : PlateReferences, optional
        What brings those of each plate to those of all.

    Returns
    -------
    ConceptDictionary
    """
    config, task = job.config, current_task()
    total = sum(known.receipt.n_units for known in fields)
    # Row numbers of all units would grow with the fields.
    rows = None if most_samples is None else _drawn(fields, most_samples, config.random_state)
    sizes = [known.receipt.n_units for known in fields] if rows is None else [*map(len, rows)]
    n = sum(sizes)
    if n < total:
        task.note(f"The dictionary was learned from {n:,} of {total:,} {config.units.kind}s.")
    controls = None
    if config.dictionary.control_atoms is not None:
        is_control = [known.is_control for known in fields]
        controls = np.repeat(np.array(is_control, bool), sizes)

    def samples() -> Iterator[NDArray[np.float32]]:
        for number, vectors in enumerate(_vectors(job, fields, rows, plates)):
            task.progress(number, len(fields), "Collecting samples")
            yield vectors if whitening is None else whitening.transform(vectors)

    if most_samples is None:
        # Of a run that is killed it goes with the next one, as all that is half written there.
        path = job.folder / "fields" / "vectors" / ".samples.npy"
        icfl, notes = _learn_from_file(path, samples(), n, config, controls)
    else:
        icfl, notes = learn_atoms(np.concatenate(list(samples())), config, controls)
    for note in notes:
        task.note(note)
    plan = tile_plan(model, config)
    spec = DictionarySpec.of(model, config.tokens, config.units, plan, job.channels)
    return ConceptDictionary(spec, icfl, whitening, position_of(job), plates=plates)


def _learn_from_file(
    path: Path,
    parts: Iterator[NDArray[np.float32]],
    n: int,
    config: PipelineConfig,
    controls: NDArray[np.bool_] | None,
) -> tuple[ICFL, tuple[str, ...]]:
    """Atoms of samples that need not fit in memory, by a file that goes at the end."""
    first = next(parts)
    try:
        x = np.lib.format.open_memmap(path, "w+", np.float32, (n, first.shape[1]))
        start = 0
        for part in itertools.chain([first], parts):
            x[start : start + len(part)] = part
            start += len(part)
        x.flush()
        del x
        return learn_atoms(np.load(path, mmap_mode="r"), config, controls)
    finally:
        path.unlink(missing_ok=True)


def _drawn(fields: Sequence[Known], most: int, seed: int) -> list[NDArray[np.int64]]:
    counts = [known.receipt.n_units for known in fields]
    return draw_units(counts, [known.well for known in fields], most, seed)


def _vectors(
    job: Job,
    fields: Sequence[Known],
    rows: Sequence[NDArray[np.int64]] | None = None,
    plates: PlateReferences | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Vectors of each field, or some of their rows where there are any, one field at a time."""
    for number, known in enumerate(fields):
        current_task().check()
        if rows is not None and not len(rows[number]):
            continue
        tensors, _, _ = read_shard(job.file("vectors", known.receipt.number))
        vectors = tensors["vectors"].astype(np.float32)
        vectors = vectors if rows is None else vectors[rows[number]]
        yield vectors if plates is None else plates.align(vectors, known.plate)


def _backgrounds(job: Job, fields: Sequence[Known]) -> list[FieldBackground]:
    """Backgrounds of all fields; none where the settings do not want them."""
    names, found = ("background", "far", "shares"), []
    for known in fields if job.config.wants_background else ():
        current_task().check()
        tensors = read_shard(job.file("vectors", known.receipt.number))[0]
        found.append({name: tensors[name] for name in names if name in tensors})
    # Of fields without room they were not written.
    widths = {name: len(means[name]) for means in found for name in means}
    nothing = {name: np.full(width, np.nan, np.float32) for name, width in widths.items()}
    return [
        FieldBackground(
            means.get("background", nothing.get("background", _NO_ROOM)),
            means.get("far", nothing.get("far", _NO_ROOM)),
            *means["shares"].tolist(),
        )
        for means in found
    ]


def _background_sums(
    fields: Sequence[Known],
    backgrounds: Sequence[FieldBackground],
    plates: PlateReferences | None,
) -> MomentSums:
    """Sums over the backgrounds of the fields that have one."""
    sums = MomentSums(len(backgrounds[0].mean) if backgrounds else 0)
    for known, background in zip(fields, backgrounds, strict=False):
        mean = background.mean[None]
        if not np.isnan(mean).any():
            sums.add(mean if plates is None else plates.align(mean, known.plate))
    return sums
