"""Locks on open files; the system lets go of them when their process ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_microdl.core.errors import MicrodlError

_WAIT_SECONDS = 60.0
# What file systems say that know no locks: there is no telling who else is at work then.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}

if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def try_lock(file: int) -> bool:
        """Lock an open file for this process, or say that another has it."""
        # Far behind any text, which others are to read.
        os.lseek(file, 2**30, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def try_lock(file: int) -> bool:
        """Lock an open file for this process, or say that another has it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in _NO_LOCKS
        return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one with the lock in a file inside of the block, waiting for a minute at most.

    Parameters
    ----------
    path : Path
        File that does nothing else; it is made where it is missing, and stays.

    Raises
    ------
    MicrodlError
        If another process does not let go of it.
    """
    until = time.monotonic() + _WAIT_SECONDS
    with path.open("a+b") as file:
        while not try_lock(file.fileno()):
            if time.monotonic() > until:
                raise MicrodlError(
                    f"Another process is writing to '{path.parent}'; wait until it has ended, or "
                    "choose another place."
                )
            time.sleep(0.02)
        yield
