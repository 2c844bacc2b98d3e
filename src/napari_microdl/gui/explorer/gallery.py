"""Gallery: the units most and least aligned with a concept, as small pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from qtpy.QtCore import QLineF, QSignalBlocker, QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QImage, QPainter, QPen, QPixmap
from qtpy.QtWidgets import QComboBox, QLabel, QListView, QListWidget, QListWidgetItem

from napari_microdl.concepts.concept_set import Concept
from napari_microdl.concepts.painting import outlines_of, unit_window
from napari_microdl.core.errors import MicrodlError
from napari_microdl.gui.explorer.panel import Panel
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.widgets.picture_figure import Picture, save_pictures
from napari_microdl.gui.widgets.save_actions import offer_picture, offer_table

_PICTURE = 72
# Brightened, so that dim cells are seen in a small picture.
_GAMMA = 0.6
# Orange and blue as in the heatmap.
LINE_COLOURS = {1: "#ffa040", -1: "#60b0ff"}
_IN_A_ROW = 10


def picture_of(run: Run, row: int, channel: int) -> NDArray[np.uint8]:
    """Grey picture of one unit, in the contrast of its layer where that is still open."""
    number, (rows, columns) = unit_window(run.result.activations, row)
    field = run.fields[number]
    crop = np.asarray(field.data[channel, rows, columns], np.float32)
    layer = run.sources[number].layer()
    if layer is not None and not layer.rgb and field.n_channels == 1:
        low, high = layer.contrast_limits
    else:
        low, high = float(crop.min()), float(crop.max())
    scaled = np.clip((crop - low) / max(high - low, 1e-12), 0, 1) ** _GAMMA
    return np.ascontiguousarray((scaled * 255).astype(np.uint8))


class PictureList(QListWidget):
    """Small pictures of units, side by side; a click or Enter asks to be taken to one.

    Signals
    -------
    unit_chosen(int)
        Row of the table of units.
    """

    unit_chosen = Signal(int)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setAccessibleName(name)
        self.setToolTip("Click a picture to go to its cell; a right click saves the pictures.")
        self.setViewMode(QListView.ViewMode.IconMode)
        self.setResizeMode(QListView.ResizeMode.Adjust)
        self.setMovement(QListView.Movement.Static)
        self.setIconSize(QSize(_PICTURE, _PICTURE))
        self.setSpacing(1)
        self.setMinimumHeight(_PICTURE + 30)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.itemActivated.connect(self._on_item)
        self.itemClicked.connect(self._on_item)
        self._run: Run | None = None
        self._rows: NDArray[np.int64] = np.empty(0, np.int64)
        self._cosines: NDArray[np.floating] = np.empty(0, np.float32)
        self.pictures: list[Picture] = []
        offer_table(self, name.lower(), self.table)

    def clear(self) -> None:
        """Show nothing."""
        super().clear()
        self._run, self.pictures = None, []

    def _on_item(self, item: QListWidgetItem) -> None:
        self.unit_chosen.emit(item.data(Qt.ItemDataRole.UserRole))

    def show_units(
        self,
        run: Run,
        rows: Sequence[int] | NDArray[np.int64],
        cosines: NDArray[np.floating],
        channel: int,
        concept: Concept | None = None,
        sign: int = 1,
    ) -> None:
        """Show units with their cosines below.

        Of a concept, the patches aligned with it (sign 1) or anti-aligned (-1) are outlined.
        """
        self.clear()
        self._run, self._rows, self._cosines = run, np.asarray(rows, np.int64), cosines
        units = run.result.activations.units
        for row, cosine in zip(rows, cosines, strict=True):
            unit: Any = units.iloc[int(row)]
            item = QListWidgetItem(f"{cosine:.2f}")
            if not run.has_images:
                item.setText(f"{cosine:.2f}  {unit['Metadata_Field']}, {unit['label']}")
            else:
                picture = picture_of(run, int(row), channel)
                lines = np.empty((0, 4))
                if concept is not None:
                    lines = outlines_of(run.result.activations, int(row), concept, sign)
                item.setIcon(QIcon(_pixmap(picture, lines, LINE_COLOURS[sign])))
                title = f"{unit['Metadata_condition'] or unit['Metadata_Field']}\n{cosine:.2f}"
                self.pictures.append(Picture(picture, lines, LINE_COLOURS[sign], title))
            item.setData(Qt.ItemDataRole.UserRole, int(row))
            item.setToolTip(
                f"{unit['Metadata_Field']}, {unit['Metadata_condition']}\n"
                f"{run.result.config.units.kind} {unit['label']}, cosine {cosine:.3f}"
                + ("\nClick to go there." if run.has_images else "")
            )
            self.addItem(item)

    def table(self) -> pd.DataFrame:
        """The units shown, with what is known of them and their cosines."""
        if self._run is None:
            raise MicrodlError("There are no pictures yet.")
        activations = self._run.result.activations
        table = activations.units.iloc[self._rows].reset_index(drop=True)
        table["Metadata_tag"] = activations.unit_tags[self._rows]
        table["cosine"] = self._cosines
        return table


class Gallery(Panel):
    """Two rows of pictures from all fields.

    Signals
    -------
    unit_chosen(int)
        Row of the table of units.
    """

    unit_chosen = Signal(int)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.channel = QComboBox()
        self.channel.setToolTip("Channel shown in the gallery.")
        self.channel.setAccessibleName("Channel of the gallery")
        self.channel.currentIndexChanged.connect(self.show_concept_again)
        self.column.addWidget(self.channel)
        self.lists: dict[int, PictureList] = {}
        for sign, heading in ((1, "Most aligned"), (-1, "Most anti-aligned")):
            view = PictureList(heading)
            view.unit_chosen.connect(self.unit_chosen)
            offer_picture(view, "gallery", self.save_picture)
            label = QLabel(heading)
            label.setToolTip("From all images; patches that show it most are outlined.")
            self.column.addWidget(label)
            self.column.addWidget(view, 1)
            self.lists[sign] = view

    def show_run(self, run: Run | None) -> None:
        """Offer the channels of the run."""
        for view in self.lists.values():
            view.clear()
        if run is not None:
            names = list(run.fields[0].channel_names) if run.has_images else []
            with QSignalBlocker(self.channel):
                self.channel.clear()
                self.channel.addItems(names)
            self.channel.setVisible(len(names) > 1)

    def show_concept(self, run: Run, concept: Concept) -> None:
        """Show the units of one concept."""
        activations = run.result.activations
        alignment = activations.alignment(concept)
        channel = max(self.channel.currentIndex(), 0)
        for sign, view in self.lists.items():
            rows = activations.top_units(concept, _IN_A_ROW, sign)
            view.show_units(run, rows, alignment[rows], channel, concept, sign)

    def save_picture(self, path: Path) -> None:
        """Write both rows of pictures."""
        save_pictures(
            [(view.accessibleName(), view.pictures) for view in self.lists.values()], path
        )


def _pixmap(picture: NDArray[np.uint8], lines: NDArray[np.float64], colour: str) -> QPixmap:
    height, width = picture.shape
    image = QImage(picture.data, width, height, width, QImage.Format.Format_Grayscale8)
    # The copy owns its pixels; the array goes when this function returns.
    pixmap = QPixmap.fromImage(image.copy()).scaled(
        _PICTURE,
        _PICTURE,
        Qt.AspectRatioMode.KeepAspectRatio,
        Qt.TransformationMode.SmoothTransformation,
    )
    painter = QPainter(pixmap)
    painter.setPen(QPen(QColor(colour), 1.2))
    zoom = pixmap.width() / width
    painter.drawLines([QLineF(*(line * zoom)) for line in lines])
    painter.end()
    return pixmap
