"""Fills the table of images from names, from a file or by a query, with the outcome in view."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.file_patterns import own_pattern
from napari_microdl.fields.metadata import (
    column,
    describe_row,
    field_name,
    match_table,
    metadata_table,
    read_names,
    read_table,
)
from napari_microdl.fields.query import select
from napari_microdl.gui.session.layers import ImageRow, file_of
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.inputs import plain_tip, sentence_label, take_font_size

_TABLES = "Tables (*.csv *.tsv *.parquet);;All files (*)"
_HEADINGS = {
    "name": "Field",
    "group": "Field",
    "channel": "Channel",
    "condition": "Condition",
    "well": "Well",
    "site": "Site",
    "plate": "Plate",
    "is_control": "Control",
}

Changes = dict[int, dict[str, Any]]


class _Page(QWidget):
    """One way to fill the table: what to enter, a preview, a button."""

    def __init__(self, session: Session, explanation: str) -> None:
        super().__init__()
        self.session = session
        self.changes: Changes = {}
        self.preview = QTableWidget(0, 1)
        self.preview.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.preview.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.preview.setTabKeyNavigation(False)
        self.preview.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.preview.setAccessibleName("Preview")
        self.preview.setToolTip("What would be filled in.")
        self.preview.verticalHeader().hide()
        self.message = sentence_label()
        self.apply = QPushButton("Fill in")
        self.apply.clicked.connect(self._apply)
        self.entry = QHBoxLayout()
        layout = QVBoxLayout(self)
        layout.addWidget(sentence_label(explanation))
        layout.addLayout(self.entry)
        layout.addWidget(self.preview, 1)
        layout.addWidget(self.message)
        layout.addWidget(self.apply, 0, Qt.AlignmentFlag.AlignRight)
        self.show_changes({}, "")

    def _apply(self) -> None:
        self.session.images.fill(self.changes)
        self.message.setText("Filled in.")

    def show_changes(self, changes: Changes, sentence: str) -> None:
        """Show what would be filled in, by the number of the row, and a sentence about it."""
        self.changes = changes
        conflict = self.session.images.conflict(changes)
        self.message.setText(f"⚠ {conflict}" if conflict else sentence)
        self.apply.setEnabled(bool(changes) and not conflict)
        found = dict.fromkeys(name for change in changes.values() for name in change)
        self.preview.setColumnCount(1 + len(found))
        self.preview.setHorizontalHeaderLabels(["Image", *(_HEADINGS[name] for name in found)])
        self.preview.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.preview.setRowCount(len(self.session.images.rows))
        for number, row in enumerate(self.session.images.rows):
            change = changes.get(number, {})
            for place, text in enumerate(
                [image_name(row), *(_text(change.get(name, "")) for name in found)]
            ):
                item = QTableWidgetItem(text)
                item.setToolTip(plain_tip(text))
                self.preview.setItem(number, place, item)

    def rows(self) -> list[ImageRow]:
        """Rows of the table of images."""
        return self.session.images.rows

    def refuse(self, error: MicrodlError) -> None:
        """Say why there is nothing to fill in."""
        self.show_changes({}, f"⚠ {error}")

    def refresh(self) -> None:
        """Follow the rows."""
        raise NotImplementedError


def image_name(row: ImageRow) -> str:
    """Name of the image of a row, as the user knows it."""
    layer = row.layer()
    return row.name if layer is None or row.index else layer.name


def _text(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


class NamesPage(_Page):
    """From the names of the images, by a pattern."""

    def __init__(self, session: Session) -> None:
        super().__init__(
            session,
            "Write how the names are made of {condition}, {well}, {site}, {plate}, {field} and "
            "{channel}; * stands for anything. For example {well}_{site}_*, or with the folder of "
            "the files {condition}/{well}_*",
        )
        self.pattern = QLineEdit("{well}_{site}")
        self.pattern.setToolTip("A pattern, or a regular expression with named groups.")
        self.pattern.textChanged.connect(self.refresh)
        self.entry.addWidget(self.pattern)
        self.refresh()

    def refresh(self) -> None:
        """Read the names by the pattern."""
        names = [image_name(row) for row in self.session.images.rows]
        pattern = self.pattern.text()
        try:
            if "/" in pattern:
                files = [file_of(row.layer()) or PurePath(image_name(row)) for row in self.rows()]
                read = own_pattern(pattern).read(files)
            else:
                read = read_names(names, pattern)
        except MicrodlError as error:
            self.refuse(error)
            return
        channels = self.session.images.layout.arrangement == "channels"
        changes: Changes = {}
        for number, values in enumerate(read):
            values = dict(values)
            channel = values.pop("channel", None)
            # Where images are channels, well and site tell whose; else a name is asked for.
            place = {part: value for part, value in values.items() if part != "condition"}
            field = values.pop("field", None) or (field_name(place) if channels else None)
            values = {part: value for part, value in values.items() if part not in ("z", "time")}
            if field:
                values["group" if channels else "name"] = field
            if channel is not None and channels:
                values["channel"] = channel
            if values:
                changes[number] = values
        self.show_changes(changes, f"{len(changes)} of {len(names)} names fit the pattern.")


class TablePage(_Page):
    """From a table with ``Metadata_*`` columns."""

    def __init__(self, session: Session) -> None:
        super().__init__(
            session,
            "Choose a CSV, TSV or Parquet file with one row a field: Metadata_condition, "
            "Metadata_control, Metadata_Well and so on. Rows are found by the name of the field "
            "or the file, or else by plate, well and site.",
        )
        self.path: Path | None = None
        self.choose = QPushButton("Choose a file...")
        self.choose.clicked.connect(self._ask)
        self.entry.addWidget(self.choose)
        self.entry.addStretch(1)

    def _ask(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Table of fields", "", _TABLES)
        if path:
            self.open(path)

    def open(self, path: str | Path) -> None:
        """Take the file of a table."""
        self.path = Path(path)
        self.refresh()

    def refresh(self) -> None:
        """Read the file and find the rows."""
        if self.path is None:
            self.show_changes({}, "")
            return
        try:
            table = read_table(self.path)
            changes = self._changes(table)
        except MicrodlError as error:
            self.refuse(error)
            return
        self.show_changes(
            changes,
            f"{self.path.name} has {len(table)} rows; {len(changes)} of "
            f"{len(self.session.images.rows)} images are among them.",
        )

    def _changes(self, table: pd.DataFrame) -> Changes:
        """What the table says of each image; a table of files also names fields and channels."""
        known = _described(self.session)
        of_files = {
            str(name)[len("FileName_") :]: table[[name]]
            for name in table.columns
            if str(name).lower().startswith("filename_")
        }
        named = column(table, "field", "name")
        if self.session.images.layout.arrangement != "channels" or named or len(of_files) < 2:
            rows = match_table(known, table)
            found = {n: describe_row(table, row) for n, row in enumerate(rows) if row is not None}
            return {number: change for number, change in found.items() if change}
        layers = [dataclasses.replace(row, name=image_name(row)) for row in self.rows()]
        changes: Changes = {}
        for channel, files in of_files.items():
            for number, row in enumerate(match_table(layers, files)):
                if row is not None:
                    change = describe_row(table, row)
                    name = field_name(change) or f"field {row + 1}"
                    changes[number] = {"group": name, "channel": channel, **change}
        return changes


class QueryPage(_Page):
    """Which fields are controls, by a question about what is known."""

    def __init__(self, session: Session) -> None:
        super().__init__(
            session,
            "Write which fields are controls, for example Metadata_condition == 'DMSO' or "
            "Metadata_Well in ['A01', 'A02'].",
        )
        self.query = QLineEdit()
        self.query.setPlaceholderText("Metadata_condition == 'DMSO'")
        self.query.textChanged.connect(self.refresh)
        self.entry.addWidget(self.query)

    def refresh(self) -> None:
        """Ask."""
        if not self.query.text().strip():
            self.show_changes({}, "")
            return
        try:
            picked = select(metadata_table(_described(self.session)), self.query.text())
        except MicrodlError as error:
            self.refuse(error)
            return
        self.show_changes(
            {number: {"is_control": bool(control)} for number, control in enumerate(picked)},
            f"{int(picked.sum())} of {len(picked)} images are controls.",
        )


def _described(session: Session) -> list[ImageRow]:
    """The rows under the names of their fields."""
    if session.images.layout.arrangement == "channels":
        return [dataclasses.replace(row, name=row.group) for row in session.images.rows]
    return list(session.images.rows)


class FillFields(QDialog):
    """The three ways to fill the table."""

    def __init__(self, session: Session, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Fill in the fields")
        self.names = NamesPage(session)
        self.table = TablePage(session)
        self.query = QueryPage(session)
        self.tabs = QTabWidget()
        self.tabs.addTab(self.names, "From names")
        self.tabs.addTab(self.table, "From a table")
        self.tabs.addTab(self.query, "Controls by a query")
        self.tabs.currentChanged.connect(self._on_tab)
        layout = QVBoxLayout(self)
        layout.addWidget(self.tabs)
        take_font_size(self)
        self.resize(620, 460)

    def _on_tab(self) -> None:
        self.tabs.currentWidget().refresh()
