"""Fits from several starts, of which one is kept: where a fit ends depends on where it begins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import clone

from napari_microdl.core.task import current_task
from napari_microdl.estimators.icfl.estimator import ICFL
from napari_microdl.estimators.icfl.plan import default_size

# Up to so many atoms and samples a fit takes seconds, and is begun so many times.
_FEW_ATOMS, _FEW_SAMPLES, _STARTS = 256, 50_000, 8


def default_starts(n_atoms: int, n_samples: int) -> int:
    """How many starts suit a fit: 8 up to 256 atoms and 50,000 samples, else 1."""
    return _STARTS if n_atoms <= _FEW_ATOMS and n_samples <= _FEW_SAMPLES else 1


def start_seed(random_state: int, number: int) -> int:
    """Seed of one start; the first has that of the run."""
    if number == 0:
        return random_state
    return int(np.random.RandomState([random_state, number]).randint(2**31 - 1))


def used_atoms(codes: sparse.csr_array) -> float:
    """Over how many atoms the energy of codes is spread (participation ratio).

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_atoms)
        Codes of the samples of the fit.

    Returns
    -------
    float
        Between 1, where one atom has it all, and the number of atoms, where all have the same.

    Notes
    -----
    Ours. Of fits from different starts that explain the samples equally well, those whose energy is
    on few atoms have not split a concept in two: their concepts are more selective, and come back
    from seed to seed (docs/results.md). It knows nothing of conditions.
    """
    energy = np.asarray(codes.multiply(codes).sum(axis=0), np.float64).ravel()
    total = float(energy.sum())
    return 0.0 if total == 0 else total**2 / float(np.square(energy).sum())


def fit_steadiest(
    icfl: ICFL,
    x: NDArray[np.float32],
    random_state: int,
    n_starts: int | None,
    *,
    controls: NDArray[np.bool_] | None = None,
    message: str,
) -> ICFL:
    """Fit from several starts, and keep the fit whose energy is on the fewest atoms.

    Parameters
    ----------
    icfl : ICFL
        Its settings; itself it is not fitted.
    x : ndarray of shape (n_samples, n_features)
        Samples.
    random_state : int
        Seed of the first start, from which those of the others are drawn.
    n_starts : int, optional
        How many; `None` for what suits the size.
    controls : ndarray of bool, shape (n_samples,), optional
        Which are controls, for dictionaries with atoms of their own for these.
    message : str
        What the current task tells of its progress.

    Returns
    -------
    ICFL
        Fitted.

    Raises
    ------
    MicrodlError
        As `ICFL.fit`.
    """
    task, n_atoms = current_task(), icfl.n_atoms or default_size(*x.shape)[0]
    n_starts = n_starts or default_starts(n_atoms, len(x))
    least, best = np.inf, icfl
    for number in range(n_starts):
        fit = clone(icfl).set_params(random_state=start_seed(random_state, number))
        start = f", start {number + 1} of {n_starts}" if n_starts > 1 else ""
        for record in fit.fit_iter(x, controls=controls):
            total = max(record.total_steps or record.step, 1)
            done = number * total + min(record.step, total)
            text = f"{message}{start}: explains {record.r2:.1%}"
            task.progress(done, n_starts * total, text, record=record)
        spread = used_atoms(fit.transform(x)) if n_starts > 1 else 0.0
        if spread < least:
            least, best = spread, fit
    return best
