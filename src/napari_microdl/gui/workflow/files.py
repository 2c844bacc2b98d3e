"""Dictionaries, settings and the plan of the window that the workflow loads and saves."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from napari.viewer import Viewer
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.gui.session.files import (
    collect_window,
    open_window,
    restore_window,
    write_window,
)
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.jobs import JobRunner

_SETTINGS = "Settings (*.json);;All files (*)"
_FILES = "Concept dictionary (*.microdl.safetensors);;All files (*)"


class WorkflowFiles(QObject):
    """Asks for files and takes them into the session; a bad file changes nothing.

    Signals
    -------
    message
        A sentence for the status line.
    """

    message = Signal(str)

    def __init__(self, viewer: Viewer, session: Session, parent: QWidget) -> None:
        super().__init__(parent)
        self._session = session
        self._viewer, self._window = viewer, parent
        self.jobs = JobRunner(self)
        self.jobs.succeeded.connect(self._on_saved)
        self.jobs.failed.connect(self._on_failed)
        self.jobs.cancelled.connect(self._on_cancelled)

    def _on_saved(self, sentence: str) -> None:
        self.message.emit(sentence)

    def _on_failed(self, sentence: str) -> None:
        self.message.emit(f"⚠ {sentence}")

    def _on_cancelled(self) -> None:
        self.message.emit("⚠ Cancelled: the settings were not saved.")

    def ask_load_dictionary(self) -> None:
        """Ask which dictionary to load."""
        path, _ = QFileDialog.getOpenFileName(self._window, "Load a dictionary", "", _FILES)
        if path:
            self.load_dictionary(path)

    def load_dictionary(self, path: str | Path) -> None:
        """Load a dictionary and choose to apply it."""
        from napari_microdl.concepts.dictionary import ConceptDictionary

        try:
            with current_task().taking_notes() as notes:
                dictionary = ConceptDictionary.load(path)
        except (MicrodlError, OSError) as error:
            self.message.emit(f"⚠ {error}")
            return
        self._session.settings.set_dictionary(dictionary, Path(path))
        self._session.settings.choose(apply_dictionary=True)
        loaded = f"Loaded {Path(path).name}; press Run all to apply it."
        self.message.emit(" ".join([loaded, *notes]))

    def ask_save_dictionary(self) -> None:
        """Ask where to save the dictionary at hand."""
        path, _ = QFileDialog.getSaveFileName(
            self._window, "Save the dictionary", "concepts.microdl.safetensors", _FILES
        )
        if path:
            self.save_dictionary(path)

    def save_dictionary(self, path: str | Path) -> None:
        """Save the dictionary at hand."""
        settings = self._session.settings
        if settings.dictionary is None:
            self.message.emit("⚠ There is no dictionary to save yet; fit one first.")
            return
        try:
            written = settings.dictionary.save(path)
        except (MicrodlError, OSError) as error:
            self.message.emit(f"⚠ The dictionary could not be saved: {error}")
            return
        settings.dictionary_file = written
        self.message.emit(f"Saved {written.name}.")

    def ask_load_settings(self) -> None:
        """Ask which settings to load."""
        path, _ = QFileDialog.getOpenFileName(self._window, "Load settings", "", _SETTINGS)
        if path:
            self.load_settings(path)

    def load_settings(self, path: str | Path) -> None:
        """Take all settings from a file, and the plan of the window where it was saved."""
        path = Path(path)
        try:
            missing = restore_window(self._session.plan, self._viewer.layers, open_window(path))
        except MicrodlError as error:
            self.message.emit(f"⚠ {error}")
            return
        self.message.emit(
            f"Settings of {path.name} are in place; press Run all to use them. {missing}".rstrip()
        )

    def ask_save_settings(self) -> None:
        """Ask where to save the settings."""
        path, _ = QFileDialog.getSaveFileName(
            self._window, "Save settings", "settings.json", _SETTINGS
        )
        if path:
            self.save_settings(path)

    def save_settings(self, path: str | Path) -> None:
        """Write all settings and the table of fields, as the command line takes them."""
        self.message.emit("Saving settings...")
        files = collect_window(self._session.plan, path)
        self.jobs.start(partial(write_window, files, path), "MicroDL settings")
