"""Whitening on the controls."""

from __future__ import annotations

from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QVBoxLayout

from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.collapsible import Step
from napari_microdl.gui.widgets.curves import SpectrumPlot
from napari_microdl.gui.widgets.inputs import show_number, show_special

# With this weight hardly anything is left of what backgrounds show.
_WEIGHT = 100.0
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
        self.background = QCheckBox("Without background")
        self.background.setToolTip(
            "Focus and haze change the space between cells as they change cells. What sets the "
            "backgrounds of all fields apart then counts less in cells. Leave it off where cells "
            "cover their fields: what lies between them is then a part of them, and so is what a "
            "treatment does to it."
        )
        self.background.clicked.connect(
            lambda ticked: settings.configure(background_weight=_WEIGHT if ticked else 0.0)
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
        layout.addWidget(self.background)
        self._form = self.form()
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
        self.background.setVisible(config.whitening.enabled and config.units.kind == "cell")
        self.background.setChecked(config.wants_background)
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
        origin = "on controls and backgrounds" if config.wants_background else "on controls"
        summary = f"{origin}{chosen_by}" if config.whitening.enabled else "off"
        if applied is not None and applied.whitening is not None:
            summary = "as in the dictionary"
        self.run_button.setVisible(config.whitening.enabled)
        self.set_summary(summary)
