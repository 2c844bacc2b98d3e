"""Sums over the processes that share a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup


class Processes:
    """The processes of a fit, of which each codes its share of every batch.

    All of them hold the same atoms and draw the same random numbers, so that only sums need to be
    exchanged.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup or None
        Processes that fit together, for example ``torch.distributed.group.WORLD``; None is this
        process alone.
    """

    def __init__(self, group: ProcessGroup | None = None) -> None:
        self._group = group
        self.rank = 0
        self.count = 1
        if group is not None:
            self.rank = group.rank()
            self.count = group.size()

    @property
    def share(self) -> slice:
        """Rows of a batch that are this process's to code."""
        return slice(self.rank, None, self.count)

    def sum(self, *values: torch.Tensor) -> None:
        """Add up over the processes, in place.

        Parameters
        ----------
        *values : torch.Tensor
            Of the same shapes in every process; contiguous.
        """
        if self._group is None:
            return
        import torch.distributed

        for value in values:
            torch.distributed.all_reduce(value, group=self._group)
