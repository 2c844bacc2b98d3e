"""The ranked table of concepts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
from qtpy.QtGui import QFontMetrics, QKeySequence
from qtpy.QtWidgets import QAbstractItemView, QAction, QHeaderView, QTableView, QWidget

from napari_microdl.gui.session.run import Run
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.inputs import plain_tip
from napari_microdl.report import technical_concepts
from napari_microdl.report.concept_summary import percent, wells_limit

_Index: TypeAlias = QModelIndex | QPersistentModelIndex
_NO_PARENT = QModelIndex()


def _two_digits(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _signed(value: float) -> str:
    # Zero is added for its sign: what is rounded up to zero keeps a minus.
    return "-" if np.isnan(value) else f"{round(value, 2) + 0.0:+.2f}"


def _percent(share: float) -> str:
    return percent(share).removesuffix(" %")


def _small(value: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Its values come from the run and its ranking; the widest text decides its width. What is
    advanced is hidden until it is asked for.
    """

    heading: str
    tip: str
    values: Callable[[Run, pd.DataFrame], list[Any]]
    text: Callable[[Any], str] = str
    widest: str = "-0.00"
    advanced: bool = False


def _column_of(name: str) -> Callable[[Run, pd.DataFrame], list[Any]]:
    return lambda _, ranking: ranking[name].tolist()


_PLACES = {"cells": "cells", "field": "whole field", "": ""}


def _flags(run: Run, ranking: pd.DataFrame) -> list[str]:
    names = run.result.dictionary.names
    return [
        "dead"
        if dead
        else f"like {names[other]}"
        if other >= 0
        else "whole field"
        if place == "field"
        else ""
        for dead, other, place in zip(
            ranking["dead"], ranking["duplicate_of"], ranking["place"], strict=True
        )
    ]


_WELLS = (
    "How often an effect like this is luck, wells counted as independent: Mann-Whitney test of "
    "their means, after correction for looking at all concepts (Benjamini-Hochberg). The "
    "concepts were learned on these wells, which it does not allow for: the test in the tab "
    "Evaluation does. - with fewer than two wells of controls or of the "
    "condition; a field without a well counts as one."
)
COLUMNS = (
    Column(
        "#",
        "Place in the ranking, the most telling concept first.",
        lambda _, ranking: list(range(1, len(ranking) + 1)),
        widest="8192",
    ),
    Column(
        "Name",
        "Double-click or press F2 to give the concept a name; it is saved with the dictionary.",
        _column_of("name"),
        widest="concept 8192",
    ),
    Column(
        "For",
        "The condition that the concept tells best from all others.",
        _column_of("label"),
        widest="condition",
    ),
    Column(
        "Treated %",
        "Share of the cells of the condition under For that show the concept, in percent.",
        _column_of("rate_label"),
        _percent,
        widest="100",
    ),
    Column(
        "Controls %",
        "Share of the control cells that show the concept, in percent.",
        _column_of("rate_controls"),
        _percent,
        widest="100",
    ),
    Column(
        "Where",
        "Where the concept lies in images of its condition: in the cells, or in the whole field, "
        "because the background between cells tells the condition from controls as well. Empty "
        "where there is too little background to tell.",
        lambda _, ranking: [_PLACES[place] for place in ranking["place"]],
        widest="whole field",
    ),
    Column(
        "Flag",
        "Dead: no cell shows it. Like another: a concept that more cells show is nearly the same. "
        "Whole field: background shows it as well (see Where). "
        "Technical: tells plates, or sites in a well, apart among controls beyond chance, as the "
        "last evaluation of the run found (tab Evaluation, batch effects).",
        _flags,
        widest="technical",
    ),
    Column(
        "Group",
        "Of a dictionary that was learned on controls first: whether the concept was seen in "
        "controls, or only in treated cells.",
        _column_of("group"),
        lambda group: "" if group == "any" else str(group),
        widest="control",
    ),
    Column(
        "Tag",
        "The tag that you gave it in the tab Tags; it is saved with the dictionary.",
        lambda run, ranking: [run.result.dictionary.tags[c] for c in ranking.index],
        widest="control-like",
    ),
    Column(
        "Average",
        "Average selectivity: share of the label's cells in which the concept is active, minus its "
        "share among all others: 1 is perfect, 0 says nothing.",
        _column_of("selectivity"),
        _two_digits,
        advanced=True,
    ),
    Column(
        "Effect",
        "Control against the condition under For (Cliff's delta): how much likelier a cell of that "
        "condition has the higher activation than a control cell: +1 always, 0 as often as not, -1 "
        "never. Cells of other treatments are left out.",
        _column_of("effect"),
        _signed,
        advanced=True,
    ),
    Column("q wells", _WELLS, _column_of("q_wells"), _small, widest="1e-300", advanced=True),
    Column(
        "q cells",
        "The same test, cells counted as independent. They are not: cells of one well are alike, "
        "so this is far too small, and no evidence by itself.",
        _column_of("q_cells"),
        _small,
        widest="1e-300",
        advanced=True,
    ),
    Column(
        "Max",
        "Max selectivity: share of the label's cells in which the concept is active, minus its "
        "share in the condition that comes next: above 0, no other condition shows it as often.",
        _column_of("max_selectivity"),
        _two_digits,
        advanced=True,
    ),
    Column(
        "AUC",
        "How well the concept's direction alone tells the label from the rest: "
        "0.5 is chance, 1 is perfect.",
        _column_of("auc"),
        _two_digits,
        advanced=True,
    ),
    Column(
        "Active",
        "Share of all cells in which the concept is active.",
        _column_of("activation_rate"),
        lambda rate: f"{rate:.1%}",
        widest="100.0%",
        advanced=True,
    ),
    Column(
        "Left",
        "AUC of cells of its condition against cells of controls that is left when every field's "
        "own background is its reference.",
        _column_of("auc_left"),
        _two_digits,
        advanced=True,
    ),
    Column(
        "On cells",
        "How often a patch of a cell is hotter than one of the background of the same field, in "
        "images of its condition: 1 is always, 0.5 as often as not.",
        _column_of("in_cells"),
        _two_digits,
        advanced=True,
    ),
    Column(
        "Background",
        "How well the background between cells tells its condition from controls (AUC): 0.5 is not "
        "at all; above 0.7 the concept is flagged as one of the whole field.",
        _column_of("background_auc"),
        _two_digits,
        advanced=True,
    ),
    Column(
        "In wells",
        "Share of its variance among cells of its condition that lies within wells, so from cell "
        "to cell. - with one well.",
        _column_of("within_wells"),
        _two_digits,
        advanced=True,
    ),
)
HEADINGS = tuple(column.heading for column in COLUMNS)
NAME, FLAG, GROUP, TAG, WELLS = (
    HEADINGS.index(name) for name in ("Name", "Flag", "Group", "Tag", "q wells")
)


class ConceptModel(QAbstractTableModel):
    """Concepts of the session's run, best first.

    All values are made once a run: Qt asks for every visible cell on each repaint.
    """

    def __init__(self, session: Session, parent: QWidget) -> None:
        super().__init__(parent)
        self._session = session
        self._concepts: list[int] = []
        self._rows: dict[int, int] = {}
        self._values: list[list[Any]] = [[] for _ in COLUMNS]
        self._texts: list[str] = []

    def reload(self) -> None:
        """Follow the session's run."""
        self.beginResetModel()
        run = self._session.run.current
        ranking = pd.DataFrame() if run is None else run.result.activations.ranking
        self._concepts = [int(concept) for concept in ranking.index]
        self._rows = {concept: row for row, concept in enumerate(self._concepts)}
        self._values = [[] if run is None else c.values(run, ranking) for c in COLUMNS]
        self._flag_technical()
        self._collect_texts()
        self.endResetModel()

    def refresh_texts(self) -> None:
        """Follow names and tags, which a person changes, and what an evaluation found."""
        run = self._session.run.current
        if run is None or not self._concepts:
            return
        ranking = run.result.activations.ranking.loc[self._concepts]
        for number in (NAME, FLAG, TAG):
            self._values[number] = COLUMNS[number].values(run, ranking)
        self._flag_technical()
        self._collect_texts()
        last = len(self._concepts) - 1
        self.dataChanged.emit(self.index(0, NAME), self.index(last, TAG))

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Reorder the rows by a column, equal ones by their place in the ranking.

        Done here at once: the proxy would ask for two values a comparison, through Qt, which takes
        a second for 8,192 rows.
        """
        if not self._concepts:
            return
        self.layoutAboutToBeChanged.emit()
        # NaN is neither above nor below anything, which would leave the order to chance.
        keys = [-np.inf if v != v else v for v in self._values[column]]
        ranked = sorted(range(len(keys)), key=self._values[0].__getitem__)
        reverse = order == Qt.SortOrder.DescendingOrder
        new = sorted(ranked, key=keys.__getitem__, reverse=reverse)
        self._concepts = [self._concepts[row] for row in new]
        self._values = [[values[row] for row in new] for values in self._values]
        self._texts = [self._texts[row] for row in new]
        self._rows = {concept: row for row, concept in enumerate(self._concepts)}
        moved = {old: row for row, old in enumerate(new)}
        before = self.persistentIndexList()
        after = [self.index(moved[i.row()], i.column()) for i in before]
        self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()

    def concept(self, row: int) -> int:
        """Number of the concept in a row."""
        return self._concepts[row]

    def row_of(self, concept: int) -> int:
        """Row of a concept."""
        return self._rows[concept]

    def _flag_technical(self) -> None:
        """Add what the evaluation of the run found, which is not of the run itself."""
        flags = self._values[FLAG]
        for concept in technical_concepts(self._session.run.report):
            row = self._rows[concept]
            flags[row] = f"{flags[row]}, technical" if flags[row] else "technical"

    def _collect_texts(self) -> None:
        columns = [v for v in self._values if v and isinstance(v[0], str)]
        self._texts = [" ".join(row).lower() for row in zip(*columns, strict=True)]

    def matches(self, row: int, terms: list[str]) -> bool:
        """Whether a row holds every word, in any column of texts."""
        return all(term in self._texts[row] for term in terms)

    def has_groups(self) -> bool:
        """Whether the dictionary was learned on controls first."""
        return any(group != "any" for group in self._values[GROUP])

    def is_flagged(self, row: int) -> bool:
        """Whether the concept in a row is dead, a duplicate or technical."""
        return bool(self._values[FLAG][row])

    def rowCount(self, parent: _Index = _NO_PARENT) -> int:  # noqa: N802 (Qt's name)
        """Number of concepts; a table has no children."""
        return 0 if parent.isValid() else len(self._concepts)

    def columnCount(self, parent: _Index = _NO_PARENT) -> int:  # noqa: N802
        """Number of columns."""
        return 0 if parent.isValid() else len(COLUMNS)

    def headerData(  # noqa: N802
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Headings and what they mean."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return COLUMNS[section].heading
        return COLUMNS[section].tip if role == Qt.ItemDataRole.ToolTipRole else None

    def flags(self, index: _Index) -> Qt.ItemFlag:
        """Only the name can be edited."""
        if not index.isValid():
            return Qt.ItemFlag.NoItemFlags
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        return flags | Qt.ItemFlag.ItemIsEditable if index.column() == NAME else flags

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Cell contents."""
        if not index.isValid():
            return None
        number = index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return COLUMNS[number].text(self._values[number][index.row()])
        if role == Qt.ItemDataRole.EditRole:
            return self._values[number][index.row()]
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._tip(number, index.row())
        return None

    def _tip(self, number: int, row: int) -> str:
        run, tip = self._session.run.current, COLUMNS[number].tip
        if run is None:
            return tip
        if number == WELLS:
            label = str(self._values[HEADINGS.index("For")][row])
            return plain_tip(f"{wells_limit(run.result.activations, label)} {tip}")
        note = run.result.dictionary.notes[self._concepts[row]]
        return plain_tip(note) if number == NAME and note else tip

    def setData(  # noqa: N802
        self, index: _Index, value: Any, role: int = Qt.ItemDataRole.EditRole
    ) -> bool:
        """Rename a concept."""
        if role != Qt.ItemDataRole.EditRole or not str(value).strip():
            return False
        self._session.run.rename_concept(self.concept(index.row()), str(value))
        self.dataChanged.emit(index, index)
        return True


class ConceptFilter(QSortFilterProxyModel):
    """Searches the texts of a row, can hide flagged concepts, and leaves sorting to the model."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._terms: list[str] = []
        self._hide_flagged = False

    def search(self, text: str) -> None:
        """Show rows that hold every word of a text, in any column of texts."""
        self._terms = text.lower().split()
        self.invalidateFilter()

    def hide_flagged(self, hide: bool) -> None:
        """Hide dead concepts, duplicates and technical ones, or show them."""
        self._hide_flagged = hide
        self.invalidateFilter()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort the model itself, whose order is kept here."""
        model = self.sourceModel()
        if model is not None and column >= 0:
            model.sort(column, order)

    def filterAcceptsRow(self, row: int, parent: _Index) -> bool:  # noqa: N802 (Qt's name)
        """Whether a row is shown."""
        model = self.sourceModel()
        assert isinstance(model, ConceptModel)
        return model.matches(row, self._terms) and not (
            self._hide_flagged and model.is_flagged(row)
        )


class ConceptTable(QTableView):
    """View of the ranking: sortable, searched, moved through with the arrow keys."""

    concept_chosen = Signal(int)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.concepts = ConceptModel(session, self)
        self.proxy = ConceptFilter(self)
        self.proxy.setSourceModel(self.concepts)
        self.setModel(self.proxy)
        self.setSortingEnabled(True)
        self.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.setAccessibleName("Concepts")
        self.setToolTip(
            "Up and down show one concept after the other, F2 or a double-click renames it. A "
            "click on a heading sorts; so do Alt+Up and Alt+Down by the column of the cursor."
        )
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self._fit_columns()
        self._add_actions()
        self.selectionModel().currentRowChanged.connect(self._on_current)

    def _add_actions(self) -> None:
        """What a click on a heading does, by the keyboard; the menu of the table tells the keys."""
        orders = Qt.SortOrder
        for text, keys, order in (
            ("Sort by this column, smallest first", "Alt+Up", orders.AscendingOrder),
            ("Sort by this column, largest first", "Alt+Down", orders.DescendingOrder),
        ):
            action = QAction(text, self)
            action.setShortcut(QKeySequence(keys))
            action.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
            action.triggered.connect(partial(self._sort_by_current, order=order))
            self.addAction(action)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.ActionsContextMenu)

    def _sort_by_current(self, *_: bool, order: Qt.SortOrder) -> None:
        if self.currentIndex().isValid():
            self.sortByColumn(self.currentIndex().column(), order)

    def _fit_columns(self) -> None:
        """Widths follow the font, which the user may have made larger."""
        metrics = QFontMetrics(self.font())
        gap = metrics.horizontalAdvance("M")
        for number, column in enumerate(COLUMNS):
            widths = [metrics.horizontalAdvance(t) for t in (column.heading, column.widest)]
            self.setColumnWidth(number, max(widths) + gap)
        self.verticalHeader().setDefaultSectionSize(round(metrics.height() * 1.5))

    def changeEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        """Follow another font size."""
        super().changeEvent(event)
        if event.type() in (event.Type.FontChange, event.Type.StyleChange):
            self._fit_columns()

    def _on_current(self, current: QModelIndex, _: QModelIndex) -> None:
        if current.isValid():
            self.concept_chosen.emit(self.concepts.concept(self.proxy.mapToSource(current).row()))

    def reload(self) -> None:
        """Follow the session's run."""
        self.concepts.reload()
        header = self.horizontalHeader()
        self.proxy.sort(header.sortIndicatorSection(), header.sortIndicatorOrder())
        self.show_advanced()

    def show_advanced(self) -> None:
        """Show the columns that the view asks for."""
        for number, column in enumerate(COLUMNS):
            self.setColumnHidden(number, column.advanced and not self._session.view.advanced)
        self.setColumnHidden(GROUP, not self.concepts.has_groups())

    def select(self, concept: int | None) -> None:
        """Make a concept the current row, where the filter shows it, or none."""
        if concept is None:
            self.setCurrentIndex(QModelIndex())
            return
        source = self.concepts.index(self.concepts.row_of(concept), NAME)
        index = self.proxy.mapFromSource(source)
        if index.isValid() and index.row() != self.currentIndex().row():
            self.setCurrentIndex(index)

    def selected_concepts(self) -> list[int]:
        """Concepts of all selected rows."""
        rows = [self.proxy.mapToSource(i).row() for i in self.selectionModel().selectedRows()]
        return [self.concepts.concept(row) for row in rows]
