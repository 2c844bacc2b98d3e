"""Locks on files, which the system lets go of when a process ends, however it ends."""

from __future__ import annotations

import os
import socket
import sys
from typing import IO

if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def _lock(file: int) -> bool:
        # Far behind the text, which others are to read.
        os.lseek(file, 2**30, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def try_lock(file: IO[str]) -> str | None:
    """Lock a file for as long as it is open, and write down who holds it.

    Parameters
    ----------
    file : text file
        Open for reading and appending (``a+``).

    Returns
    -------
    str or None
        None where it is locked now; else who holds it.
    """
    if not _lock(file.fileno()):
        file.seek(0)
        return file.read().strip() or "another process"
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return None
