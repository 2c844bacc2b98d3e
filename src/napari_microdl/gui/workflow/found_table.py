"""The fields that were found in a folder, before they are opened; conditions can be corrected."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from napari_microdl.fields.file_patterns import is_control
from napari_microdl.fields.named_files import NamedFiles
from napari_microdl.gui.widgets.inputs import plain_tip

_COLUMNS = {
    "Field": "One field of view.",
    "Channels": "What the files of the field are called.",
    "Plate": "Plate of the well.",
    "Well": "Well of the plate.",
    "Site": "Place in the well.",
    "Condition": "Treatment of the well; F2 or a double-click edits.",
    "Control": "Untreated cells; ticked where the condition is called so. Space ticks.",
    "Labels": "File with the cells of the field.",
}
_EDITABLE, _TICK = "Condition", "Control"
_Index: TypeAlias = QModelIndex | QPersistentModelIndex
_NO_PARENT = QModelIndex()


class FoundModel(QAbstractTableModel):
    """Fields and what a person has corrected of them, which stays when they are found anew."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.fields: list[NamedFiles] = []
        self._corrected: dict[str, dict[str, Any]] = {}

    def show_fields(self, fields: Sequence[NamedFiles]) -> None:
        """Show other fields, with what was corrected of those of the same names."""
        self.beginResetModel()
        self.fields = [dataclasses.replace(f, **self._corrected.get(f.name, {})) for f in fields]
        self.endResetModel()

    def correct(self, changes: Mapping[int, Mapping[str, Any]]) -> None:
        """Change what is known of fields, by their number."""
        for number, change in changes.items():
            field = self.fields[number]
            known = dict(change)
            if "condition" in known and "is_control" not in known:
                known["is_control"] = is_control(known["condition"])
            self._corrected.setdefault(field.name, {}).update(known)
            self.fields[number] = dataclasses.replace(field, **known)
        if self.fields:
            last = self.index(len(self.fields) - 1, len(_COLUMNS) - 1)
            self.dataChanged.emit(self.index(0, 0), last)

    def rowCount(self, parent: _Index = _NO_PARENT) -> int:  # noqa: N802 (Qt's name)
        """Number of rows; a table has no children."""
        return 0 if parent.isValid() else len(self.fields)

    def columnCount(self, parent: _Index = _NO_PARENT) -> int:  # noqa: N802
        """Number of columns."""
        return 0 if parent.isValid() else len(_COLUMNS)

    def headerData(  # noqa: N802
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Headings and what they mean."""
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return list(_COLUMNS)[section]
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.ToolTipRole:
            return list(_COLUMNS.values())[section]
        return None

    def flags(self, index: _Index) -> Qt.ItemFlag:
        """Conditions can be edited, controls ticked."""
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        heading = list(_COLUMNS)[index.column()]
        if heading == _EDITABLE:
            return flags | Qt.ItemFlag.ItemIsEditable
        return flags | Qt.ItemFlag.ItemIsUserCheckable if heading == _TICK else flags

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Cell contents; the files as a tool tip."""
        if not index.isValid() or index.row() >= len(self.fields):
            return None
        field, heading = self.fields[index.row()], list(_COLUMNS)[index.column()]
        if role == Qt.ItemDataRole.ToolTipRole:
            # Elided text in whole, and where it came from.
            return plain_tip("\n".join(str(f) for f in (*field.files, field.labels) if f))
        if heading == _TICK:
            if role != Qt.ItemDataRole.CheckStateRole:
                return None
            return Qt.CheckState.Checked if field.is_control else Qt.CheckState.Unchecked
        if role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.EditRole):
            return None
        return {
            "Field": field.name,
            "Channels": ", ".join(field.channel_names) or "as the file has them",
            "Plate": field.plate,
            "Well": field.well,
            "Site": field.site,
            "Condition": field.condition,
            "Labels": "" if field.labels is None else field.labels.name,
        }[heading]

    def setData(  # noqa: N802
        self, index: _Index, value: Any, role: int = Qt.ItemDataRole.EditRole
    ) -> bool:
        """Keep a correction."""
        if role == Qt.ItemDataRole.CheckStateRole:
            ticked = Qt.CheckState(value) == Qt.CheckState.Checked
            self.correct({index.row(): {"is_control": ticked}})
            return True
        if role == Qt.ItemDataRole.EditRole:
            self.correct({index.row(): {"condition": str(value).strip()}})
            return True
        return False


class FoundTable(QTableView):
    """View of the fields that were found."""

    def __init__(self) -> None:
        super().__init__()
        self.found = FoundModel(self)
        self.setModel(self.found)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        # Names mostly begin and end alike or differ at their end.
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setAccessibleName("Fields that were found")
        self.setToolTip("What would be opened.")
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        # Of thousands of rows those in view tell how wide a column is.
        header.setResizeContentsPrecision(0)
        for heading in ("Field", "Channels", "Condition", "Labels"):
            column = list(_COLUMNS).index(heading)
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)

    def show_fields(self, fields: Sequence[NamedFiles]) -> None:
        """Show fields, in columns of which some field has something."""
        self.found.show_fields(fields)
        known = {
            "Plate": any(field.plate for field in fields),
            "Well": any(field.well for field in fields),
            "Site": any(field.site for field in fields),
            "Labels": any(field.labels for field in fields),
        }
        for column, heading in enumerate(_COLUMNS):
            self.setColumnHidden(column, not known.get(heading, True))
