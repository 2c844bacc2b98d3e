"""The card of the concept above the table, by real clicks and keys."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from scipy import sparse

from napari_microdl.concepts.pictures import PictureChoice
from napari_microdl.concepts.strength import random_units
from napari_microdl.report.cell_pictures import strongest_units
from napari_microdl.report.concept_summary import summarize_concept

from .clicks import click_choice
from .conftest import SmallRun, explore
from .steps import (
    LEFT,
    click,
    click_cell,
    click_tick,
    open_explorer,
    open_tab,
    overlays,
    shown_names,
    write,
)
from .test_explorer_clicks import pixels


def filled(explorer: Any, qtbot: Any) -> Any:
    """Wait until the card tells of the concept on show, and what it has to tell."""
    run, concept = explorer.session.run.current, explorer.session.view.concept
    known = summarize_concept(run.result.activations, run.wells, concept)
    qtbot.waitUntil(lambda: explorer.card.sentence.text() == known.sentence)
    return known


@pytest.fixture
def of_area(viewer, cell_run, qtbot) -> Any:
    """The explorer with a run whose first concept is as strong in a cell as the cell is large."""
    before = cell_run.result.activations
    codes = before.codes.toarray()
    areas = [
        (cell_run.result.labels[field] == label).sum()
        for field, label in zip(before.units["field"], before.units["label"], strict=True)
    ]
    codes[:, before.ranking.index[0]] = areas
    changed = dataclasses.replace(before, codes=sparse.csr_array(codes), columns=None)
    changed.ranking = before.ranking
    names = list(before.dictionary.names)
    result = dataclasses.replace(cell_run.result, activations=changed)
    yield explore(viewer, SmallRun(cell_run.fields, cell_run.config, result), qtbot)
    before.dictionary.names[:] = names


def test_the_card_tells_of_the_concept_and_its_pictures_go_there(
    viewer, cell_explorer, cell_run, qtbot
):
    explorer, card = cell_explorer, cell_explorer.card
    activations = cell_run.result.activations
    for row in (0, 3):
        click_cell(qtbot, explorer.table, row, 1)
        concept = explorer.session.view.concept
        assert concept == activations.ranking.index[row]
        assert card.name.text() == activations.dictionary.names[concept]
        known = filled(explorer, qtbot)
        assert known.numbers in card.sentence.toolTip().replace("&#x27;", "'")
        qtbot.waitUntil(lambda: not card.jobs.is_running)
        shown_rows = (
            strongest_units(activations, concept, known.inside, 3),
            random_units(known.against, 3),
        )
        for buttons, rows in zip(card.buttons, shown_rows, strict=True):
            for button, unit in zip(buttons, rows, strict=True):
                wanted = explorer.session.run.current.pictures.picture(unit, PictureChoice())
                shown = pixels(button.icon().pixmap(button.iconSize()).toImage())
                assert shown.mean() == pytest.approx(wanted.mean(), abs=3)
                click(qtbot, button)
                assert explorer.selection.current == unit
                field = activations.units["Metadata_Field"][unit]
                assert viewer.layers.selection.active.name == field
    # It follows the channel that is chosen for the gallery.
    before = pixels(card.buttons[0][0].icon().pixmap(44, 44).toImage())
    open_tab(explorer, explorer.gallery, qtbot)
    click_choice(explorer.gallery.channel, "turned")
    qtbot.waitUntil(
        lambda: (
            not np.array_equal(before, pixels(card.buttons[0][0].icon().pixmap(44, 44).toImage()))
        )
    )


def test_a_name_written_in_the_card_is_that_of_table_layers_and_dictionary(
    viewer, explorer, small_run, qtbot
):
    card, dictionary = explorer.card, small_run.result.dictionary
    filled(explorer, qtbot)
    best = explorer.session.view.concept
    write(qtbot, card.name, "<b>bright</b> spots")
    assert dictionary.names[best] == "<b>bright</b> spots" == shown_names(explorer)[0]
    assert "<b>bright</b> spots" in overlays(viewer)["activation"].name
    # It is shown as it was written.
    filled(explorer, qtbot)
    assert card.sentence.textFormat() == Qt.TextFormat.PlainText
    # A concept needs a name.
    write(qtbot, card.name, "  ")
    assert dictionary.names[best] == card.name.text() == "<b>bright</b> spots"
    # What is written when another concept is clicked is the name of the first.
    card.name.setFocus()
    card.name.selectAll()
    qtbot.keyClicks(card.name, "spots")
    explorer.table.window().activateWindow()
    explorer.table.setFocus()
    click_cell(qtbot, explorer.table, 1, 1)
    second = explorer.session.view.concept
    assert (dictionary.names[best], second != best) == ("spots", True)
    assert card.name.text() == dictionary.names[second] != "spots"


def test_a_suggested_name_is_used_by_a_click(of_area, qtbot):
    explorer, card = of_area, of_area.card
    qtbot.waitUntil(card.use.isVisible)
    suggested = card.suggestion.text().removeprefix("Suggested: ")
    assert suggested.split(", ")[0] == "larger"
    click(qtbot, card.use)
    assert card.name.text() == suggested == shown_names(explorer)[0]
    assert not card.use.isVisible()
    # Where nothing goes along with a concept, nothing is suggested.
    run = explorer.session.run.current
    silent = [c for c in run.result.activations.ranking.index if not run.suggestions.of(int(c))]
    explorer.session.view.show_concept(int(silent[0]))
    filled(explorer, qtbot)
    assert not card.suggestion.isVisible()


def test_what_is_folded_and_shown_stays_so_when_the_dock_is_opened_again(
    viewer, cell_explorer, qtbot
):
    explorer, card = cell_explorer, cell_explorer.card
    filled(explorer, qtbot)
    height = card.height()
    assert height <= 180
    click(qtbot, card.fold)
    assert not card.sentence.isVisible()
    assert card.name.isVisible()
    click_tick(qtbot, explorer.advanced)
    open_tab(explorer, explorer.gallery, qtbot)
    click_tick(qtbot, explorer.gallery.patches)
    viewer.window.remove_dock_widget(explorer)
    again = open_explorer(viewer)
    assert not again.card.sentence.isVisible()
    assert again.advanced.isChecked()
    assert not again.table.isColumnHidden(again.table.model().columnCount() - 1)
    assert again.gallery.patches.isChecked()
    click(qtbot, again.card.fold)
    filled(again, qtbot)
    assert again.card.sentence.isVisible()
    assert again.card.height() > 2 * again.card.name.height()


def test_twelve_concepts_or_eight_pictures_are_in_view_on_a_small_screen(
    viewer, cell_explorer, qtbot
):
    explorer, table = cell_explorer, cell_explorer.table
    filled(explorer, qtbot)
    viewer.window.resize(1366, 768)
    row = table.verticalHeader().defaultSectionSize()
    qtbot.waitUntil(lambda: table.viewport().height() >= 12 * row)
    open_tab(explorer, explorer.gallery, qtbot)
    view = explorer.gallery.list
    qtbot.waitUntil(lambda: len(view.pictures) == view.count() > 0)
    assert view.iconSize().height() == 96

    def in_view() -> int:
        rects = [view.visualItemRect(view.item(number)) for number in range(view.count())]
        return sum(view.viewport().rect().contains(rect) for rect in rects)

    qtbot.waitUntil(lambda: in_view() == 8)
    assert explorer.card.sentence.isVisible()
    # Where a person puts the bar between both it stays.
    bar = explorer.splitter.handle(1)
    qtbot.mousePress(bar, LEFT)
    qtbot.mouseMove(bar, QPoint(0, 150))
    qtbot.mouseRelease(bar, LEFT)
    sizes = explorer.splitter.sizes()
    assert sizes[0] > 200
    open_tab(explorer, explorer.plots, qtbot)
    assert explorer.splitter.sizes() == sizes
