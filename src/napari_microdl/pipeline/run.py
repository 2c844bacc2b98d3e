"""The whole run, from fields to concept activations, a stage after the other on one machine."""

from __future__ import annotations

import dataclasses
import queue
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, TypeVar

import numpy as np

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.dictionary import ConceptDictionary, DictionarySpec
from napari_microdl.concepts.fit_samples import FitSamples
from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import Progress, Stage, Task, current_task
from napari_microdl.core.text import first_notes
from napari_microdl.fields.field import Field, UnusableFieldsError
from napari_microdl.fields.illumination import illumination_note
from napari_microdl.fields.pixel_size import common_pixel_size, pixel_size_note
from napari_microdl.models.base import TokenModel
from napari_microdl.pipeline.cache import CachedStage, StageCache, stage_keys
from napari_microdl.pipeline.estimate import estimate_run
from napari_microdl.pipeline.inputs import (
    Labels,
    channel_note,
    check_cells,
    check_fields,
    config_of,
    load_model_of,
    named_channels,
    tile_plan,
)
from napari_microdl.pipeline.report import build_report
from napari_microdl.pipeline.stages import (
    Intensities,
    Learned,
    Samples,
    Tokens,
    Whitened,
    align_samples,
    background_of,
    cells_of,
    device_of,
    encode,
    in_space_of,
    learn,
    measure_intensities,
    plate_moments,
    remove_position,
    scales_of,
    tokens_of,
    units_of_field,
    vectors_of,
    whiten,
)
from napari_microdl.report.findings import chosen_figures
from napari_microdl.tokens import (
    MemoryLimited,
    TokenCache,
    TokenGrid,
    TokenStorage,
    order_by_content,
)

Result = TypeVar("Result")


@dataclass(eq=False)
class PipelineResult:
    """What a run leaves.

    Parameters
    ----------
    config : PipelineConfig
        Settings used; where a dictionary was applied, with its settings filled in.
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
    activations: ConceptActivations
    labels: list[Labels]
    report: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    @property
    def dictionary(self) -> ConceptDictionary:
        """The dictionary, fitted or applied."""
        return self.activations.dictionary


# Fields that a note names.
_MOST_NAMES = 5


class PipelineRun:
    """A run whose stages can be asked for one by one; each asks for those before it.

    A result that is held and was made from the same is taken as it is; a run that is cancelled
    leaves the stages that it finished.

    Parameters
    ----------
    fields, config, dictionary, model, cache, stages
        As for `run_pipeline`.
    storage : TokenStorage, optional
        Where tokens are held during the run; in memory up to 512 MiB, and in files after that,
        where not given.

    Raises
    ------
    MicrodlError
        If the fields and the settings do not fit together; one sentence says what to do.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        config: PipelineConfig | None = None,
        *,
        dictionary: ConceptDictionary | None = None,
        model: TokenModel | None = None,
        cache: TokenCache | None = None,
        stages: StageCache | None = None,
        storage: TokenStorage | None = None,
    ) -> None:
        config = config or PipelineConfig()
        if model is not None:
            config = config.replace(model=config.model.replace(name=model.spec.model_id))
        self.fields = fields
        self.config = config if dictionary is None else config_of(dictionary, config)
        self.applied = dictionary
        self._model = model
        self._channels = self._check(fitting=False)
        self._cache = cache
        self._stages = stages
        self._storage = storage
        self._keys: dict[CachedStage, Any] | None = None
        self._wants_cells = False
        # Of this run, whether anything is held for the next or not.
        self._results: dict[CachedStage, Any] = {}
        self._seconds: dict[CachedStage, dict[Stage, float]] = {}
        self._notes: dict[CachedStage, list[str]] = {}

    @property
    def finished(self) -> set[CachedStage]:
        """Stages that are done; may be asked by another thread while others are in progress."""
        return set(self._results)

    def cells(self) -> list[Labels]:
        """Cells of every field; None where the unit is no cell."""
        return self._result_of("cells", self._find_cells)

    def tokens(self) -> Tokens:
        """Tokens of every field."""
        return self._result_of("tokens", self._read_tokens)

    def samples(self) -> Samples:
        """Mean tokens of every unit."""
        self._wants_cells = True
        return self._result_of("samples", self._average_tokens)

    def whitening(self) -> Whitened:
        """Samples in the space in which concepts are learned, or of the dictionary applied."""
        if self.applied is not None:
            return self._of_applied(self.applied)
        self._check(fitting=True)
        return self._result_of("whitening", self._whiten)

    def result(self) -> PipelineResult:
        """The dictionary, fitted or applied, and the activations of every unit."""
        self._check(fitting=self.applied is None)
        samples, labels, tokens = self.samples(), self.cells(), self.tokens()
        whitened = self.whitening()
        notes = [*self._notes["cells"], *tokens.notes, *whitened.notes]
        if empty := self._fields_without_cells():
            few = ", ".join(f"'{name}'" for name in empty[:_MOST_NAMES])
            more = f" and {len(empty) - _MOST_NAMES:,} more" if empty[_MOST_NAMES:] else ""
            notes.insert(0, f"There is no cell in {few}{more}: nothing is told of these fields.")
        dictionary, sizes = self.applied, [f.pixel_size for f in self.fields]
        if dictionary is not None and (note := pixel_size_note(dictionary.pixel_size, sizes)):
            notes.insert(0, note)
        if note := illumination_note(self.fields):
            notes.insert(0, note)
        if dictionary is None:
            learned: Learned = self._result_of("dictionary", self._learn)
            notes += learned.notes
            # Names and notes are those of the same concepts, whatever has become of the rest.
            dictionary = dataclasses.replace(learned.dictionary)
        elif whitened.plates is not None:
            dictionary = dataclasses.replace(dictionary, plates=whitened.plates)
        with current_task().stage("activations"):
            started = time.perf_counter()
            activations = encode(self.fields, tokens, samples, whitened.vectors, dictionary)
            if self.applied is None:
                activations.fit_samples = FitSamples.draw(
                    samples.vectors,
                    self.config,
                    plates=samples.plates(self.fields),
                    kind="together" if whitened.plates is None else whitened.plates.kind,
                    nuisance=whitened.nuisance,
                    background=whitened.background,
                )
            seconds = self._all_seconds(activations=time.perf_counter() - started)
            report = build_report(self.fields, self.config, activations, tokens, seconds, notes)
            if self.applied is None:
                dictionary.pixel_size = common_pixel_size(sizes)
                dictionary.provenance = {
                    "intensity": report["intensity"],
                    "config": self.config.to_dict(),
                    "fields": report["fields"],
                    "packages": report["packages"],
                    "weights_source": tokens.model.source,
                    "weights_non_commercial": tokens.model.non_commercial,
                }
                chosen = chosen_figures(activations)
                dictionary.figures = {**report["fit"], **report["position"], **chosen}
            current_task().progress(1, 1, "Done")
        return PipelineResult(self.config, activations, labels, report, notes)

    def _of_applied(self, dictionary: ConceptDictionary) -> Whitened:
        """Samples in the space of a dictionary; plates by their own controls if its plates were."""
        samples, known = self.samples(), dictionary.plates
        plates = None
        with current_task().taking_notes() as notes:
            if known is not None:
                plates = known.applied_to(plate_moments(self.fields, samples))
            aligned = align_samples(self.fields, samples, plates)
            vectors = in_space_of(dictionary.whitening, aligned)
        return Whitened(dictionary.whitening, vectors, tuple(notes), plates=plates)

    def _fields_without_cells(self) -> list[str]:
        return check_cells(self.fields, self.cells(), self.config, fitting=self.applied is None)

    def _check(self, *, fitting: bool) -> tuple[str, ...]:
        model = None if self._model is None else self._model.spec
        return check_fields(self.fields, self.config, fitting=fitting, model=model)

    def _result_of(self, stage: CachedStage, make: Callable[[], Result]) -> Result:
        """Result of a stage: of this run, or held from an earlier one, or made now."""
        if stage in self._results:
            known: Result = self._results[stage]
            return known
        found = None
        if self._stages is not None:
            if self._keys is None:
                with current_task().stage("fields"):
                    self._keys = stage_keys(
                        self.fields,
                        self.config,
                        self._channels,
                        dictionary=self.applied,
                        model=self._model,
                    )
            found = self._stages.get(stage, self._keys[stage])
        if found is None:
            found = make(), self._seconds.get(stage, {}), self._notes.get(stage, [])
            if self._stages is not None and self._keys is not None:
                n_bytes = found[0].vectors.nbytes if isinstance(found[0], Samples) else 0
                self._stages.put(stage, self._keys[stage], found, n_bytes)
        result: Result
        result, self._seconds[stage], self._notes[stage] = found
        self._results[stage] = result
        return result

    @contextmanager
    def _timed(self, stage: CachedStage, shown: Stage) -> Iterator[Task]:
        """Work for a stage, as people see it."""
        started, task = time.perf_counter(), current_task()
        with task.stage(shown):
            yield task
        spent = self._seconds.setdefault(stage, {})
        spent[shown] = spent.get(shown, 0.0) + time.perf_counter() - started

    def _all_seconds(self, activations: float) -> dict[Stage, float]:
        """Seconds that every stage took when it ran, in this run or before."""
        total: dict[Stage, float] = dict.fromkeys(
            ("fields", "cells", "tokens", "whitening", "dictionary"), 0.0
        )
        for seconds in self._seconds.values():
            for shown, spent in seconds.items():
                total[shown] = round(total[shown] + spent, 3)
        return total | {"activations": round(activations, 3)}

    # Stages --------------------------------------------------------------------------------------

    def _find_cells(self) -> list[Labels]:
        labels: list[Labels] = [None] * len(self.fields)
        if self.config.units.kind != "cell":
            return labels
        wrong: dict[int, str] = {}
        with self._timed("cells", "cells") as task, task.taking_notes() as notes:
            for index, f in enumerate(self.fields):
                with task.step(index, len(self.fields), f"Finding cells in {f.name}"):
                    try:
                        labels[index] = cells_of(f, self.config)
                    except (MicrodlError, OSError) as error:
                        wrong[index] = str(error)
        if wrong:
            raise UnusableFieldsError(wrong)
        self._notes["cells"] = first_notes(notes)
        return labels

    def _read_tokens(self) -> Tokens:
        config, applied = self.config, self.applied
        with self._timed("tokens", "fields"):
            # The model goes first: it says on which scale it wants intensities.
            model = self._model or load_model_of(config, self._channels)
            curve = None
            if applied is not None:
                applied.spec.check_model(model.spec)
                curve = applied.spec.model.intensity
            channels = named_channels(self._channels, config, model.spec)
            plan = tile_plan(model.spec, config)
            # Settings that no dictionary can have are refused before anything is read.
            DictionarySpec.of(model.spec, config.tokens, config.units, plan, channels)
            measured = measure_intensities(self.fields, config, model.spec, channels, curve)
        if self._wants_cells:
            # Before tokens: what is wrong with them is then known in seconds.
            self._fields_without_cells()
        with self._timed("tokens", "tokens"):
            grids, notes = self._read_grids(model, measured)
        if note := channel_note(channels, config, model.spec):
            notes.insert(0, note)
        tokens = Tokens(
            grids=grids,
            position=None,
            share={},
            channels=channels,
            plan=measured.plan,
            model=model.spec,
            device=device_of(model),
            limits=measured.scaler.describe(),
            notes=tuple(notes),
            order=order_by_content(grids),
        )
        with self._timed("tokens", "whitening"):
            return remove_position(tokens, config, applied)

    def _read_grids(
        self, model: TokenModel, measured: Intensities
    ) -> tuple[list[TokenGrid], list[str]]:
        """Tokens of every field, and what a user should know."""
        config, task, n = self.config, current_task(), len(self.fields)
        lazy = not all(isinstance(f.data, np.ndarray) for f in self.fields)
        shapes = [f.shape for f in self.fields]
        estimate = estimate_run(shapes, len(measured.channels), model.spec, config, lazy=lazy)
        task.progress(0, n, f"{estimate}, beside the model.", stays=True)
        cache = (self._cache or TokenCache()) if config.cache else None
        storage = self._storage or TokenStorage()
        limited = MemoryLimited(model)
        grids, notes = [], []
        for index, f in enumerate(self.fields):
            with task.step(index, n, f"Reading patches of {f.name} on {device_of(model)}"):
                grids.append(
                    tokens_of(
                        f,
                        measured.scaler.of_field(index),
                        limited,
                        config,
                        measured.channels,
                        cache=cache,
                        storage=storage,
                    )
                )
        if limited.most_tiles is not None:
            notes.append(
                f"Memory ran out: the model was given {limited.most_tiles} "
                f"tile{'s' if limited.most_tiles > 1 else ''} at a time instead of a batch of "
                f"{config.model.batch_size}."
            )
        trial = getattr(model, "trial", None)
        if trial is not None:
            notes.append(
                f"Fast arithmetic: the model ran in {trial.used}; bfloat16 is "
                f"{trial.speed_ratio:.1f} times as fast as float32 here, and changes tokens by "
                f"{trial.relative_error:.1%}."
            )
        if cache is not None and cache.problem is not None:
            notes.append(cache.problem)
        return grids, notes

    def _average_tokens(self) -> Samples:
        tokens, labels, n = self.tokens(), self.cells(), len(self.fields)
        with self._timed("samples", "whitening") as task:
            task.progress(0, n, "Averaging patches")
            geometry, vectors, backgrounds = [], [], []
            wrong: dict[int, str] = {}
            for index, (f, grid) in enumerate(zip(self.fields, tokens.grids, strict=True)):
                task.check()
                try:
                    geometry.append(units_of_field(f, grid, labels[index], self.config))
                except MicrodlError as error:
                    wrong[index] = str(error)
            if wrong:
                raise UnusableFieldsError(wrong)
            scales = scales_of(tokens, geometry, self.config, self.applied)
            for index, f in enumerate(self.fields):
                with task.step(index, n, f"Averaging patches in {f.name}"):
                    grid = tokens.grids[index]
                    vectors.append(vectors_of(grid, geometry[index], self.config, scales))
                    if self.config.measures_background:
                        backgrounds.append(
                            background_of(grid, geometry[index], self.config, scales)
                        )
            return Samples(
                geometry,
                np.concatenate(vectors),
                tokens.order,
                scales,
                backgrounds or None,
            )

    def _whiten(self) -> Whitened:
        samples = self.samples()
        with self._timed("whitening", "whitening"):
            return whiten(self.fields, self.config, samples)

    def _learn(self) -> Learned:
        tokens, samples, whitened = self.tokens(), self.samples(), self.whitening()
        with self._timed("dictionary", "dictionary"):
            return learn(self.fields, self.config, tokens, samples, whitened)


def run_pipeline(
    fields: Sequence[Field],
    config: PipelineConfig | None = None,
    *,
    dictionary: ConceptDictionary | None = None,
    model: TokenModel | None = None,
    progress: Callable[[Progress], None] | None = None,
    cache: TokenCache | None = None,
    stages: StageCache | None = None,
) -> PipelineResult:
    """Run from fields to activations.

    Parameters
    ----------
    fields : sequence of Field
        Fields with conditions; at least one control where a whitening is fitted.
    config : PipelineConfig, optional
        Settings; the defaults where not given.
    dictionary : ConceptDictionary, optional
        Apply this one instead of fitting; its model, layer, channels and unit are used.
    model : TokenModel, optional
        Any object that reads tokens, in place of the model that the settings name.
    progress : callable, optional
        Called with every `napari_microdl.core.task.Progress`.
    cache : TokenCache, optional
        Where tokens are kept on disk if the settings have it so; the usual place where not given.
    stages : StageCache, optional
        What earlier runs left; stages whose settings and images are the same are not run again.

    Returns
    -------
    PipelineResult

    Raises
    ------
    MicrodlError
        If the fields and the settings do not fit together; one sentence says what to do.
    """
    run = PipelineRun(
        fields, config, dictionary=dictionary, model=model, cache=cache, stages=stages
    )
    if progress is None:
        return run.result()
    with Task(progress, parent=current_task()).active():
        return run.result()


def iter_pipeline(
    fields: Sequence[Field],
    config: PipelineConfig | None = None,
    dictionary: ConceptDictionary | None = None,
    *,
    cache: TokenCache | None = None,
    stages: StageCache | None = None,
) -> Generator[Progress, None, PipelineResult]:
    """`run_pipeline` as a generator of its progress, for scripts that were written for one.

    Parameters
    ----------
    fields, config, dictionary, cache, stages
        As for `run_pipeline`.

    Yields
    ------
    Progress
        Stop iterating to cancel the run, which goes on in a thread.

    Returns
    -------
    PipelineResult

    Raises
    ------
    MicrodlError
        As `run_pipeline`.
    """
    # One at a time, so that the run waits for whoever looks at its progress.
    news: queue.Queue[Progress | None] = queue.Queue(1)
    task = Task(news.put, parent=current_task())
    outcome: list[PipelineResult | BaseException] = []

    def work() -> None:
        try:
            with task.active():
                outcome.append(
                    run_pipeline(fields, config, dictionary=dictionary, cache=cache, stages=stages)
                )
        except BaseException as error:
            outcome.append(error)
        finally:
            news.put(None)

    thread = Thread(target=work, name="napari-microdl", daemon=True)
    thread.start()
    try:
        while (progress := news.get()) is not None:
            yield progress
    finally:
        task.cancel()
        # What it still tells must not keep it waiting.
        while thread.is_alive():
            with suppress(queue.Empty):
                news.get(timeout=0.05)
    (found,) = outcome
    if isinstance(found, BaseException):
        raise found
    return found
