"""State of one viewer that both docks share and that outlives them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from napari.layers import Image
from numpy.typing import ArrayLike, NDArray
from psygnal import Signal

from napari_microdl.concepts.concept_set import Concept
from napari_microdl.concepts.heat import SHOWN_FROM
from napari_microdl.concepts.pictures import PictureChoice
from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.field import Field
from napari_microdl.gui.session.freshness import Facets, Freshness, StepName, StepState
from napari_microdl.gui.session.images import Images
from napari_microdl.gui.session.layers import Source, closed_layer
from napari_microdl.gui.session.outlook import Outlook
from napari_microdl.gui.session.plan import Plan
from napari_microdl.gui.session.run import Cells, Run, ShownRun, Work
from napari_microdl.gui.session.settings import RunSettings
from napari_microdl.pipeline.cache import StageCache

if TYPE_CHECKING:
    from napari_microdl.concepts.activations import ConceptActivations
    from napari_microdl.pipeline.plate.looking import PlateRun, SeenField
    from napari_microdl.pipeline.run import PipelineResult

OverlayKind = Literal["heatmap", "activation", "cells"]


class View:
    """What a person looks at.

    Attributes
    ----------
    concept : int, ConceptSet or None
        The concept that overlays, plots and gallery show, or several together.
    kinds : frozenset of str
        Overlays that are shown.
    all_fields : bool
        Whether they are shown on all fields.
    heat_from : float
        Heat that is shown, in units of what is unusual in controls.
    outlined : bool
        Whether the activation of a cell is drawn on its rim alone, or over all of it.
    opacity : float
        Of heatmap and activation, from 0 to 1.
    legend : bool
        Whether the canvas says what the colours mean.
    open_steps : set of str
        Steps of the workflow that stand open.
    advanced : bool
        Whether the table of concepts shows technical columns.
    card_open : bool
        Whether the card of the concept is unfolded.
    pictures : PictureChoice
        How cells are shown in small pictures.

    Signals
    -------
    concept_changed
        Another concept is shown.
    changed
        Other overlays are shown, or on other fields.
    pictures_changed
        Small pictures are shown otherwise.
    """

    concept_changed = Signal()
    changed = Signal()
    pictures_changed = Signal()

    def __init__(self) -> None:
        self.concept: Concept | None = None
        self.kinds: frozenset[OverlayKind] = frozenset({"activation"})
        self.all_fields = False
        self.heat_from = SHOWN_FROM
        self.outlined = True
        self.opacity = 0.9
        self.legend = True
        self.open_steps: set[StepName] = {"fields"}
        self.advanced = False
        self.card_open = True
        self.pictures = PictureChoice()

    def show_concept(self, concept: Concept) -> None:
        """Choose the concept that is shown, or several to be shown together."""
        if concept != self.concept:
            self.concept = concept
            self.concept_changed.emit()

    def show_pictures(self, choice: PictureChoice) -> None:
        """Choose how cells are shown in small pictures."""
        if choice != self.pictures:
            self.pictures = choice
            self.pictures_changed.emit()

    def show(
        self,
        *,
        kinds: Iterable[OverlayKind] | None = None,
        all_fields: bool | None = None,
        heat_from: float | None = None,
        outlined: bool | None = None,
        legend: bool | None = None,
    ) -> None:
        """Choose which overlays are shown, on which fields, from which heat on, and how."""
        if kinds is not None:
            self.kinds = frozenset(kinds)
        if all_fields is not None:
            self.all_fields = all_fields
        if heat_from is not None:
            self.heat_from = heat_from
        if outlined is not None:
            self.outlined = outlined
        if legend is not None:
            self.legend = legend
        self.changed.emit()


class Selection:
    """Rows of the run's table of units; emptied when another run comes.

    Signals
    -------
    changed
        Other units are selected, or another one is looked at.
    tags_changed
        Units or concepts were tagged.
    """

    changed = Signal()
    tags_changed = Signal()

    def __init__(self, run: ShownRun) -> None:
        self._run = run
        self.rows: NDArray[np.int64] = np.empty(0, np.int64)
        self.current: int | None = None
        run.changed.connect(self.clear)

    def select(self, rows: ArrayLike, *, add: bool = False) -> None:
        """Select rows of the table of units, alone or added; a single one is looked at."""
        chosen = np.unique(np.asarray(rows, np.int64))
        self.current = int(chosen[0]) if len(chosen) == 1 else None
        self.rows = np.union1d(self.rows, chosen) if add else chosen
        self.changed.emit()

    def clear(self) -> None:
        """Select nothing."""
        self.select([])

    def tag_units(self, tag: str) -> None:
        """Tag the selected units; an empty tag takes theirs away."""
        if (run := self._run.current) is not None:
            run.result.activations.tag_units(self.rows, tag)
            self.tags_changed.emit()

    def tag_concepts(self, concepts: list[int], tag: str) -> None:
        """Tag concepts in the dictionary; an empty tag takes theirs away."""
        if (run := self._run.current) is not None:
            for concept in concepts:
                run.result.dictionary.tags[concept] = tag
            self.tags_changed.emit()

    def note_concept(self, concept: int, note: str) -> None:
        """Write a note on a concept; it travels in the dictionary file."""
        if (run := self._run.current) is not None:
            run.result.dictionary.notes[concept] = note
            self.tags_changed.emit()


class Session:
    """Everything about one viewer, in parts that say when they change.

    Attributes
    ----------
    images : Images
        The open images and what is known of them.
    settings : RunSettings
        Settings of the next run, and the dictionary at hand.
    plan : Plan
        What the next run would be given, and what it still needs.
    run : ShownRun
        The run that is on show.
    view : View
        What a person looks at.
    selection : Selection
        Units that are selected.

    Signals
    -------
    steps_changed
        A step was run by itself, or has finished in a run that was not.
    """

    steps_changed = Signal()

    def __init__(self) -> None:
        self.images = Images()
        self.settings = RunSettings()
        self.plan = Plan(self.images, self.settings)
        self.run = ShownRun()
        self.view = View()
        self.selection = Selection(self.run)
        self._outlook = Outlook(self.plan)
        self._freshness = Freshness()
        self._stages = StageCache()
        # What decides the run in progress.
        self._started: Facets | None = None
        self.settings.dictionary_changed.connect(self._on_dictionary)

    def _on_dictionary(self) -> None:
        dictionary = self.settings.dictionary
        self.run.whitening = None if dictionary is None else dictionary.whitening

    def begin(self, step: StepName = "dictionary") -> Work:
        """Everything that a run up to a step needs; `MicrodlError` if something is missing."""
        fields, sources, config = self.plan.prepare(step)
        self._started = self.plan.facets()
        return Work(step, fields, sources, config, self.settings.applied, self._stages)

    def leave(self, work: Work) -> None:
        """Note which steps a run has finished that was cancelled, failed, or ended early."""
        if self._started is None:
            return
        for step in work.finished_steps():
            self._freshness.finish(step, self._started)
        self._started = None
        self.steps_changed.emit()

    def outlook(self, facets: Facets) -> str:
        """What the next run has before it, as a sentence, by what would decide it."""
        return self._outlook.sentence(facets)

    def take_cells(self, found: Cells, sources: Sequence[Source]) -> None:
        """Take in the cells that a run up to them has found, or the labels that it was given."""
        pairs = zip(sources, found.counts, strict=True)
        if self._started is not None:
            counts = {source.key: n for source, n in pairs if n is not None}
            self._outlook.take_cells(counts, self._started)

    def step_states(self, facets: Facets) -> dict[StepName, StepState]:
        """Steps that are not as in the run that is shown, see `Freshness.states`."""
        return self._freshness.states(facets)

    def repeats(self, result: PipelineResult, sources: list[Source]) -> bool:
        """Whether a run has found the same as the one that is shown."""
        run = self.run.current
        return run is not None and run.repeated_by(result, sources)

    def keep(self) -> None:
        """Go on showing the run that the one in progress has repeated."""
        started, self._started = self._started, None
        self._freshness.show(self.plan.facets() if started is None else started)
        self.steps_changed.emit()

    def finish(self, result: PipelineResult, fields: list[Field], sources: list[Source]) -> None:
        """Take in the result of a run of what `Plan.prepare` gave, and show its first concept."""
        self.plan.model.learn_speed(result, fields)
        started, self._started = self._started, None
        facets = self.plan.facets() if started is None else started
        if result.config.units.kind == "cell":
            n_cells = np.bincount(result.activations.units["field"], minlength=len(sources))
            counts = {source.key: int(n) for source, n in zip(sources, n_cells, strict=True)}
            self._outlook.take_cells(counts, facets)
        self._show(result, fields, sources, facets, is_first=self.run.current is None)

    def open_activations(self, activations: ConceptActivations) -> None:
        """Show activations that were opened from a folder, without images."""
        # Imported here: it brings the model's code along, which takes seconds.
        from napari_microdl.pipeline.run import PipelineResult

        config = PipelineConfig.of(unit=activations.dictionary.spec.units.kind)
        result = PipelineResult(config, activations, [], {})
        self._show(result, [], [], self.plan.facets(), is_first=False)

    def open_plate(self, plate: PlateRun) -> None:
        """Show a plate run, whose images are opened later."""
        from napari_microdl.pipeline.run import PipelineResult

        numbers = range(len(plate.activations.grids))
        sources = [Source(closed_layer(), (), plate.names.get(n, "")) for n in numbers]
        result = PipelineResult(plate.config, plate.activations, [None for _ in numbers], {})
        self._show(result, [], sources, self.plan.facets(), is_first=False, plate=plate)

    def take_seen(
        self,
        run: Run,
        seen: Sequence[SeenField],
        controls: Sequence[SeenField],
        layers: Sequence[Image],
    ) -> None:
        """Take in fields of a plate run that were opened as layers, and draw over them."""
        assert run.plate is not None
        run.plate.keep(seen, controls)
        for one, layer in zip(seen, layers, strict=True):
            run.result.labels[one.number] = one.labels
            index = (None,) if layer.ndim > 2 else ()
            own = one.field.labels is not None
            run.sources[one.number] = Source(weakref.ref(layer), index, one.field.name, own)
        self.view.show(all_fields=True)

    def _show(
        self,
        result: PipelineResult,
        fields: list[Field],
        sources: list[Source],
        facets: Facets,
        *,
        is_first: bool,
        plate: PlateRun | None = None,
    ) -> None:
        self.run.take(result, fields, sources, is_first=is_first, plate=plate)
        self._freshness.show(facets)
        self.view.concept = result.activations.first_concept
        self.settings.set_dictionary(result.dictionary)
        self.run.changed.emit()
