"""What Linux says of the memory of this process; elsewhere nothing is known."""

from __future__ import annotations

import threading
from pathlib import Path


def status_bytes(field: str) -> int | None:
    """Bytes of a field of /proc/self/status.

    Parameters
    ----------
    field : str
        VmRSS is held now, VmHWM was at most; RssAnon is held now, pages of files left out.

    Returns
    -------
    int or None
        None where there is no such file.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


class Memory:
    """Largest memory of the process while it is measured, pages of files left out (Linux).

    Attributes
    ----------
    peak : float
        MiB; 0 where nothing is known.
    """

    def __enter__(self) -> Memory:
        self.peak = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, (status_bytes("RssAnon") or 0) / 2**20)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
