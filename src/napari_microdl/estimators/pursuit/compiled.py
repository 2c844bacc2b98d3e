"""The pursuit through the Gram matrix, compiled for the processor sample by sample.

A sample's correlations stay in the cache while its atoms are picked, so this takes less time than
the same arithmetic on tensors (``benchmarks/encode.py``), to which it gives way where numba cannot
be imported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.estimators.pursuit import picking
from napari_microdl.estimators.pursuit.jit import FAST, count, jit
from napari_microdl.estimators.pursuit.picking import block_maxima, pick, subtract
from napari_microdl.estimators.pursuit.small_systems import extend_factor, solve

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
    # Small systems are solved in float64, whatever the samples are.
    squares = np.zeros((2, n_picks, n_picks))
    flags = np.zeros((2, n_picks), np.bool_)
    return *picking.scratch(n_atoms, dtype), squares[0], squares[1], *flags, *np.zeros((6, n_picks))


# To be compiled once only, a function must always get the same types: a literal 0 is another type
# than an integer. None in the place of True leaves out all that it stands for.
@jit(*FAST)
def pursue_rows(  # type: ignore[no-untyped-def]  # pragma: no cover
    correlations, gram, first, last, per_iteration, refit, absolute, repeats, positive, dependent,
    picks, values,
    maxima, bits, inner, factor, independent, passive, met, whole, solution, change, trial, current,
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
    maxima, bits, inner, factor, independent, passive, met, whole, solution, change, trial, current
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
            block_maxima(c, absolute, maxima)
            pick(c, absolute, repeats, maxima, bits, chosen, start, stop, met)
            origin = zero if refit == FULL else start
            _inner_products(gram, chosen, origin, start, stop, inner)
            if refit == FULL:
                _whole_products(inner, met, solution, start, stop, whole)
                extend_factor(inner, factor, independent, zero, start, stop, dependent)
                for i in range(stop):
                    change[i] = -solution[i] if i < start else 0.0
                solve(
                    inner, factor, independent, whole, zero, stop, positive, dependent, solution,
                    passive, trial, current,
                )  # fmt: skip
                for i in range(stop):
                    change[i] += solution[i]
                if stop < n_picks:
                    subtract(c, gram, chosen, change, zero, stop)
            else:
                extend_factor(inner, factor, independent, start, start, stop, dependent)
                solve(
                    inner, factor, independent, met, start, stop, positive, dependent, solution,
                    passive, trial, current,
                )  # fmt: skip
                if stop < n_picks:
                    subtract(c, gram, chosen, solution, start, stop)
                if refit == FINAL:
                    # By now the rows of the Gram matrix are in the cache.
                    _inner_products(gram, chosen, zero, start, stop, inner)
                    _whole_products(inner, met, solution, start, stop, whole)
            if absolute and not repeats:
                for i in range(stop):
                    c[chosen[i]] = 0
            start = stop
        if refit == FINAL:
            extend_factor(inner, factor, independent, zero, zero, n_picks, dependent)
            solve(
                inner, factor, independent, whole, zero, n_picks, positive, dependent, solution,
                passive, trial, current,
            )  # fmt: skip
        for i in range(n_picks):
            values[row, i] = solution[i]


@jit()
def _inner_products(  # type: ignore[no-untyped-def]  # pragma: no cover
    gram, chosen, origin, start, stop, inner
):
    """Rows `start` to `stop` of the lower triangle of the picks' Gram matrix."""
    for i in range(start, stop):
        near = gram[chosen[i]]
        for j in range(origin, i + 1):
            inner[i, j] = near[chosen[j]]


@jit(*FAST)
def _whole_products(  # type: ignore[no-untyped-def]  # pragma: no cover
    inner, met, solution, start, stop, whole
):
    """Inner products of the sample with the new picks, from those of the residual."""
    for i in range(start, stop):
        total = met[i]
        row = inner[i]
        for j in range(count(start)):
            total += row[j] * solution[j]
        whole[i] = total
