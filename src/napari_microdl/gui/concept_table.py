"""The ranked table of concepts."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from qtpy.QtCore import (
    QAbstractTableModel,
    QModelIndex,
    QPersistentModelIndex,
    QSortFilterProxyModel,
    Qt,
    Signal,
)
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from napari_microdl.gui.session import Session

_COLUMNS = (
    ("#", "", "Place in the ranking, the most telling concept first."),
    ("Name", "name", "Double-click to give the concept a name; it is saved with the dictionary."),
    (
        "Selectivity",
        "selectivity",
        "Share of the label's cells in which the concept is active, minus its share among all "
        "others: 1 is perfect, 0 says nothing.",
    ),
    ("For", "label", "The condition that the selectivity is highest for."),
    (
        "AUC",
        "auc",
        "How well the concept's direction alone tells that condition from the rest: "
        "0.5 is chance, 1 is perfect.",
    ),
    ("Active", "activation_rate", "Share of all cells in which the concept is active."),
)
_Index: TypeAlias = QModelIndex | QPersistentModelIndex
_NO_PARENT = QModelIndex()
# Sorting by this role compares numbers as numbers.
_SORT = Qt.ItemDataRole.UserRole


class ConceptModel(QAbstractTableModel):
    """Concepts of the session's run, best first.

    Parameters
    ----------
    session : Session
        Where the run is.
    parent : QWidget
        Owner.
    """

    def __init__(self, session: Session, parent: QWidget) -> None:
        super().__init__(parent)
        self._session = session
        self._ranking = pd.DataFrame()

    def reload(self) -> None:
        """Follow the session's run."""
        self.beginResetModel()
        run = self._session.run
        self._ranking = pd.DataFrame() if run is None else run.result.activations.ranking
        self.endResetModel()

    def concept(self, row: int) -> int:
        """Number of the concept in a row."""
        return int(self._ranking.index[row])

    def row_of(self, concept: int) -> int:
        """Row of a concept."""
        return int(np.flatnonzero(self._ranking.index == concept)[0])

    def rowCount(self, parent: _Index = _NO_PARENT) -> int:  # noqa: N802 (Qt's name)
        """Number of concepts; a table has no children."""
        return 0 if parent.isValid() else len(self._ranking)

    def columnCount(self, parent: _Index = _NO_PARENT) -> int:  # noqa: N802
        """Number of columns."""
        return 0 if parent.isValid() else len(_COLUMNS)

    def headerData(  # noqa: N802
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Headings and what they mean."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        heading, _, tip = _COLUMNS[section]
        if role == Qt.ItemDataRole.DisplayRole:
            return heading
        return tip if role == Qt.ItemDataRole.ToolTipRole else None

    def flags(self, index: _Index) -> Qt.ItemFlag:
        """Only the name can be edited."""
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        return flags | Qt.ItemFlag.ItemIsEditable if index.column() == 1 else flags

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Cell contents."""
        if not index.isValid():
            return None
        _, column, tip = _COLUMNS[index.column()]
        value = index.row() + 1 if not column else self._ranking.iloc[index.row()][column]
        if role == _SORT:
            return value.item() if isinstance(value, np.generic) else value
        if role == Qt.ItemDataRole.EditRole:
            return str(value)
        if role == Qt.ItemDataRole.DisplayRole:
            if column == "activation_rate":
                return "dead" if value == 0 else f"{value:.1%}"
            if column in {"selectivity", "auc"}:
                return "-" if np.isnan(value) else f"{value:.2f}"
            return str(value)
        if role == Qt.ItemDataRole.ToolTipRole:
            return tip
        return None

    def setData(  # noqa: N802
        self, index: _Index, value: Any, role: int = Qt.ItemDataRole.EditRole
    ) -> bool:
        """Rename a concept."""
        if role != Qt.ItemDataRole.EditRole or not str(value).strip():
            return False
        self._session.rename_concept(self.concept(index.row()), str(value))
        self.dataChanged.emit(index, index)
        return True


class ConceptTable(QTableView):
    """View of the ranking: sortable, filtered by name or label, moved through with the arrow keys.

    Parameters
    ----------
    session : Session
        Where the run is.
    """

    concept_chosen = Signal(int)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.concepts = ConceptModel(session, self)
        self.proxy = QSortFilterProxyModel(self)
        self.proxy.setSourceModel(self.concepts)
        self.proxy.setSortRole(_SORT)
        self.proxy.setFilterKeyColumn(-1)
        self.proxy.setFilterCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.setModel(self.proxy)
        self.setSortingEnabled(True)
        self.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setWordWrap(False)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        for column in range(len(_COLUMNS)):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Interactive)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        for column, width in ((0, 30), (2, 74), (3, 62), (4, 44), (5, 52)):
            self.setColumnWidth(column, width)
        header.setMinimumSectionSize(30)
        self.selectionModel().currentRowChanged.connect(self._on_current)

    def _on_current(self, current: QModelIndex, _: QModelIndex) -> None:
        if current.isValid():
            self.concept_chosen.emit(self.concepts.concept(self.proxy.mapToSource(current).row()))

    def reload(self) -> None:
        """Follow the session's run."""
        self.concepts.reload()

    def select(self, concept: int) -> None:
        """Make a concept the current row, where the filter shows it."""
        source = self.concepts.index(self.concepts.row_of(concept), 1)
        index = self.proxy.mapFromSource(source)
        if index.isValid() and index.row() != self.currentIndex().row():
            self.setCurrentIndex(index)
