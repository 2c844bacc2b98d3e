"""The pursuit that picks by rounded numbers and solves by exact ones, compiled for the processor.

What a pursuit costs beyond its first product is reading rows of the atoms' Gram matrix, which is
too large for the cache. Here these are 8-bit integers, a quarter of the bytes, and only say which
atoms to pick. Coefficients come from the residual itself, which costs a few products with the
picked atoms, and from single numbers of the Gram matrix in 16 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.estimators.pursuit import compiled
from napari_microdl.estimators.pursuit.compiled import FINAL
from napari_microdl.estimators.pursuit.jit import FAST, count, jit
from napari_microdl.estimators.pursuit.picking import block_maxima, pick, subtract
from napari_microdl.estimators.pursuit.small_systems import extend_factor, solve

# The Gram matrix is rounded, so what lies this near the span of other picks cannot be told from it.
DEPENDENT = 1e-3


def scratch(n_atoms: int, n_features: int, n_picks: int) -> tuple[NDArray[Any], ...]:
    """Memory that `pursue_rows` works in; every thread needs its own.

    Parameters
    ----------
    n_atoms, n_features, n_picks : int
        Sizes of the problem.

    Returns
    -------
    tuple of ndarray
        The last arguments of `pursue_rows`.
    """
    shared = compiled.scratch(n_atoms, n_picks, np.dtype(np.float32))
    return np.zeros(n_features, np.float32), np.zeros(n_picks), *shared


@jit(*FAST)
def pursue_rows(  # type: ignore[no-untyped-def]  # pragma: no cover
    samples, correlations, atoms, lengths, high, low, steps, uneven, first, last,
    per_iteration, refit, absolute, repeats, positive, dependent, picks, values,
    residual, amounts,
    maxima, bits, inner, factor, independent, passive, met, whole, solution, change, trial, current,
):  # fmt: skip
    """Picks and coefficients of the rows from `first` to before `last`.

    Parameters
    ----------
    samples : ndarray of float32, shape (n_samples, n_features)
        Samples.
    correlations : ndarray of float32, shape (n_samples, n_atoms)
        About the inner products of the samples with the atoms; overwritten.
    atoms : ndarray of float32, shape (n_atoms, n_features)
        The dictionary.
    lengths : ndarray of float32, shape (n_atoms,)
        Squared lengths of the atoms.
    high, low, steps, uneven : ndarray
        As in `napari_microdl.estimators.pursuit.torch_backend.RoundedGram`.
    first, last : int
        Rows to do.
    per_iteration : int
        L; at most the number of atoms.
    refit : int
        `BLOCK` or `FINAL` of the compiled pursuit.
    absolute, repeats : bool
        Pick by magnitude; pick an atom again.
    positive : True or None
        Allow no negative coefficient.
    dependent : float
        Share of an atom's squared length below which what is left of it counts as rounding.
    picks : ndarray of int64, shape (n_samples, n_picks)
        Written: picked atoms.
    values : ndarray of float32, shape (n_samples, n_picks)
        Written: their coefficients.
    residual, amounts : ndarray
        The first that `scratch` returns; the rest are those of the compiled pursuit.
    """
    zero = first - first
    n_picks = picks.shape[1]
    for row in range(first, last):
        c = correlations[row]
        chosen = picks[row]
        residual[:] = samples[row]
        start = zero
        while start < n_picks:
            stop = min(start + per_iteration, n_picks)
            block_maxima(c, absolute, maxima)
            pick(c, absolute, repeats, maxima, bits, chosen, start, stop, met)
            _products(residual, atoms, chosen, start, stop, met)
            _inner_products(high, low, steps, lengths, chosen, start, start, stop, inner)
            extend_factor(inner, factor, independent, start, start, stop, dependent)
            solve(
                inner, factor, independent, met, start, stop, positive, dependent, solution,
                passive, trial, current,
            )  # fmt: skip
            if stop < n_picks:
                subtract(residual, atoms, chosen, solution, start, stop)
                for i in range(start, stop):
                    amounts[i] = solution[i] * steps[chosen[i]] * 256
                subtract(c, high, chosen, amounts, start, stop)
                for i in range(start, stop):
                    if uneven[chosen[i]]:
                        amounts[i] = solution[i] * steps[chosen[i]]
                        subtract(c, low, chosen, amounts, i, i + 1)
                if repeats:
                    _products(residual, atoms, chosen, start, stop, change)
                    for i in range(start, stop):
                        c[chosen[i]] = change[i]
            if absolute and not repeats:
                for i in range(stop):
                    c[chosen[i]] = 0
            start = stop
        if refit == FINAL:
            _products(samples[row], atoms, chosen, zero, n_picks, whole)
            _inner_products(high, low, steps, lengths, chosen, zero, zero, n_picks, inner)
            extend_factor(inner, factor, independent, zero, zero, n_picks, dependent)
            solve(
                inner, factor, independent, whole, zero, n_picks, positive, dependent, solution,
                passive, trial, current,
            )  # fmt: skip
        for i in range(n_picks):
            values[row, i] = solution[i]


@jit(*FAST)
def _products(  # type: ignore[no-untyped-def]  # pragma: no cover
    x, atoms, chosen, start, stop, products
):
    """Inner products of a vector with picked atoms, several to one pass through it."""
    zero = x.dtype.type(0)
    i = start
    while i + 5 <= stop:
        w0, w1, w2 = atoms[chosen[i]], atoms[chosen[i + 1]], atoms[chosen[i + 2]]
        w3, w4 = atoms[chosen[i + 3]], atoms[chosen[i + 4]]
        t0, t1, t2, t3, t4 = zero, zero, zero, zero, zero
        for m in range(count(len(x))):
            t0 += x[m] * w0[m]
            t1 += x[m] * w1[m]
            t2 += x[m] * w2[m]
            t3 += x[m] * w3[m]
            t4 += x[m] * w4[m]
        products[i], products[i + 1], products[i + 2] = t0, t1, t2
        products[i + 3], products[i + 4] = t3, t4
        i += 5
    while i < stop:
        w0, t0 = atoms[chosen[i]], zero
        for m in range(count(len(x))):
            t0 += x[m] * w0[m]
        products[i] = t0
        i += 1


@jit()
def _inner_products(  # type: ignore[no-untyped-def]  # pragma: no cover
    high, low, steps, lengths, chosen, origin, start, stop, inner
):
    """Rows `start` to `stop` of the lower triangle of the picks' Gram matrix."""
    for i in range(start, stop):
        atom = chosen[i]
        upper, lower, step = high[atom], low[atom], steps[atom]
        for j in range(origin, i):
            other = chosen[j]
            if other == atom:
                inner[i, j] = lengths[atom]
            else:
                inner[i, j] = (256 * int(upper[other]) + int(lower[other])) * step
        inner[i, i] = lengths[atom]
