"""What sharing a plate out among workers costs, and from that what large screens take on paper.

``python benchmarks/plate.py --write docs/plates.md`` makes plates of the sample in the package: a
field is one of its eight, rolled by a known number of pixels (37 down and 61 to the right a field
further), cut to ``--edge``. It reads their vectors in this process (0 workers) and on 1, 2, 4, ...
workers, up to the number of cores, each with one thread; and it runs plates of all ``--fields`` to
their end on the most workers, for the memory. Every measurement has a process of its own. With
``--write`` the tables take the place of those between the marks in the page.

start
    From the beginning of the process until all workers have the model.
efficiency
    Time of the plain process, by workers times their time. Cores that others use count against it.
overhead
    Workers times the time on the clock, a field, less that of the plain process.
processor
    Processor time of the driver a field; without workers that of all the work.
memory
    Most that the driver, and any of the workers, held (VmHWM of Linux), over the whole run.
gathering
    Most that the driver, and the worker, held beyond what they began with while a worker put the
    codes of made-up fields together, of `CELLS` cells each (RssAnon: pages of files left out).

`on_paper` calculates from the rates of one run: what is measured is taken from it, what is assumed
stands in `ASSUMED`, and the page says which is which.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

# Nothing that takes long to import stands here, so that the start is what it is for a person.
from napari_microdl.pipeline.plate.forkserver import start_forkserver

STARTED = time.perf_counter()
BEGIN, END = "<!-- plate: begin -->", "<!-- plate: end -->"
SHIFT = (37, 61)
Row = dict[str, Any]
# What no run on this machine can tell.
ASSUMED = {
    "cells of a field of 2,048 x 2,048 pixels": 300,
    "cores of a node": 32,
    "operations a second that a small vision transformer reaches on an H200-class GPU": 5e13,
    "cores beside the GPU that find cells and pool tokens": 16,
    "bytes a second of the network from the images": 1e9,
}
# Made-up fields for the gathering: cells of each, active concepts of each, and dimensions.
CELLS, ACTIVE, DIMENSIONS = 250, 8, 32
# Fields whose tokens are read once more, to know what the model takes of the time.
_TIMED = 8
# Fields, channels and edge of the screens on paper.
SCREENS = {
    "10 plates of 3,456 fields x 5 channels x 2,048 x 2,048": (34_560, 5, 2_048),
    "1,000,000 wells of 9 such fields": (9_000_000, 5, 2_048),
}


def write_fields(folder: Path, n: int, edge: int) -> Path:
    """A table of so many fields, on plates of 96."""
    import numpy as np
    import pandas as pd
    import tifffile

    from napari_microdl.fields.samples import transfluor

    sample, rows = transfluor(), []
    for number in range(n):
        field = sample[number % len(sample)]
        shift = [step * (number // len(sample)) for step in SHIFT]
        name = f"{number:05d}.tif"
        tifffile.imwrite(folder / name, np.roll(field.read()[0], shift, (0, 1))[:edge, :edge])
        place = number % 96
        known = field.to_metadata() | {
            "Metadata_Field": name,
            "Metadata_Plate": f"P{number // 96 + 1}",
            "Metadata_Well": f"{'ABCDEFGH'[place // 12]}{place % 12 + 1:02d}",
        }
        rows.append({**known, "FileName_GFP": name})
    pd.DataFrame(rows).to_csv(folder / "fields.csv", index=False)
    return folder / "fields.csv"


def config() -> Any:
    """Defaults, but for what does not grow with the number of fields: the fit is short."""
    from napari_microdl.core.config import PipelineConfig

    return PipelineConfig.of(
        remove_position=False, cache=False, n_atoms=64, max_steps=50, n_starts=1, device="cpu"
    )


def measure(task: Row) -> Row:
    """One plate on so many workers, in this process."""
    if task["workers"]:
        start_forkserver()
    from memory import status_bytes

    from napari_microdl.core.task import Progress, Task
    from napari_microdl.pipeline.plate.engine import Place
    from napari_microdl.pipeline.plate.listing import list_fields
    from napari_microdl.pipeline.plate.run import PlateOptions, engine_at, run_plate
    from napari_microdl.pipeline.plate.work import Job, _tokens, prepare

    folder = Path(task["folder"])
    out = folder / f"run{task['workers']}{'whole' if task['whole'] else ''}"
    workers = task["workers"] or None
    with engine_at(Place(workers=workers)) as engine:
        job = Job(out, config(), ("GFP",), "start")
        place = Place()
        if workers:
            engine._client.wait_for_workers(workers)
            engine._prepare(job)
            place = Place(scheduler=engine.address)
        else:
            prepare(job)
        start = time.perf_counter() - STARTED
        listing, options = list_fields(folder / "fields.csv"), PlateOptions(until="vectors")
        looks: list[tuple[float, float]] = []

        def look(progress: Progress) -> None:
            # The pass over the fields alone: 0 of them are done, then one after the other.
            if progress.message.startswith("Reading tokens") and progress.total == task["n"]:
                looks.append((time.perf_counter(), time.process_time()))

        with Task(look).active():
            summary = run_plate(listing, out, config(), place=place, options=options)
        seconds, driver = (end - begin for begin, end in zip(looks[0], looks[-1], strict=True))
        tokens = 0.0
        if not workers:
            fields = [item.open() for item in listing.fields[:_TIMED]]
            used = time.process_time()
            for field in fields:
                _tokens(job, field)
            tokens = (time.process_time() - used) / len(fields)
        if task["whole"]:
            run_plate(listing, out, config(), place=place)
        held = list(engine._client.run(_most_held).values()) if workers else []
    n = summary["n_fields"]
    written = sum(path.stat().st_size for path in out.glob("fields/vectors/*"))
    return {
        "n": n,
        "workers": task["workers"],
        "start": start,
        "seconds": seconds / n,
        "driver": driver / n,
        "tokens": tokens,
        "driver_memory": (status_bytes("VmHWM") or 0) / 2**20,
        "worker_memory": max(held, default=0.0),
        "units": summary["n_units"],
        "bytes_of_unit": written / summary["n_units"],
        "left_out": n - summary["n_done"] - len(summary["no_cells"]),
        "load": os.getloadavg()[0],
    }


def _most_held() -> float:
    """MiB that this worker held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure_gathering(task: Row) -> Row:
    """What driver and worker hold while the codes of so many fields are put together."""
    start_forkserver()
    import numpy as np
    import pandas as pd
    from memory import Memory, status_bytes

    from napari_microdl.concepts.dictionary import ConceptDictionary, DictionarySpec
    from napari_microdl.estimators.icfl import ICFL
    from napari_microdl.fields.field import FieldInfo
    from napari_microdl.models.registry import model_spec
    from napari_microdl.pipeline.inputs import tile_plan
    from napari_microdl.pipeline.plate.engine import Place
    from napari_microdl.pipeline.plate.profiles import Coded
    from napari_microdl.pipeline.plate.run import engine_at
    from napari_microdl.pipeline.plate.shards import write_shard
    from napari_microdl.pipeline.plate.work import Job

    out, n, settings = Path(task["folder"]) / "gathering", task["n"], config()
    random, k = np.random.default_rng(0), 64
    samples = random.standard_normal((500, DIMENSIONS)).astype(np.float32)
    icfl = ICFL(k, n_iterations=1, atoms_per_iteration=ACTIVE, max_steps=3).fit(samples)
    model = model_spec("builtin")
    plan = tile_plan(model, settings)
    spec = DictionarySpec.of(model, settings.tokens, settings.units, plan, ("GFP",))
    path = out / "dictionary.microdl.safetensors"
    out.mkdir()
    ConceptDictionary(spec, icfl, None, None).save(path)
    job = Job(out, settings, ("GFP",), "made up", dictionary=path, fingerprint="made up")
    place = np.arange(CELLS, dtype=np.float32)
    for number in range(n):
        indices = np.sort(random.permuted(np.tile(np.arange(k), (CELLS, 1)), axis=1)[:, :ACTIVE])
        tensors = {
            "label": np.arange(1, CELLS + 1),
            "y": place,
            "x": place,
            "area": place,
            "whitened": random.standard_normal((CELLS, DIMENSIONS), np.float32),
            "data": random.random(CELLS * ACTIVE, np.float32),
            "indices": indices.ravel().astype(np.int32),
            "indptr": np.arange(0, CELLS * ACTIVE + 1, ACTIVE, dtype=np.int32),
            "sums": random.random((3, k)),
        }
        write_shard(job.file("codes", number), tensors, "made up", {"n_units": CELLS})
    infos = [
        FieldInfo(
            f"field {number}",
            "control" if number % 4 == 0 else f"treatment {number % 4}",
            well=f"{'ABCDEFGH'[number // 12 % 8]}{number % 12 + 1:02d}",
            plate=f"P{number // 96}",
            is_control=number % 4 == 0,
        )
        for number in range(n)
    ]
    fields = [Coded(number, info, CELLS) for number, info in enumerate(infos)]
    known = pd.DataFrame([info.to_metadata() for info in infos])
    with engine_at(Place(workers=1)) as engine:
        engine._client.wait_for_workers(1)
        begun = sum(engine._client.run(_held).values())
        own = (status_bytes("RssAnon") or 0) / 2**20
        started = time.perf_counter()
        with Memory() as memory:
            engine.gather(_gather_watched, job, fields, known)
        seconds = time.perf_counter() - started
    worker = float((out / "peak").read_text()) - begun
    return {
        "n": n,
        "cells": n * CELLS,
        "seconds": seconds,
        "driver": memory.peak - own,
        "worker": worker,
        "bytes_of_cell": worker * 2**20 / (n * CELLS),
    }


def _held() -> float:
    from memory import status_bytes

    return (status_bytes("RssAnon") or 0) / 2**20


def _gather_watched(job: Any, fields: Any, known: Any) -> None:
    """Gather in a worker, and leave what it held at most."""
    from memory import Memory

    from napari_microdl.pipeline.plate.profiles import gather

    with Memory() as memory:
        gather(job, fields, known)
    (job.folder / "peak").write_text(str(memory.peak))


def tiles_of(n_channels: int, edge: int) -> tuple[int, float]:
    """Tiles of a field, and operations of the model on all its channels."""
    from napari_microdl.models.registry import model_spec
    from napari_microdl.pipeline.estimate import estimate_run, operations

    model = model_spec("builtin")
    n = estimate_run([(edge, edge)], n_channels, model, config(), lazy=True).n_tiles
    return n, operations(n, n_channels, model, config())


def on_paper(plain: Row, shared: Row, edge: int) -> list[tuple[str, list[str]]]:
    """What screens take, from the rates of a plain process and of workers.

    Parameters
    ----------
    plain, shared : dict
        Measured without workers, and on the most workers.
    edge : int
        Pixels a side of the fields that were measured.

    Returns
    -------
    list of (str, list of str)
        A row a question: a value for each of `SCREENS`.

    Notes
    -----
    One core takes the processor time of the plain process a tile and channel, finding cells and
    pooling with it, as both grow with the pixels; nodes have the measured efficiency. A
    GPU takes the model alone; the cores beside it the rest, which is the measured time less that of
    reading tokens.
    """
    cells, cores, gpu_rate, beside, network = ASSUMED.values()
    tiles, _ = tiles_of(1, edge)
    per_tile = plain["driver"] / tiles
    rest_per_tile = max(plain["driver"] - plain["tokens"], 0.0) / tiles
    efficiency = plain["seconds"] / (shared["workers"] * shared["seconds"])
    rows: dict[str, list[str]] = {}
    for n, channels, side in SCREENS.values():
        n_tiles, operations = tiles_of(channels, side)
        core_hours = n * n_tiles * channels * per_tile / 3600
        raw = n * channels * side**2 * 2
        # Cells are found in one channel.
        rest = n * n_tiles * rest_per_tile / beside
        gpu_hours = max(n * operations / gpu_rate, rest, raw / network) / 3600
        column = {
            "tiles of 128 x 128 pixels, all channels": f"{n * n_tiles * channels:.2g}",
            "hours of one core": f"{core_hours:,.0f}",
            f"hours of one node of {cores} cores": f"{core_hours / cores / efficiency:,.0f}",
            f"hours of 20 nodes of {cores} cores": f"{core_hours / cores / 20 / efficiency:,.1f}",
            f"hours of one H200-class GPU with {beside} cores": f"{gpu_hours:,.1f}",
            "of these, the model": f"{n * operations / gpu_rate / 3600:,.1f}",
            "hours of the driver's processor": f"{n * shared['driver'] / 3600:,.2f}",
            "images, 16 bits": _size(raw),
            "vectors of cells on disk": _size(n * cells * channels * plain["bytes_of_unit"]),
            "network, images read once in the hours of 20 nodes": _size(
                raw / max(core_hours / cores / 20 / efficiency * 3600, 1)
            )
            + "/s",
        }
        for name, value in column.items():
            rows.setdefault(name, []).append(value)
    return list(rows.items())


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} PB"


def tables(speed: list[Row], memory: list[Row], gathering: list[Row], edge: int) -> list[str]:
    """Lines of the page."""
    plain, shared = speed[0], speed[-1]
    load = max(row["load"] for row in speed + memory)
    lines = [
        f"Measured by `benchmarks/plate.py` with {os.cpu_count()} cores (load up to {load:.1f}, "
        f"its own included): {plain['n']} fields of {edge} x {edge} pixels, one channel, "
        f"{plain['units']:,} cells.",
        "",
        "| workers | start, s | s a field | efficiency | overhead a field, s "
        "| processor a field, ms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in speed:
        k = max(row["workers"], 1)
        lines.append(
            f"| {row['workers'] or 'none'} | {row['start']:.1f} | {row['seconds']:.3f} "
            f"| {plain['seconds'] / (k * row['seconds']):.0%} "
            f"| {k * row['seconds'] - plain['seconds']:.3f} | {1000 * row['driver']:.1f} |"
        )
    lines += ["", "| fields, run to the end | most memory of the driver, MiB | of a worker, MiB |"]
    lines += ["| --- | --- | --- |"]
    lines += [
        f"| {row['n']} | {row['driver_memory']:.0f} | {row['worker_memory']:.0f} |"
        for row in memory
    ]
    lines += [
        "",
        f"Codes of made-up fields of {CELLS} cells, put together by a worker:",
        "",
        "| fields | cells | s | driver holds more, MiB | the worker, MiB | bytes a cell |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['n']:,} | {row['cells']:,} | {row['seconds']:.0f} | {row['driver']:.0f} "
        f"| {row['worker']:.0f} | {row['bytes_of_cell']:.0f} |"
        for row in gathering
    ]
    lines += [
        "",
        "On paper, from these rates (the built-in model, the time a tile and channel as measured "
        "here). Assumed, and not measured: "
        + "; ".join(f"{name} {value:,g}" for name, value in ASSUMED.items())
        + ". Nothing of this was run.",
        "",
        f"| | {' | '.join(SCREENS)} |",
        "| --- |" + " --- |" * len(SCREENS),
    ]
    lines += [f"| {name} | {' | '.join(v)} |" for name, v in on_paper(plain, shared, edge)]
    return lines


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="What sharing a plate out costs.")
    parser.add_argument("--fields", type=int, nargs="+", default=[96, 384, 768])
    parser.add_argument("--gather", type=int, nargs="*", default=[1000, 4000], metavar="FIELDS")
    parser.add_argument("--edge", type=int, default=256)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        task = json.loads(options.worker)
        work = measure_gathering if task.get("gathering") else measure
        print(json.dumps(work(task)))
        return
    from recovery import in_own_process

    cores = len(os.sched_getaffinity(0))
    counts = [0, *(2**k for k in range(cores.bit_length()) if 2**k <= cores)]
    speed_at = sorted(options.fields)[len(options.fields) // 2]
    speed, memory, gathering = [], [], []
    for n in options.gather:
        with tempfile.TemporaryDirectory() as made:
            task = {"folder": made, "n": n, "gathering": True, "threads": 1}
            gathering.append(in_own_process(__file__, task, None))
            print(json.dumps(gathering[-1]), flush=True)
    for n in sorted(options.fields):
        folder = Path(tempfile.mkdtemp())
        try:
            write_fields(folder, n, options.edge)
            tasks = [(k, False) for k in counts if n == speed_at] + [(counts[-1], True)]
            for workers, whole in tasks:
                task = {
                    "folder": str(folder),
                    "workers": workers,
                    "whole": whole,
                    "n": n,
                    "threads": 1,
                }
                row = in_own_process(__file__, task, None)
                (memory if whole else speed).append(row)
                print(json.dumps(row), flush=True)
                assert not row["left_out"], row
        finally:
            shutil.rmtree(folder)
    lines = tables(speed, memory, gathering, options.edge)
    print("\n".join(lines))
    if options.write:
        before, rest = options.write.read_text(encoding="utf-8").split(BEGIN)
        _, after = rest.split(END)
        page = "\n".join((before + BEGIN, *lines, END + after))
        options.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
