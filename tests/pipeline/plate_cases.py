"""Small plates in files, and work on them that a test can see or that ends its process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from napari_microdl.core.config import PipelineConfig, write_config
from napari_microdl.core.task import Cancelled, current_task
from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.simulator import Nuisances, simulate_field
from napari_microdl.pipeline.plate.listing import PlateField, Receipt
from napari_microdl.pipeline.plate.work import Job, read_vectors
from pipeline.small_run import small

# All that a run leaves but its log, its lock and when files were written.
NOT_RESULTS = ("log.jsonl", ".lock")


def write_table(folder: Path, copies: int = 1, edge: int = 125) -> Path:
    """A table of corners of the sample, each well with as many different sites."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for copy in range(copies):
        for field in transfluor():
            name = f"{field.well}_s{copy + 1}"
            begin = 60 * copy
            plane = field.data[0, begin : begin + edge, begin : begin + edge + 5]
            tifffile.imwrite(folder / f"{name}.tif", plane)
            known = field.to_metadata() | {"Metadata_Field": name, "Metadata_Site": copy + 1}
            known |= {"Metadata_Plate": "P1", "Metadata_dose": 0 if field.is_control else 5}
            rows.append({**known, "FileName_GFP": f"{name}.tif"})
    pd.DataFrame(rows).to_csv(folder / "fields.csv", index=False)
    return folder / "fields.csv"


def write_ome_zarr(table: Path, path: Path, version: str = "0.4") -> Path:
    """The wells of a table in an OME-Zarr plate, written by a library of others."""
    ngio = pytest.importorskip("ngio")
    pytest.importorskip("yaozarrs")
    wells = pd.read_csv(table)
    places = [
        ngio.ImageInWellPath(row=well[0], column=well[1:], path="1")
        for well in wells["Metadata_Well"]
    ]
    written = ngio.create_empty_plate(path, name="P1", images=places, ngff_version=version)
    for image, file in zip(places, wells["FileName_GFP"], strict=True):
        ngio.create_ome_zarr_from_array(
            written.get_image_store(image.row, image.column, image.path),
            tifffile.imread(table.parent / file)[None],
            pixelsize=0.325,
            axes_names=("c", "y", "x"),
            channels_meta=["GFP"],
            levels=1,
            ngff_version=version,
            overwrite=True,
        )
    return path


def settings_file(folder: Path, config: PipelineConfig | None = None) -> Path:
    write_config(config or small(), folder / "settings.json")
    return folder / "settings.json"


def command(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "napari_microdl.cli", "plate", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def log_of(folder: Path) -> list[dict[str, Any]]:
    path = folder / "log.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def content_of(folder: Path) -> dict[str, bytes]:
    """Every result of a run."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in NOT_RESULTS)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def differing(one: Path, other: Path) -> list[str]:
    """Results of two runs that are not the same, byte by byte; named, as bytes say nothing."""
    a, b = content_of(one), content_of(other)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def run_whole(table: Path, out: Path, settings: Path) -> None:
    """A plate run that nothing stops, in a process of its own.

    In the process of the tests others may have left the last digits different.
    """
    process = command("run", table, "--out", out, "--config", settings)
    _, error = process.communicate()
    assert process.returncode == 0, error


def spoil(table: Path, *, unreadable: str, odd: str, missing: str, blank: str) -> None:
    """Make fields that cannot be used, each in its own way."""
    folder = table.parent
    (folder / f"{unreadable}.tif").write_bytes(b"II*\0 and nothing more")
    tifffile.imwrite(folder / f"{odd}.tif", np.zeros((3, 2, 40, 40), np.uint16))
    (folder / f"{missing}.tif").unlink()
    tifffile.imwrite(folder / f"{blank}.tif", np.full((125, 130), 7, np.uint8) + speckle())


def speckle() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Noise of a camera, in which there is no cell."""
    return np.random.default_rng(0).integers(0, 3, (125, 130)).astype(np.uint8)


def fatal_work(job: Job, item: PlateField) -> Receipt:
    """Work that one of the fields ends its process by, as a damaged file can."""
    if item.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return Receipt(item.number, item.source.name, "done", n_units=os.getpid())


def see_two_devices() -> None:
    """Let this process see two of the devices of its machine."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "4,5"


def device_work(job: Job, item: PlateField) -> Receipt:
    """Work that tells which device its process has."""
    device = os.environ["CUDA_VISIBLE_DEVICES"]
    return Receipt(item.number, item.source.name, "done", reason=device, n_units=os.getpid())


def ending_work(job: Job, item: PlateField) -> Receipt:
    """Work during which a worker is killed once, as by a person or an overfull machine."""
    mark = job.folder / "killed"
    if item.number == 3 and not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return read_vectors(job, item)


def gathering_work(folder: Path, steps: int) -> int:
    """Work on all fields together that tells how far it is, and leaves a mark when cancelled."""
    task = current_task()
    task.note("Gathered by a worker.")
    try:
        for step in range(steps):
            task.progress(step, steps, "Gathering")
            time.sleep(0.05)
    except Cancelled:
        (folder / "cancelled").touch()
        raise
    return os.getpid()


def ends_its_process() -> None:
    """Work that takes more memory than there is."""
    os.kill(os.getpid(), signal.SIGKILL)


def write_two_plates(folder: Path) -> Path:
    """The table of the sample's corners as two plates, controls and treated wells on both."""
    table = write_table(folder)
    rows = pd.read_csv(table)
    rows["Metadata_Plate"] = rows.groupby("Metadata_control").cumcount() % 2 + 1
    rows["Metadata_Plate"] = "P" + rows["Metadata_Plate"].astype(str)
    rows.to_csv(table, index=False)
    return table


def write_simulated(folder: Path, n_plates: int = 2, edge: int = 160) -> Path:
    """A table of simulated plates: controls, two planted treatments and four that do nothing.

    Wells of the first and last row are out of focus; every plate has a haze of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(4)
    planted = {"large": {"size": 0.9}, "nuclear": {"translocation": 0.9}}
    conditions = ["DMSO"] * 12 + [*planted, *(f"nothing {n}" for n in range(4))] * 2
    rows: list[dict[str, Any]] = []
    for plate in range(n_plates):
        places = rng.permutation(96)[: len(conditions)]
        for condition, place in zip(conditions, places.tolist(), strict=True):
            row, column = divmod(place, 12)
            well, name = f"{chr(65 + row)}{column + 1:02d}", f"P{plate + 1}_{place}"
            field = simulate_field(
                planted.get(condition, {}),
                n_cells=16,
                shape=(edge, edge),
                channels=("RNA", "AGP"),
                nuisances=Nuisances(haze=0.2 * plate, blur=0.4 * (row in (0, 7))),
                seed=int(rng.integers(2**31)),
            ).field
            tifffile.imwrite(folder / f"{name}.tif", field.data)
            tifffile.imwrite(folder / f"{name}_cells.tif", field.labels.astype(np.uint16))
            rows.append(
                {
                    "path": f"{name}.tif",
                    "channels": "RNA;AGP",
                    "labels": f"{name}_cells.tif",
                    "Metadata_Plate": f"P{plate + 1}",
                    "Metadata_Well": well,
                    "Metadata_condition": condition,
                    "Metadata_control": condition == "DMSO",
                    "Metadata_dose": 0 if condition == "DMSO" else 10,
                }
            )
    pd.DataFrame(rows).to_csv(folder / "fields.csv", index=False)
    return folder / "fields.csv"
