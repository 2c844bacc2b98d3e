"""Sums over codes that tensors and sparse matrices are slow at, compiled for the processor."""

from __future__ import annotations

from napari_microdl.estimators.pursuit.jit import jit


@jit()
def add_squares(indices, values, squares):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add the products of the codes with each other, Z'Z.

    Parameters
    ----------
    indices, values : ndarray of shape (n_samples, n_picks)
        Codes Z; coefficients of an atom picked twice add up.
    squares : ndarray of shape (n_atoms, n_atoms)
        Added to.
    """
    n_samples, n_picks = indices.shape
    for row in range(n_samples):
        for i in range(n_picks):
            z = values[row, i]
            if z != 0:
                near = squares[indices[row, i]]
                for j in range(n_picks):
                    near[indices[row, j]] += z * values[row, j]
