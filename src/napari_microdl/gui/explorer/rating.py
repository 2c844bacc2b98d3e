"""A window in which a person rates cells without knowing their condition or activation."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QDialog, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_microdl.concepts.concept_set import Concept
from napari_microdl.concepts.pictures import PictureChoice
from napari_microdl.gui.explorer.picture_list import LINE_COLOURS, pixmap_of
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.widgets.inputs import sentence_label
from napari_microdl.gui.widgets.picture_figure import Picture
from napari_microdl.gui.widgets.save_actions import offer_table
from napari_microdl.report.rating import agreement, units_to_rate

_PICTURE = 288


class RateBlind(QDialog):
    """Shows one cell after the other; two keys say whether it shows the concept.

    Parameters
    ----------
    run : Run
        With its images.
    concept : int or ConceptSet
        Which concept.
    choice : PictureChoice
        Channel and contrast; patches would give the answer away.
    parent : QWidget
        What it lies over.

    Raises
    ------
    MicrodlError
        If there is too little to rate.
    """

    def __init__(self, run: Run, concept: Concept, choice: PictureChoice, parent: QWidget) -> None:
        super().__init__(parent)
        activations = run.result.activations
        self.setWindowTitle(f"Rate blind: {activations.name_of(concept)}")
        self.setFont(parent.font())
        self._run, self._choice = run, PictureChoice(choice.channel, choice.same_contrast)
        self._rows = units_to_rate(activations, concept)
        self._active = (activations.activation(concept)[self._rows] > 0).tolist()
        self.answers: list[bool] = []
        self.sentence = sentence_label()
        self.picture = QLabel(alignment=Qt.AlignmentFlag.AlignCenter)
        self.picture.setAccessibleName("Cell to rate")
        self.yes, self.no = QPushButton("Shows it (Y)"), QPushButton("Does not (N)")
        buttons = QHBoxLayout()
        for button, answer, key in ((self.yes, True, "Y"), (self.no, False, "N")):
            button.setAutoDefault(False)
            button.setToolTip(f"Or press {key}.")
            button.clicked.connect(partial(self._answer, answer))
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        for widget in (self.sentence, self.picture):
            layout.addWidget(widget)
        layout.addLayout(buttons)
        offer_table(self.picture, "ratings", self.table)
        self._show()

    def keyPressEvent(self, event: QKeyEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Answer by a key."""
        answers = {Qt.Key.Key_Y: self.yes, Qt.Key.Key_N: self.no}
        button = None if event is None else answers.get(Qt.Key(event.key()))
        if button is not None and button.isVisible():
            button.click()
        else:
            super().keyPressEvent(event)

    def _answer(self, answer: bool, *_: bool) -> None:
        self.answers.append(answer)
        self._show()

    def _show(self) -> None:
        done, n = len(self.answers), len(self._rows)
        if done < n:
            self.sentence.setText(f"Does this cell show what you mean? {done + 1} of {n}")
            pixels = self._run.pictures.picture(int(self._rows[done]), self._choice)
            picture = Picture(pixels, np.empty((0, 4)), LINE_COLOURS[1], "")
            self.picture.setPixmap(pixmap_of(picture, QSize(_PICTURE, _PICTURE)))
            return
        self.yes.hide()
        self.no.hide()
        self.picture.clear()
        self.picture.setText("A right click here saves the ratings.")
        self.sentence.setText(agreement(self._active, self.answers).sentence())

    def table(self) -> pd.DataFrame:
        """The cells that were rated, whether the concept is active in them, and the answers."""
        rows = self._rows[: len(self.answers)]
        table = self._run.result.activations.units.iloc[rows].reset_index(drop=True)
        table["active"] = self._active[: len(rows)]
        table["rated"] = self.answers
        return table
