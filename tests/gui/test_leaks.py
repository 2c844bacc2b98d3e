"""Docks and viewers leave nothing behind."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import napari
from qtpy.QtWidgets import QApplication

from napari_microdl.gui.explorer.dock import ConceptExplorer
from napari_microdl.gui.session.session import Session

from .conftest import explore
from .steps import open_explorer, open_workflow


def living(kind: type) -> int:
    return sum(type(thing) is kind for thing in gc.get_objects())


def open_and_close(small_run: Any, qtbot: Any) -> list[weakref.ref]:
    """One viewer, both docks, a run, every tab; the explorer is also closed and reopened."""
    viewer = napari.Viewer(show=True)
    workflow, first = open_workflow(viewer), open_explorer(viewer)
    viewer.window.remove_dock_widget(first)
    explorer = explore(viewer, small_run, qtbot)
    explorer.selection.select([0, 1, 2])
    for number in range(explorer.tabs.count()):
        explorer.tabs.setCurrentIndex(number)
    explorer.map.jobs.stop()
    qtbot.wait(20)
    references = [weakref.ref(x) for x in (viewer, workflow, first, explorer, explorer.session)]
    viewer.close()
    return references


def test_viewers_come_and_go(small_run, qtbot, qapp):
    # What is there by now stays, and napari looks for garbage whenever a layer is removed.
    gc.collect()
    gc.freeze()
    counts, references = [], []
    for _ in range(6):
        references += open_and_close(small_run, qtbot)
        qtbot.wait(20)
        gc.collect()
        counts.append(len(QApplication.allWidgets()))
    assert [r() for r in references if r() is not None] == []
    # The first viewer may leave what napari and matplotlib make once; then none leaves anything.
    assert counts[-1] <= counts[1]
    assert living(ConceptExplorer) == living(Session) == 0
