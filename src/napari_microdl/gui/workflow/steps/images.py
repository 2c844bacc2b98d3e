"""Images and channels: what is a field, which are controls, which channels count."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

from napari.viewer import Viewer
from qtpy.QtCore import QSignalBlocker, Qt
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

from napari_microdl.gui.dock import sentence_label
from napari_microdl.gui.session.layers import leading_shape
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.collapsible import Step
from napari_microdl.gui.widgets.inputs import combo, show_choice
from napari_microdl.gui.widgets.table_size import fit_height
from napari_microdl.gui.workflow.fields_table import FieldsTable
from napari_microdl.gui.workflow.fill_fields import FillFields


class ImagesStep(Step):
    """Images and channels: what is a field, which are controls, which channels count."""

    def __init__(self, session: Session, viewer: Viewer) -> None:
        super().__init__(session, "1  Images")
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
        self.table = FieldsTable(session)
        self.condition = QLineEdit()
        self.condition.setPlaceholderText("condition")
        self.condition.setToolTip("Type a condition and press Set, for all selected rows at once.")
        self.set_condition = QPushButton("Set")
        self.set_condition.setToolTip("Give the selected rows the condition that is written here.")
        self.mark_control = QPushButton("Control")
        self.mark_control.setToolTip("Mark the selected rows as untreated controls.")
        self.mark_treated = QPushButton("Treated")
        self.mark_treated.setToolTip("Mark the selected rows as treated.")
        self.fill = QPushButton("Fill in...")
        self.fill.setToolTip(
            "Conditions, wells and controls from the names of the images, from a table, or by a "
            "query."
        )
        self.fill.clicked.connect(self._fill)
        self.scaling = combo(
            {"Each by itself": "image", "All together": "plate"},
            lambda value: session.configure(scaling=value),
            "Over what background and mean intensity are measured. 'All together' keeps "
            "differences of brightness between images.",
        )
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
        self.channel_tokens = combo(
            {"Side by side": "concat", "Averaged": "mean"},
            lambda value: session.configure(channel_tokens=value),
            "How the tokens of several channels are put together for one patch.",
        )

        self.set_condition.clicked.connect(self._set_condition)
        self.condition.returnPressed.connect(self._set_condition)
        self.mark_control.clicked.connect(lambda: self._mark(True))
        self.mark_treated.clicked.connect(lambda: self._mark(False))
        layout = QVBoxLayout(self.content)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.arrangement)
        layout.addWidget(self.table)
        edit = QHBoxLayout()
        edit.addWidget(self.condition, 1)
        edit.addWidget(self.set_condition)
        layout.addLayout(edit)
        marks = QHBoxLayout()
        for button in (self.mark_control, self.mark_treated, self.fill):
            marks.addWidget(button)
        layout.addLayout(marks)
        self._form = self.form()
        self._form.addRow("Channel axis", self.channel_axis)
        layout.addLayout(self._form)
        layout.addWidget(self.split_rgb)
        layout.addWidget(self.channels)
        below = self.form()
        below.addRow("Several channels", self.channel_tokens)
        below.addRow("Brightness scale", self.scaling)
        layout.addLayout(below)
        self._below = below
        self.measured = sentence_label()
        self.measured.setToolTip(
            "Intensities that became 0 and that the others were measured against, per image and "
            "channel; they are stored in the dictionary and the report."
        )
        layout.addWidget(self.measured)

    def _change_layout(self, **changes: Any) -> None:
        viewer = self._viewer()
        if viewer is not None:
            layout = dataclasses.replace(self.session.layout, **changes)
            self.session.set_layout(layout, viewer.layers)

    def _fill(self) -> None:
        # Not modal: the table stays in view and in reach while it is filled.
        dialog = FillFields(self.session, self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.show()

    def _selected_or_all(self) -> list[int]:
        return self.table.selected_rows() or list(range(len(self.session.rows)))

    def _set_condition(self) -> None:
        self.session.edit_rows(self._selected_or_all(), condition=self.condition.text().strip())

    def _mark(self, is_control: bool) -> None:
        self.session.edit_rows(self._selected_or_all(), is_control=is_control)

    def _on_channel(self, item: QTableWidgetItem) -> None:
        if item.column() == 0:
            used = item.checkState() == Qt.CheckState.Checked
            self.session.edit_channel(item.row(), use=used)
        else:
            self.session.edit_channel(item.row(), name=item.text())

    def refresh(self) -> None:
        """Show rows, channels and choices as they are now."""
        layout, rows = self.session.layout, self.session.rows
        self.table.fields_model.reload()
        self.table.fit()
        show_choice(self.arrangement, layout.arrangement)
        show_choice(self.scaling, self.session.config.tokens.scaling)
        show_choice(self.channel_tokens, self.session.config.tokens.channel_tokens)
        images = [layer for row in rows if (layer := row.layer()) is not None]
        stacks = [layer for layer in images if leading_shape(layer)]
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
        self.measured.setText(self._measured())
        self.measured.setVisible(bool(self.measured.text()))
        used = self.session.used_rows()
        names = {r.group for r in used} if layout.arrangement == "channels" else used
        controls = [r for r in used if r.is_control]
        if layout.arrangement == "channels":
            n_controls = len({r.group for r in controls})
        else:
            n_controls = len(controls)
        shown = ", ".join(c.name for c in self.session.channels if c.use)
        self.set_summary(
            f"{len(names)} fields, {n_controls} of them controls; channels: {shown}" if used else ""
        )

    def _measured(self) -> str:
        """Limits of the intensities when tokens were last read, as ranges over the images."""
        report = self.session.limits
        if not report:
            return ""
        parts = []
        for channel in dict.fromkeys(entry["channel"] for entry in report):
            of_channel = [entry for entry in report if entry["channel"] == channel]
            low = _range([entry["background"] for entry in of_channel])
            high = _range([entry["reference"] for entry in of_channel])
            parts.append(f"{channel} background {low}, reference {high}")
        return f"Measured when tokens were last read: {'; '.join(parts)}."

    def _show_channels(self) -> None:
        channels = self.session.channels
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
        self._below.setRowVisible(self.channel_tokens, len(channels) > 1)


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"
