"""Entries of the Layers menu, run as napari runs them, and clicked."""

from __future__ import annotations

from typing import Any

import pytest
from napari._app_model import get_app_model

from napari_microdl.gui.dock import session_of
from napari_microdl.gui.session.layers import TAG

from .clicks import click_menus
from .conftest import small_layers


@pytest.fixture
def viewer(open_viewer: Any, small_run: Any) -> Any:
    made = open_viewer().__wrapped__
    for field in small_run.fields:
        made.add_image(field.read()[0], name=field.name)
    return made


def run(command: str) -> None:
    get_app_model().commands.execute_command(f"napari-microdl.{command}").result()


def docks(viewer: Any) -> set[str]:
    return {name.split(" (")[0] for name in viewer.window.dock_widgets}


def test_selected_images_are_ticked_in_the_workflow(viewer):
    viewer.layers.selection = {viewer.layers[1], viewer.layers[2]}
    run("learn")
    assert docks(viewer) == {"Concept workflow"}
    rows = session_of(viewer).images.rows
    assert [row.use for row in rows] == [False, True, True, False]
    viewer.layers.selection = set()
    run("learn")
    assert [row.use for row in rows] == [False, True, True, False]


def test_measuring_takes_cells(viewer):
    session_of(viewer).settings.configure(unit="crop")
    run("measure")
    assert session_of(viewer).settings.config.units.kind == "cell"
    assert docks(viewer) == {"Concept workflow"}


@pytest.mark.parametrize("kind", ["heatmap", "activation"])
def test_an_overlay_is_shown_on_the_selected_image(explored, kind):
    viewer, explorer = explored
    explorer.session.view.show(all_fields=True)
    viewer.layers.selection.active = viewer.layers[2]
    run(kind)
    tags = [x.metadata[TAG] for x in viewer.layers if TAG in x.metadata]
    assert [(tag["kind"], tag["field"]) for tag in tags] == [(kind, 2)]
    assert docks(viewer) == {"Concept explorer"}


@pytest.mark.own_window
@pytest.mark.parametrize(
    ("menu", "entry", "unit"),
    [
        ("Classify", "Concepts of control and treated images (MicroDL)", "crop"),
        ("Measure", "Concept activations of cells (MicroDL)", "cell"),
    ],
)
def test_the_workflow_is_opened_by_clicks_in_the_layers_menu(
    open_viewer: Any, qtbot: Any, menu: str, entry: str, unit: str
):
    viewer, other = open_viewer(), open_viewer()
    for one in (viewer, other):
        for layer in small_layers():
            one.add_layer(layer)
    session_of(viewer.__wrapped__).settings.configure(unit="crop")
    viewer.layers.selection = {viewer.layers[0], viewer.layers[3]}
    # napari asks which viewer is in front; it goes by which came there last.
    window = viewer.__wrapped__.window._qt_window
    for front in (other.__wrapped__.window._qt_window, window):
        front.activateWindow()
        qtbot.waitUntil(front.isActiveWindow, timeout=5_000)
    click_menus(window, "Layers", menu, entry)
    assert docks(viewer) == {"Concept workflow"}
    session = session_of(viewer.__wrapped__)
    assert [row.use for row in session.images.rows] == [True, False, False, True]
    assert session.settings.config.units.kind == unit
    assert docks(other) == set()
    assert session_of(other.__wrapped__).images.rows == []


@pytest.mark.parametrize(
    ("menu", "entry", "kind"),
    [
        ("Transform", "Heatmap of a concept (MicroDL)", "heatmap"),
        ("Visualize", "Activation of a concept in every cell (MicroDL)", "activation"),
    ],
)
def test_an_overlay_is_shown_by_clicks_in_the_layers_menu(
    explored: Any, menu: str, entry: str, kind: str
):
    viewer, explorer = explored
    explorer.session.view.show(kinds=[], all_fields=True)
    viewer.layers.selection.active = viewer.layers[1]
    click_menus(viewer.__wrapped__.window._qt_window, "Layers", menu, entry)
    tags = [x.metadata[TAG] for x in viewer.layers if TAG in x.metadata]
    assert [(tag["kind"], tag["field"]) for tag in tags] == [(kind, 1)]
    assert docks(viewer) == {"Concept explorer"}
