"""Make the screenshots of the docs from a real run in a real window.

Usage: scripts/with-display .venv/bin/python scripts/make_screenshots.py [FOLDER] [THEME]

FOLDER is docs/images and THEME is dark unless given; light is napari's other one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from imageio.v3 import imwrite
from qtpy.QtWidgets import QApplication

from napari_microdl.gui.plugin.launch import open_demo

WIDTH, HEIGHT = 1366, 768
_LONGEST_RUN_S = 300


def main(folder: Path, theme: str) -> None:
    """Open the demo, run it, and save the window at six moments."""
    folder.mkdir(parents=True, exist_ok=True)
    viewer, workflow, explorer = open_demo()
    viewer.theme = theme
    viewer.window.resize(WIDTH, HEIGHT)

    def wait(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.01)

    def save(name: str) -> None:
        wait(0.5)
        explorer.overlays.complete()
        # napari's panels grow with what they show, and leave less room for the images.
        viewer.reset_view()
        wait(0.5)
        imwrite(folder / f"{name}.png", viewer.screenshot(canvas_only=False, flash=False))
        print(folder / f"{name}.png")

    wait(1.0)
    viewer.reset_view()
    save("workflow")
    workflow.run_button.click()
    end = time.monotonic() + _LONGEST_RUN_S
    while workflow.jobs.is_running and time.monotonic() < end:
        wait(0.1)
    if workflow.session.run.current is None:
        raise SystemExit(f"The run did not finish: {workflow.status.text()}")
    save("explorer")
    explorer.kinds["activation"].click()
    explorer.kinds["heatmap"].click()
    explorer.tabs.setCurrentIndex(1)
    save("heatmap")
    together = explorer.together
    explorer.tabs.setCurrentWidget(together)
    while together.jobs.is_running and time.monotonic() < end:
        wait(0.1)
    together.members.itemClicked.emit(together.members.item(0))
    explorer.kinds["heatmap"].click()
    explorer.kinds["activation"].click()
    save("together")
    panel = explorer.evaluation
    explorer.tabs.setCurrentWidget(panel)
    panel.evaluate_button.click()
    while panel.jobs.is_running and time.monotonic() < end:
        wait(0.1)
    panel.scroll.ensureWidgetVisible(panel.tables["probes"])
    save("evaluation")
    viewer.close()
    wait(0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs/images"))
    parser.add_argument("theme", nargs="?", choices=("dark", "light"), default="dark")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.theme)
