"""What is in view to files: an entry in the context menu of every plot and table.

A right click opens the menu, and so does the menu key (or Shift+F10) where the keys go.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_info
from qtpy.QtCore import Qt
from qtpy.QtGui import QAction
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_microdl.core.errors import MicrodlError

if TYPE_CHECKING:
    import pandas as pd

PICTURES = "Picture (*.png *.svg *.pdf)"
TABLES = "Table (*.csv *.parquet)"
HINT = "Right-click, or press the menu key, to save it."


def offer(widget: QWidget, action: Any) -> None:
    """Put an action into the context menu of a widget."""
    widget.setContextMenuPolicy(Qt.ContextMenuPolicy.ActionsContextMenu)
    widget.addAction(action)


def offer_picture(widget: QWidget, name: str, save: Callable[[Path], Any]) -> Any:
    """Offer to save a picture of what a widget shows; a `MicrodlError` or `OSError` is shown."""
    return _offer(widget, "Save picture...", f"{name}.png", PICTURES, save)


def offer_table(widget: QWidget, name: str, table: Callable[[], pd.DataFrame]) -> Any:
    """Offer to save the table that a widget shows, or the numbers behind a plot."""
    return _offer(widget, "Save table...", f"{name}.csv", TABLES, partial(_write_table, table))


def _offer(widget: QWidget, text: str, name: str, kinds: str, save: Callable[[Path], Any]) -> Any:
    action = QAction(text, widget)
    action.triggered.connect(partial(_ask, widget, name, kinds, save))
    offer(widget, action)
    return action


def _ask(widget: QWidget, name: str, kinds: str, save: Callable[[Path], Any], *_: bool) -> None:
    path, _chosen = QFileDialog.getSaveFileName(widget, "Save", name, kinds)
    if path:
        try:
            save(Path(path))
        except (MicrodlError, OSError) as error:
            show_info(f"Could not save: {error}")


def _write_table(table: Callable[[], pd.DataFrame], path: Path) -> None:
    # Imported when it is needed: napari starts faster.
    from napari_microdl.concepts.export import write_table

    write_table(table(), path)
