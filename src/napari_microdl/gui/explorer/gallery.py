"""Gallery: units from those that show a concept most to its opposite, as small pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QHBoxLayout, QLabel, QSlider

from napari_microdl.concepts.concept_set import Concept
from napari_microdl.concepts.pictures import PERCENTILES
from napari_microdl.concepts.strength import N_BANDS, OPPOSITE, band_of
from napari_microdl.gui.explorer.panel import Panel
from napari_microdl.gui.explorer.picture_list import PictureList
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.widgets.inputs import plain_tip
from napari_microdl.gui.widgets.picture_figure import save_pictures
from napari_microdl.gui.widgets.save_actions import offer_picture

# Pictures in a row of the window at least, and of a file.
_BESIDE_EACH_OTHER = 4
_IN_A_ROW = 8
_COMPOSITE, _BESIDE = "Composite", "Side by side"
_TIP = "Channel of small pictures, here, in the card and in other tabs."


class Gallery(Panel):
    """A slider through bands of activation, and pictures of the units of one, of all fields.

    Signals
    -------
    unit_chosen(int)
        Row of the table of units.
    """

    unit_chosen = Signal(int)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.channel = QComboBox()
        self.channel.setToolTip(_TIP)
        self.channel.setAccessibleName("Channel of the pictures")
        # Long names of channels leave room for what is beside them.
        self.channel.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.channel.setMinimumContentsLength(4)
        self.channel.activated.connect(self._on_choice)
        self.same_contrast = QCheckBox("Same contrast for all")
        low, high = PERCENTILES
        self.same_contrast.setToolTip(
            f"Black and white are the {low:g}th and the {high:g}th percentile of fields, half of "
            "them controls, in all pictures, so treated and control cells can be compared. "
            "Otherwise each picture has its own darkest and brightest pixel, which shows form "
            "alone."
        )
        self.patches = QCheckBox("Patches")
        self.patches.setToolTip(
            "Outlines the patches that make a cell show the concept (blue: its opposite). The tip "
            "of a picture says how much of it they make."
        )
        for box in (self.same_contrast, self.patches):
            box.clicked.connect(self._on_choice)
        row = QHBoxLayout()
        row.addWidget(self.channel, 1)
        row.addWidget(self.same_contrast)
        row.addWidget(self.patches)
        row.addStretch(0)
        self.band = QSlider(Qt.Orientation.Horizontal)
        self.band.setRange(0, N_BANDS - 1)
        self.band.setPageStep(1)
        self.band.setTickPosition(QSlider.TickPosition.TicksBelow)
        self.band.setAccessibleName("Strength of the concept in the cells shown")
        self.band.setToolTip(
            "From the cells that show the concept most to those without it, and at the right end "
            "those that show its opposite."
        )
        self.band.valueChanged.connect(self.show_concept_again)
        self.meaning = QLabel()
        # Words of any length take the room that is left, and never widen the dock.
        self.meaning.setMinimumWidth(1)
        strength = QHBoxLayout()
        strength.addWidget(self.band, 1)
        strength.addWidget(self.meaning, 1)
        self.list = PictureList("Gallery")
        self.list.unit_chosen.connect(self.unit_chosen)
        offer_picture(self.list, "gallery", self.save_picture)
        # A panel with margins around the list.
        self.setMinimumWidth(self.list.width_of(_BESIDE_EACH_OTHER) + 6)
        self.column.addLayout(row)
        self.column.addLayout(strength)
        self.column.addWidget(self.list, 1)

    def show_run(self, run: Run | None) -> None:
        """Offer the channels of the run."""
        self.list.clear()
        self.meaning.clear()
        names = list(run.fields[0].channel_names) if run is not None and run.has_images else []
        with QSignalBlocker(self.channel):
            self.channel.clear()
            for number, name in enumerate(names):
                self.channel.addItem(name, number)
            if len(names) > 1:
                self.channel.addItem(_COMPOSITE, "composite")
                self.channel.addItem(_BESIDE, "side by side")
        self.channel.setVisible(len(names) > 1)
        tip = _TIP
        if run is not None and len(names) > 1:
            parts = zip(names, run.pictures.colours(), strict=True)
            tip += f" Composite: {', '.join(f'{name} {colour}' for name, (colour, _) in parts)}."
        self.channel.setToolTip(plain_tip(tip))
        for box in (self.same_contrast, self.patches):
            box.setEnabled(bool(names))
        view = self.session.view
        if self.channel.findData(view.pictures.channel) < 0:
            view.pictures = replace(view.pictures, channel=0)
        self._show_choice()

    def show_concept(self, run: Run, concept: Concept) -> None:
        """Show units of one concept."""
        self._show_choice()
        number = self.band.value()
        band = band_of(run.result.activations, concept, number)
        self.meaning.setToolTip(band.meaning)
        self.meaning.setText(band.heading)
        choice = self.session.view.pictures
        sign, what = (-1, "cosine") if number == OPPOSITE else (1, "activation")
        self.list.show_units(run, band.rows, band.values, choice, concept, sign, what)

    def save_picture(self, path: Path) -> None:
        """Write the pictures, in rows of eight."""
        drawn = self.list.drawn_pictures()
        rows = [drawn[begin : begin + _IN_A_ROW] for begin in range(0, len(drawn), _IN_A_ROW)]
        save_pictures([("", row) for row in rows] or [("", [])], path)

    def _show_choice(self) -> None:
        choice = self.session.view.pictures
        self.channel.setCurrentIndex(self.channel.findData(choice.channel))
        self.same_contrast.setChecked(choice.same_contrast)
        self.patches.setChecked(choice.patches)

    def _on_choice(self) -> None:
        channel = self.channel.currentData()
        self.session.view.show_pictures(
            replace(
                self.session.view.pictures,
                channel=0 if channel is None else channel,
                same_contrast=self.same_contrast.isChecked(),
                patches=self.patches.isChecked(),
            )
        )
