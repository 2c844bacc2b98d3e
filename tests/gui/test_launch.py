from __future__ import annotations

from typing import Any

import pytest
from napari import Viewer

from napari_microdl.gui.plugin import launch

pytestmark = pytest.mark.own_window


@pytest.fixture
def our_viewer(viewer, monkeypatch) -> Viewer:
    """The viewer that the demo gets when it asks napari for one."""
    viewer = viewer.__wrapped__
    monkeypatch.setattr(launch.napari, "Viewer", lambda **_: viewer)
    return viewer


def test_the_demo_opens_the_sample_and_both_docks_ready_to_run(our_viewer, qtbot):
    viewer, workflow, explorer = launch.open_demo()
    # What a person is to begin with is in front, and stays there.
    qtbot.wait(1000)
    assert not workflow.visibleRegion().isEmpty()
    assert explorer.visibleRegion().isEmpty()
    assert viewer is our_viewer
    qtbot.waitUntil(lambda: len(workflow.session.images.rows) == 8)
    assert workflow.session.plan.problems() == []
    assert workflow.session is explorer.session


def test_the_demo_starts_its_run_and_waits_for_the_window(our_viewer, qtbot, monkeypatch):
    docks = {}
    open_demo = launch.open_demo

    def remember() -> Any:
        docks["all"] = open_demo()
        return docks["all"]

    monkeypatch.setattr(launch, "open_demo", remember)
    monkeypatch.setattr(
        launch.napari, "run", lambda: qtbot.waitUntil(lambda: docks["all"][1].jobs.is_running)
    )
    launch.launch_demo()
    docks["all"][1].jobs.cancel()
