"""Gallery: the units most and least aligned with a concept, as small pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import QLabel, QListView, QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from napari_microdl.gui.session import Run
from napari_microdl.painting import window_of

_PICTURE = 72
# Brightened, so that dim cells are seen in a small picture.
_GAMMA = 0.6


def picture_of(run: Run, row: int, channel: int) -> NDArray[np.uint8]:
    """Grey picture of one unit, in the contrast of its layer where that is still open.

    Parameters
    ----------
    run : Run
        The run.
    row : int
        Row of the table of units.
    channel : int
        Which channel of the field.

    Returns
    -------
    ndarray of shape (size, size)
    """
    activations = run.result.activations
    number = int(activations.units["field"].iloc[row])
    place = row - int(np.argmax(activations.units["field"].to_numpy() == number))
    field = run.fields[number]
    rows, columns = window_of(activations.geometry[number].boxes[place], field.shape)
    crop = np.asarray(field.data[channel, rows, columns], np.float32)
    layer = run.sources[number].layer()
    if layer is not None and not layer.rgb and field.n_channels == 1:
        low, high = layer.contrast_limits
    else:
        low, high = float(crop.min()), float(crop.max())
    scaled = np.clip((crop - low) / max(high - low, 1e-12), 0, 1) ** _GAMMA
    return np.ascontiguousarray((scaled * 255).astype(np.uint8))


class Gallery(QWidget):
    """Two rows of pictures; a click asks to be taken to the unit.

    Signals
    -------
    unit_chosen(int)
        Row of the table of units.
    """

    unit_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        self.lists: dict[int, QListWidget] = {}
        for sign, heading in ((1, "Most aligned"), (-1, "Least aligned")):
            view = QListWidget()
            view.setViewMode(QListView.ViewMode.IconMode)
            view.setResizeMode(QListView.ResizeMode.Adjust)
            view.setMovement(QListView.Movement.Static)
            view.setIconSize(QSize(_PICTURE, _PICTURE))
            view.setSpacing(1)
            view.setMinimumHeight(_PICTURE + 30)
            view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
            view.itemActivated.connect(self._on_item)
            view.itemClicked.connect(self._on_item)
            layout.addWidget(QLabel(heading))
            layout.addWidget(view, 1)
            self.lists[sign] = view

    def _on_item(self, item: QListWidgetItem) -> None:
        self.unit_chosen.emit(item.data(Qt.ItemDataRole.UserRole))

    def clear(self) -> None:
        """Show nothing."""
        for view in self.lists.values():
            view.clear()

    def show_concept(self, run: Run, concept: int, channel: int = 0, n: int = 10) -> None:
        """Show the units of one concept.

        Parameters
        ----------
        run : Run
            The run.
        concept : int
            Which concept.
        channel : int, default=0
            Channel to draw.
        n : int, default=10
            Units in each row.
        """
        activations = run.result.activations
        alignment = activations.alignment(concept)
        units = activations.units
        for sign, view in self.lists.items():
            view.clear()
            for row in activations.top_units(concept, n, sign):
                picture = picture_of(run, int(row), channel)
                item = QListWidgetItem(f"{alignment[row]:.2f}")
                item.setIcon(QIcon(_pixmap(picture)))
                item.setData(Qt.ItemDataRole.UserRole, int(row))
                unit: Any = units.iloc[int(row)]
                item.setToolTip(
                    f"{unit['Metadata_Field']}, {unit['Metadata_condition']}\n"
                    f"{run.result.config.unit} {unit['label']}, cosine {alignment[row]:.3f}\n"
                    "Click to go there."
                )
                view.addItem(item)


def _pixmap(picture: NDArray[np.uint8]) -> QPixmap:
    height, width = picture.shape
    image = QImage(picture.data, width, height, width, QImage.Format.Format_Grayscale8)
    # The copy owns its pixels; the array goes when this function returns.
    return QPixmap.fromImage(image.copy()).scaled(
        _PICTURE,
        _PICTURE,
        Qt.AspectRatioMode.KeepAspectRatio,
        Qt.TransformationMode.SmoothTransformation,
    )
