"""State of one viewer that both docks share and that outlives them."""

from __future__ import annotations

import dataclasses
import uuid
import weakref
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from napari.layers import Image, Labels
from psygnal import Signal

from napari_microdl.config import PipelineConfig
from napari_microdl.errors import MicrodlError
from napari_microdl.fields import Field
from napari_microdl.gui.layers import (
    Channel,
    ImageRow,
    Layout,
    Source,
    build_fields,
    channel_names,
    is_output,
    labelled_channel_axis,
    leading_shape,
    plane_shape,
    rows_of,
)
from napari_microdl.gui.model_choice import ModelChoice
from napari_microdl.gui.settings import token_cache
from napari_microdl.gui.words import listed

if TYPE_CHECKING:
    import pandas as pd

    from napari_microdl.activations import ConceptActivations
    from napari_microdl.dictionary import ConceptDictionary
    from napari_microdl.pipeline import PipelineResult, Progress

StepName = Literal["images", "cells", "model", "whitening", "dictionary"]
CellSource = Literal["segmentation", "labels"]
OverlayKind = Literal["heatmap", "activation", "cells"]

# Settings that each step decides; a change of any makes the steps behind it out of date.
_DECIDES: dict[StepName, tuple[str, ...]] = {
    "images": ("scaling", "channels", "channel_tokens"),
    "cells": ("unit", "crop_size", "crop_stride", "segmentation"),
    "model": ("model", "joint", "layer", "site", "tile_size", "halo", "precision"),
    "whitening": ("remove_position", "whiten", "shrinkage", "n_components"),
    "dictionary": (
        "n_atoms",
        "n_iterations",
        "atoms_per_iteration",
        "update",
        "init",
        "learning_rate",
        "selection",
        "refit",
        "positive_code",
        "control_atoms",
        "max_steps",
        "early_stopping",
        "random_state",
    ),
}

# What the channels of a field have in common.
_SHARED = frozenset({"condition", "is_control", "well", "site", "plate", "labels"})


@dataclass(frozen=True)
class Problem:
    """What a step still needs.

    Parameters
    ----------
    step : str
        Which step of the workflow.
    sentence : str
        What is missing and what to do.
    """

    step: StepName
    sentence: str


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


class Session:
    """Evented state: images and their conditions, settings, dictionary, result, concept on show."""

    rows_changed = Signal()
    settings_changed = Signal()
    dictionary_changed = Signal()
    run_changed = Signal()
    concept_changed = Signal()
    view_changed = Signal()
    names_changed = Signal()

    def __init__(self) -> None:
        self.rows: list[ImageRow] = []
        self.layout = Layout()
        self.channels: list[Channel] = []
        self.config = PipelineConfig()
        self.cell_source: CellSource = "segmentation"
        self.apply_dictionary = False
        self.dictionary: ConceptDictionary | None = None
        self.run: Run | None = None
        self.concept: int | None = None
        self.kinds: frozenset[OverlayKind] = frozenset({"activation"})
        self.show_all_fields = False
        self.model = ModelChoice(self)
        # What decided each step of the run in progress, and of the run that is shown.
        self._started: dict[StepName, tuple[Any, ...]] = {}
        self._shown: dict[StepName, tuple[Any, ...]] = {}
        # How channels were called before they were renamed, to notice when the images change.
        self._native_channels: tuple[str, ...] = ()

    # Images ------------------------------------------------------------------------------------

    def update_images(self, layers: Iterable[Any]) -> None:
        """Follow the open layers; what was entered for those that stay is kept.

        Parameters
        ----------
        layers : iterable of Layer
            Layers of the viewer.
        """
        layers = [layer for layer in layers if not is_output(layer)]
        images = [layer for layer in layers if isinstance(layer, Image)]
        if self.layout.channel_axis == "ask":
            labelled = {labelled_channel_axis(i) for i in images if leading_shape(i)}
            if len(labelled) == 1 and (axis := labelled.pop()) is not None:
                self.layout = dataclasses.replace(self.layout, channel_axis=axis)
        before = {row.key: row for row in self.rows}
        rows = [row for image in images for row in rows_of(image, self.layout)]
        self.rows = [before.get(row.key, row) for row in rows]
        self._suggest_labels([layer for layer in layers if isinstance(layer, Labels)])
        self._update_channels()
        self.rows_changed.emit()

    def _suggest_labels(self, candidates: Sequence[Labels]) -> None:
        """Fill in the Labels layer of a row where the name or the number leaves no doubt."""
        for row in self.rows:
            image = row.layer()
            chosen = row.labels_layer()
            if image is None or (chosen is not None and chosen in candidates):
                continue
            fitting = [c for c in candidates if plane_shape(c) == plane_shape(image)]
            named = [c for c in fitting if image.name.lower() in c.name.lower()]
            if len(named) != 1 and len({id(r.layer()) for r in self.rows}) == 1:
                named = fitting
            row.labels = weakref.ref(named[0]) if len(named) == 1 else None

    def _update_channels(self) -> None:
        if self.layout.arrangement == "channels":
            native = tuple(dict.fromkeys(row.channel for row in self.used_rows()))
        else:
            used = self.used_rows() or self.rows
            native = channel_names(used[0]) if used else ()
        if native != self._native_channels:
            self._native_channels = native
            self.channels = [Channel(name) for name in native]

    def used_rows(self) -> list[ImageRow]:
        """Rows that take part in a run."""
        return [row for row in self.rows if row.use]

    def set_layout(self, layout: Layout, layers: Iterable[Any]) -> None:
        """Change how images make up fields.

        Parameters
        ----------
        layout : Layout
            The new choice.
        layers : iterable of Layer
            Layers of the viewer.
        """
        self.layout = layout
        self.update_images(layers)

    def edit_rows(self, numbers: Iterable[int], **changes: Any) -> None:
        """Change rows; condition and control are shared by the channels of a field.

        Parameters
        ----------
        numbers : iterable of int
            Which rows.
        **changes
            Attributes of `ImageRow`.
        """
        self.fill(dict.fromkeys(numbers, changes))

    def fill(self, changes: Mapping[int, Mapping[str, Any]]) -> None:
        """Change rows, each in its own way.

        Parameters
        ----------
        changes : mapping of int to mapping
            Attributes of `ImageRow` by the number of the row.
        """
        # Fields first: what is shared goes to all rows of the field as it is then.
        for number, values in changes.items():
            for name in values.keys() - _SHARED:
                setattr(self.rows[number], name, values[name])
        for number, values in changes.items():
            row = self.rows[number]
            siblings = [row]
            if self.layout.arrangement == "channels":
                siblings = [r for r in self.rows if r.group == row.group]
            for name in values.keys() & _SHARED:
                for sibling in siblings:
                    setattr(sibling, name, values[name])
        self._update_channels()
        self.rows_changed.emit()

    def edit_channel(
        self, number: int, *, name: str | None = None, use: bool | None = None
    ) -> None:
        """Rename a channel or take it in or out."""
        channel = self.channels[number]
        if name is not None:
            before, channel.name = channel.name, name.strip() or channel.name
            self.model.rename_channel(before, channel.name)
        if use is not None:
            channel.use = use
        self.rows_changed.emit()

    # Settings ----------------------------------------------------------------------------------

    def configure(self, **changes: Any) -> None:
        """Change settings of the run.

        Parameters
        ----------
        **changes
            Attributes of `PipelineConfig`.
        """
        config = dataclasses.replace(self.config, **changes)
        if config != self.config:
            self.config = config
            self.settings_changed.emit()

    def choose(self, **changes: Any) -> None:
        """Change `cell_source` or `apply_dictionary`."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.settings_changed.emit()

    def set_dictionary(self, dictionary: ConceptDictionary | None) -> None:
        """Take a dictionary in, to save or apply it."""
        self.dictionary = dictionary
        self.dictionary_changed.emit()

    def run_config(self) -> PipelineConfig:
        """Settings as a run gets them, with the chosen channels in."""
        if mapped := self.model.channels():
            channels = tuple(name for name in mapped.values() if name is not None)
            return dataclasses.replace(self.config, channels=channels or None)
        names = [c.name for c in self.channels]
        order = [n for n in self.config.channels or () if n in names]
        order += [n for n in names if n not in order]
        used = tuple(n for n in order if self.channels[names.index(n)].use)
        return dataclasses.replace(self.config, channels=None if used == tuple(names) else used)

    def take_config(self, config: PipelineConfig) -> None:
        """Take all settings over, the choice of channels among them.

        Parameters
        ----------
        config : PipelineConfig
            For example of a file.

        Raises
        ------
        MicrodlError
            If the settings name a channel that the images do not have; nothing has changed then.
        """
        offered = [c.name for c in self.channels]
        missing = [name for name in config.channels or () if name not in offered]
        if missing and offered:
            raise MicrodlError(
                f"The settings use the channel {listed(missing)}, but the images have "
                f"{listed(offered, 11)}; rename the channels in step 1 first."
            )
        self.config = config
        wanted = self.model.channels()
        if wanted and config.channels is not None and len(wanted) == len(config.channels):
            self.model.channel_choices = dict(zip(wanted, config.channels, strict=True))
        else:
            for channel in self.channels:
                channel.use = config.channels is None or channel.name in config.channels
        self.settings_changed.emit()

    # What is missing ---------------------------------------------------------------------------

    def problems(self) -> list[Problem]:
        """What the steps still need before a run can start, first things first."""
        found = [Problem("images", s) for s in self._image_problems()]
        needs_labels = self.config.unit == "cell" and self.cell_source == "labels"
        without = [r.name for r in self.used_rows() if needs_labels and r.labels_layer() is None]
        if self.layout.arrangement == "channels":
            without = list(
                dict.fromkeys(
                    r.group for r in self.used_rows() if needs_labels and r.labels_layer() is None
                )
            )
        if without:
            found.append(
                Problem(
                    "cells",
                    f"Choose a Labels layer for {listed(without)}, or the built-in segmentation.",
                )
            )
        found += [Problem("model", s) for s in self.model.problems()]
        if self.apply_dictionary and self.dictionary is None:
            found.append(Problem("dictionary", "Load a dictionary to apply, or choose to fit one."))
        return found

    def first_rows(self) -> list[ImageRow]:
        """One row a field."""
        rows = self.used_rows()
        if self.layout.arrangement == "channels":
            return list({row.group: row for row in reversed(rows)}.values())
        return rows

    def _image_problems(self) -> Generator[str, None, None]:
        used = self.used_rows()
        if not self.rows:
            yield "Open images first, or File > Open Sample > MicroDL."
            return
        if not used:
            yield "Tick at least one image in the column Use."
            return
        for row in used:
            layer = row.layer()
            if layer is not None and layer.rgb and not self.layout.split_rgb:
                yield (
                    f"'{layer.name}' is an RGB image but grey channels are meant; choose to use "
                    "red, green and blue as channels, or untick it."
                )
                return
            if layer is not None and leading_shape(layer) and self.layout.channel_axis == "ask":
                shape = " x ".join(map(str, (*leading_shape(layer), *plane_shape(layer))))
                yield f"'{layer.name}' is a stack of {shape}; say which axis holds the channels."
                return
        if not any(c.use for c in self.channels):
            yield "Tick at least one channel."
        fitting = not self.apply_dictionary
        if fitting and self.config.whiten and not any(row.is_control for row in used):
            yield (
                "Pick at least one control field: tick Control for an untreated image, "
                "or switch the whitening off."
            )

    def prepare(self) -> tuple[list[Field], list[Source], PipelineConfig]:
        """Input of a run.

        Returns
        -------
        fields, sources, config

        Raises
        ------
        MicrodlError
            If something is missing or does not fit together.
        """
        problems = self.problems()
        if problems:
            raise MicrodlError(problems[0].sentence)
        config = self.run_config()
        with_labels = config.unit == "cell" and self.cell_source == "labels"
        fields, sources = build_fields(
            self.used_rows(), self.layout, [c.name for c in self.channels], with_labels=with_labels
        )
        self._started = self._decisions()
        return fields, sources, config

    def _decisions(self) -> dict[StepName, tuple[Any, ...]]:
        """What decides each step as things are now."""
        config = self.run_config()
        decisions: dict[StepName, tuple[Any, ...]] = {
            step: tuple(getattr(config, name) for name in names) for step, names in _DECIDES.items()
        }
        decisions["images"] += tuple(
            (row.key, row.name, row.group, row.channel, row.condition, row.is_control)
            for row in self.used_rows()
        )
        if config.unit == "cell":
            decisions["cells"] += (
                self.cell_source,
                *(
                    id(row.labels_layer())
                    for row in self.used_rows()
                    if self.cell_source == "labels"
                ),
            )
        if self.apply_dictionary:
            # Model, whitening and sizes are those of the dictionary.
            for step in ("model", "whitening", "dictionary"):
                decisions[step] = ("apply", id(self.dictionary))
        return decisions

    def marks(self) -> dict[StepName, str]:
        """Steps that are not as in the run that is shown.

        Returns
        -------
        dict of str to str
            "changed" for steps that were decided otherwise, "out of date" for those behind them.
        """
        marks: dict[StepName, str] = {}
        if self.run is None:
            return marks
        for step, decision in self._decisions().items():
            if decision != self._shown.get(step):
                marks[step] = "changed"
            elif marks:
                marks[step] = "out of date"
        return marks

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
        self.run = Run(uuid.uuid4().hex[:12], result, fields, sources, is_first=self.run is None)
        self.model.note_pace(result, fields)
        self._shown = self._started
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
        config = dataclasses.replace(PipelineConfig(), unit=dictionary.spec.unit)
        # Imported here: it brings the model's code along, which takes seconds.
        from napari_microdl.pipeline import PipelineResult

        result = PipelineResult(config, dictionary, activations, [], {})
        self.run = Run(uuid.uuid4().hex[:12], result, [], [], is_first=False)
        self._shown = self._decisions()
        self.concept = int(activations.ranking.index[0])
        self.set_dictionary(dictionary)
        self.run_changed.emit()

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


def run_steps(
    fields: Sequence[Field], config: PipelineConfig, dictionary: ConceptDictionary | None
) -> Generator[Progress, None, PipelineResult]:
    """Run the core; the heavy imports happen here, in the worker's thread."""
    from napari_microdl.pipeline import iter_pipeline

    return (yield from iter_pipeline(fields, config, dictionary, cache=token_cache()))


def compare_layers(
    fields: Sequence[Field], config: PipelineConfig
) -> Generator[Progress, None, pd.DataFrame]:
    """Compare the layers of the model, in the worker's thread."""
    from napari_microdl.layer_choice import iter_layer_scores

    return (yield from iter_layer_scores(fields, config, cache=token_cache()))
