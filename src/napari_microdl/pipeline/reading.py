"""Tokens of fields: intensities measured, tiles through the model, the position component off."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import Intensity, PipelineConfig
from napari_microdl.core.progress import Progress
from napari_microdl.core.stepping import retold
from napari_microdl.fields.field import Field
from napari_microdl.fields.intensity import ChannelLimits, IntensityScaling
from napari_microdl.models.base import ModelSpec, TokenModel
from napari_microdl.pipeline.estimate import estimate_run
from napari_microdl.pipeline.inputs import spec_of
from napari_microdl.tokens import (
    BackingOff,
    ScaledImage,
    TilePlan,
    TokenCache,
    TokenGrid,
    TokenStorage,
    check_wants,
    embed_field,
)
from napari_microdl.tokens.positions import (
    PositionComponent,
    iter_left_out_share,
    iter_position_share,
)

# With fewer, a place's mean is largely the image itself.
_LEAST_TOKENS_PER_PLACE = 4.0


@dataclass(frozen=True, eq=False)
class Intensities:
    """What has to be known before the first tile is read.

    Parameters
    ----------
    channels : tuple of str
        Channels that the model sees.
    plan : TilePlan
        How fields are cut.
    scaler : IntensityScaling
        Fitted on the fields.
    """

    channels: tuple[str, ...]
    plan: TilePlan
    scaler: IntensityScaling


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of every field.

    Parameters
    ----------
    grids : list of TokenGrid
        Without their position component, where the settings have it so.
    position : PositionComponent or None
        What was removed.
    share : dict of str to float
        Share of the variance of tokens that their place in the tile explains, before and after.
    channels : tuple of str
        Channels that the model saw.
    plan : TilePlan
        How fields were cut.
    model : ModelSpec
        The model.
    device : str
        Where it ran.
    limits : list of ChannelLimits
        Measured intensities, one entry a field and channel.
    notes : tuple of str
        What a user should know.
    """

    grids: list[TokenGrid]
    position: PositionComponent | None
    share: dict[str, float]
    channels: tuple[str, ...]
    plan: TilePlan
    model: ModelSpec
    device: str
    limits: list[ChannelLimits]
    notes: tuple[str, ...]


def device_of(model: TokenModel) -> str:
    """Where a model runs: "cpu", "cuda" or "mps"."""
    return str(getattr(model, "device", "cpu"))


def iter_measure(
    fields: Sequence[Field],
    config: PipelineConfig,
    model: TokenModel,
    channels: tuple[str, ...],
    curve: Intensity | None = None,
) -> Generator[Progress, None, Intensities]:
    """Measure intensities, after checking that the model takes channels and tiles.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    config : PipelineConfig
        Settings.
    model : TokenModel
        It says on which scale it wants intensities.
    channels : tuple of str
        From `napari_microdl.pipeline.inputs.check_fields`.
    curve : {"log", "linear"}, optional
        That of a dictionary which is applied; the model's where not given.

    Yields
    ------
    Progress
        Several a field.

    Returns
    -------
    Intensities

    Raises
    ------
    MicrodlError
        If the model does not take these channels or tiles, or an image shows nothing.
    """
    plan = TilePlan(
        model.spec.patch_size, config.tokens.tile_size or model.spec.tile_size, config.tokens.halo
    )
    check_wants(model.spec, plan, len(channels))
    # Settings that no dictionary can have are refused before anything is read.
    spec_of(config, model.spec, plan, channels)
    scaler = IntensityScaling(config.tokens.scaling, curve=curve or model.spec.intensity)
    yield from iter_scale(fields, scaler, channels)
    return Intensities(channels, plan, scaler)


def iter_scale(
    fields: Sequence[Field], scaler: IntensityScaling, channels: tuple[str, ...]
) -> Generator[Progress, None, None]:
    """Fit a scaling on fields.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    scaler : IntensityScaling
        Fitted.
    channels : tuple of str
        Those that it is fitted on.

    Yields
    ------
    Progress
        Several a field.
    """
    steps = scaler.iter_fit(fields, channels)
    for index in steps:
        message = f"Measuring intensities in {fields[index].name}"
        yield Progress("scale", index, len(fields), message)


def iter_embed(
    fields: Sequence[Field],
    config: PipelineConfig,
    model: TokenModel,
    measured: Intensities,
    *,
    cache: TokenCache | None,
    storage: TokenStorage,
) -> Generator[Progress, None, Tokens]:
    """Tokens of every field, as the model gives them.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    config : PipelineConfig
        Settings.
    model : TokenModel
        Frozen encoder.
    measured : Intensities
        From `iter_measure`.
    cache : TokenCache or None
        Where tokens seen before are kept.
    storage : TokenStorage
        Where the grids are kept.

    Yields
    ------
    Progress
        One a batch of tiles.

    Returns
    -------
    Tokens
    """
    notes: list[str] = []
    grids = yield from _grids(fields, config, model, measured, cache, storage, notes)
    return Tokens(
        grids=grids,
        position=None,
        share={},
        channels=measured.channels,
        plan=measured.plan,
        model=model.spec,
        device=device_of(model),
        limits=measured.scaler.describe(),
        notes=tuple(notes),
    )


def iter_take_position(
    tokens: Tokens, config: PipelineConfig, dictionary: ConceptDictionary | None = None
) -> Generator[Progress, None, Tokens]:
    """Take off what tokens owe to their place in the tile.

    Parameters
    ----------
    tokens : Tokens
        From `iter_embed`; its grids are replaced one by one, so that large ones are not there
        twice.
    config : PipelineConfig
        Whether a position component is fitted and removed.
    dictionary : ConceptDictionary, optional
        The one that is applied: what it removes is removed.

    Yields
    ------
    Progress
        Several a field.

    Returns
    -------
    Tokens
    """
    grids, notes = tokens.grids, list(tokens.notes)

    def step(done: int) -> Progress:
        message = "Removing what tokens owe to their place in the tile"
        return Progress("whiten", done, len(grids) + 2, message)

    yield step(0)
    places = tokens.plan.tile_tokens**2
    share = {"token_position_share": (yield from retold(iter_position_share(grids), step(0)))}
    position = None if dictionary is None else dictionary.position
    if dictionary is None and config.tokens.remove_position:
        per_place = _tokens_per_place(grids)
        if per_place < _LEAST_TOKENS_PER_PLACE:
            notes.append(
                f"There are only {per_place:.1f} tokens for each place in a tile, too few to tell "
                "the place from the image: the position component was left in; use more or larger "
                "fields."
            )
        else:
            yield step(1)
            position = yield from retold(PositionComponent.iter_fit(grids, places), step(1))
            yield step(2)
            left = yield from retold(iter_left_out_share(grids, places), step(2))
            share["token_position_share_after"] = left
    if position is not None:
        for index, grid in enumerate(grids):
            yield step(index + 2)
            grids[index] = position.remove(grid)
    return dataclasses.replace(tokens, position=position, share=share, notes=tuple(notes))


def _tokens_per_place(grids: list[TokenGrid]) -> float:
    places = np.unique(np.concatenate([np.unique(g.position) for g in grids]))
    return sum(g.position.size for g in grids) / len(places)


def _grids(
    fields: Sequence[Field],
    config: PipelineConfig,
    model: TokenModel,
    measured: Intensities,
    cache: TokenCache | None,
    storage: TokenStorage,
    notes: list[str],
) -> Generator[Progress, None, list[TokenGrid]]:
    plan, channels = measured.plan, measured.channels
    counts = [len(plan.origins(f.shape)) for f in fields]
    total, before = sum(counts), 0
    lazy = not all(isinstance(f.data, np.ndarray) for f in fields)
    shapes = [f.shape for f in fields]
    estimate = estimate_run(shapes, len(channels), model.spec, config, lazy=lazy)
    yield Progress("embed", 0, total, f"{estimate}, beside the model.", stays=True)
    device = device_of(model)
    model = BackingOff(model)
    grids: list[TokenGrid] = []
    for index, f in enumerate(fields):
        steps = embed_field(
            ScaledImage(f, measured.scaler, index, channels),
            model,
            plan,
            layer=config.tokens.layer,
            site=config.tokens.site,
            channel_tokens=config.tokens.channel_tokens,
            batch_size=config.model.batch_size,
            cache=cache,
            storage=storage,
        )
        while True:
            try:
                done = next(steps)
            except StopIteration as finished:
                grids.append(finished.value)
                break
            yield Progress("embed", before + done, total, f"Reading tokens of {f.name} on {device}")
        before += counts[index]
    if model.most_tiles is not None:
        notes.append(
            f"Memory ran out: the model was given {model.most_tiles} "
            f"tile{'s' if model.most_tiles > 1 else ''} at a time instead of a batch of "
            f"{config.model.batch_size}."
        )
    trial = getattr(model.model, "trial", None)
    if trial is not None:
        notes.append(
            f"Fast arithmetic: the model ran in {trial.used}; bfloat16 is {trial.speed_ratio:.1f} "
            f"times as fast as float32 here, and changes tokens by {trial.relative_error:.1%}."
        )
    if cache is not None and cache.problem is not None:
        notes.append(cache.problem)
    return grids
