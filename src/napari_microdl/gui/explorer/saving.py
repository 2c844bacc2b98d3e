"""The buttons Save and Open: plots, figures, tables, the dictionary, features, and folders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from napari.utils.notifications import show_info
from napari.viewer import Viewer
from qtpy.QtWidgets import QFileDialog, QMenu, QPushButton, QWidget

from napari_microdl.concepts.concept_set import Concept
from napari_microdl.concepts.dictionary import SUFFIX
from napari_microdl.concepts.export import write_anndata, write_table
from napari_microdl.concepts.painting import grid_to_pixels
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_text, write_whole
from napari_microdl.core.pictures import check_picture, write_figure
from napari_microdl.core.task import current_task
from napari_microdl.core.text import counted
from napari_microdl.fields.pixel_size import common_pixel_size
from napari_microdl.gui.dock import features_of
from napari_microdl.gui.overlays.overlays import Overlays
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.jobs import JobBar, JobRunner
from napari_microdl.gui.widgets.save_actions import PICTURES, TABLES
from napari_microdl.report import batch_columns, technical_concepts, with_technical

if TYPE_CHECKING:
    from napari_microdl.concepts.activations import ConceptActivations
    from napari_microdl.report import EvaluationReport

_MOST_FEATURES = 20


def _write(write: Callable[..., Path], *args: Any) -> Path:
    """Write in the background; a refusal of the system is shown as it is."""
    try:
        return write(*args)
    except OSError as error:
        raise MicrodlError(str(error)) from error


def _write_concepts(run: Run, report: EvaluationReport | None, path: Path) -> Path:
    return write_table(with_technical(run.result.activations.concept_table(), report), path)


def _write_made(make: Callable[[], pd.DataFrame], path: Path) -> Path:
    return write_table(make(), path)


def _write_heatmap(
    activations: ConceptActivations, field: int, concept: Concept, path: Path
) -> Path:
    # Imported when it is needed: napari starts faster.
    import tifffile

    grid = activations.grids[field]
    heatmap = activations.heat.compared(field, concept)
    current_task().check()
    pixels = grid_to_pixels(heatmap, grid.patch_size, grid.image_shape)
    header = (
        f"Heat of {activations.name_of(concept)} ({activations.id_of(concept)}): one patch of "
        "controls in 100 is above 1"
    )
    with write_whole(path) as unfinished:
        tifffile.imwrite(unfinished, pixels, description=header.encode())
    return path


def _write_page_of(run: Run, concept: Concept, pixel_size: float | None, path: Path) -> Path:
    from napari_microdl.report.concept_page import DOTS_PER_INCH, concept_page

    # Before it is drawn.
    check_picture(path)
    figure = concept_page(
        run.result.activations, run.fields, concept, run.result.labels, pixel_size=pixel_size
    )
    return write_figure(figure, path, DOTS_PER_INCH)


def _write_atlas(run: Run, report: EvaluationReport | None, path: Path) -> Path:
    from napari_microdl.report.atlas import concept_atlas

    page = concept_atlas(run.result.activations, run.fields, report=report)
    return write_text(page, path if path.suffix else path.with_suffix(".html"))


class SaveButton(QPushButton):
    """A button with a menu of everything that can be saved.

    Parameters
    ----------
    viewer : Viewer
        The viewer itself.
    session : Session
        Where the run is.
    save_plot : callable
        Writes the plot in view to a path, or says why there is none.
    comparison : callable
        Gives what makes the comparison of two conditions in any thread, or None.
    selected_concepts : callable
        Gives the concepts selected in the table.
    overlays : Overlays
        Which field is looked at.
    parent : QWidget
        The dock.
    """

    # A table of more numbers is gigabytes as text; AnnData and the folder hold them all.
    most_numbers = 50_000_000

    def __init__(
        self,
        viewer: Viewer,
        session: Session,
        save_plot: Callable[[Path], None],
        comparison: Callable[[], Callable[[], pd.DataFrame] | None],
        selected_concepts: Callable[[], list[int]],
        overlays: Overlays,
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._session = viewer, session
        self._selected_concepts = selected_concepts
        self._comparison = comparison
        self._overlays = overlays
        self.setText("Save")
        self.setToolTip("Plots, tables, the dictionary with your names, notes and tags.")
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        self.setMenu(menu)
        self.jobs = JobRunner(self)
        self.jobs.succeeded.connect(self._on_saved)
        self.jobs.failed.connect(self._on_failed)
        # One at a time: a second one would end the first.
        self.jobs.running_changed.connect(self.refresh)
        self.job_bar = JobBar(self.jobs)
        self.entries: dict[str, Any] = {}
        for key, text, tip, name, kinds, save in (
            (
                "plot",
                "Plot in view",
                "",
                "concept.png",
                PICTURES,
                partial(self._save_now, save_plot),
            ),
            (
                "figure",
                "Figure of the concept",
                "One page for a paper: pictures in one contrast, cells, and wells.",
                "concept.pdf",
                PICTURES,
                self._save_figure,
            ),
            (
                "atlas",
                "Concept atlas",
                "One HTML file to send to others: a card for every concept, read without internet.",
                "concept atlas.html",
                "Page (*.html)",
                self._save_atlas,
            ),
            (
                "concepts",
                "Table of concepts",
                "All columns, with notes.",
                "concepts.csv",
                TABLES,
                self._save_concepts,
            ),
            (
                "units",
                "Table of cells",
                "One row a cell (or crop) with its condition, position, tag and activations.",
                "cells.csv",
                TABLES,
                self._save_units,
            ),
            (
                "comparison",
                "Comparison of two conditions",
                "As chosen in the tab Compare.",
                "comparison.csv",
                TABLES,
                self._save_comparison,
            ),
            (
                "anndata",
                "AnnData",
                "For scanpy and its relatives.",
                "cells.h5ad",
                "AnnData (*.h5ad)",
                self._save_anndata,
            ),
            (
                "heatmap",
                "Heatmap of the selected image",
                "The concept on show, a value a pixel (the layer has one a patch).",
                "heatmap.tif",
                "Image (*.tif *.tiff)",
                self._save_heatmap,
            ),
            (
                "dictionary",
                "Dictionary",
                "With names, notes and tags.",
                f"concepts{SUFFIX}",
                f"Concept dictionary (*{SUFFIX})",
                self._save_dictionary,
            ),
            (
                "folder",
                "Activations to a folder",
                "Everything but the images, for the button Open. What is in the folder is read as "
                "it is needed, so there may be millions of cells.",
                "activations",
                "",
                self._save_folder,
            ),
        ):
            self._add(key, f"{text}...", tip, partial(self._ask, save=save, name=name, kinds=kinds))
        menu.addSeparator()
        self._add(
            "features",
            "Copy to features of Labels layers",
            "Activations of the concepts selected in the table, or of the first 20, beside the "
            "labels: hover a cell to read them, or open napari's features table.",
            self.copy_features,
        )

    def _add(self, key: str, text: str, tip: str, slot: Callable[..., None]) -> None:
        action = self.menu().addAction(text)
        action.setToolTip(tip)
        action.triggered.connect(slot)
        self.entries[key] = action

    def _ask(self, *_: bool, save: Callable[[Run, Path], None], name: str, kinds: str) -> None:
        # Without kinds it is a folder, free or there: a dialog for folders offers only the latter.
        new = {} if kinds else {"options": QFileDialog.Option.DontConfirmOverwrite}
        path, _chosen = QFileDialog.getSaveFileName(self, "Save", name, kinds, **new)
        if path and (run := self._session.run.current) is not None:
            save(run, Path(path))

    def _start(self, message: str, write: Callable[..., Path], *args: Any) -> None:
        self.jobs.start(partial(_write, write, *args), "MicroDL save", message=message)

    def refresh(self) -> None:
        """Offer to save where there is a run, and nothing is being saved."""
        self.setEnabled(self._session.run.current is not None and not self.jobs.is_running)

    def _on_saved(self, path: Path) -> None:
        show_info(f"Saved to {path}.")

    def _on_failed(self, sentence: str) -> None:
        show_info(f"Could not save: {sentence}")

    def _save_now(self, save: Callable[[Path], None], _: Run, path: Path) -> None:
        """Save a plot, which is drawn in the GUI thread."""
        try:
            save(path)
        except (MicrodlError, OSError) as error:
            self._on_failed(str(error))

    def _save_concepts(self, run: Run, path: Path) -> None:
        self._start("Saving concepts", _write_concepts, run, self._session.run.report, path)

    def _save_units(self, run: Run, path: Path) -> None:
        activations = run.result.activations
        concepts = None
        if 2 * len(activations.units) * activations.n_concepts > self.most_numbers:
            concepts = self._few_concepts(run)
            show_info(
                f"Of {activations.n_concepts:,} concepts the table gets {len(concepts)}, those "
                "selected or the first ones; AnnData and the folder hold all."
            )
        make = partial(activations.to_frame, concepts)
        self._start("Collecting activations", _write_made, make, path)

    def _save_comparison(self, _: Run, path: Path) -> None:
        compare = self._comparison()
        if compare is not None:
            self._start("Comparing", _write_made, compare, path)

    def _save_anndata(self, run: Run, path: Path) -> None:
        columns = batch_columns(self._session.run.report)
        self._start("Saving AnnData", write_anndata, run.result.activations, path, columns)

    def _save_heatmap(self, run: Run, path: Path) -> None:
        if not self._overlays.shown_fields():
            self._on_failed("The images of this run are not open, so there is no heatmap.")
            return
        place = self._overlays.field_in_view(), self._session.view.concept
        self._start("Saving the heatmap", _write_heatmap, run.result.activations, *place, path)

    def _save_figure(self, run: Run, path: Path) -> None:
        concept = self._session.view.concept
        size = common_pixel_size(run.pixel_sizes())
        self._start("Drawing the figure", _write_page_of, run, concept, size, path)

    def _save_atlas(self, run: Run, path: Path) -> None:
        self._start("Drawing the atlas", _write_atlas, run, self._session.run.report, path)

    def _save_dictionary(self, run: Run, path: Path) -> None:
        self._start("Saving the dictionary", run.result.dictionary.save, path)

    def _save_folder(self, run: Run, path: Path) -> None:
        # Imported when it is needed: napari starts faster.
        from napari_microdl.concepts.store import save_activations

        self._start("Saving activations", save_activations, run.result.activations, path)

    def _few_concepts(self, run: Run) -> list[int]:
        """Concepts selected in the table, where those are two or more, or the first 20."""
        concepts = self._selected_concepts()
        if len(concepts) < 2:
            concepts = [int(c) for c in run.result.activations.ranking.index[:_MOST_FEATURES]]
        return concepts

    def copy_features(self) -> None:
        """Put activations into the features of the Labels layers that show the cells."""
        run = self._session.run.current
        if run is None:
            return
        concepts = self._few_concepts(run)
        technical = technical_concepts(self._session.run.report)
        # Layers that are still to come are meant, too.
        self._overlays.complete()
        try:
            copied, stacks = features_of(self._viewer).copy(
                run, self._session.images.rows, concepts, technical
            )
        except MicrodlError as error:
            show_info(str(error))
            return
        if not copied:
            show_info(
                "No open Labels layer shows the cells of this run; run with your own labels, or "
                "tick Cell labels."
            )
            return
        show_info(
            f"Activations of {len(concepts)} concepts copied to "
            f"{counted(copied, 'Labels layer')}."
            + (
                " Where one number means several cells, there is a row a frame and number; a "
                "hovered cell reads that of the frame in view."
                if stacks
                else ""
            )
        )


def _open(folder: Path) -> Callable[[Session], None]:
    """Open a folder in a thread; what is returned shows it in a session."""
    # Imported when they are needed: napari starts faster.
    from napari_microdl.concepts.store import open_activations
    from napari_microdl.pipeline.plate.looking import PlateRun, plate_folder

    if (plate := plate_folder(folder)) is not None:
        run = PlateRun(plate)
        return lambda session: session.open_plate(run)
    activations = open_activations(folder)
    return lambda session: session.open_activations(activations)


class OpenButton(QPushButton):
    """A button that asks for a folder and shows the activations in it."""

    def __init__(self, session: Session, parent: QWidget) -> None:
        super().__init__("Open...", parent)
        self.setToolTip(
            "The folder of a plate run, or activations that were saved to a folder. Codes and "
            "vectors stay on disk, so there may be millions of cells."
        )
        self._session = session
        self.jobs = JobRunner(self)
        self.job_bar = JobBar(self.jobs)
        self.jobs.succeeded.connect(self._on_opened)
        self.jobs.failed.connect(show_info)
        self.jobs.running_changed.connect(self.setDisabled)
        self.clicked.connect(self._ask)

    def _ask(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Open activations")
        if folder:
            self.open(folder)

    def open(self, folder: str | Path) -> None:
        """Open what a folder holds, in the background."""
        self.jobs.start(partial(_open, Path(folder)), "Opening activations", message="Opening")

    def _on_opened(self, show: Callable[[Session], None]) -> None:
        show(self._session)
