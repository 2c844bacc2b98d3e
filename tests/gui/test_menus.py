"""Entries of the Layers menu, run as napari runs them."""

from __future__ import annotations

from typing import Any

import pytest
from napari._app_model import get_app_model

from napari_microdl.gui.layers import TAG
from napari_microdl.gui.viewer_session import session_of


@pytest.fixture
def viewer(make_napari_viewer: Any, small_run: Any) -> Any:
    made = make_napari_viewer()
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
    rows = session_of(viewer).rows
    assert [row.use for row in rows] == [False, True, True, False]
    viewer.layers.selection = set()
    run("learn")
    assert [row.use for row in rows] == [False, True, True, False]


def test_measuring_takes_cells(viewer):
    session_of(viewer).configure(unit="crop")
    run("measure")
    assert session_of(viewer).config.unit == "cell"
    assert docks(viewer) == {"Concept workflow"}


@pytest.mark.parametrize("kind", ["heatmap", "activation"])
def test_an_overlay_is_shown_on_the_selected_image(explored, kind):
    viewer, explorer = explored
    explorer.session.show(all_fields=True)
    viewer.layers.selection.active = viewer.layers[2]
    run(kind)
    tags = [x.metadata[TAG] for x in viewer.layers if TAG in x.metadata]
    assert [(tag["kind"], tag["field"]) for tag in tags] == [(kind, 2)]
    assert docks(viewer) == {"Concept explorer"}
