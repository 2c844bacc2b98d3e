"""Small pictures of units, side by side, which are drawn in the background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from qtpy.QtCore import QLineF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFontMetrics, QIcon, QImage, QKeyEvent, QPainter, QPen, QPixmap
from qtpy.QtWidgets import QListView, QListWidget, QListWidgetItem

from napari_microdl.concepts.concept_set import Concept
from napari_microdl.concepts.painting import explain_unit
from napari_microdl.concepts.pictures import PictureChoice
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.widgets.inputs import plain_tip
from napari_microdl.gui.widgets.jobs import JobRunner
from napari_microdl.gui.widgets.picture_figure import Picture
from napari_microdl.gui.widgets.save_actions import offer_table

# Edge of a picture in pixels, and that of several channels side by side.
TILE = 96
_BESIDE = 64
# Between two pictures, and above and below them.
_GAP = 1
_ABOVE = 4
# Orange and blue as in the heatmap.
LINE_COLOURS = {1: "#ffa040", -1: "#60b0ff"}


@dataclass(frozen=True, eq=False)
class Shown:
    """Units in a list of pictures, and how they are drawn.

    Parameters
    ----------
    run : Run
        The run.
    rows : ndarray of int
        Rows of the table of units.
    values : ndarray, shape (n_rows,)
        What stands below each.
    choice : PictureChoice
        Channel, contrast, and whether patches are outlined.
    concept : int, ConceptSet or None
        Whose patches are outlined.
    sign : {1, -1}
        Whether those aligned with it, or anti-aligned.
    what : str
        What the values are, for the table.
    """

    run: Run
    rows: NDArray[np.int64]
    values: NDArray[np.floating]
    choice: PictureChoice
    concept: Concept | None
    sign: int
    what: str

    def draw(self) -> list[tuple[Picture, str]]:
        """A picture of every unit, and what explains it."""
        activations, drawn = self.run.result.activations, []
        for row, value in zip(self.rows.tolist(), self.values.tolist(), strict=True):
            current_task().check()
            unit: Any = activations.units.iloc[row]
            lines, sentence = np.empty((0, 4)), ""
            pixels = self.run.pictures.picture(row, self.choice)
            if self.choice.patches and self.concept is not None:
                found = explain_unit(activations, row, self.concept, self.sign)
                height, width = pixels.shape[:2]
                beside = [found.lines + np.array([x, 0, x, 0]) for x in range(0, width, height)]
                lines, sentence = np.concatenate(beside), found.sentence()
            title = f"{unit['Metadata_condition'] or unit['Metadata_Field']}\n{value:.2f}"
            drawn.append((Picture(pixels, lines, LINE_COLOURS[self.sign], title), sentence))
        return drawn


class PictureList(QListWidget):
    """Small pictures of units; a click, Enter or the arrow keys ask to be taken to one.

    Parameters
    ----------
    name : str
        What is shown.
    follow_keys : bool, default=True
        Whether the arrow keys take to a unit; without them, Enter does.

    Signals
    -------
    unit_chosen(int)
        Row of the table of units.
    """

    unit_chosen = Signal(int)

    def __init__(self, name: str, *, follow_keys: bool = True) -> None:
        super().__init__()
        self._follow_keys = follow_keys
        self.setAccessibleName(name)
        keys = (
            "Click a picture, or go there with the arrow keys"
            if follow_keys
            else ("Click a picture, or press Enter on it, to go to its cell")
        )
        self.setToolTip(f"{keys}; a right click saves the pictures.")
        self.setViewMode(QListView.ViewMode.IconMode)
        self.setResizeMode(QListView.ResizeMode.Adjust)
        self.setMovement(QListView.Movement.Static)
        self.setUniformItemSizes(True)
        self.setMinimumHeight(TILE + 30)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.itemActivated.connect(self._on_item)
        self.itemClicked.connect(self._on_item)
        self.jobs = JobRunner(self)
        self.jobs.succeeded.connect(self._on_drawn)
        self.jobs.failed.connect(self._on_failed)
        self._shown: Shown | None = None
        self.pictures: list[Picture] = []
        self._tips: list[str] = []
        offer_table(self, name.lower(), self.table)

    def width_of(self, n: int) -> int:
        """Pixels that so many pictures side by side take, with a bar to scroll them."""
        return n * (TILE + _GAP) + self.verticalScrollBar().sizeHint().width() + 4

    def clear(self) -> None:
        """Show nothing."""
        self.jobs.stop()
        super().clear()
        self._shown, self.pictures, self._tips = None, [], []

    def keyPressEvent(self, event: QKeyEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Go to the unit that an arrow key has reached."""
        before = self.currentItem()
        super().keyPressEvent(event)
        reached = self.currentItem()
        if self._follow_keys and reached is not None and reached is not before:
            self._on_item(reached)

    def _on_item(self, item: QListWidgetItem) -> None:
        row = item.data(Qt.ItemDataRole.UserRole)
        if row is not None:
            self.unit_chosen.emit(row)

    def show_units(
        self,
        run: Run,
        rows: Sequence[int] | NDArray[np.int64],
        values: NDArray[np.floating],
        choice: PictureChoice,
        concept: Concept | None = None,
        sign: int = 1,
        what: str = "cosine",
    ) -> None:
        """Show units with a number below each; pictures come a little later.

        Of a concept, the patches aligned with it (sign 1) or anti-aligned (-1) may be outlined.
        """
        self.clear()
        rows = np.asarray(rows, np.int64)
        self._shown = shown = Shown(run, rows, values, choice, concept, sign, what)
        units = run.result.activations.units
        self._fit_tiles()
        empty = QPixmap(self.iconSize())
        empty.fill(Qt.GlobalColor.transparent)
        for row, value in zip(shown.rows.tolist(), values.tolist(), strict=True):
            unit: Any = units.iloc[row]
            item = QListWidgetItem(f"{unit['Metadata_condition']} {value:.2f}")
            if not run.has_images:
                item.setText(f"{value:.2f}  {unit['Metadata_Field']}, {unit['label']}")
            else:
                item.setIcon(QIcon(empty))
            item.setData(Qt.ItemDataRole.UserRole, row)
            self._tips.append(
                f"{unit['Metadata_Field']}, {unit['Metadata_condition']}\n"
                f"{run.result.config.units.kind} {unit['label']}: {value:.3f}"
                + ("\nClick to go there." if run.can_show_images else "")
            )
            item.setToolTip(plain_tip(self._tips[-1]))
            self.addItem(item)
        if run.has_images and len(shown.rows):
            self.jobs.start(shown.draw)

    def follow(self, choice: PictureChoice) -> None:
        """Draw what is shown once more where it was drawn otherwise."""
        shown = self._shown
        if shown is not None and shown.choice != choice:
            self.show_units(
                shown.run,
                shown.rows,
                shown.values,
                choice,
                shown.concept,
                shown.sign,
                shown.what,
            )

    def drawn_pictures(self) -> list[Picture]:
        """The pictures, drawn now where they are still to come."""
        if self.jobs.is_running and self._shown is not None:
            self.jobs.stop()
            self._on_drawn(self._shown.draw())
        return self.pictures

    def table(self) -> pd.DataFrame:
        """The units shown, with what is known of them and their numbers."""
        if self._shown is None:
            raise MicrodlError("There are no pictures yet.")
        activations = self._shown.run.result.activations
        table = activations.units.iloc[self._shown.rows].reset_index(drop=True)
        table["Metadata_tag"] = activations.unit_tags[self._shown.rows]
        table[self._shown.what] = self._shown.values
        return table

    def changeEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        """Follow another font size."""
        super().changeEvent(event)
        if event.type() in (event.Type.FontChange, event.Type.StyleChange):
            self._fit_tiles()

    def _fit_tiles(self) -> None:
        """Room for a picture and a line of text, or for the text alone."""
        line = QFontMetrics(self.font()).height()
        if self._shown is not None and not self._shown.run.has_images:
            self.setIconSize(QSize(0, 0))
            self.setGridSize(QSize())
            return
        size = QSize(TILE, TILE)
        if self._shown is not None and self._shown.choice.channel == "side by side":
            size = QSize(_BESIDE * len(self._shown.run.pictures.channel_names), _BESIDE)
        self.setIconSize(size)
        self.setGridSize(size + QSize(_GAP, line + _ABOVE))

    def _on_drawn(self, drawn: list[tuple[Picture, str]]) -> None:
        self.pictures = [picture for picture, _ in drawn]
        for number, (picture, sentence) in enumerate(drawn):
            item = self.item(number)
            item.setIcon(icon_of(picture, self.iconSize()))
            if sentence:
                item.setToolTip(plain_tip(f"{self._tips[number]}\n{sentence}"))

    def _on_failed(self, sentence: str) -> None:
        super().clear()
        item = QListWidgetItem(sentence)
        item.setToolTip(plain_tip(sentence))
        self.addItem(item)


def icon_of(picture: Picture, size: QSize) -> QIcon:
    """A picture with its lines, which looks the same where it is selected."""
    pixmap = pixmap_of(picture, size)
    icon = QIcon(pixmap)
    icon.addPixmap(pixmap, QIcon.Mode.Selected)
    return icon


def pixmap_of(picture: Picture, size: QSize) -> QPixmap:
    """A picture with its lines, as large as fits."""
    pixels = picture.pixels
    height, width = pixels.shape[:2]
    kind, channels = (
        (QImage.Format.Format_Grayscale8, 1)
        if pixels.ndim == 2
        else (QImage.Format.Format_RGB888, 3)
    )
    image = QImage(pixels.data, width, height, channels * width, kind)
    # The copy owns its pixels; the array goes when this function returns.
    pixmap = QPixmap.fromImage(image.copy()).scaled(
        size, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    )
    painter = QPainter(pixmap)
    painter.setPen(QPen(QColor(picture.colour), 1.2))
    zoom = pixmap.width() / width
    painter.drawLines([QLineF(*(line * zoom)) for line in picture.lines])
    painter.end()
    return pixmap
