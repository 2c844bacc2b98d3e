"""How functions are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def jit(*fastmath: str) -> Callable[[Any], Any]:
    """Compile a function when it is first called, and keep the result where that is allowed.

    Parameters
    ----------
    *fastmath : str
        Freedoms of floating-point arithmetic, as LLVM names them.

    Returns
    -------
    callable
        Decorator. The function runs without the interpreter's lock.
    """

    def decorate(function: Any) -> Any:
        flags = set(fastmath) or False
        try:
            return njit(nogil=True, cache=True, fastmath=flags)(function)
        except RuntimeError:
            # There is no folder to keep it in: it is compiled again in every process.
            return njit(nogil=True, fastmath=flags)(function)

    return decorate
