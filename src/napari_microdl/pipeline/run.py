"""The whole run, from fields to concept activations, as a generator that can be stopped."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.progress import Progress, Stage
from napari_microdl.core.stepping import retold, run_through
from napari_microdl.fields.field import Field
from napari_microdl.models.base import TokenModel
from napari_microdl.models.registry import load_model
from napari_microdl.models.terms import terms_of
from napari_microdl.pipeline.cache import KeptStages
from napari_microdl.pipeline.channels import (
    channel_note,
    channels_by_model,
    joint_of,
    named_channels,
)
from napari_microdl.pipeline.encoding import iter_encode
from napari_microdl.pipeline.inputs import check_fields, config_of
from napari_microdl.pipeline.keys import StageKeys, iter_keys
from napari_microdl.pipeline.learning import Learned, iter_learn
from napari_microdl.pipeline.reading import (
    Tokens,
    device_of,
    iter_embed,
    iter_measure,
    iter_take_position,
)
from napari_microdl.pipeline.report import build_report
from napari_microdl.pipeline.segmenting import iter_segment
from napari_microdl.pipeline.stages import Samples, iter_pool
from napari_microdl.pipeline.whitening import Whitened, iter_whiten
from napari_microdl.tokens import TokenCache, TokenStorage

__all__ = [
    "KeptStages",
    "PipelineResult",
    "Progress",
    "Stage",
    "StagedRun",
    "check_fields",
    "device_of",
    "iter_load",
    "iter_pipeline",
    "iter_segment",
    "run_pipeline",
]

Result = TypeVar("Result")
Labels = list[NDArray[np.integer] | None]

_SECONDS_BETWEEN_LOOKS = 0.1
# Samples before whitening are needed again only for another whitening, and can be pooled anew.
_MOST_KEPT_BYTES = 512 * 2**20


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


def _is_kept(result: object) -> bool:
    return not isinstance(result, Samples) or result.vectors.nbytes <= _MOST_KEPT_BYTES


class StagedRun:
    """A run whose stages can be asked for one by one; each asks for those before it.

    Every stage is a generator of `Progress` that returns its result. A result that is kept and was
    made from the same is taken as it is; a run that is stopped leaves the stages that it finished.

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
    kept : KeptStages, optional
        What earlier runs left; taken from and added to.

    Raises
    ------
    MicrodlError
        If the fields and the settings do not fit together; one sentence says what to do.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        config: PipelineConfig | None = None,
        dictionary: ConceptDictionary | None = None,
        *,
        cache: TokenCache | None = None,
        kept: KeptStages | None = None,
    ) -> None:
        config = config or PipelineConfig()
        self.fields = fields
        self.config = config if dictionary is None else config_of(dictionary, config)
        self.applied = dictionary
        self._channels = check_fields(fields, self.config, fitting=False)
        self._cache = cache
        self._kept = kept
        self._keys: StageKeys | None = None
        self._wants_cells = False
        # Of this run, whether anything is kept for the next or not.
        self._results: dict[str, Any] = {}
        self._seconds: dict[str, dict[str, float]] = {}

    @property
    def finished(self) -> set[str]:
        """Stages that are done: some of "segment", "read", "pool", "whiten" and "learn"."""
        return set(self._results)

    def labels(self) -> Generator[Progress, None, Labels]:
        """Cells of every field; None where the unit is no cell."""
        return (yield from self._stage("segment", self._segment))

    def tokens(self) -> Generator[Progress, None, Tokens]:
        """Tokens of every field."""
        return (yield from self._stage("read", self._read))

    def samples(self) -> Generator[Progress, None, Samples]:
        """Mean tokens of every unit."""
        self._wants_cells = True
        return (yield from self._stage("pool", self._pool))

    def whitened(self) -> Generator[Progress, None, Whitened]:
        """Samples in the space in which concepts are learned, or of the dictionary applied."""
        if self.applied is not None:
            samples = yield from self.samples()
            return Whitened(self.applied.whitening, self.applied.whiten(samples.vectors))
        check_fields(self.fields, self.config, fitting=True)
        return (yield from self._stage("whiten", self._whiten))

    def result(self) -> Generator[Progress, None, PipelineResult]:
        """The dictionary, fitted or applied, and the activations of every unit."""
        check_fields(self.fields, self.config, fitting=self.applied is None)
        samples = yield from self.samples()
        labels = yield from self.labels()
        tokens = yield from self.tokens()
        whitened = yield from self.whitened()
        notes = [*tokens.notes, *whitened.notes]
        dictionary = self.applied
        if dictionary is None:
            learned: Learned = yield from self._stage("learn", self._learn)
            notes += learned.notes
            # Names and notes are those of the same concepts, whatever has become of the rest.
            dictionary = dataclasses.replace(learned.dictionary)
        started = time.perf_counter()
        activations: ConceptActivations = yield from iter_encode(
            self.fields, tokens, samples, whitened.vectors, dictionary
        )
        ranking = Progress("encode", 1, 1, "Ranking concepts")
        yield ranking
        yield from retold(activations.iter_ranking(), ranking)
        seconds = self._all_seconds() | {"encode": round(time.perf_counter() - started, 3)}
        report = build_report(self.fields, self.config, activations, tokens.share, seconds, notes)
        report["weights_terms"] = terms_of(dictionary.model)
        report["model_channels"] = channels_by_model(tokens.channels, tokens.model)
        report["device"] = tokens.device
        per_field = len(tokens.channels)
        report["intensity"] = [
            # Fields may have got other names since they were measured.
            dataclasses.asdict(limits) | {"field": self.fields[number // per_field].name}
            for number, limits in enumerate(tokens.limits)
        ]
        if self.applied is None:
            dictionary.provenance = {
                "intensity": report["intensity"],
                "config": self.config.to_dict(),
                "fields": report["fields"],
                "packages": report["packages"],
                "weights_source": tokens.model.source,
                "weights_non_commercial": tokens.model.non_commercial,
            }
            dictionary.figures = {**report["fit"], **report["position"]}
        yield Progress("encode", 1, 1, "Done")
        return PipelineResult(self.config, dictionary, activations, labels, report, notes)

    # Stages ------------------------------------------------------------------------------------

    def _stage(
        self, name: str, make: Callable[[], Generator[Progress, None, Result]]
    ) -> Generator[Progress, None, Result]:
        """Result of a stage: of this run, or kept, or made now."""
        if name in self._results:
            known: Result = self._results[name]
            return known
        if self._kept is not None and self._keys is None:
            self._keys = yield from iter_keys(
                self.fields, self.config, self.applied, self._channels
            )
        key = None if self._keys is None else getattr(self._keys, name)
        found = None if self._kept is None else self._kept.get(name, key)
        if found is None:
            found = (yield from make()), self._seconds.get(name, {})
            if self._kept is not None and _is_kept(found[0]):
                self._kept.keep(name, key, found)
        result: Result
        result, self._seconds[name] = found
        self._results[name] = result
        return result

    def _all_seconds(self) -> dict[str, float]:
        """Seconds that every stage took when it ran, in this run or before."""
        total = dict.fromkeys(("scale", "segment", "embed", "whiten", "fit"), 0.0)
        for seconds in self._seconds.values():
            for stage, spent in seconds.items():
                total[stage] = round(total[stage] + spent, 3)
        return total

    def _timed(
        self, name: str, stage: Stage, steps: Generator[Progress, None, Result]
    ) -> Generator[Progress, None, Result]:
        started = time.perf_counter()
        result = yield from steps
        spent = self._seconds.setdefault(name, {})
        spent[stage] = spent.get(stage, 0.0) + time.perf_counter() - started
        return result

    def _segment(self) -> Generator[Progress, None, Labels]:
        return (
            yield from self._timed("segment", "segment", iter_segment(self.fields, self.config))
        )

    def _read(self) -> Generator[Progress, None, Tokens]:
        config, applied = self.config, self.applied
        # The model goes first: it says on which scale it wants intensities.
        model = yield from self._timed("read", "embed", iter_load(config, self._channels))
        curve = None
        if applied is not None:
            applied.spec.check_model(model.spec)
            curve = applied.spec.intensity
        channels = named_channels(self._channels, config, model.spec)
        measured = yield from self._timed(
            "read", "scale", iter_measure(self.fields, config, model, channels, curve)
        )
        if self._wants_cells:
            # Before tokens: what is wrong with them is then known in seconds.
            yield from self.labels()
        steps = iter_embed(
            self.fields,
            config,
            model,
            measured,
            cache=(self._cache or TokenCache()) if config.cache else None,
            storage=TokenStorage(),
        )
        tokens = yield from self._timed("read", "embed", steps)
        if note := channel_note(channels, config, model.spec):
            tokens = dataclasses.replace(tokens, notes=(note, *tokens.notes))
        return (
            yield from self._timed("read", "whiten", iter_take_position(tokens, config, applied))
        )

    def _pool(self) -> Generator[Progress, None, Samples]:
        tokens = yield from self.tokens()
        labels = yield from self.labels()
        steps = iter_pool(self.fields, self.config, labels, tokens)
        return (yield from self._timed("pool", "whiten", steps))

    def _whiten(self) -> Generator[Progress, None, Whitened]:
        samples = yield from self.samples()
        steps = iter_whiten(self.fields, self.config, samples)
        return (yield from self._timed("whiten", "whiten", steps))

    def _learn(self) -> Generator[Progress, None, Learned]:
        tokens = yield from self.tokens()
        samples = yield from self.samples()
        whitened = yield from self.whitened()
        steps = iter_learn(self.fields, self.config, tokens, samples, whitened)
        return (yield from self._timed("learn", "fit", steps))


def iter_pipeline(
    fields: Sequence[Field],
    config: PipelineConfig | None = None,
    dictionary: ConceptDictionary | None = None,
    *,
    cache: TokenCache | None = None,
    kept: KeptStages | None = None,
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
    kept : KeptStages, optional
        What earlier runs left; stages whose settings and images are the same are not run again.

    Yields
    ------
    Progress
        Stop iterating to cancel: nothing is left behind but the finished stages in `kept`.

    Returns
    -------
    PipelineResult

    Raises
    ------
    MicrodlError
        If the fields and the settings do not fit together; one sentence says what to do.
    """
    return (yield from StagedRun(fields, config, dictionary, cache=cache, kept=kept).result())


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


def iter_load(
    config: PipelineConfig, channels: Sequence[str]
) -> Generator[Progress, None, TokenModel]:
    """Load the model of a run.

    Parameters
    ----------
    config : PipelineConfig
        Settings.
    channels : sequence of str
        From `check_fields`; a model of RGB images takes its colours together.

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
            config.model.name,
            device=config.model.device,
            precision=config.model.precision,
            seed=config.random_state,
            joint=joint_of(config.model.joint, channels),
        )
        while not loading.done():
            yield Progress("scale", 0, 1, "Loading the model")
            wait([loading], timeout=_SECONDS_BETWEEN_LOOKS)
        return loading.result()
    finally:
        loader.shutdown(wait=False)
