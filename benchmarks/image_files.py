"""What image files cost that are read when they are needed: our way, zarr's, and dask's over it.

``python benchmarks/image_files.py`` writes a field of ``--channels`` files of ``--size`` pixels an
edge (uint16), in strips and in tiles of 512 pixels, plain and compressed (zlib), and reads it:

ours
    `napari_microdl.fields.tables.read_fields`, which reads a whole file when a part of it is asked
    for, and keeps the last one.
zarr
    ``tifffile.imread(path, aszarr=True)`` of every file, which reads the strips or tiles that are
    asked for. What puts the channels together is left out, so of a field of several files this is
    no way by itself.
dask
    The same as dask arrays, stacked to a field: what would take the place of ours. It is written
    out below (`lazily`), so that its lines can be counted.

"window" is 512 x 512 pixels in the middle of a channel, the first one and, in the median, others.
"whole" reads a field at once. "a run" reads it as a run does: every channel in strips, to measure
its intensities, then strips of all channels, to embed them; "files open" are those that this leaves
open as long as the field is there. Each row is the least of ``--repeats`` processes, because others
may be using the machine; memory is what is no page of a file, above what the process holds before.
Files are in the memory of the system.

Below stand the lines of either way, and what dask and zarr add: seconds to import them, and
megabytes installed. Needs pip install dask zarr imagecodecs.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import inspect
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from memory import Memory
from recovery import in_own_process, print_columns
from store import held, seconds_of, with_ratio

from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields import tables
from napari_microdl.fields.field import Field

WAYS = ("ours", "zarr", "dask")
KINDS: dict[str, dict[str, Any]] = {
    "strips, plain": {},
    "strips, zlib": {"compression": "zlib"},
    "tiles, plain": {"tile": (512, 512)},
    "tiles, zlib": {"tile": (512, 512), "compression": "zlib"},
}
WINDOW, WINDOWS = 512, 10
TABLE = "fields.csv"
# With what they need themselves and the package does not.
ADDED = {
    "dask": ("dask", "cloudpickle", "fsspec", "partd", "locket", "toolz", "click"),
    "zarr": ("zarr", "numcodecs", "donfig", "google-crc32c"),
}


def write_field(folder: Path, n_channels: int, size: int, kind: str) -> None:
    """Write a file a channel, and the table that names them."""
    random = np.random.default_rng(0)
    row = {"Metadata_Field": "f"}
    for channel in range(n_channels):
        image = random.poisson(200, (size, size)).astype(np.uint16)
        tifffile.imwrite(folder / f"c{channel}.tif", image, **KINDS[kind])
        row[f"FileName_c{channel}"] = f"c{channel}.tif"
    pd.DataFrame([row]).to_csv(folder / TABLE, index=False)


def zarr_of(path: Path) -> Any:
    """A file as a zarr array, which reads what is asked for."""
    import zarr

    return zarr.open_array(tifffile.imread(path, aszarr=True, series=0, level=0), mode="r")


def lazily(parts: list[tuple[Path, int | None]]) -> Any:
    """What would take the place of `_Files`: channels of a field in files, as a dask array."""
    import dask.array

    planes = []
    for path, index in parts:
        if tables._is_tiff(path):
            image = dask.array.from_zarr(zarr_of(path))
        else:
            whole = tables._read(path)
            image = dask.array.from_array(whole, chunks=whole.shape)
        if image.ndim not in (2, 3):
            raise MicrodlError(
                f"'{path.name}' has the shape {image.shape}; give images with the axes (y, x) or "
                "(channel, y, x)."
            )
        if tables._is_colour(image.shape):
            image = dask.array.moveaxis(image, 2, 0)
        planes.append(image if image.ndim == 2 else image[index or 0])
    sizes = {plane.shape for plane in planes}
    if len(sizes) > 1:
        raise MicrodlError(f"The channels of a field are of different sizes: {sizes}.")
    return dask.array.stack(planes)


def opened(way: str, folder: Path, n_channels: int) -> Any:
    """Something to be read like a field."""
    if way == "ours":
        return tables.read_fields(folder / TABLE)[0]
    parts: list[tuple[Path, int | None]] = [(folder / f"c{c}.tif", None) for c in range(n_channels)]
    if way == "dask":
        names = tuple(f"c{c}" for c in range(n_channels))
        return Field(data=lazily(parts), channel_names=names, name="f")
    return [zarr_of(path) for path, _ in parts]


def plane_part(source: Any, channel: int, rows: slice, columns: slice) -> Any:
    """Part of a channel, as an array in memory."""
    if isinstance(source, Field):
        return np.asarray(source.data[channel, rows, columns])
    return source[channel][rows, columns]


def as_a_run(field: Field) -> None:
    """Read a field as a run does (`fields.intensity` and `tokens.tiles`)."""
    height = field.shape[0]
    n = field.strip_rows()
    for channel in range(field.n_channels):
        for start in range(0, height, n):
            field.read_rows(start, min(start + n, height), (channel,))
    n = field.strip_rows(field.n_channels)
    for start in range(0, height, n):
        field.read_rows(start, min(start + n, height))


def work(task: dict[str, Any]) -> dict[str, Any]:
    """Read in one way, in this process."""
    way, folder, n_channels = task["way"], Path(task["folder"]), task["channels"]
    if way != "ours":
        import zarr

        zarr.config.set({"threading.max_workers": task["threads"]})
    if way == "dask":
        import dask.array

        dask.config.set(num_workers=task["threads"])
    # What imports what at its first use.
    if task["warm"]:
        plane_part(opened(way, Path(task["warm"]), 1), 0, slice(2), slice(2))
    found: dict[str, Any] = {}
    found["open"], source = seconds_of(lambda: opened(way, folder, n_channels))
    size = task["size"]
    at = size // 2 + np.random.default_rng(1).integers(-size // 4, size // 4, (WINDOWS + 1, 2))
    took = []
    for y, x in np.maximum(at, 0):
        rows, columns = slice(y, y + WINDOW), slice(x, x + WINDOW)
        seconds, part = seconds_of(lambda r=rows, c=columns: plane_part(source, 0, r, c))
        took.append(seconds)
    found["sum"] = int(part.sum(dtype=int))
    found["first"], found["next"] = took[0], float(np.median(took[1:]))
    # Anew, so that nothing is held.
    source = opened(way, folder, n_channels)
    before = held()
    with Memory() as memory:
        if isinstance(source, Field):
            found["run"], _ = seconds_of(lambda: as_a_run(source))
            found["memory"] = memory.peak - before
            gc.collect()
            found["handles"] = _open_files(folder)
    source = opened(way, folder, n_channels)
    if isinstance(source, Field):
        found["whole"], _ = seconds_of(source.read)
    else:
        found["whole"], _ = seconds_of(lambda: np.stack([plane[...] for plane in source]))
    return found


def _open_files(folder: Path) -> int:
    """Files of a folder that this process holds open; Linux."""
    fds = Path("/proc/self/fd")
    if not fds.exists():
        return 0
    inside = str(folder.resolve())
    return sum(os.path.realpath(fd).startswith(inside) for fd in fds.iterdir())


def least(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The least of every figure, but for memory, which is not always given back in between."""
    return {name: (max if name == "memory" else min)(run[name] for run in runs) for name in runs[0]}


def lines(*things: Any) -> int:
    """Lines of code, blank ones left out."""
    return sum(bool(line.strip()) for thing in things for line in inspect.getsourcelines(thing)[0])


def say_what_is_added() -> None:
    """Print lines of both ways, and what the packages cost."""
    ours = lines(tables._Files, tables._Plane, tables._shape, tables._channels_first)
    print(f"lines: ours {ours}, dask {lines(lazily, zarr_of)}")
    for module, packages in ADDED.items():
        command = "import sys, time, numpy; t = time.perf_counter(); "
        command += f"import {module}{'.array' * (module == 'dask')}; print(time.perf_counter() - t)"
        run = [sys.executable, "-c", command]
        took = [float(subprocess.run(run, capture_output=True).stdout) for _ in range(3)]
        size = 0
        for package in packages:
            files = importlib.metadata.files(package) or []
            size += sum(Path(f.locate()).stat().st_size for f in files if Path(f.locate()).exists())
        print(
            f"{module}: imported in {np.median(took):.2f} s, {size / 1e6:.0f} MB installed "
            f"({', '.join(packages)})"
        )


def main() -> None:
    """Run all, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2160, help="pixels an edge")
    parser.add_argument("--channels", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(json.loads(arguments.worker))))
        return
    titles = ["", "open s", "window s", "next, ms", "whole s", "a run s", "MiB", "files open"]
    rows = []
    with tempfile.TemporaryDirectory() as small:
        write_field(Path(small), 1, 600, "strips, plain")
        for n_channels in arguments.channels:
            for kind in KINDS:
                with tempfile.TemporaryDirectory() as folder:
                    write_field(Path(folder), n_channels, arguments.size, kind)
                    task = {
                        "folder": folder,
                        "warm": small,
                        "channels": n_channels,
                        "size": arguments.size,
                        "threads": arguments.threads,
                    }
                    one = {
                        way: least(
                            [
                                in_own_process(__file__, {**task, "way": way}, None)
                                for _ in range(arguments.repeats)
                            ]
                        )
                        for way in WAYS
                    }
                ours = one["ours"]
                for way, found in one.items():
                    assert found["sum"] == ours["sum"], f"{way} reads other pixels"
                    rows.append(
                        [
                            f"{n_channels} x {kind}: {way}",
                            f"{found['open']:.3f}",
                            with_ratio(found["first"], ours["first"], ".3f"),
                            f"{found['next'] * 1e3:.2f}",
                            with_ratio(found["whole"], ours["whole"], ".2f"),
                            with_ratio(found.get("run"), ours["run"], ".2f"),
                            f"{found['memory']:,.0f}" if "memory" in found else "-",
                            str(found.get("handles", "-")),
                        ]
                    )
                load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
                print(f"{n_channels} x {kind} done   {load}", flush=True)
    print(f"\nfields of {arguments.size:,d} x {arguments.size:,d} pixels, uint16")
    print_columns(titles, rows)
    say_what_is_added()


if __name__ == "__main__":
    main()
