"""The Concept explorer dock: which concepts there are, where they show, and in which condition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari.viewer import Viewer
from qtpy.QtCore import QSignalBlocker, Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QSplitter,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_microdl.gui.concept_table import ConceptTable
from napari_microdl.gui.dock import Dock, sentence_label
from napari_microdl.gui.gallery import Gallery
from napari_microdl.gui.plots import DistributionPlot
from napari_microdl.gui.session import OverlayKind

# Overlays follow the arrow keys at once; plot and gallery wait until the keys rest.
_MILLISECONDS_OF_REST = 80
_EMPTY = (
    "No concepts yet: run the Concept workflow (Plugins > MicroDL), and they are listed here, the "
    "most telling first."
)


class ConceptExplorer(Dock):
    """Ranked concepts, their overlays, their distribution per condition, and example cells.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        The viewer.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.message = sentence_label(_EMPTY)
        self.kinds: dict[OverlayKind, QCheckBox] = {
            "heatmap": QCheckBox("Heatmap"),
            "activation": QCheckBox("Activation"),
            "cells": QCheckBox("Outlines"),
        }
        tips = {
            "heatmap": "Cosine of the concept's direction with every patch: orange where the image "
            "shows the concept, blue where it shows its opposite.",
            "activation": "How strongly the concept is active in every cell (or crop).",
            "cells": "Outlines of the cells that the built-in segmentation found; hover one to "
            "read its activation.",
        }
        overlay_row = QHBoxLayout()
        for kind, box in self.kinds.items():
            box.setToolTip(tips[kind])
            box.clicked.connect(self._on_kinds)
            overlay_row.addWidget(box)
        self.where = QComboBox()
        self.where.addItem("on selected image", False)
        self.where.addItem("on all images", True)
        self.where.setToolTip("Which images carry the overlays.")
        self.where.activated.connect(self._on_where)
        overlay_row.addStretch(1)
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("filter by name or condition")
        self.filter.setClearButtonEnabled(True)
        self.table = ConceptTable(self.session)
        self.table.setMinimumHeight(90)
        self.filter.textChanged.connect(self.table.proxy.setFilterFixedString)
        self.table.concept_chosen.connect(self.session.show_concept)
        self.plot = DistributionPlot()
        self.gallery = Gallery()
        self.gallery.unit_chosen.connect(self.go_to_unit)
        self.channel = QComboBox()
        self.channel.setToolTip("Channel shown in the gallery.")
        self.channel.activated.connect(self._show_details)
        pictures = QWidget()
        picture_column = QVBoxLayout(pictures)
        picture_column.setContentsMargins(0, 0, 0, 0)
        picture_column.addWidget(self.channel)
        picture_column.addWidget(self.gallery, 1)
        self.tabs = QTabWidget()
        self.tabs.addTab(self.plot, "Conditions")
        self.tabs.addTab(pictures, "Gallery")
        self.tabs.setMinimumHeight(110)
        self.tabs.currentChanged.connect(self._show_details)
        splitter = QSplitter(Qt.Orientation.Vertical)
        splitter.addWidget(self.table)
        splitter.addWidget(self.tabs)
        splitter.setSizes([240, 260])
        splitter.setChildrenCollapsible(False)
        self.save_plot_button = QPushButton("Save plot...")
        self.save_table_button = QPushButton("Save table...")
        self.save_cells_button = QPushButton("Save cells...")
        self.save_table_button.setToolTip("The ranked concepts as CSV.")
        self.save_cells_button.setToolTip(
            "One row a cell (or crop) with its condition, position and activations, as CSV."
        )
        self.save_plot_button.clicked.connect(
            lambda: self._ask(self.save_plot, "concept.png", "Plot (*.png *.svg *.pdf)")
        )
        self.save_table_button.clicked.connect(
            lambda: self._ask(self.save_table, "concepts.csv", "Table (*.csv)")
        )
        self.save_cells_button.clicked.connect(
            lambda: self._ask(self.save_cells, "cells.csv", "Table (*.csv)")
        )
        saving = QHBoxLayout()
        for button in (self.save_plot_button, self.save_table_button, self.save_cells_button):
            saving.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 4, 4, 4)
        layout.addWidget(self.message)
        layout.addLayout(overlay_row)
        filter_row = QHBoxLayout()
        filter_row.addWidget(self.filter, 1)
        filter_row.addWidget(self.where)
        layout.addLayout(filter_row)
        layout.addWidget(splitter, 1)
        layout.addLayout(saving)
        self.setMinimumWidth(380)
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(_MILLISECONDS_OF_REST)
        self._rest.timeout.connect(self._show_details)
        self.resume()

    def connect_signals(self) -> None:
        """Connect to theme and session."""
        connect = self.connections.connect
        connect(self.viewer.events.theme, self._on_theme)
        connect(self.session.run_changed, self._on_run)
        connect(self.session.concept_changed, self._on_concept)
        connect(self.session.view_changed, self._on_view)
        connect(self.session.names_changed, self._on_concept)

    def suspend(self) -> None:
        """Stop listening, because the dock was closed."""
        super().suspend()
        self._rest.stop()

    def refresh(self) -> None:
        """Show the run of the session anew."""
        self._on_theme()
        self._on_view()
        self._on_run()

    def _on_theme(self) -> None:
        self.plot.set_colours(self.theme_colours())
        self.plot.setVisible(True)

    def _on_run(self) -> None:
        run = self.session.run
        self.table.reload()
        self.message.setVisible(run is None)
        for widget in (
            self.filter,
            self.where,
            *self.kinds.values(),
            self.save_plot_button,
            self.save_table_button,
            self.save_cells_button,
        ):
            widget.setEnabled(run is not None)
        self.gallery.clear()
        if run is None:
            return
        self._on_view()
        own = all(source.has_own_labels for source in run.sources)
        self.kinds["cells"].setVisible(run.result.config.unit == "cell" and not own)
        names = run.fields[0].channel_names
        with QSignalBlocker(self.channel):
            self.channel.clear()
            self.channel.addItems(names)
        self.channel.setVisible(len(names) > 1)
        self._on_concept()

    def _on_concept(self) -> None:
        if self.session.run is not None and self.session.concept is not None:
            self.table.select(self.session.concept)
            self._rest.start()

    def _on_view(self) -> None:
        for kind, box in self.kinds.items():
            box.setChecked(kind in self.session.kinds)
        self.where.setCurrentIndex(int(self.session.show_all_fields))

    def _on_kinds(self) -> None:
        self.session.show(kinds=[kind for kind, box in self.kinds.items() if box.isChecked()])

    def _on_where(self) -> None:
        self.session.show(all_fields=bool(self.where.currentData()))

    def _show_details(self) -> None:
        """Draw the tab in view; the other waits until it is looked at."""
        run, concept = self.session.run, self.session.concept
        if run is None or concept is None:
            return
        if self.tabs.currentIndex() == 0:
            self.plot.show_concept(run.result.activations, concept, run.result.config.unit)
        else:
            self.gallery.show_concept(run, concept, max(self.channel.currentIndex(), 0))

    def go_to_unit(self, row: int) -> None:
        """Select the image of a unit and centre the view on it.

        Parameters
        ----------
        row : int
            Row of the table of units.
        """
        run = self.session.run
        if run is None:
            return
        unit: Any = run.result.activations.units.iloc[row]
        source = run.sources[int(unit["field"])]
        layer = source.layer()
        if layer is None or layer not in self.viewer.layers:
            self.message.setText(f"The image of {source.name} was closed.")
            self.message.show()
            return
        self.viewer.layers.selection.active = layer
        position = layer.data_to_world([*(i or 0 for i in source.index), unit["y"], unit["x"]])
        dims = self.viewer.dims
        offset = dims.ndim - len(position)
        for axis, value in enumerate(position[:-2]):
            if source.index[axis] is not None:
                dims.set_point(axis + offset, value)
        self.camera.center = (*self.camera.center[:-2], *position[-2:])

    @property
    def camera(self) -> Any:
        """The viewer's camera, which napari 0.9 moved into the scene."""
        return getattr(self.viewer, "scene", self.viewer).camera

    # Files -------------------------------------------------------------------------------------

    def _ask(self, save: Callable[[str], None], name: str, kinds: str) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save", name, kinds)
        if path:
            try:
                save(path)
            except OSError as error:
                self.message.setText(f"⚠ Could not save: {error}")
                self.message.show()

    def save_plot(self, path: str | Path) -> None:
        """Write the distribution of the concept on show as PNG, SVG or PDF."""
        run, concept = self.session.run, self.session.concept
        if run is not None and concept is not None:
            self.plot.show_concept(run.result.activations, concept, run.result.config.unit)
            self.plot.save(path)

    def save_table(self, path: str | Path) -> None:
        """Write the ranked concepts as CSV."""
        if self.session.run is not None:
            self.session.run.result.activations.ranking.to_csv(path)

    def save_cells(self, path: str | Path) -> None:
        """Write one row a unit with its activations as CSV."""
        if self.session.run is not None:
            self.session.run.result.activations.to_frame().to_csv(path, index=False)
