"""Opens the images of a folder as fields, by what their names say, with the outcome in view."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from napari.viewer import Viewer
from qtpy.QtCore import QTimer, Signal
from qtpy.QtGui import QCloseEvent, QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import (
    QDialog,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.core.text import counted
from napari_microdl.fields.file_patterns import FilePattern, own_pattern, suggest_patterns
from napari_microdl.fields.folder import FoundFields, Listing, find_fields, list_folder
from napari_microdl.fields.metadata import describe_row, match_table, read_table
from napari_microdl.gui.overlays.coming_layers import ComingLayers, corners_beside
from napari_microdl.gui.session.layers import Layout
from napari_microdl.gui.session.opening import (
    arrangement_of,
    can_be_in_micrometres,
    layers_of,
    read_all,
)
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.inputs import combo, sentence_label, show_choice, take_font_size
from napari_microdl.gui.widgets.jobs import JobBar, JobRunner
from napari_microdl.gui.workflow.found_table import FoundTable

_TABLES = "Tables (*.csv *.tsv *.parquet);;All files (*)"
_IMAGES = "Images and tables (*.tif *.tiff *.png *.jpg *.jpeg *.bmp *.csv *.tsv);;All files (*)"
_OWN = "own"
_MANY_FIELDS = 100
_MILLISECONDS_AFTER_TYPING = 300


@dataclass(frozen=True)
class _Look:
    """What lies in some places, the ways to read it, and what comes of one of them."""

    listing: Listing
    ways: list[tuple[str, FilePattern | Path]]
    found: FoundFields


def _look(places: Sequence[str] | Listing, way: FilePattern | Path | None, plane: str) -> _Look:
    """Look through folders, or read anew what was found there."""
    current_task().progress(0, 0, "Looking through the folder")
    listing = places if isinstance(places, Listing) else list_folder(places)
    n = len(listing.images)
    ways: list[tuple[str, FilePattern | Path]] = [(f"Table {t.name}", t) for t in listing.tables]
    for pattern, fitting in suggest_patterns(listing.images) if n else []:
        ways.append((f"{pattern.title}: {fitting} of {n} names fit", pattern))
    way = way or (ways[0][1] if ways else None)
    if isinstance(way, Path):
        listing_of_table = dataclasses.replace(listing, tables=(way,))
        return _Look(listing, ways, find_fields(listing_of_table, plane=plane))
    return _Look(listing, ways, find_fields(listing, way, plane=plane))


class ImportFolder(QDialog):
    """Asks for a folder, shows the fields in it, and opens them as layers.

    Signals
    -------
    message
        A sentence about what was opened.
    """

    message = Signal(str)

    def __init__(self, viewer: Viewer, session: Session, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Import a folder")
        self.setAcceptDrops(True)
        self._viewer, self._session = viewer, session
        self._places: list[str] = []
        self._listing: Listing | None = None
        self._sentence = ""
        self._is_whole = True
        self.looking = JobRunner(self)
        self.looking.succeeded.connect(self._on_found)
        self.looking.failed.connect(self._on_failed)
        self.reading = JobRunner(self)
        self.reading.succeeded.connect(self._on_read)
        self.reading.failed.connect(self._on_failed)
        self.reading.cancelled.connect(self._on_cancelled)
        self.reading.running_changed.connect(self._show_ready)

        self.place = QLineEdit()
        self.place.setPlaceholderText("Choose a folder, or drop one here")
        self.place.setToolTip("Folder with images, in folders or not; Enter looks through it.")
        self.place.setAccessibleName("Folder")
        self.place.returnPressed.connect(self._on_place)
        self.choose_folder = QPushButton("Folder...")
        self.choose_folder.setToolTip("Choose a folder; folders in it are looked through, too.")
        self.choose_folder.clicked.connect(self._ask_folder)
        self.choose_files = QPushButton("Files...")
        self.choose_files.setToolTip("Choose images, or a table that names them.")
        self.choose_files.clicked.connect(self._ask_files)
        self.way = combo(
            {},
            lambda _: self._on_way(),
            "How the files are named. The pattern that fits most names comes first.",
        )
        self.way.setAccessibleName("Pattern of the names")
        self.pattern = QLineEdit("{well}_{site}_{channel}")
        self.pattern.setToolTip(
            "Of {plate}, {well} (or {row} and {column}), {site}, {channel}, {z}, {time}, "
            "{condition} and {field}; * stands for anything. With / also the folders: "
            "{condition}/{well}_{site}. Or a regular expression with named groups."
        )
        self.pattern.setAccessibleName("Own pattern")
        # Each letter would look again.
        self._typed = QTimer(self, singleShot=True, interval=_MILLISECONDS_AFTER_TYPING)
        self._typed.timeout.connect(self._look_again)
        self.pattern.textChanged.connect(lambda _: self._typed.start())
        self.plane = combo(
            {"the middle one": "middle", "all, each a field": "all"},
            lambda _: self._look_again(),
            "Of several planes along z in files of their own: which is opened.",
        )
        self.table = FoundTable()
        self.conditions = QPushButton("Conditions from a table...")
        self.conditions.setToolTip(
            "A CSV, TSV or Parquet file with Metadata_condition by well, such as a plate map."
        )
        self.conditions.clicked.connect(self._ask_conditions)
        self.about = sentence_label()
        self.details = QPushButton("Left out...")
        self.details.setCheckable(True)
        self.details.setToolTip("Lists the files that are left out, with the reason.")
        self.left_out = QPlainTextEdit()
        self.left_out.setReadOnly(True)
        self.left_out.setTabChangesFocus(True)
        self.left_out.setAccessibleName("Files that are left out")
        self.left_out.setToolTip("Files that are left out, with the reason.")
        self.left_out.hide()
        self.details.toggled.connect(self.left_out.setVisible)
        self.bar = JobBar(self.reading)
        self.open = QPushButton("Open")
        self.open.setToolTip("Opens the fields as layers and fills in step 1.")
        self.open.clicked.connect(self._open)
        self._lay_out()
        self._adding = ComingLayers(viewer, self)
        self._adding.ended.connect(self._finish)
        self._show(FoundFields(()), "")
        take_font_size(self)
        rows = self.fontMetrics().height()
        self.table.setMinimumHeight(7 * rows)
        self.left_out.setMaximumHeight(6 * rows)
        self.resize(820, 600)

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        top.addWidget(self.place, 1)
        for button in (self.choose_folder, self.choose_files):
            top.addWidget(button)
        self._form = QFormLayout()
        self._form.addRow("Names", self.way)
        self._form.addRow("Own pattern", self.pattern)
        self._form.addRow("Of planes", self.plane)
        about = QHBoxLayout()
        about.addWidget(self.about, 1)
        about.addWidget(self.details)
        below = QHBoxLayout()
        below.addWidget(self.conditions)
        below.addWidget(self.bar, 1)
        below.addStretch(0)
        below.addWidget(self.open)
        layout = QVBoxLayout(self)
        layout.addLayout(top)
        layout.addLayout(self._form)
        layout.addWidget(self.table, 1)
        layout.addLayout(about)
        layout.addWidget(self.left_out)
        layout.addLayout(below)
        # Enter in the path is not meant to open anything yet.
        for button in self.findChildren(QPushButton):
            button.setAutoDefault(False)

    # Looking -----------------------------------------------------------------------------------

    def look_in(self, places: Sequence[str]) -> None:
        """Look through folders and files; what was shown of others goes."""
        self._places, self._listing = list(places), None
        one = places[0] if len(places) == 1 else f"{len(places)} places in {Path(places[0]).parent}"
        self.place.setText(one)
        self.way.clear()
        self._look_again()

    def _on_place(self) -> None:
        if self.place.text().strip():
            self.look_in([self.place.text().strip()])

    def _ask_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder with images", self.place.text())
        if folder:
            self.look_in([folder])

    def _ask_files(self) -> None:
        files, _ = QFileDialog.getOpenFileNames(self, "Images", "", _IMAGES)
        if files:
            self.look_in(files)

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Take files and folders."""
        if event is not None and (data := event.mimeData()) is not None and data.hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent | None) -> None:  # noqa: N802
        """Look through what was dropped."""
        if event is not None and (data := event.mimeData()) is not None:
            places = [url.toLocalFile() for url in data.urls() if url.isLocalFile()]
            if places:
                event.acceptProposedAction()
                self.look_in(places)

    def _on_way(self) -> None:
        self._show_own()
        self._look_again()

    def _show_own(self) -> None:
        self._form.setRowVisible(self.pattern, self.way.currentData() == _OWN)

    def _look_again(self) -> None:
        self._typed.stop()
        way = self.way.currentData()
        if way == _OWN:
            way = own_pattern(self.pattern.text())
        if self._places:
            self.about.setText("Looking through the folder...")
            self.open.setEnabled(False)
            places = self._places if self._listing is None else self._listing
            self.looking.start(partial(_look, places, way, self.plane.currentData()))

    def _on_found(self, look: _Look) -> None:
        if self._listing is None:
            self._listing = look.listing
            self.way.clear()
            for text, way in look.ways:
                self.way.addItem(text, way)
            self.way.addItem("own pattern", _OWN)
            # Where no name says anything, it is left to the person.
            show_choice(self.way, look.ways[0][1] if look.ways else _OWN)
        fields = look.found.fields
        channels = {name: None for field in fields for name in field.channel_names}
        controls = sum(field.is_control for field in fields)
        sentence = f"{counted(len(fields), 'field')}, {controls} of them called like controls"
        sentence += f"; channels: {', '.join(channels)}. " if channels else ". "
        if not fields:
            sentence = "No fields were found: choose another folder, or another pattern. "
        if len(fields) > _MANY_FIELDS:
            sentence += (
                "napari is slow with so many layers: choose some of the files, or use the command "
                "line, whose table napari-microdl manifest writes. "
            )
        self._show(look.found, sentence + look.found.sentence())

    def _on_failed(self, sentence: str) -> None:
        self._show(FoundFields(()), f"⚠ {sentence}")

    def _show(self, found: FoundFields, sentence: str) -> None:
        self.table.show_fields(found.fields)
        self.about.setText(sentence)
        self.details.setVisible(bool(found.left_out))
        self.left_out.setPlainText("\n".join(f"{x.path}: {x.reason}" for x in found.left_out))
        self.left_out.setVisible(bool(found.left_out) and self.details.isChecked())
        planes = any(field.z for field in found.fields)
        self._form.setRowVisible(self.plane, planes)
        self._show_own()
        self._show_ready()

    def _show_ready(self) -> None:
        """Offer what can be done now."""
        busy = self.reading.is_running or self._adding.is_active
        for widget in (self.place, self.choose_folder, self.choose_files, self.way, self.pattern):
            widget.setEnabled(not busy)
        self.open.setEnabled(bool(self.table.found.fields) and not busy)
        self.conditions.setEnabled(bool(self.table.found.fields) and not busy)

    def _ask_conditions(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Table of conditions", "", _TABLES)
        if not path:
            return
        fields = self.table.found.fields
        try:
            table = read_table(path)
            rows = match_table(fields, table)
            changes = {n: describe_row(table, r) for n, r in enumerate(rows) if r is not None}
        except MicrodlError as error:
            self.about.setText(f"⚠ {error}")
            return
        self.table.found.correct(changes)
        self.about.setText(
            f"{Path(path).name} has {len(table)} rows; {len(changes)} of {len(fields)} fields are "
            "among them."
        )

    # Opening -----------------------------------------------------------------------------------

    def _open(self) -> None:
        self.reading.start(partial(read_all, list(self.table.found.fields)), "MicroDL import")

    def _on_cancelled(self) -> None:
        self.about.setText("Cancelled: nothing was opened.")

    def _on_read(self, outcome: tuple[list[Any], list[str]]) -> None:
        opened, problems = outcome
        if not opened:
            self.about.setText(" ".join(["⚠ No field could be opened.", *problems]))
            return
        controls = sum(one.field.is_control for one in opened)
        opening = f"Opened {counted(len(opened), 'field')}, {controls} of them controls."
        self._sentence = " ".join([opening, *problems])
        self._is_whole = not problems
        images = self._session.images
        layout = Layout(arrangement_of(opened), "ask", images.layout.split_rgb)
        images.set_layout(layout, self._viewer.layers)
        scaled = can_be_in_micrometres(opened, self._viewer.layers)
        corners = corners_beside(self._viewer, [one.field for one in opened], in_micrometres=scaled)
        self._adding.start(layers_of(opened, corners, layout.arrangement, in_micrometres=scaled))
        self._show_ready()

    def _finish(self) -> None:
        images = self._session.images
        images.update(self._viewer.layers)
        if any(row.labels_layer() is not None for row in images.rows):
            self._session.settings.choose(cell_source="labels")
        self._viewer.layers.selection.active = images.rows[-1].layer()
        self._viewer.reset_view()
        self.message.emit(self._sentence)
        if self._is_whole:
            self.close()
        else:
            self.about.setText(f"⚠ {self._sentence}")
            self._show_ready()

    def closeEvent(self, event: QCloseEvent | None) -> None:  # noqa: N802
        """Stop what goes on."""
        for jobs in (self.looking, self.reading):
            jobs.stop()
        self._adding.stop()
        super().closeEvent(event)
