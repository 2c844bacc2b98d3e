"""Boxes that show a choice of the session and hand on what a person chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QSpinBox


def combo(choices: dict[str, Any], changed: Callable[[Any], None], tip: str) -> QComboBox:
    """A combo box of named choices.

    Parameters
    ----------
    choices : dict of str to object
        What each text stands for.
    changed : callable
        Gets the chosen value when a person chooses.
    tip : str
        Tooltip.

    Returns
    -------
    QComboBox
    """
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
