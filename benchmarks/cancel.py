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
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from napari_microdl import run_pipeline
from napari_microdl.concepts.export import write_anndata, write_table
from napari_microdl.concepts.projection import pca_map, umap_is_installed, umap_map
from napari_microdl.concepts.store import open_activations, save_activations
from napari_microdl.core.arrays import eigh
from napari_microdl.core.config import PipelineConfig, SegmentationConfig
from napari_microdl.core.task import Cancelled, Progress, Task
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.segmentation import measure_levels
from napari_microdl.pipeline.layer_choice import layer_scores
from napari_microdl.tokens import TokenCache

SIZE = 2048
DIAMETER = 20.0
WIDE = 1920

Result = TypeVar("Result")


class Watch(Task):
    """Never cancelled; notes the longest time between two chances to be, for every part of work."""

    def __init__(self) -> None:
        super().__init__(self._hear)
        self.parts: dict[str, list[tuple[float, float]]] = {}
        self._given: str | None = None
        self._part = "begin"
        self._since = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def check(self) -> None:
        """A chance to be cancelled."""
        now = self._now()
        gap = now[0] - self._since[0], now[1] - self._since[1]
        self.parts.setdefault(self._part, []).append(gap)
        self._since = self._now()

    def _hear(self, progress: Progress) -> None:
        if self._given is None:
            self._part = f"{progress.stage}: {_without_names(progress.message)}"

    def follow(self, work: Callable[[], Result], part: str | None = None) -> Result:
        """Do some work; that of a run is counted stage by stage."""
        self._given, self._part = part, part or "begin"
        self._since = self._now()
        with self.active():
            result = work()
        self.check()
        return result

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


class Ended(Task):
    """Cancelled after so many seconds, at the next chance."""

    def __init__(self, after: float) -> None:
        super().__init__()
        self.cancelled_at = time.perf_counter() + after

    def check(self) -> None:
        """Give up once the time has come."""
        if time.perf_counter() >= self.cancelled_at:
            self.cancelled_at = time.perf_counter()
            raise Cancelled


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


def ended(what: str, work: Callable[[], object], after: float) -> None:
    """Print how long it takes to stop some work after so many seconds."""
    task = Ended(after)
    try:
        with task.active():
            work()
    except Cancelled:
        took = time.perf_counter() - task.cancelled_at
        print(f"{what:48s} stopped after {after:g} s, ended {took:.3f} s later", flush=True)
    else:
        print(f"{what:48s} took less than {after:g} s", flush=True)


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
        result = watch.follow(lambda: run_pipeline([treated, control], config, cache=cache))
        watch.say()
        activations = result.activations
        print(f"{len(activations.units):,d} cells, {activations.n_concepts:,d} concepts")
        image = control.read()[0]
        watch.follow(lambda: measure_levels(image, config.cells), "preview: levels of the image")
        small = [dataclasses.replace(f, data=f.data[:, :512, :512]) for f in fields]
        watch.follow(lambda: layer_scores(small, config, arguments.layers, cache=cache))
        watch.say()
        first, second = sorted(activations.units["Metadata_condition"].unique())
        watch.follow(lambda: activations.compare(first, second), "comparison")
        watch.follow(lambda: pca_map(activations.codes), "map: PCA")
        table = watch.follow(activations.to_frame, "table of cells: collected")
        for suffix in (".csv", ".parquet"):
            path = folder / f"cells{suffix}"
            watch.follow(partial(write_table, table, path), f"table of cells: {suffix[1:]}")
        watch.follow(lambda: write_anndata(activations, folder / "cells.h5ad"), "AnnData")
        watch.follow(lambda: save_activations(activations, folder / "kept"), "folder: saved")
        watch.follow(lambda: open_activations(folder / "kept"), "folder: opened")
        watch.say()
        if umap_is_installed():
            for after in (0.3, 5.0):
                ended("map: UMAP", lambda: umap_map(activations.codes), after)
        wide = np.random.default_rng(0).normal(size=(WIDE, WIDE))
        wide = wide @ wide.T
        ended(f"eigenvectors of {WIDE} dimensions", lambda: eigh(wide), 0.3)


if __name__ == "__main__":
    main()
