"""What people write is shown as it is, and never read as a page."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel

from napari_microdl.gui.widgets.inputs import plain_tip, sentence_label

WRITTEN = "<b>drug</b> & <img src='http://x/y'>"


def test_a_sentence_is_as_wide_as_its_letters(qtbot):
    label, rich = sentence_label(WRITTEN), QLabel(WRITTEN)
    for widget in (label, rich):
        widget.setWordWrap(False)
        qtbot.addWidget(widget)
    letters = label.fontMetrics().horizontalAdvance(WRITTEN)
    assert label.sizeHint().width() >= letters > rich.sizeHint().width()


def test_a_tool_tip_shows_what_is_written():
    tip = plain_tip(WRITTEN)
    assert Qt.mightBeRichText(tip)
    assert "<b>" not in tip
    assert "<img" not in tip
    assert "&lt;b&gt;drug" in tip
