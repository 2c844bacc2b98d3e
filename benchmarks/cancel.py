"""How long Cancel has to wait, for every stage of a run and every job of the explorer.

``.venv/bin/python benchmarks/cancel.py`` runs everything once, on two fields of 2,048 x 2,048
pixels with about 5,000 cells each (the bundled sample at half its size, in mirrors), and prints for
each stage its steps, what it took, and the longest time in which it could not be stopped: between
two steps, or two questions whether to stop in the middle of one. A click on Cancel takes effect
for the person at once; that time is what the thread may go on for.

Others may be using the machine, so the time of the processor in that longest step (of all threads
of the process) is printed too, and the load. A UMAP and the decompositions of wide matrices run in
a process of their own; what is printed of them is how long it takes to end it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from napari_microdl.concepts.export import iter_write_anndata, iter_write_table
from napari_microdl.concepts.projection import iter_pca_map, iter_umap_map, umap_is_installed
from napari_microdl.concepts.store import iter_open_activations, iter_save_activations
from napari_microdl.core.arrays import eigh
from napari_microdl.core.child_process import iter_in_child
from napari_microdl.core.config import PipelineConfig, SegmentationConfig
from napari_microdl.core.task import stoppable
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.segmentation import iter_measure_levels
from napari_microdl.pipeline.layer_choice import iter_layer_scores
from napari_microdl.pipeline.run import iter_pipeline
from napari_microdl.tokens import TokenCache

SIZE = 2048
DIAMETER = 20.0
WIDE = 1920


class Questions(threading.Event):
    """Never asks anybody to stop, and notes when somebody looked."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def is_set(self) -> bool:
        """Note the time."""
        self._watch.look()
        return False


class Watch:
    """Longest time between two chances to stop, for every part of some work."""

    def __init__(self) -> None:
        self.parts: dict[str, list[tuple[float, float]]] = {}
        self._part = "begin"
        self._since = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def look(self) -> None:
        """A chance to stop."""
        now = self._now()
        gap = now[0] - self._since[0], now[1] - self._since[1]
        self.parts.setdefault(self._part, []).append(gap)
        self._since = self._now()

    def follow(self, steps: Generator[Any, None, Any], part: str | None = None) -> Any:
        """Take all steps; those of a run are counted stage by stage."""
        self._part = part or "begin"
        self._since = self._now()
        with stoppable(Questions(self)):
            while True:
                try:
                    step = next(steps)
                except StopIteration as finished:
                    self.look()
                    return finished.value
                self.look()
                self._part = part or f"{step.stage}: {_without_names(step.message)}"

    def say(self) -> None:
        """Print one line a part, and begin anew."""
        load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        for part, gaps in self.parts.items():
            wall, cpu = max(gaps)
            print(
                f"{part:48s} {len(gaps):6d} steps {sum(g[0] for g in gaps):8.2f} s, "
                f"longest {wall:5.2f} s, CPU {cpu:5.2f} s   {load}",
                flush=True,
            )
        self.parts = {}


def _without_names(message: str) -> str:
    """The beginning of a message that is the same for all fields and figures."""
    for end in (" in ", " of ", ": R2", " on ", " tiles", "cells"):
        message = message.split(end)[0]
    return "".join(c for c in message if not c.isdigit()).strip() or "tiles"


def enlarged(field: Field) -> Field:
    """The field at half its size, in mirrors up to 2,048 x 2,048 pixels."""
    image = field.read()[:, ::2, ::2]
    for axis in (1, 2):
        image = np.concatenate([image, np.flip(image, axis)], axis=axis)
    times = -(-SIZE // image.shape[1])
    image = np.tile(image, (1, times, times))[:, :SIZE, :SIZE]
    return dataclasses.replace(field, data=np.ascontiguousarray(image))


def ended(what: str, steps: Generator[Any, None, Any], after: float) -> None:
    """Print how long it takes to stop some work after so many seconds."""
    end = time.perf_counter() + after
    while time.perf_counter() < end:
        next(steps)
    start = time.perf_counter()
    steps.close()
    took = time.perf_counter() - start
    print(f"{what:48s} stopped after {after:g} s, ended {took:.3f} s later", flush=True)


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="*", default=[4, 8], help="to be compared")
    arguments = parser.parse_args()
    sample = transfluor()
    fields = [enlarged(field) for field in sample if field.well in ("O05", "O07", "O11", "O12")]
    treated, control = (next(f for f in fields if f.is_control is kind) for kind in (False, True))
    config = PipelineConfig.of(segmentation=SegmentationConfig(diameter=DIAMETER))
    watch = Watch()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = TokenCache(folder / "tokens")
        result = watch.follow(iter_pipeline([treated, control], config, cache=cache))
        watch.say()
        activations = result.activations
        print(f"{len(activations.units):,d} cells, {activations.n_concepts:,d} concepts")
        steps = iter_measure_levels(control.read()[0], config.cells)
        watch.follow(steps, "preview: levels of the image")
        small = [dataclasses.replace(f, data=f.data[:, :512, :512]) for f in fields]
        scores = iter_layer_scores(small, config, arguments.layers, cache=cache)
        watch.follow(scores)
        watch.say()
        first, second = sorted(activations.units["Metadata_condition"].unique())
        watch.follow(activations.iter_compare(first, second), "comparison")
        watch.follow(iter_pca_map(activations.codes), "map: PCA")
        table = watch.follow(activations.iter_frame(), "table of cells: collected")
        for suffix in (".csv", ".parquet"):
            path = folder / f"cells{suffix}"
            watch.follow(iter_write_table(table, path), f"table of cells: {suffix[1:]}")
        watch.follow(iter_write_anndata(activations, folder / "cells.h5ad"), "AnnData")
        watch.follow(iter_save_activations(activations, folder / "kept"), "folder: saved")
        watch.follow(iter_open_activations(folder / "kept"), "folder: opened")
        watch.say()
        if umap_is_installed():
            for after in (0.3, 5.0):
                ended("map: UMAP", iter_umap_map(activations.codes), after)
        wide = np.random.default_rng(0).normal(size=(WIDE, WIDE))
        ended(f"eigenvectors of {WIDE} dimensions", iter_in_child(eigh, wide @ wide.T), 0.3)


if __name__ == "__main__":
    main()
