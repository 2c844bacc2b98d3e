"""Fits from several starts, of which one is kept: where a fit ends depends on where it begins."""

from __future__ import annotations

import numpy as np
from scipy import sparse

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
