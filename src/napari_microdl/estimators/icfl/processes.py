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
    device : str
        Device of the atoms, as torch names it.
    """

    def __init__(self, group: ProcessGroup | None = None, device: str = "cpu") -> None:
        self._group = group
        self.rank = 0
        self.count = 1
        self._through: str | None = None
        if group is not None:
            import torch.distributed

            self.rank = group.rank()
            self.count = group.size()
            # NCCL adds up what lies on the accelerators only.
            if torch.distributed.get_backend(group) == "nccl":
                self._through = device

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
            if self._through is None or value.device.type != "cpu":
                torch.distributed.all_reduce(value, group=self._group)
            else:
                moved = value.to(self._through)
                torch.distributed.all_reduce(moved, group=self._group)
                value.copy_(moved)
