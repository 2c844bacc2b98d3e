"""The process that workers on this machine are forked from, which imports everything once."""

from __future__ import annotations

import os
import signal
import threading

# What a worker needs to begin, and what it imports with its model and its first field.
_PRELOADED = [
    "distributed",
    "napari_microdl.pipeline.plate.work",
    "torch",
    "napari_microdl.models.encoder",
    "napari_microdl.models.families.builtin",
    "napari_microdl.models.weights.assembly",
    "skimage.feature",
    "skimage.filters",
    "skimage.measure",
    "skimage.segmentation",
]
# A worker is one of many on its machine.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def start_forkserver() -> None:
    """Start it, unless it runs already; it imports while the caller goes on.

    Where there is no such process, as on Windows, nothing is done.
    """
    if os.name != "posix":
        return
    from multiprocessing import forkserver

    before = dict(os.environ)
    # Ctrl-C in a terminal reaches all processes; this one then ends the workers in order.
    in_front = threading.current_thread() is threading.main_thread()
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_front else None
    os.environ.update(_ONE_THREAD)
    try:
        forkserver.set_forkserver_preload(_PRELOADED)
        forkserver.ensure_running()
    finally:
        for name in _ONE_THREAD.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        if in_front:
            signal.signal(signal.SIGINT, on_interrupt)
