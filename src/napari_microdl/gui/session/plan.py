"""What the next run would be given, and what it still needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.text import listed
from napari_microdl.fields.field import Field
from napari_microdl.fields.pixel_size import pixel_size_note
from napari_microdl.gui.session.freshness import Facets, StepName
from napari_microdl.gui.session.images import Images
from napari_microdl.gui.session.layers import ImageRow, Source, build_fields, pixel_size
from napari_microdl.gui.session.model_choice import ModelChoice
from napari_microdl.gui.session.settings import RunSettings
from napari_microdl.pipeline.cache import stage_settings


@dataclass(frozen=True)
class Problem:
    """What a step still needs, as a sentence, and the steps that cannot be run before."""

    step: StepName
    sentence: str
    blocks: frozenset[StepName]


# What a step has to wait for: of itself, and of those that it builds on.
_ALL: frozenset[StepName] = frozenset({"cells", "tokens", "whitening", "dictionary"})
_SAMPLES: frozenset[StepName] = frozenset({"whitening", "dictionary"})


class Plan:
    """Images, settings and the model that they name put together."""

    def __init__(self, images: Images, settings: RunSettings) -> None:
        self.images, self.settings = images, settings
        self.model = ModelChoice(images, settings)
        images.channel_renamed.connect(settings.rename_channel)

    def run_config(self) -> PipelineConfig:
        """Settings as a run gets them, with the chosen channels and how they are read in."""
        return self.settings.config.with_settings(
            channels=self.model.used_channels(), joint=self.model.asked_joint()
        )

    def take_config(self, config: PipelineConfig) -> None:
        """Take all settings over, the choice of channels among them.

        Raises `MicrodlError` if they name a channel that the images do not have; nothing has
        changed then.
        """
        offered = [c.name for c in self.images.channels]
        missing = [name for name in config.tokens.channels or () if name not in offered]
        if missing and offered:
            raise MicrodlError(
                f"The settings use the channel {listed(missing)}, but the images have "
                f"{listed(offered, 11)}; rename the channels in step 1 first."
            )
        self.settings.config = config
        if not self.model.take_channels():
            for channel in self.images.channels:
                channel.use = (
                    config.tokens.channels is None or channel.name in config.tokens.channels
                )
        self.settings.changed.emit()

    def problems(self) -> list[Problem]:
        """What the steps still need before a run can start, first things first."""
        found = [Problem("fields", s, _ALL) for s in self.images.problems()]
        found += [Problem("fields", s, _SAMPLES) for s in self._control_problems()]
        channels = self.images.layout.arrangement == "channels"
        needs_labels = self.settings.uses_labels
        # The cells of a field are those of its first channel.
        first: dict[Any, ImageRow] = {}
        for row in self.images.used_rows():
            first.setdefault(row.group if channels else row.key, row)
        without = dict.fromkeys(
            row.group if channels else row.name
            for row in first.values()
            if needs_labels and row.labels_layer() is None
        )
        if needs_labels and (apart := self.images.apart()):
            names = listed([labels.name for labels, _ in apart])
            images = listed([image.name for _, image in apart])
            sentence = (
                f"The labels {names} lie elsewhere in the viewer than the image {images}: "
                "move them there by the button below, or choose others."
            )
            found.append(Problem("cells", sentence, _ALL - {"tokens"}))
        if without:
            sentence = (
                f"Choose a Labels layer for {listed(list(without))}, or the built-in segmentation."
            )
            found.append(Problem("cells", sentence, _ALL - {"tokens"}))
        found += self._dictionary_problems()
        found += [Problem("tokens", s, _ALL - {"cells"}) for s in self.model.problems()]
        if self.settings.apply_dictionary and self.settings.dictionary is None:
            sentence = "Load a dictionary to apply, or choose to fit one."
            found.append(Problem("dictionary", sentence, _ALL - {"cells"}))
        return found

    def _control_problems(self) -> Generator[str, None, None]:
        used = self.images.used_rows()
        fitting = used and not self.settings.apply_dictionary
        if (
            fitting
            and self.settings.config.whitening.enabled
            and not any(row.is_control for row in used)
        ):
            yield (
                "Pick at least one control field: tick Control for an untreated image, "
                "or switch the whitening off."
            )

    def missing_channels(self) -> tuple[str, ...]:
        """Channels of the dictionary that is applied which the images do not have."""
        offered = [c.name for c in self.images.channels]
        applied = self.settings.applied
        wanted = () if applied is None else applied.spec.tokens.channels
        return tuple(name for name in wanted if offered and name not in offered)

    def stand_in(self) -> str | None:
        """Channel that is read in place of the dictionary's only one, where that is missing."""
        applied, missing = self.settings.applied, self.missing_channels()
        if applied is None or not missing or len(applied.spec.tokens.channels) > 1:
            return None
        chosen = self.model.channel_choices.get(missing[0])
        return chosen if chosen in [c.name for c in self.images.channels] else None

    def _place_of_stand_in(self) -> int | None:
        """Place among the channels of the one that is read for the dictionary's only one."""
        applied = self.settings.applied
        if applied is None or len(applied.spec.tokens.channels) > 1:
            return None
        names = [c.name for c in self.images.channels]
        name = self.stand_in() or applied.spec.tokens.channels[0]
        return names.index(name) if name in names else None

    def choose_stand_in(self, channel: str) -> None:
        """Read a channel in place of the dictionary's only one."""
        self.model.channel_choices[self.missing_channels()[0]] = channel
        self.settings.changed.emit()

    def _dictionary_problems(self) -> Generator[Problem, None, None]:
        missing, applied = self.missing_channels(), self.settings.applied
        if applied is None or not missing or self.stand_in() is not None:
            return
        offered = listed([c.name for c in self.images.channels], 11)
        made = f"The dictionary was made from the channel {listed(missing)}, but the images have"
        if len(applied.spec.tokens.channels) == 1:
            sentence = f"{made} {offered}; choose here which is read in its place."
            yield Problem("dictionary", sentence, _ALL)
        else:
            sentence = f"{made} {offered}; write the dictionary's names into the table of channels."
            yield Problem("fields", sentence, _ALL)

    def pixel_size_note(self) -> str:
        """What is to be said of the pixels of the images before a dictionary is applied."""
        if self.settings.applied is None:
            return ""
        sizes = [pixel_size(row.layer()) for row in self.images.first_rows()]
        return pixel_size_note(self.settings.applied.pixel_size, sizes)

    def prepare(
        self, step: StepName = "dictionary"
    ) -> tuple[list[Field], list[Source], PipelineConfig]:
        """Fields, their sources and the settings of a run up to a step.

        What only later steps need may be missing; `MicrodlError` if something else is, or does not
        fit together.
        """
        problems = [problem for problem in self.problems() if step in problem.blocks]
        if problems:
            raise MicrodlError(problems[0].sentence)
        config = self.run_config()
        # Without them where they are not needed yet, as they may be missing or not fit.
        with_labels = step != "tokens" and self.settings.uses_labels
        names = [channel.name for channel in self.images.channels]
        fields, sources = build_fields(
            self.images.used_rows(), self.images.layout, names, with_labels=with_labels
        )
        if (chosen := self.stand_in()) is not None:
            fields, config = _renamed(fields, config, chosen, self.missing_channels()[0])
        return fields, sources, config

    def facets(self) -> Facets:
        """Everything that decides a step, as it is now."""
        used = self.images.used_rows()
        config = (
            self.run_config() if self.settings.applied is None else self.settings.shown_config()
        )
        own_cells = self.settings.uses_labels
        labels = [row.labels_layer() for row in used] if own_cells else []
        settings = stage_settings(config, own_cells=own_cells)
        # Much of a dictionary that is applied is not in the settings: its position, its atoms.
        given = (self.settings.apply_dictionary, self.settings.applied, self._place_of_stand_in())
        return {
            "pixels": tuple(
                (row.key, row.group, row.channel, self.images.contents(row.layer())) for row in used
            ),
            "controls": tuple(row.is_control for row in used),
            "plates": tuple(row.plate for row in used),
            "conditions": tuple((row.name, row.condition, row.well, row.site) for row in used),
            "cells": (
                settings["cells"],
                settings["samples"],
                tuple(self.images.contents(layer) for layer in labels),
            ),
            "tokens": (settings["tokens"], given),
            "whitening": (settings["whitening"], given),
            "dictionary": (settings["dictionary"], given),
        }


def _renamed(
    fields: list[Field], config: PipelineConfig, before: str, now: str
) -> tuple[list[Field], PipelineConfig]:
    """Fields with another name for a channel, and the settings that go with it."""

    def called(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(now if name == before else name for name in names)

    renamed = [dataclasses.replace(f, channel_names=called(f.channel_names)) for f in fields]
    if config.cells.channel == before:
        config = config.with_settings(segmentation=config.cells.replace(channel=now))
    return renamed, config
