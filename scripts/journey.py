"""The way of a newcomer, in a real window: from a folder of images to a named concept and a figure.

Usage: scripts/with-display .venv/bin/python scripts/journey.py [FOLDER] [--small] [--where]

It opens an empty napari of 1366 x 768, imports a folder of images through the dialog, runs all
steps, looks at the cells of the first concept, names it, and saves a figure of it. Everything is
clicked or typed where a person would. FOLDER (docs/images unless given) gets a picture of each
stage; printed are the seconds of each, and the longest time in it for which the window did not
answer, seen by a timer of ten milliseconds, and the longest that this plugin itself was at work
meanwhile: its own code and what it calls, but napari, the canvas and matplotlib (looked at every
five milliseconds). No plugin can go below what these take by themselves: at the end one more image
of the same size is opened by napari alone. Others may be using the machine, and the plugin's
threads take turns with the window: so the same two are printed by the time of the processor that
the thread of the window used, and the load. ``--where`` prints as well what of the plugin was at
work in the longest of each stage.

The images are made here, as files named like those of an ImageXpress: 12 fields of 1,024 x 1,280
pixels in two folders by condition, repeated from the eight of the sample by mirroring them; with
``--small`` a corner of each, to try the script out.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import napari
import numpy as np
import tifffile
from napari._app_model import get_app_model
from qtpy.QtCore import QPoint, Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QDialog, QFileDialog, QTabBar

WIDTH, HEIGHT = 1366, 768
FIELD, SMALL = (1024, 1280), (256, 320)
FIELDS_A_SIDE = 6
_TIMER_MS = 10
_SAMPLE_S = 0.005
_OTHERS = frozenset({"app_model", "matplotlib", "napari", "npe2", "superqt", "vispy"})
_LONGEST_S = 900
_PLACES = 12
_LEFT = Qt.MouseButton.LeftButton


def make_folder(folder: Path, shape: tuple[int, int]) -> None:
    """Write 12 fields as files."""
    from napari_microdl.fields.samples import transfluor

    fields = transfluor()
    for is_control, name in ((True, "DMSO"), (False, "treated")):
        (folder / name).mkdir(parents=True)
        originals = [f.read()[0] for f in fields if f.is_control == is_control]
        for number in range(FIELDS_A_SIDE):
            plane = originals[number % len(originals)]
            # A field that is used again is turned first.
            plane = np.rot90(plane, 2 * (number // len(originals)))
            short = [(0, max(n - m, 0)) for n, m in zip(shape, plane.shape, strict=True)]
            plane = np.pad(plane, short, mode="reflect")[: shape[0], : shape[1]]
            well = f"{'AB'[is_control]}{number // 2 + 1:02d}"
            tifffile.imwrite(folder / name / f"plate_{well}_s{number % 2 + 1}_w1.tif", plane)


def place_in_plugin(frame: FrameType | None) -> tuple[str, ...]:
    """Where this plugin is at work, innermost first; empty where a library of the window is."""
    lines: list[str] = []
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        if package in _OTHERS and not lines:
            return ()
        if package == "napari_microdl":
            lines.append(f"{module.removeprefix('napari_microdl.')}:{frame.f_lineno}")
        frame = frame.f_back
    return tuple(lines)


class Longest:
    """The longest that the window gave no answer, and that this plugin was at work meanwhile."""

    def __init__(self) -> None:
        self.wall = self.cpu = self.own_wall = self.own_cpu = 0.0
        # Seconds by where the plugin was at work, in the longest.
        self.where: Counter[tuple[str, ...]] = Counter()

    def take(self, wall: float, cpu: float, seen: Counter[tuple[str, ...]]) -> None:
        """Take in one stall, with the seconds for which something was seen at work in it."""
        self.wall, self.cpu = max(self.wall, wall), max(self.cpu, cpu)
        own = Counter({place: seconds for place, seconds in seen.items() if place})
        share = own.total() / max(seen.total(), 1e-9)
        if share * wall > self.own_wall:
            self.own_wall, self.where = share * wall, own
        self.own_cpu = max(self.own_cpu, share * cpu)


class Journey:
    """The stages, their seconds and their stalls."""

    def __init__(self, folder: Path, *, where: bool) -> None:
        self.folder = folder
        self._where = where
        self._longest = Longest()
        self._begin_stall()
        self._samples: list[tuple[float, tuple[str, ...]]] = []
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        self._timer = QTimer()
        self._timer.setInterval(_TIMER_MS)
        self._timer.timeout.connect(self._tick)
        self._timer.start()
        self.seconds: dict[str, float] = {}
        self.stalls: dict[str, Longest] = {}
        self.window: Any = None

    def _sample(self) -> None:
        main = threading.main_thread().ident
        while not self._ended.wait(_SAMPLE_S):
            place = place_in_plugin(sys._current_frames().get(main or 0))
            self._samples.append((time.perf_counter(), place))

    def end(self) -> None:
        """Look no more."""
        self._timer.stop()
        self._ended.set()
        self._sampler.join()

    def _begin_stall(self) -> None:
        self._last, self._last_cpu = time.perf_counter(), time.thread_time()

    def _tick(self) -> None:
        wall, cpu = time.perf_counter() - self._last, time.thread_time() - self._last_cpu
        seen: Counter[tuple[str, ...]] = Counter()
        before = self._last
        for at, place in self._samples:
            if at > before:
                # What is seen after a while without a look was at work for as long.
                seen[place] += at - before
                before = at
        self._samples.clear()
        self._longest.take(wall, cpu, seen)
        self._begin_stall()

    def wait(self, seconds: float) -> None:
        """Let the window work."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            QApplication.processEvents()
            time.sleep(0.002)

    def wait_for(self, done: Callable[[], bool]) -> None:
        """Let the window work until something is so."""
        end = time.perf_counter() + _LONGEST_S
        while not done():
            if time.perf_counter() > end:
                raise SystemExit("The journey took too long.")
            self.wait(0.02)

    def stage(self, name: str, act: Callable[[], Any], picture: str = "") -> Any:
        """Do one stage, and say how it went."""
        self.wait(0.3)
        self._longest = longest = Longest()
        self._begin_stall()
        begin = time.perf_counter()
        result = act()
        self.seconds[name] = time.perf_counter() - begin
        self.wait(0.3)
        self._tick()
        self.stalls[name] = longest
        print(
            f"{name:34s} {self.seconds[name]:7.1f} s, no answer for {longest.wall:5.2f} s "
            f"(CPU {longest.cpu:.2f}), own {longest.own_wall:.2f} s (CPU {longest.own_cpu:.2f})   "
            f"load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        if self._where:
            for place, seconds in longest.where.most_common(_PLACES):
                print(f"    {seconds:.3f} s  {' < '.join(place)}", flush=True)
        if picture:
            self.wait(0.5)
            screen = QApplication.primaryScreen().grabWindow(0)
            screen.copy(0, 0, WIDTH, HEIGHT).save(str(self.folder / f"{picture}.png"))
        return result


def click(widget: Any, at: QPoint | None = None) -> None:
    """Click a widget where it is drawn."""
    assert widget.isEnabled(), widget.text()
    QTest.mouseClick(widget, _LEFT, Qt.KeyboardModifier.NoModifier, at or widget.rect().center())


def click_tab(bar: QTabBar, text: str) -> None:
    """Click a tab by its text."""
    titles = [bar.tabText(i) for i in range(bar.count())]
    click(bar, bar.tabRect(titles.index(text)).center())


def main(pictures: Path, shape: tuple[int, int], *, where: bool) -> None:
    """Go all the way."""
    pictures.mkdir(parents=True, exist_ok=True)
    app = QApplication.instance() or QApplication([])
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "plate"
        make_folder(folder, shape)
        viewer = napari.Viewer(show_welcome_screen=False)
        viewer.window.resize(WIDTH, HEIGHT)
        journey = Journey(pictures, where=where)
        begin = time.perf_counter()

        def open_workflow() -> Any:
            # As the entry of the Plugins menu does.
            get_app_model().commands.execute_command("napari-microdl.workflow").result()
            (dock,) = viewer.window.dock_widgets.values()
            return dock

        workflow = journey.stage("the workflow dock opens", open_workflow)

        def look() -> Any:
            click(workflow.fields.import_folder)
            journey.wait(0.2)
            (dialog,) = workflow.fields.findChildren(QDialog)
            QTest.keyClicks(dialog.place, str(folder))
            QTest.keyClick(dialog.place, Qt.Key.Key_Return)
            journey.wait_for(lambda: dialog.open.isEnabled())
            return dialog

        dialog = journey.stage("the folder is looked through", look, "import")

        def open_fields() -> None:
            click(dialog.open)
            journey.wait_for(lambda: not dialog.isVisible())

        journey.stage("12 fields are opened", open_fields, "fields")

        def run() -> None:
            click(workflow.run_button)
            journey.wait(0.2)
            journey.wait_for(lambda: not workflow.jobs.is_running)
            if workflow.session.run.current is None:
                raise SystemExit(workflow.status.text())
            # The explorer opens a few events later.
            journey.wait_for(lambda: len(viewer.window.dock_widgets) == 2)

        journey.stage("all steps are run", run, "run")
        # Imported by now: earlier, the time of opening the dock would not be seen.
        from napari_microdl.gui.explorer.dock import ConceptExplorer

        (explorer,) = workflow.window().findChildren(ConceptExplorer)

        def look_at_cells() -> None:
            click_tab(explorer.tabs.tabBar(), "Gallery")
            pictures_of = explorer.gallery.list
            journey.wait_for(lambda: pictures_of.count() > 0)
            place = pictures_of.visualItemRect(pictures_of.item(0)).center()
            click(pictures_of.viewport(), place)
            journey.wait(0.5)

        journey.stage("the strongest cell is looked at", look_at_cells, "cell")

        def name() -> None:
            explorer.card.name.setFocus()
            explorer.card.name.selectAll()
            QTest.keyClicks(explorer.card.name, "spots")
            QTest.keyClick(explorer.card.name, Qt.Key.Key_Return)

        journey.stage("the concept is named", name)

        def save() -> None:
            path = Path(made) / "figure.pdf"
            QFileDialog.getSaveFileName = staticmethod(lambda *_, **__: (str(path), ""))
            button = explorer.save_button
            button.entries["figure"].trigger()
            journey.wait_for(path.exists)

        journey.stage("a figure of it is saved", save, "named")
        print(
            f"{'all of it':34s} {time.perf_counter() - begin:7.1f} s, no answer for "
            f"{max(stall.wall for stall in journey.stalls.values()):5.2f} s",
            flush=True,
        )
        plane = np.random.default_rng(0).random(shape, np.float32)
        journey.stage("napari alone opens an image", lambda: viewer.add_image(plane))
        journey.end()
        viewer.close()
        journey.wait(0.5)
        app.quit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs/images"))
    parser.add_argument("--small", action="store_true", help="a corner of each field")
    parser.add_argument(
        "--where", action="store_true", help="what was at work in the longest stall"
    )
    arguments = parser.parse_args()
    main(arguments.folder, SMALL if arguments.small else FIELD, where=arguments.where)
