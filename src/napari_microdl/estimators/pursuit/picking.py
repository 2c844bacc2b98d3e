"""Compiled steps of a pursuit: finding the best atoms, taking them out of the correlations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.estimators.pursuit.jit import FAST, count, jit

# Atoms searched together for the best.
_WIDTH = 32
# Numbers in a line of the processor's cache.
_LINE = 16


def scratch(n_atoms: int, dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Memory for the search of the best atom; every thread needs its own.

    Parameters
    ----------
    n_atoms : int
        Atoms of the dictionary.
    dtype : dtype
        That of the correlations.

    Returns
    -------
    maxima : ndarray
        One number a block of atoms. They fill an odd number of cache lines: the atoms of a block,
        which lie so far apart, would otherwise push each other out of the cache.
    bits : ndarray of int
        The same memory as integers.
    """
    lines = -(-n_atoms // (_WIDTH * _LINE)) | 1
    maxima = np.zeros(min(lines * _LINE, n_atoms), dtype)
    return maxima, maxima.view(f"i{dtype.itemsize}")


@jit(*FAST, "nnan")
def block_maxima(c, absolute, maxima):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Largest correlation in each block of atoms.

    The atoms of a block lie as far apart as there are blocks, so that the maxima of neighbouring
    blocks are taken side by side.
    """
    n = len(maxima)
    for b in range(count(n)):
        maxima[b] = abs(c[b]) if absolute else c[b]
    for start in range(n, len(c), n):
        row = c[start : start + n]
        if absolute:
            for b in range(count(len(row))):
                maxima[b] = max(maxima[b], abs(row[b]))
        else:
            for b in range(count(len(row))):
                maxima[b] = max(maxima[b], row[b])


@jit()
def pick(  # type: ignore[no-untyped-def]  # pragma: no cover
    c, absolute, repeats, maxima, bits, chosen, start, stop, met
):
    """Best atoms first, of equal ones that with the lowest number; barred until they may repeat."""
    n = len(maxima)
    for i in range(start, stop):
        first, last = _best_blocks(maxima, bits)
        top = maxima[first]
        best = len(c) - 1
        for block in range(first, last + 1):
            if maxima[block] == top:
                m = block
                while m < best and (abs(c[m]) if absolute else c[m]) != top:
                    m += n
                best = min(best, m)
        if absolute and top == 0:
            # Barred atoms are zero too: take the first that is not among them.
            best = _first_free(chosen, start if repeats else start - start, i)
        chosen[i] = best
        met[i] = c[best]
        c[best] = 0 if absolute else -np.inf
        block = best % n
        top = c.dtype.type(-np.inf)
        for m in range(block, len(c), n):
            value = abs(c[m]) if absolute else c[m]
            if value > top:
                top = value
        maxima[block] = top
    if repeats:
        for i in range(start, stop):
            c[chosen[i]] = met[i]


@jit()
def _best_blocks(maxima, bits):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The first and the last of the blocks with the largest maximum."""
    n = len(maxima)
    # Positive numbers have the order of their bits, and the largest integer is found by vector
    # instructions, as that of floating-point numbers is not.
    kind = bits.dtype.type
    top = bits[0]
    for b in range(count(n)):
        top = max(top, bits[b])
    first, last = kind(n), kind(-1)
    if top > 0:
        for b in range(count(n)):
            equal = bits[b] == top
            first = min(first, kind(b) if equal else kind(n))
            last = max(last, kind(b) if equal else kind(-1))
        return int(first), int(last)
    largest = max(maxima)
    for b in range(n):
        if maxima[b] == largest:
            first = min(first, kind(b))
            last = kind(b)
    return int(first), int(last)


@jit()
def _first_free(chosen, start, stop):  # type: ignore[no-untyped-def]  # pragma: no cover
    atom = 0
    i = start
    while i < stop:
        if chosen[i] == atom:
            atom += 1
            i = start
        else:
            i += 1
    return atom


@jit(*FAST)
def subtract(  # type: ignore[no-untyped-def]  # pragma: no cover
    c, gram, chosen, amounts, start, stop
):
    """Take the picked atoms out of the correlations, several to one pass through memory."""
    kind = c.dtype.type
    i = start
    while i + 5 <= stop:
        z0, z1, z2 = kind(amounts[i]), kind(amounts[i + 1]), kind(amounts[i + 2])
        z3, z4 = kind(amounts[i + 3]), kind(amounts[i + 4])
        g0, g1, g2 = gram[chosen[i]], gram[chosen[i + 1]], gram[chosen[i + 2]]
        g3, g4 = gram[chosen[i + 3]], gram[chosen[i + 4]]
        for m in range(count(len(c))):
            c[m] -= z0 * g0[m] + z1 * g1[m] + z2 * g2[m] + z3 * g3[m] + z4 * g4[m]
        i += 5
    while i + 2 <= stop:
        z0, z1 = kind(amounts[i]), kind(amounts[i + 1])
        g0, g1 = gram[chosen[i]], gram[chosen[i + 1]]
        for m in range(count(len(c))):
            c[m] -= z0 * g0[m] + z1 * g1[m]
        i += 2
    if i < stop:
        z0, g0 = kind(amounts[i]), gram[chosen[i]]
        for m in range(count(len(c))):
            c[m] -= z0 * g0[m]
