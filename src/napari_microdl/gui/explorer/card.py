"""The card of the concept on show: a sentence, a name, and a few treated and control units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import QSignalBlocker, QSize, Qt, Signal
from qtpy.QtGui import QFontMetrics, QIcon
from qtpy.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_microdl.concepts.concept_set import Concept, ConceptSet
from napari_microdl.concepts.pictures import PictureChoice
from napari_microdl.concepts.strength import random_units
from napari_microdl.gui.explorer.picture_list import icon_of
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.inputs import plain_tip, sentence_label
from napari_microdl.gui.widgets.jobs import JobRunner
from napari_microdl.gui.widgets.picture_figure import Picture
from napari_microdl.report.cell_pictures import strongest_units
from napari_microdl.report.concept_summary import WELLS_RULE, ConceptSummary, summarize_concept
from napari_microdl.report.naming import LIMIT_RULE

# Edge of a picture in pixels, and how many there are of each kind.
_PICTURE = 44
_OF_A_KIND = 3


@dataclass(frozen=True, eq=False)
class Contents:
    """What stands on a card, as it is found out in a thread.

    Parameters
    ----------
    summary : ConceptSummary
        What is known of the concept.
    rows : list of list of (int, Picture)
        Units of the condition, and of the others: rows of the table of units, and their pictures.
    """

    summary: ConceptSummary
    rows: list[list[tuple[int, Picture]]]


def contents_of(run: Run, concept: Concept, report: Any, choice: PictureChoice) -> Contents:
    """Everything on the card of a concept."""
    activations = run.result.activations
    summary = summarize_concept(activations, run.wells, concept, report)
    pictures: list[list[tuple[int, Picture]]] = []
    if run.has_images:
        # What treated and control cells differ in is seen in one contrast alone.
        choice = replace(choice.in_one_picture(), same_contrast=True)
        for rows in (
            strongest_units(activations, concept, summary.inside, _OF_A_KIND),
            random_units(summary.against, _OF_A_KIND),
        ):
            drawn = [(row, run.pictures.picture(row, choice)) for row in rows.tolist()]
            pictures.append([(r, Picture(p, np.empty((0, 4)), "white", "")) for r, p in drawn])
    return Contents(summary, pictures)


class ConceptCardPanel(QWidget):
    """What a biologist reads of a concept; folded, its name alone.

    Signals
    -------
    unit_chosen(int)
        Row of the table of units.
    """

    unit_chosen = Signal(int)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self._concept: Concept | None = None
        # What the card was last filled with, or is being filled with.
        self._wanted: tuple[Any, ...] | None = None
        self.fold = QToolButton()
        self.fold.setCheckable(True)
        self.fold.setAutoRaise(True)
        self.fold.setAccessibleName("Card of the concept")
        self.fold.setToolTip("Shows or hides what is known of the concept, and its cells.")
        self.fold.toggled.connect(self._on_fold)
        self.name = QLineEdit()
        self.name.setAccessibleName("Name of the concept")
        self.name.setPlaceholderText("name of the concept")
        self.name.setToolTip(
            "Write what you see and press Enter: the table, the images and everything that you "
            "save call the concept so."
        )
        self.name.editingFinished.connect(self._on_name)
        self.sentence = sentence_label()
        self.suggestion = sentence_label()
        self.suggestion.setToolTip(LIMIT_RULE)
        self.use = QPushButton("Use")
        self.use.setToolTip("Calls the concept by the suggested name.")
        self.use.clicked.connect(self._on_use)
        self.captions = [QLabel(), QLabel()]
        self.buttons: list[list[QToolButton]] = []
        self._lay_out()
        self.jobs = JobRunner(self)
        self.jobs.succeeded.connect(self._on_contents)
        self.jobs.failed.connect(self.sentence.setText)
        # Apart, because cells are measured once a run, whichever concept is looked at meanwhile.
        self.measuring = JobRunner(self)
        self.measuring.succeeded.connect(self._show_suggestion)
        self.show_run(None)

    def _lay_out(self) -> None:
        self.pictures = QWidget()
        grid = QGridLayout(self.pictures)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(1)
        for line, caption in enumerate(self.captions):
            # In letters of any size the pictures decide how wide it is.
            caption.setMinimumWidth(1)
            caption.setTextFormat(Qt.TextFormat.PlainText)
            grid.addWidget(caption, 2 * line, 0, 1, _OF_A_KIND)
            buttons = []
            for place in range(_OF_A_KIND):
                button = QToolButton()
                button.setAutoRaise(True)
                button.setIconSize(QSize(_PICTURE, _PICTURE))
                button.setFixedSize(_PICTURE + 4, _PICTURE + 4)
                button.setToolTip("Goes to this cell.")
                button.setAccessibleName(f"{('Treated', 'Control')[line]} cell {place + 1}")
                button.clicked.connect(partial(self._on_picture, line=line, place=place))
                grid.addWidget(button, 2 * line + 1, place)
                buttons.append(button)
            self.buttons.append(buttons)
        self._rows: list[list[int]] = [[], []]
        top = QHBoxLayout()
        top.addWidget(self.fold)
        top.addWidget(self.name, 1)
        suggested = QHBoxLayout()
        suggested.addWidget(self.suggestion, 1)
        suggested.addWidget(self.use)
        text = QVBoxLayout()
        text.setSpacing(2)
        text.addLayout(top)
        text.addWidget(self.sentence)
        text.addLayout(suggested)
        text.addStretch(1)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.pictures, 0, Qt.AlignmentFlag.AlignTop)
        row.addLayout(text, 1)

    def show_run(self, run: Run | None) -> None:
        """Forget the concept of an earlier run."""
        for jobs in (self.jobs, self.measuring):
            jobs.stop()
        self._concept = self._wanted = None
        self.name.clear()
        self.sentence.clear()
        self._rows = [[], []]
        self.setVisible(run is not None)
        with QSignalBlocker(self.fold):
            self.fold.setChecked(self.session.view.card_open)
        self._show_parts()

    def show_concept(self, run: Run, concept: Concept) -> None:
        """Show the name at once; the rest comes when the keys rest, see `show_details`."""
        # What is being written in it stays.
        if concept != self._concept or not self.name.isModified():
            self.name.setText(run.result.activations.name_of(concept))
        self._concept = concept
        self.name.setEnabled(not isinstance(concept, ConceptSet))
        # That of another concept, or the name that it has now.
        for widget in (self.suggestion, self.use):
            widget.hide()

    def show_details(self, run: Run, concept: Concept) -> None:
        """Find out the sentence, the pictures and a suggested name, in the background."""
        if not self.session.view.card_open:
            return
        wanted = (run, concept, self.session.run.report, self.session.view.pictures)
        # Asked for again with every tab that is opened.
        if wanted != self._wanted:
            self._wanted = wanted
            self.jobs.start(partial(contents_of, *wanted))
        elif not self.jobs.is_running:
            self._show_suggestion()
        suggestions = run.suggestions
        missing = suggestions.are_possible and not suggestions.are_measured
        if missing and not self.measuring.is_running:
            self.measuring.start(suggestions.measure)

    def _on_contents(self, contents: Contents) -> None:
        summary = contents.summary
        self.sentence.setText(summary.sentence)
        self.sentence.setToolTip(
            plain_tip(
                f"{summary.numbers} Shares are of the {summary.unit}s in which the concept is "
                f"active. {WELLS_RULE} Other seeds are fits of an evaluation (tab Evaluation)."
            )
        )
        self._rows = [[row for row, _ in pictures] for pictures in contents.rows] or [[], []]
        wide = _OF_A_KIND * (_PICTURE + 5)
        kinds = (
            (summary.label, "Those with the highest activation."),
            (f"{summary.others}s", "Drawn at random, the same ones for every concept."),
        )
        for caption, (text, tip) in zip(self.captions, kinds, strict=True):
            metrics = QFontMetrics(caption.font())
            caption.setText(metrics.elidedText(text, Qt.TextElideMode.ElideRight, wide))
            caption.setToolTip(plain_tip(f"{tip} All six are in one contrast."))
        for buttons, pictures in zip(self.buttons, contents.rows, strict=False):
            for number, button in enumerate(buttons):
                known = number < len(pictures)
                button.setIcon(
                    icon_of(pictures[number][1], button.iconSize()) if known else QIcon()
                )
                button.setEnabled(known)
        self._show_parts()

    def _show_parts(self) -> None:
        """Show or hide what the card has below its name."""
        is_open = self.session.view.card_open
        self.fold.setText("▾" if is_open else "▸")
        self.pictures.setVisible(is_open and any(self._rows))
        self.sentence.setVisible(is_open)
        for line, rows in enumerate(self._rows):
            for widget in (self.captions[line], *self.buttons[line]):
                widget.setVisible(bool(rows))
        self._show_suggestion()

    def _show_suggestion(self) -> None:
        run, name = self.session.run.current, ""
        if run is not None and isinstance(self._concept, int) and run.has_images:
            name = run.suggestions.of(self._concept)
            if name == run.result.dictionary.names[self._concept]:
                name = ""
        self._suggested = name
        self.suggestion.setText(f"Suggested: {name}")
        for widget in (self.suggestion, self.use):
            widget.setVisible(bool(name) and self.session.view.card_open)

    def _on_fold(self, is_open: bool) -> None:
        self.session.view.card_open = is_open
        self._show_parts()
        run, concept = self.session.run.current, self.session.view.concept
        if run is not None and concept is not None:
            self.show_details(run, concept)

    def _on_name(self) -> None:
        run, concept = self.session.run.current, self._concept
        if run is None or not isinstance(concept, int):
            return
        name, known = self.name.text().strip(), run.result.dictionary.names[concept]
        self.name.setModified(False)
        if name and name != known:
            self.session.run.rename_concept(concept, name)
        else:
            # A concept needs a name.
            self.name.setText(known)

    def _on_use(self) -> None:
        if isinstance(self._concept, int) and self._suggested:
            self.session.run.rename_concept(self._concept, self._suggested)

    def _on_picture(self, *_: bool, line: int, place: int) -> None:
        if place < len(self._rows[line]):
            self.unit_chosen.emit(self._rows[line][place])
