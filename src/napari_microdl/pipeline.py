"""The whole run, from fields to concept activations, as a generator that can be stopped."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_microdl.activations import ConceptActivations, unit_table
from napari_microdl.cells import Units, pool, units_of
from napari_microdl.config import PipelineConfig
from napari_microdl.dictionary import ConceptDictionary, DictionarySpec
from napari_microdl.embedding import (
    BackingOff,
    ScaledImage,
    TilePlan,
    TokenCache,
    TokenGrid,
    TokenStorage,
    check_wants,
    embed_field,
    estimate_embedding,
)
from napari_microdl.errors import MicrodlError
from napari_microdl.fields import Field
from napari_microdl.icfl import ICFL, FitRecord
from napari_microdl.models.base import TokenModel
from napari_microdl.models.registry import load_model, published_name
from napari_microdl.positions import PositionComponent, left_out_share, position_share
from napari_microdl.report import build_report
from napari_microdl.scaling import IntensityScaling
from napari_microdl.segmentation import segment_cells
from napari_microdl.shrinkage import choose_shrinkage
from napari_microdl.stepping import run_through
from napari_microdl.whitening import ControlWhitening

Stage = Literal["scale", "segment", "embed", "whiten", "fit", "encode"]


# With fewer, a place's mean is largely the image itself.
_LEAST_TOKENS_PER_PLACE = 4.0
_SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Parameters
    ----------
    stage : {"scale", "segment", "embed", "whiten", "fit", "encode"}
        What is being done.
    done, total : int
        Steps of the stage.
    message : str
        A sentence for people.
    record : FitRecord, optional
        Figures of the dictionary fit, in the stage "fit".
    """

    stage: Stage
    done: int
    total: int
    message: str
    record: FitRecord | None = None


@dataclass(eq=False)
class PipelineResult:
    """What a run leaves.

    Parameters
    ----------
    config : PipelineConfig
        Settings used; where a dictionary was applied, with its settings filled in.
    dictionary : ConceptDictionary
        Fitted or applied dictionary.
    activations : ConceptActivations
        Activations of every unit.
    labels : list of (ndarray of shape (height, width) or None)
        Cell labels of every field, where the unit is a cell.
    report : dict
        Every figure of the run, plain values.
    warnings : list of str
        What a user should know before trusting the result.
    """

    config: PipelineConfig
    dictionary: ConceptDictionary
    activations: ConceptActivations
    labels: list[NDArray[np.integer] | None]
    report: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


class _Clock:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._last, 3)
        self._last = now


def iter_pipeline(
    fields: Sequence[Field],
    config: PipelineConfig | None = None,
    dictionary: ConceptDictionary | None = None,
    *,
    cache: TokenCache | None = None,
) -> Generator[Progress, None, PipelineResult]:
    """Run from fields to activations, one small step an iteration.

    Parameters
    ----------
    fields : sequence of Field
        Fields with conditions; at least one control where a whitening is fitted.
    config : PipelineConfig, optional
        Settings; the defaults where not given.
    dictionary : ConceptDictionary, optional
        Apply this one instead of fitting; its model, layer, channels and unit are used.
    cache : TokenCache, optional
        Where tokens are kept if the settings have it so; the usual place where not given.

    Yields
    ------
    Progress
        Stop iterating to cancel: nothing is left behind.

    Returns
    -------
    PipelineResult

    Raises
    ------
    MicrodlError
        If the fields and the settings do not fit together; one sentence says what to do.
    """
    config = config or PipelineConfig()
    if dictionary is not None:
        config = _config_of(dictionary, config)
    fitting = dictionary is None
    channels = check_fields(fields, config, fitting=fitting)
    clock = _Clock()
    notes: list[str] = []

    # The model goes first: it says on which scale it wants intensities.
    model = yield from iter_load(config)
    if dictionary is not None:
        dictionary.spec.check_model(model.spec)
    plan = TilePlan(model.spec.patch_size, config.tile_size or model.spec.tile_size, config.halo)
    check_wants(model.spec, plan, len(channels))
    spec = _spec(config, model, plan, channels)
    if dictionary is not None:
        spec = dataclasses.replace(spec, intensity=dictionary.spec.intensity)
    clock.lap("embed")
    yield Progress("scale", 0, 1, "Measuring intensities")
    scaler = IntensityScaling(config.scaling, curve=spec.intensity).fit(fields, channels)
    clock.lap("scale")
    labels = yield from iter_segment(fields, config)
    clock.lap("segment")

    cache = (cache or TokenCache()) if config.cache else None
    grids = yield from _embed(fields, scaler, spec, model, plan, config, cache, notes)
    clock.lap("embed")

    places = plan.tile_tokens**2
    yield Progress("whiten", 0, 1, "Removing what tokens owe to their place in the tile")
    share = {"token_position_share": position_share(grids)}
    if dictionary is not None:
        position = dictionary.position
    elif config.remove_position and _tokens_per_place(grids) < _LEAST_TOKENS_PER_PLACE:
        position = None
        notes.append(
            f"There are only {_tokens_per_place(grids):.1f} tokens for each place in a tile, too "
            "few to tell the place from the image: the position component was left in; use more or "
            "larger fields."
        )
    elif config.remove_position:
        position = PositionComponent.fit(grids, places)
        share["token_position_share_after"] = left_out_share(grids, places)
    else:
        position = None
    if position is not None:
        # One by one, so that large grids are not there twice.
        for index, grid in enumerate(grids):
            grids[index] = position.remove(grid)

    geometry: list[Units] = []
    for f, grid, cells in zip(fields, grids, labels, strict=True):
        try:
            geometry.append(
                units_of(
                    grid,
                    config.unit,
                    labels=cells,
                    crop_size=config.crop_size,
                    crop_stride=config.crop_stride,
                )
            )
        except MicrodlError as error:
            raise MicrodlError(f"Field '{f.name}': {error}") from error
    vectors = np.concatenate(
        [pool(grid, units) for grid, units in zip(grids, geometry, strict=True)]
    )
    table = unit_table(fields, geometry)
    clock.lap("whiten")

    if dictionary is None:
        is_control = table["Metadata_control"].to_numpy(bool)
        of_field = table["field"].to_numpy()
        dictionary = yield from _fit(vectors, is_control, of_field, config, spec, position, notes)
    clock.lap("fit")

    yield Progress("encode", 0, 1, f"Encoding {len(vectors)} {config.unit}s")
    whitened = dictionary.whiten(vectors)
    activations = ConceptActivations(
        units=table,
        codes=dictionary.icfl.transform(whitened),
        vectors=whitened,
        dictionary=dictionary,
        grids=grids,
        geometry=geometry,
    )
    clock.lap("encode")
    report = build_report(fields, config, activations, share, clock.seconds, notes)
    report["device"] = device_of(model)
    report["intensity"] = [dataclasses.asdict(limits) for limits in scaler.describe()]
    if fitting:
        dictionary.provenance = {
            "intensity": report["intensity"],
            "config": config.to_dict(),
            "fields": report["fields"],
            "packages": report["packages"],
            "weights_source": model.spec.source,
            "weights_non_commercial": model.spec.non_commercial,
        }
        dictionary.figures = {**report["fit"], **report["position"]}
    yield Progress("encode", 1, 1, "Done")
    return PipelineResult(config, dictionary, activations, labels, report, notes)


def run_pipeline(
    fields: Sequence[Field],
    config: PipelineConfig | None = None,
    *,
    dictionary: ConceptDictionary | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> PipelineResult:
    """Run from fields to activations in one call.

    Parameters
    ----------
    fields : sequence of Field
        Fields with conditions; at least one control where a whitening is fitted.
    config : PipelineConfig, optional
        Settings; the defaults where not given.
    dictionary : ConceptDictionary, optional
        Apply this one instead of fitting.
    progress : callable, optional
        Called with every `Progress`.

    Returns
    -------
    PipelineResult

    Raises
    ------
    MicrodlError
        If the fields and the settings do not fit together.
    """
    return run_through(iter_pipeline(fields, config, dictionary), progress)


def _config_of(dictionary: ConceptDictionary, config: PipelineConfig) -> PipelineConfig:
    spec = dictionary.spec
    return dataclasses.replace(
        config,
        model=_model_of(spec, config),
        joint=spec.joint,
        layer=spec.layer,
        site=spec.site,
        channels=spec.channel_names,
        channel_tokens=spec.channel_tokens,
        scaling=spec.scaling,
        tile_size=spec.tile_size,
        halo=spec.halo,
        unit=spec.unit,
        crop_size=spec.crop_size,
        crop_stride=spec.crop_stride,
        remove_position=dictionary.position is not None,
        whiten=dictionary.whitening is not None,
    )


def _model_of(spec: DictionarySpec, config: PipelineConfig) -> str:
    """The dictionary's model, from where the settings say that its weights lie."""
    name = config.model
    here, made_with = published_name(name), published_name(spec.model_id)
    if here is not None and made_with is not None and here.model == made_with.model:
        return str(made_with._replace(place=here.place))
    return name if name.startswith("hf://") or Path(name).exists() else spec.model_id


def check_fields(
    fields: Sequence[Field], config: PipelineConfig, *, fitting: bool
) -> tuple[str, ...]:
    """Names of the channels used, after checking that every field has them.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    config : PipelineConfig
        Settings.
    fitting : bool
        Whether a dictionary will be fitted, for which a whitening needs controls.

    Returns
    -------
    tuple of str

    Raises
    ------
    MicrodlError
        If fields and settings do not fit together.
    """
    if not fields:
        raise MicrodlError("There are no fields; choose at least one image.")
    if fitting and config.whiten and not any(f.is_control for f in fields):
        raise MicrodlError(
            "No control field is chosen; mark at least one untreated field as control, "
            "or switch the whitening off."
        )
    channels = config.channels or fields[0].channel_names
    for f in fields:
        f.channel_indices(channels)
        if config.channels is None and set(f.channel_names) != set(channels):
            raise MicrodlError(
                f"Field '{f.name}' has the channels {f.channel_names} but '{fields[0].name}' has "
                f"{channels}; choose the channels that all fields share."
            )
    return channels


def iter_segment(
    fields: Sequence[Field], config: PipelineConfig
) -> Generator[Progress, None, list[NDArray[np.integer] | None]]:
    """Cell labels of every field, its own or found; None where the unit is no cell.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    config : PipelineConfig
        Settings.

    Yields
    ------
    Progress
        One a field.

    Returns
    -------
    list of (ndarray of shape (height, width) or None)
    """
    labels: list[NDArray[np.integer] | None] = [None] * len(fields)
    if config.unit != "cell":
        return labels
    for index, f in enumerate(fields):
        yield Progress("segment", index, len(fields), f"Finding cells in {f.name}")
        labels[index] = f.read_labels()
        if labels[index] is None:
            name = config.segmentation.channel
            channel = f.channel_indices((name,) if name else None)[0]
            labels[index] = segment_cells(f.read((channel,))[0], config.segmentation)
    return labels


def _tokens_per_place(grids: list[TokenGrid]) -> float:
    places = np.unique(np.concatenate([np.unique(g.position) for g in grids]))
    return sum(g.position.size for g in grids) / len(places)


def _spec(
    config: PipelineConfig, model: TokenModel, plan: TilePlan, channels: tuple[str, ...]
) -> DictionarySpec:
    return DictionarySpec(
        model_id=model.spec.model_id,
        weights_sha256=model.spec.weights_sha256,
        weights_licence=model.spec.licence,
        layer=model.spec.default_layer if config.layer is None else config.layer,
        site=config.site,
        channel_names=channels,
        channel_tokens=config.channel_tokens,
        scaling=config.scaling,
        tile_size=plan.tile_size,
        halo=plan.halo,
        patch_size=plan.patch_size,
        unit=config.unit,
        crop_size=config.crop_size,
        crop_stride=config.crop_stride,
        intensity=model.spec.intensity,
        joint=model.spec.channels.joint,
    )


def iter_load(config: PipelineConfig) -> Generator[Progress, None, TokenModel]:
    """Load the model of a run.

    Parameters
    ----------
    config : PipelineConfig
        Settings.

    Yields
    ------
    Progress
        Many a second; a run that is stopped does not wait for the loading.

    Returns
    -------
    TokenModel
    """
    # Neither the import of torch nor a large file can be interrupted: a thread of its own lets a
    # cancelled run end at once.
    loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load-model")
    try:
        loading = loader.submit(
            load_model,
            config.model,
            device=config.device,
            precision=config.precision,
            seed=config.random_state,
            joint=config.joint,
        )
        while not loading.done():
            yield Progress("scale", 0, 1, "Loading the model")
            wait([loading], timeout=_SECONDS_BETWEEN_LOOKS)
        return loading.result()
    finally:
        loader.shutdown(wait=False)


def device_of(model: TokenModel) -> str:
    """Where a model runs: "cpu", "cuda" or "mps"."""
    return str(getattr(model, "device", "cpu"))


def _embed(
    fields: Sequence[Field],
    scaler: IntensityScaling,
    spec: DictionarySpec,
    model: TokenModel,
    plan: TilePlan,
    config: PipelineConfig,
    cache: TokenCache | None,
    notes: list[str],
) -> Generator[Progress, None, list[TokenGrid]]:
    counts = [len(plan.origins(f.shape)) for f in fields]
    total, before = sum(counts), 0
    estimate = estimate_embedding(
        [f.shape for f in fields],
        len(spec.channel_names),
        model.spec,
        plan,
        channel_tokens=spec.channel_tokens,
        batch_size=config.batch_size,
        lazy=not all(isinstance(f.data, np.ndarray) for f in fields),
    )
    yield Progress("embed", 0, total, str(estimate))
    device = device_of(model)
    model = BackingOff(model)
    storage = TokenStorage()
    grids: list[TokenGrid] = []
    for index, f in enumerate(fields):
        steps = embed_field(
            ScaledImage(f, scaler, index, spec.channel_names),
            model,
            plan,
            layer=spec.layer,
            site=spec.site,
            channel_tokens=spec.channel_tokens,
            batch_size=config.batch_size,
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
            f"{config.batch_size}."
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


@contextmanager
def _warnings_noted(notes: list[str]) -> Iterator[None]:
    """Turn warnings into notes; never around a yield, where those of other code would be taken."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    notes += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def _fit(
    vectors: NDArray[np.float32],
    is_control: NDArray[np.bool_],
    of_field: NDArray[np.int64],
    config: PipelineConfig,
    spec: DictionarySpec,
    position: PositionComponent | None,
    notes: list[str],
) -> Generator[Progress, None, ConceptDictionary]:
    whitening = None
    samples = vectors
    if config.whiten:
        n_controls = int(is_control.sum())
        yield Progress("whiten", 0, 1, f"Whitening on {n_controls} control {config.unit}s")
        controls = vectors[is_control]
        shrinkage = config.shrinkage
        if shrinkage is None:
            shrinkage = choose_shrinkage(controls, of_field[is_control])
            notes.append(
                f"{n_controls} control {config.unit}s with {vectors.shape[1]} dimensions: the "
                f"whitening is shrunk by {shrinkage:g} times the median eigenvalue."
            )
        whitening = ControlWhitening(config.n_components, shrinkage=shrinkage)
        with _warnings_noted(notes):
            samples = whitening.fit(controls).transform(vectors)
    icfl = ICFL(
        config.n_atoms,
        config.n_iterations,
        config.atoms_per_iteration,
        update=config.update,
        init=config.init,
        learning_rate=config.learning_rate,
        selection=config.selection,
        refit=config.refit,
        positive_code=config.positive_code,
        control_atoms=config.control_atoms,
        max_steps=config.max_steps,
        early_stopping=config.early_stopping,
        random_state=config.random_state,
    )
    records = icfl.fit_iter(samples, controls=None if config.control_atoms is None else is_control)
    while True:
        with _warnings_noted(notes):
            record = next(records, None)
        if record is None:
            break
        message = f"Fitting the dictionary: R2 {record.r2:.3f}"
        yield Progress("fit", record.step, record.total_steps or record.step, message, record)
    if config.n_atoms is None:
        notes.append(
            f"{len(samples)} {config.unit}s: a dictionary of {icfl.n_atoms_} atoms with at most "
            f"{icfl.n_iterations_} x {icfl.atoms_per_iteration_} active was chosen."
        )
    return ConceptDictionary(spec, icfl, whitening, position)
