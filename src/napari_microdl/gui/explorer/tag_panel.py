"""Tab to say what units and concepts show, and to see how well a concept agrees."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QLabel, QLineEdit, QPushButton

from napari_microdl.concepts.concept_set import Concept, ConceptSet
from napari_microdl.concepts.dictionary import TAGS
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.text import counted
from napari_microdl.gui.explorer.panel import Panel
from napari_microdl.gui.explorer.rating import RateBlind
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.widgets.inputs import sentence_label
from napari_microdl.metrics import tag_recall

_TIPS = {
    TAGS[0]: "They look untreated to you. The recall compares your tags with the concept.",
    TAGS[1]: "The treatment shows in them, as you see it.",
    "": "Take the tag away.",
}


class TagPanel(Panel):
    """Tags of the selected units and concepts, a note, the recall, and ratings without a hint."""

    def __init__(self, *args: Any, selected_concepts: Callable[[], list[int]]) -> None:
        super().__init__(*args)
        self._selected_concepts = selected_concepts
        self.units_heading, self.concepts_heading = sentence_label(), QLabel("Selected concepts")
        self.unit_buttons: dict[str, QPushButton] = {}
        self.concept_buttons: dict[str, QPushButton] = {}
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        for row, (heading, buttons, slot) in enumerate(
            (
                (self.units_heading, self.unit_buttons, self._tag_units),
                (self.concepts_heading, self.concept_buttons, self._tag_concepts),
            )
        ):
            grid.addWidget(heading, 2 * row, 0, 1, 3)
            for place, (tag, text) in enumerate(
                ((TAGS[0], "Control-like"), (TAGS[1], "Perturbed"), ("", "No tag"))
            ):
                button = QPushButton(text)
                button.setToolTip(_TIPS[tag])
                button.clicked.connect(partial(slot, tag=tag))
                grid.addWidget(button, 2 * row + 1, place)
                buttons[tag] = button
        self.note = QLineEdit()
        self.note.setPlaceholderText("note on the concept")
        self.note.setToolTip("A note of your own; it is saved with the dictionary.")
        self.note.editingFinished.connect(self._on_note)
        self.recall = sentence_label()
        self.recall.setToolTip(
            "Does the likeness to the concept agree with your tags? A cell counts as control-like "
            "below the middle between both medians. The test asks whether perturbed cells have "
            "larger values (one-sided Mann-Whitney U)."
        )
        self.rate = QPushButton("Rate blind...")
        self.rate.setToolTip(
            "Shows 24 cells one by one without condition or activation, half of them with the "
            "concept; two keys say whether you see it, and at the end how far you agree."
        )
        self.rate.clicked.connect(self._on_rate)
        self.column.addLayout(grid)
        self.column.addWidget(self.rate)
        self.column.addWidget(self.note)
        self.column.addWidget(self.recall)
        self.column.addStretch(1)

    def show_run(self, run: Run | None) -> None:
        """Nothing can be tagged without a run."""
        for button in (*self.unit_buttons.values(), *self.concept_buttons.values()):
            button.setEnabled(run is not None)
        self.note.setEnabled(run is not None)
        self.rate.setEnabled(run is not None and run.has_images)
        self.show_selection()

    def show_concept(self, run: Run, concept: Concept) -> None:
        """Show note and recall of the concept; several together have no note."""
        notes = run.result.dictionary.notes
        self.note.setText("" if isinstance(concept, ConceptSet) else notes[concept])
        self.note.setEnabled(not isinstance(concept, ConceptSet))
        self._show_recall(run, concept)

    def show_selection(self) -> None:
        """Say how many units would be tagged, and the recall."""
        run = self.session.run.current
        unit = "cell" if run is None else run.result.config.units.kind
        chosen = len(self.selection.rows)
        self.units_heading.setText(
            counted(chosen, f"selected {unit}")
            if chosen
            else f"Select {unit}s by clicks in an image or a lasso in the tab Map."
        )
        for button in self.unit_buttons.values():
            button.setEnabled(bool(chosen))
        if run is not None and self.session.view.concept is not None:
            self._show_recall(run, self.session.view.concept)

    def _show_recall(self, run: Run, concept: Concept) -> None:
        activations = run.result.activations
        name = activations.name_of(concept)
        rows = np.flatnonzero(activations.unit_tags != "")
        tags = activations.unit_tags[rows]
        # Of a million cells the cosines take a while, which nobody waits for without a tag.
        values = activations.alignment(concept)[rows] if len(rows) else np.empty(0)
        try:
            found = tag_recall(values, tags == TAGS[0], tags == TAGS[1])
        except MicrodlError as error:
            self.recall.setText(str(error))
            return
        self.recall.setText(
            f"{name}: {found.recalled} of {found.n_control_like} control-like cells recalled "
            f"({found.recall:.0%}), with {found.false_alarms} of {found.n_perturbed} perturbed "
            f"ones; perturbed above control-like with p = {found.p_value:.2g}."
        )

    def _tag_units(self, *_: bool, tag: str) -> None:
        self.selection.tag_units(tag)

    def _tag_concepts(self, *_: bool, tag: str) -> None:
        self.selection.tag_concepts(self._selected_concepts(), tag)

    def _on_rate(self) -> None:
        run, concept = self.session.run.current, self.session.view.concept
        if run is None or concept is None:
            return
        try:
            window = RateBlind(run, concept, self.session.view.pictures, self)
        except MicrodlError as error:
            self.recall.setText(f"⚠ {error}")
            return
        window.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        window.open()

    def _on_note(self) -> None:
        run, concept = self.session.run.current, self.session.view.concept
        if run is None or concept is None or isinstance(concept, ConceptSet):
            return
        if self.note.text() != run.result.dictionary.notes[concept]:
            self.selection.note_concept(concept, self.note.text())
