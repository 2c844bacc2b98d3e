"""The Concept workflow dock: from open images to a dictionary, step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Labels
from napari.utils.notifications import show_error
from napari.viewer import Viewer
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QMenu,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_microdl.config_files import read_config, write_config
from napari_microdl.errors import MicrodlError
from napari_microdl.fields import Field
from napari_microdl.gui.dock import Dock, sentence_label
from napari_microdl.gui.jobs import JobRunner, percent_done
from napari_microdl.gui.layers import (
    TAG,
    Source,
    output_data,
    output_geometry,
    remove_outputs,
)
from napari_microdl.gui.session import StepName, compare_layers, run_steps
from napari_microdl.gui.step import Step
from napari_microdl.gui.steps import (
    CellsStep,
    DictionaryStep,
    ImagesStep,
    ModelStep,
    WhiteningStep,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from napari_microdl.pipeline import PipelineResult, Progress
    from napari_microdl.segmentation import SegmentationConfig

_SETTINGS = "Settings (*.json);;All files (*)"
_FILES = "Concept dictionary (*.microdl.safetensors);;All files (*)"


@dataclasses.dataclass(frozen=True)
class _Preview:
    """Progress of a preview; it has one step."""

    stage: str = "segment"
    done: int = 0
    total: int = 1
    message: str = "Looking for cells"
    record: None = None


def _segment(
    field: Field, config: SegmentationConfig
) -> Generator[_Preview, None, NDArray[np.int32]]:
    yield _Preview()
    from napari_microdl.segmentation import segment_cells

    names = (config.channel,) if config.channel else None
    return segment_cells(field.read(field.channel_indices(names)[:1])[0], config)


class ConceptWorkflow(Dock):
    """Guided dock: images and channels, cells, model, whitening, dictionary, run.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        The viewer.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.jobs = JobRunner(self)
        self.jobs.progressed.connect(self._on_progress)
        self.jobs.succeeded.connect(self._on_success)
        self.jobs.failed.connect(self._on_failure)
        self.jobs.cancelled.connect(self._on_cancelled)
        self.jobs.running_changed.connect(self._on_running)
        # What the job in progress was given.
        self._input: tuple[list[Field], list[Source]] = ([], [])
        # What to do with what the job in progress returns.
        self._then: Callable[[Any], None] = self._finish
        self._curve_shown = False

        self.images = ImagesStep(self.session, self.viewer)
        self.cells = CellsStep(self.session, self.viewer)
        self.model = ModelStep(self.session)
        self.whitening = WhiteningStep(self.session)
        self.dictionary = DictionaryStep(self.session)
        self.steps: dict[StepName, Step] = {
            "images": self.images,
            "cells": self.cells,
            "model": self.model,
            "whitening": self.whitening,
            "dictionary": self.dictionary,
        }
        self.cells.preview_wanted.connect(self._on_preview)
        self.model.compare_wanted.connect(self._on_compare)
        self.dictionary.load_wanted.connect(self._ask_load)
        self.dictionary.save_wanted.connect(self._ask_save)

        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(4, 4, 4, 4)
        column.setSpacing(4)
        for step in self.steps.values():
            column.addWidget(step)
        self.notes = sentence_label()
        self.notes.hide()
        column.addWidget(self.notes)
        column.addStretch(1)
        self.scroll = QScrollArea()
        self.scroll.setWidget(inside)
        self.scroll.setWidgetResizable(True)
        self.scroll.setFrameShape(QFrame.Shape.NoFrame)
        self.scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.scroll.setMinimumHeight(120)

        self.run_button = QPushButton("Run")
        self.run_button.setToolTip("Run all steps in the background.")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setEnabled(False)
        self.explore_button = QPushButton("Explore concepts")
        self.explore_button.setToolTip("Open the Concept explorer.")
        self.explore_button.hide()
        self.bar = QProgressBar()
        self.bar.setRange(0, 100)
        self.bar.hide()
        self.status = sentence_label()
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self.jobs.cancel)
        self.explore_button.clicked.connect(self._explore)
        self.settings_button = QToolButton()
        self.settings_button.setText("Settings")
        self.settings_button.setToolTip(
            "Load or save all settings as a file, which the command line takes too."
        )
        self.settings_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self.settings_button)
        menu.addAction("Load settings...", self._ask_load_settings)
        menu.addAction("Save settings...", self._ask_save_settings)
        self.settings_button.setMenu(menu)
        buttons = QHBoxLayout()
        buttons.addWidget(self.settings_button)
        buttons.addWidget(self.run_button, 1)
        buttons.addWidget(self.cancel_button, 1)
        buttons.addWidget(self.explore_button, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(2, 2, 2, 2)
        layout.addWidget(self.scroll, 1)
        layout.addWidget(self.status)
        layout.addWidget(self.bar)
        layout.addLayout(buttons)
        self.setMinimumWidth(380)
        # Several changes in one go (a sample of eight layers) make one refresh.
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self._follow_layers)
        self.images.set_expanded(True)
        self.resume()

    # Following the viewer and the session ------------------------------------------------------

    def connect_signals(self) -> None:
        """Connect to layers, theme and session."""
        layers = self.viewer.layers
        connect = self.connections.connect
        connect(layers.events.inserted, self._on_layers)
        connect(layers.events.removed, self._on_layers)
        connect(layers.events.reordered, self._on_layers)
        connect(self.viewer.events.theme, self._on_theme)
        connect(self.session.rows_changed, self.refresh_steps)
        connect(self.session.settings_changed, self.refresh_steps)
        connect(self.session.dictionary_changed, self.refresh_steps)
        connect(self.session.run_changed, self.refresh_steps)

    def suspend(self) -> None:
        """Cancel the job and stop listening."""
        super().suspend()
        self._later.stop()
        self.jobs.stop()
        self.model.stop()
        self.cells.stop()

    def refresh(self) -> None:
        """Read layers and session anew."""
        self._on_theme()
        self.session.update_images(self.viewer.layers)
        self._on_running(self.jobs.is_running)

    def _on_layers(self) -> None:
        self._later.start()

    def _follow_layers(self) -> None:
        self._later.stop()
        self.session.update_images(self.viewer.layers)

    def _on_theme(self) -> None:
        self.dictionary.curve.set_colours(self.theme_colours())
        self.whitening.spectrum.set_colours(self.theme_colours())
        self.model.curve.set_colours(self.theme_colours())

    def refresh_steps(self) -> None:
        """Show the state of the session in every step, with what each still needs."""
        needs: dict[str, str] = {}
        for problem in self.session.problems():
            needs.setdefault(problem.step, problem.sentence)
        marks = self.session.marks()
        for name, step in self.steps.items():
            step.refresh()
            step.set_need(needs.get(name, ""))
            step.set_mark(marks.get(name, ""))
        self.dictionary.save.setEnabled(self.session.dictionary is not None)
        self.explore_button.setVisible(self.session.run is not None)

    # Running -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Run all steps in the background."""
        if self._later.isActive():
            self._follow_layers()
        try:
            fields, sources, config = self.session.prepare()
        except MicrodlError as error:
            self.say(f"⚠ {error}")
            for problem in self.session.problems()[:1]:
                self.steps[problem.step].set_expanded(True)
                self.scroll.ensureWidgetVisible(self.steps[problem.step])
            return
        dictionary = self.session.dictionary if self.session.apply_dictionary else None
        self._input = fields, sources
        self._then = self._finish
        self._curve_shown = False
        self.dictionary.curve.clear()
        self.notes.hide()
        self.say("Starting...")
        self.jobs.start(run_steps(fields, config, dictionary), "MicroDL")

    def _on_running(self, running: bool) -> None:
        self.run_button.setEnabled(not running)
        self.cells.preview.setEnabled(not running)
        self.model.compare.setEnabled(not running)
        self.cancel_button.setEnabled(running)
        self.bar.setVisible(running)
        self.bar.setValue(0)

    def _on_progress(self, progress: Progress) -> None:
        self.bar.setValue(percent_done(progress))
        self.say(progress.message)
        if progress.record is not None:
            self.dictionary.curve.add(progress.record)
            if not self._curve_shown and self.dictionary.curve.isVisible():
                self.scroll.ensureWidgetVisible(self.dictionary.curve)
                # Once in view it is left to the user to scroll.
                seen = self.dictionary.curve.visibleRegion().boundingRect().height()
                self._curve_shown = seen == self.dictionary.curve.height()

    def _on_cancelled(self) -> None:
        self._input = [], []
        self.dictionary.curve.clear()
        self.say("Cancelled: nothing was changed.")

    def _on_failure(self, sentence: str) -> None:
        self._input = [], []
        self.say(f"⚠ {sentence}")
        show_error(sentence)

    def _on_success(self, result: Any) -> None:
        self._then(result)

    def _finish(self, result: PipelineResult) -> None:
        (fields, sources), self._input = self._input, ([], [])
        remove_outputs(self.viewer.layers, {"preview"})
        self.session.finish(result, fields, sources)
        if self.model.is_expanded:
            self.model.kept.look()
        if not self.session.apply_dictionary:
            self.dictionary.curve.set_history(result.dictionary.icfl.history_)
        best = result.activations.ranking.iloc[0]
        sentence = (
            f"Done: {len(result.activations.units)} {result.config.unit}s, "
            f"{result.activations.n_concepts} concepts."
        )
        if best["selectivity"] == best["selectivity"]:
            sentence += (
                f" '{best['name']}' tells '{best['label']}' apart best (selectivity "
                f"{best['selectivity']:.2f}, AUC {best['auc']:.2f})."
            )
        closed = [s.name for s in sources if s.layer() not in self.viewer.layers]
        if closed:
            sentence += f" No overlay for {', '.join(closed)}: the image was closed."
        self.notes.setText("\n".join(["Notes of this run:", *(f"• {n}" for n in result.warnings)]))
        self.notes.setVisible(bool(result.warnings))
        if result.warnings:
            sentence += " There are notes below the steps."
        self.say(sentence)

    def say(self, sentence: str) -> None:
        """Show a sentence in the status line."""
        self.status.setText(sentence)

    def _explore(self) -> None:
        self.viewer.window.add_plugin_dock_widget("napari-microdl", "Concept explorer")

    # Comparing layers --------------------------------------------------------------------------

    def _on_compare(self) -> None:
        try:
            fields, _, config = self.session.prepare()
        except MicrodlError as error:
            self.say(f"⚠ {error}")
            return
        self._then = self._show_layers
        self.say("Starting...")
        self.jobs.start(compare_layers(fields, config), "MicroDL layers")

    def _show_layers(self, table: pd.DataFrame) -> None:
        self.model.show_layers(table)
        best = table.loc[table["auc"].idxmax()]
        self.say(
            f"Layer {best['layer']:.0f} tells treated from control best: AUC {best['auc']:.2f} on "
            "fields that the probe has not seen. The layer in use was not changed."
        )

    # Preview of the segmentation ---------------------------------------------------------------

    def _on_preview(self) -> None:
        try:
            field, source = self._selected_field()
        except MicrodlError as error:
            self.say(f"⚠ {error}")
            return
        if self.jobs.is_running and self._then == self._finish:
            # Another preview may be replaced; a run is not to be disturbed.
            return
        self._then = partial(self._show_preview, source)
        self.say(f"Looking for cells in {field.name}")
        self.jobs.start(_segment(field, self.session.config.segmentation), "MicroDL preview")

    def _selected_field(self) -> tuple[Field, Source]:
        from napari_microdl.gui.layers import build_fields

        session = self.session
        problems = [p for p in session.problems() if "control" not in p.sentence]
        if problems and problems[0].step == "images":
            raise MicrodlError(problems[0].sentence)
        fields, sources = build_fields(
            session.used_rows(),
            session.layout,
            [c.name for c in session.channels],
            with_labels=False,
        )
        selected = self.viewer.layers.selection.active
        for field, source in zip(fields, sources, strict=True):
            if source.layer() is selected:
                return field, source
        return fields[0], sources[0]

    def _show_preview(self, source: Source, labels: NDArray[np.int32]) -> None:
        remove_outputs(self.viewer.layers, {"preview"})
        if source.layer() not in self.viewer.layers:
            self.say("The image was closed, so there is no preview.")
            return
        layer = Labels(
            output_data(labels, source),
            name=f"preview of cells, {source.name}",
            metadata={TAG: {"kind": "preview", "source": source.name}},
            **output_geometry(source),
        )
        layer.contour = 2
        selected = self.viewer.layers.selection.active
        self.viewer.add_layer(layer)
        if selected is not None:
            self.viewer.layers.selection.active = selected
        self.say(
            f"{int(labels.max())} cells in {source.name}. Change the diameter or the threshold "
            "and look again, or go on."
        )

    # Dictionary files --------------------------------------------------------------------------

    def _ask_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load a dictionary", "", _FILES)
        if path:
            self.load_dictionary(path)

    def load_dictionary(self, path: str | Path) -> None:
        """Load a dictionary and choose to apply it; a bad file changes nothing.

        Parameters
        ----------
        path : str or Path
            The file.
        """
        from napari_microdl.dictionary import ConceptDictionary

        try:
            dictionary = ConceptDictionary.load(path)
        except (MicrodlError, OSError) as error:
            self.say(f"⚠ {error}")
            return
        self.session.set_dictionary(dictionary)
        self.session.choose(apply_dictionary=True)
        self.say(f"Loaded {Path(path).name}; press Run to apply it.")

    def _ask_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the dictionary", "concepts.microdl.safetensors", _FILES
        )
        if path:
            self.save_dictionary(path)

    def save_dictionary(self, path: str | Path) -> None:
        """Save the dictionary at hand.

        Parameters
        ----------
        path : str or Path
            The file.
        """
        if self.session.dictionary is None:
            self.say("⚠ There is no dictionary to save yet; fit one first.")
            return
        try:
            written = self.session.dictionary.save(path)
        except (MicrodlError, OSError) as error:
            self.say(f"⚠ The dictionary could not be saved: {error}")
            return
        self.say(f"Saved {written.name}.")

    # Settings ----------------------------------------------------------------------------------

    def _ask_load_settings(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load settings", "", _SETTINGS)
        if path:
            self.load_settings(path)

    def load_settings(self, path: str | Path) -> None:
        """Take all settings from a file.

        Parameters
        ----------
        path : str or Path
            As `save_settings` or the command line wrote it.
        """
        try:
            self.session.take_config(read_config(path))
        except MicrodlError as error:
            self.say(f"⚠ {error}")
            return
        self.say(f"Settings of {Path(path).name} are in place; press Run to use them.")

    def _ask_save_settings(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save settings", "settings.json", _SETTINGS)
        if path:
            self.save_settings(path)

    def save_settings(self, path: str | Path) -> None:
        """Write all settings to a file.

        Parameters
        ----------
        path : str or Path
            The file.
        """
        try:
            write_config(self.session.run_config(), path)
        except OSError as error:
            self.say(f"⚠ The settings could not be saved: {error}")
            return
        self.say(f"Saved {Path(path).name}.")
