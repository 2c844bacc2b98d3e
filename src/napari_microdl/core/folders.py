"""Two folders that change places in one step, where the system can do that."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# Of the call renameat2 of Linux: paths are as they are given, and both names stay.
_HERE, _EXCHANGE = -100, 2


def exchange(one: Path, other: Path) -> bool:
    """Let two folders on one disk change places, so that at no time either name is missing.

    Parameters
    ----------
    one, other : Path
        Folders that are there.

    Returns
    -------
    bool
        Whether they did: not every system and file system can, and nothing has changed then.
    """
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    done: int = rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE)
    return done == 0
