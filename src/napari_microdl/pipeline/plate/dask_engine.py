"""Fields shared out among the workers of a Dask cluster: of this machine, or of a batch system."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import dask
from distributed import (
    Client,
    Event,
    Future,
    KilledWorker,
    LocalCluster,
    Worker,
    WorkerPlugin,
    as_completed,
    get_worker,
)

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import Progress, Task, current_task
from napari_microdl.pipeline.plate.engine import Arguments, Place, Result, Work
from napari_microdl.pipeline.plate.forkserver import start_forkserver
from napari_microdl.pipeline.plate.listing import PlateField, Receipt, left_out_of
from napari_microdl.pipeline.plate.work import Job, let_go, prepare

# A field that has ended so many workers is left out.
_MOST_DEATHS = 2
_SECONDS_BETWEEN_LOOKS = 0.1
# How often a worker that gathers all fields tells how far it is, and asks whether to go on.
_SECONDS_BETWEEN_REPORTS = 0.5


class LoadedModel(WorkerPlugin):
    """Plugin of every worker: one thread a core, one device a worker, and the model loaded once.

    Parameters
    ----------
    job : Job
        Names the model.
    """

    name = "napari-microdl"
    idempotent = False

    def __init__(self, job: Job) -> None:
        self._job = job

    def setup(self, worker: Worker) -> None:
        """Prepare a worker that has just started, or started again."""
        import torch

        torch.set_num_threads(worker.state.nthreads)
        device = device_of_worker(worker.name, os.environ.get("CUDA_VISIBLE_DEVICES"))
        if device is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = device
        try:
            prepare(self._job)
        except MicrodlError:
            # The first field says it, in the process that can tell a person.
            return

    def teardown(self, worker: Worker) -> None:
        """Let go of the model."""
        let_go()


def device_of_worker(name: object, visible: str | None) -> str | None:
    """Which of the visible devices a worker has for itself.

    Parameters
    ----------
    name : object
        Number of the worker on its machine, as Dask names them.
    visible : str or None
        ``CUDA_VISIBLE_DEVICES``.

    Returns
    -------
    str or None
        None where there is nothing to choose.

    Examples
    --------
    >>> device_of_worker(1, "4,5"), device_of_worker(2, "4,5"), device_of_worker(0, "4")
    ('5', '4', None)
    """
    devices = [device.strip() for device in (visible or "").split(",") if device.strip()]
    if len(devices) < 2 or not isinstance(name, int):
        return None
    return devices[name % len(devices)]


class Dask:
    """Fields shared out among the workers of a cluster, one a thread at a time.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    """

    here = False

    @property
    def address(self) -> str:
        """Of the scheduler."""
        return str(self._client.scheduler_info(n_workers=0)["address"])

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prepared: Job | None = None

    def work(self, work: Work, job: Job, items: Sequence[PlateField]) -> Iterator[Receipt]:
        """Receipts of the fields as they are done."""
        self._prepare(job)
        waiting, running = iter(items), dict[Any, tuple[PlateField, Future]]()
        done = as_completed(loop=self._client.loop)
        try:
            self._fill(work, job, waiting, running, done)
            for future in done:
                item, _ = running.pop(future.key)
                yield self._receipt(item, future)
                future.release()
                current_task().check()
                self._fill(work, job, waiting, running, done)
        finally:
            # What is left where the run was stopped.
            self._client.cancel([future for _, future in running.values()])

    def gather(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """What `work` makes of all fields together, on one of the workers."""
        self._wait_for_workers()
        name, task = f"napari-microdl-{uuid.uuid4().hex}", current_task()
        told: list[tuple[int, int, str]] = []
        self._client.subscribe_topic(name, lambda event: told.append(event[1]))
        future = self._client.submit(_followed, name, work, args, kwargs, key=name, pure=False)
        try:
            while not future.done():
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                if told:
                    task.progress(*told[-1])
                    told.clear()
                task.check()
            result, notes = future.result()
        except KilledWorker as error:
            raise MicrodlError(
                f"What was found in the fields could not be put together: it ended "
                f"{_MOST_DEATHS} workers, which may need more memory. All fields are kept; run it "
                "again with larger workers, or without."
            ) from error
        finally:
            if not future.done():
                Event(name, client=self._client).set()
            self._client.unsubscribe_topic(name)
            future.release()
        for note in notes:
            task.note(note)
        return result  # type: ignore[no-any-return]

    def _wait_for_workers(self) -> None:
        task = current_task()
        task.progress(0, 1, "Waiting for the first worker")
        while not self._client.scheduler_info(n_workers=-1)["workers"]:
            task.check()
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _prepare(self, job: Job) -> None:
        if self._prepared is not None and self._prepared.key == job.key:
            return
        self._wait_for_workers()
        current_task().progress(0, 1, "Loading the model in every worker")
        self._client.register_plugin(LoadedModel(job))
        self._prepared = job

    def _fill(
        self,
        work: Work,
        job: Job,
        waiting: Iterator[PlateField],
        running: dict[Any, tuple[PlateField, Future]],
        done: Any,
    ) -> None:
        """Give every thread a field: with more, one that ends its worker takes others along."""
        threads = max(sum(self._client.nthreads().values()), 1)
        while len(running) < threads:
            item = next(waiting, None)
            if item is None:
                return
            future = self._client.submit(work, job, item, pure=False)
            running[future.key] = item, future
            done.add(future)

    def _receipt(self, item: PlateField, future: Future) -> Receipt:
        try:
            receipt: Receipt = future.result()
        except KilledWorker:
            reason = (
                f"it ended {_MOST_DEATHS} workers, one after the other, as a file that is damaged "
                "or too large for their memory does"
            )
            return left_out_of(item, "unreadable", reason)
        return receipt


def _followed(
    name: str,
    work: Callable[..., Result],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[Result, list[str]]:
    """In a worker: what `work` returns and notes, followed and cancelled by the driver."""
    asked, worker = Event(name), get_worker()

    def report(progress: Progress) -> None:
        worker.log_event(name, (progress.done, progress.total, progress.message))
        if asked.is_set():
            task.cancel()

    task = Task(report, seconds_between=_SECONDS_BETWEEN_REPORTS)
    with task.active(), task.taking_notes() as notes:
        return work(*args, **kwargs), notes


def client_of(place: Place, stack: ExitStack) -> Client:
    """Client of the cluster at a place, which ends with the stack.

    Raises
    ------
    MicrodlError
        If nobody can be reached there, or the cluster cannot be made.
    """
    deaths = {"distributed.scheduler.allowed-failures": _MOST_DEATHS - 1}
    stack.enter_context(dask.config.set(deaths))
    if place.scheduler is not None:
        try:
            return stack.enter_context(Client(place.scheduler, timeout=place.seconds))
        except (OSError, ValueError) as error:
            raise MicrodlError(
                f"The scheduler '{place.scheduler}' cannot be reached ({error}); check the "
                "address, such as tcp://127.0.0.1:8786."
            ) from error
    cluster = _local(place.workers, stack) if place.cluster is None else cluster_of(place.cluster)
    return stack.enter_context(Client(stack.enter_context(cluster)))


def _local(workers: int | None, stack: ExitStack) -> AbstractContextManager[Any]:
    """Workers on this machine."""
    if not workers or workers < 1:
        raise MicrodlError(f"There cannot be {workers} workers; choose 1 or more.")
    # A worker that ends is started again by its nanny. Dask would look once more after a while, and
    # close the nanny for good if the worker happens to be starting just then.
    stack.enter_context(dask.config.set({"distributed.deploy.lost-worker-timeout": "1000 days"}))
    if os.name == "posix":
        start_forkserver()
        method = {"distributed.worker.multiprocessing-method": "forkserver"}
        stack.enter_context(dask.config.set(method))
    cluster: AbstractContextManager[Any] = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        # Even without a dashboard there is a server, and others may have one at the usual place.
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        silence_logs="CRITICAL",
    )
    return cluster


def cluster_of(path: Path, *, scale: bool = True) -> AbstractContextManager[Any]:
    """The cluster that a file describes.

    Parameters
    ----------
    path : Path
        As `Place` describes it.
    scale : bool, default=True
        Whether its jobs are submitted.

    Returns
    -------
    dask_jobqueue.JobQueueCluster

    Raises
    ------
    MicrodlError
        If the file does not describe one.
    """
    try:
        import dask_jobqueue
        import yaml
    except ImportError as error:
        raise MicrodlError(
            f"A cluster needs the package dask-jobqueue ({error}); install it with pip install "
            "'napari-microdl[cluster]'."
        ) from error
    try:
        described = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise MicrodlError(f"The cluster '{path}' cannot be read ({error}).") from error
    if not isinstance(described, dict):
        raise MicrodlError(f"The cluster '{path}' has to be names and values, such as cores: 1.")
    name, workers = described.pop("class", None), described.pop("workers", None)
    kind = getattr(dask_jobqueue, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, dask_jobqueue.JobQueueCluster)):
        raise MicrodlError(
            f"The cluster '{path}' has the class {name!r}; use one of dask_jobqueue, such as "
            "SLURMCluster."
        )
    if not isinstance(workers, int) or workers < 1:
        raise MicrodlError(f"The cluster '{path}' has to say how many workers it wants.")
    # Others on this machine may have a dashboard at the usual place.
    described["scheduler_options"] = {
        "dashboard_address": ":0",
        **(described.get("scheduler_options") or {}),
    }
    try:
        cluster: AbstractContextManager[Any] = kind(**described)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MicrodlError(f"The cluster '{path}' cannot be made ({error}).") from error
    if scale:
        cluster.scale(workers)  # type: ignore[attr-defined]
    return cluster
