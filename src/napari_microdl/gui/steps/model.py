"""Model and layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any

from qtpy.QtWidgets import (
    QSpinBox,
    QVBoxLayout,
)

from napari_microdl.gui.dock import sentence_label
from napari_microdl.gui.jobs import JobRunner
from napari_microdl.gui.session import Session
from napari_microdl.gui.step import Step
from napari_microdl.gui.steps.choices import combo, show_choice, show_number
from napari_microdl.models.base import ModelSpec
from napari_microdl.models.registry import MODEL_NAMES


@dataclasses.dataclass(frozen=True)
class _Loaded:
    stage: str = "model"


def _describe(name: str, device: str) -> Generator[Any, None, tuple[str, ModelSpec, str]]:
    """Facts about a model; loading it takes seconds the first time, so this runs in a thread."""
    yield _Loaded()
    from napari_microdl.models.registry import load_model

    model = load_model(name, device=device)
    return name, model.spec, str(getattr(model, "device", device))


class ModelStep(Step):
    """Model and layer."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, "3  Model and layer")
        self.spec: ModelSpec | None = None
        self._asked: tuple[str, str] | None = None
        self._runner = JobRunner(self)
        self._runner.succeeded.connect(self._on_described)
        self._runner.failed.connect(self._on_failed)
        titles = {"builtin": "Built-in MAE", "random-init": "Untrained (baseline)"}
        self.model = combo(
            {titles.get(name, name): name for name in MODEL_NAMES},
            lambda value: session.configure(model=value, layer=None),
            "The foundation model whose tokens are read.",
        )
        self.licence = sentence_label()
        self.layer = QSpinBox()
        self.layer.setRange(0, 64)
        self.layer.setSpecialValueText("recommended")
        self.layer.setToolTip("Layer whose tokens are read, counted from 1.")
        self.layer.valueChanged.connect(lambda value: session.configure(layer=value or None))
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
        layout = QVBoxLayout(self.content)
        layout.setContentsMargins(0, 0, 0, 0)
        form = self.form()
        form.addRow("Model", self.model)
        form.addRow("Layer", self.layer)
        form.addRow("Read from", self.site)
        form.addRow("Device", self.device)
        layout.addLayout(form)
        layout.addWidget(self.licence)
        self.heading.toggled.connect(self._ask)

    def _ask(self) -> None:
        """Look the model up once it is looked at, and again when another is chosen."""
        config = self.session.config
        wanted = (config.model, config.device)
        if self.is_expanded and wanted != self._asked:
            self._asked = wanted
            self.licence.setText("Looking the model up...")
            self._runner.start(_describe(*wanted))

    def _on_described(self, described: tuple[str, ModelSpec, str]) -> None:
        _, spec, device = described
        self.spec = spec
        self.layer.setMaximum(spec.depth)
        self.layer.setSpecialValueText(f"recommended ({spec.default_layer})")
        terms = "no commercial use" if spec.non_commercial else "commercial use allowed"
        self.licence.setText(
            f"{spec.title}: {spec.depth} layers, patches of {spec.patch_size} px. Licence of the "
            f"weights: {spec.licence} ({terms}). Source: {spec.source}. Runs on: {device}."
        )

    def _on_failed(self, sentence: str) -> None:
        self._asked = None
        self.licence.setText(f"⚠ {sentence}")

    def stop(self) -> None:
        """Forget the look-up, because the dock was closed."""
        self._runner.stop()
        self._asked = None

    def refresh(self) -> None:
        """Show the chosen model."""
        config = self.session.config
        show_choice(self.model, config.model)
        show_choice(self.site, config.site)
        show_choice(self.device, config.device)
        show_number(self.layer, config.layer or 0)
        where = "recommended layer" if config.layer is None else f"layer {config.layer}"
        self.set_summary(f"{self.model.currentText()}, {where}, {self.site.currentText().lower()}")
        self._ask()
