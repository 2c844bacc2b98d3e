"""Where fields are worked on: in this process, or by the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.pipeline.plate.listing import PlateField, Receipt
from napari_microdl.pipeline.plate.work import Job, let_go

Work = Callable[[Job, PlateField], Receipt]


class Engine(Protocol):
    """Works on fields, in any order."""

    @property
    def here(self) -> bool:
        """Whether that is this process."""

    def work(self, work: Work, job: Job, items: Sequence[PlateField]) -> Iterator[Receipt]:
        """Receipts of the fields as they are done."""


class ThisProcess:
    """Fields one after the other in this process; needs no Dask."""

    here = True

    def work(self, work: Work, job: Job, items: Sequence[PlateField]) -> Iterator[Receipt]:
        """Receipts of the fields, one by one."""
        for item in items:
            current_task().check()
            yield work(job, item)


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

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """Start what works on fields, and end it.

        Raises
        ------
        MicrodlError
            If more than one place is named, a package is missing, or nobody can be reached.
        """
        if sum(v is not None for v in (self.workers, self.scheduler, self.cluster)) > 1:
            raise MicrodlError("Choose one of workers, scheduler and cluster.")
        if self.workers is None and self.scheduler is None and self.cluster is None:
            try:
                yield ThisProcess()
            finally:
                let_go()
            return
        try:
            import distributed  # noqa: F401
        except ImportError as error:
            raise MicrodlError(
                f"Several processes need the package distributed ({error}); install it with pip "
                "install 'napari-microdl[plate]', or run in one process."
            ) from error
        from napari_microdl.pipeline.plate.dask_engine import Dask, client_of

        with ExitStack() as stack:
            yield Dask(client_of(self, stack))
