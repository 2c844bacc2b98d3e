"""Whitening on the controls."""

from __future__ import annotations

from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QVBoxLayout

from napari_microdl.core.config import BACKGROUND_WEIGHT
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.collapsible import Step
from napari_microdl.gui.widgets.curves import SpectrumPlot
from napari_microdl.gui.widgets.inputs import combo, show_choice, show_number, show_special

# The setting by what the box calls it.
_BACKGROUND = {"Auto": "auto", "Take off": BACKGROUND_WEIGHT, "Leave in": 0.0}
# Below every shrinkage that can be chosen.
_AUTO = -0.1


class WhiteningStep(Step):
    """Whitening on the controls."""

    def __init__(self, session: Session) -> None:
        super().__init__("4  Whitening", "Whiten")
        self.session = session
        settings = session.settings
        self.whiten = QCheckBox("Whiten on controls")
        self.whiten.setToolTip(
            "Takes the controls as the origin and scales down what varies among untreated cells, "
            "so that what the treatment changes stands out."
        )
        self.whiten.clicked.connect(lambda ticked: settings.configure(whiten=bool(ticked)))
        self.background = combo(
            _BACKGROUND,
            lambda weight: settings.configure(background_weight=weight),
            "Haze changes the space between cells as it changes cells. Taken off, what sets the "
            "backgrounds of all fields apart counts less in cells. Auto does so where, far from "
            "all cells, the background differs between conditions by more than chance; the run "
            "says what was decided. Leave it in where cells cover their fields: what lies between "
            "them is then a part of them, and so is what a treatment does to it.",
        )
        self.shrinkage = QDoubleSpinBox()
        self.shrinkage.setRange(_AUTO, 1000)
        self.shrinkage.setSingleStep(0.1)
        self.shrinkage.setSpecialValueText("auto")
        self.shrinkage.setToolTip(
            "What is added to every variance, in units of their median, so that directions that "
            "the controls hardly span do not explode. Auto takes the least that also holds for "
            "control fields that are left out."
        )
        self.shrinkage.valueChanged.connect(
            lambda value: settings.configure(shrinkage=None if value < 0 else float(value))
        )
        layout = QVBoxLayout(self.content)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.whiten)
        self._form = self.form()
        self._form.addRow("Background", self.background)
        self._form.addRow("Added to each variance", self.shrinkage)
        layout.addLayout(self._form)
        self.spectrum = SpectrumPlot()
        layout.addWidget(self.spectrum)

    def refresh(self) -> None:
        """Show the settings."""
        config = self.session.settings.shown_config()
        applied = self.session.settings.applied
        for widget in (self.whiten, self.background, self.shrinkage):
            widget.setEnabled(applied is None)
        self.whiten.setChecked(config.whitening.enabled)
        by_cell = config.whitening.enabled and config.units.kind == "cell"
        self._form.setRowVisible(self.background, by_cell)
        weight = config.whitening.background_weight
        # A file may have any weight.
        taken_off = weight != "auto" and weight > 0
        show_choice(self.background, BACKGROUND_WEIGHT if taken_off else weight)
        chosen = config.whitening.shrinkage if applied is None else None
        show_number(self.shrinkage, _AUTO if chosen is None else chosen)
        self._form.setRowVisible(self.shrinkage, config.whitening.enabled)
        whitening = self.session.run.whitening
        self.spectrum.show_whitening(whitening)
        auto = "auto"
        if whitening is not None and chosen is None:
            auto = f"auto (last: {whitening.shrinkage:g})"
        show_special(self.shrinkage, auto)
        chosen_by = "" if chosen is None else f", {chosen:g} added to each variance"
        known = by_cell and taken_off
        origin = "on controls and backgrounds" if known else "on controls"
        summary = f"{origin}{chosen_by}" if config.whitening.enabled else "off"
        if applied is not None and applied.whitening is not None:
            summary = "as in the dictionary"
        self.run_button.setVisible(config.whitening.enabled)
        self.set_summary(summary)
