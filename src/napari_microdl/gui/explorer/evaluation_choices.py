"""The settings of an evaluation in the explorer."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QSpinBox

from napari_microdl.core.errors import MicrodlError
from napari_microdl.gui.explorer.panel import show_text
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.collapsible import Step
from napari_microdl.gui.widgets.inputs import combo, sentence_label
from napari_microdl.metrics import require_library
from napari_microdl.report import AUTOMATIC, EvaluationChoices, label_columns, seen_units

_MOST_SEEDS = 20
_MOST_SHUFFLES = 100_000
_LABELS = {
    "Metadata_condition": "Condition",
    "Metadata_control": "Control or treated",
    "Metadata_Field": "Field",
}
# Controls are of one condition, and a field is what is observed, not a batch.
_NO_BATCHES = ("Metadata_condition", "Metadata_control", "Metadata_Field")
_HANDCRAFTED = (
    "Measure shape, intensity and texture of every cell, and compare how well they tell the labels."
)
_INDEPENDENT = (
    ("wells", "Wells", "Cells of one well are alike. Where no well is known, fields count."),
    ("fields", "Fields", "Only where every field was treated on its own."),
    ("plates", "Plates", "The strictest: takes several plates with the same labels."),
)
_LIBRARIES = (
    ("scikit-image", "scikit-image", "Shape, intensity and texture, some dozens. Quick."),
    (
        "cp_measure",
        "CellProfiler",
        "The hundreds of CellProfiler (package cp-measure). About four times as long.",
    ),
)


class Choices(Step):
    """The settings, collapsible.

    Signals
    -------
    changed()
        Something else is chosen.
    """

    changed = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__("Settings")
        self.session = session
        self.labels = QComboBox()
        self.labels.setToolTip("What the concepts should tell apart.")
        self.independent = QComboBox()
        self.batches = QComboBox()
        self.batches.addItem("Plates or sites", AUTOMATIC)
        self.batches.setToolTip(
            "What controls are compared by to find technical concepts. Plates or sites takes "
            "plates; of one plate, sites that are each in several wells of controls."
        )
        self.library = QComboBox()
        for box, entries in ((self.independent, _INDEPENDENT), (self.library, _LIBRARIES)):
            for number, (key, name, tip) in enumerate(entries):
                box.addItem(name, key)
                box.setItemData(number, tip, Qt.ItemDataRole.ToolTipRole)
        self.independent.setToolTip(
            "What was treated as one. It is shuffled, drawn again and left out as a whole, so that "
            "many cells of few wells do not look surer than they are."
        )
        self.shuffles = QSpinBox()
        self.shuffles.setRange(1, _MOST_SHUFFLES)
        self.shuffles.setValue(EvaluationChoices().n_permutations)
        self.shuffles.setToolTip(
            "How often labels are shuffled to see what luck alone reaches. p cannot be less than "
            "one over this number and one."
        )
        self.seeds = QSpinBox()
        self.seeds.setRange(0, _MOST_SEEDS)
        self.seeds.setToolTip(
            "Fit so many more dictionaries with other seeds, to see whether they find the same "
            "concepts. Each takes as long as the fit of the dictionary."
        )
        self.sets_by = combo(
            {"cosines and codes": "both", "cosines": "cosines"},
            lambda _: self.refresh(),
            "What the few concepts that tell a label together are chosen by.",
        )
        self.handcrafted = QCheckBox("Handcrafted measurements")
        self.handcrafted.setChecked(True)
        self.handcrafted.setToolTip(_HANDCRAFTED)
        self.library.setToolTip("Whose measurements of the cells.")
        self.library.setAccessibleName("Library of measurements")
        self.to_install = sentence_label()
        self.unseen = QCheckBox("Only fields not used for fitting")
        self.unseen.setToolTip(
            "Leave out the fields that the dictionary was fitted on: figures on them are "
            "optimistic."
        )
        form = self.form()
        for name, widget in (
            ("&Labels", self.labels),
            ("&Independent", self.independent),
            ("&Batches", self.batches),
            ("Sh&uffles", self.shuffles),
            ("Further see&ds", self.seeds),
            ("Concept se&ts", self.sets_by),
        ):
            form.addRow(name, widget)
            widget.setAccessibleName(name.replace("&", ""))
        form.addRow(self.handcrafted, self.library)
        form.addRow(self.to_install)
        form.addRow(self.unseen)
        self.content.setLayout(form)
        for signal in (
            self.labels.currentIndexChanged,
            self.independent.currentIndexChanged,
            self.batches.currentIndexChanged,
            self.shuffles.valueChanged,
            self.seeds.valueChanged,
            self.handcrafted.toggled,
            self.library.currentIndexChanged,
            self.unseen.toggled,
        ):
            signal.connect(self.refresh)
        self.set_expanded(True)

    def offer(self, run: Run) -> str:
        """Offer what the run allows; a sentence on what its fields are to the dictionary."""
        units = run.result.activations.units
        columns = label_columns(units) or ["Metadata_condition"]
        before = self.labels.currentData()
        with QSignalBlocker(self.labels):
            self.labels.clear()
            for name in columns:
                self.labels.addItem(_label_name(name), name)
            self.labels.setCurrentIndex(max(self.labels.findData(before), 0))
        before = self.batches.currentData()
        with QSignalBlocker(self.batches):
            while self.batches.count() > 1:
                self.batches.removeItem(1)
            for name in columns:
                if name not in _NO_BATCHES:
                    self.batches.addItem(_label_name(name), name)
            self.batches.setCurrentIndex(max(self.batches.findData(before), 0))
        unit = run.result.config.units.kind
        cannot = ""
        if unit != "cell":
            cannot = f"These are of cells, and the samples of this run are {unit}s."
        elif not run.has_images:
            cannot = "These are made on the images, and those of this run are not open."
        self.handcrafted.setEnabled(not cannot)
        self.handcrafted.setToolTip(cannot or _HANDCRAFTED)
        seen = seen_units(run.result.dictionary, units)
        n_fields = int(units["field"].nunique())
        n_seen = 0 if seen is None else int(units["field"][seen].nunique())
        self.unseen.setEnabled(0 < n_seen < n_fields)
        self.unseen.setChecked(self.unseen.isEnabled())
        self.refresh()
        if seen is None:
            return (
                "⚠ The dictionary does not tell which fields it was fitted on. If these are among "
                "them, the figures are optimistic."
            )
        if n_seen == n_fields:
            return (
                "⚠ The dictionary was fitted on all these fields, so the figures are optimistic. "
                "For honest ones, fit on some wells and apply the dictionary to others (Concept "
                "workflow, step 5)."
            )
        if n_seen:
            return (
                f"⚠ The dictionary was fitted on {n_seen} of these {n_fields} fields; figures on "
                "them are optimistic, so they are left out unless you untick it above."
            )
        return "The dictionary was fitted on none of these fields: the figures are of new cells."

    def choose(self, choices: EvaluationChoices) -> None:
        """Show the settings of an evaluation of the run that was offered last."""
        for box, value in (
            (self.labels, choices.labels),
            (self.independent, choices.independent),
            (self.batches, choices.batches),
            (self.library, choices.library),
            (self.sets_by, choices.sets_by),
        ):
            box.setCurrentIndex(max(box.findData(value), 0))
        self.shuffles.setValue(choices.n_permutations)
        self.seeds.setValue(choices.n_seeds)
        self.handcrafted.setChecked(choices.handcrafted)
        self.unseen.setChecked(choices.unseen_only)

    def choices(self) -> EvaluationChoices:
        """What is chosen."""
        return EvaluationChoices(
            labels=self.labels.currentData() or "Metadata_condition",
            independent=self.independent.currentData(),
            n_permutations=self.shuffles.value(),
            handcrafted=self.handcrafted.isChecked() and self.handcrafted.isEnabled(),
            library=self.library.currentData(),
            n_seeds=self.seeds.value(),
            unseen_only=self.unseen.isChecked(),
            batches=self.batches.currentData(),
            sets_by=self.sets_by.currentData(),
        )

    def refresh(self) -> None:
        """Say in a line what is chosen, shown while collapsed, and what is to be installed."""
        handcrafted = self.handcrafted.isChecked() and self.handcrafted.isEnabled()
        self.library.setEnabled(handcrafted)
        try:
            if handcrafted:
                require_library(self.library.currentData())
            missing = ""
        except MicrodlError as error:
            missing = f"⚠ {error}"
        show_text(self.to_install, missing)
        self.set_summary(summary_of(self.choices()))
        self.changed.emit()


def summary_of(choices: EvaluationChoices) -> str:
    """The settings in a line."""
    seeds = choices.n_seeds
    parts = [
        _label_name(choices.labels),
        f"by {choices.independent}",
        f"{choices.n_permutations:,} shuffles",
        *([f"{seeds} further seed{'s' if seeds > 1 else ''}"] if seeds else []),
        *([_handcrafted(choices)] if choices.handcrafted else []),
        *(["fields not used for fitting"] if choices.unseen_only else []),
        *([f"batches by {_label_name(choices.batches)}"] if choices.batches != AUTOMATIC else []),
    ]
    return ", ".join(parts)


def _handcrafted(choices: EvaluationChoices) -> str:
    names = {key: name for key, name, _ in _LIBRARIES}
    more = "" if choices.library == EvaluationChoices().library else f" ({names[choices.library]})"
    return f"handcrafted measurements{more}"


def _label_name(column: str) -> str:
    return _LABELS.get(column, column.removeprefix("Metadata_"))
