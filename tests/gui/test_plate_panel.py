"""The plate: its wells as colours, and the way from a well to its images."""

from __future__ import annotations

import base64
import dataclasses
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import Qt

from napari_microdl.fields.pixel_size import common_pixel_size
from napari_microdl.gui.session.viewer_parts import camera_of

from .clicks import click_choice, click_save
from .conftest import SIZE, SmallRun, explore, restored
from .steps import LEFT, bring_to_front, open_tab, open_workflow, pixel_of
from .test_exporting import chosen, is_picture, right_click

# Fixtures are found by their names.
__all__ = ["chosen"]


def with_wells(run: SmallRun, wells: list[str], plates: list[str] | None = None) -> SmallRun:
    """The same run in other wells."""
    plates = plates or [""] * len(wells)
    fields = [
        dataclasses.replace(field, well=well, plate=plate)
        for field, well, plate in zip(run.fields, wells, plates, strict=True)
    ]
    activations = run.result.activations
    units = activations.units.copy()
    number = units["field"].to_numpy()
    units["Metadata_Well"] = np.array(wells, object)[number]
    units["Metadata_Plate"] = np.array(plates, object)[number]
    result = dataclasses.replace(
        run.result,
        activations=dataclasses.replace(activations, units=units),
        warnings=[f"There is something in '{fields[2].name}'."],
    )
    return dataclasses.replace(run, fields=fields, result=result)


@pytest.fixture
def opened(viewer, small_run, qtbot) -> Any:
    """Opens the explorer with fields in some wells, and the tab."""
    # It is what knows the images.
    open_workflow(viewer)

    def open_wells(wells: list[str], plates: list[str] | None = None) -> Any:
        explorer = explore(viewer, with_wells(small_run, wells, plates), qtbot)
        bring_to_front(explorer)
        open_tab(explorer, explorer.plate, qtbot)
        return explorer

    with restored(small_run):
        yield open_wells


def active(explorer: Any) -> int:
    return explorer.overlays.field_of(explorer.viewer.layers.selection.active)


def test_wells_have_the_colours_of_what_is_chosen(opened, qtbot, chosen):
    explorer = opened(["B02", "B02", "C02", "C05"])
    plot = explorer.plate.plot
    qtbot.waitUntil(plot.has_contents)
    run, concept = explorer.session.run.current, explorer.session.view.concept
    activations = run.result.activations
    expected = run.wells.of_concept(activations, concept)
    for text, column, scale in (
        ("Mean activation", "mean_activation", 1),
        ("Share of active crops", "share_active", 100),
        ("Number of crops", "n_units", 1),
    ):
        click_choice(explorer.plate.value, text)
        drawn = plot.canvas.figure.axes[0].collections[0].get_array()
        np.testing.assert_allclose(drawn, scale * expected[column])
    click_choice(explorer.plate.value, "Flags")
    assert plot.canvas.figure.axes[0].collections[0].get_array().tolist() == [0, 1, 0]
    path = chosen("plate.csv")
    right_click(plot.canvas, "Save table...")
    table = pd.read_csv(path, keep_default_na=False)
    assert table["well"].tolist() == ["B02", "C02", "C05"]
    np.testing.assert_allclose(table["share_active"], expected["share_active"])
    assert table["flag"].tolist() == ["", "note", ""]
    # Another concept, while the tab is looked at.
    other = int(activations.ranking.index[1])
    click_choice(explorer.plate.value, "Mean activation")
    explorer.session.view.show_concept(other)
    name = activations.dictionary.names[other]
    qtbot.waitUntil(lambda: plot.canvas.figure.axes[0].get_title() == name)


def test_a_click_goes_from_one_field_of_a_well_to_the_next(opened, viewer, qtbot):
    explorer = opened(["B02", "B02", "C02", "C05"])
    plot = explorer.plate.plot
    qtbot.waitUntil(plot.has_contents)
    images = [source.layer() for source in explorer.session.run.current.sources]
    seen = []
    for place in ((1, 1), (1, 1), (1, 1), (4, 2)):
        qtbot.mouseClick(plot.canvas, LEFT, pos=pixel_of(plot, place))
        seen.append(active(explorer))
        # They lie on each other: the others are hidden.
        assert [layer.visible for layer in images] == [i == seen[-1] for i in range(4)]
    assert seen == [0, 1, 0, 3]
    assert explorer.plate.message.text().startswith("C05: ")
    # The whole of the image is in view.
    np.testing.assert_allclose(camera_of(viewer).center[-2:], (SIZE - 1) / 2)
    # Beside all wells nothing is asked for.
    qtbot.mouseClick(plot.canvas, LEFT, pos=pixel_of(plot, (7, 5)))
    qtbot.mouseClick(plot.canvas, Qt.MouseButton.RightButton, pos=pixel_of(plot, (1, 1)))
    assert active(explorer) == 3


def test_arrow_keys_go_from_well_to_well_and_enter_opens(opened, qtbot):
    explorer = opened(["B02", "B07", "C05", "P24"])
    plot = explorer.plate.plot
    qtbot.waitUntil(plot.has_contents)
    canvas = plot.canvas
    canvas.setFocus()
    before = active(explorer)
    told = []
    # B02, B07, P24 below is further than C05 beside, back to the left, and the rim.
    for key in ("Right", "Right", "Down", "Down", "Down", "Up", "Left", "Up"):
        qtbot.keyClick(canvas, getattr(Qt.Key, f"Key_{key}"))
        told.append(explorer.plate.message.text().split(":")[0])
    assert told == ["B02", "B07", "C05", "P24", "P24", "C05", "B02", "B02"]
    assert active(explorer) == before
    qtbot.keyClick(canvas, Qt.Key.Key_Down)
    qtbot.keyClick(canvas, Qt.Key.Key_Return)
    assert active(explorer) == 2
    assert "There is something in" in explorer.plate.message.text()


def test_several_plates_are_chosen_and_without_wells_it_says_what_to_do(opened, qtbot):
    explorer = opened(["B02", "B03", "C02", ""], ["P1", "P1", "P$2", "P$2"])
    panel = explorer.plate
    qtbot.waitUntil(panel.plot.has_contents)
    assert [panel.plate.itemText(n) for n in range(panel.plate.count())] == ["P$2", "P1"]
    assert "1 well of this run has no place on a plate" in panel.message.text()
    drawn = panel.plot.canvas.figure.axes[0]
    assert len(drawn.collections[0].get_array()) == 1
    assert drawn.get_title().endswith(r"plate P\$2")
    click_choice(panel.plate, "P1")
    assert len(panel.plot.canvas.figure.axes[0].collections[0].get_array()) == 2


def test_without_wells_the_tab_says_what_to_fill_in(opened, qtbot):
    explorer = opened(["", "", "", ""])
    panel = explorer.plate
    qtbot.waitUntil(lambda: "Fill in the wells of the fields, such as B03" in panel.message.text())
    assert panel.plot.isHidden()
    assert panel.value.isHidden()


def test_the_figure_and_the_atlas_are_saved_in_the_background(
    explorer, small_run, activations, qtbot, chosen, told
):
    run = explorer.session.run.current
    assert run.pixel_sizes() == [None] * 4
    for source in run.sources:
        source.layer().scale, source.layer().units = (650, 650), ("nm", "nm")
    assert common_pixel_size(run.pixel_sizes()) == pytest.approx(0.65)
    path = chosen("concept.png")
    click_save(explorer, "figure", qtbot)
    assert is_picture(path)
    path = chosen("concepts.html")
    click_save(explorer, "atlas", qtbot)
    page = path.read_text(encoding="utf-8")
    assert page.count("<article") == int((~activations.ranking["dead"]).sum())
    assert base64.b64decode(re.search(r"image/jpeg;base64,([^\"]+)", page)[1])[:2] == b"\xff\xd8"
    assert told[-1] == f"Saved to {path}."
    # A name that is none of a picture is refused before anything is drawn.
    chosen("concept.gif")
    click_save(explorer, "figure", qtbot)
    assert "'concept.gif' is no picture" in told[-1]
    source = run.sources[0].layer()
    source.scale = (1, 1)
    assert common_pixel_size(run.pixel_sizes()) is None


def test_an_atlas_that_is_cancelled_leaves_what_was_there(explorer, qtbot, chosen):
    path = chosen("concepts.html")
    path.write_text("before")
    button = explorer.save_button
    button.jobs.progressed.connect(lambda progress: progress.done and button.jobs.cancel())
    with qtbot.waitSignal(button.jobs.cancelled):
        click_save(explorer, "atlas", qtbot)
    assert path.read_text() == "before"
    assert [p.name for p in path.parent.iterdir()] == ["concepts.html"]
