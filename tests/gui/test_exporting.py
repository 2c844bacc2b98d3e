"""Every plot and table to files, by the menus that a right click and the menu key open."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from matplotlib.image import imread
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QContextMenuEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QScrollArea, QWidget

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.concepts.painting import grid_to_pixels
from napari_microdl.gui.workflow.fill_fields import FillFields
from napari_microdl.report.concept_figures import volcano_places

from .clicks import click_save, menu_answered
from .conftest import SIZE
from .steps import choose, click, open_tab, pixel_of, run

ANY = Qt.KeyboardModifier.NoModifier


@pytest.fixture
def chosen(pick, tmp_path) -> Any:
    """Chooses a file by its name."""
    return lambda name: pick(tmp_path / name)


def in_view(widget: QWidget) -> None:
    parent = widget.parentWidget()
    while parent is not None:
        if isinstance(parent, QScrollArea):
            parent.ensureWidgetVisible(widget)
        parent = parent.parentWidget()
    QApplication.processEvents()


def right_click(widget: QWidget, text: str) -> None:
    """A right click as the window gets it, and a click on an entry of the menu that opens."""
    window = widget.window()
    place, rounds = QPoint(), 0
    # Layouts come to rest; a click of the window goes to what lies there.
    for _ in range(100):
        in_view(widget)
        before = place
        place = widget.mapTo(window, widget.visibleRegion().boundingRect().center())
        rounds = rounds + 1 if place == before and window.childAt(place) is widget else 0
        if rounds == 5:
            break
        QTest.qWait(20)
    assert rounds == 5
    # As a mouse does, which comes from somewhere: Qt remembers where it was last.
    QTest.mouseMove(window.windowHandle(), place - QPoint(2, 2))
    QTest.mouseMove(window.windowHandle(), place)
    with menu_answered(text):
        QTest.mouseClick(window.windowHandle(), Qt.MouseButton.RightButton, ANY, place)


def menu_key(widget: QWidget, text: str) -> None:
    """The menu key where the keys go, and the keys that choose an entry."""
    in_view(widget)
    widget.setFocus()
    # Of its window: without a window manager, that is not always the active one.
    focused = widget.window().focusWidget()
    assert focused is widget
    centre = focused.rect().center()
    reason = QContextMenuEvent.Reason.Keyboard
    with menu_answered(text, keys=True):
        QApplication.sendEvent(
            focused, QContextMenuEvent(reason, centre, focused.mapToGlobal(centre))
        )


def saved(act: Any, widget: QWidget, path: Path) -> Path:
    """Save what a widget shows by its menu, as a picture or a table by the name that is chosen."""
    act(widget, "Save picture..." if path.suffix in (".png", ".svg") else "Save table...")
    return path


def is_picture(path: Path) -> bool:
    if path.suffix == ".svg":
        return "<svg" in path.read_text() and "<path" in path.read_text()
    image = imread(path)
    return image.ndim == 3 and len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 2


def test_plots_of_the_workflow_are_saved_as_pictures_and_tables(workflow, qtbot, pick, chosen):
    click(qtbot, workflow.cells.heading)
    choose(qtbot, workflow.cells.unit, "Square crops")
    click(qtbot, workflow.tokens.heading)
    click(qtbot, workflow.whitening.heading)
    run(qtbot, workflow)
    dictionary = workflow.session.settings.dictionary
    click(qtbot, workflow.tokens.compare)
    qtbot.waitUntil(lambda: not workflow.jobs.is_running)
    tables = {}
    for name, plot in (
        ("fit", workflow.dictionary.curve),
        ("controls", workflow.whitening.spectrum),
        ("layers", workflow.tokens.curve),
    ):
        assert is_picture(saved(right_click, plot.canvas, chosen(f"{name}.png")))
        assert is_picture(saved(menu_key, plot.canvas, chosen(f"{name}.svg")))
        table = saved(right_click, plot.canvas, chosen(f"{name}.parquet"))
        tables[name] = pd.read_parquet(table)
    assert pick.proposed[:3] == ["fit curve.png", "fit curve.png", "fit curve.csv"]
    history = pd.DataFrame([dataclasses.asdict(r) for r in dictionary.icfl.history_])
    pd.testing.assert_frame_equal(tables["fit"], history, check_dtype=False)
    whitening = dictionary.whitening
    np.testing.assert_array_equal(tables["controls"]["variance"], whitening.explained_variance_)
    np.testing.assert_array_equal(tables["controls"]["scale"], whitening.scale_)
    best = tables["layers"].loc[tables["layers"]["auc"].idxmax()]
    assert f"Layer {best['layer']:.0f} tells" in workflow.status.text()
    assert f"AUC {best['auc']:.2f}" in workflow.status.text()


def test_the_table_of_images_is_saved_and_can_be_filled_in_from(workflow, qtbot, chosen):
    session, table = workflow.session, workflow.fields.table
    session.images.edit_rows([0], condition="bright, 3 µM", use=False)
    path = saved(right_click, table.viewport(), chosen("fields.csv"))
    found = pd.read_csv(path, keep_default_na=False)
    assert found["image"].tolist() == [row.layer().name for row in session.images.rows]
    assert found["use"].tolist() == [False, True, True, True]
    assert found["Metadata_condition"].tolist() == [row.condition for row in session.images.rows]
    assert found["Metadata_control"].tolist() == [row.is_control for row in session.images.rows]
    wells = [row.well for row in session.images.rows]
    session.images.edit_rows(range(4), condition="", well="", is_control=False)
    click(qtbot, workflow.fields.fill)
    dialog = workflow.fields.findChild(FillFields)
    qtbot.waitExposed(dialog)
    dialog.tabs.setCurrentWidget(dialog.table)
    click(qtbot, dialog.table.choose)
    click(qtbot, dialog.table.apply)
    assert [row.condition for row in session.images.rows] == found["Metadata_condition"].tolist()
    assert [row.well for row in session.images.rows] == wells
    # As the menu key has it, with fields of several images.
    choose(qtbot, workflow.fields.arrangement, "Images are channels")
    path = saved(menu_key, table, chosen("channels.csv"))
    found = pd.read_csv(path, keep_default_na=False)
    assert found["channel"].tolist() == [row.channel for row in session.images.rows]
    assert found["Metadata_Field"].tolist() == ["field 1"] * 4


def test_the_plot_in_view_is_saved_from_every_tab(explorer, qtbot, chosen):
    drawings = {}
    explorer.selection.select([4, 9])
    for name in ("plots", "gallery", "compare", "map"):
        panel = getattr(explorer, name)
        open_tab(explorer, panel, qtbot)
        plot = getattr(panel, "plot", None)
        if plot is None:
            qtbot.waitUntil(lambda: explorer.gallery.list.count() == 16)
        else:
            qtbot.waitUntil(plot.has_contents)
        for suffix, begins in (("png", b"\x89PNG"), ("svg", b"<?xm"), ("pdf", b"%PDF")):
            path = chosen(f"{name}.{suffix}")
            click_save(explorer, "plot", qtbot)
            assert path.read_bytes()[:4] == begins
        assert is_picture(chosen(f"{name}.png"))
        drawings[name] = chosen(f"{name}.svg").read_text()
        # The same by a right click, which neither selects nor lassoes anything.
        before = explorer.session.view.concept, explorer.selection.rows.tolist()
        view = explorer.gallery.list.viewport() if plot is None else plot.canvas
        path = saved(right_click, view, chosen(f"{name} again.png"))
        np.testing.assert_array_equal(imread(path), imread(chosen(f"{name}.png")))
        if panel is explorer.compare:
            explorer.compare.by.setCurrentText("by cells")
            points = volcano_places(plot.compared)
            other = int(np.argmax(np.abs(points - points[before[0]]).sum(axis=1)))
            qtbot.mouseClick(
                plot.canvas, Qt.MouseButton.RightButton, pos=pixel_of(plot, points[other])
            )
        assert before == (explorer.session.view.concept, explorer.selection.rows.tolist())
    assert len(set(drawings.values())) == 4


def test_tables_of_the_explorer_are_saved_and_hold_what_is_known(
    explorer, activations, small_run, qtbot, chosen
):
    anndata = pytest.importorskip("anndata")

    def save(entry: str, name: str) -> Path:
        path = chosen(name)
        click_save(explorer, entry, qtbot)
        return path

    explorer.selection.select([3])
    explorer.selection.tag_units("perturbed")
    cells = pd.read_parquet(save("units", "cells.parquet"))
    pd.testing.assert_frame_equal(cells, activations.to_frame(), check_dtype=False)
    assert cells["Metadata_tag"][3] == "perturbed"
    concepts = pd.read_parquet(save("concepts", "concepts.parquet")).set_index("concept")
    pd.testing.assert_series_equal(concepts["auc"], activations.ranking["auc"])
    compared = pd.read_parquet(save("comparison", "comparison.parquet"))
    expected = activations.compare(*explorer.compare.chosen)
    np.testing.assert_array_equal(compared["effect"], expected["effect"])
    found = anndata.read_h5ad(save("anndata", "cells.h5ad"))
    np.testing.assert_array_equal(found.X.toarray(), activations.codes.toarray())
    np.testing.assert_array_equal(found.obsm["whitened"], activations.vectors)
    conditions = found.obs["Metadata_condition"].astype(str)
    assert conditions.tolist() == activations.units["Metadata_condition"].tolist()
    assert found.obs["Metadata_tag"].astype(str).iloc[3] == "perturbed"
    names = small_run.result.dictionary.names
    assert found.var["name"].tolist() == compared["name"].tolist() == names
    path = save("heatmap", "heatmap.tif")
    heatmap = tifffile.imread(path)
    with tifffile.TiffFile(path) as file:
        told = file.pages.first.description
    assert activations.id_of(explorer.session.view.concept) in told
    field = explorer.overlays.field_of(explorer.viewer.layers.selection.active)
    grid = activations.heat.compared(field, explorer.session.view.concept)
    np.testing.assert_array_equal(heatmap, grid_to_pixels(grid, 8, (SIZE, SIZE)))
    loaded = ConceptDictionary.load(save("dictionary", "mine.microdl.safetensors"))
    assert loaded.names == names
    # The same tables from what shows them.
    path = chosen("from the table.csv")
    right_click(explorer.table.viewport(), "Table of concepts...")
    qtbot.waitUntil(path.exists)
    assert pd.read_csv(path)["concept"].tolist() == activations.ranking.index.tolist()


def test_the_gallery_and_the_cell_give_their_tables_and_pictures(
    explorer, activations, small_run, qtbot, chosen
):
    open_tab(explorer, explorer.gallery, qtbot)
    concept = explorer.session.view.concept
    view = explorer.gallery.list
    qtbot.keyClick(explorer.gallery.band, Qt.Key.Key_End)
    qtbot.waitUntil(lambda: view.count() == 16)
    path = saved(right_click, view.viewport(), chosen("opposite.csv"))
    rows = activations.top_units(concept, 16, -1)
    table = pd.read_csv(path, keep_default_na=False)
    np.testing.assert_allclose(table["cosine"], activations.alignment(concept)[rows], rtol=1e-5)
    assert table["label"].tolist() == activations.units["label"][rows].tolist()
    assert table["Metadata_Field"].tolist() == activations.units["Metadata_Field"][rows].tolist()

    explorer.selection.select([7])
    open_tab(explorer, explorer.cell, qtbot)
    table = pd.read_csv(saved(menu_key, explorer.cell.concepts, chosen("cell.csv")))
    concepts, values = activations.concepts_of(7)
    assert table["concept"].tolist() == concepts.tolist()
    np.testing.assert_allclose(table["activation"], values, rtol=1e-5)
    assert table["name"].tolist() == [small_run.result.dictionary.names[c] for c in concepts]
    qtbot.waitUntil(lambda: explorer.cell.similar.count() > 0)
    table = pd.read_parquet(saved(menu_key, explorer.cell.similar, chosen("like it.parquet")))
    rows, cosines = activations.similar_units(7, 12)
    np.testing.assert_allclose(table["cosine"], cosines, rtol=1e-6)
    assert table["label"].tolist() == activations.units["label"][rows].tolist()
    similar = explorer.cell.similar.viewport()
    assert is_picture(saved(right_click, similar, chosen("like it.png")))
    # The plot in view of this tab are these pictures, too.
    path = chosen("again.png")
    click_save(explorer, "plot", qtbot)
    np.testing.assert_array_equal(imread(path), imread(chosen("like it.png")))


def test_tables_of_the_evaluation_are_saved_with_all_their_rows(explorer, small_run, qtbot, chosen):
    panel = explorer.evaluation
    open_tab(explorer, panel, qtbot)
    panel.choices.shuffles.setValue(19)
    click(qtbot, panel.evaluate_button)
    qtbot.waitUntil(lambda: panel.report is not None)
    shown = [table for table in panel.tables.values() if table.isVisibleTo(panel)]
    assert len(shown) >= 3
    for table in shown:
        path = saved(right_click, table.view.viewport(), chosen(f"{table.table.key}.csv"))
        found = pd.read_csv(path)
        rows = panel.report.rows(table.table.key)
        assert len(found) == len(rows)
        for column in table.table.columns:
            values = [row.get(column.key) for row in rows]
            if column.key in found and all(isinstance(v, float) for v in values):
                np.testing.assert_allclose(found[column.key], values)
    labels = pd.read_csv(chosen("labels.csv"))
    assert labels["concept"].tolist() == [row["concept"] for row in panel.report.labels]
    names = small_run.result.dictionary.names
    assert labels["concept_name"].tolist() == [names[c] for c in labels["concept"]]
    assert is_picture(saved(right_click, panel.plot.canvas, chosen("reconstruction.svg")))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("missing/a.png", "Could not save"), ("a.gif", "'a.gif' is no picture; end the name in .png")],
)
def test_a_picture_that_cannot_be_saved_is_said(explorer, qtbot, chosen, told, name, sentence):
    qtbot.waitUntil(explorer.plots.plot.has_contents)
    chosen(name)
    right_click(explorer.plots.plot.canvas, "Save picture...")
    assert sentence in told[0]
