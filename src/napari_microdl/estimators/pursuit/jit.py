"""How functions are compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import llvmlite.binding
import numpy as np
from numba import njit

# Results must not depend on the hardware beyond rounding, so only what lets a maximum and a sum be
# vectorised is allowed; NaN and infinity keep their meaning.
FAST = ("nsz", "reassoc", "contract", "arcp")
# What counts through a long vector. Unsigned, because numba takes a signed position for one that
# may count from the end, and then the loop is not vectorised: it takes ten times as long.
count = np.uint64


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


@lru_cache(maxsize=1)
def multiplies_bytes() -> bool:
    """Whether the processor has instructions for sums of products of 8-bit integers."""
    features = llvmlite.binding.get_host_cpu_features()
    return any(features.get(name, False) for name in ("avx512vnni", "avxvnni", "amx-int8"))
