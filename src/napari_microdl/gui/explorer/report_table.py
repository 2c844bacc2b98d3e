"""One table of an evaluation; a row shows its concept."""

from __future__ import annotations

from typing import Any

import pandas as pd
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import (
    QAbstractItemView,
    QAbstractScrollArea,
    QHeaderView,
    QLabel,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_microdl.gui.widgets.inputs import sentence_label
from napari_microdl.gui.widgets.save_actions import offer_table
from napari_microdl.report.text import Table, columns_of, value_text

_MOST_ROWS = 50
_ROWS_IN_VIEW = 8
_CONCEPT = Qt.ItemDataRole.UserRole


class ReportTable(QWidget):
    """A heading and a table, hidden while there is nothing to show.

    Signals
    -------
    concept_chosen(int)
        The concept of the row that was clicked, or reached by the arrow keys.
    """

    concept_chosen = Signal(int)

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table
        self._rows: list[dict[str, Any]] = []
        self._names: list[str] = []
        heading = QLabel(table.heading)
        font = heading.font()
        font.setBold(True)
        heading.setFont(font)
        heading.setToolTip(table.meaning)
        heading.setWordWrap(True)
        self.more = sentence_label()
        self.view = QTableWidget()
        self.view.setAccessibleName(table.heading)
        self.view.setAccessibleDescription(table.meaning)
        self.view.setToolTip(table.meaning)
        self.view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.view.setTabKeyNavigation(False)
        self.view.setWordWrap(False)
        self.view.verticalHeader().hide()
        row = QFontMetrics(self.view.font()).height() + 6
        self.view.verticalHeader().setMinimumSectionSize(row)
        self.view.verticalHeader().setDefaultSectionSize(row)
        # As tall as its rows and as wide as the dock.
        self.view.setSizeAdjustPolicy(QAbstractScrollArea.SizeAdjustPolicy.AdjustToContents)
        self.view.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.view.setMaximumHeight((_ROWS_IN_VIEW + 2) * row)
        self.view.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.view.itemSelectionChanged.connect(self._on_selection)
        # A row that is selected already says nothing when it is clicked again.
        self.view.itemClicked.connect(self._on_selection)
        offer_table(self.view, table.heading.lower(), self.frame)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for widget in (heading, self.view, self.more):
            layout.addWidget(widget)

    def show_rows(self, rows: list[dict[str, Any]], names: list[str]) -> None:
        """Show other rows, of more than 50 the first, or none."""
        self._rows = rows
        self.setVisible(bool(rows))
        columns = columns_of(self.table, rows)
        self.view.clear()
        self.view.setColumnCount(len(columns))
        self.view.setRowCount(min(len(rows), _MOST_ROWS))
        for place, column in enumerate(columns):
            head = QTableWidgetItem(column.heading)
            head.setToolTip(column.meaning)
            self.view.setHorizontalHeaderItem(place, head)
            for number, row in enumerate(rows[:_MOST_ROWS]):
                value = row.get(column.key)
                item = QTableWidgetItem(value_text(value))
                item.setToolTip(f"{column.heading}: {column.meaning}")
                if isinstance(value, int | float):
                    item.setTextAlignment(
                        Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                    )
                if column.key == "concept_name":
                    item.setData(_CONCEPT, row["concept"])
                self.view.setItem(number, place, item)
        self.name_concepts(names)
        left_out = len(rows) - _MOST_ROWS
        self.more.setText(f"{left_out:,} more are in the saved report." if left_out > 0 else "")
        self.more.setVisible(left_out > 0)

    def name_concepts(self, names: list[str]) -> None:
        """Call the concepts by their present names."""
        self._names = names
        for row in range(self.view.rowCount()):
            for place in range(self.view.columnCount()):
                item = self.view.item(row, place)
                concept = item.data(_CONCEPT) if item is not None else None
                if concept is not None and item is not None:
                    item.setText(names[concept])

    def frame(self) -> pd.DataFrame:
        """All rows with their exact numbers, under the names that the report has for columns."""
        keys = [column.key for column in columns_of(self.table, self._rows)]
        frame = pd.DataFrame([{key: row.get(key) for key in keys} for row in self._rows])
        if "concept_name" in keys:
            concepts = [row["concept"] for row in self._rows]
            frame["concept_name"] = [self._names[concept] for concept in concepts]
            frame.insert(keys.index("concept_name"), "concept", concepts)
        return frame

    def _on_selection(self) -> None:
        for item in self.view.selectedItems():
            if item.data(_CONCEPT) is not None:
                self.concept_chosen.emit(item.data(_CONCEPT))
