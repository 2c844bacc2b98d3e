"""Tab that measures the concepts of the run, and shows and saves what was found."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_text
from napari_microdl.core.task import Progress
from napari_microdl.gui.explorer.evaluation_choices import Choices, summary_of
from napari_microdl.gui.explorer.panel import Panel, show_text
from napari_microdl.gui.explorer.report_table import ReportTable
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.widgets.inputs import sentence_label
from napari_microdl.gui.widgets.jobs import JobRunner
from napari_microdl.gui.widgets.plots import Plot
from napari_microdl.report import (
    EvaluationChoices,
    EvaluationReport,
    evaluate,
    summary_sentences,
    tables,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ReconstructionPlot(Plot):
    """Quality of reconstructions against the number of concepts."""

    def __init__(self) -> None:
        super().__init__(130, "Reconstruction")
        self._rows: list[dict[str, Any]] = []
        self.hide()

    def show_rows(self, rows: list[dict[str, Any]]) -> None:
        """Draw another curve, or none."""
        self._rows = rows
        self.redraw()

    def has_contents(self) -> bool:
        """Whether there is a curve."""
        return bool(self._rows)

    def paint(self, axes: Axes) -> None:
        """Draw the curve."""
        from napari_microdl.report.evaluation_figures import draw_reconstruction

        draw_reconstruction(axes, self._rows, self.colours["text"])


def _write(run: Run, report: EvaluationReport, path: Path) -> tuple[Path, Path]:
    """Draw and write the page and the figures."""
    # Imported when it is needed: napari starts faster without matplotlib.
    from napari_microdl.report.evaluation_figures import pictures
    from napari_microdl.report.html import html_report

    activations = run.result.activations
    drawn = pictures(report, activations, run.fields) if run.has_images else []
    page = html_report(report, run.result.config.units.kind, pictures=drawn)
    files = path.with_suffix(".html"), path.with_suffix(".json")
    try:
        for text, file in zip((page, report.to_json()), files, strict=True):
            write_text(text, file)
    except OSError as error:
        raise MicrodlError(f"The report cannot be written: {error}.") from error
    return files


class EvaluationPanel(Panel):
    """Choices, buttons, and the tables and the curve of the last evaluation of the run."""

    plot: ReconstructionPlot

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._run: Run | None = None
        self.jobs = JobRunner(self)
        self.jobs.progressed.connect(self._on_progress)
        self.jobs.succeeded.connect(self._on_success)
        self.jobs.failed.connect(self._say)
        self.jobs.cancelled.connect(self._on_cancelled)
        self.jobs.running_changed.connect(self._on_running)

        self.choices = Choices(self.session)
        self.choices.changed.connect(self._show_outdated)
        self.warning, self.outdated = sentence_label(), sentence_label()
        self.summary, self.notes = sentence_label(), sentence_label()
        self.notes.setToolTip("What to know of the figures, and what was not measured and why.")
        self.plot = ReconstructionPlot()
        # Of every measure, whoever made it, and in the layout from when there is a report.
        self.tables: dict[str, ReportTable] = {}
        self._results = QVBoxLayout()
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(2, 2, 2, 2)
        for widget in (self.choices, self.outdated, self.warning, self.summary):
            column.addWidget(widget)
        column.addLayout(self._results)
        column.addWidget(self.plot)
        column.addWidget(self.notes)
        column.addStretch(1)
        self.scroll = QScrollArea()
        self.scroll.setWidget(inside)
        self.scroll.setWidgetResizable(True)
        self.scroll.setFrameShape(QFrame.Shape.NoFrame)
        self.scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

        self.evaluate_button = QPushButton("Evaluate")
        self.evaluate_button.setToolTip("Measure the concepts of the run, in the background.")
        self.evaluate_button.clicked.connect(self.evaluate)
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop at once; what was shown before stays.")
        self.cancel_button.clicked.connect(self.jobs.cancel)
        self.save_button = QPushButton("Save report...")
        self.save_button.setToolTip(
            "One HTML page with tables and pictures, which needs no internet to be read, and "
            "beside it all figures as JSON."
        )
        self.save_button.clicked.connect(self._ask_save)
        buttons = QHBoxLayout()
        for button in (self.evaluate_button, self.cancel_button, self.save_button):
            buttons.addWidget(button, 1)
        self.status = sentence_label()
        self.bar = QProgressBar()
        self.bar.setRange(0, 100)
        self.column.addWidget(self.scroll, 1)
        self.column.addWidget(self.status)
        self.column.addWidget(self.bar)
        self.column.addLayout(buttons)
        self._show_report()
        self._on_running(False)

    @property
    def report(self) -> EvaluationReport | None:
        """What was found of the run that is shown; the session has it, and outlives the dock."""
        return self.session.run.report

    def show_run(self, run: Run | None) -> None:
        """Offer what the run allows; what was found of an earlier run goes."""
        if run is not None and self._run is not None and run.run_id == self._run.run_id:
            return
        self.jobs.stop()
        self._run = run
        self._say("")
        self.warning.setText("" if run is None else self.choices.offer(run))
        self.warning.setVisible(run is not None)
        if self.report is not None:
            self.choices.choose(EvaluationChoices(**self.report.choices))
        self._show_report()
        self._on_running(False)
        self.choices.set_expanded(self.report is None)

    def show_selection(self) -> None:
        """Follow names that a person gave to concepts."""
        if self._run is not None:
            for table in self.tables.values():
                table.name_concepts(self._run.result.dictionary.names)

    def evaluate(self) -> None:
        """Measure the run in the background."""
        run = self._run
        if run is None:
            return
        # Of a run that was opened from a folder there are neither images nor cells.
        fields, cells = (run.fields, run.result.labels) if run.has_images else (None, None)
        chosen = self.choices.choices()
        work = partial(evaluate, run.result.activations, chosen, fields=fields, cells=cells)
        self.jobs.start(work, "MicroDL evaluation", message="Starting...")

    def save(self, path: Path) -> None:
        """Write the report as HTML in the background, and as JSON beside it."""
        if self._run is not None and self.report is not None:
            work = partial(_write, self._run, self.report, path)
            self.jobs.start(work, "MicroDL report", message="Drawing")

    def _ask_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save report", "evaluation.html", "Page (*.html)"
        )
        if path:
            self.save(Path(path))

    def _on_progress(self, progress: Progress) -> None:
        self.bar.setValue(self.jobs.percent(progress))
        self._say(progress.message)

    def _on_success(self, result: EvaluationReport | tuple[Path, Path]) -> None:
        if isinstance(result, tuple):
            self._say(f"Saved {result[0]} and {result[1].name}.")
            return
        self.session.run.take_report(result)
        self._say("")
        self._show_report()
        self._on_running(False)
        self.choices.set_expanded(False)
        self.scroll.verticalScrollBar().setValue(0)

    def _on_cancelled(self) -> None:
        self._say("Cancelled.")

    def _on_running(self, running: bool) -> None:
        self.evaluate_button.setEnabled(self._run is not None and not running)
        self.cancel_button.setEnabled(running)
        self.save_button.setEnabled(self.report is not None and not running)
        self.bar.setVisible(running)
        self.bar.setValue(0)

    def _show_report(self) -> None:
        report, run = self.report, self._run
        if report is None or run is None:
            for shown in (*self.tables.values(), self.summary, self.notes, self.outdated):
                shown.hide()
            self.plot.show_rows([])
            return
        for described in tables():
            key, rows = described.key, report.rows(described.key)
            if key not in self.tables:
                self._add_table(ReportTable(described))
            self.tables[key].show_rows(rows, run.result.dictionary.names)
        self.plot.show_rows(report.reconstruction)
        show_text(self.summary, "\n".join(summary_sentences(report, run.result.config.units.kind)))
        show_text(self.notes, "\n".join(f"Note: {note}" for note in report.notes))
        self._show_outdated()

    def _add_table(self, table: ReportTable) -> None:
        table.concept_chosen.connect(self.session.view.show_concept)
        self.tables[table.table.key] = table
        self._results.addWidget(table)
        if table.table.key == "reconstruction":
            self.plot.explain(table.table.meaning)
            self._results.addWidget(self.plot)

    def _show_outdated(self) -> None:
        """Say what the figures in view were measured with, where something else is chosen."""
        text = ""
        if self.report is not None:
            measured = EvaluationChoices(**self.report.choices)
            if measured != self.choices.choices():
                text = (
                    f"⚠ Measured with: {summary_of(measured)}. Press Evaluate to measure with "
                    "what is chosen now."
                )
        show_text(self.outdated, text)

    def _say(self, text: str) -> None:
        show_text(self.status, text)
