"""The Concept explorer dock: which concepts there are, where they show, and in which condition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.notifications import show_info
from napari.viewer import Viewer
from numpy.typing import NDArray
from qtpy.QtCore import QSignalBlocker, Qt, QTimer
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QSlider,
    QSplitter,
    QTabWidget,
    QVBoxLayout,
)

from napari_microdl.concepts.concept_set import ConceptSet
from napari_microdl.concepts.heat import SHOWN_TO
from napari_microdl.gui.dock import EXPLORER, Dock, arranger_of, contrast_of, overlays_of
from napari_microdl.gui.explorer.card import ConceptCardPanel
from napari_microdl.gui.explorer.cell_panel import CellPanel
from napari_microdl.gui.explorer.compare_panel import ComparePanel
from napari_microdl.gui.explorer.concept_table import ConceptTable
from napari_microdl.gui.explorer.evaluation_panel import EvaluationPanel
from napari_microdl.gui.explorer.gallery import Gallery
from napari_microdl.gui.explorer.map_panel import MapPanel
from napari_microdl.gui.explorer.panel import Panel
from napari_microdl.gui.explorer.picture_list import TILE
from napari_microdl.gui.explorer.plate_images import PlateImages
from napari_microdl.gui.explorer.plate_panel import PlatePanel
from napari_microdl.gui.explorer.plot_panel import PlotPanel
from napari_microdl.gui.explorer.saving import OpenButton, SaveButton
from napari_microdl.gui.explorer.tag_panel import TagPanel
from napari_microdl.gui.explorer.together_panel import TogetherPanel
from napari_microdl.gui.overlays.picking import Picker, go_to, image_of, unit_at
from napari_microdl.gui.session.session import OverlayKind
from napari_microdl.gui.widgets.inputs import sentence_label, show_number
from napari_microdl.gui.widgets.jobs import JobRunner
from napari_microdl.gui.widgets.save_actions import offer
from napari_microdl.gui.widgets.turns import do_in_turn

# Overlays follow the arrow keys at once; the tab in view waits until the keys rest.
_MILLISECONDS_OF_REST = 150
# The table at first, with its heading and a bar to scroll; and a tab at first, and around pictures.
_ROWS_IN_VIEW, _AROUND_ROWS, _HEIGHT_OF_TAB, _AROUND_TILES = 12, 38, 320, 40
# Pixels from line to line; of the usual size it is about 15.
_LARGE_LETTERS = 20
_EMPTY = (
    "No concepts yet: run the Concept workflow (Plugins > MicroDL), and they are listed here, the "
    "most telling first."
)
_WITHOUT_IMAGES = (
    "Opened from a folder, without its images: there are no overlays, and no pictures in the "
    "gallery."
)
_OF_PLATE = (
    "Opened from the folder of a plate run: click a well in the tab Plate to see its images."
)
_OVERLAYS: dict[OverlayKind, tuple[str, str]] = {
    "heatmap": (
        "&Heatmap",
        "Where the concept lies: orange where patches show it more than patches of controls do, "
        "blue where they show its opposite.",
    ),
    "activation": ("&Activation", "How strongly the concept is active in every cell (or crop)."),
    "cells": (
        "Cell &labels",
        "The cells that the built-in segmentation found, as a layer of labels; hover one to read "
        "its activation.",
    ),
}


class ConceptExplorer(Dock):
    """Ranked concepts, their overlays, and tabs that look at a concept, a cell or all of them.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        The viewer.
    """

    name = EXPLORER

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.selection = self.session.selection
        self.overlays = overlays_of(self.viewer)
        self.arranger = arranger_of(self.viewer)
        self.contrast = contrast_of(self.viewer)
        self.picker = Picker(self.viewer, self._on_click)
        # The window may be destroyed with the dock inside, which gives no other warning.
        self.destroyed.connect(self.picker.detach)
        self.message = sentence_label(_EMPTY)
        self.card = ConceptCardPanel(self.session)
        self.card.unit_chosen.connect(self.go_to_unit)
        self.table = ConceptTable(self.session)
        self.table.setMinimumHeight(80)
        self.table.concept_chosen.connect(self.session.view.show_concept)
        self.tabs = QTabWidget()
        self.tabs.setMinimumHeight(100)
        self.tabs.setUsesScrollButtons(True)
        shared = (self.session, self.overlays)
        self.plots = PlotPanel(*shared)
        self.gallery = Gallery(*shared)
        self.cell = CellPanel(*shared)
        self.together = TogetherPanel(*shared)
        self.compare = ComparePanel(*shared)
        self.map = MapPanel(*shared)
        self.plate = PlatePanel(*shared)
        self.tags = TagPanel(*shared, selected_concepts=self.table.selected_concepts)
        self.evaluation = EvaluationPanel(*shared)
        for panel, title, tip in (
            (self.plots, "Plots", "How the concept shows in conditions, wells and channels."),
            (self.gallery, "Gallery", "Cells by how strongly they show the concept."),
            (self.cell, "Cell", "A clicked cell, its concepts, and the cells most like it."),
            (self.together, "Together", "The few concepts that tell a condition together."),
            (self.compare, "Compare", "All concepts in two conditions."),
            (self.map, "Map", "All cells by their activations."),
            (self.plate, "Plate", "The wells of a plate, and the way to their images."),
            (self.tags, "Tags", "Your tags and notes on cells and concepts, and the recall."),
            (self.evaluation, "Evaluation", "How sure the concepts are, measured as a whole."),
        ):
            self.tabs.setTabToolTip(self.tabs.addTab(panel, title), tip)
        self.tabs.currentChanged.connect(self._show_details)
        for pictures in (self.gallery, self.cell, self.together):
            pictures.unit_chosen.connect(self.go_to_unit)
        self.plate.field_chosen.connect(self.go_to_field)
        bottom_row = self._lay_out()
        # After the others, because the Tab key reaches them in the order in which they came.
        self.open_button = OpenButton(self.session, self)
        self.save_button = SaveButton(
            self.viewer,
            self.session,
            self.save_plot,
            self.compare.comparison_work,
            self.table.selected_concepts,
            self.overlays,
            self,
        )
        self.images = PlateImages(self.viewer, self.session, self)
        self.images.opened.connect(self._on_images)
        self.images.failed.connect(lambda sentence: show_info(sentence))
        # Of a plate run: the unit to go to once its image is open.
        self._wanted_unit: int | None = None
        layout = self.layout()
        assert layout is not None
        for button in (self.open_button, self.save_button):
            bottom_row.addWidget(button)
            layout.addWidget(button.job_bar)
        layout.addWidget(self.images.job_bar)
        # Tables of the menu are had from what shows them, too.
        for widget, entry in (
            (self.table, "concepts"),
            (self.plots.plot, "units"),
            (self.map.plot, "units"),
            (self.compare.plot, "comparison"),
        ):
            offer(widget, self.save_button.entries[entry])
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(_MILLISECONDS_OF_REST)
        self._rest.timeout.connect(self._show_details)

    def _lay_out(self) -> QHBoxLayout:
        """Put everything in its place; the row at the bottom, for more."""
        self.kinds: dict[OverlayKind, QCheckBox] = {}
        overlay_row = QHBoxLayout()
        for kind, (text, tip) in _OVERLAYS.items():
            box = QCheckBox(text)
            box.setToolTip(tip)
            box.clicked.connect(self._on_kinds)
            self.kinds[kind] = box
        self.heat_from = QDoubleSpinBox()
        self.heat_from.setRange(0, SHOWN_TO - 0.5)
        self.heat_from.setSingleStep(0.5)
        self.heat_from.setDecimals(1)
        self.heat_from.setPrefix("from ")
        self.heat_from.setToolTip(
            "Heat that is shown: one control patch in a hundred is above 1, and one below -1. At "
            "0 everything is shown."
        )
        self.heat_from.setAccessibleName("Heat that is shown, compared with controls")
        self.heat_from.valueChanged.connect(
            lambda value: self.session.view.show(heat_from=float(value))
        )
        self.style = QComboBox()
        self.style.addItem("outline", True)
        self.style.addItem("fill", False)
        self.style.setToolTip(
            "Whether the activation of a cell is drawn around it, so that what is inside is seen, "
            "or over all of it."
        )
        self.style.setAccessibleName("How the activation of cells is drawn")
        self.style.activated.connect(
            lambda: self.session.view.show(outlined=bool(self.style.currentData()))
        )
        for widget in (
            self.kinds["heatmap"],
            self.heat_from,
            self.kinds["activation"],
            self.style,
        ):
            overlay_row.addWidget(widget)
        overlay_row.addStretch(1)
        looks_row = self._lay_out_looks()
        self.where = QComboBox()
        self.where.addItem("on selected image", False)
        self.where.addItem("on all images", True)
        self.where.setToolTip("Which images carry the overlays.")
        self.where.setAccessibleName("Which images carry the overlays")
        self.where.activated.connect(self._on_where)
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("search names, labels, tags")
        self.filter.setToolTip("Show concepts that hold every word.")
        self.filter.setClearButtonEnabled(True)
        self.filter.textChanged.connect(self.table.proxy.search)
        self.hide_flagged = QCheckBox("Hide flagged")
        self.hide_flagged.setToolTip(
            "Hide dead concepts, those that are like another, and technical ones."
        )
        self.hide_flagged.toggled.connect(self.table.proxy.hide_flagged)
        self.advanced = QCheckBox("Advanced")
        self.advanced.setToolTip("Also shows the technical columns of the table.")
        self.advanced.toggled.connect(self._on_advanced)
        filter_row = QHBoxLayout()
        filter_row.addWidget(self.filter, 1)
        filter_row.addWidget(self.hide_flagged)
        filter_row.addWidget(self.advanced)
        bottom_row = QHBoxLayout()
        bottom_row.addWidget(self.where)
        bottom_row.addStretch(1)
        self.splitter = QSplitter(Qt.Orientation.Vertical)
        self.splitter.addWidget(self.table)
        self.splitter.addWidget(self.tabs)
        self.splitter.setChildrenCollapsible(False)
        # The table keeps its height, and the tab has what is left, or what it needs once chosen.
        self.splitter.setStretchFactor(1, 1)
        rows = _ROWS_IN_VIEW * self.table.verticalHeader().defaultSectionSize()
        self.splitter.setSizes([rows + _AROUND_ROWS, _HEIGHT_OF_TAB])
        self.splitter.splitterMoved.connect(self._on_bar_moved)
        self._bar_was_moved = False
        self._made_room = False
        for signal in (self.tabs.tabBarClicked, self.tabs.currentChanged):
            signal.connect(self._make_room)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 4, 4, 4)
        layout.addWidget(self.message)
        layout.addWidget(self.card)
        layout.addLayout(overlay_row)
        layout.addLayout(looks_row)
        layout.addLayout(filter_row)
        layout.addWidget(self.splitter, 1)
        layout.addLayout(bottom_row)
        return bottom_row

    def _lay_out_looks(self) -> QHBoxLayout:
        """How overlays and images look."""
        self.opacity = QSlider(Qt.Orientation.Horizontal)
        self.opacity.setMinimumWidth(40)
        self.opacity.setRange(10, 100)
        self.opacity.setToolTip("Opacity of heatmap and activation.")
        self.opacity.setAccessibleName("Opacity of overlays")
        self.opacity.valueChanged.connect(lambda value: self.overlays.set_opacity(value / 100))
        self.legend = QCheckBox("Le&gend")
        self.legend.setToolTip("Colour bar, concept and field on the canvas, as in screenshots.")
        self.legend.clicked.connect(lambda on: self.session.view.show(legend=on))
        self.one_contrast = QCheckBox("One &contrast")
        self.one_contrast.setToolTip(
            "Show all fields in the contrast of the controls, so that brighter means brighter; "
            "unticked, each field has its own."
        )
        self.one_contrast.clicked.connect(self.contrast.switch)
        self.peek = QPushButton("Peek")
        self.peek.setToolTip(
            "Hides all overlays while it is held down; so does the key H over the images."
        )
        self.peek.pressed.connect(lambda: self.overlays.peek(True))
        self.peek.released.connect(lambda: self.overlays.peek(False))
        row = QHBoxLayout()
        for widget in (self.kinds["cells"], self.legend, self.one_contrast):
            row.addWidget(widget)
        row.addWidget(self.opacity, 1)
        row.addWidget(self.peek)
        return row

    @property
    def panels(self) -> list[Panel]:
        """The tabs, from left to right."""
        found: list[Any] = [self.tabs.widget(i) for i in range(self.tabs.count())]
        return found

    def connect_signals(self) -> None:
        """Connect to theme, session and clicks."""
        connect = self.connections.connect
        connect(self.viewer.events.theme, self._on_theme)
        connect(self.session.run.changed, self._on_run)
        connect(self.session.run.report_changed, self.table.concepts.refresh_texts)
        connect(self.session.run.report_changed, self._show_soon)
        connect(self.session.view.concept_changed, self._on_concept)
        connect(self.session.view.changed, self._on_view)
        connect(self.session.view.pictures_changed, self._show_soon)
        connect(self.session.run.names_changed, self._on_texts)
        connect(self.selection.changed, self._on_selection)
        connect(self.selection.tags_changed, self._on_texts)
        self.picker.attach()

    def suspend(self) -> None:
        """Stop listening, because the dock was closed."""
        super().suspend()
        self.picker.detach()
        self._rest.stop()
        self.images.stop()
        for jobs in self.findChildren(JobRunner):
            jobs.stop()

    def refresh(self) -> None:
        """Show the run of the session anew."""
        self._on_theme()
        self._on_view()
        self._on_run()

    def _on_theme(self) -> None:
        colours = self.theme_colours()
        for panel in self.panels:
            panel.set_colours(colours)

    def _on_run(self) -> None:
        run = self.session.run.current
        self.table.reload()
        with_images = run is not None and run.can_show_images
        of_plate = run is not None and run.plate is not None
        self.message.setText(_EMPTY if run is None else _OF_PLATE if of_plate else _WITHOUT_IMAGES)
        self.message.setVisible(of_plate or not with_images)
        for widget in (self.filter, self.hide_flagged, self.tabs):
            widget.setEnabled(run is not None)
        self.save_button.refresh()
        looks = (self.style, self.opacity, self.legend, self.one_contrast, self.peek)
        for widget in (self.where, self.heat_from, *looks, *self.kinds.values()):
            widget.setEnabled(with_images)
        self.card.show_run(run)
        self.images.forget()
        for panel in self.panels:
            panel.show_run(run)
        if run is None:
            return
        if of_plate:
            self.tabs.setCurrentWidget(self.plate)
        self._on_view()
        own = all(source.has_own_labels for source in run.sources) and run.has_images
        of_cells = run.result.config.units.kind == "cell"
        self.kinds["cells"].setVisible(of_cells and not own)
        self.style.setVisible(of_cells)
        self._on_concept()

    def _on_concept(self) -> None:
        shown = self.session.view.concept
        if self.session.run.current is not None and shown is not None:
            self.table.select(None if isinstance(shown, ConceptSet) else shown)
            self.card.show_concept(self.session.run.current, shown)
            self._rest.start()

    def _make_room(self) -> None:
        """Give the tab that was chosen the room that it needs, which the table may have."""
        table, tab = self.splitter.sizes()
        line = QFontMetrics(self.font()).height()
        are_large = line >= _LARGE_LETTERS
        # Two rows of pictures with a line below each, and four lines above.
        needed = 2 * TILE + _AROUND_TILES + 6 * line if are_large else _HEIGHT_OF_TAB
        missing = 0 if self._bar_was_moved else max(0, needed - tab)
        self.splitter.setSizes([table - missing, tab + missing])
        # In large letters there may be none to give but that of the card; who unfolds it keeps it.
        lacking = missing > table - self.table.minimumHeight()
        if lacking and are_large and not self._made_room:
            self._made_room = True
            self.card.fold.setChecked(False)
            do_in_turn(self._make_room)

    def _on_bar_moved(self) -> None:
        # Heights that a person has chosen stay.
        self._bar_was_moved = True

    def _on_texts(self) -> None:
        self.table.concepts.refresh_texts()
        self._on_selection()
        self._on_concept()

    def _on_selection(self) -> None:
        for panel in self.panels:
            panel.show_selection()

    def _on_view(self) -> None:
        for kind, box in self.kinds.items():
            box.setChecked(kind in self.session.view.kinds)
        self.where.setCurrentIndex(int(self.session.view.all_fields))
        show_number(self.heat_from, self.session.view.heat_from)
        self.style.setCurrentIndex(self.style.findData(self.session.view.outlined))
        self.legend.setChecked(self.session.view.legend)
        self.one_contrast.setChecked(self.contrast.is_on)
        with QSignalBlocker(self.opacity):
            self.opacity.setValue(round(100 * self.session.view.opacity))
        self.advanced.setChecked(self.session.view.advanced)

    def _on_kinds(self) -> None:
        self.session.view.show(kinds=[kind for kind, box in self.kinds.items() if box.isChecked()])

    def _on_advanced(self, shown: bool) -> None:
        self.session.view.advanced = shown
        self.table.show_advanced()

    def _on_where(self) -> None:
        self.session.view.show(all_fields=bool(self.where.currentData()))

    def _show_soon(self) -> None:
        """Show details once the keys rest."""
        self._rest.start()

    def _show_details(self) -> None:
        """Fill the card and draw the tab in view; the others wait until they are looked at."""
        run, concept = self.session.run.current, self.session.view.concept
        panel: Any = self.tabs.currentWidget()
        if run is not None and concept is not None:
            self.card.show_details(run, concept)
            panel.show_concept(run, concept)

    def _on_click(self, world: NDArray[np.float64], add: bool) -> None:
        """Look at the clicked unit, or with Shift select it too; beside all units select none."""
        run = self.session.run.current
        if run is None:
            return
        shown = self.overlays.shown_fields()
        rest = [number for number in range(len(run.sources)) if number not in shown]
        row = unit_at(run, world, shown + rest)
        if row is None:
            if not add:
                self.selection.clear()
            return
        self.selection.select([row], add=add)
        if not add:
            self.tabs.setCurrentWidget(self.cell)

    def go_to_unit(self, row: int) -> None:
        """Show the image of a unit above others, look at the unit from near by, and outline it."""
        run = self.session.run.current
        if run is not None and self.go_to_field(
            int(run.result.activations.units["field"].iloc[row]), row
        ):
            self.selection.select([row])

    def go_to_field(self, field: int, row: int | None = None) -> bool:
        """Show the image of a field above others; False where it is not open, which is said."""
        run = self.session.run.current
        if run is None:
            return False
        if go_to(self.viewer, run, field, row):
            self.arranger.show_alone(field)
            return True
        if run.plate is not None:
            well = next(fields for fields in run.wells.fields if field in fields)
            self._wanted_unit = row
            # The field that was asked for comes first.
            rest = [f for f in well if f != field and image_of(self.viewer, run, f) is None]
            self.images.open(run, [field, *rest])
            return False
        units = run.result.activations.units
        name = units.loc[units["field"] == field, "Metadata_Field"].head(1).to_list()
        show_info(f"The image of {name[0] if name else 'this field'} is not open.")
        return False

    def _on_images(self, field: int) -> None:
        """Look at a well whose images are open now, or at the unit that was to be seen."""
        run, row = self.session.run.current, self._wanted_unit
        # What was asked for may be what could not be opened.
        if run is None or row is None or run.result.activations.units["field"].iloc[row] != field:
            self.go_to_field(field)
        else:
            self.go_to_unit(row)

    def save_plot(self, path: str | Path) -> None:
        """Write what the tab in view has drawn as PNG, SVG or PDF; for the tab Tags, the plot."""
        run, concept = self.session.run.current, self.session.view.concept
        if run is None or concept is None:
            return
        shown: Any = self.tabs.currentWidget()
        panel = self.plots if shown is self.tags else shown
        # What the tab shows may wait for the keys to rest.
        panel.show_concept(run, concept)
        panel.save_picture(Path(path))
