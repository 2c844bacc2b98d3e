"""State of one viewer that both docks share and that outlives them."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from psygnal import Signal

from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.field import Field
from napari_microdl.gui.session.freshness import Facets, Freshness, Mark, StepName
from napari_microdl.gui.session.kept_tags import KeptTags
from napari_microdl.gui.session.layers import Source
from napari_microdl.gui.session.plan import Plan
from napari_microdl.gui.session.work import Work
from napari_microdl.pipeline.cache import KeptStages

if TYPE_CHECKING:
    from napari_microdl.concepts.activations import ConceptActivations
    from napari_microdl.concepts.dictionary import ConceptDictionary
    from napari_microdl.estimators.whitening import ControlWhitening
    from napari_microdl.pipeline.reading import Tokens
    from napari_microdl.pipeline.run import PipelineResult
    from napari_microdl.pipeline.whitening import Whitened
    from napari_microdl.report import EvaluationReport

OverlayKind = Literal["heatmap", "activation", "cells"]


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
    """

    run_id: str
    result: PipelineResult
    fields: list[Field]
    sources: list[Source]
    is_first: bool

    @property
    def has_images(self) -> bool:
        """Whether its images are known; of a run that was opened from a folder they are not."""
        return bool(self.fields)


class Session(Plan):
    """Evented state: images and their conditions, settings, dictionary, result, concept on show."""

    run_changed = Signal()
    report_changed = Signal()
    steps_changed = Signal()
    concept_changed = Signal()
    view_changed = Signal()
    names_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.run: Run | None = None
        # What was measured of that run.
        self.report: EvaluationReport | None = None
        self.concept: int | None = None
        self.kinds: frozenset[OverlayKind] = frozenset({"activation"})
        self.show_all_fields = False
        # Of the last run or the last step that was run by itself, whichever came later.
        self.whitening: ControlWhitening | None = None
        self.limits: list[dict[str, Any]] = []
        # Steps of the workflow that stand open.
        self.open_steps: set[StepName] = {"images"}
        self._freshness = Freshness()
        self._kept = KeptStages()
        self._tags = KeptTags()
        # About tags of units that the last run could not take over.
        self.tag_note = ""
        # What decides the run in progress.
        self._started: Facets | None = None

    # Work --------------------------------------------------------------------------------------

    def begin(self, step: StepName = "dictionary") -> Work:
        """Everything that a run in the background needs.

        Parameters
        ----------
        step : str, default="dictionary"
            The last step to be run.

        Returns
        -------
        Work

        Raises
        ------
        MicrodlError
            If something is missing or does not fit together.
        """
        fields, sources, config = self.prepare(step)
        self._started = self.facets()
        dictionary = self.dictionary if self.apply_dictionary else None
        return Work(step, fields, sources, config, dictionary, self._kept)

    def leave(self, work: Work) -> None:
        """Note which steps a run has finished that was cancelled, failed, or ended early.

        Parameters
        ----------
        work : Work
            From `begin`.
        """
        if self._started is None:
            return
        for step in work.finished_steps():
            self._freshness.finish(step, self._started)
        self._started = None
        self.steps_changed.emit()

    def take_tokens(self, tokens: Tokens) -> None:
        """Take in what a run up to the model found out about intensities."""
        self.limits = [dataclasses.asdict(limits) for limits in tokens.limits]

    def take_whitening(self, whitened: Whitened) -> None:
        """Take in the whitening of a run up to it."""
        self.whitening = whitened.whitening

    def set_dictionary(
        self, dictionary: ConceptDictionary | None, file: Path | None = None
    ) -> None:
        """Take a dictionary in, to save or apply it, and show its whitening."""
        self.whitening = None if dictionary is None else dictionary.whitening
        super().set_dictionary(dictionary, file)

    def marks(self) -> dict[StepName, Mark]:
        """Steps that are not as in the run that is shown, see `Freshness.marks`."""
        return self._freshness.marks(self.facets())

    # Result ------------------------------------------------------------------------------------

    def finish(self, result: PipelineResult, fields: list[Field], sources: list[Source]) -> None:
        """Take the result of a run in and show its first concept.

        Parameters
        ----------
        result : PipelineResult
            What the core returned.
        fields, sources : list
            As `prepare` gave them.
        """
        self._take_run(result, fields, sources, is_first=self.run is None)
        self.model.note_pace(result, fields)
        self._freshness.show(self.facets() if self._started is None else self._started)
        self._started = None
        self.limits = result.report["intensity"]
        self.concept = int(result.activations.ranking.index[0])
        self.set_dictionary(result.dictionary)
        self.run_changed.emit()

    def open_activations(self, activations: ConceptActivations) -> None:
        """Show activations that were opened from a folder, without images.

        Parameters
        ----------
        activations : ConceptActivations
            Of an earlier run.
        """
        dictionary = activations.dictionary
        config = PipelineConfig.of(unit=dictionary.spec.unit)
        # Imported here: it brings the model's code along, which takes seconds.
        from napari_microdl.pipeline.run import PipelineResult

        result = PipelineResult(config, dictionary, activations, [], {})
        self._take_run(result, [], [], is_first=False)
        self._freshness.show(self.facets())
        self.limits = []
        self.concept = int(activations.ranking.index[0])
        self.set_dictionary(dictionary)
        self.run_changed.emit()

    def _take_run(
        self, result: PipelineResult, fields: list[Field], sources: list[Source], is_first: bool
    ) -> None:
        before = self.run
        self.run = Run(uuid.uuid4().hex[:12], result, fields, sources, is_first)
        self.tag_note = self._tags.follow(before, self.run)
        self.report = None

    def take_report(self, report: EvaluationReport) -> None:
        """Take in what was measured of the run."""
        self.report = report
        self.report_changed.emit()

    def show_concept(self, concept: int) -> None:
        """Choose the concept that overlays, plot and gallery show."""
        if concept != self.concept:
            self.concept = concept
            self.concept_changed.emit()

    def show(
        self, *, kinds: Iterable[OverlayKind] | None = None, all_fields: bool | None = None
    ) -> None:
        """Choose which overlays are shown, and on which fields."""
        if kinds is not None:
            self.kinds = frozenset(kinds)
        if all_fields is not None:
            self.show_all_fields = all_fields
        self.view_changed.emit()

    def rename_concept(self, concept: int, name: str) -> None:
        """Call a concept by a person's name; it travels in the dictionary file."""
        name = name.strip()
        if self.run is None or not name:
            return
        self.run.result.dictionary.names[concept] = name
        self.run.result.activations.ranking.loc[concept, "name"] = name
        self.names_changed.emit()
