"""What a plate will take, from the table and a look at a few of its fields."""

from __future__ import annotations

import time

import numpy as np

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field
from napari_microdl.models.base import ModelSpec
from napari_microdl.models.registry import model_spec
from napari_microdl.pipeline.estimate import estimate_run, estimate_seconds, processor_rate
from napari_microdl.pipeline.inputs import check_fields, config_of, joint_of, named_channels
from napari_microdl.pipeline.plate.listing import Listing, PlateField
from napari_microdl.pipeline.plate.sampling import draw_fields
from napari_microdl.pipeline.stages import cells_of

# Fields that are opened, and of these the ones whose cells are counted.
_OPENED, _COUNTED = 16, 3
# Bytes a unit leaves beside its numbers: its row, its codes by unit and by concept.
_ROW_BYTES = 400


def outlook(
    listing: Listing, config: PipelineConfig, dictionary: ConceptDictionary | None = None
) -> str:
    """What a plate will take, in sentences.

    Parameters
    ----------
    listing : Listing
        Its fields.
    config : PipelineConfig
        Settings.
    dictionary : ConceptDictionary, optional
        The one that is to be applied.

    Returns
    -------
    str

    Raises
    ------
    MicrodlError
        If none of the fields that are looked at can be opened, or the settings do not fit.
    """
    config = config if dictionary is None else config_of(dictionary, config)
    sources = [item.source for item in listing.fields]
    drawn = [listing.fields[n] for n in draw_fields(sources, _OPENED, config.random_state)]
    opened, wrong = _opened(drawn)
    channels = check_fields([opened[0]], config, fitting=False)
    model = model_spec(config.model.name, joint=joint_of(config.model.joint, channels))
    channels = named_channels(channels, config, model)
    estimate = estimate_run([f.shape for f in opened], len(channels), model, config, lazy=True)
    largest = max((f.shape for f in opened), key=lambda shape: shape[0] * shape[1])
    memory = estimate_run([largest], len(channels), model, config, lazy=True).memory
    n, left_out = len(listing.fields), listing.left_out
    per_field = estimate.n_tiles / len(opened)
    n_tiles, rate = round(per_field * n), processor_rate()
    hours = estimate_seconds(n_tiles, len(channels), model, config, rate=rate) / 3600
    sentences = [
        f"{n:,} fields are there, {sum(s.is_control for s in sources):,} of them controls, with "
        f"{opened[0].shape[0]} x {opened[0].shape[1]} pixels and the channels "
        f"{', '.join(channels)}.",
        *listing.notes,
    ]
    if left_out:
        first = left_out[0]
        sentences.append(f"{len(left_out):,} are not; the first: {first.name}: {first.reason}")
    if wrong:
        sentences.append(
            f"Of {len(drawn)} that were looked at, {len(wrong)} do not open: {wrong[0]}"
        )
    shapes = {f.shape for f in opened}
    if len(shapes) > 1:
        sentences.append(
            f"Their sizes differ: {', '.join(f'{h} x {w}' for h, w in sorted(shapes))}."
        )
    sentences += _of_units(opened, config, model, len(channels), n)
    sentences.append(
        f"Reading tokens takes about {hours:,.1f} hours of one process on this machine, by its "
        f"arithmetic alone, and one process {memory / 1e6:,.0f} MB beside the model."
    )
    return "\n".join(sentences)


def _opened(drawn: list[PlateField]) -> tuple[list[Field], list[str]]:
    """Fields that open, and what is wrong with the others."""
    opened, wrong = [], []
    for number, item in enumerate(drawn):
        with current_task().step(number, len(drawn), "Looking at fields"):
            try:
                opened.append(item.open())
            except (MicrodlError, OSError) as error:
                wrong.append(f"{item.source.name}: {error}")
    if not opened:
        raise MicrodlError(f"None of {len(drawn)} fields opens; of the first: {wrong[0]}")
    return opened, wrong


def _of_units(
    opened: list[Field], config: PipelineConfig, model: ModelSpec, n_channels: int, n: int
) -> list[str]:
    """Cells that are expected, and what they take on the disk."""
    if config.units.kind != "cell":
        return []
    counted, started = [], time.perf_counter()
    for number, field in enumerate(opened[:_COUNTED]):
        with current_task().step(number, _COUNTED, f"Finding cells in {field.name}"):
            labels = cells_of(field, config)
            assert labels is not None
            counted.append(len(np.unique(labels[labels > 0])))
    seconds = (time.perf_counter() - started) / len(counted)
    cells = sum(counted) / len(counted) * n
    joined = model.channels.n_token_channels(n_channels)
    width = model.dim * (joined if config.tokens.channel_tokens == "concat" else 1)
    # Half precision once, and twice in the space of the dictionary.
    gigabytes = cells * (width * (2 + 4 + 4) + _ROW_BYTES) / 1e9
    return [
        f"About {cells:,.0f} cells are expected ({', '.join(map(str, counted))} in those that were "
        f"looked at), which take {gigabytes:,.2f} GB on the disk; finding them takes about "
        f"{seconds * n / 3600:,.1f} hours of one process."
    ]
