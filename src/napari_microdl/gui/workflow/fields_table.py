"""The table of images: which take part, what they are called, and which are controls."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import pandas as pd
from qtpy.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt
from qtpy.QtGui import QFontMetrics, QResizeEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from napari_microdl.fields.metadata import metadata_table
from napari_microdl.gui.session.layers import file_of
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.inputs import fit_height, plain_tip
from napari_microdl.gui.widgets.save_actions import offer_table

_FIELDS = (("Use", "use"), ("Field", "name"), ("Condition", "condition"), ("Control", "is_control"))
_CHANNELS = (
    ("Use", "use"),
    ("Image", ""),
    ("Field", "group"),
    ("Channel", "channel"),
    ("Condition", "condition"),
    ("Control", "is_control"),
)
# Shown where they are known.
_PLACES = (("Well", "well"), ("Site", "site"))
_TIPS = {
    "Use": "Whether the image takes part in the run.",
    "Image": "The layer.",
    "Field": "One field of view; images with the same field name belong together.",
    "Channel": "What the image shows, for example DNA or actin.",
    "Condition": "Treatment of the well, for example DMSO; double-click to edit.",
    "Control": "Untreated cells: the whitening takes them as the origin.",
    "Well": "Well of the plate; fields of one well are kept together where some are left out.",
    "Site": "Place in the well.",
}
_TICKS = frozenset({"use", "is_control"})
# As wide as what they hold: cut, they tell nothing, and names need the room.
_SHORT = _TICKS | {"well", "site"}
# Of so many fields all are in view, as high as the table gets: two bars to scroll, one inside the
# other, are a nuisance. A table of more scrolls by itself, so that what stands below stays near.
WHOLE = 24
# Columns of text: what can be read at all, and what is comfortable.
_LEAST_CHARACTERS, _WIDTH_CHARACTERS = 6, 10
_Index: TypeAlias = QModelIndex | QPersistentModelIndex
_NO_PARENT = QModelIndex()


class FieldsModel(QAbstractTableModel):
    """The rows of a session."""

    def __init__(self, session: Session, parent: QWidget) -> None:
        super().__init__(parent)
        self._session = session
        self._shown: tuple[Any, ...] = ()

    def columns(self) -> tuple[tuple[str, str], ...]:
        """Heading and attribute of every column."""
        session = self._session
        columns = _CHANNELS if session.images.layout.arrangement == "channels" else _FIELDS
        known = tuple(c for c in _PLACES if any(getattr(row, c[1]) for row in session.images.rows))
        return columns + known

    def reload(self) -> None:
        """Follow the session; the selection is kept where the rows are the same."""
        shown = (self.columns(), *(row.key for row in self._session.images.rows))
        if shown == self._shown:
            if self.rowCount():
                last = self.index(self.rowCount() - 1, self.columnCount() - 1)
                self.dataChanged.emit(self.index(0, 0), last)
            return
        self.beginResetModel()
        self._shown = shown
        self.endResetModel()

    def rowCount(self, parent: _Index = _NO_PARENT) -> int:  # noqa: N802 (Qt's name)
        """Number of rows; a table has no children."""
        return 0 if parent.isValid() else max(len(self._shown) - 1, 0)

    def columnCount(self, parent: _Index = _NO_PARENT) -> int:  # noqa: N802
        """Number of columns."""
        return 0 if parent.isValid() else len(self.columns())

    def headerData(  # noqa: N802
        self,
        section: int,
        orientation: Qt.Orientation,
        role: int = Qt.ItemDataRole.DisplayRole,
    ) -> Any:
        """Headings and what they mean."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        heading = self.columns()[section][0]
        if role == Qt.ItemDataRole.DisplayRole:
            return heading
        return _TIPS[heading] if role == Qt.ItemDataRole.ToolTipRole else None

    def flags(self, index: _Index) -> Qt.ItemFlag:
        """Ticks can be ticked, texts edited."""
        _, attribute = self.columns()[index.column()]
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        if attribute in _TICKS:
            return flags | Qt.ItemFlag.ItemIsUserCheckable
        return flags | Qt.ItemFlag.ItemIsEditable if attribute else flags

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Cell contents."""
        if not index.isValid() or index.row() >= len(self._session.images.rows):
            return None
        heading, attribute = self.columns()[index.column()]
        row = self._session.images.rows[index.row()]
        layer = row.layer()
        image = "(closed)" if layer is None else layer.name
        if attribute in _TICKS:
            if role == Qt.ItemDataRole.CheckStateRole:
                ticked = getattr(row, attribute)
                return Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked
        elif role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.EditRole):
            return getattr(row, attribute) if attribute else image
        if role == Qt.ItemDataRole.ToolTipRole:
            path = file_of(layer)
            where = f"Layer: {image}" if path is None else f"Layer: {image}\nFile: {path}"
            return plain_tip(f"{where}\n{_TIPS[heading]}")
        return None

    def setData(  # noqa: N802
        self, index: _Index, value: Any, role: int = Qt.ItemDataRole.EditRole
    ) -> bool:
        """Pass an edit on to the session."""
        _, attribute = self.columns()[index.column()]
        if role == Qt.ItemDataRole.CheckStateRole:
            ticked = Qt.CheckState(value) == Qt.CheckState.Checked
            self._session.images.edit_rows([index.row()], **{attribute: ticked})
            return True
        if role == Qt.ItemDataRole.EditRole and attribute:
            text = str(value).strip()
            if text or attribute in {"condition", "well", "site"}:
                self._session.images.edit_rows([index.row()], **{attribute: text})
                return True
        return False


class FieldsTable(QTableView):
    """View of the rows; several can be selected and changed together."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.fields_model = FieldsModel(session, self)
        self.setModel(self.fields_model)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setWordWrap(False)
        # Names mostly differ at their end.
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setTabKeyNavigation(False)
        self.setAccessibleName("Fields")
        self.setToolTip(
            "Images that take part. Space ticks, F2 or a double-click edits; of several rows that "
            "are selected, the entries below change all."
        )
        self.verticalHeader().hide()
        self.fields_model.modelReset.connect(self.fit)
        offer_table(self, "fields", self.table)
        self.fit()

    def table(self) -> pd.DataFrame:
        """Everything that is known of the images, a row each, in columns ``Metadata_*``."""
        channels = self._session.images.layout.arrangement == "channels"
        rows = self._session.images.rows
        fields = [dataclasses.replace(row, name=row.group) for row in rows] if channels else rows
        table = metadata_table(fields)
        images = [row.layer() for row in rows]
        table.insert(0, "image", ["" if image is None else image.name for image in images])
        table.insert(1, "use", [row.use for row in rows])
        if channels:
            table.insert(2, "channel", [row.channel for row in rows])
        return table

    def fit(self) -> None:
        """Follow the number of rows and the size of the letters."""
        header = self.horizontalHeader()
        names = [attribute for _, attribute in self.fields_model.columns()]
        texts = [column for column, name in enumerate(names) if name not in _SHORT]
        metrics = QFontMetrics(self.font())
        letter = metrics.averageCharWidth()
        short = sum(metrics.horizontalAdvance(h) + 2 * letter for h, _ in self._short())
        # Too narrow to be read, columns get the width that they need and the table scrolls.
        wide = self.viewport().width() - short >= len(texts) * _LEAST_CHARACTERS * letter
        for column in range(len(names)):
            if column not in texts:
                header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
            elif wide or not self.isVisible():
                header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
            else:
                header.setSectionResizeMode(column, QHeaderView.ResizeMode.Interactive)
                header.resizeSection(column, _WIDTH_CHARACTERS * letter)
        fit_height(self, self.fields_model.rowCount(), 2, 8, WHOLE)
        if texts and header.sectionResizeMode(texts[0]) == QHeaderView.ResizeMode.Interactive:
            # The bar to scroll along the columns would cover the last row.
            self.setFixedHeight(self.height() + self.horizontalScrollBar().sizeHint().height())

    def _short(self) -> list[tuple[str, str]]:
        return [column for column in self.fields_model.columns() if column[1] in _SHORT]

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Give the columns other widths."""
        super().resizeEvent(event)
        self.fit()

    def selected_rows(self) -> list[int]:
        """Numbers of the selected rows."""
        return sorted(index.row() for index in self.selectionModel().selectedRows())
