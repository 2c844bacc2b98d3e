"""The pursuit through the Gram matrix, compiled for the processor sample by sample.

A sample's correlations stay in the cache while its atoms are picked, so this takes less time than
the same arithmetic on tensors (``benchmarks/encode.py``), to which it gives way where numba cannot
be imported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.pursuit.jit import jit

# Results must not depend on the hardware beyond rounding, so only what lets a maximum and a sum be
# vectorised is allowed; NaN and infinity keep their meaning.
_FAST = ("nsz", "reassoc", "contract", "arcp")
# Atoms searched together for the best: one in so many of the dictionary.
_WIDTH = 32
# What counts through a long vector. Unsigned, because numba takes a signed position for one that may
# count from the end, and then the loop is not vectorised: it takes ten times as long.
_count = np.uint64
BLOCK, FULL, FINAL = 0, 1, 2


def scratch(n_atoms: int, n_picks: int, dtype: np.dtype[Any]) -> tuple[NDArray[Any], ...]:
    """Memory that `pursue_rows` works in; every thread needs its own.

    Parameters
    ----------
    n_atoms, n_picks : int
        Sizes of the problem.
    dtype : dtype
        That of the samples.

    Returns
    -------
    tuple of ndarray
        The last arguments of `pursue_rows`.
    """
    maxima = np.zeros((n_atoms + _WIDTH - 1) // _WIDTH, dtype)
    # Small systems are solved in float64, whatever the samples are.
    squares = np.zeros((2, n_picks, n_picks))
    flags = np.zeros((2, n_picks), np.bool_)
    return maxima, squares[0], squares[1], *flags, *np.zeros((6, n_picks))


# To be compiled once only, a function must always get the same types: a literal 0 is another type
# than an integer. None in the place of True leaves out all that it stands for.
@jit(*_FAST)
def pursue_rows(  # type: ignore[no-untyped-def]  # pragma: no cover
    correlations, gram, first, last, per_iteration, refit, absolute, repeats, positive, dependent,
    picks, values,
    maxima, inner, factor, kept, passive, met, whole, solution, change, trial, current,
):  # fmt: skip
    """Picks and coefficients of the rows from `first` to before `last`.

    Parameters
    ----------
    correlations : ndarray of shape (n_samples, n_atoms)
        Inner products of the samples with the atoms; overwritten.
    gram : ndarray of shape (n_atoms, n_atoms)
        Inner products of the atoms.
    first, last : int
        Rows to do.
    per_iteration : int
        L; at most the number of atoms.
    refit : int
        `BLOCK`, `FULL` or `FINAL`.
    absolute, repeats : bool
        Pick by magnitude; pick an atom again.
    positive : True or None
        Allow no negative coefficient.
    dependent : float
        Share of an atom's squared length below which what is left of it counts as rounding.
    picks : ndarray of int64, shape (n_samples, n_picks)
        Written: picked atoms.
    values : ndarray of shape (n_samples, n_picks)
        Written: their coefficients.
    maxima, inner, factor, kept, passive, met, whole, solution, change, trial, current : ndarray
        What `scratch` returns.
    """
    zero = first - first
    n_picks = picks.shape[1]
    for row in range(first, last):
        c = correlations[row]
        chosen = picks[row]
        start = zero
        while start < n_picks:
            stop = min(start + per_iteration, n_picks)
            _block_maxima(c, absolute, maxima)
            _pick(c, absolute, repeats, maxima, chosen, start, stop, met)
            origin = zero if refit == FULL else start
            _inner_products(gram, chosen, origin, start, stop, inner)
            if refit == FULL:
                _whole_products(inner, met, solution, start, stop, whole)
                _extend_factor(inner, factor, kept, zero, start, stop, dependent)
                for i in range(stop):
                    change[i] = -solution[i] if i < start else 0.0
                _solve(
                    inner, factor, kept, whole, zero, stop, positive, dependent, solution,
                    passive, trial, current,
                )  # fmt: skip
                for i in range(stop):
                    change[i] += solution[i]
                if stop < n_picks:
                    _subtract(c, gram, chosen, change, zero, stop)
            else:
                _extend_factor(inner, factor, kept, start, start, stop, dependent)
                _solve(
                    inner, factor, kept, met, start, stop, positive, dependent, solution,
                    passive, trial, current,
                )  # fmt: skip
                if stop < n_picks:
                    _subtract(c, gram, chosen, solution, start, stop)
                if refit == FINAL:
                    # By now the rows of the Gram matrix are in the cache.
                    _inner_products(gram, chosen, zero, start, stop, inner)
                    _whole_products(inner, met, solution, start, stop, whole)
            if absolute and not repeats:
                for i in range(stop):
                    c[chosen[i]] = 0
            start = stop
        if refit == FINAL:
            _extend_factor(inner, factor, kept, zero, zero, n_picks, dependent)
            _solve(
                inner, factor, kept, whole, zero, n_picks, positive, dependent, solution,
                passive, trial, current,
            )  # fmt: skip
        for i in range(n_picks):
            values[row, i] = solution[i]


# Atoms of a block lie as far apart as there are blocks, so that the maxima of neighbouring blocks are
# taken side by side.
@jit(*_FAST, "nnan")
def _block_maxima(c, absolute, maxima):  # type: ignore[no-untyped-def]  # pragma: no cover
    n = len(maxima)
    for b in range(_count(n)):
        maxima[b] = abs(c[b]) if absolute else c[b]
    for start in range(n, len(c), n):
        row = c[start : start + n]
        if absolute:
            for b in range(_count(len(row))):
                maxima[b] = max(maxima[b], abs(row[b]))
        else:
            for b in range(_count(len(row))):
                maxima[b] = max(maxima[b], row[b])


@jit()
def _pick(  # type: ignore[no-untyped-def]  # pragma: no cover
    c, absolute, repeats, maxima, chosen, start, stop, met
):
    """Best atoms first, of equal ones that with the lowest number; barred until they may repeat."""
    n_blocks = len(maxima)
    for i in range(start, stop):
        top = maxima[0]
        for b in range(1, n_blocks):
            if maxima[b] > top:
                top = maxima[b]
        best = len(c)
        for b in range(n_blocks):
            if maxima[b] == top:
                m = b
                while m < best and (abs(c[m]) if absolute else c[m]) != top:
                    m += n_blocks
                best = min(best, m)
        if absolute and top == 0:
            # Barred atoms are zero too: take the first that is not among them.
            best = _first_free(chosen, start if repeats else start - start, i)
        chosen[i] = best
        met[i] = c[best]
        c[best] = 0 if absolute else -np.inf
        block = best % n_blocks
        top = c.dtype.type(-np.inf)
        for m in range(block, len(c), n_blocks):
            value = abs(c[m]) if absolute else c[m]
            if value > top:
                top = value
        maxima[block] = top
    if repeats:
        for i in range(start, stop):
            c[chosen[i]] = met[i]


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


@jit(*_FAST)
def _subtract(  # type: ignore[no-untyped-def]  # pragma: no cover
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
        for m in range(_count(len(c))):
            c[m] -= z0 * g0[m] + z1 * g1[m] + z2 * g2[m] + z3 * g3[m] + z4 * g4[m]
        i += 5
    while i + 2 <= stop:
        z0, z1 = kind(amounts[i]), kind(amounts[i + 1])
        g0, g1 = gram[chosen[i]], gram[chosen[i + 1]]
        for m in range(_count(len(c))):
            c[m] -= z0 * g0[m] + z1 * g1[m]
        i += 2
    if i < stop:
        z0, g0 = kind(amounts[i]), gram[chosen[i]]
        for m in range(_count(len(c))):
            c[m] -= z0 * g0[m]


@jit()
def _inner_products(  # type: ignore[no-untyped-def]  # pragma: no cover
    gram, chosen, origin, start, stop, inner
):
    """Rows `start` to `stop` of the lower triangle of the picks' Gram matrix."""
    for i in range(start, stop):
        near = gram[chosen[i]]
        for j in range(origin, i + 1):
            inner[i, j] = near[chosen[j]]


@jit(*_FAST)
def _whole_products(  # type: ignore[no-untyped-def]  # pragma: no cover
    inner, met, solution, start, stop, whole
):
    """Inner products of the sample with the new picks, from those of the residual."""
    for i in range(start, stop):
        total = met[i]
        row = inner[i]
        for j in range(_count(start)):
            total += row[j] * solution[j]
        whole[i] = total


@jit(*_FAST)
def _extend_factor(  # type: ignore[no-untyped-def]  # pragma: no cover
    inner, factor, kept, origin, start, stop, dependent
):
    """Rows `start` to `stop` of the Cholesky factor of the atoms from `origin` on.

    An atom that depends on those before it gets the row and column of the identity.
    """
    first = _count(origin)
    for i in range(start, stop):
        row = factor[i]
        pivot = inner[i, i]
        for j in range(origin, i):
            before = factor[j]
            total = inner[i, j]
            for k in range(first, _count(j)):
                total -= row[k] * before[k]
            total = total / before[j] if kept[j] else 0.0
            row[j] = total
            pivot -= total * total
        kept[i] = pivot > dependent * inner[i, i]
        if kept[i]:
            row[i] = np.sqrt(pivot)
        else:
            row[i] = 1.0
            row[origin:i] = 0.0


@jit(*_FAST)
def _substitute(  # type: ignore[no-untyped-def]  # pragma: no cover
    factor, kept, target, origin, stop, solution
):
    """Solve with a Cholesky factor; dependent atoms get 0."""
    first = _count(origin)
    for i in range(origin, stop):
        row = factor[i]
        total = target[i] if kept[i] else 0.0
        for j in range(first, _count(i)):
            total -= row[j] * solution[j]
        solution[i] = total / row[i]
    for i in range(stop - 1, origin - 1, -1):
        row = factor[i]
        total = solution[i] / row[i]
        solution[i] = total
        for j in range(first, _count(i)):
            solution[j] -= row[j] * total


@jit()
def _solve(  # type: ignore[no-untyped-def]  # pragma: no cover
    inner, factor, kept, target, origin, stop, positive, dependent, solution,
    passive, trial, current,
):  # fmt: skip
    _substitute(factor, kept, target, origin, stop, solution)
    if positive is not None:
        negative = False
        for i in range(origin, stop):
            negative = negative or solution[i] < 0
        if negative:
            _nonnegative(inner, target, origin, stop, dependent, solution, passive, trial, current)


@jit()
def _nonnegative(  # type: ignore[no-untyped-def]  # pragma: no cover
    inner, target, origin, stop, dependent, solution, passive, trial, current
):
    """Non-negative least squares by the active set of Lawson and Hanson, started from all atoms."""
    zero = origin - origin
    size = stop - origin
    members = np.zeros(size, np.int64)
    between = np.zeros((size, size))
    factor = np.zeros((size, size))
    kept = np.zeros(size, np.bool_)
    aim = np.zeros(size)
    solved = np.zeros(size)
    largest = 0.0
    for i in range(origin, stop):
        passive[i] = True
        current[i] = 0.0
        largest = max(largest, abs(target[i]))
    slack = dependent * largest
    for _ in range(3 * size + 20):
        n = 0
        for i in range(origin, stop):
            if passive[i]:
                members[n] = i
                n += 1
        for a in range(n):
            aim[a] = target[members[a]]
            for b in range(a + 1):
                between[a, b] = inner[members[a], members[b]]
        _extend_factor(between, factor, kept, zero, zero, n, dependent)
        _substitute(factor, kept, aim, zero, n, solved)
        for a in range(n):
            trial[members[a]] = solved[a]
        step = 1.0
        feasible = True
        for k in range(n):
            i = members[k]
            if trial[i] <= 0:
                feasible = False
                step = min(step, current[i] / (current[i] - trial[i]) if current[i] > 0 else 0.0)
        if not feasible:
            for k in range(n):
                i = members[k]
                leaving = trial[i] <= 0
                current[i] += step * (trial[i] - current[i])
                if leaving and current[i] <= slack * 1e-3:
                    current[i] = 0.0
                    passive[i] = False
            continue
        for k in range(n):
            current[members[k]] = trial[members[k]]
        steepest, entering = slack, -1
        for i in range(origin, stop):
            if not passive[i]:
                slope = target[i]
                for k in range(n):
                    j = members[k]
                    slope -= (inner[i, j] if i >= j else inner[j, i]) * current[j]
                if slope > steepest:
                    steepest, entering = slope, i
        if entering < 0:
            break
        passive[entering] = True
    for i in range(origin, stop):
        solution[i] = current[i]
