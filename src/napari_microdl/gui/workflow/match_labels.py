"""Which labels belong to which field, shown before they are taken."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.viewer import Viewer
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QHeaderView,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_microdl.core.task import current_task
from napari_microdl.core.text import counted, listed
from napari_microdl.gui.session.images import Images
from napari_microdl.gui.session.layers import add_unselected, is_input, lay_on
from napari_microdl.gui.session.own_labels import (
    Match,
    labels_of,
    match_labels,
    numbered,
)
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.inputs import plain_tip, sentence_label, take_font_size
from napari_microdl.gui.widgets.jobs import JobRunner
from napari_microdl.gui.widgets.turns import call_off, do_in_turn


def show_matches(viewer: Viewer, session: Session, parent: QWidget) -> None:
    """Open the dialog for the layers as they are now."""
    dialog = MatchLabels(viewer, session, parent)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.show()


def lay_on_images(viewer: Viewer, images: Images, pairs: list[tuple[Labels, Image]]) -> None:
    """Move labels onto the images that they were chosen for; those of several are copied."""
    for labels, image in pairs:
        chosen = [p for p in images.places() if images.rows[p.rows[0]].labels_layer() is labels]
        place = next(place for place in chosen if image in place.images)
        moved = labels
        if len(chosen) > 1:
            moved = Layer.create(*labels.as_layer_data_tuple())
            moved.name = f"{image.name} cells"
            add_unselected(viewer, moved)
            images.update(viewer.layers)
        # Where it lay before the fields were arranged it does not go back to.
        images.arranged.pop(moved, None)
        lay_on(moved, image)
        images.edit_rows(place.rows, labels=weakref.ref(moved))


class MatchLabels(QDialog):
    """A row a field, with its labels and by what they were found; what is ticked is taken."""

    def __init__(self, viewer: Viewer, session: Session, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Match labels")
        self._viewer, self._session = viewer, session
        labels = [x for x in viewer.layers if isinstance(x, Labels) and is_input(x)]
        candidates: list[Layer] = [*labels, *session.images.label_like()]
        places = session.images.places()
        self._matches = match_labels(places, candidates)
        self.table = QTableWidget(len(self._matches), 3)
        self.table.setHorizontalHeaderLabels(["Field", "Labels", "Found by"])
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.table.setTabKeyNavigation(False)
        self.table.setAccessibleName("Labels of the fields")
        self.table.setToolTip("What is ticked is taken; space ticks.")
        self.table.verticalHeader().hide()
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        elsewhere = 0
        for number, match in enumerate(self._matches):
            apart = session.images.lie_apart(match.labels, match.place.images[0])
            elsewhere += apart
            reason = f"{match.reason}, but elsewhere in the viewer" if apart else match.reason
            for column, text in enumerate((match.place.name, match.labels.name, reason)):
                item = QTableWidgetItem(text)
                item.setToolTip(plain_tip(text))
                self.table.setItem(number, column, item)
            # Many a plugin leaves labels in the corner of the viewer; their name says whose.
            sure = match.reason == "same name" or not apart
            ticked = Qt.CheckState.Checked if sure else Qt.CheckState.Unchecked
            self.table.item(number, 0).setCheckState(ticked)
        by_order = sum(match.reason == "same order" for match in self._matches)
        sentences = [f"{len(self._matches)} of {counted(len(places), 'field')} have labels."]
        if by_order:
            sentences.append(
                f"{by_order} by their order alone: look whether they belong to the field."
            )
        if elsewhere:
            sentences.append(
                f"{elsewhere} elsewhere in the viewer: where ticked, they are moved onto their "
                "image."
            )
        taken = {match.labels for match in self._matches}
        if left := [layer.name for layer in candidates if layer not in taken]:
            sentences.append(f"Of no field, by name, size or order: {listed(left)}.")
        if any(isinstance(match.labels, Image) for match in self._matches):
            sentences.append("Images become Labels layers; the parts of a mask are numbered.")
        self.about = sentence_label(" ".join(sentences))
        self.take = QPushButton("Take")
        self.take.setToolTip("Gives the ticked fields these labels, to be their cells.")
        self.take.setEnabled(bool(self._matches))
        self.take.clicked.connect(self._take)
        self._ticked: list[Match] = []
        self._numbers: dict[Image, NDArray[np.integer]] = {}
        self._made: dict[Layer, Layer] = {}
        self.jobs = JobRunner(self)
        self.jobs.succeeded.connect(self._on_numbered)
        self.jobs.failed.connect(self.about.setText)
        layout = QVBoxLayout(self)
        layout.addWidget(self.about)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.take, 0, Qt.AlignmentFlag.AlignRight)
        take_font_size(self)
        self.resize(620, 400)

    def _take(self) -> None:
        self._ticked = [
            match
            for number, match in enumerate(self._matches)
            if self.table.item(number, 0).checkState() == Qt.CheckState.Checked
            and match.labels in self._viewer.layers
        ]
        self.take.setEnabled(False)
        images = [match.labels for match in self._ticked if isinstance(match.labels, Image)]
        self.jobs.start(partial(_numbered_all, [(image, image.data) for image in images]))

    def _on_numbered(self, numbers: dict[Image, NDArray[np.integer]]) -> None:
        self._numbers = numbers
        do_in_turn(self._swap_one)

    def _swap_one(self) -> None:
        """Put labels in the place of an image; the window is free in between."""
        layers = self._viewer.layers
        if self._numbers:
            image, numbers = self._numbers.popitem()
            if image in layers:
                place = layers.index(image)
                labels = labels_of(image, numbers)
                layers.remove(image)
                layers.insert(place, labels)
                self._made[image] = labels
            do_in_turn(self._swap_one)
            return
        images = self._session.images
        images.update(layers)
        # Rows keep their numbers: what became labels was none of them.
        changes: dict[int, dict[str, Any]] = {}
        for match in self._ticked:
            found = self._made.get(match.labels, match.labels)
            if found in layers:
                changes |= {row: {"labels": weakref.ref(found)} for row in match.place.rows}
        images.fill(changes)
        ours = {image for match in self._ticked for image in match.place.images}
        lay_on_images(self._viewer, images, [pair for pair in images.apart() if pair[1] in ours])
        if changes:
            self._session.settings.choose(cell_source="labels")
        self.close()

    def closeEvent(self, event: QCloseEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Stop what goes on."""
        self.jobs.stop()
        call_off(self._swap_one)
        super().closeEvent(event)


def _numbered_all(
    images: list[tuple[Image, NDArray[Any]]],
) -> dict[Image, NDArray[np.integer]]:
    found = {}
    for number, (image, data) in enumerate(images):
        current_task().progress(number, len(images), "Numbering cells")
        found[image] = numbered(data)
    return found
