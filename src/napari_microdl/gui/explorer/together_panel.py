"""Tab of the few concepts that tell a condition together: how much is of each, and their cells."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QListWidget, QListWidgetItem, QPushButton

from napari_microdl.concepts.concept_set import Concept, ConceptSet, choose_concepts
from napari_microdl.core.text import listed
from napari_microdl.gui.explorer.panel import Panel, conditions_of, show_text
from napari_microdl.gui.explorer.picture_list import PictureList
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.widgets.inputs import combo, sentence_label
from napari_microdl.gui.widgets.jobs import JobBar, JobRunner
from napari_microdl.gui.widgets.picture_figure import save_pictures
from napari_microdl.gui.widgets.save_actions import offer_picture

_MOST_CELLS = 12


def card_sentence(found: ConceptSet, names: list[str], row: dict[str, Any] | None) -> str:
    """What a set tells, with what an evaluation adds where there was one."""
    called = [names[concept] for concept in found.concepts]
    if len(called) == 1:
        text = (
            f"No set of concepts tells '{found.label}' better than '{called[0]}' alone (AUC "
            f"{found.auc:.2f} in wells left out)."
        )
    else:
        text = (
            f"{listed(called, len(called))} together tell '{found.label}' with an AUC of "
            f"{found.auc:.2f} in wells left out; the best concept alone does with "
            f"{found.auc_first:.2f}."
        )
    if row is None:
        return (
            f"{text} Whether that may be luck, and what simple measurements reach, is said by the "
            "tab Evaluation."
        )
    if row["auc_handcrafted"] is not None:
        text += f" Handcrafted measurements reach {row['auc_handcrafted']:.2f}."
    if row["p_value"] is not None:
        # Imported when it is needed: napari starts faster.
        from napari_microdl.report.swaps import luck_sentence

        text += f" {luck_sentence(row['p_value'], row.get('smallest_p'))}"
    return text


class TogetherPanel(Panel):
    """Choice of a condition, the concepts that tell it with their shares, and cells.

    Signals
    -------
    unit_chosen(int)
        Row of the table of units.
    """

    unit_chosen = Signal(int)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.label = QComboBox()
        self.label.setAccessibleName("Condition that concepts tell together")
        self.label.setToolTip("The condition that a few concepts are to tell from controls.")
        self.label.currentIndexChanged.connect(self.show_concept_again)
        row = QHBoxLayout()
        row.addWidget(QLabel("What tells"))
        row.addWidget(self.label, 1)
        self.choose_button = QPushButton("Choose")
        self.choose_button.setToolTip("Chooses the concepts, in the background.")
        self.choose_button.clicked.connect(self._begin)
        row.addWidget(self.choose_button)
        self.by = combo(
            {"cosines and codes": "both", "cosines": "cosines"},
            lambda _: self._begin(),
            "Cosines say how like a cell is to each concept, codes how much of it the cell needs "
            "beside the others. Heatmaps show the cosines, as patches have no codes.",
        )
        self.by.setAccessibleName("What concepts are chosen by")
        row.insertWidget(2, self.by)
        self.message = sentence_label()
        self.members = QListWidget()
        self.members.setAccessibleName("Concepts that tell the condition together")
        self.members.setToolTip(
            "How much of the difference from other cells each concept makes. Choose one, or all "
            "together, to show it on the images."
        )
        self.members.itemClicked.connect(self._on_member)
        self.members.itemActivated.connect(self._on_member)
        self.pictures = PictureList("Cells that show them most")
        self.pictures.unit_chosen.connect(self.unit_chosen)
        offer_picture(self.pictures, "cells of the set", self.save_picture)
        self.jobs = JobRunner(self)
        self.jobs.succeeded.connect(self._on_chosen)
        self.jobs.failed.connect(self._on_failed)
        self.jobs.cancelled.connect(partial(self._on_failed, "Cancelled."))
        self.column.addLayout(row)
        self.column.addWidget(self.message)
        self.column.addWidget(JobBar(self.jobs))
        self.column.addWidget(self.members)
        self.column.addWidget(self.pictures, 1)
        self._begun = ""
        self.found: ConceptSet | None = None

    def show_run(self, run: Run | None) -> None:
        """Offer the conditions of the run, the one that is told best first."""
        self.jobs.stop()
        self._begun, self.found = "", None
        with QSignalBlocker(self.label):
            self.label.clear()
            if run is not None:
                units, names = run.result.activations.units, conditions_of(run)
                treated = units.loc[~units["Metadata_control"].astype(bool), "Metadata_condition"]
                self.label.addItems(sorted(treated.astype(str).unique()) or names)
                self.label.setCurrentText(str(run.result.activations.ranking["label"].iloc[0]))
        for widget in (self.label, self.by, self.choose_button):
            widget.setEnabled(run is not None)
        self._show(None)

    def show_concept(self, run: Run, concept: Concept) -> None:
        """Choose concepts where that is not done, and mark what is shown."""
        if self._begun != self.label.currentText():
            self._begin()
        elif self.found is not None:
            self._show(run)
            self.pictures.follow(self.session.view.pictures)

    def save_picture(self, path: Path) -> None:
        """Write the pictures."""
        save_pictures([(self.pictures.accessibleName(), self.pictures.drawn_pictures())], path)

    def _begin(self) -> None:
        run, label = self.session.run.current, self.label.currentText()
        if run is None:
            return
        self._begun, self.found = label, None
        self._show(None)
        self.choose_button.hide()
        show_text(self.message, "Choosing concepts...")
        work = partial(choose_concepts, run.result.activations, label, self.by.currentData())
        self.jobs.start(work, "MicroDL concepts together", message="Choosing concepts")

    def _on_failed(self, sentence: str) -> None:
        self.choose_button.show()
        show_text(self.message, sentence)

    def _on_chosen(self, found: ConceptSet) -> None:
        self.found = found
        if (run := self.session.run.current) is not None:
            self._show(run)
            cosines = run.result.activations.alignment(found)
            top = run.result.activations.top_units(found, _MOST_CELLS)
            choice = self.session.view.pictures
            self.pictures.show_units(run, top, cosines[top], choice, found)

    def _show(self, run: Run | None) -> None:
        """Fill card and list, or empty them and the pictures, which stay while the set does."""
        found = self.found if run is not None else None
        for widget in (self.members, self.pictures):
            widget.setVisible(found is not None)
        self.members.clear()
        if run is None or found is None:
            self.pictures.clear()
            show_text(self.message, "")
            return
        activations, report = run.result.activations, self.session.run.report
        rows = [] if report is None else report.rows("sets")
        # An evaluation may have chosen by something else.
        row = next(
            (
                row
                for row in rows
                if (row["label"], row["concepts"]) == (found.label, list(found.concepts))
            ),
            None,
        )
        show_text(self.message, card_sentence(found, activations.dictionary.names, row))
        if len(found.concepts) > 1:
            self._add("All together", found)
        for concept, share in zip(found.concepts, found.shares, strict=True):
            self._add(f"{share:.0%}  {activations.dictionary.names[concept]}", concept)
        # As tall as its lines, so that there is room for pictures.
        line = self.members.sizeHintForRow(0)
        self.members.setFixedHeight(self.members.count() * line + 2 * self.members.frameWidth())
        shown = self.session.view.concept
        for number in range(self.members.count()):
            if self.members.item(number).data(Qt.ItemDataRole.UserRole) == shown:
                self.members.setCurrentRow(number)

    def _add(self, text: str, concept: Concept) -> None:
        item = QListWidgetItem(text)
        item.setData(Qt.ItemDataRole.UserRole, concept)
        self.members.addItem(item)

    def _on_member(self, item: QListWidgetItem) -> None:
        self.session.view.show_concept(item.data(Qt.ItemDataRole.UserRole))
