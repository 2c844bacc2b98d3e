"""Fields on the workers of a cluster: real processes on this machine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="plates on several processes need distributed")

from distributed import Client

from core.refusals import refusal
from napari_microdl.core.task import Cancelled, Progress, Task
from napari_microdl.pipeline.plate import run as plate_run
from napari_microdl.pipeline.plate.dask_engine import Dask, cluster_of, device_of_worker
from napari_microdl.pipeline.plate.engine import Place
from napari_microdl.pipeline.plate.listing import list_fields
from napari_microdl.pipeline.plate.run import engine_at, run_plate
from napari_microdl.pipeline.plate.work import Job
from pipeline.plate_cases import (
    device_work,
    differing,
    ending_work,
    ends_its_process,
    fatal_work,
    gathering_work,
    log_of,
    run_whole,
    see_two_devices,
    settings_file,
    write_table,
)
from pipeline.small_run import small


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_table(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def engine() -> Iterator[Dask]:
    with engine_at(Place(workers=2)) as started:
        assert isinstance(started, Dask)
        yield started


def test_a_field_that_ends_its_worker_is_left_out_and_no_other(table, engine, tmp_path):
    job = Job(tmp_path, small(), ("GFP",), "key")
    receipts = list(engine.work(fatal_work, job, list_fields(table).fields))
    assert sorted(r.number for r in receipts) == list(range(8))
    by_status = {r.number: r for r in receipts if r.status != "done"}
    assert list(by_status) == [2]
    assert by_status[2].status == "unreadable"
    assert "it ended 2 workers" in by_status[2].reason
    # They were shared out.
    assert len({r.n_units for r in receipts if r.status == "done"}) >= 2


def test_a_run_whose_worker_is_killed_ends_as_one_without_workers(
    table, engine, tmp_path, monkeypatch
):
    run_whole(table, tmp_path / "here", settings_file(tmp_path))
    monkeypatch.setattr(plate_run, "read_vectors", ending_work)
    out = tmp_path / "there"
    run_plate(list_fields(table), out, small(), place=Place(scheduler=engine.address))
    assert (out / "killed").exists()
    (out / "killed").unlink()
    assert not differing(out, tmp_path / "here")
    assert {e["work"] for e in log_of(out) if e["event"] == "field"} == {
        "places", "scales", "vectors", "codes",
    }  # fmt: skip


def test_what_takes_memory_is_done_by_a_worker_and_followed_by_the_driver(engine, tmp_path):
    seen: list[Progress] = []
    task = Task(seen.append)
    with task.active(), task.taking_notes() as notes:
        assert engine.gather(gathering_work, tmp_path, 30) != os.getpid()
    assert notes == ["Gathered by a worker."]
    assert {p.message for p in seen if p.total == 30} == {"Gathering"}


def test_a_worker_that_gathers_stops_when_the_driver_is_cancelled(engine, tmp_path):
    def stop(progress: Progress) -> None:
        if progress.message == "Gathering":
            task.cancel()

    task = Task(stop)
    with task.active(), pytest.raises(Cancelled):
        engine.gather(gathering_work, tmp_path, 2000)
    for _ in range(200):
        if (tmp_path / "cancelled").exists():
            break
        time.sleep(0.1)
    assert (tmp_path / "cancelled").exists()


def test_gathering_that_ends_its_workers_is_said(engine):
    assert "may need more memory" in refusal(engine.gather, ends_its_process)


def test_each_worker_of_a_machine_has_a_device_of_its_own(table, tmp_path):
    with engine_at(Place(workers=2)) as engine, Client(engine.address) as client:
        client.wait_for_workers(2)
        client.run(see_two_devices)
        job = Job(tmp_path, small(), ("GFP",), "devices")
        receipts = list(engine.work(device_work, job, list_fields(table).fields))
    devices = {(r.n_units, r.reason) for r in receipts}
    assert {device for _, device in devices} == {"4", "5"}
    assert len(devices) == 2


def test_a_scheduler_that_is_not_there_is_said(table, tmp_path):
    place = Place(scheduler="tcp://127.0.0.1:9", seconds=0.5)
    assert "cannot be reached" in refusal(
        lambda: run_plate(list_fields(table), tmp_path / "out", small(), place=place)
    )


def test_a_cluster_is_described_by_a_file(tmp_path):
    pytest.importorskip("dask_jobqueue", reason="batch systems need dask-jobqueue")
    described = tmp_path / "slurm.yaml"
    described.write_text(
        "class: SLURMCluster\nworkers: 0\ncores: 1\nmemory: 8GB\nwalltime: '02:00:00'\n"
        "queue: gpu\njob_extra_directives: ['--gres=gpu:1']\n",
        encoding="utf-8",
    )
    assert "how many workers" in refusal(cluster_of, described)
    described.write_text(described.read_text().replace("workers: 0", "workers: 3"))
    with cluster_of(described, scale=False) as cluster:
        script = cluster.job_script()
    for line in ("-p gpu", "-t 02:00:00", "--mem=8G", "--gres=gpu:1"):
        assert f"#SBATCH {line}" in script
    assert sys.executable in script
    described.write_text("class: Popen\nworkers: 1\n")
    assert "use one of dask_jobqueue" in refusal(cluster_of, described)


@pytest.mark.parametrize(
    ("name", "visible", "device"),
    [(0, "4,5", "4"), (3, "4,5", "5"), (0, "4", None), (1, None, None), ("tcp://x", "4,5", None)],
)
def test_a_worker_has_one_of_the_visible_devices(name, visible, device):
    assert device_of_worker(name, visible) == device
