"""The demo in a window: the sample, both docks, and a run that one can watch."""

from __future__ import annotations

import napari
from qtpy.QtCore import QTimer

from napari_microdl.gui.dock import EXPLORER, WORKFLOW, open_dock
from napari_microdl.gui.explorer.dock import ConceptExplorer
from napari_microdl.gui.session.preferences import PLUGIN
from napari_microdl.gui.workflow.dock import ConceptWorkflow

_MILLISECONDS_UNTIL_RUN = 800


def open_demo() -> tuple[napari.Viewer, ConceptWorkflow, ConceptExplorer]:
    """Open napari with the sample and both docks."""
    viewer = napari.Viewer(title="MicroDL demo")
    viewer.open_sample(PLUGIN, "transfluor")
    explorer, workflow = open_dock(viewer, EXPLORER), open_dock(viewer, WORKFLOW)
    assert isinstance(explorer, ConceptExplorer)
    assert isinstance(workflow, ConceptWorkflow)
    viewer.reset_view()
    return viewer, workflow, explorer


def launch_demo() -> None:
    """Open the demo, run the job where the user can watch it, and stay until napari is closed."""
    viewer, workflow, _ = open_demo()

    def begin() -> None:
        # By now the docks have their size and the canvas has the rest.
        viewer.reset_view()
        workflow.run_button.click()

    QTimer.singleShot(_MILLISECONDS_UNTIL_RUN, begin)
    napari.run()
