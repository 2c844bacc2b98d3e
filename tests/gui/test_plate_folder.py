"""The folder of a plate run in the explorer: its wells, and the way to their images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtCore import Qt

from napari_microdl.fields.tables import read_fields
from napari_microdl.gui.explorer.dock import ConceptExplorer
from napari_microdl.gui.session.layers import TAG, is_output
from napari_microdl.gui.session.viewer_parts import camera_of, text_of
from napari_microdl.pipeline.plate.listing import list_fields
from napari_microdl.pipeline.plate.run import run_plate
from napari_microdl.pipeline.run import run_pipeline
from pipeline.plate_cases import write_table
from pipeline.small_run import small

from .steps import bring_to_front, click, click_tick, outputs, pixel_of

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_table(tmp_path_factory.mktemp("images"), copies=2)


@pytest.fixture(scope="module")
def plate(table, tmp_path_factory) -> Path:
    """Two sites in each of eight wells."""
    out = tmp_path_factory.mktemp("plate") / "out"
    # As of several plates, each placed by its own controls.
    run_plate(list_fields(table), out, small(unit="cell", plates="centre"))
    return out


@pytest.fixture
def opened(bare_explorer, plate, pick, qtbot) -> ConceptExplorer:
    pick(plate)
    click(qtbot, bare_explorer.open_button)
    qtbot.waitUntil(lambda: bare_explorer.session.run.current is not None)
    bring_to_front(bare_explorer)
    qtbot.waitUntil(bare_explorer.plate.plot.has_contents)
    return bare_explorer


def click_well(explorer: ConceptExplorer, well: str, qtbot: Any) -> None:
    wells = explorer.session.run.current.wells.table.set_index("well")
    place = wells.loc[well, ["column", "row"]]
    plot = explorer.plate.plot
    qtbot.mouseClick(plot.canvas, LEFT, pos=pixel_of(plot, tuple(place)))
    qtbot.waitUntil(lambda: not explorer.images.is_busy)
    explorer.overlays.complete()


def images_of(viewer: Any) -> list[Image]:
    return [layer for layer in viewer.layers if isinstance(layer, Image) and not is_output(layer)]


def test_a_click_on_a_well_opens_its_fields_with_overlays(opened, viewer, plate, table, qtbot):
    explorer, run = opened, opened.session.run.current
    assert explorer.tabs.currentWidget() is explorer.plate
    assert len(viewer.layers) == 0
    click_tick(qtbot, explorer.kinds["heatmap"])
    click_well(explorer, "O07", qtbot)
    assert [image.name for image in images_of(viewer)] == ["O07_s1", "O07_s2"]
    fields = {f.name: f for f in read_fields(table)}
    for image in images_of(viewer):
        np.testing.assert_array_equal(image.data, fields[image.name].read()[0])
    # The dictionary gives for these fields what the run has found, to half precision, and so do the
    # overlays; heat is held against controls, and the field is one of them or not.
    numbers = [n for n, name in run.plate.names.items() if name.startswith("O07")]
    activations, concept = run.result.activations, explorer.session.view.concept
    alone = run_pipeline(
        [fields[run.plate.names[n]] for n in numbers],
        run.result.config,
        dictionary=activations.dictionary,
    ).activations
    rows = np.concatenate([activations.rows_of_field(n) for n in numbers])
    np.testing.assert_allclose(activations.codes[rows].toarray(), alone.codes.toarray(), atol=2e-3)
    shown = {(x.metadata[TAG]["kind"], x.metadata[TAG]["field"]): x for x in outputs(viewer)}
    for place, number in enumerate(numbers):
        heat = alone.heat.of_field(place, concept)
        np.testing.assert_allclose(activations.heat.of_field(number, concept), heat, atol=1e-4)
        assert shown["heatmap", number].visible
        drawn = np.unique(shown["activation", number].data)
        values = alone.activation(concept)[alone.rows_of_field(place)]
        np.testing.assert_allclose(drawn[~np.isnan(drawn)], np.unique(values), atol=2e-3)
    # Back to a well that is open: nothing is read again. Then a control beside it.
    before = list(viewer.layers)
    click_well(explorer, "O07", qtbot)
    assert list(viewer.layers) == before
    assert viewer.layers.selection.active.name == "O07_s2"
    click_well(explorer, "O11", qtbot)
    assert [x.name for x in images_of(viewer)] == ["O07_s1", "O07_s2", "O11_s1", "O11_s2"]
    extents = [x.extent.world for x in images_of(viewer)]
    assert extents[2][0, 1] > extents[1][1, 1]
    # A cell of a well that is not open is gone to as well.
    row = int(activations.rows_of_field(0)[0])
    explorer.go_to_unit(row)
    qtbot.waitUntil(lambda: explorer.selection.current == row)
    explorer.overlays.complete()
    assert viewer.layers.selection.active.name == "O01_s1"
    camera_of(viewer).zoom *= 8
    text = text_of(viewer.__wrapped__)
    qtbot.waitUntil(lambda: run.plate.names[0] in text.text)


def test_images_that_are_gone_or_others_give_a_sentence_and_the_rest_opens(
    opened, viewer, table, told, qtbot
):
    gone, changed = table.parent / "O05_s1.tif", table.parent / "O08_s2.tif"
    kept = changed.read_bytes()
    gone.rename(gone.with_suffix(".away"))
    changed.write_bytes((table.parent / "O12_s1.tif").read_bytes())
    try:
        for well in ("O05", "O08", "O05", "O05"):
            click_well(opened, well, qtbot)
    finally:
        gone.with_suffix(".away").rename(gone)
        changed.write_bytes(kept)
    assert [image.name for image in images_of(viewer)] == ["O05_s2", "O08_s1"]
    # It is looked for again when it is asked for again; what is open is not opened twice.
    assert len(told) == 3
    assert told[2] == told[0]
    assert told[0].startswith("Without 'O05_s1' (fields.csv, row ")
    assert told[0].endswith(f"the file '{gone}' does not exist).")
    assert told[1].startswith("'O08_s2' has changed since the run")


def test_a_well_that_is_cancelled_opens_nothing(opened, viewer, qtbot):
    opened.images.jobs.progressed.connect(lambda _: opened.images.jobs.cancel())
    with qtbot.waitSignal(opened.images.jobs.cancelled):
        click_well(opened, "O14", qtbot)
    assert len(viewer.layers) == 0


def test_a_plate_run_that_is_dropped_on_napari_opens_in_the_explorer(viewer, plate, qtbot):
    window = viewer.__wrapped__.window
    window._qt_viewer._qt_open([str(plate / "plate.json")], stack=False)
    (explorer,) = window._qt_window.findChildren(ConceptExplorer)
    qtbot.waitUntil(lambda: explorer.session.run.current is not None)
    assert explorer.session.run.current.plate.folder == plate


def test_wells_opened_first_are_closed_where_there_would_be_too_many_layers(
    opened, viewer, qtbot, monkeypatch
):
    monkeypatch.setattr("napari_microdl.gui.explorer.plate_images.MOST_LAYERS", 4)
    for well in ("O05", "O07", "O12"):
        click_well(opened, well, qtbot)
    assert [image.name[:3] for image in images_of(viewer)] == ["O07", "O07", "O12", "O12"]
    # One that was closed is opened again.
    click_well(opened, "O05", qtbot)
    assert [image.name[:3] for image in images_of(viewer)] == ["O12", "O12", "O05", "O05"]
    fields = {x.metadata[TAG]["field"] for x in outputs(viewer) if x.visible}
    assert {opened.session.run.current.plate.names[f][:3] for f in fields} == {"O12", "O05"}
