"""Tokens: from which model, weights, channels and layer, and what is kept of them on disk."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_microdl.gui.session.session import Session
from napari_microdl.gui.session.token_store import amount, token_store
from napari_microdl.gui.widgets.collapsible import Step
from napari_microdl.gui.widgets.curves import LayerCurve
from napari_microdl.gui.widgets.inputs import (
    combo,
    plain_tip,
    sentence_label,
    show_choice,
    show_number,
)
from napari_microdl.gui.widgets.jobs import JobRunner
from napari_microdl.models.base import ModelSpec, commercial_use
from napari_microdl.models.recipe import Joint
from napari_microdl.models.registry import (
    known_spec,
    list_models,
    needs_weights,
    published_name,
    to_be_fetched,
)

if TYPE_CHECKING:
    import pandas as pd

_OWN = "own"
# No channel can have this name.
_LEFT_OUT = "\0"
_WEIGHTS = "Weights (*.safetensors *.toml *.pth *.pt *.bin *.ckpt);;All files (*)"


def _look(model: str, joint: Joint) -> tuple[str, Joint, ModelSpec]:
    """Facts about weights that nothing is known of yet; reading them imports torch."""
    from napari_microdl.models.registry import model_spec

    return model, joint, model_spec(model, joint=joint)


class StoredTokens(QWidget):
    """Size of the token store, with a button to clear it."""

    def __init__(self) -> None:
        super().__init__()
        self._store = token_store()
        self._store.measured.connect(self._on_measured)
        self.size = sentence_label()
        self.clear = QPushButton("Clear")
        self.clear.setToolTip(
            "Deletes it; it is computed again when needed. Folder "
            "and largest size are set in Preferences > MicroDL, which can clear them too."
        )
        self.clear.clicked.connect(lambda: self._store.clear())
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.size, 1)
        layout.addWidget(self.clear)

    def look(self) -> None:
        """Measure anew, in the background."""
        self._store.look()

    def _on_measured(self, n_bytes: int) -> None:
        self.size.setText(f"Kept on disk of what models have read: {amount(n_bytes)}")
        self.clear.setEnabled(n_bytes > 0)


class TokensStep(Step):
    """Which model is read, from which weights, on which channels, at which layer."""

    compare_wanted = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__("3  Model", "Read images")
        self.session = session
        settings = session.settings
        # What is or was looked at, and what could not be, with the reason.
        self._asked: tuple[str, Joint] | None = None
        self._failed: tuple[tuple[str, Joint], str] | None = None
        self._runner = JobRunner(self)
        self._runner.succeeded.connect(lambda found: self.session.plan.model.take_spec(*found))
        self._runner.failed.connect(self._on_failed)
        self.model = combo(
            {spec.title: spec.model_id for spec in list_models()}
            | {"Other weights: file or folder...": _OWN},
            self._choose,
            "The foundation model that reads the images.",
        )
        self.weights = sentence_label()
        self.file = QPushButton("File...")
        self.file.setToolTip("Choose a file of weights.")
        self.file.clicked.connect(self._ask_file)
        self.folder = QPushButton("Folder...")
        self.folder.setToolTip("Choose a folder as transformers or the hub leave it.")
        self.folder.clicked.connect(self._ask_folder)
        self._places = QWidget()
        places = QHBoxLayout(self._places)
        places.setContentsMargins(0, 0, 0, 0)
        places.addWidget(self.weights, 1)
        places.addWidget(self.file)
        places.addWidget(self.folder)
        self.licence = sentence_label()
        self.joint = QCheckBox("Read as one RGB image")
        self.joint.setToolTip(
            "This model was trained on photographs: three channels are read together, as red, "
            "green and blue. Unticked, each channel is read by itself as a grey image, which takes "
            "any number of channels."
        )
        self.joint.clicked.connect(lambda ticked: settings.configure(joint=ticked))
        self.channels: dict[str, QComboBox] = {}
        self._channel_form = QFormLayout()
        self.channel_tokens = combo(
            {"Side by side": "concat", "Averaged": "mean"},
            lambda value: settings.configure(channel_tokens=value),
            "How what is read of several channels is put together for one patch.",
        )
        self.scaling = combo(
            {"Each by itself": "image", "All together": "plate"},
            lambda value: settings.configure(scaling=value),
            "Over what background and mean intensity are measured. 'All together' keeps "
            "differences of brightness between images.",
        )
        self.measured = sentence_label()
        self.measured.setToolTip(
            "Intensities that became 0 and that the others were measured against, per image and "
            "channel; they are stored in the dictionary and the report."
        )
        self.remove_position = QCheckBox("Remove tile position")
        self.remove_position.setToolTip(
            "Removes from every patch what it owes to its place in the model's tile, which says "
            "where a patch lies and not what it shows."
        )
        self.remove_position.clicked.connect(
            lambda ticked: settings.configure(remove_position=bool(ticked))
        )
        self.layer = QSpinBox()
        self.layer.setRange(0, 64)
        self.layer.setToolTip("Layer that is read, counted from 1.")
        self.layer.valueChanged.connect(lambda value: settings.configure(layer=value or None))
        self.compare = QPushButton("Compare")
        self.compare.setToolTip(
            "Tells treated from control by a linear probe in each layer, on fields that the probe "
            "has not seen; the paper chose its layer so. Takes a pass through the model."
        )
        self.compare.clicked.connect(self.compare_wanted)
        layers = QHBoxLayout()
        layers.addWidget(self.layer, 1)
        layers.addWidget(self.compare)
        self.curve = LayerCurve()
        self.site = combo(
            {"All of the layer": "residual", "Its attention alone": "attention"},
            lambda value: settings.configure(site=value),
            "What to read of the layer: all that it hands on, or the output of its attention; the "
            "paper found both about equally good.",
        )
        self.device = combo(
            {"Choose for me": "auto", "CPU": "cpu", "CUDA GPU": "cuda", "Apple GPU": "mps"},
            lambda value: settings.configure(device=value),
            "Where the model runs.",
        )
        self.precision = combo(
            {"Exact (float32)": "fp32", "Fast where it pays": "fast", "bfloat16": "bf16"},
            lambda value: settings.configure(precision=value),
            "Fast measures bfloat16 on the first tiles, uses it only where it is faster, and tells "
            "by how much the result changes.",
        )
        self.cost = sentence_label()
        layout = QVBoxLayout(self.content)
        layout.setContentsMargins(0, 0, 0, 0)
        self._form = self.form()
        self._form.addRow("Model", self.model)
        self._form.addRow("Weights", self._places)
        layout.addLayout(self._form)
        layout.addWidget(self.licence)
        layout.addWidget(self.joint)
        layout.addLayout(self._channel_form)
        self._intensities = self.form()
        self._intensities.addRow("Several channels", self.channel_tokens)
        self._intensities.addRow("Brightness scale", self.scaling)
        self._intensities.addRow(self.measured)
        layout.addLayout(self._intensities)
        below = self.form()
        below.addRow("Layer", layers)
        layout.addLayout(below)
        layout.addWidget(self.curve)
        rest = self.form()
        rest.addRow("Read from", self.site)
        rest.addRow("Device", self.device)
        rest.addRow("Arithmetic", self.precision)
        layout.addLayout(rest)
        layout.addWidget(self.remove_position)
        layout.addWidget(self.cost)
        self.stored = StoredTokens()
        layout.addWidget(self.stored)
        self.heading.toggled.connect(self._on_opened)

    def _on_opened(self, opened: bool) -> None:
        if opened:
            self.stored.look()
            self._show_cost()

    def _show_cost(self) -> None:
        self.cost.setText(self.session.plan.model.cost())

    # Choosing ----------------------------------------------------------------------------------

    def _choose(self, value: str) -> None:
        if value == _OWN:
            self._ask_file()
            self.refresh()
        else:
            self.session.settings.configure(model=value, layer=None, joint=None)

    def _ask_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Weights of the model", "", _WEIGHTS)
        if path:
            self.place(path)

    def _ask_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Folder of the model")
        if path:
            self.place(path)

    def place(self, path: str | Path) -> None:
        """Take weights: of the published model that is chosen, or such as say what they are."""
        published = published_name(self.session.settings.config.model.name)
        if self.model.currentData() == _OWN:
            published = None
        self._failed = None
        model = str(path) if published is None else str(published._replace(place=str(path)))
        self.session.settings.configure(model=model, layer=None, joint=None)

    def _on_failed(self, sentence: str) -> None:
        assert self._asked is not None
        self._failed = self._asked, f"⚠ {sentence}"
        self.refresh()

    def stop(self) -> None:
        """Forget the look-up, because the dock was closed."""
        self._runner.stop()

    def show_layers(self, table: pd.DataFrame) -> None:
        """Show how well each layer tells treated from control."""
        self.curve.show_table(table, self.session.settings.config.model.name)

    # Showing -----------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show the chosen model."""
        config, spec = self.session.settings.config, self.session.plan.model.spec
        dictionary = self.session.settings.applied
        published = published_name(config.model.name)
        own = published is None and known_spec(config.model.name) is not None
        known = published.model if published else config.model.name if own else _OWN
        show_choice(self.model, known)
        show_choice(self.site, config.tokens.site)
        show_choice(self.device, config.model.device)
        show_choice(self.precision, config.model.precision)
        show_choice(self.scaling, config.tokens.scaling)
        show_choice(self.channel_tokens, config.tokens.channel_tokens)
        self._intensities.setRowVisible(self.channel_tokens, len(self.session.images.channels) > 1)
        self.measured.setText(self._measured())
        self._intensities.setRowVisible(self.measured, bool(self.measured.text()))
        self.remove_position.setEnabled(dictionary is None)
        removed = self.session.settings.shown_config().tokens.remove_position
        self.remove_position.setChecked(removed)
        show_number(self.layer, config.tokens.layer or 0)
        self._form.setRowVisible(self._places, not own)
        place = published.place if published else "" if own else config.model.name
        elsewhere = "not chosen yet" if needs_weights(config.model.name) else "from the hub"
        self.weights.setText(Path(place).name if place else elsewhere)
        self.weights.setToolTip(plain_tip(place) if place else "")
        pooling = config.units.pooled_by
        recommended = spec.layer_for(pooling) if spec else None
        self.curve.follow(config.model.name, config.tokens.layer or recommended)
        if spec is not None:
            self._describe(spec)
        if dictionary is not None:
            self.licence.setText(
                f"The dictionary that is applied decides: model '{dictionary.spec.model.id}', "
                f"layer {dictionary.spec.tokens.layer}, channels "
                f"{', '.join(dictionary.spec.tokens.channels)}. {self.session.plan.model.terms()}"
            )
        elif spec is None:
            self._look_up()
        self._show_channels()
        # What nobody sees need not be estimated when the dock opens.
        if self.is_expanded:
            self._show_cost()
        self.cost.setVisible(bool(self.cost.text()))
        layer = (
            "recommended layer" if config.tokens.layer is None else f"layer {config.tokens.layer}"
        )
        title, site = spec.title if spec else Path(config.model.name).name, config.tokens.site
        if dictionary is not None:
            # What a run reads, whatever is chosen above.
            spec, site = dictionary.model, dictionary.spec.tokens.site
            title, layer = f"{spec.title}, of the dictionary", f"layer {spec.default_layer}"
        # What may be done with the weights is said also where the step is folded up.
        warned = spec is not None and spec.non_commercial is not False
        terms = f"; {commercial_use(spec.non_commercial)}" if spec and warned else ""
        where = "" if site == "residual" else ", its attention alone"
        position = "" if removed else "; tile position left in"
        self.set_summary(f"{title}{terms}; {layer}{where}{position}")

    def _measured(self) -> str:
        """Limits of the intensities when images were last read, as ranges over the images."""
        report = self.session.run.limits
        if not report:
            return ""
        parts = []
        for channel in dict.fromkeys(entry["channel"] for entry in report):
            of_channel = [entry for entry in report if entry["channel"] == channel]
            low = _range([entry["background"] for entry in of_channel])
            high = _range([entry["reference"] for entry in of_channel])
            parts.append(f"{channel} background {low}, reference {high}")
        return f"Measured when images were last read: {'; '.join(parts)}."

    def _look_up(self) -> None:
        asked = (self.session.settings.config.model.name, self.session.plan.model.joint)
        if self._failed is not None and self._failed[0] == asked:
            self.licence.setText(self._failed[1])
        elif repository := to_be_fetched(asked[0]):
            self.licence.setText(
                f"{repository} is on the Hugging Face hub; a run asks before it is fetched."
            )
        elif not self._runner.is_running:
            self.licence.setText("Looking the weights up...")
            self._asked = asked
            self._runner.start(partial(_look, *asked))

    def _describe(self, spec: ModelSpec) -> None:
        self.layer.setMaximum(spec.depth)
        recommended = spec.layer_for(self.session.settings.shown_config().units.pooled_by)
        self.layer.setSpecialValueText(f"recommended ({recommended})")
        rule = spec.channels
        if rule.names:
            wants = f"Channels: {', '.join(rule.names)}."
        elif rule.most is None:
            wants = "Takes any channels."
        else:
            wants = f"Takes {rule.least} to {rule.most} channels."
        self.licence.setText(
            f"{self.session.plan.model.terms()} {wants} {spec.depth} layers, patches of "
            f"{spec.patch_size} px, tiles of {spec.tile_size} px."
        )
        self.joint.setVisible(rule.either)
        self.joint.setChecked(rule.joint)

    def _show_channels(self) -> None:
        choice = self.session.plan.model
        mapped = choice.channels()
        wanted_ones = choice.all_channels()
        if list(wanted_ones) != list(self.channels):
            while self._channel_form.rowCount():
                self._channel_form.removeRow(0)
            self.channels = {}
            for wanted in wanted_ones:
                box = combo(
                    {},
                    partial(self._choose_channel, wanted),
                    f"Which channel of the images shows what the model knows as {wanted}.",
                )
                self.channels[wanted] = box
                self._channel_form.addRow(f"{wanted} is", box)
            # Made last, they would be reached after everything else.
            for before, box in pairwise((self.joint, *self.channels.values())):
                self.setTabOrder(before, box)
        names = [channel.name for channel in self.session.images.channels]
        for wanted, box in self.channels.items():
            box.clear()
            left_out = wanted not in mapped
            if mapped.get(wanted) is None and not left_out:
                box.addItem("choose...", None)
            for name in names:
                box.addItem(name, name)
            if left_out or choice.can_leave_out():
                box.addItem("not in the images", _LEFT_OUT)
            show_choice(box, _LEFT_OUT if left_out else mapped[wanted])

    def _choose_channel(self, wanted: str, channel: str) -> None:
        if channel == _LEFT_OUT:
            self.session.plan.model.leave_out(wanted)
        else:
            self.session.plan.model.choose_channel(wanted, channel)


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"
