"""Planted dictionaries: samples that are sums of a few known atoms, with noise.

The problems of `recovery.py` and `encode.py` are made here, so that every learner and coder gets
the same numbers from the same seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float32]

# Samples drawn at a time; the widest intermediate array has this many rows and n_true columns.
_CHUNK_ROWS = 4096
_FOUND = 0.9


@dataclass(frozen=True)
class Problem:
    """Sizes of a planted problem and of the dictionary that is to be learned from it.

    Parameters
    ----------
    width : int
        Dimensions of a sample.
    n_true : int
        Planted atoms.
    n_active : int
        Planted atoms in each sample, and the non-zeros that a learner may use for one.
    n_atoms : int
        Atoms to learn.
    atoms_per_iteration : int
        L of the pursuits of ICFL; J is n_active / L.
    correlation : float
        Cosine between atoms of one group.
    """

    width: int
    n_true: int
    n_active: int
    n_atoms: int
    atoms_per_iteration: int = 5
    correlation: float = 0.0

    @property
    def n_iterations(self) -> int:
        """J of the pursuits of ICFL."""
        return self.n_active // self.atoms_per_iteration

    def summary(self, n_samples: int) -> str:
        """What is planted, and in how many samples of those asked for, in words."""
        groups = f", cosine {self.correlation} within groups" if self.correlation else ""
        return (
            f"{self.n_true} atoms in {self.width} dimensions, {self.n_active} in a sample{groups}; "
            f"{n_samples} samples"
        )

    def draw(self, n_samples: int, n_held_out: int, seed: int) -> tuple[Floats, Floats, Floats]:
        """Samples to learn from, held-out samples, and the atoms.

        Parameters
        ----------
        n_samples, n_held_out : int
            Samples of each kind.
        seed : int
            Seed of atoms and samples.

        Returns
        -------
        x, held_out, atoms : ndarray of float32
            Rows are samples or atoms.
        """
        x, atoms = planted_samples(
            n_samples + n_held_out,
            self.width,
            self.n_true,
            self.n_active,
            correlation=self.correlation,
            seed=seed,
        )
        return x[:n_samples], x[n_samples:], atoms


def planted_atoms(
    n_true: int,
    width: int,
    *,
    correlation: float = 0.0,
    group_size: int = 8,
    rng: np.random.Generator,
) -> Floats:
    """Unit atoms in random directions, alone or in groups that share a direction.

    Parameters
    ----------
    n_true : int
        Number of atoms.
    width : int
        Their length as vectors.
    correlation : float
        Expected cosine between two atoms of a group; 0 makes all of them independent.
    group_size : int
        Atoms in a group. Which atoms belong together is random, so that a group holds frequent
        atoms and rare ones.
    rng : numpy.random.Generator
        Where randomness comes from.

    Returns
    -------
    ndarray of float32, shape (n_true, width)
        Atoms in rows.
    """
    own = rng.normal(size=(n_true, width))
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    if correlation:
        shared = rng.normal(size=(-(-n_true // group_size), width))
        shared /= np.linalg.norm(shared, axis=1, keepdims=True)
        group = rng.permutation(np.arange(n_true) // group_size)
        own = np.sqrt(correlation) * shared[group] + np.sqrt(1 - correlation) * own
        own /= np.linalg.norm(own, axis=1, keepdims=True)
    return own.astype(np.float32)


def samples_of(
    atoms: Floats,
    n_samples: int,
    n_active: int,
    *,
    snr_db: float = 20.0,
    power: float = 0.5,
    rng: np.random.Generator,
) -> Floats:
    """Samples that are positive sums of a few atoms, with white noise.

    Parameters
    ----------
    atoms : ndarray of float32, shape (n_true, width)
        The planted dictionary.
    n_samples : int
        Number of samples.
    n_active : int
        Different atoms in each sample. Their coefficients are exponential with mean 1, plus 0.2.
    snr_db : float
        Energy of the samples over that of the noise, in decibels.
    power : float
        Atoms are drawn in proportion to m^-power, m = 1, 2, ..., without replacement.
    rng : numpy.random.Generator
        Where randomness comes from.

    Returns
    -------
    ndarray of float32, shape (n_samples, width)
        Samples in rows.
    """
    n_true, width = atoms.shape
    frequency = np.arange(1, n_true + 1, dtype=np.float32) ** -power
    x = np.empty((n_samples, width), np.float32)
    for start in range(0, n_samples, _CHUNK_ROWS):
        rows = min(_CHUNK_ROWS, n_samples - start)
        # The first arrivals of exponential clocks are draws without replacement.
        arrival = rng.standard_exponential((rows, n_true), dtype=np.float32) / frequency
        active = np.argpartition(arrival, n_active - 1, axis=1)[:, :n_active]
        amount = rng.standard_exponential((rows, n_active), dtype=np.float32) + np.float32(0.2)
        pointer = np.arange(0, rows * n_active + 1, n_active)
        codes = sparse.csr_array((amount.ravel(), active.ravel(), pointer), shape=(rows, n_true))
        x[start : start + rows] = codes @ atoms
    energy = float(np.einsum("ij,ij->", x, x, dtype=np.float64))
    spread = np.float32(np.sqrt(energy / x.size / 10 ** (snr_db / 10)))
    for start in range(0, n_samples, _CHUNK_ROWS):
        chunk = x[start : start + _CHUNK_ROWS]
        chunk += spread * rng.standard_normal(chunk.shape, dtype=np.float32)
    return x


def planted_samples(
    n_samples: int,
    width: int,
    n_true: int,
    n_active: int,
    *,
    snr_db: float = 20.0,
    power: float = 0.5,
    correlation: float = 0.0,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """A planted dictionary and samples of it.

    Parameters
    ----------
    n_samples, width, n_true, n_active, snr_db, power, correlation
        See `samples_of` and `planted_atoms`.
    seed : int
        Seed of atoms and samples.

    Returns
    -------
    x : ndarray of float32, shape (n_samples, width)
        Samples.
    atoms : ndarray of float32, shape (n_true, width)
        What they are made of.
    """
    rng = np.random.default_rng(seed)
    atoms = planted_atoms(n_true, width, correlation=correlation, rng=rng)
    return samples_of(atoms, n_samples, n_active, snr_db=snr_db, power=power, rng=rng), atoms


def recovered(true: Floats, learned: Floats) -> float:
    """Share of the planted atoms met by a learned one at an absolute cosine above 0.9.

    Parameters
    ----------
    true : ndarray of shape (n_true, width)
        Planted atoms, of unit length.
    learned : ndarray of shape (n_atoms, width)
        Learned atoms, of any length.

    Returns
    -------
    float
        Between 0 and 1.
    """
    norm = np.linalg.norm(learned, axis=1, keepdims=True)
    unit = learned / np.where(norm > 0, norm, 1)
    return float((np.abs(true @ unit.T).max(axis=1) > _FOUND).mean())


def explained(x: Floats, reconstruction: Floats) -> float:
    """R2: 1 minus the squared error over the squared distance of the samples from their mean.

    Parameters
    ----------
    x, reconstruction : ndarray of shape (n_samples, width)
        Samples and what a learner makes of them.

    Returns
    -------
    float
        1 for a perfect reconstruction.
    """
    error = np.square(x - reconstruction, dtype=np.float64).sum()
    return 1 - float(error / np.square(x - x.mean(axis=0), dtype=np.float64).sum())
