"""What the explorer saves: plots, tables, the dictionary, and features of Labels layers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from napari.utils.notifications import show_info
from napari.viewer import Viewer
from qtpy.QtWidgets import QFileDialog, QMenu, QPushButton, QWidget

from napari_microdl.concepts.dictionary import SUFFIX
from napari_microdl.concepts.export import iter_write_anndata, iter_write_table
from napari_microdl.concepts.painting import grid_to_pixels
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import whole_file
from napari_microdl.core.text import counted
from napari_microdl.gui.session.layers import TAG, is_output
from napari_microdl.gui.session.session import Run, Session
from napari_microdl.gui.viewer_session import features_of
from napari_microdl.gui.widgets.job_bar import JobBar, JobStep, told
from napari_microdl.gui.widgets.jobs import JobRunner
from napari_microdl.report import batch_columns, technical_concepts, with_technical

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_microdl.concepts.activations import ConceptActivations
    from napari_microdl.concepts.dictionary import ConceptDictionary
    from napari_microdl.report import EvaluationReport

_TABLES = "Table (*.csv *.parquet)"
_PLOTS = "Plot (*.png *.svg *.pdf)"
_MOST_FEATURES = 20
# A table of more numbers is gigabytes as text; AnnData and the folder hold them all.
_MOST_NUMBERS = 50_000_000
SaveSteps = Generator[JobStep, None, Path]


def labels_layers(viewer: Viewer, session: Session, run: Run) -> dict[int, Labels]:
    """Open Labels layers that show the cells of a run, by the number of their field.

    Parameters
    ----------
    viewer : Viewer
        The viewer.
    session : Session
        Where the user's own labels are known.
    run : Run
        The run.

    Returns
    -------
    dict of int to Labels
        The user's own layers, or those that the built-in segmentation made. Planes of a stack of
        labels, in which one number may mean several cells, have the same one.
    """
    found: dict[int, Labels] = {}
    for layer in viewer.layers:
        tag = layer.metadata[TAG] if is_output(layer) else {}
        if tag.get("kind") == "cells" and tag.get("run_id") == run.run_id:
            found[tag["field"]] = layer
    for number, source in enumerate(run.sources):
        if not source.has_own_labels:
            continue
        own = [row.labels_layer() for row in session.rows if row.key == source.key]
        own = [layer for layer in own if layer is not None and layer in viewer.layers]
        if own:
            found[number] = own[0]
    return found


def _said(steps: SaveSteps) -> SaveSteps:
    """The same steps; what the system refuses is said as it says it."""
    try:
        return (yield from steps)
    except OSError as error:
        raise MicrodlError(str(error)) from error


def _folder_steps(activations: ConceptActivations, folder: Path) -> SaveSteps:
    """Save to a folder: of a million cells it is gigabytes."""
    from napari_microdl.concepts.store import iter_save_activations

    return (yield from told(iter_save_activations(activations, folder), "Saving activations"))


def _concepts_steps(run: Run, report: EvaluationReport | None, path: Path) -> SaveSteps:
    steps = told(run.result.activations.iter_ranking(), "Ranking concepts")
    table = with_technical((yield from steps), report)
    for name in ("tag", "note"):
        words = getattr(run.result.dictionary, f"{name}s")
        table[name] = [words[concept] for concept in table.index]
    return (yield from told(iter_write_table(table, path), "Saving concepts"))


def _units_steps(
    activations: ConceptActivations, concepts: list[int] | None, path: Path
) -> SaveSteps:
    table = yield from told(activations.iter_frame(concepts), "Collecting activations")
    return (yield from told(iter_write_table(table, path), "Saving the table"))


def _comparison_steps(compared: Generator[JobStep, None, pd.DataFrame], path: Path) -> SaveSteps:
    table = yield from compared
    return (yield from told(iter_write_table(table, path), "Saving the table"))


def _heatmap_steps(
    activations: ConceptActivations, field: int, concept: int, path: Path
) -> SaveSteps:
    yield JobStep("Saving the heatmap")
    # Imported when it is needed: napari starts faster.
    import tifffile

    grid = activations.grids[field]
    heatmap = activations.heatmap(field, concept)
    yield JobStep("Saving the heatmap")
    pixels = grid_to_pixels(heatmap, grid.patch_size, grid.image_shape)
    with whole_file(path) as partial:
        tifffile.imwrite(partial, pixels)
        yield JobStep("Saving the heatmap")
    return path


def _dictionary_steps(dictionary: ConceptDictionary, path: Path) -> SaveSteps:
    yield JobStep("Saving the dictionary")
    if not path.parent.is_dir():
        raise MicrodlError(f"There is no folder '{path.parent}'; choose another place.")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        # It may be given another name.
        saved = dictionary.save(Path(folder) / path.name)
        yield JobStep("Saving the dictionary")
        return saved.replace(path.with_name(saved.name))


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
        Gives the steps of the comparison of two conditions, or None.
    selected_concepts : callable
        Gives the concepts selected in the table.
    field_in_view : callable
        Gives the number of the field that is looked at.
    parent : QWidget
        The dock.
    """

    def __init__(
        self,
        viewer: Viewer,
        session: Session,
        save_plot: Callable[[Path], None],
        comparison: Callable[[], Generator[JobStep, None, pd.DataFrame] | None],
        selected_concepts: Callable[[], list[int]],
        field_in_view: Callable[[], int],
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._session = viewer, session
        self._selected_concepts = selected_concepts
        self._comparison = comparison
        self._field_in_view = field_in_view
        self.setText("Save")
        self.setToolTip("Plots, tables, the dictionary with your names, notes and tags.")
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        self.entries: dict[str, Any] = {}
        for key, text, tip, save, name, kinds in (
            (
                "plot",
                "Plot in view...",
                "",
                partial(self._save_now, save_plot),
                "concept.png",
                _PLOTS,
            ),
            (
                "concepts",
                "Table of concepts...",
                "All columns, with notes.",
                self.save_concepts,
                "concepts.csv",
                _TABLES,
            ),
            (
                "units",
                "Table of cells...",
                "One row a cell (or crop) with its condition, position, tag and activations.",
                self.save_units,
                "cells.csv",
                _TABLES,
            ),
            (
                "comparison",
                "Comparison of two conditions...",
                "As chosen in the tab Compare.",
                self.save_comparison,
                "comparison.csv",
                _TABLES,
            ),
            (
                "anndata",
                "AnnData...",
                "For scanpy and its relatives.",
                self.save_anndata,
                "cells.h5ad",
                "AnnData (*.h5ad)",
            ),
            (
                "heatmap",
                "Heatmap of the selected image...",
                "The concept on show, a value a pixel (the layer has one a patch).",
                self.save_heatmap,
                "heatmap.tif",
                "Image (*.tif *.tiff)",
            ),
            (
                "dictionary",
                "Dictionary...",
                "With names, notes and tags.",
                self.save_dictionary,
                f"concepts{SUFFIX}",
                f"Concept dictionary (*{SUFFIX})",
            ),
        ):
            action = menu.addAction(text)
            action.setToolTip(tip)
            action.triggered.connect(partial(self._ask, save=save, name=name, kinds=kinds))
            self.entries[key] = action
        action = menu.addAction("Activations to a folder...")
        action.setToolTip(
            "Everything but the images, for the button Open. What is in the folder is read as it "
            "is needed, so there may be millions of cells."
        )
        action.triggered.connect(self._ask_folder)
        self.entries["folder"] = action
        self.jobs = JobRunner(self)
        self.jobs.succeeded.connect(self._on_saved)
        self.jobs.failed.connect(self._on_failed)
        # One at a time: a second one would end the first.
        self.jobs.running_changed.connect(self.refresh)
        self.job_bar = JobBar(self.jobs)
        menu.addSeparator()
        action = menu.addAction("Copy to features of Labels layers")
        action.setToolTip(
            "Activations of the concepts selected in the table, or of the first 20, beside the "
            "labels: hover a cell to read them, or open napari's features table."
        )
        action.triggered.connect(self.copy_features)
        self.entries["features"] = action
        self.setMenu(menu)

    def _ask(self, *_: bool, save: Callable[[Path], None], name: str, kinds: str) -> None:
        path, _chosen = QFileDialog.getSaveFileName(self, "Save", name, kinds)
        if path:
            save(Path(path))

    def _ask_folder(self) -> None:
        # A name that is free or a folder: a file dialog for folders offers only those that exist.
        path, _chosen = QFileDialog.getSaveFileName(
            self, "Save", "activations", options=QFileDialog.Option.DontConfirmOverwrite
        )
        if path and (run := self._session.run) is not None:
            self._start(_folder_steps(run.result.activations, Path(path)))

    def _start(self, steps: SaveSteps) -> None:
        self.jobs.start(_said(steps), "MicroDL save")

    def refresh(self) -> None:
        """Offer to save where there is a run, and nothing is being saved."""
        self.setEnabled(self._session.run is not None and not self.jobs.is_running)

    def _on_saved(self, path: Path) -> None:
        show_info(f"Saved to {path}.")

    def _on_failed(self, sentence: str) -> None:
        show_info(f"Could not save: {sentence}")

    def _save_now(self, save: Callable[[Path], None], path: Path) -> None:
        """Save a plot, which is drawn in the GUI thread; and say it where that fails."""
        try:
            save(path)
        except (MicrodlError, OSError) as error:
            self._on_failed(str(error))

    def save_concepts(self, path: Path) -> None:
        """Write the ranked concepts as CSV or Parquet, in the background as all that follow."""
        if (run := self._session.run) is not None:
            self._start(_concepts_steps(run, self._session.report, path))

    def save_units(self, path: Path) -> None:
        """Write one row a unit with its activations as CSV or Parquet.

        Of very many units and concepts, those selected in the table, or the first 20.
        """
        if (run := self._session.run) is not None:
            activations = run.result.activations
            concepts = None
            if 2 * len(activations.units) * activations.n_concepts > _MOST_NUMBERS:
                concepts = self._few_concepts(run)
                show_info(
                    f"Of {activations.n_concepts:,} concepts the table gets {len(concepts)}, those "
                    "selected or the first ones; AnnData and the folder hold all."
                )
            self._start(_units_steps(activations, concepts, path))

    def save_heatmap(self, path: Path) -> None:
        """Write the heatmap of the concept on show as a TIFF, float32, a value a pixel."""
        run, concept = self._session.run, self._session.concept
        if run is None or concept is None:
            return
        if not run.has_images:
            self._on_failed("The images of this run are not open, so there is no heatmap.")
            return
        activations = run.result.activations
        self._start(_heatmap_steps(activations, self._field_in_view(), concept, path))

    def _few_concepts(self, run: Run) -> list[int]:
        """Concepts selected in the table, where those are two or more, or the first 20."""
        concepts = self._selected_concepts()
        if len(concepts) < 2:
            concepts = [int(c) for c in run.result.activations.ranking.index[:_MOST_FEATURES]]
        return concepts

    def save_comparison(self, path: Path) -> None:
        """Write the comparison of two conditions as CSV or Parquet."""
        compared = self._comparison()
        if compared is not None:
            self._start(_comparison_steps(compared, path))

    def save_anndata(self, path: Path) -> None:
        """Write units and activations as AnnData."""
        if (run := self._session.run) is not None:
            more = batch_columns(self._session.report)
            steps = iter_write_anndata(run.result.activations, path, more)
            self._start(told(steps, "Saving AnnData"))

    def save_dictionary(self, path: Path) -> None:
        """Write the dictionary with names, notes and tags."""
        if (run := self._session.run) is not None:
            self._start(_dictionary_steps(run.result.dictionary, path))

    def copy_features(self) -> None:
        """Put activations into the features of the Labels layers that show the cells."""
        run = self._session.run
        if run is None:
            return
        layers = labels_layers(self._viewer, self._session, run)
        if not layers:
            show_info(
                "No open Labels layer shows the cells of this run; run with your own labels, or "
                "tick Outlines."
            )
            return
        concepts = self._few_concepts(run)
        copied, stacks = features_of(self._viewer).copy(
            run, layers, concepts, technical_concepts(self._session.report)
        )
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
