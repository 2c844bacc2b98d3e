"""Settings of the next run, and the dictionary at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from psygnal import Signal

from napari_microdl.core.config import PipelineConfig
from napari_microdl.gui.session.images import Images

if TYPE_CHECKING:
    from napari_microdl.concepts.dictionary import ConceptDictionary

CellSource = Literal["segmentation", "labels"]


class RunSettings(Images):
    """What a person has chosen for the images."""

    settings_changed = Signal()
    dictionary_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.config = PipelineConfig()
        self.cell_source: CellSource = "segmentation"
        self.apply_dictionary = False
        self.dictionary: ConceptDictionary | None = None
        # Where it was loaded from or saved to.
        self.dictionary_file: Path | None = None

    def configure(self, **changes: Any) -> None:
        """Change settings of the run.

        Parameters
        ----------
        **changes
            Attributes of `PipelineConfig`.
        """
        config = self.config.with_settings(**changes)
        if config != self.config:
            self.config = config
            self.settings_changed.emit()

    def choose(self, **changes: Any) -> None:
        """Change `cell_source` or `apply_dictionary`."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.settings_changed.emit()

    def set_dictionary(
        self, dictionary: ConceptDictionary | None, file: Path | None = None
    ) -> None:
        """Take a dictionary in, to save or apply it; `file` is where it is from."""
        if file is not None or dictionary is not self.dictionary:
            self.dictionary_file = file
        self.dictionary = dictionary
        self.dictionary_changed.emit()
