"""A run: in the background, finished, and on show with what was measured and tagged of it."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from psygnal import Signal

from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.text import counted, plain_text
from napari_microdl.fields.field import Field
from napari_microdl.gui.session.freshness import StepName
from napari_microdl.gui.session.layers import Source, pixel_size
from napari_microdl.gui.session.preferences import token_cache
from napari_microdl.pipeline.cache import StageCache

if TYPE_CHECKING:
    from napari_microdl.concepts.dictionary import ConceptDictionary
    from napari_microdl.concepts.pictures import UnitPictures
    from napari_microdl.concepts.wells import Wells
    from napari_microdl.estimators.whitening import ControlWhitening
    from napari_microdl.pipeline.plate.looking import PlateRun
    from napari_microdl.pipeline.run import PipelineResult, PipelineRun
    from napari_microdl.pipeline.stages import Tokens, Whitened
    from napari_microdl.report import EvaluationReport
    from napari_microdl.report.naming import NameSuggestions


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of every field as labels, or None without any, and how many there are."""

    labels: list[NDArray[np.integer] | None]
    counts: list[int | None]


# What has to be equal for two units to be the same; centre and area stand for the outline.
_SAME = ["kind", "image", "label", "y", "x", "area"]


@dataclass(eq=False)
class Work:
    """A run up to some step, with what it is given; `stages` is what earlier runs left."""

    step: StepName
    fields: list[Field]
    sources: list[Source]
    config: PipelineConfig
    dictionary: ConceptDictionary | None
    stages: StageCache
    _run: PipelineRun | None = field(default=None, init=False)
    _ended: bool = field(default=False, init=False)

    def run(self) -> Any:
        """`Cells`, `Tokens`, `Whitened` or `PipelineResult`, as the step has it."""
        # The heavy imports happen here, in the thread.
        from napari_microdl.pipeline.run import PipelineRun

        self._run = run = PipelineRun(
            self.fields,
            self.config,
            dictionary=self.dictionary,
            cache=token_cache(),
            stages=self.stages,
        )
        steps: dict[StepName, Callable[[], Any]] = {
            "cells": lambda: _counted(run.cells()),
            "tokens": run.tokens,
            "whitening": run.whitening,
            "dictionary": run.result,
        }
        result = steps[self.step]()
        self._ended = True
        return result

    def finished_steps(self) -> list[StepName]:
        """Steps that are done so far; may be asked while the work is in progress."""
        done = set() if self._run is None else self._run.finished
        last: dict[StepName, str] = {
            # Crops and patches are known once tokens are averaged over them.
            "cells": "cells" if self.config.units.kind == "cell" else "samples",
            "tokens": "tokens",
            # A dictionary that is applied has its whitening; samples are all that is needed.
            "whitening": "whitening" if self.dictionary is None else "samples",
            "dictionary": "dictionary",
        }
        return [s for s, stage in last.items() if stage in done or (self._ended and s == self.step)]


def _counted(labels: list[NDArray[np.integer] | None]) -> Cells:
    """Cells with their number; numbers may have gaps."""
    counts = [None if one is None else int((pd.unique(one.ravel()) > 0).sum()) for one in labels]
    return Cells(labels, counts)


def compare_layers(fields: Sequence[Field], config: PipelineConfig) -> pd.DataFrame:
    """Scores of every layer of the model; called in a thread."""
    from napari_microdl.pipeline.layer_choice import layer_scores

    return layer_scores(fields, config, cache=token_cache())


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run and where its fields came from.

    Parameters
    ----------
    run_id : str
        Twelve hex digits that mark the layers of the run.
    result : PipelineResult
        What the core returned.
    fields : list of Field
        Input, in the order of the result.
    sources : list of Source
        Origin of every field.
    is_first : bool
        Whether it is the session's first run, after which the view is chosen for the user.
    plate : PlateRun, optional
        The plate run whose folder it was opened from. Fields are not known then; what is drawn over
        those that were opened since is, by their numbers.
    """

    run_id: str
    result: PipelineResult
    fields: list[Field]
    sources: list[Source]
    is_first: bool
    plate: PlateRun | None = None

    @property
    def can_show_images(self) -> bool:
        """Whether its images are open, or can be opened a field at a time."""
        return self.has_images or self.plate is not None

    def caption(self, field: int) -> str:
        """Name of a field, and its condition where it has one."""
        if self.fields:
            name, condition = self.fields[field].name, self.fields[field].condition
        else:
            units = self.result.activations.units
            known = units[["Metadata_Field", "Metadata_condition"]][units["field"] == field]
            name, condition = known.iloc[0].astype(str)
        return ", ".join(filter(None, (name, condition)))

    @property
    def has_images(self) -> bool:
        """Whether all its images are known; of one that was opened from a folder they are not."""
        return bool(self.fields)

    def pixel_sizes(self) -> list[float | None]:
        """Micrometres a pixel of its images, as their layers say; None of one that is closed."""
        return [pixel_size(source.layer()) for source in self.sources]

    def repeated_by(self, result: PipelineResult, sources: Sequence[Source]) -> bool:
        """Whether another result is the same in all that is shown, on the same images."""
        old, new = self.result.activations, result.activations
        return (
            self.result.config == result.config
            and self.result.dictionary.pixel_size == result.dictionary.pixel_size
            and [(s.key, s.name) for s in self.sources] == [(s.key, s.name) for s in sources]
            and all(
                one is other or np.array_equal(np.asarray(one), np.asarray(other))
                for one, other in zip(self.result.labels, result.labels, strict=True)
            )
            and old.units.equals(new.units)
            and old.codes.shape == new.codes.shape
            and all(
                np.array_equal(getattr(old.codes, part), getattr(new.codes, part))
                for part in ("data", "indices", "indptr")
            )
            and np.array_equal(old.vectors, new.vectors)
        )

    @cached_property
    def pictures(self) -> UnitPictures:
        """Pictures of its units."""
        from napari_microdl.concepts.pictures import UnitPictures

        return UnitPictures(self.result.activations, self.fields)

    @cached_property
    def wells(self) -> Wells:
        """Its wells."""
        from napari_microdl.concepts.wells import wells_of

        return wells_of(self.result.activations, self.fields, self.result.warnings)

    @cached_property
    def suggestions(self) -> NameSuggestions:
        """What its concepts could be called."""
        from napari_microdl.report.naming import NameSuggestions

        return NameSuggestions(self.result.activations, self.fields, self.result.labels)


class ShownRun:
    """The run that is on show, and what was measured and tagged of it.

    Attributes
    ----------
    current : Run or None
        The run.
    report : EvaluationReport or None
        What was measured of it.
    whitening : ControlWhitening or None
        Of the dictionary at hand, or of a step that was run by itself since.
    limits : list of dict
        What intensities became 0, and what they were measured against, when tokens were last read.
    tag_note : str
        About tags of units that the run could not take over from the one before.

    Signals
    -------
    changed
        Another run is on show.
    report_changed
        It was measured.
    names_changed
        A concept has another name.
    """

    changed = Signal()
    report_changed = Signal()
    names_changed = Signal()

    def __init__(self) -> None:
        self.current: Run | None = None
        self.report: EvaluationReport | None = None
        self.whitening: ControlWhitening | None = None
        self.limits: list[dict[str, Any]] = []
        self.tag_note = ""
        self._tags = UnitTags()

    def take(
        self,
        result: PipelineResult,
        fields: list[Field],
        sources: list[Source],
        *,
        is_first: bool,
        plate: PlateRun | None = None,
    ) -> None:
        """Put a run in place of the one on show; whoever does so emits `changed`."""
        before = self.current
        self.current = Run(uuid.uuid4().hex[:12], result, fields, sources, is_first, plate)
        self.tag_note = self._tags.follow(before, self.current)
        self.report = None
        self.limits = result.report.get("intensity", [])

    def take_tokens(self, tokens: Tokens) -> None:
        """Take in what a run up to the tokens found out about intensities."""
        self.limits = [dataclasses.asdict(limits) for limits in tokens.limits]

    def take_whitening(self, whitened: Whitened) -> None:
        """Take in the whitening of a run up to it."""
        self.whitening = whitened.whitening

    def take_report(self, report: EvaluationReport) -> None:
        """Take in what was measured of the run."""
        self.report = report
        self.report_changed.emit()

    def rename_concept(self, concept: int, name: str) -> None:
        """Call a concept by a person's name; it travels in the dictionary file."""
        name = plain_text(name).strip()
        if self.current is not None and name:
            self.current.result.dictionary.names[concept] = name
            self.names_changed.emit()


class UnitTags:
    """What a person saw in units, of all runs so far.

    A cell is the same where the field has the same name and the cell the same number, centre and
    area. Crops and patches lie alike in every image, so of those the image has to be the same open
    layer, too.
    """

    def __init__(self) -> None:
        self._known = pd.DataFrame(columns=[*_SAME, "tag"])

    def follow(self, before: Run | None, now: Run) -> str:
        """Carry tags from the run that was shown to the new one.

        One that was opened from a folder has its own tags and is given none. Returns a sentence
        about tags that the new run has not; empty where it has all.
        """
        tagged = 0 if before is None else self._collect(before)
        if not now.has_images:
            return ""
        rows, numbers = self._places(now)
        now.result.activations.unit_tags[rows] = self._known["tag"].to_numpy(str)[numbers]
        # The last ones are those of the run before.
        missing = tagged - int((numbers >= len(self._known) - tagged).sum())
        if before is None or not missing:
            return ""
        unit = before.result.config.units.kind
        was = "has lost its tag" if missing == 1 else "have lost their tags"
        return (
            f"{counted(missing, f'tagged {unit}')} of the run before {was}: this run does not have "
            f"the same {unit}s. The tags come back in a run that has."
        )

    def _collect(self, run: Run) -> int:
        """Take in the tags of a run, in place of what was known of its units; how many it has."""
        tags = run.result.activations.unit_tags
        tagged = np.flatnonzero(tags != "")
        # Of a unit whose tag was taken away nothing is known any more.
        _, numbers = self._places(run)
        known = self._known.drop(self._known.index[numbers])
        new = _described(run, tagged).assign(tag=tags[tagged])
        self._known = pd.concat([known, new], ignore_index=True) if len(known) else new
        return len(tagged)

    def _places(self, run: Run) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of a run's units that are known, and the number of each in what is known."""
        labels = run.result.activations.units["label"].to_numpy()
        # Of a million units few have a number that was tagged, and only those are compared.
        candidates = np.flatnonzero(np.isin(labels, self._known["label"].to_numpy(labels.dtype)))
        if not len(candidates):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        units = _described(run, candidates).assign(row=candidates)
        known = self._known[_SAME].assign(number=np.arange(len(self._known)))
        both = units.merge(known, on=_SAME)
        return both["row"].to_numpy(np.int64), both["number"].to_numpy(np.int64)


def _described(run: Run, rows: NDArray[np.int64]) -> pd.DataFrame:
    """What tells units of a run from all others, in the columns of `_SAME`."""
    unit = run.result.config.units.kind
    units = run.result.activations.units.iloc[rows]
    images = units["Metadata_Field"].astype(str).to_numpy(object)
    if unit != "cell":
        # An image that is not open can be none of another run.
        open_ones = {
            number: str(source.key)
            for number, source in enumerate(run.sources)
            if source.layer() is not None
        }
        fields = units["field"].tolist()
        images = np.array([open_ones.get(f, f"{run.run_id} {f}") for f in fields], object)
    return pd.DataFrame(
        {
            "kind": unit,
            "image": images,
            **{name: units[name].to_numpy(np.float64) for name in ("y", "x", "area")},
            "label": units["label"].to_numpy(np.int64),
        }
    )[_SAME]
