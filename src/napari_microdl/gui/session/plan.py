"""What the next run would be given, and what it still needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_microdl.core.config import DICTIONARY_SETTINGS, WHITENING_SETTINGS, PipelineConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.text import listed
from napari_microdl.fields.field import Field
from napari_microdl.gui.session.freshness import Facet, Facets, StepName
from napari_microdl.gui.session.layers import ImageRow, Source, build_fields
from napari_microdl.gui.session.model_choice import ModelChoice
from napari_microdl.gui.session.run_settings import RunSettings

if TYPE_CHECKING:
    from napari_microdl.concepts.dictionary import ConceptDictionary

# Settings that decide the steps which have nothing else to decide them.
_SETTINGS: dict[Facet, tuple[str, ...]] = {
    "model": ("model", "joint", "layer", "site", "tile_size", "halo", "precision"),
    "whitening": ("remove_position", *WHITENING_SETTINGS),
    "dictionary": DICTIONARY_SETTINGS,
}


@dataclass(frozen=True)
class Problem:
    """What a step still needs.

    Parameters
    ----------
    step : str
        Which step of the workflow.
    sentence : str
        What is missing and what to do.
    blocks : frozenset of str
        Steps that cannot be run before.
    """

    step: StepName
    sentence: str
    blocks: frozenset[StepName]


# What a step has to wait for: of itself, and of those that it builds on.
_ALL: frozenset[StepName] = frozenset({"cells", "model", "whitening", "dictionary"})
_SAMPLES: frozenset[StepName] = frozenset({"whitening", "dictionary"})


class Plan(RunSettings):
    """Images, settings and model put together.

    Attributes
    ----------
    model : ModelChoice
        The model that the settings name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = ModelChoice(self)
        self.channel_renamed.connect(self._on_renamed)

    def _on_renamed(self, before: str, now: str) -> None:
        """Settings name channels, which are the same ones afterwards."""
        cells, channels = self.config.cells, self.config.tokens.channels
        if cells.channel == before:
            cells = dataclasses.replace(cells, channel=now)
        if channels is not None:
            channels = tuple(now if name == before else name for name in channels)
        self.config = self.config.with_settings(segmentation=cells, channels=channels)

    def run_config(self) -> PipelineConfig:
        """Settings as a run gets them, with the chosen channels and how they are read in."""
        return dataclasses.replace(
            self.config, channels=self.model.used_channels(), joint=self.model.asked_joint()
        )

    @property
    def applied(self) -> ConceptDictionary | None:
        """The dictionary that the next run applies; None where it fits one."""
        return self.dictionary if self.apply_dictionary else None

    def shown_config(self) -> PipelineConfig:
        """Settings as the next run heeds them: what an applied dictionary decides is as it says."""
        if self.applied is None:
            return self.config
        # Whoever has a dictionary has loaded what this takes long to import.
        from napari_microdl.pipeline.inputs import config_of

        return config_of(self.applied, self.config)

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
        missing = [name for name in config.tokens.channels or () if name not in offered]
        if missing and offered:
            raise MicrodlError(
                f"The settings use the channel {listed(missing)}, but the images have "
                f"{listed(offered, 11)}; rename the channels in step 1 first."
            )
        self.config = config
        if not self.model.take_channels():
            for channel in self.channels:
                channel.use = (
                    config.tokens.channels is None or channel.name in config.tokens.channels
                )
        self.settings_changed.emit()

    def problems(self) -> list[Problem]:
        """What the steps still need before a run can start, first things first."""
        found = [Problem("images", s, _ALL) for s in self.image_problems()]
        found += [Problem("images", s, _SAMPLES) for s in self._control_problems()]
        channels = self.layout.arrangement == "channels"
        needs_labels = self.shown_config().units.kind == "cell" and self.cell_source == "labels"
        # The cells of a field are those of its first channel.
        first: dict[Any, ImageRow] = {}
        for row in self.used_rows():
            first.setdefault(row.group if channels else row.key, row)
        without = dict.fromkeys(
            row.group if channels else row.name
            for row in first.values()
            if needs_labels and row.labels_layer() is None
        )
        if without:
            sentence = (
                f"Choose a Labels layer for {listed(list(without))}, or the built-in segmentation."
            )
            found.append(Problem("cells", sentence, _ALL - {"model"}))
        found += [Problem("images", s, _ALL) for s in self._dictionary_problems()]
        found += [Problem("model", s, _ALL - {"cells"}) for s in self.model.problems()]
        if self.apply_dictionary and self.dictionary is None:
            sentence = "Load a dictionary to apply, or choose to fit one."
            found.append(Problem("dictionary", sentence, _ALL - {"cells"}))
        return found

    def _control_problems(self) -> Generator[str, None, None]:
        used = self.used_rows()
        fitting = used and not self.apply_dictionary
        if fitting and self.config.whitening.enabled and not any(row.is_control for row in used):
            yield (
                "Pick at least one control field: tick Control for an untreated image, "
                "or switch the whitening off."
            )

    def _dictionary_problems(self) -> Generator[str, None, None]:
        offered = [c.name for c in self.channels]
        wanted = () if self.applied is None else self.applied.spec.channel_names
        missing = [name for name in wanted if name not in offered]
        if missing and offered:
            yield (
                f"The dictionary was made from the channel {listed(missing)}, but the images have "
                f"{listed(offered, 11)}; write the dictionary's names into the table of channels."
            )

    def prepare(
        self, step: StepName = "dictionary"
    ) -> tuple[list[Field], list[Source], PipelineConfig]:
        """Input of a run.

        Parameters
        ----------
        step : str, default="dictionary"
            Where it ends; what only later steps need may be missing.

        Returns
        -------
        fields, sources, config

        Raises
        ------
        MicrodlError
            If something is missing or does not fit together.
        """
        problems = [problem for problem in self.problems() if step in problem.blocks]
        if problems:
            raise MicrodlError(problems[0].sentence)
        config = self.run_config()
        # Without them where they are not needed yet, as they may be missing or not fit.
        of_cells = self.shown_config().units.kind == "cell"
        with_labels = step != "model" and of_cells and self.cell_source == "labels"
        fields, sources = build_fields(
            self.used_rows(), self.layout, [c.name for c in self.channels], with_labels=with_labels
        )
        return fields, sources, config

    def facets(self) -> Facets:
        """Everything that decides a step, as it is now."""
        config = self.run_config()
        used = self.used_rows()
        labels = [row.labels_layer() for row in used]
        heeded = self.shown_config()
        cells: tuple[Any, ...] = (heeded.units.kind,)
        if heeded.units.kind == "crop":
            cells += (heeded.units.crop_size, heeded.units.crop_stride)
        elif heeded.units.kind == "cell" and self.cell_source == "segmentation":
            cells += (config.cells,)
        elif heeded.units.kind == "cell":
            cells += tuple(self.contents(layer) for layer in labels)
        facets: dict[Facet, Any] = {
            "pixels": tuple(
                (row.key, row.group, row.channel, self.contents(row.layer())) for row in used
            ),
            "channels": (
                config.tokens.channels,
                config.tokens.channel_tokens,
                config.tokens.scaling,
            ),
            "controls": tuple(row.is_control for row in used),
            "conditions": tuple(
                (row.name, row.condition, row.well, row.site, row.plate) for row in used
            ),
            "cells": cells,
        }
        for step, names in _SETTINGS.items():
            facets[step] = tuple(getattr(config, name) for name in names)
            if self.apply_dictionary:
                # Model, whitening and sizes are those of the dictionary.
                facets[step] = (self.dictionary,)
        return facets
