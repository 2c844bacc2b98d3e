"""Which images are fields, which fields are controls, which channels count."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

from napari.viewer import Viewer
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
)

from napari_microdl.core.text import listed
from napari_microdl.gui.dock import arranger_of
from napari_microdl.gui.session.layers import leading_shape
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.collapsible import Step
from napari_microdl.gui.widgets.inputs import combo, fit_height, sentence_label, show_choice
from napari_microdl.gui.workflow.fields_table import FieldsTable
from napari_microdl.gui.workflow.fill_fields import FillFields
from napari_microdl.gui.workflow.import_folder import ImportFolder
from napari_microdl.gui.workflow.match_labels import show_matches


class FieldsStep(Step):
    """Which images are fields, which fields are controls, which channels count.

    Signals
    -------
    message
        A sentence for the status line.
    """

    message = Signal(str)

    def __init__(self, session: Session, viewer: Viewer) -> None:
        super().__init__("1  Fields")
        self.session = session
        self._viewer = weakref.ref(viewer)
        self.arrangement = combo(
            {"Each image is a field": "fields", "Images are channels": "channels"},
            lambda value: self._change_layout(arrangement=value),
            "How the open images make up fields of view.",
        )
        self.channel_axis = combo(
            {},
            lambda value: self._change_layout(channel_axis=value),
            "Which axis of a stack holds channels. Its other leading axes (time, z, positions) "
            "give one field each.",
        )
        self.split_rgb = QCheckBox("Split RGB into channels")
        self.split_rgb.setToolTip("Uses red, green and blue of RGB images as three channels.")
        self.split_rgb.clicked.connect(lambda ticked: self._change_layout(split_rgb=bool(ticked)))
        self.import_folder = QPushButton("Import folder...")
        self.import_folder.setToolTip(
            "Opens the images of a folder, with wells, channels and conditions from their names."
        )
        self.import_folder.clicked.connect(self._import)
        self.label_like = sentence_label()
        self.match_labels = QPushButton("Match labels...")
        self.match_labels.setToolTip(
            "Shows which labels would belong to which field; images become Labels layers."
        )
        self.match_labels.clicked.connect(self._match)
        self.as_fields = QPushButton("Use as fields")
        self.as_fields.setToolTip("They are images all the same; list them as fields.")
        self.as_fields.clicked.connect(self._use_as_fields)
        self.table = FieldsTable(session)
        self.condition = QLineEdit()
        self.condition.setPlaceholderText("condition")
        self.condition.setToolTip("Type a condition and press Set, for all selected rows at once.")
        self.set_condition = QPushButton("Set")
        self.set_condition.setToolTip("Give the selected rows the condition that is written here.")
        self.control = QPushButton("Control")
        self.control.setToolTip("Mark the selected rows as untreated controls.")
        self.treated = QPushButton("Treated")
        self.treated.setToolTip("Mark the selected rows as treated.")
        self.fill = QPushButton("Fill in...")
        self.fill.setToolTip(
            "Conditions, wells and controls from the names of the images, from a table, or by a "
            "query."
        )
        self.fill.clicked.connect(self._fill)
        self.arranger = arranger_of(viewer)
        self.on_top = sentence_label()
        self.on_top.setText("Images lie on top of each other.")
        self.arrange = QPushButton("Arrange")
        self.arrange.setToolTip(
            "Put the fields side by side, controls above treated, with captions. Only how they are "
            "shown changes."
        )
        self.arrange.clicked.connect(self.arranger.arrange)
        self.restore = QPushButton("Put back")
        self.restore.setToolTip("Show every image where it was before.")
        self.restore.clicked.connect(self.arranger.restore)
        self.channels = QTableWidget(0, 2)
        self.channels.setHorizontalHeaderLabels(["Use", "Channel"])
        self.channels.verticalHeader().hide()
        self.channels.setTabKeyNavigation(False)
        self.channels.setAccessibleName("Channels")
        self.channels.setToolTip(
            "Channels in the order in which the model reads them. Space ticks, F2 or a "
            "double-click renames."
        )
        header = self.channels.horizontalHeader()
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        self.channels.itemChanged.connect(self._on_channel)
        self.set_condition.clicked.connect(self._set_condition)
        self.condition.returnPressed.connect(self._set_condition)
        self.control.clicked.connect(lambda: self._set_control(True))
        self.treated.clicked.connect(lambda: self._set_control(False))
        layout = QVBoxLayout(self.content)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.import_folder)
        layout.addWidget(self.arrangement)
        layout.addWidget(self.table)
        layout.addWidget(self.label_like)
        looks = QHBoxLayout()
        looks.addWidget(self.match_labels)
        looks.addWidget(self.as_fields)
        layout.addLayout(looks)
        edit = QHBoxLayout()
        edit.addWidget(self.condition, 1)
        edit.addWidget(self.set_condition)
        layout.addLayout(edit)
        buttons = QHBoxLayout()
        for button in (self.control, self.treated, self.fill):
            buttons.addWidget(button)
        layout.addLayout(buttons)
        arranging = QHBoxLayout()
        arranging.addWidget(self.on_top, 1)
        for button in (self.arrange, self.restore):
            arranging.addWidget(button)
        layout.addLayout(arranging)
        self._form = self.form()
        self._form.addRow("Channel axis", self.channel_axis)
        layout.addLayout(self._form)
        layout.addWidget(self.split_rgb)
        layout.addWidget(self.channels)

    def _change_layout(self, **changes: Any) -> None:
        viewer = self._viewer()
        if viewer is not None:
            layout = dataclasses.replace(self.session.images.layout, **changes)
            self.session.images.set_layout(layout, viewer.layers)

    def _fill(self) -> None:
        # Not modal: the table stays in view and in reach while it is filled.
        dialog = FillFields(self.session, self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.show()

    def _import(self) -> None:
        viewer = self._viewer()
        if viewer is not None:
            dialog = ImportFolder(viewer, self.session, self)
            dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
            dialog.message.connect(self.message)
            dialog.show()

    def _match(self) -> None:
        viewer = self._viewer()
        if viewer is not None:
            show_matches(viewer, self.session, self)

    def _use_as_fields(self) -> None:
        viewer = self._viewer()
        if viewer is not None:
            images = self.session.images
            images.use_as_fields(images.label_like(), viewer.layers)

    def _show_label_like(self) -> None:
        found = [image.name for image in self.session.images.label_like()]
        one = len(found) == 1
        self.label_like.setText(
            f"{listed(found)} {'looks' if one else 'look'} like the labels of cells, and "
            f"{'is' if one else 'are'} therefore no {'field' if one else 'fields'}."
        )
        for widget in (self.label_like, self.match_labels, self.as_fields):
            widget.setVisible(bool(found))

    def _selected_or_all(self) -> list[int]:
        return self.table.selected_rows() or list(range(len(self.session.images.rows)))

    def _set_condition(self) -> None:
        self.session.images.edit_rows(
            self._selected_or_all(), condition=self.condition.text().strip()
        )

    def _set_control(self, is_control: bool) -> None:
        self.session.images.edit_rows(self._selected_or_all(), is_control=is_control)

    def _on_channel(self, item: QTableWidgetItem) -> None:
        if item.column() == 0:
            used = item.checkState() == Qt.CheckState.Checked
            self.session.images.edit_channel(item.row(), use=used)
        else:
            self.session.images.edit_channel(item.row(), name=item.text())

    def refresh(self) -> None:
        """Show rows, channels and choices as they are now."""
        layout, rows = self.session.images.layout, self.session.images.rows
        self.table.fields_model.reload()
        self.table.fit()
        show_choice(self.arrangement, layout.arrangement)
        images = [layer for row in rows if (layer := row.layer()) is not None]
        stacks = [layer for layer in images if any(n > 1 for n in leading_shape(layer))]
        self._form.setRowVisible(self.channel_axis, bool(stacks))
        if stacks:
            most = max(stacks, key=lambda layer: layer.ndim)
            self.channel_axis.clear()
            if layout.channel_axis == "ask":
                self.channel_axis.addItem("choose...", "ask")
            self.channel_axis.addItem("none: every plane is a field", "none")
            for axis, length in enumerate(leading_shape(most)):
                name = str(most.axis_labels[axis])
                name = f" '{name}'" if not name.startswith("-") else ""
                self.channel_axis.addItem(f"axis {axis}{name} ({length} planes)", axis)
            show_choice(self.channel_axis, layout.channel_axis)
        self.split_rgb.setVisible(any(layer.rgb for layer in images))
        self.split_rgb.setChecked(layout.split_rgb)
        self._show_channels()
        self._show_label_like()
        self.show_arranging()
        used = self.session.images.used_rows()
        names = {r.group for r in used} if layout.arrangement == "channels" else used
        controls = [r for r in used if r.is_control]
        if layout.arrangement == "channels":
            n_controls = len({r.group for r in controls})
        else:
            n_controls = len(controls)
        shown = ", ".join(c.name for c in self.session.images.channels if c.use)
        self.set_summary(
            f"{len(names)} fields, {n_controls} of them controls; channels: {shown}" if used else ""
        )

    def show_arranging(self) -> None:
        """Offer to arrange fields that share a place, and to put them back."""
        overlap, is_wanted = self.arranger.look()
        self.on_top.setVisible(overlap)
        self.arrange.setVisible(is_wanted)
        self.restore.setVisible(self.arranger.is_arranged)

    def _show_channels(self) -> None:
        channels = self.session.images.channels
        with QSignalBlocker(self.channels):
            self.channels.setRowCount(len(channels))
            for number, channel in enumerate(channels):
                tick = QTableWidgetItem()
                tick.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
                tick.setCheckState(
                    Qt.CheckState.Checked if channel.use else Qt.CheckState.Unchecked
                )
                self.channels.setItem(number, 0, tick)
                self.channels.setItem(number, 1, QTableWidgetItem(channel.name))
        fit_height(self.channels, len(channels), 1, 6)
