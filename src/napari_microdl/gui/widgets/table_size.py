"""Tables that are as high as their rows, in letters of any size."""

from __future__ import annotations

from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import QTableView

# Pixels above and below the letters of a row.
_ROOM = 12
# What a table may take of a small screen.
_MOST_PIXELS = 250


def fit_height(table: QTableView, n_rows: int, least: int, most: int) -> None:
    """Make a table as high as its rows; more than so many scroll, so that the dock stays short.

    Parameters
    ----------
    table : QTableView
        The table.
    n_rows : int
        How many it has.
    least, most : int
        Rows that are in view at least and at most.
    """
    metrics = QFontMetrics(table.font())
    row = metrics.height() + _ROOM
    table.verticalHeader().setDefaultSectionSize(row)
    shown = min(max(n_rows, least), max(min(most, _MOST_PIXELS // row), least))
    table.setFixedHeight(table.horizontalHeader().sizeHint().height() + shown * row + 6)
