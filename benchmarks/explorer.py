"""How long the explorer takes to show another concept, in a real window.

``scripts/with-display .venv/bin/python benchmarks/explorer.py`` opens napari with images of
2,048 x 2,048 pixels, lays a finished run of made-up codes over one of them, and switches from one
concept to the next, as the arrow keys do. Times are from the switch until the window is drawn:
of the activation of every cell alone, of the heatmap alone, and of both. "bound" is what no way of
showing another picture can go below: a plain image layer in the same window gets a new array of the
same size. Others may be using the machine, so the smallest and the median time of several switches
are printed, the time of the processor (of all threads), and the load.

Then a million cells of 200 fields with 100 of 8,192 concepts each are written to a folder and
opened from there (``--folder`` keeps it for the next time), and the table is sorted, searched and
scrolled by the page, concepts are switched on two open fields of 5,000 cells, and tabs are drawn.
Memory is what is no page of a file.

At last the way of a newcomer is gone (``scripts/journey.py``), in a process of its own, for what is
imported here would not be waited for there: the longest time of each stage for which the window did
not answer, beside that of an image that napari opens alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import napari
import numpy as np
from made_up import (
    CELLS_OF_FIELD,
    PATCH,
    TABLE_CONCEPTS,
    TABLE_FIELDS,
    TABLE_WIDTH,
    cells_of_field,
    dictionary_of,
    random_codes,
)
from memory import Memory
from qtpy.QtWidgets import QApplication
from scipy import sparse

from napari_microdl.concepts.activations import ConceptActivations, unit_table
from napari_microdl.concepts.store import MANIFEST, ActivationWriter, open_activations
from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.field import Field
from napari_microdl.gui.explorer.dock import ConceptExplorer
from napari_microdl.gui.session.layers import Source
from napari_microdl.pipeline.run import PipelineResult
from napari_microdl.tokens import TokenGrid
from napari_microdl.tokens.units import Units

SIZE, WIDTH, CONCEPTS, ACTIVE = 2048, 192, 1024, 20
# The session remembers how long a run took the model.
REPORT = {"intensity": [], "seconds": {"tokens": 0.0}}


@dataclass(frozen=True)
class Took:
    """Seconds on the clock, and of the processor (all threads)."""

    wall: float
    cpu: float


class Clock:
    """Takes the time from its making on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Took:
        """What has passed."""
        return Took(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def say(what: str, took: Took | list[Took], memory: float | None = None) -> None:
    """Print one line."""
    if isinstance(took, Took):
        text = f"{took.wall:8.2f} s, CPU {took.cpu:.2f} s"
    else:
        wall, cpu = (np.array([getattr(t, n) for t in took]) * 1e3 for n in ("wall", "cpu"))
        text = (
            f"{wall.min():8.1f} ms at least, median {np.median(wall):8.1f} ms, "
            f"CPU {np.median(cpu):8.1f} ms"
        )
    end = "" if memory is None else f", at most {memory:,.0f} MB"
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{what:44s} {text}{end}   {load}", flush=True)


def made_up_run(
    viewer: Any, n_cells: int, n_fields: int, activations: ConceptActivations | None = None
) -> tuple[PipelineResult, list[Field], list[Source]]:
    """A finished run of `n_cells` square cells on every field; nothing in it means anything."""
    random = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(n_cells)))
    cut = np.arange(SIZE) * side // SIZE
    labels = (cut[:, None] * side + cut + 1).astype(np.int32)
    labels[labels > n_cells] = 0
    ids, first = np.unique(labels, return_index=True)
    ids, first = ids[ids > 0], first[ids > 0]
    y, x = np.unravel_index(first, labels.shape)
    edge = SIZE // side
    units = Units(
        ids=ids.astype(np.int64),
        y=(y + edge / 2).astype(np.float32),
        x=(x + edge / 2).astype(np.float32),
        area=np.full(len(ids), edge**2, np.float32),
        boxes=np.stack([y, x, y + edge, x + edge], axis=1).astype(np.int32),
        weights=sparse.csr_array((len(ids), (SIZE // PATCH) ** 2), dtype=np.float32),
    )
    fields, sources, grids = [], [], []
    for number in range(n_fields):
        image = random.integers(0, 4000, (SIZE, SIZE)).astype(np.uint16)
        field = Field(
            data=image[None],
            channel_names=("a",),
            name=f"field {number}",
            condition="control" if number == 0 else "treated",
            is_control=number == 0,
            well=f"W{number}",
        )
        layer = viewer.add_image(image, name=field.name, visible=number == 0)
        fields.append(field)
        sources.append(Source(weakref.ref(layer), (), field.name, has_own_labels=True))
        width = WIDTH if activations is None else activations.vectors.shape[1]
        tokens = random.normal(size=(SIZE // PATCH, SIZE // PATCH, width)).astype(np.float32)
        grids.append(TokenGrid(tokens, np.zeros(tokens.shape[:2], np.int32), PATCH, image.shape))
    if activations is not None:
        # Of the other fields, the open ones stand in.
        for number in range(n_fields, TABLE_FIELDS):
            fields.append(fields[number % n_fields])
            sources.append(sources[number % n_fields])
            grids.append(grids[number % n_fields])
        activations.grids, activations.geometry = grids, [units] * TABLE_FIELDS
        config = PipelineConfig.of(unit="cell")
        labels_of = [labels] * TABLE_FIELDS
        result = PipelineResult(config, activations, labels_of, REPORT)
        return result, fields, sources
    dictionary = dictionary_of(random, CONCEPTS, WIDTH)
    n = len(ids) * n_fields
    activations = ConceptActivations(
        unit_table(fields, [units] * n_fields),
        random_codes(random, n, CONCEPTS, ACTIVE),
        random.normal(size=(n, WIDTH)).astype(np.float32),
        dictionary,
        grids,
        [units] * n_fields,
    )
    config = PipelineConfig.of(unit="cell")
    return PipelineResult(config, activations, [labels] * n_fields, REPORT), fields, sources


def seconds_of(switch: Callable[[int], Any], repeats: int) -> list[Took]:
    """Times from a switch until what it asks for is drawn; the first is not counted."""
    took = []
    for number in range(repeats + 1):
        clock = Clock()
        switch(number)
        QApplication.processEvents()
        took.append(clock.read())
        # Longer than the explorer waits before it draws the tab in view.
        settle(0.8)
    return took[1:]


def settle(seconds: float) -> None:
    """Let timers run and drawings end."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        QApplication.processEvents()
        time.sleep(0.005)


def switching(n_cells: int, repeats: int) -> None:
    """Print the times of one size."""
    viewer = napari.Viewer()
    viewer.window.resize(1366, 768)
    result, fields, sources = made_up_run(viewer, n_cells, n_fields=2)
    _, explorer = viewer.window.add_plugin_dock_widget("napari-microdl", "Concept explorer")
    assert isinstance(explorer, ConceptExplorer)
    session = explorer.session
    session.finish(result, fields, sources)
    viewer.reset_view()
    order = result.activations.ranking.index
    settle(1.0)

    def show(number: int) -> None:
        session.view.show_concept(int(order[number % len(order)]))

    times = {}
    for name, kinds in (
        ("activation", ["activation"]),
        ("heatmap", ["heatmap"]),
        ("both", ["activation", "heatmap"]),
    ):
        session.view.show(kinds=kinds, all_fields=False)
        settle(0.5)
        times[name] = seconds_of(show, repeats)
    session.view.show(kinds=[])
    planes = np.random.default_rng(0).random((2, SIZE, SIZE)).astype(np.float32)
    plain = viewer.add_image(planes[0])

    def put(number: int) -> None:
        plain.data = planes[number % 2]

    times["bound"] = seconds_of(put, repeats)
    for name, value in times.items():
        say(f"{n_cells:9,d} cells  {name}", value)
    viewer.close()
    settle(0.3)


def write_folder(folder: Path) -> None:
    """Write made-up activations of a million cells."""
    random = np.random.default_rng(0)
    dictionary = dictionary_of(random, TABLE_CONCEPTS, TABLE_WIDTH)
    wall = cpu = 0.0
    with Memory() as memory, ActivationWriter(folder, dictionary) as writer:
        for number in range(TABLE_FIELDS):
            cells = cells_of_field(random, number)
            clock = Clock()
            writer.add(*cells)
            took = clock.read()
            wall, cpu = wall + took.wall, cpu + took.cpu
        say("cells written", Took(wall, cpu), memory.peak)
        clock = Clock()
        memory.peak = 0.0
        writer.finish()
        say("turned round and ranked", clock.read(), memory.peak)
    size = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{'':44s} {size / 1e9:8.2f} GB on disk", flush=True)


def on_disk(folder: Path, repeats: int) -> None:
    """Print how a table of a million cells that lies on disk behaves in the window."""
    if not (folder / MANIFEST).exists():
        write_folder(folder)
    viewer = napari.Viewer()
    viewer.window.resize(1366, 768)
    with Memory() as memory:
        clock = Clock()
        activations = open_activations(folder)
        say("opened and checked", clock.read(), memory.peak)
        result, fields, sources = made_up_run(viewer, CELLS_OF_FIELD, 2, activations)
        _, explorer = viewer.window.add_plugin_dock_widget("napari-microdl", "Concept explorer")
        assert isinstance(explorer, ConceptExplorer)
        explorer.tabs.setCurrentWidget(explorer.tags)
        session, table = explorer.session, explorer.table
        session.view.kinds = frozenset()
        clock = Clock()
        session.finish(result, fields, sources)
        QApplication.processEvents()
        say(f"table of {TABLE_CONCEPTS:,d} filled", clock.read())
        viewer.reset_view()
        settle(1.0)
        bar = table.verticalScrollBar()
        header = table.horizontalHeader()

        def page(number: int) -> None:
            bar.setValue((number + 1) * bar.pageStep())
            table.viewport().repaint()

        def step(number: int) -> None:
            bar.setValue(bar.value() + 3)
            table.viewport().repaint()

        def sort(number: int) -> None:
            table.sortByColumn(2 + number % 2, header.sortIndicatorOrder())

        def search(number: int) -> None:
            explorer.filter.setText(f"concept {number}")

        say("scrolled by a page", seconds_of(page, repeats))
        say("scrolled by three rows", seconds_of(step, repeats))
        say("sorted", seconds_of(sort, repeats))
        say("searched", seconds_of(search, repeats))
        explorer.filter.clear()

        def show(number: int) -> None:
            session.view.show_concept(int(activations.ranking.index[number]))

        for kinds in (["activation"], ["activation", "heatmap"]):
            session.view.show(kinds=kinds, all_fields=False)
            settle(0.5)
            say(f"another concept: {' and '.join(kinds)}", seconds_of(show, repeats))
        run = session.run.current
        assert run is not None
        for name, panel in (("plots", explorer.plots), ("gallery", explorer.gallery)):
            explorer.tabs.setCurrentWidget(panel)
            settle(0.5)

            def draw(number: int, panel: Any = panel) -> None:
                panel.show_concept(run, int(activations.ranking.index[number + 50]))

            say(f"tab {name} of another concept", seconds_of(draw, 5))

        def click(number: int) -> None:
            explorer.selection.select([number * 1000])

        explorer.tabs.setCurrentWidget(explorer.cell)
        say("a cell looked at", seconds_of(click, 5))
        clock = Clock()
        explorer.tabs.setCurrentWidget(explorer.compare)
        while not explorer.compare.plot.has_contents():
            settle(0.05)
        say("two conditions compared, in the background", clock.read())
    print(f"{'':44s} {memory.peak:8,.0f} MB at most, pages of files left out", flush=True)
    viewer.close()
    settle(0.3)


def journey() -> None:
    """Print how long the window does not answer on the way of a newcomer."""
    script = Path(__file__).parents[1] / "scripts" / "journey.py"
    with tempfile.TemporaryDirectory() as pictures:
        subprocess.run([sys.executable, script, pictures], check=True)


def main() -> None:
    """Run all, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="*", default=[5_000, 100_000])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--no-table", action="store_true")
    parser.add_argument("--no-journey", action="store_true")
    parser.add_argument("--folder", type=Path, help="of the large table; made where missing")
    arguments = parser.parse_args()
    app = QApplication.instance() or QApplication([])
    for n_cells in arguments.cells:
        switching(n_cells, arguments.repeats)
    if arguments.folder is not None:
        on_disk(arguments.folder, arguments.repeats)
    elif not arguments.no_table:
        with tempfile.TemporaryDirectory() as folder:
            on_disk(Path(folder) / "activations", arguments.repeats)
    if not arguments.no_journey:
        journey()
    app.quit()


if __name__ == "__main__":
    main()
