"""Boxes for choices, labels for sentences, and tables as high as their rows."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from napari.settings import get_settings
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QLabel,
    QSizePolicy,
    QSpinBox,
    QTableView,
    QWidget,
)

# Pixels above and below the letters of a row.
_ROOM = 12
# What a table may take of a small screen.
_MOST_PIXELS = 250


def combo(choices: dict[str, Any], changed: Callable[[Any], None], tip: str) -> QComboBox:
    """A combo box of named choices, which hands on what a person chooses."""
    box = QComboBox()
    for text, value in choices.items():
        box.addItem(text, value)
    box.setToolTip(tip)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)
    box.activated.connect(lambda _: changed(box.currentData()))
    return box


def show_choice(box: QComboBox, value: Any) -> None:
    """Show a value, or nothing where the box does not offer it."""
    for number in range(box.count()):
        if box.itemData(number) == value:
            box.setCurrentIndex(number)
            return
    box.setCurrentIndex(-1)


def show_number(box: QSpinBox | QDoubleSpinBox, value: float) -> None:
    """Show a number without handing it on."""
    number = type(box.value())(value)
    # Shown once more, it would replace the letters that are being typed: "2." becomes "2.00".
    if number != box.value():
        with QSignalBlocker(box):
            box.setValue(number)


def show_special(box: QSpinBox | QDoubleSpinBox, text: str) -> None:
    """Say what the least value of a box stands for, without disturbing who types in it."""
    if text != box.specialValueText():
        box.setSpecialValueText(text)


def fit_height(table: QTableView, n_rows: int, least: int, most: int, whole: int = 0) -> None:
    """Make a table as high as its rows, of which some are in view at least and at most.

    More scroll, so that the dock stays short; but of a table of `whole` rows or fewer all are in
    view, and the dock alone scrolls.
    """
    metrics = QFontMetrics(table.font())
    row = metrics.height() + _ROOM
    table.verticalHeader().setDefaultSectionSize(row)
    if n_rows > whole:
        n_rows = min(n_rows, max(min(most, _MOST_PIXELS // row), least))
    shown = max(n_rows, least)
    table.setFixedHeight(table.horizontalHeader().sizeHint().height() + shown * row + 6)


def plain_tip(text: str) -> str:
    """A tool tip that shows a text as it is, whatever a person has written in it."""
    return f"<qt>{escape(text).replace(chr(10), '<br>')}</qt>"


def sentence_label(text: str = "") -> QLabel:
    """A label for sentences: wraps, never widens its dock, and shows names as they are."""
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
    return label


def take_font_size(window: QWidget) -> None:
    """Take the size of letters from the Preferences; napari gives it to some widgets only."""
    font = window.font()
    font.setPointSize(int(get_settings().appearance.font_size))
    window.setFont(font)
