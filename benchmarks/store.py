"""What a table of activations costs as our folder of arrays, and as AnnData on zarr or HDF5.

``python benchmarks/store.py --cells 1000000`` makes up a table of so many cells with 100 of 8,192
concepts each and 384 numbers of the whitened space, writes it in each of these ways, opens it, and
prints what that takes:

folder
    What `napari_microdl.concepts.store` writes, a field of 5,000 cells at a time.
zarr
    ``AnnData.write_zarr`` with all that it does by default: ``X`` the codes by cell (CSR), a layer
    with the codes by concept (CSC), ``obsm`` the vectors; opened with ``sparse_dataset``.
zarr, chunks
    The same in chunks of about one concept's cells (``--chunk`` values), joined to files (shards)
    of 64 chunks each.
zarr, plain
    These chunks, not compressed.
h5ad
    ``AnnData.write_h5ad``, opened with ``sparse_dataset``; ``read_h5ad(backed="r")`` would take the
    layer into memory.
lazy
    "zarr, chunks" once more, opened with ``anndata.experimental.read_lazy``. Needs ``xarray``.

Times are those of one process on so many threads (``--threads``), from a file that the system may
hold in memory. "one concept" is what the explorer reads when another concept is shown, as a vector
of all cells; "cosines" is the product of the vectors with one direction, which the gallery and the
plots of a concept need; "all concepts" is what comparing two conditions reads, 256 concepts at a
time; "places checked" reads every place that the codes point to, without which a damaged file ends
the process. Our folder is always checked when it is opened, and that is taken out of "open" here.
Memory is what is no page of a file, above what the process holds before.

AnnData is written from a whole table in memory, which "MiB to write" holds and "s to write" begins
with; our folder is written as the cells are made. Codes by cell could be appended to AnnData piece
by piece, as `napari_microdl.concepts.export` does; that is not measured here. Our folder holds the
dictionary besides. Needs pip install 'napari-microdl[export]' zarr xarray (README.md).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from made_up import (
    CELLS_OF_FIELD,
    TABLE_CONCEPTS,
    TABLE_WIDTH,
    cells_of_field,
    dictionary_of,
)
from memory import Memory, status_bytes
from numpy.typing import NDArray
from recovery import in_own_process, print_columns
from scipy import sparse

from napari_microdl.concepts import store

FOLDER, LAZY = "folder", "lazy"
LAYOUTS = (FOLDER, "zarr", "zarr, chunks", "zarr, plain", "h5ad", LAZY)
SHARD = 64
BY_CONCEPT, WHITENED = "by_concept", "whitened"
VALUES_AT_ONCE, ROWS_AT_ONCE, CONCEPTS_AT_ONCE = 2_000_000, 8_192, 256
LOOKED_AT = 20


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long some work takes, and what comes of it."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def held() -> float:
    """MiB of this process, pages of files left out."""
    return (status_bytes("RssAnon") or 0) / 2**20


def made_up_ranking() -> pd.DataFrame:
    """What stands for a ranking, which is not measured here."""
    random = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "name": [f"concept {i}" for i in range(TABLE_CONCEPTS)],
            "activation_rate": random.random(TABLE_CONCEPTS),
            "selectivity": random.random(TABLE_CONCEPTS),
            "label": "drug 04",
        },
        index=pd.Index(range(TABLE_CONCEPTS), name="concept"),
    )


# Writing ----------------------------------------------------------------------------------------


def write_folder(path: Path, n_fields: int) -> float:
    """Write our folder; seconds without those of making the cells up."""
    random = np.random.default_rng(0)
    dictionary = dictionary_of(random, TABLE_CONCEPTS, TABLE_WIDTH)
    took = 0.0
    with store.ActivationWriter(path, dictionary) as writer:
        for number in range(n_fields):
            cells = cells_of_field(random, number)
            took += seconds_of(lambda cells=cells: writer.add(*cells))[0]
        took += seconds_of(lambda: writer.finish(made_up_ranking()))[0]
    return took


def write_anndata(path: Path, n_fields: int, layout: str, chunk: int) -> float:
    """Write the same cells as AnnData; seconds from the table in memory on."""
    import anndata
    import zarr

    anndata.settings.zarr_write_format = 3
    # This version of it writes texts as objects alone.
    pd.set_option("future.infer_string", False)
    random = np.random.default_rng(0)
    dictionary_of(random, TABLE_CONCEPTS, TABLE_WIDTH)
    vectors = np.empty((n_fields * CELLS_OF_FIELD, TABLE_WIDTH), np.float32)
    units, codes = [], []
    for number in range(n_fields):
        some, code, vector = cells_of_field(random, number)
        vectors[number * CELLS_OF_FIELD :][:CELLS_OF_FIELD] = vector
        units.append(some)
        codes.append(code)
    obs = pd.concat(units, ignore_index=True)
    by_cell = sparse.csr_matrix(sparse.vstack(codes, format="csr"))
    del units, codes

    def write() -> None:
        obs.index = obs.index.astype(str)
        var = made_up_ranking()
        var.index = [f"concept_{i}" for i in var.index]
        by_concept = sparse.csc_matrix(by_cell)
        if layout in ("zarr", "h5ad"):
            table = anndata.AnnData(
                by_cell, obs, var, layers={BY_CONCEPT: by_concept}, obsm={WHITENED: vectors}
            )
            table.write_zarr(path) if layout == "zarr" else table.write_h5ad(path)
            return
        anndata.AnnData(obs=obs, var=var).write_zarr(path)
        group = zarr.open_group(path, mode="r+", use_consolidated=False)
        options: dict[str, Any] = {"chunks": (chunk,), "shards": (chunk * SHARD,)}
        of_vectors: dict[str, Any] = {"chunks": (ROWS_AT_ONCE, TABLE_WIDTH)}
        if layout == "zarr, plain":
            options["compressors"] = of_vectors["compressors"] = None
        if "X" in group:
            del group["X"]
        write_elem = anndata.io.write_elem
        write_elem(group, "X", by_cell, dataset_kwargs=options)
        write_elem(group["layers"], BY_CONCEPT, by_concept, dataset_kwargs=options)
        write_elem(group["obsm"], WHITENED, vectors, dataset_kwargs=of_vectors)
        zarr.consolidate_metadata(path)

    return seconds_of(write)[0]


# Reading ----------------------------------------------------------------------------------------


class OurFolder:
    """Our folder, opened without the check that `check` makes."""

    def __init__(self, path: Path) -> None:
        with mock.patch.object(store, "_check_places"):
            self._table = store.open_activations(path)
        assert self._table.columns is not None
        self._columns = self._table.columns

    def concept(self, number: int) -> NDArray[np.float32]:
        """Code of one concept in every cell."""
        return self._table.activation(number)

    def cell(self, row: int) -> float:
        """Sum of the codes of one cell, all of which are read."""
        return float(self._table.concepts_of(row)[1].sum())

    def cosines(self, direction: NDArray[np.float32]) -> NDArray[np.float32]:
        """Product of the vectors with a direction."""
        return self._table.vectors @ direction

    def concepts(self, begin: int, end: int) -> sparse.csc_array:
        """Codes of some concepts."""
        return self._columns[:, begin:end]

    def check(self) -> None:
        """Look at every place."""
        for codes, n in ((self._table.codes, TABLE_CONCEPTS), (self._columns, len(self))):
            store._check_places(codes.indptr, codes.indices, n, VALUES_AT_ONCE)

    def __len__(self) -> int:
        return len(self._table.units)


class Backed:
    """AnnData whose codes and vectors stay on disk."""

    def __init__(self, path: Path) -> None:
        import anndata
        import h5py
        import zarr
        from anndata.io import read_elem, sparse_dataset

        self._group: Any = h5py.File(path) if path.is_file() else zarr.open_group(path, mode="r")
        group = self._group
        self._table = anndata.AnnData(
            X=sparse_dataset(group["X"]),
            obs=read_elem(group["obs"]),
            var=read_elem(group["var"]),
            layers={BY_CONCEPT: sparse_dataset(group["layers"][BY_CONCEPT])},
            obsm={WHITENED: group["obsm"][WHITENED]},
        )
        self._columns = self._table.layers[BY_CONCEPT]
        self._vectors = self._table.obsm[WHITENED]

    def concept(self, number: int) -> NDArray[np.float32]:
        """As of our folder."""
        return self._columns[:, number].toarray().ravel()

    def cell(self, row: int) -> float:
        """As of our folder."""
        return float(self._table.X[row].sum())

    def cosines(self, direction: NDArray[np.float32]) -> NDArray[np.float32]:
        """As of our folder."""
        # Whole chunks, so that none is decoded twice.
        chunk = (self._vectors.chunks or (ROWS_AT_ONCE,))[0]
        n = max(1, ROWS_AT_ONCE // chunk) * chunk
        return np.concatenate(
            [self._vectors[r : r + n] @ direction for r in range(0, len(self), n)]
        )

    def concepts(self, begin: int, end: int) -> sparse.csc_array:
        """As of our folder."""
        return self._columns[:, begin:end]

    def check(self) -> None:
        """As of our folder."""
        for part, n in (("X", TABLE_CONCEPTS), (f"layers/{BY_CONCEPT}", len(self))):
            indices = self._group[part]["indices"]
            for begin in range(0, indices.shape[0], VALUES_AT_ONCE):
                some = indices[begin : begin + VALUES_AT_ONCE]
                assert some.min() >= 0
                assert some.max() < n

    def __len__(self) -> int:
        return self._table.n_obs


class Lazy:
    """AnnData as `anndata.experimental.read_lazy` opens it: dask arrays, and tables of xarray."""

    def __init__(self, path: Path) -> None:
        from anndata.experimental import read_lazy

        self._table = read_lazy(path)
        self._columns = self._table.layers[BY_CONCEPT]

    def concept(self, number: int) -> NDArray[np.float32]:
        """As of our folder."""
        return self._columns[:, number].compute().toarray().ravel()

    def cell(self, row: int) -> float:
        """As of our folder."""
        return float(self._table.X[row].compute().sum())

    def cosines(self, direction: NDArray[np.float32]) -> NDArray[np.float32]:
        """As of our folder."""
        return (self._table.obsm[WHITENED] @ direction).compute()

    def concepts(self, begin: int, end: int) -> sparse.csc_array:
        """As of our folder."""
        return self._columns[:, begin:end].compute()

    def __len__(self) -> int:
        return self._table.n_obs


def several(work: Callable[[int], Any], numbers: NDArray[np.int64]) -> list[float]:
    """Seconds of some work with each number."""
    return [seconds_of(lambda number=number: work(int(number)))[0] for number in numbers]


def read(path: Path, layout: str) -> dict[str, Any]:
    """Open a table and read it in all the ways that a person waits for."""
    kind = {FOLDER: OurFolder, LAZY: Lazy}.get(layout, Backed)
    found: dict[str, Any] = {}
    if kind is not OurFolder:
        # Imports are counted by themselves.
        found["import"], _ = seconds_of(lambda: __import__("anndata"))
        if kind is Lazy:
            __import__("xarray"), __import__("dask.array")
    before = held()
    random = np.random.default_rng(2)
    with Memory() as memory:
        found["open"], table = seconds_of(lambda: kind(path))
        concepts = random.integers(TABLE_CONCEPTS, size=LOOKED_AT)
        cells = random.integers(len(table), size=LOOKED_AT)
        found["concept"] = several(table.concept, concepts)
        found["cell"] = several(table.cell, cells)
        directions = random.standard_normal((3, TABLE_WIDTH), np.float32)
        found["cosines"] = several(lambda i: table.cosines(directions[i]), np.arange(3))
    found["memory"] = memory.peak - before
    begins = np.arange(0, TABLE_CONCEPTS, CONCEPTS_AT_ONCE)
    if kind is not Lazy:
        whole = several(lambda b: table.concepts(b, b + CONCEPTS_AT_ONCE), begins)
        found["all"] = sum(whole)
        found["check"], _ = seconds_of(table.check)
    # The same cells, whatever they were written as.
    found["sum"] = float(sum(table.concept(int(c)).sum(dtype=float) for c in concepts[:3]))
    found["sum"] += sum(table.cell(int(cell)) for cell in cells[:3])
    return found


def work(task: dict[str, Any]) -> dict[str, Any]:
    """Write or read, in this process."""
    warnings.simplefilter("ignore")
    if importlib.util.find_spec("zarr"):
        import zarr

        zarr.config.set({"threading.max_workers": task["threads"]})
    path, layout = Path(task["path"]), task["layout"]
    if task["what"] == "read":
        return read(path, layout)
    before = held()
    with Memory() as memory:
        if layout == FOLDER:
            took = write_folder(path, task["fields"])
        else:
            took = write_anndata(path, task["fields"], layout, task["chunk"])
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    return {"seconds": took, "memory": memory.peak - before, "bytes": size, "files": len(files)}


# Tables -----------------------------------------------------------------------------------------


def with_ratio(value: float | None, ours: float, form: str) -> str:
    """A figure and how many times ours it is."""
    return "-" if value is None else f"{value:{form}} ({value / max(ours, 1e-9):.3g})"


def say(written: dict[str, Any], found: dict[str, Any]) -> None:
    """Print both tables."""
    ours = written[FOLDER]
    rows = [
        [
            layout,
            with_ratio(one["bytes"] / 1e9, ours["bytes"] / 1e9, ".2f"),
            f"{one['files']:,d}",
            with_ratio(one["seconds"], ours["seconds"], ".1f"),
            with_ratio(one["memory"], ours["memory"], ",.0f"),
        ]
        for layout, one in written.items()
    ]
    print_columns(["", "GB on disk", "files", "s to write", "MiB to write"], rows)
    print()
    first = found[FOLDER]

    def of(one: dict[str, Any], name: str, take: Callable[[Any], float], times: float) -> str:
        value = one.get(name)
        form = ",.0f" if name == "memory" else ".2f"
        mine = take(first[name]) * times
        return with_ratio(None if value is None else take(value) * times, mine, form)

    middle, worst = (lambda v: float(np.median(v))), (lambda v: float(max(v)))
    alone: Callable[[Any], float] = float
    shown: list[tuple[str, str, Callable[[Any], float], float]] = [
        ("open, s", "open", alone, 1),
        ("places checked, s", "check", alone, 1),
        ("one concept, ms, median", "concept", middle, 1e3),
        (f"one concept, ms, worst of {LOOKED_AT}", "concept", worst, 1e3),
        ("one cell, ms, median", "cell", middle, 1e3),
        (f"one cell, ms, worst of {LOOKED_AT}", "cell", worst, 1e3),
        ("cosines of one concept, s", "cosines", middle, 1),
        ("all concepts, s", "all", alone, 1),
        ("MiB while it is open", "memory", alone, 1),
    ]
    rows = [
        [title, *(of(one, name, take, times) for one in found.values())]
        for title, name, take, times in shown
    ]
    print_columns(["", *found], rows)
    imports = [one["import"] for one in found.values() if "import" in one]
    if imports:
        print(f"anndata is imported in {np.median(imports):.2f} s, which is not counted above")


def main() -> None:
    """Run all, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=100_000, help="whole thousands, five at least")
    parser.add_argument("--chunk", type=int, default=16_384, help="values of a chunk")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layouts", nargs="*", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one if not given")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(json.loads(arguments.worker))))
        return
    layouts = [x for x in LAYOUTS if x in arguments.layouts or x == FOLDER]
    if LAZY in layouts and not importlib.util.find_spec("xarray"):
        print("lazy is left out: pip install xarray")
        layouts.remove(LAZY)
    n_fields = max(1, arguments.cells // CELLS_OF_FIELD)
    print(f"{n_fields * CELLS_OF_FIELD:,d} cells x {TABLE_CONCEPTS:,d} concepts", flush=True)
    written, found = {}, {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        for layout in layouts:
            like = "zarr, chunks" if layout == LAZY else layout
            path = Path(temporary) / (like.replace(", ", "-") + (".h5ad" * (layout == "h5ad")))
            task = {
                "path": str(path),
                "layout": like,
                "fields": n_fields,
                "chunk": arguments.chunk,
                "threads": arguments.threads,
            }
            if not path.exists():
                written[like] = in_own_process(__file__, {**task, "what": "write"}, None)
            task["layout"] = layout
            found[layout] = in_own_process(__file__, {**task, "what": "read"}, None)
            same = np.isclose(found[layout]["sum"], found[FOLDER]["sum"])
            assert same, f"{layout} holds other codes"
            load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
            print(f"{layout} done   {load}", flush=True)
            if layout not in (FOLDER, "zarr, chunks"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    print()
    say(written, found)


if __name__ == "__main__":
    main()
