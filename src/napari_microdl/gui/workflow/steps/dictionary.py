"""Dictionary: fit a new one or apply a loaded one."""

from __future__ import annotations

from functools import partial
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QHBoxLayout,
    QPushButton,
    QRadioButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.collapsible import Step
from napari_microdl.gui.widgets.curves import FitCurve
from napari_microdl.gui.widgets.inputs import sentence_label, show_number
from napari_microdl.models.base import terms_of


class DictionaryStep(Step):
    """Dictionary: fit a new one or apply a loaded one."""

    load_wanted = Signal()
    save_wanted = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__("5  Dictionary", "Fit")
        self.session = session
        self.fit = QRadioButton("Fit a new dictionary")
        self.apply = QRadioButton("Apply the loaded one")
        self.fit.setToolTip("Learn concepts from the images that are in use.")
        self.apply.setToolTip(
            "Look for the concepts of the dictionary at hand; it decides model, layer, channels "
            "and whitening, so that results compare with those of its own images."
        )
        modes = QButtonGroup(self)
        modes.addButton(self.fit)
        modes.addButton(self.apply)
        self.fit.clicked.connect(lambda: session.settings.choose(apply_dictionary=False))
        self.apply.clicked.connect(lambda: session.settings.choose(apply_dictionary=True))
        self.load = QPushButton("Load...")
        self.load.setToolTip("Open a dictionary (*.microdl.safetensors) to apply it.")
        self.load.clicked.connect(self.load_wanted)
        self.save = QPushButton("Save...")
        self.save.setToolTip(
            "Save the dictionary at hand with whitening, names and notes: all that is needed to "
            "apply it to other images."
        )
        self.save.clicked.connect(self.save_wanted)
        self.loaded = sentence_label()
        # One button a channel, where the dictionary has one that the images do not have.
        self.stand_ins = QWidget()
        self._stand_ins = QVBoxLayout(self.stand_ins)
        self._stand_ins.setContentsMargins(0, 0, 0, 0)
        self.pixel_size = sentence_label()
        self.sizes = QWidget()
        form = self.form()
        self.sizes.setLayout(form)
        self.n_atoms = self._size(
            form,
            "Concepts",
            "n_atoms",
            8192,
            "Number of dictionary atoms; each is a concept. More of them tell apart what is weak "
            "or rare and would be merged otherwise.",
        )
        self.n_iterations = self._size(
            form, "Rounds", "n_iterations", 100, "Rounds of the matching pursuit (J in the paper)."
        )
        self.per_iteration = self._size(
            form,
            "Picked a round",
            "atoms_per_iteration",
            100,
            "Atoms picked in each round (L in the paper); a code has at most rounds x picked.",
        )
        self.n_starts = self._size(
            form,
            "Starts",
            "n_starts",
            100,
            "Fits from so many starts, of which the one is kept whose activations lie on the "
            "fewest concepts: they come back more surely with another seed. Auto takes 8 where "
            "that takes seconds, else 1.",
        )
        self.control_atoms = self._size(
            form,
            "Of these, from controls",
            "control_atoms",
            8191,
            "Control-first: so many concepts are learned on controls and kept, the others on what "
            "they leave of the treated samples, so that each is known to be seen in controls or "
            "only in treated samples. Take three of four, and at least six controls for each.",
        )
        self.control_atoms.setSpecialValueText("off")
        self.positive = self._tick(
            form,
            "Positive codes only",
            "positive_code",
            "A sample's code says what is present, never what is missing.",
        )
        self.early = self._tick(
            form,
            "Stop early",
            "early_stopping",
            "Ends the fit once samples that were held out are no longer reconstructed better.",
        )
        self.automatic = sentence_label()
        self.curve = FitCurve()
        self.stand_in_buttons: dict[str, QPushButton] = {}
        buttons = QHBoxLayout()
        buttons.addWidget(self.load)
        buttons.addWidget(self.save)
        layout = QVBoxLayout(self.content)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.fit)
        layout.addWidget(self.sizes)
        layout.addWidget(self.automatic)
        layout.addWidget(self.apply)
        layout.addLayout(buttons)
        layout.addWidget(self.loaded)
        layout.addWidget(self.stand_ins)
        layout.addWidget(self.pixel_size)
        # Outside the content: the fit is watched with the step collapsed, too.
        self.layout().addWidget(self.curve)

    def _size(self, form: Any, label: str, name: str, most: int, tip: str) -> QSpinBox:
        box = QSpinBox()
        box.setRange(0, most)
        box.setSpecialValueText("auto")
        box.setToolTip(tip)
        settings = self.session.settings
        box.valueChanged.connect(lambda value: settings.configure(**{name: value or None}))
        form.addRow(label, box)
        return box

    def _tick(self, form: Any, text: str, name: str, tip: str) -> QCheckBox:
        box = QCheckBox(text)
        box.setToolTip(tip)
        settings = self.session.settings
        box.clicked.connect(lambda ticked: settings.configure(**{name: bool(ticked)}))
        form.addRow(box)
        return box

    def refresh(self) -> None:
        """Show mode, sizes and the dictionary at hand."""
        settings = self.session.settings
        config, dictionary = settings.config, settings.dictionary
        self.fit.setChecked(not settings.apply_dictionary)
        self.run_button.setText("Apply" if settings.apply_dictionary else "Fit")
        self.apply.setChecked(settings.apply_dictionary)
        show_number(self.n_atoms, config.dictionary.n_atoms or 0)
        show_number(self.n_iterations, config.dictionary.n_iterations or 0)
        show_number(self.per_iteration, config.dictionary.atoms_per_iteration or 0)
        show_number(self.n_starts, config.dictionary.n_starts or 0)
        show_number(self.control_atoms, config.dictionary.control_atoms or 0)
        self.positive.setChecked(config.dictionary.positive_code)
        self.early.setChecked(config.dictionary.early_stopping)
        self.sizes.setVisible(not settings.apply_dictionary)
        self.automatic.setVisible(not settings.apply_dictionary)
        self.automatic.setText(self._automatic())
        if dictionary is None:
            self.loaded.setText("No dictionary yet: fit one or load a *.microdl.safetensors file.")
        else:
            spec = dictionary.spec
            decides = ""
            if settings.apply_dictionary:
                decides = " It decides model, layer, channels, sample unit and whitening."
            decides += f" {terms_of(dictionary.model)}"
            self.loaded.setText(
                f"At hand: {dictionary.n_concepts} concepts of {spec.units.kind}s, model "
                f"'{spec.model.id}', layer {spec.tokens.layer}, channels "
                f"{', '.join(spec.tokens.channels)}.{decides}"
            )
        self._show_stand_ins()
        note = self.session.plan.pixel_size_note()
        self.pixel_size.setText(f"⚠ {note}")
        self.pixel_size.setVisible(bool(note))
        if settings.apply_dictionary:
            self.set_summary("apply the loaded dictionary")
        else:
            size = "auto" if config.dictionary.n_atoms is None else str(config.dictionary.n_atoms)
            self.set_summary(f"fit a new one, concepts: {size}")

    def _show_stand_ins(self) -> None:
        """Offer each channel of the images in place of the dictionary's only one."""
        plan, applied = self.session.plan, self.session.settings.applied
        missing = plan.missing_channels()
        offered = applied is not None and len(applied.spec.tokens.channels) == len(missing) == 1
        names = [channel.name for channel in self.session.images.channels] if offered else []
        texts = [f"Read '{name}' as '{missing[0]}'".replace("&", "&&") for name in names]
        if texts != [button.text() for button in self.stand_in_buttons.values()]:
            for button in self.stand_in_buttons.values():
                button.deleteLater()
            self.stand_in_buttons = {}
            for name, text in zip(names, texts, strict=True):
                button = QPushButton(text)
                button.setCheckable(True)
                button.setToolTip(
                    "The dictionary has a single channel: this one of the images takes its place."
                )
                button.clicked.connect(partial(self._choose_stand_in, name))
                self._stand_ins.addWidget(button)
                self.stand_in_buttons[name] = button
        chosen = plan.stand_in()
        for name, button in self.stand_in_buttons.items():
            button.setChecked(name == chosen)
        self.stand_ins.setVisible(bool(names))

    def _choose_stand_in(self, channel: str, *_: bool) -> None:
        self.session.plan.choose_stand_in(channel)

    def _automatic(self) -> str:
        """What "auto" picks, from the number of samples of the last run."""
        run = self.session.run.current
        if run is None:
            return (
                "Auto takes about one concept for 24 samples, at most 20 active in each; "
                "the numbers appear here after the first run."
            )
        from napari_microdl.estimators.icfl import default_size

        samples, width = run.result.activations.vectors.shape
        atoms, rounds, picked = default_size(samples, width)
        return (
            f"With the {samples} {run.result.config.units.kind}s of the last run, auto takes "
            f"{atoms} concepts, at most {rounds} x {picked} active in each."
        )
