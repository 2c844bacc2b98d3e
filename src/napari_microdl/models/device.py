"""Chooses where and in which precision a model runs, and bounds its threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from napari_microdl.core.errors import MicrodlError


def resolve_device(name: str) -> torch.device:
    """Device for a name.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda", "mps"}
        ``"auto"`` takes CUDA, then MPS, then the CPU.

    Returns
    -------
    torch.device

    Raises
    ------
    MicrodlError
        If the device is not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if not available.get(name, False):
        usable = ", ".join(device for device, there in available.items() if there)
        raise MicrodlError(f"Device '{name}' is not available here; choose one of: auto, {usable}.")
    return torch.device(name)


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def bounded_threads() -> Iterator[None]:
    """Hold torch to the cores of this process: oversubscribed threads are slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, usable_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)
