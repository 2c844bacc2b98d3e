"""Cells: what one sample is, and where cells come from."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

from napari.layers import Labels
from napari.viewer import Viewer
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QSpinBox,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
)

from napari_microdl.gui.session.layers import is_input
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.collapsible import Step
from napari_microdl.gui.widgets.inputs import combo, fit_height, show_choice, show_number
from napari_microdl.gui.workflow.fields_table import WHOLE
from napari_microdl.gui.workflow.match_labels import lay_on_images, show_matches


class CellsStep(Step):
    """Cells: what one sample is, and where cells come from."""

    preview_wanted = Signal()
    live_changed = Signal(bool)

    def __init__(self, session: Session, viewer: Viewer) -> None:
        super().__init__("2  Cells", "Find cells")
        self.session = session
        settings = session.settings
        self._viewer = weakref.ref(viewer)
        self.unit = combo(
            {"Cells": "cell", "Square crops": "crop", "Single patches": "token"},
            lambda value: settings.configure(unit=value),
            "What one sample is: all patches of a cell or of a crop, or a patch by itself.",
        )
        self.source = combo(
            {"Built-in segmentation": "segmentation", "My Labels layers": "labels"},
            lambda value: settings.choose(cell_source=value),
            "Where the cells come from. A Labels layer from a trained segmentation is better where "
            "there is one.",
        )
        self.channel = combo(
            {}, lambda value: self._segment(channel=value), "Channel in which cells are bright."
        )
        self.diameter = QDoubleSpinBox()
        self.diameter.setRange(4, 2000)
        self.diameter.setDecimals(0)
        self.diameter.setSuffix(" px")
        self.diameter.setToolTip("Typical diameter of a cell in pixels.")
        self.diameter.valueChanged.connect(lambda value: self._segment(diameter=float(value)))
        self.threshold = combo(
            {"Local, for uneven light": "local", "One for the image (Otsu)": "otsu"},
            lambda value: self._segment(threshold=value),
            "How cells are told from background.",
        )
        self.min_area = QDoubleSpinBox()
        self.min_area.setRange(0, 1e7)
        self.min_area.setDecimals(0)
        self.min_area.setSuffix(" px²")
        self.min_area.setSpecialValueText("auto")
        self.min_area.setToolTip("Smaller objects are dropped; auto is a sixth of a typical cell.")
        self.min_area.valueChanged.connect(lambda value: self._segment(min_area=value or None))
        self.preview = QPushButton("Preview")
        self.preview.setToolTip(
            "Finds the cells of the selected image in the part that is in view, as a run would."
        )
        self.preview.clicked.connect(self.preview_wanted)
        self.live = QCheckBox("Live")
        self.live.setToolTip(
            "Keeps the preview up to date while you move in the image and try settings."
        )
        self.live.toggled.connect(self.live_changed)
        self.crop_size = QSpinBox()
        self.crop_stride = QSpinBox()
        for box, name in ((self.crop_size, "crop_size"), (self.crop_stride, "crop_stride")):
            box.setRange(1, 4096)
            box.setSuffix(" px")
            box.setToolTip(
                "Edge of a square crop."
                if name == "crop_size"
                else "From one crop to the next; less than the crop size lets them overlap."
            )
            box.valueChanged.connect(lambda value, name=name: settings.configure(**{name: value}))
        self.pooling = combo(
            {"Recommended": "auto", "Spread within it": "spread", "Mean, as in the paper": "mean"},
            lambda value: settings.configure(pooling=value),
            "What is made of the patches of a cell or crop. What a whole image shares, such as its "
            "exposure, is in their mean, and cancels in their spread. Recommended are the spread "
            "of cells and the mean of crops.",
        )
        self.labels = QTableWidget(0, 2)
        self.labels.setHorizontalHeaderLabels(["Field", "Labels layer"])
        self.labels.verticalHeader().hide()
        self.labels.setTabKeyNavigation(False)
        self.labels.setAccessibleName("Labels layers of the fields")
        self.labels.setToolTip("Which Labels layer holds the cells of each field.")
        self.match_labels = QPushButton("Match labels...")
        self.match_labels.setToolTip("Shows which labels would belong to which field, to be taken.")
        self.match_labels.clicked.connect(self._match)
        self.lay_on_images = QPushButton("Move labels onto their images")
        self.lay_on_images.setToolTip(
            "Takes labels that lie elsewhere in the viewer pixel by pixel: each is moved onto the "
            "image that it was chosen for, or copied there where it was chosen for several."
        )
        self.lay_on_images.clicked.connect(self._lay_on_images)
        # Number of the row of images behind every row of the table.
        self._labelled: list[int] = []
        header = self.labels.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)

        layout = QVBoxLayout(self.content)
        layout.setContentsMargins(0, 0, 0, 0)
        self._form = self.form()
        self._form.addRow("One sample is", self.unit)
        self._form.addRow("Crop size", self.crop_size)
        self._form.addRow("Every", self.crop_stride)
        self._form.addRow("Of its patches", self.pooling)
        self._form.addRow("Cells from", self.source)
        self._form.addRow("Channel", self.channel)
        self._form.addRow("Cell diameter", self.diameter)
        self._form.addRow("Threshold", self.threshold)
        self._form.addRow("Smallest cell", self.min_area)
        layout.addLayout(self._form)
        preview = QHBoxLayout()
        preview.addWidget(self.preview, 1)
        preview.addWidget(self.live)
        layout.addLayout(preview)
        layout.addWidget(self.lay_on_images)
        layout.addWidget(self.labels)
        layout.addWidget(self.match_labels)

    def _match(self) -> None:
        viewer = self._viewer()
        if viewer is not None:
            show_matches(viewer, self.session, self)

    def _lay_on_images(self) -> None:
        viewer, images = self._viewer(), self.session.images
        if viewer is not None:
            lay_on_images(viewer, images, images.apart())

    def _segment(self, **changes: Any) -> None:
        segmentation = self.session.settings.config.cells.replace(**changes)
        self.session.settings.configure(segmentation=segmentation)

    def refresh(self) -> None:
        """Show the settings that matter for the chosen unit."""
        config = self.session.settings.shown_config()
        segmentation, units = config.cells, config.units
        for widget in (self.unit, self.crop_size, self.crop_stride, self.pooling):
            widget.setEnabled(self.session.settings.applied is None)
        cells = units.kind == "cell"
        built_in = cells and self.session.settings.cell_source == "segmentation"
        show_choice(self.unit, units.kind)
        show_choice(self.source, self.session.settings.cell_source)
        show_choice(self.threshold, segmentation.threshold)
        names = [channel.name for channel in self.session.images.channels]
        self.channel.clear()
        self.channel.addItem(f"first ({names[0]})" if names else "first", None)
        for name in names:
            self.channel.addItem(name, name)
        show_choice(self.channel, segmentation.channel)
        show_number(self.diameter, segmentation.diameter)
        show_number(self.min_area, segmentation.min_area or 0)
        show_number(self.crop_size, units.crop_size)
        show_number(self.crop_stride, units.crop_stride)
        show_choice(self.pooling, units.pooling)
        crops = units.kind == "crop"
        for widget, shown in (
            (self.crop_size, crops),
            (self.crop_stride, crops),
            (self.pooling, units.kind != "token"),
            (self.source, cells),
            (self.channel, built_in and len(names) > 1),
            (self.diameter, built_in),
            (self.threshold, built_in),
            (self.min_area, built_in),
        ):
            self._form.setRowVisible(widget, shown)
        self.preview.setVisible(built_in)
        self.live.setVisible(built_in)
        self.run_button.setVisible(cells)
        self.run_button.setText("Find cells" if built_in else "Check cells")
        for widget in (self.labels, self.match_labels):
            widget.setVisible(cells and not built_in)
        own = cells and not built_in
        self.lay_on_images.setVisible(own and bool(self.session.images.apart()))
        if own:
            self._show_labels()
        self.set_summary(
            {
                "cell": "cells of the built-in segmentation" if built_in else "cells of my labels",
                "crop": f"crops of {units.crop_size} px, every {units.crop_stride} px",
                "token": "single patches",
            }[units.kind]
        )

    def _choose_labels(self, place: int, layer: Labels | None) -> None:
        labels = None if layer is None else weakref.ref(layer)
        self.session.images.edit_rows([self._labelled[place]], labels=labels)

    def _labels_box(self, place: int) -> QComboBox:
        """The box of a row; it stays, because the keyboard may be in it."""
        box = self.labels.cellWidget(place, 1)
        if not isinstance(box, QComboBox):
            box = combo(
                {}, partial(self._choose_labels, place), "Labels layer with one number a cell."
            )
            self.labels.setCellWidget(place, 1, box)
            before = self.labels.cellWidget(place - 1, 1) if place else self.labels
            self.setTabOrder(before, box)
        return box

    def _show_labels(self) -> None:
        viewer = self._viewer()
        if viewer is None:
            return
        candidates = [x for x in viewer.layers if isinstance(x, Labels) and is_input(x)]
        channels = self.session.images.layout.arrangement == "channels"
        first_of: dict[str, int] = {}
        for number, row in enumerate(self.session.images.rows):
            if row.use:
                first_of.setdefault(row.group if channels else str(number), number)
        self.labels.setRowCount(len(first_of))
        self._labelled = list(first_of.values())
        for place, number in enumerate(self._labelled):
            row = self.session.images.rows[number]
            name = QTableWidgetItem(row.group if channels else row.name)
            name.setFlags(Qt.ItemFlag.ItemIsEnabled)
            self.labels.setItem(place, 0, name)
            box = self._labels_box(place)
            box.clear()
            box.addItem("choose...", None)
            for layer in candidates:
                box.addItem(layer.name, layer)
            show_choice(box, row.labels_layer())
        fit_height(self.labels, len(first_of), 2, 8, WHOLE)
