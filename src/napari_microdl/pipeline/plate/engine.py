"""Where fields are worked on: in this process, or by the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from napari_microdl.core.task import current_task
from napari_microdl.pipeline.plate.listing import PlateField, Receipt
from napari_microdl.pipeline.plate.work import Job

Work = Callable[[Job, PlateField], Receipt]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Engine(Protocol):
    """Works on fields, in any order."""

    @property
    def here(self) -> bool:
        """Whether that is this process."""

    def work(self, work: Work, job: Job, items: Sequence[PlateField]) -> Iterator[Receipt]:
        """Receipts of the fields as they are done."""

    def gather(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """What `work` makes of all fields together, which takes memory with their number."""


class ThisProcess:
    """Fields one after the other in this process; needs no Dask."""

    here = True

    def work(self, work: Work, job: Job, items: Sequence[PlateField]) -> Iterator[Receipt]:
        """Receipts of the fields, one by one."""
        for item in items:
            current_task().check()
            yield work(job, item)

    def gather(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """What `work` makes of all fields together."""
        return work(*args, **kwargs)


@dataclass(frozen=True)
class Place:
    """Where fields are to be worked on; without any of these in this process.

    Parameters
    ----------
    workers : int, optional
        Processes on this machine, a thread each.
    scheduler : str, optional
        Address of a Dask scheduler that runs already.
    cluster : Path, optional
        YAML file with ``class`` (one of `dask_jobqueue`, such as SLURMCluster), ``workers`` and the
        keyword arguments of that class.
    seconds : float, default=20
        How long a scheduler is waited for.
    """

    workers: int | None = None
    scheduler: str | None = None
    cluster: Path | None = None
    seconds: float = 20.0
