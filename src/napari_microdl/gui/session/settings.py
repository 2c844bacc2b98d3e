"""Settings of the next run, and the dictionary at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from psygnal import Signal

from napari_microdl.core.config import PipelineConfig

if TYPE_CHECKING:
    from napari_microdl.concepts.dictionary import ConceptDictionary

CellSource = Literal["segmentation", "labels"]


class RunSettings:
    """What a person has chosen for the images.

    Attributes
    ----------
    config : PipelineConfig
        Settings as they were chosen.
    cell_source : {"segmentation", "labels"}
        Where cells come from.
    dictionary : ConceptDictionary or None
        The one at hand, loaded or fitted, to save or apply it.
    dictionary_file : Path or None
        Where it was loaded from or saved to.
    apply_dictionary : bool
        Whether the next run applies it and fits none.

    Signals
    -------
    changed
        The settings, or where cells come from, or whether the dictionary is applied.
    dictionary_changed
        Another dictionary is at hand.
    """

    changed = Signal()
    dictionary_changed = Signal()

    def __init__(self) -> None:
        self.config = PipelineConfig()
        self.cell_source: CellSource = "segmentation"
        self.dictionary: ConceptDictionary | None = None
        self.dictionary_file: Path | None = None
        self.apply_dictionary = False

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

    @property
    def uses_labels(self) -> bool:
        """Whether the next run takes its cells from Labels layers."""
        return self.cell_source == "labels" and self.shown_config().units.kind == "cell"

    def configure(self, **changes: Any) -> None:
        """Change settings of the run, as `PipelineConfig.with_settings` takes them."""
        config = self.config.with_settings(**changes)
        if config != self.config:
            self.config = config
            self.changed.emit()

    def choose(self, **changes: Any) -> None:
        """Change `cell_source` or `apply_dictionary`."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.changed.emit()

    def set_dictionary(
        self, dictionary: ConceptDictionary | None, file: Path | None = None
    ) -> None:
        """Take a dictionary in, to save or apply it; `file` is where it is from."""
        if file is not None or dictionary is not self.dictionary:
            self.dictionary_file = file
        self.dictionary = dictionary
        self.dictionary_changed.emit()

    def rename_channel(self, before: str, now: str) -> None:
        """Call a channel of the settings by its new name; it is the same one afterwards."""
        cells, channels = self.config.cells, self.config.tokens.channels
        if cells.channel == before:
            cells = cells.replace(channel=now)
        if channels is not None:
            channels = tuple(now if name == before else name for name in channels)
        self.config = self.config.with_settings(segmentation=cells, channels=channels)
