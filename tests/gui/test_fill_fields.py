"""The dialog that fills the table of images, driven by typing and clicking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QTableWidget

from napari_microdl.gui.session.layers import Layout
from napari_microdl.gui.workflow.dock import ConceptWorkflow
from napari_microdl.gui.workflow.fill_fields import FillFields

from .steps import LEFT, open_workflow

NAMES = ("B02_s1_DMSO", "B03_s1_drug", "notes")


@pytest.fixture
def workflow(viewer, bare_workflow, qtbot) -> ConceptWorkflow:
    for number, name in enumerate(NAMES):
        viewer.add_image(np.random.default_rng(number).random((32, 32)), name=name)
    qtbot.waitUntil(lambda: len(bare_workflow.session.images.rows) == len(NAMES))
    return bare_workflow


def write(qtbot: Any, box: Any, text: str) -> None:
    box.setFocus()
    box.selectAll()
    qtbot.keyClicks(box, text)
    assert box.text() == text


def shown(table: QTableWidget) -> list[list[str]]:
    heads = [table.horizontalHeaderItem(c).text() for c in range(table.columnCount())]
    cells = [
        [table.item(r, c).text() for c in range(table.columnCount())]
        for r in range(table.rowCount())
    ]
    return [heads, *cells]


def known(workflow: Any, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(getattr(row, name) for name in names) for row in workflow.session.images.rows]


def test_names_fill_the_table_as_the_preview_shows(workflow, dialog, qtbot):
    write(qtbot, dialog.names.pattern, "{well}_{site}_{condition}")
    assert shown(dialog.names.preview) == [
        ["Image", "Well", "Site", "Condition"],
        ["B02_s1_DMSO", "B02", "s1", "DMSO"],
        ["B03_s1_drug", "B03", "s1", "drug"],
        ["notes", "", "", ""],
    ]
    assert dialog.names.message.text() == "2 of 3 names fit the pattern."
    # Nothing has changed until the button is pressed.
    assert known(workflow, "condition") == [("",), ("",), ("",)]
    qtbot.mouseClick(dialog.names.apply, LEFT)
    assert known(workflow, "well", "condition") == [("B02", "DMSO"), ("B03", "drug"), ("", "")]


def test_a_pattern_or_a_table_that_is_none_is_refused(dialog, qtbot, tmp_path):
    write(qtbot, dialog.names.pattern, "{wel}")
    assert "{wel}, which is not known" in dialog.names.message.text()
    assert not dialog.names.apply.isEnabled()
    path = tmp_path / "plate.csv"
    path.write_text("")
    dialog.table.open(path)
    assert "'plate.csv' cannot be read as a table" in dialog.table.message.text()
    assert not dialog.table.apply.isEnabled()


def test_names_tell_fields_and_channels_apart(viewer, qtbot):
    workflow = open_workflow(viewer)
    for name in ("p1 DNA", "p1 actin", "p2 DNA", "p2 actin"):
        viewer.add_image(np.random.default_rng(0).random((32, 32)), name=name)
    qtbot.waitUntil(lambda: len(workflow.session.images.rows) == 4)
    workflow.session.images.set_layout(Layout("channels"), viewer.layers)
    qtbot.mouseClick(workflow.fields.fill, LEFT)
    dialog = workflow.fields.findChild(FillFields)
    write(qtbot, dialog.names.pattern, "{field} {channel}")
    qtbot.mouseClick(dialog.names.apply, LEFT)
    expected = [("p1", "DNA"), ("p1", "actin"), ("p2", "DNA"), ("p2", "actin")]
    assert known(workflow, "group", "channel") == expected
    assert [c.name for c in workflow.session.images.channels] == ["DNA", "actin"]
    # A query is asked of fields: both channels of one follow.
    dialog.tabs.setCurrentWidget(dialog.query)
    write(qtbot, dialog.query.query, "Metadata_Field == 'p2'")
    qtbot.mouseClick(dialog.query.apply, LEFT)
    assert known(workflow, "is_control") == [(False,), (False,), (True,), (True,)]


def test_a_table_and_a_query_fill_the_rest(workflow, dialog, qtbot, tmp_path, pick):
    path = tmp_path / "plate.csv"
    path.write_text(
        "Metadata_Field,Metadata_condition,Metadata_control\n"
        "B03_s1_drug.tif,10 uM,false\nB02_s1_DMSO.tif,none,true\n"
    )
    pick(path)
    dialog.tabs.setCurrentWidget(dialog.table)
    qtbot.mouseClick(dialog.table.choose, LEFT)
    assert dialog.table.message.text() == "plate.csv has 2 rows; 2 of 3 images are among them."
    qtbot.mouseClick(dialog.table.apply, LEFT)
    expected = [("none", True), ("10 uM", False), ("", False)]
    assert known(workflow, "condition", "is_control") == expected

    dialog.tabs.setCurrentWidget(dialog.query)
    assert not dialog.query.apply.isEnabled()
    write(qtbot, dialog.query.query, "Metadata_condition == '10 uM'")
    assert dialog.query.message.text() == "1 of 3 images are controls."
    qtbot.mouseClick(dialog.query.apply, LEFT)
    assert known(workflow, "is_control") == [(False,), (True,), (False,)]
    write(qtbot, dialog.query.query, "Metadata_dose > 1")
    assert "the columns are Metadata_Field" in dialog.query.message.text()
    assert not dialog.query.apply.isEnabled()


def test_the_table_of_fields_scrolls_by_itself_only_where_there_are_many(workflow, viewer, qtbot):
    table = workflow.fields.table
    bar = table.verticalScrollBar()
    for more, scrolls in ((12, False), (30, True)):
        for number in range(len(viewer.layers), more):
            viewer.add_image(np.zeros((8, 8)), name=f"more {number}")
        qtbot.waitUntil(lambda n=more: table.model().rowCount() == n)
        qtbot.wait(1)
        assert (bar.maximum() > 0) == scrolls
    assert table.height() < workflow.scroll.height()
