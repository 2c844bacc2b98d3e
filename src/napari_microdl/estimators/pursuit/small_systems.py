"""Compiled least squares of a few atoms, by a Cholesky factor that grows with the picks."""

from __future__ import annotations

import numpy as np

from napari_microdl.estimators.pursuit.jit import FAST, count, jit


@jit(*FAST)
def extend_factor(  # type: ignore[no-untyped-def]  # pragma: no cover
    inner, factor, independent, origin, start, stop, dependent
):
    """Rows `start` to `stop` of the Cholesky factor of the atoms from `origin` on.

    An atom that depends on those before it gets the row and column of the identity.
    """
    first = count(origin)
    for i in range(start, stop):
        row = factor[i]
        pivot = inner[i, i]
        for j in range(origin, i):
            before = factor[j]
            total = inner[i, j]
            for k in range(first, count(j)):
                total -= row[k] * before[k]
            total = total / before[j] if independent[j] else 0.0
            row[j] = total
            pivot -= total * total
        independent[i] = pivot > dependent * inner[i, i]
        if independent[i]:
            row[i] = np.sqrt(pivot)
        else:
            row[i] = 1.0
            row[origin:i] = 0.0


@jit(*FAST)
def _substitute(  # type: ignore[no-untyped-def]  # pragma: no cover
    factor, independent, target, origin, stop, solution
):
    """Solve with a Cholesky factor; dependent atoms get 0."""
    first = count(origin)
    for i in range(origin, stop):
        row = factor[i]
        total = target[i] if independent[i] else 0.0
        for j in range(first, count(i)):
            total -= row[j] * solution[j]
        solution[i] = total / row[i]
    for i in range(stop - 1, origin - 1, -1):
        row = factor[i]
        total = solution[i] / row[i]
        solution[i] = total
        for j in range(first, count(i)):
            solution[j] -= row[j] * total


@jit()
def solve(  # type: ignore[no-untyped-def]  # pragma: no cover
    inner, factor, independent, target, origin, stop, positive, dependent, solution,
    passive, trial, current,
):  # fmt: skip
    """Least squares of the picks from `origin` on, without negative coefficients if `positive`."""
    _substitute(factor, independent, target, origin, stop, solution)
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
    independent = np.zeros(size, np.bool_)
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
        extend_factor(between, factor, independent, zero, zero, n, dependent)
        _substitute(factor, independent, aim, zero, n, solved)
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
