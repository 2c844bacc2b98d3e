"""Chooses how much the control eigenvalues are shrunk, from control fields that are left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.arrays import blas_threads, eigh
from napari_microdl.core.task import current_task
from napari_microdl.estimators.whitening import ControlWhitening

# From hardly any to nearly no whitening, in units of the median eigenvalue.
_CANDIDATES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
# A left-out control may be this much longer, in squared length, than those the whitening saw.
_TOLERANCE = 1.25
_PARTS = 5


def left_out_excess(
    controls: NDArray[np.floating], groups: NDArray[np.generic], shrinkages: tuple[float, ...]
) -> NDArray[np.float64]:
    """How much longer whitened controls become when their field was left out of the fit.

    Parameters
    ----------
    controls : ndarray of shape (n, d)
        Control samples.
    groups : ndarray of shape (n,)
        The field of each; every field is left out once. With a single field, consecutive fifths
        of it take turns.
    shrinkages : tuple of float
        Candidates, in units of the median eigenvalue.

    Returns
    -------
    ndarray of shape (len(shrinkages),)
        Mean over fields of the mean squared length of left-out samples over that of fitted ones.
    """
    task = current_task()
    names = np.unique(groups)
    if len(names) < 2:
        groups = np.arange(len(controls)) * _PARTS // max(len(controls), 1)
        names = np.unique(groups)
    ratios = []
    for name in names:
        task.check()
        fitted, left_out = controls[groups != name], controls[groups == name]
        if len(fitted) < 2 or not len(left_out):
            continue
        mean = fitted.mean(0, dtype=np.float64)
        inside, outside = fitted - mean, left_out - mean
        task.check()
        values, directions = eigh(inside.T @ inside / (len(fitted) - 1))
        task.check()
        values = np.maximum(values, 0)
        positive = values[values > values[-1] * 1e-10]
        if not len(positive):
            continue
        energy_inside = ((inside @ directions) ** 2).mean(0)
        energy_outside = ((outside @ directions) ** 2).mean(0)
        scales = [1 / (values + s * float(np.median(positive))) for s in shrinkages]
        ratios.append([energy_outside @ k / (energy_inside @ k) for k in scales])
    if not ratios:
        return np.full(len(shrinkages), np.inf)
    return np.asarray(np.mean(ratios, axis=0))


def choose_shrinkage(controls: NDArray[np.floating], groups: NDArray[np.generic]) -> float:
    """The least shrinkage with which the whitening also holds for controls it has not seen.

    Parameters
    ----------
    controls : ndarray of shape (n, d)
        Control samples.
    groups : ndarray of shape (n,)
        The field of each.

    Returns
    -------
    float
        In units of the median eigenvalue, between 0.1 and 300.

    Notes
    -----
    Not in the paper, which has millions of samples. With few controls the weak eigenvalues are
    measured too small, so every unseen sample, treated or not, sticks out along them and the
    dictionary learns noise.
    """
    with blas_threads(1):
        excess = left_out_excess(controls, groups, _CANDIDATES)
    fine = np.flatnonzero(excess <= _TOLERANCE)
    return _CANDIDATES[int(fine[0])] if len(fine) else _CANDIDATES[-1]


def fit_whitening(
    controls: NDArray[np.floating],
    groups: NDArray[np.generic],
    n_components: int | None = None,
    shrinkage: float | None = None,
    nuisance: NDArray[np.float64] | None = None,
) -> ControlWhitening:
    """A whitening of controls, its shrinkage chosen where it is not given.

    Parameters
    ----------
    controls, groups
        As for `choose_shrinkage`.
    n_components, shrinkage
        As for `ControlWhitening`.
    nuisance : ndarray of shape (d, d), optional
        Covariance of what is to count less, see `ControlWhitening.add_nuisance`.

    Returns
    -------
    ControlWhitening
        Fitted.
    """
    if shrinkage is None:
        shrinkage = choose_shrinkage(controls, groups)
    whitening = ControlWhitening(n_components, shrinkage=shrinkage).fit(controls)
    return whitening if nuisance is None else whitening.add_nuisance(nuisance)
