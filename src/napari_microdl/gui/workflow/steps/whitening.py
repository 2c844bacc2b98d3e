"""Whitening on the controls."""

from __future__ import annotations

from qtpy.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QVBoxLayout,
)

from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.collapsible import Step
from napari_microdl.gui.widgets.curves import SpectrumPlot
from napari_microdl.gui.widgets.inputs import show_number, show_special

# Below every shrinkage that can be chosen.
_AUTO = -0.1


class WhiteningStep(Step):
    """Whitening on the controls."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, "4  Whitening", "Whiten")
        self.whiten = QCheckBox("Whiten on controls")
        self.whiten.setToolTip(
            "Takes the controls as the origin and scales down what varies among untreated cells, "
            "so that what the treatment changes stands out."
        )
        self.whiten.clicked.connect(lambda ticked: session.configure(whiten=bool(ticked)))
        self.shrinkage = QDoubleSpinBox()
        self.shrinkage.setRange(_AUTO, 1000)
        self.shrinkage.setSingleStep(0.1)
        self.shrinkage.setSpecialValueText("auto")
        self.shrinkage.setToolTip(
            "Added to every variance, in units of their median, so that directions the controls "
            "hardly span do not explode. Auto takes the least that also holds for control fields "
            "that are left out."
        )
        self.shrinkage.valueChanged.connect(
            lambda value: session.configure(shrinkage=None if value < 0 else float(value))
        )
        self.remove_position = QCheckBox("Remove tile position")
        self.remove_position.setToolTip(
            "Removes from every token what it owes to its place in the model's tile, which says "
            "where a patch lies and not what it shows."
        )
        self.remove_position.clicked.connect(
            lambda ticked: session.configure(remove_position=bool(ticked))
        )
        layout = QVBoxLayout(self.content)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.whiten)
        self._form = self.form()
        self._form.addRow("Shrinkage", self.shrinkage)
        layout.addLayout(self._form)
        layout.addWidget(self.remove_position)
        self.spectrum = SpectrumPlot()
        layout.addWidget(self.spectrum)

    def refresh(self) -> None:
        """Show the settings."""
        config = self.session.shown_config()
        applied = self.session.applied
        for widget in (self.whiten, self.remove_position, self.shrinkage):
            widget.setEnabled(applied is None)
        self.whiten.setChecked(config.whitening.enabled)
        self.remove_position.setChecked(config.tokens.remove_position)
        chosen = config.whitening.shrinkage if applied is None else None
        show_number(self.shrinkage, _AUTO if chosen is None else chosen)
        self._form.setRowVisible(self.shrinkage, config.whitening.enabled)
        position = "position removed" if config.tokens.remove_position else "position kept"
        whitening = self.session.whitening
        self.spectrum.show_whitening(whitening)
        auto = "auto"
        if whitening is not None and chosen is None:
            auto = f"auto (last: {whitening.shrinkage:g})"
        show_special(self.shrinkage, auto)
        shrinkage = auto if chosen is None else f"{chosen:g}"
        words = f"on controls, shrinkage {shrinkage}" if config.whitening.enabled else "off"
        if applied is not None and applied.whitening is not None:
            words = f"as in the dictionary, shrinkage {applied.whitening.shrinkage:g}"
        self.run_button.setVisible(config.whitening.enabled)
        self.set_summary(f"{words}; {position}")
