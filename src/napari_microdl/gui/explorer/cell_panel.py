"""Tab of one unit: its concepts, and the units most like it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QHBoxLayout, QLabel, QListWidget, QListWidgetItem, QPushButton

from napari_microdl.concepts.concept_set import Concept
from napari_microdl.concepts.pictures import PictureChoice
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.text import counted
from napari_microdl.gui.explorer.panel import Panel
from napari_microdl.gui.explorer.picture_list import TILE, PictureList, pixmap_of
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.widgets.inputs import sentence_label
from napari_microdl.gui.widgets.jobs import JobRunner
from napari_microdl.gui.widgets.picture_figure import Picture, save_pictures
from napari_microdl.gui.widgets.save_actions import offer_picture, offer_table

_MOST_CONCEPTS = 30
_MOST_SIMILAR = 12


class CellPanel(Panel):
    """What one unit shows, clicked in an image or reached by the buttons.

    Signals
    -------
    unit_chosen(int)
        Row of the table of units.
    """

    unit_chosen = Signal(int)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.heading = sentence_label()
        self.previous, self.next = QPushButton("Previous"), QPushButton("Next")
        steps = QHBoxLayout()
        for button, step in ((self.previous, -1), (self.next, 1)):
            button.setToolTip(
                f"Looks at the {button.text().lower()} cell (or crop) of the selected image and "
                "brings it to the middle of the view."
            )
            button.clicked.connect(lambda _, step=step: self._go(step))
            steps.addWidget(button)
        self.concepts = QListWidget()
        self.concepts.setAccessibleName("Concepts of the cell")
        self.concepts.setMinimumHeight(50)
        self.concepts.setToolTip("Strongest first. Click one to show it.")
        self.concepts.itemClicked.connect(self._on_concept)
        self.concepts.itemActivated.connect(self._on_concept)
        offer_table(self.concepts, "concepts of the cell", self.table)
        self.picture = QLabel()
        self.picture.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.picture.setAccessibleName("Picture of the cell")
        self.picture.setToolTip("The cell itself, as the gallery shows cells.")
        self._shown: tuple[Run, int, PictureChoice] | None = None
        self.drawing = JobRunner(self)
        self.drawing.succeeded.connect(self._on_drawn)
        # Of a million cells it takes a while, and is left until it is looked at.
        self.comparing = JobRunner(self)
        self.comparing.succeeded.connect(self._on_compared)
        self._compared: tuple[Run, int] | None = None
        itself = QHBoxLayout()
        itself.addWidget(self.picture)
        itself.addWidget(self.concepts, 1)
        self.similar = PictureList("Cells most like it", follow_keys=False)
        self.similar.unit_chosen.connect(self.unit_chosen)
        offer_picture(self.similar, "cells most like it", self.save_picture)
        self.similar_heading = QLabel("Most like it")
        self.similar_heading.setToolTip(
            "From all images, those that look most alike to the model: 1 is the same, 0 is no more "
            "alike than any two. Click one to go there."
        )
        self.column.addLayout(steps)
        self.column.addWidget(self.heading)
        self.column.addLayout(itself, 2)
        self.column.addWidget(self.similar_heading)
        self.column.addWidget(self.similar, 3)
        self.show_selection()

    def show_run(self, run: Run | None) -> None:
        """Forget the unit of an earlier run."""
        self.show_selection()

    def show_concept(self, run: Run, concept: Concept) -> None:
        """Show the pictures as they are chosen to be now."""
        self.similar.follow(self.session.view.pictures)
        self._show_picture()

    def show_selection(self) -> None:
        """Show the unit that is looked at."""
        run, row = self.session.run.current, self.selection.current
        unit = "cell" if run is None else run.result.config.units.kind
        known = run is not None and row is not None
        for button in (self.previous, self.next):
            button.setEnabled(run is not None)
        for widget in (self.concepts, self.similar_heading, self.similar):
            widget.setVisible(known)
        self._show_picture()
        self._compare()
        if run is None or row is None:
            chosen = len(self.selection.rows)
            self.heading.setText(
                f"{counted(chosen, unit)} selected."
                if chosen
                else f"Click a {unit} in an image, or press Next, to see its concepts and the "
                f"{unit}s most like it. Shift and click selects several."
            )
            return
        activations = run.result.activations
        entry: Any = activations.units.iloc[row]
        tag = f", tagged {activations.unit_tags[row]}" if activations.unit_tags[row] else ""
        self.heading.setText(
            f"{unit} {entry['label']} of {entry['Metadata_Field']}, "
            f"{entry['Metadata_condition'] or 'no condition'}{tag}"
        )
        self.concepts.clear()
        concepts, values = activations.concepts_of(row)
        for concept, value in zip(concepts[:_MOST_CONCEPTS], values, strict=False):
            item = QListWidgetItem(f"{value:+.2f}   {activations.dictionary.names[concept]}")
            item.setData(Qt.ItemDataRole.UserRole, int(concept))
            self.concepts.addItem(item)

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Look for units like the one that was chosen while another tab was looked at."""
        super().showEvent(event)
        self._compare()

    def _compare(self) -> None:
        """Look in the background for the units most like this one."""
        run, row = self.session.run.current, self.selection.current
        wanted = None if run is None or row is None else (run, row)
        if wanted != self._compared:
            self.comparing.stop()
            self.similar.clear()
            self._compared = None
        if run is not None and row is not None and self.isVisible() and wanted != self._compared:
            self._compared = wanted
            similar = run.result.activations.similar_units
            self.comparing.start(partial(similar, row, _MOST_SIMILAR))

    def _on_compared(self, found: tuple[NDArray[np.int64], NDArray[np.float32]]) -> None:
        if self._compared is not None:
            self.similar.show_units(self._compared[0], *found, self.session.view.pictures)

    def _show_picture(self) -> None:
        """Draw the unit itself, in the background."""
        run, row = self.session.run.current, self.selection.current
        if run is None or row is None or not run.has_images:
            self._shown = None
            self.drawing.stop()
            self.picture.hide()
            return
        choice = self.session.view.pictures.in_one_picture()
        if self._shown != (run, row, choice):
            self._shown = run, row, choice
            self.drawing.start(partial(run.pictures.picture, row, choice))

    def _on_drawn(self, pixels: NDArray[np.uint8]) -> None:
        picture = Picture(pixels, np.empty((0, 4)), "white", "")
        self.picture.setPixmap(pixmap_of(picture, QSize(TILE, TILE)))
        self.picture.show()

    def table(self) -> pd.DataFrame:
        """All concepts of the unit and its activations, strongest first."""
        run, row = self.session.run.current, self.selection.current
        if run is None or row is None:
            raise MicrodlError("No cell is looked at; click one in an image.")
        concepts, values = run.result.activations.concepts_of(row)
        names = run.result.dictionary.names
        return pd.DataFrame(
            {"concept": concepts, "name": [names[c] for c in concepts], "activation": values}
        )

    def save_picture(self, path: Path) -> None:
        """Write the pictures of the units most like it."""
        save_pictures([(self.similar.accessibleName(), self.similar.drawn_pictures())], path)

    def _go(self, step: int) -> None:
        """Look at another unit of the field in view, or of all where there are no images."""
        run, row = self.session.run.current, self.selection.current
        if run is None:
            return
        rows = np.arange(len(run.result.activations.units))
        if run.can_show_images:
            rows = run.result.activations.rows_of_field(self.overlays.field_in_view())
        if not len(rows):
            return
        place = np.flatnonzero(rows == row)
        # From elsewhere, next is the first and previous the last.
        new = (int(place[0]) + step) % len(rows) if len(place) else (0 if step > 0 else -1)
        if run.can_show_images:
            self.unit_chosen.emit(int(rows[new]))
        else:
            self.selection.select([rows[new]])

    def _on_concept(self, item: QListWidgetItem) -> None:
        self.session.view.show_concept(item.data(Qt.ItemDataRole.UserRole))
