"""The five steps of the workflow dock."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from napari.layers import Labels
from napari.viewer import Viewer
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QPushButton,
    QRadioButton,
    QSpinBox,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_microdl.gui.dock import sentence_label
from napari_microdl.gui.fields_table import FieldsTable
from napari_microdl.gui.fill_fields import FillFields
from napari_microdl.gui.jobs import JobRunner
from napari_microdl.gui.layers import is_output, leading_shape
from napari_microdl.gui.plots import FitCurve
from napari_microdl.gui.session import Session
from napari_microdl.gui.step import Step
from napari_microdl.models.base import ModelSpec
from napari_microdl.models.registry import MODEL_NAMES

# Below every shrinkage that can be chosen.
_AUTO = -0.1


def _combo(choices: dict[str, Any], changed: Callable[[Any], None], tip: str) -> QComboBox:
    """A combo box of named choices; `changed` gets the chosen value when a person chooses."""
    box = QComboBox()
    for text, value in choices.items():
        box.addItem(text, value)
    box.setToolTip(tip)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)
    box.activated.connect(lambda _: changed(box.currentData()))
    return box


def _select(box: QComboBox, value: Any) -> None:
    for number in range(box.count()):
        if box.itemData(number) == value:
            box.setCurrentIndex(number)
            return
    box.setCurrentIndex(-1)


def _set(box: QSpinBox | QDoubleSpinBox, value: float) -> None:
    with QSignalBlocker(box):
        box.setValue(type(box.value())(value))


class ImagesStep(Step):
    """Images and channels: what is a field, which are controls, which channels count."""

    def __init__(self, session: Session, viewer: Viewer) -> None:
        super().__init__(session, "1  Images and channels")
        self._viewer = weakref.ref(viewer)
        self.arrangement = _combo(
            {"Each image is a field": "fields", "Images are channels of fields": "channels"},
            lambda value: self._change_layout(arrangement=value),
            "How the open images make up fields of view.",
        )
        self.channel_axis = _combo(
            {},
            lambda value: self._change_layout(channel_axis=value),
            "Which axis of a stack holds channels. Its other leading axes (time, z, positions) "
            "give one field each.",
        )
        self.split_rgb = QCheckBox("Use red, green and blue of RGB images as channels")
        self.split_rgb.clicked.connect(lambda ticked: self._change_layout(split_rgb=bool(ticked)))
        self.table = FieldsTable(session)
        self.condition = QLineEdit()
        self.condition.setPlaceholderText("condition")
        self.condition.setToolTip("Type a condition and press Set, for all selected rows at once.")
        self.set_condition = QPushButton("Set")
        self.mark_control = QPushButton("Control")
        self.mark_control.setToolTip("Mark the selected rows as untreated controls.")
        self.mark_treated = QPushButton("Treated")
        self.mark_treated.setToolTip("Mark the selected rows as treated.")
        self.fill = QPushButton("Fill in...")
        self.fill.setToolTip(
            "Conditions, wells and controls from the names of the images, from a table, or by a "
            "query."
        )
        self.fill.clicked.connect(self._fill)
        self.scaling = _combo(
            {"Each by itself": "image", "All together": "plate"},
            lambda value: session.configure(scaling=value),
            "Over what background and mean intensity are measured. 'All together' keeps "
            "differences of brightness between images.",
        )
        self.channels = QTableWidget(0, 2)
        self.channels.setHorizontalHeaderLabels(["Use", "Channel"])
        self.channels.verticalHeader().hide()
        self.channels.setToolTip("Channels in the order in which the model reads them.")
        header = self.channels.horizontalHeader()
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        self.channels.itemChanged.connect(self._on_channel)
        self.channel_tokens = _combo(
            {"Side by side": "concat", "Averaged": "mean"},
            lambda value: session.configure(channel_tokens=value),
            "How the tokens of several channels are put together for one patch.",
        )

        self.set_condition.clicked.connect(self._set_condition)
        self.condition.returnPressed.connect(self._set_condition)
        self.mark_control.clicked.connect(lambda: self._mark(True))
        self.mark_treated.clicked.connect(lambda: self._mark(False))
        layout = QVBoxLayout(self.content)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.arrangement)
        layout.addWidget(self.table)
        edit = QHBoxLayout()
        edit.addWidget(self.condition, 1)
        for button in (self.set_condition, self.mark_control, self.mark_treated, self.fill):
            edit.addWidget(button)
        layout.addLayout(edit)
        self._form = self.form()
        self._form.addRow("Channel axis", self.channel_axis)
        layout.addLayout(self._form)
        layout.addWidget(self.split_rgb)
        layout.addWidget(self.channels)
        below = self.form()
        below.addRow("Several channels", self.channel_tokens)
        below.addRow("Brightness scale", self.scaling)
        layout.addLayout(below)
        self._below = below

    def _change_layout(self, **changes: Any) -> None:
        viewer = self._viewer()
        if viewer is not None:
            layout = dataclasses.replace(self.session.layout, **changes)
            self.session.set_layout(layout, viewer.layers)

    def _fill(self) -> None:
        # Not modal: the table stays in view and in reach while it is filled.
        dialog = FillFields(self.session, self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.show()

    def _selected_or_all(self) -> list[int]:
        return self.table.selected_rows() or list(range(len(self.session.rows)))

    def _set_condition(self) -> None:
        self.session.edit_rows(self._selected_or_all(), condition=self.condition.text().strip())

    def _mark(self, is_control: bool) -> None:
        self.session.edit_rows(self._selected_or_all(), is_control=is_control)

    def _on_channel(self, item: QTableWidgetItem) -> None:
        if item.column() == 0:
            used = item.checkState() == Qt.CheckState.Checked
            self.session.edit_channel(item.row(), use=used)
        else:
            self.session.edit_channel(item.row(), name=item.text())

    def refresh(self) -> None:
        """Show rows, channels and choices as they are now."""
        layout, rows = self.session.layout, self.session.rows
        self.table.fields_model.reload()
        _select(self.arrangement, layout.arrangement)
        _select(self.scaling, self.session.config.scaling)
        _select(self.channel_tokens, self.session.config.channel_tokens)
        images = [layer for row in rows if (layer := row.layer()) is not None]
        stacks = [layer for layer in images if leading_shape(layer)]
        self._form.setRowVisible(self.channel_axis, bool(stacks))
        if stacks:
            most = max(stacks, key=lambda layer: layer.ndim)
            self.channel_axis.clear()
            if layout.channel_axis == "ask":
                self.channel_axis.addItem("choose...", "ask")
            self.channel_axis.addItem("none: every plane is a field", "none")
            for axis, length in enumerate(leading_shape(most)):
                name = str(most.axis_labels[axis])
                name = f" '{name}'" if not name.startswith("-") else ""
                self.channel_axis.addItem(f"axis {axis}{name} ({length} planes)", axis)
            _select(self.channel_axis, layout.channel_axis)
        self.split_rgb.setVisible(any(layer.rgb for layer in images))
        self.split_rgb.setChecked(layout.split_rgb)
        self._show_channels()
        used = self.session.used_rows()
        names = {r.group for r in used} if layout.arrangement == "channels" else used
        controls = [r for r in used if r.is_control]
        if layout.arrangement == "channels":
            n_controls = len({r.group for r in controls})
        else:
            n_controls = len(controls)
        shown = ", ".join(c.name for c in self.session.channels if c.use)
        self.set_summary(
            f"{len(names)} fields, {n_controls} of them controls; channels: {shown}" if used else ""
        )

    def _show_channels(self) -> None:
        channels = self.session.channels
        editable = self.session.layout.arrangement == "fields"
        with QSignalBlocker(self.channels):
            self.channels.setRowCount(len(channels))
            for number, channel in enumerate(channels):
                tick = QTableWidgetItem()
                tick.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
                tick.setCheckState(
                    Qt.CheckState.Checked if channel.use else Qt.CheckState.Unchecked
                )
                name = QTableWidgetItem(channel.name)
                if not editable:
                    name.setFlags(Qt.ItemFlag.ItemIsEnabled)
                    name.setToolTip("Rename it in the column Channel of the table above.")
                self.channels.setItem(number, 0, tick)
                self.channels.setItem(number, 1, name)
        rows = min(max(len(channels), 1), 6)
        self.channels.setFixedHeight(
            self.channels.horizontalHeader().sizeHint().height()
            + rows * self.channels.verticalHeader().defaultSectionSize()
            + 6
        )
        self._below.setRowVisible(self.channel_tokens, len(channels) > 1)


class CellsStep(Step):
    """Cells: what one sample is, and where cells come from."""

    preview_wanted = Signal()

    def __init__(self, session: Session, viewer: Viewer) -> None:
        super().__init__(session, "2  Cells")
        self._viewer = weakref.ref(viewer)
        self.unit = _combo(
            {"Cells": "cell", "Square crops": "crop", "Single patches": "token"},
            lambda value: session.configure(unit=value),
            "What one sample is: the mean token of a cell, of a crop, or a patch by itself.",
        )
        self.source = _combo(
            {"Built-in segmentation": "segmentation", "My Labels layers": "labels"},
            lambda value: session.choose(cell_source=value),
            "Where the cells come from. A Labels layer from a trained segmentation is better where "
            "there is one.",
        )
        self.channel = _combo(
            {}, lambda value: self._segment(channel=value), "Channel in which cells are bright."
        )
        self.diameter = QDoubleSpinBox()
        self.diameter.setRange(4, 2000)
        self.diameter.setDecimals(0)
        self.diameter.setSuffix(" px")
        self.diameter.setToolTip("Typical diameter of a cell in pixels.")
        self.diameter.valueChanged.connect(lambda value: self._segment(diameter=float(value)))
        self.threshold = _combo(
            {"Local, for uneven light": "local", "One for the image (Otsu)": "otsu"},
            lambda value: self._segment(threshold=value),
            "How cells are told from background.",
        )
        self.min_area = QDoubleSpinBox()
        self.min_area.setRange(0, 1e7)
        self.min_area.setDecimals(0)
        self.min_area.setSuffix(" px²")
        self.min_area.setSpecialValueText("auto")
        self.min_area.setToolTip("Smaller objects are dropped; auto is a sixth of a typical cell.")
        self.min_area.valueChanged.connect(lambda value: self._segment(min_area=value or None))
        self.preview = QPushButton("Preview on the selected image")
        self.preview.clicked.connect(self.preview_wanted)
        self.crop_size = QSpinBox()
        self.crop_stride = QSpinBox()
        for box, name in ((self.crop_size, "crop_size"), (self.crop_stride, "crop_stride")):
            box.setRange(1, 4096)
            box.setSuffix(" px")
            box.valueChanged.connect(lambda value, name=name: session.configure(**{name: value}))
        self.labels = QTableWidget(0, 2)
        self.labels.setHorizontalHeaderLabels(["Field", "Labels layer"])
        self.labels.verticalHeader().hide()
        header = self.labels.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)

        layout = QVBoxLayout(self.content)
        layout.setContentsMargins(0, 0, 0, 0)
        self._form = self.form()
        self._form.addRow("One sample is", self.unit)
        self._form.addRow("Crop size", self.crop_size)
        self._form.addRow("Every", self.crop_stride)
        self._form.addRow("Cells from", self.source)
        self._form.addRow("Channel", self.channel)
        self._form.addRow("Cell diameter", self.diameter)
        self._form.addRow("Threshold", self.threshold)
        self._form.addRow("Smallest cell", self.min_area)
        layout.addLayout(self._form)
        layout.addWidget(self.preview)
        layout.addWidget(self.labels)

    def _segment(self, **changes: Any) -> None:
        segmentation = dataclasses.replace(self.session.config.segmentation, **changes)
        self.session.configure(segmentation=segmentation)

    def refresh(self) -> None:
        """Show the settings that matter for the chosen unit."""
        config = self.session.config
        segmentation = config.segmentation
        cells = config.unit == "cell"
        built_in = cells and self.session.cell_source == "segmentation"
        _select(self.unit, config.unit)
        _select(self.source, self.session.cell_source)
        _select(self.threshold, segmentation.threshold)
        names = [channel.name for channel in self.session.channels]
        self.channel.clear()
        self.channel.addItem(f"first ({names[0]})" if names else "first", None)
        for name in names:
            self.channel.addItem(name, name)
        _select(self.channel, segmentation.channel)
        _set(self.diameter, segmentation.diameter)
        _set(self.min_area, segmentation.min_area or 0)
        _set(self.crop_size, config.crop_size)
        _set(self.crop_stride, config.crop_stride)
        crops = config.unit == "crop"
        for widget, shown in (
            (self.crop_size, crops),
            (self.crop_stride, crops),
            (self.source, cells),
            (self.channel, built_in and len(names) > 1),
            (self.diameter, built_in),
            (self.threshold, built_in),
            (self.min_area, built_in),
        ):
            self._form.setRowVisible(widget, shown)
        self.preview.setVisible(built_in)
        self.labels.setVisible(cells and not built_in)
        if cells and not built_in:
            self._show_labels()
        self.set_summary(
            {
                "cell": "cells of the built-in segmentation" if built_in else "cells of my labels",
                "crop": f"crops of {config.crop_size} px, every {config.crop_stride} px",
                "token": "single patches",
            }[config.unit]
        )

    def _choose_labels(self, number: int, layer: Labels | None) -> None:
        self.session.edit_rows([number], labels=None if layer is None else weakref.ref(layer))

    def _show_labels(self) -> None:
        viewer = self._viewer()
        if viewer is None:
            return
        candidates = [x for x in viewer.layers if isinstance(x, Labels) and not is_output(x)]
        channels = self.session.layout.arrangement == "channels"
        first_of: dict[str, int] = {}
        for number, row in enumerate(self.session.rows):
            if row.use:
                first_of.setdefault(row.group if channels else str(number), number)
        self.labels.setRowCount(len(first_of))
        for place, number in enumerate(first_of.values()):
            row = self.session.rows[number]
            name = QTableWidgetItem(row.group if channels else row.name)
            name.setFlags(Qt.ItemFlag.ItemIsEnabled)
            self.labels.setItem(place, 0, name)
            box = _combo(
                {"choose...": None},
                partial(self._choose_labels, number),
                "Labels layer with one number a cell.",
            )
            for layer in candidates:
                box.addItem(layer.name, layer)
            _select(box, row.labels_layer())
            self.labels.setCellWidget(place, 1, box)
        rows = min(max(len(first_of), 2), 8)
        self.labels.setFixedHeight(
            self.labels.horizontalHeader().sizeHint().height()
            + rows * self.labels.verticalHeader().defaultSectionSize()
            + 6
        )


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
        self.model = _combo(
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
        self.site = _combo(
            {"Residual stream": "residual", "Attention output": "attention"},
            lambda value: session.configure(site=value),
            "Where in the layer to read; the paper found both about equally good.",
        )
        self.device = _combo(
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
        _select(self.model, config.model)
        _select(self.site, config.site)
        _select(self.device, config.device)
        _set(self.layer, config.layer or 0)
        where = "recommended layer" if config.layer is None else f"layer {config.layer}"
        self.set_summary(f"{self.model.currentText()}, {where}, {self.site.currentText().lower()}")
        self._ask()


class WhiteningStep(Step):
    """Whitening on the controls."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, "4  Whitening")
        self.whiten = QCheckBox("Whiten on the control fields")
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
        self.remove_position = QCheckBox("Remove the position in the tile")
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

    def refresh(self) -> None:
        """Show the settings."""
        config = self.session.config
        self.whiten.setChecked(config.whiten)
        self.remove_position.setChecked(config.remove_position)
        _set(self.shrinkage, _AUTO if config.shrinkage is None else config.shrinkage)
        self._form.setRowVisible(self.shrinkage, config.whiten)
        position = "position removed" if config.remove_position else "position kept"
        run = self.session.run
        auto = "auto"
        if run is not None and run.result.dictionary.whitening is not None:
            auto = f"auto (last run: {run.result.dictionary.whitening.shrinkage:g})"
        self.shrinkage.setSpecialValueText(auto)
        shrinkage = auto if config.shrinkage is None else f"{config.shrinkage:g}"
        whitening = f"on controls, shrinkage {shrinkage}" if config.whiten else "off"
        self.set_summary(f"{whitening}; {position}")


class DictionaryStep(Step):
    """Dictionary: fit a new one or apply a loaded one."""

    load_wanted = Signal()
    save_wanted = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__(session, "5  Dictionary")
        self.fit = QRadioButton("Fit a new dictionary")
        self.apply = QRadioButton("Apply the loaded dictionary")
        modes = QButtonGroup(self)
        modes.addButton(self.fit)
        modes.addButton(self.apply)
        self.fit.clicked.connect(lambda: session.choose(apply_dictionary=False))
        self.apply.clicked.connect(lambda: session.choose(apply_dictionary=True))
        self.load = QPushButton("Load...")
        self.load.clicked.connect(self.load_wanted)
        self.save = QPushButton("Save...")
        self.save.clicked.connect(self.save_wanted)
        self.loaded = sentence_label()
        self.sizes = QWidget()
        form = self.form()
        self.sizes.setLayout(form)
        self.n_atoms = self._size(
            form, "Concepts", "n_atoms", 8192, "Number of dictionary atoms; each is a concept."
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
        self.automatic = sentence_label()
        self.curve = FitCurve()
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
        # Outside the content: the fit is watched with the step collapsed, too.
        self.layout().addWidget(self.curve)

    def _size(self, form: Any, label: str, name: str, most: int, tip: str) -> QSpinBox:
        box = QSpinBox()
        box.setRange(0, most)
        box.setSpecialValueText("auto")
        box.setToolTip(tip)
        box.valueChanged.connect(lambda value: self.session.configure(**{name: value or None}))
        form.addRow(label, box)
        return box

    def refresh(self) -> None:
        """Show mode, sizes and the dictionary at hand."""
        session = self.session
        config, dictionary = session.config, session.dictionary
        self.fit.setChecked(not session.apply_dictionary)
        self.apply.setChecked(session.apply_dictionary)
        _set(self.n_atoms, config.n_atoms or 0)
        _set(self.n_iterations, config.n_iterations or 0)
        _set(self.per_iteration, config.atoms_per_iteration or 0)
        self.sizes.setVisible(not session.apply_dictionary)
        self.automatic.setVisible(not session.apply_dictionary)
        self.automatic.setText(self._automatic())
        if dictionary is None:
            self.loaded.setText("No dictionary yet: fit one or load a *.microdl.safetensors file.")
        else:
            spec = dictionary.spec
            decides = (
                " It decides model, layer, channels, sample unit and whitening."
                if session.apply_dictionary
                else ""
            )
            self.loaded.setText(
                f"At hand: {dictionary.n_concepts} concepts of {spec.unit}s, model "
                f"'{spec.model_id}', layer {spec.layer}, channels {', '.join(spec.channel_names)}."
                + decides
            )
        if session.apply_dictionary:
            self.set_summary("apply the loaded dictionary")
        else:
            size = "auto" if config.n_atoms is None else str(config.n_atoms)
            self.set_summary(f"fit a new one, concepts: {size}")

    def _automatic(self) -> str:
        """What "auto" picks, from the number of samples of the last run."""
        run = self.session.run
        if run is None:
            return (
                "Auto takes about one concept for every eight samples, at most 20 active in each; "
                "the numbers appear here after the first run."
            )
        from napari_microdl.icfl import default_size

        samples, width = run.result.activations.vectors.shape
        atoms, rounds, picked = default_size(samples, width)
        return (
            f"With the {samples} {run.result.config.unit}s of the last run, auto takes {atoms} "
            f"concepts, at most {rounds} x {picked} active in each."
        )
