"""Model, its weights and channels, and the layer that is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

from napari_microdl.gui.dock import sentence_label
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.collapsible import Step
from napari_microdl.gui.widgets.inputs import combo, show_choice, show_number
from napari_microdl.gui.widgets.jobs import JobRunner
from napari_microdl.gui.widgets.layer_curve import LayerCurve
from napari_microdl.gui.workflow.steps.kept_tokens import KeptTokens
from napari_microdl.models.base import ModelSpec
from napari_microdl.models.recipe import Joint
from napari_microdl.models.registry import (
    MODEL_NAMES,
    list_models,
    needs_weights,
    published_name,
)
from napari_microdl.models.terms import commercial_use

if TYPE_CHECKING:
    import pandas as pd

_OWN = "own"
# No channel can have this name.
_LEFT_OUT = "\0"
_WEIGHTS = "Weights (*.safetensors *.toml *.pth *.pt *.bin *.ckpt);;All files (*)"


@dataclasses.dataclass(frozen=True)
class _Looking:
    stage: str = "model"


def _look(model: str, joint: Joint) -> Generator[Any, None, tuple[str, Any, ModelSpec]]:
    """Facts about weights that nothing is known of yet; reading them imports torch."""
    yield _Looking()
    from napari_microdl.models.registry import model_spec

    return model, joint, model_spec(model, joint=joint)


class ModelStep(Step):
    """Which model is read, from which weights, on which channels, at which layer."""

    compare_wanted = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__(session, "3  Model and layer", "Read tokens")
        # What is or was looked at, and what could not be, with the reason.
        self._asked: tuple[str, Joint] | None = None
        self._failed: tuple[tuple[str, Joint], str] | None = None
        self._runner = JobRunner(self)
        self._runner.succeeded.connect(lambda found: self.session.model.take_spec(*found))
        self._runner.failed.connect(self._on_failed)
        self.model = combo(
            {spec.title: spec.model_id for spec in list_models()}
            | {"Other weights: file or folder...": _OWN},
            self._choose,
            "The foundation model whose tokens are read.",
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
        self.joint.clicked.connect(lambda ticked: session.configure(joint=ticked))
        self.channels: dict[str, QComboBox] = {}
        self._channel_form = QFormLayout()
        self.layer = QSpinBox()
        self.layer.setRange(0, 64)
        self.layer.setToolTip("Layer whose tokens are read, counted from 1.")
        self.layer.valueChanged.connect(lambda value: session.configure(layer=value or None))
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
            {"Residual stream": "residual", "Attention output": "attention"},
            lambda value: session.configure(site=value),
            "Where in the layer to read; the paper found both about equally good.",
        )
        self.device = combo(
            {"Choose for me": "auto", "CPU": "cpu", "CUDA GPU": "cuda", "Apple GPU": "mps"},
            lambda value: session.configure(device=value),
            "Where the model runs.",
        )
        self.precision = combo(
            {"Exact (float32)": "fp32", "Fast where it pays": "fast", "bfloat16": "bf16"},
            lambda value: session.configure(precision=value),
            "Fast measures bfloat16 on the first tiles, uses it only where it is faster, and tells "
            "by how much tokens change.",
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
        below = self.form()
        below.addRow("Layer", layers)
        layout.addLayout(below)
        layout.addWidget(self.curve)
        rest = self.form()
        rest.addRow("Read from", self.site)
        rest.addRow("Device", self.device)
        rest.addRow("Arithmetic", self.precision)
        layout.addLayout(rest)
        layout.addWidget(self.cost)
        self.kept = KeptTokens()
        layout.addWidget(self.kept)
        self.heading.toggled.connect(self._on_opened)

    def _on_opened(self, opened: bool) -> None:
        if opened:
            self.kept.look()
            self._show_cost()

    def _show_cost(self) -> None:
        self.cost.setText(self.session.model.cost())

    # Choosing ----------------------------------------------------------------------------------

    def _choose(self, value: str) -> None:
        if value == _OWN:
            self._ask_file()
            self.refresh()
        else:
            self.session.configure(model=value, layer=None, joint=None)

    def _ask_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Weights of the model", "", _WEIGHTS)
        if path:
            self.place(path)

    def _ask_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Folder of the model")
        if path:
            self.place(path)

    def place(self, path: str | Path) -> None:
        """Take weights: of the published model that is chosen, or such as say what they are.

        Parameters
        ----------
        path : str or Path
            File or folder.
        """
        published = published_name(self.session.config.model.name)
        if self.model.currentData() == _OWN:
            published = None
        self._failed = None
        model = str(path) if published is None else str(published._replace(place=str(path)))
        self.session.configure(model=model, layer=None, joint=None)

    def _on_failed(self, sentence: str) -> None:
        assert self._asked is not None
        self._failed = self._asked, f"⚠ {sentence}"
        self.refresh()

    def stop(self) -> None:
        """Forget the look-up, because the dock was closed."""
        self._runner.stop()

    def show_layers(self, table: pd.DataFrame) -> None:
        """Show how well each layer tells treated from control.

        Parameters
        ----------
        table : DataFrame
            From `napari_microdl.pipeline.layer_choice.iter_layer_scores`.
        """
        self.curve.show_table(table, self.session.config.model.name)

    # Showing -----------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show the chosen model."""
        config, spec = self.session.config, self.session.model.spec
        published = published_name(config.model.name)
        own = config.model.name in MODEL_NAMES
        known = published.model if published else config.model.name if own else _OWN
        show_choice(self.model, known)
        show_choice(self.site, config.tokens.site)
        show_choice(self.device, config.model.device)
        show_choice(self.precision, config.model.precision)
        show_number(self.layer, config.tokens.layer or 0)
        self._form.setRowVisible(self._places, not own)
        place = published.place if published else "" if own else config.model.name
        elsewhere = "not chosen yet" if needs_weights(config.model.name) else "from the hub"
        self.weights.setText(Path(place).name if place else elsewhere)
        self.weights.setToolTip(place)
        self.curve.follow(
            config.model.name, config.tokens.layer or (spec.default_layer if spec else None)
        )
        if spec is not None:
            self._describe(spec)
        dictionary = self.session.model.applied
        if dictionary is not None:
            self.licence.setText(
                f"The dictionary that is applied decides: model '{dictionary.spec.model_id}', "
                f"layer {dictionary.spec.layer}, channels "
                f"{', '.join(dictionary.spec.channel_names)}. {self.session.model.terms()}"
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
            spec, site = dictionary.model, dictionary.spec.site
            title, layer = f"{spec.title}, of the dictionary", f"layer {spec.default_layer}"
        # What may be done with the weights is said also where the step is folded up.
        warned = spec is not None and spec.non_commercial is not False
        terms = f"; {commercial_use(spec.non_commercial)}" if spec and warned else ""
        where = self.site.itemText(self.site.findData(site)).lower()
        self.set_summary(f"{title}{terms}; {layer}, {where}")

    def _look_up(self) -> None:
        asked = (self.session.config.model.name, self.session.model.joint)
        if self._failed is not None and self._failed[0] == asked:
            self.licence.setText(self._failed[1])
        elif not self._runner.is_running:
            self.licence.setText("Looking the weights up...")
            self._asked = asked
            self._runner.start(_look(*asked))

    def _describe(self, spec: ModelSpec) -> None:
        self.layer.setMaximum(spec.depth)
        self.layer.setSpecialValueText(f"recommended ({spec.default_layer})")
        rule = spec.channels
        if rule.names:
            wants = f"Channels: {', '.join(rule.names)}."
        elif rule.most is None:
            wants = "Takes any channels."
        else:
            wants = f"Takes {rule.least} to {rule.most} channels."
        self.licence.setText(
            f"{self.session.model.terms()} {wants} {spec.depth} layers, patches of "
            f"{spec.patch_size} px, tiles of {spec.tile_size} px."
        )
        self.joint.setVisible(rule.either)
        self.joint.setChecked(rule.joint)

    def _show_channels(self) -> None:
        choice = self.session.model
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
        names = [channel.name for channel in self.session.channels]
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
            self.session.model.leave_out(wanted)
        else:
            self.session.model.choose_channel(wanted, channel)
