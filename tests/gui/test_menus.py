"""Entries of the Layers menu, run as napari runs them, and clicked."""

from __future__ import annotations

from typing import Any

import pytest
from napari._app_model import get_app_model

from napari_microdl.gui.dock import session_of
from napari_microdl.gui.session.layers import TAG
from napari_microdl.gui.workflow.dock import ConceptWorkflow

from .clicks import click_menus
from .conftest import small_layers
from .steps import click, outputs


def docks(viewer: Any) -> set[str]:
    return {name.split(" (")[0] for name in viewer.window.dock_widgets}


def test_without_a_selection_images_stay_ticked_as_they_are(viewer, workflow):
    workflow.session.images.edit_rows([0], use=False)
    viewer.layers.selection = set()
    get_app_model().commands.execute_command("napari-microdl.learn").result()
    assert docks(viewer) == {"Concept workflow"}
    assert [row.use for row in workflow.session.images.rows] == [False, True, True, True]


@pytest.mark.own_window
@pytest.mark.parametrize(
    ("menu", "entry", "unit"),
    [
        ("Classify", "Concepts of control and treated images (MicroDL)", "crop"),
        ("Measure", "Concept activations of cells (MicroDL)", "cell"),
    ],
)
def test_the_workflow_is_opened_by_clicks_in_the_layers_menu(open_viewer, qtbot, menu, entry, unit):
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
def test_an_overlay_is_shown_by_clicks_in_the_layers_menu(viewer, explorer, menu, entry, kind):
    explorer.session.view.show(kinds=[], all_fields=True)
    viewer.layers.selection.active = viewer.layers[1]
    click_menus(viewer.__wrapped__.window._qt_window, "Layers", menu, entry)
    tags = [x.metadata[TAG] for x in outputs(viewer)]
    assert [(tag["kind"], tag["field"]) for tag in tags] == [(kind, 1)]
    assert docks(viewer) == {"Concept explorer"}


@pytest.mark.own_window
def test_a_dock_is_one_and_has_one_title_from_every_menu(open_viewer, qtbot):
    viewer = open_viewer()
    for layer in small_layers():
        viewer.add_layer(layer)
    window = viewer.__wrapped__.window._qt_window
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow, timeout=5_000)
    click_menus(window, "Plugins", "MicroDL", "Concept workflow (MicroDL)")
    click_menus(window, "Layers", "Classify", "Concepts of control and treated images (MicroDL)")
    assert list(viewer.window.dock_widgets) == ["Concept workflow (MicroDL)"]
    (workflow,) = window.findChildren(ConceptWorkflow)
    click(qtbot, workflow.explore_button)
    click_menus(window, "Layers", "Transform", "Heatmap of a concept (MicroDL)")
    assert sorted(viewer.window.dock_widgets) == [
        "Concept explorer (MicroDL)",
        "Concept workflow (MicroDL)",
    ]
