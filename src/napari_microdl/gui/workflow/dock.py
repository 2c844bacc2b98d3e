"""The Concept workflow dock: from open images to a dictionary, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Layer
from napari.utils.notifications import show_error
from napari.viewer import Viewer
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QFrame,
    QGridLayout,
    QMenu,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import Progress
from napari_microdl.core.text import counted, listed
from napari_microdl.gui.dock import (
    EXPLORER,
    WORKFLOW,
    Dock,
    open_dock,
    prepared_dock,
    running_of,
)
from napari_microdl.gui.overlays.cell_layers import remove_cells, show_all
from napari_microdl.gui.session.freshness import StepName
from napari_microdl.gui.session.layers import is_input
from napari_microdl.gui.session.running import Ended
from napari_microdl.gui.session.viewer_parts import camera_of
from napari_microdl.gui.widgets.collapsible import Step
from napari_microdl.gui.widgets.inputs import sentence_label
from napari_microdl.gui.widgets.jobs import JobRunner, time_left
from napari_microdl.gui.widgets.turns import call_off, do_in_turn, is_waiting
from napari_microdl.gui.workflow.cell_preview import CellPreview
from napari_microdl.gui.workflow.fetching import FetchQuestion
from napari_microdl.gui.workflow.files import WorkflowFiles
from napari_microdl.gui.workflow.steps import (
    CellsStep,
    DictionaryStep,
    FieldsStep,
    TokensStep,
    WhiteningStep,
)
from napari_microdl.pipeline.estimate import processor_rate

if TYPE_CHECKING:
    import pandas as pd

    from napari_microdl.gui.session.layers import Source
    from napari_microdl.gui.session.run import Cells
    from napari_microdl.pipeline.run import PipelineResult
    from napari_microdl.pipeline.stages import Tokens, Whitened

_GOES_ON = (
    "A run is in progress. It goes on without its dock; open the Concept workflow again to see how "
    "far it is."
)


class ConceptWorkflow(Dock):
    """Guided dock: fields and channels, cells, tokens, whitening, dictionary, run.

    Signals
    -------
    run_finished
        A run up to the last step has ended and is shown.
    """

    run_finished = Signal()
    name = WORKFLOW

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        # It outlives the dock.
        self.running = running_of(self.viewer)
        self.jobs = self.running.jobs
        self._curve_shown = False
        self._warning = ""
        # Between its making and its showing.
        self._explorer: Dock | None = None
        self.measuring = JobRunner(self)
        self.measuring.succeeded.connect(self.session.plan.model.take_rate)
        self.preview = CellPreview(self.viewer, self.session, self)
        self.preview.message.connect(self.say)
        self.preview.jobs.running_changed.connect(self._offer_cancel)
        self.fetching = FetchQuestion(self.session, self)
        self.files = WorkflowFiles(self.viewer, self.session, self)
        self.files.message.connect(self.say)

        self.fields = FieldsStep(self.session, self.viewer)
        self.cells = CellsStep(self.session, self.viewer)
        self.tokens = TokensStep(self.session)
        self.whitening = WhiteningStep(self.session)
        self.dictionary = DictionaryStep(self.session)
        self.steps: dict[StepName, Step] = {
            "fields": self.fields,
            "cells": self.cells,
            "tokens": self.tokens,
            "whitening": self.whitening,
            "dictionary": self.dictionary,
        }
        self.fields.message.connect(self.say)
        for name, step in self.steps.items():
            step.run_wanted.connect(partial(self.run_step, name))
        self.cells.preview_wanted.connect(self.preview.look)
        self.cells.live_changed.connect(self.preview.set_live)
        self.tokens.compare_wanted.connect(self._on_compare)
        self.dictionary.load_wanted.connect(self.files.ask_load_dictionary)
        self.dictionary.save_wanted.connect(self.files.ask_save_dictionary)

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
        self.scroll.setMinimumHeight(120)

        self.run_button = QPushButton("Run all")
        self.run_button.setToolTip(
            "Runs all steps in the background; what is up to date is not done again."
        )
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop at once; what is shown stays as it is.")
        self.cancel_button.setEnabled(False)
        self.explore_button = QPushButton("Explore")
        self.explore_button.setToolTip("Opens the Concept explorer, which shows what a run found.")
        self.bar = QProgressBar()
        self.bar.setRange(0, 100)
        self.bar.hide()
        self.outlook = sentence_label()
        self.outlook.setToolTip(
            "Fields and cells of controls and of the others, and how long a run will take."
        )
        self.status = sentence_label()
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self._cancel)
        self.explore_button.clicked.connect(self._explore)
        self.settings_button = QPushButton("Settings")
        self.settings_button.setToolTip(
            "Load or save all settings and the table of fields, as files that the command line "
            "takes too."
        )
        menu = QMenu(self.settings_button)
        menu.addAction("Load settings...", self.files.ask_load_settings)
        menu.addAction("Save settings...", self.files.ask_save_settings)
        self.settings_button.setMenu(menu)
        # Two rows: in one, large letters would widen the dock.
        buttons = QGridLayout()
        for button, row, column in (
            (self.run_button, 0, 0),
            (self.cancel_button, 0, 1),
            (self.settings_button, 1, 0),
            (self.explore_button, 1, 1),
        ):
            buttons.addWidget(button, row, column)
        buttons.setColumnStretch(0, 1)
        buttons.setColumnStretch(1, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(2, 2, 2, 2)
        layout.addWidget(self.scroll, 1)
        layout.addWidget(self.outlook)
        layout.addWidget(self.status)
        layout.addWidget(self.bar)
        layout.addLayout(buttons)
        for name, step in self.steps.items():
            step.set_expanded(name in self.session.view.open_steps)
            step.heading.toggled.connect(self._on_opened)
        self.resume()
        self.measuring.start(processor_rate)

    # Following the viewer and the session ------------------------------------------------------

    def connect_signals(self) -> None:
        """Connect to layers, theme and session."""
        layers = self.viewer.layers
        connect = self.connections.connect
        connect(layers.events.inserted, self._on_layers)
        connect(layers.events.removed, self._on_layers)
        connect(layers.events.reordered, self._on_layers)
        connect(self.viewer.events.theme, self._on_theme)
        connect(self.session.images.changed, self.refresh_steps)
        connect(self.fields.arranger.changed, self.fields.show_arranging)
        connect(self.session.settings.changed, self.refresh_steps)
        connect(self.session.settings.dictionary_changed, self.refresh_steps)
        connect(self.session.run.changed, self.refresh_steps)
        connect(self.session.steps_changed, self.refresh_steps)
        connect(self.running.progressed, self._on_progress)
        connect(self.running.ended, self._on_ended)
        connect(self.running.running_changed, self._on_running)
        camera = camera_of(self.viewer)
        for signal in (
            camera.events.center,
            camera.events.zoom,
            self.viewer.dims.events.point,
            layers.selection.events.active,
            self.session.settings.changed,
            self.session.images.changed,
        ):
            connect(signal, self.preview.follow)

    def suspend(self) -> None:
        """Stop listening; a run goes on, unless a person says otherwise."""
        super().suspend()
        call_off(self._follow_layers)
        if self.running.is_running:
            self._ask_about_run()
        else:
            self.jobs.stop()
        self.tokens.stop()
        self.preview.stop()
        self.measuring.stop()
        self.files.jobs.stop()

    def refresh(self) -> None:
        """Read layers and session anew."""
        self._on_theme()
        self.session.images.update(self.viewer.layers)
        self._on_running(self.jobs.is_running)
        if self.jobs.is_running:
            # The dock is a new one, the run is not.
            self.dictionary.curve.set_history(self.running.records)
            self.say("A run is in progress.")
            if self.running.progress is not None:
                self._on_progress(self.running.progress)
        elif self.session.run.current is not None and not self.status.text():
            self._sum_up(self.session.run.current.result, self.session.run.current.sources)

    def _on_opened(self) -> None:
        steps = self.steps.items()
        self.session.view.open_steps = {name for name, step in steps if step.is_expanded}

    def _on_layers(self, event: Any) -> None:
        layer = getattr(event, "value", None)
        # What is drawn over the fields changes nothing here.
        if not isinstance(layer, Layer) or is_input(layer):
            if event.type == "inserted":
                self.session.images.expect(layer)
            # Several changes in one go (a sample of eight layers) make one refresh.
            do_in_turn(self._follow_layers)

    def _follow_layers(self) -> None:
        call_off(self._follow_layers)
        self.session.images.update(self.viewer.layers)

    def _on_theme(self) -> None:
        self.dictionary.curve.set_colours(self.theme_colours())
        self.whitening.spectrum.set_colours(self.theme_colours())
        self.tokens.curve.set_colours(self.theme_colours())

    def refresh_steps(self) -> None:
        """Show the state of the session in every step, with what each still needs."""
        needs: dict[str, str] = {}
        problems = self.session.plan.problems()
        for problem in problems:
            needs.setdefault(problem.step, problem.sentence)
        # What a run was refused for, or has failed of, may be mended by now.
        if self.status.text() == f"⚠ {self._warning}" and self._warning not in [
            problem.sentence for problem in problems
        ]:
            self.say("")
        facets = self.session.plan.facets()
        states = self.session.step_states(facets)
        for name, step in self.steps.items():
            step.refresh()
            step.set_need(needs.get(name, ""))
            step.set_state(states.get(name, ""))
        self.dictionary.save.setEnabled(self.session.settings.dictionary is not None)
        self.outlook.setText(self.session.outlook(facets))
        self.outlook.setVisible(bool(self.outlook.text()))

    # Running -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Run all steps in the background."""
        self.run_step("dictionary")

    def run_step(self, step: StepName) -> None:
        """Run up to a step in the background; what is up to date is not done again."""
        if is_waiting(self._follow_layers):
            self._follow_layers()
        if step != "cells" and self.fetching.asks(partial(self.run_step, step), self._warn):
            return
        try:
            self.running.run(step)
        except MicrodlError as error:
            self._refuse(error, step)
            return
        self._curve_shown = False
        if step == "dictionary":
            self.dictionary.curve.clear()
        self.notes.hide()
        self.say("Starting...")

    def _refuse(self, error: MicrodlError, step: StepName) -> None:
        """Say what is missing, and show where."""
        self._warn(str(error))
        for problem in self.session.plan.problems():
            if step in problem.blocks:
                self.steps[problem.step].set_expanded(True)
                self.scroll.ensureWidgetVisible(self.steps[problem.step])
                return

    def _ask_about_run(self) -> None:
        """Say that the run goes on, and offer to cancel it."""
        box = QMessageBox(
            QMessageBox.Icon.Question, "MicroDL", _GOES_ON, parent=self.running.window
        )
        box.addButton("Let it run", QMessageBox.ButtonRole.AcceptRole)
        cancel = box.addButton("Cancel the run", QMessageBox.ButtonRole.DestructiveRole)
        cancel.clicked.connect(self.jobs.cancel)
        # By then there is nothing left to be asked.
        self.jobs.running_changed.connect(box.reject)
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.open()

    def _on_running(self, running: bool) -> None:
        self.run_button.setEnabled(not running)
        for step in self.steps.values():
            step.run_button.setEnabled(not running)
        self.preview.pause(running)
        self.cells.preview.setEnabled(not running)
        self.tokens.compare.setEnabled(not running)
        self._offer_cancel()
        self.bar.setVisible(running)
        self.bar.setValue(0)

    def _offer_cancel(self) -> None:
        self.cancel_button.setEnabled(self.jobs.is_running or self.preview.jobs.is_running)

    def _cancel(self) -> None:
        """Cancel the run, or the preview; they are never there together."""
        self.jobs.cancel()
        self.preview.cancel()

    def _on_progress(self, progress: Progress) -> None:
        self.bar.setValue(self.jobs.percent(progress))
        self.say(progress.message + time_left(progress))
        if progress.record is not None:
            self.dictionary.curve.add(progress.record)
            if not self._curve_shown and self.dictionary.curve.isVisible():
                self.scroll.ensureWidgetVisible(self.dictionary.curve)
                # Once in view it is left to the user to scroll.
                seen = self.dictionary.curve.visibleRegion().boundingRect().height()
                self._curve_shown = seen == self.dictionary.curve.height()

    def _on_ended(self, ended: Ended) -> None:
        if ended.how == "cancelled":
            self.dictionary.curve.clear()
            done = ""
            if ended.finished:
                done = f" Done and kept for the next run: {listed(ended.finished)}."
            self.say(f"Cancelled: nothing was changed.{done}")
        elif ended.how == "failed":
            self._warn(ended.sentence)
            show_error(ended.sentence)
        else:
            show: dict[str, Callable[[Ended], None]] = {
                "cells": self._show_cells,
                "tokens": self._show_tokens,
                "whitening": self._show_whitening,
                "dictionary": self._finish,
                "layers": self._show_layers,
            }
            show[ended.what](ended)

    def _finish(self, ended: Ended) -> None:
        self._sum_up(ended.result, ended.sources)
        if ended.how == "same":
            # Those that were looked at before it are of the run.
            remove_cells(self.viewer)
            self.say("Up to date: nothing has changed since the run that is shown.")
        else:
            if self.tokens.is_expanded:
                self.tokens.stored.look()
            self.run_finished.emit()
        # Once the window has drawn what it has so far.
        do_in_turn(self._explore)

    def _sum_up(self, result: PipelineResult, sources: Sequence[Source]) -> None:
        """Sum a run up, with its fit and its notes."""
        if not self.session.settings.apply_dictionary:
            self.dictionary.curve.set_history(result.dictionary.icfl.history_)
        activations = result.activations
        best = activations.ranking.loc[activations.first_concept]
        sentence = (
            f"Done: {len(result.activations.units)} {result.config.units.kind}s, "
            f"{result.activations.n_concepts} concepts."
        )
        if best["selectivity"] == best["selectivity"]:
            chosen = activations.fit_samples is None and activations.chosen is not None
            # The test takes a hundred fits: it is asked for in the tab Evaluation, and waits there.
            whose = "The concept chosen in the fit" if chosen else "Best candidate"
            sentence += (
                f" {whose}: '{best['name']}' for '{best['label']}' (selectivity "
                f"{best['selectivity']:.2f}, AUC {best['auc']:.2f}). Whether that is more than "
                "luck tells the tab Evaluation."
            )
        closed = [s.name for s in sources if s.layer() not in self.viewer.layers]
        if closed:
            sentence += f" No overlay for {', '.join(closed)}: the image was closed."
        lost = [self.session.run.tag_note] if self.session.run.tag_note else []
        self._show_notes([*lost, *result.warnings], sentence)

    def _show_notes(self, notes: Sequence[str], sentence: str) -> None:
        self.notes.setText("\n".join(["Notes of this run:", *(f"• {n}" for n in notes)]))
        self.notes.setVisible(bool(notes))
        self.say(sentence + (" There are notes below the steps." if notes else ""))

    def _show_cells(self, ended: Ended) -> None:
        found: Cells = ended.result
        counts = [n for n in found.counts if n is not None]
        shown = show_all(self.viewer, found.labels, ended.sources)
        each = f"{min(counts)} to {max(counts)} in each"
        where = f"shown on {counted(shown, 'image')}" if shown else "of your labels"
        self.say(f"{sum(counts)} cells in {len(counts)} fields, {each}; {where}.")

    def _show_tokens(self, ended: Ended) -> None:
        tokens: Tokens = ended.result
        if self.tokens.is_expanded:
            self.tokens.stored.look()
        patches = sum(grid.position.size for grid in tokens.grids)
        width = tokens.grids[0].tokens.shape[-1]
        self._show_notes(
            tokens.notes,
            f"Images are read: {patches} patches in {len(tokens.grids)} fields, {width} numbers "
            f"each, by {tokens.model.title} on {tokens.device}.",
        )

    def _show_whitening(self, ended: Ended) -> None:
        whitened: Whitened = ended.result
        whitening = whitened.whitening
        sentence = f"{len(whitened.vectors)} samples, not whitened."
        if whitening is not None:
            self.whitening.set_expanded(True)
            sentence = (
                f"{len(whitened.vectors)} samples are whitened on {whitening.n_samples_seen_} "
                f"controls; {whitening.shrinkage:g} times the median was added to each variance."
            )
        self._show_notes(whitened.notes, sentence)

    def _warn(self, sentence: str) -> None:
        """Show why there is no run, until something is changed that may have mended it."""
        self._warning = sentence
        self.say(f"⚠ {sentence}")

    def say(self, sentence: str) -> None:
        """Show a sentence in the status line."""
        self.status.setText(sentence)

    def _explore(self) -> None:
        """Open the explorer, or bring it to the front; made in one turn, it is shown in another."""
        self._explorer = prepared_dock(self.viewer, EXPLORER)
        do_in_turn(self._show_explorer, first=True)

    def _show_explorer(self) -> None:
        open_dock(self.viewer, EXPLORER)
        self._explorer = None

    # Comparing layers --------------------------------------------------------------------------

    def _on_compare(self) -> None:
        if self.fetching.asks(self._on_compare, self._warn):
            return
        try:
            self.running.compare_layers()
        except MicrodlError as error:
            self._refuse(error, "dictionary")
            return
        self.say("Starting...")

    def _show_layers(self, ended: Ended) -> None:
        table: pd.DataFrame = ended.result
        self.tokens.show_layers(table)
        best = table.loc[table["auc"].idxmax()]
        self.say(
            f"Layer {best['layer']:.0f} tells treated from control best: AUC {best['auc']:.2f} on "
            "fields that the probe has not seen. The layer in use was not changed."
        )
