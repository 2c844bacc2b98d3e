"""Sizes and settings of a fit with no default left open, and what it tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_microdl.core.config import Init, Update
from napari_microdl.estimators.pursuit import PursuitOptions


@dataclass(frozen=True)
class Plan:
    """Settings of one fit.

    Parameters
    ----------
    n_atoms : int
        M, the frozen atoms of `Learner` among them.
    coding : PursuitOptions
        J, L and how samples are coded.
    update, learning_rate, batch_size, init
        See `ICFL`.
    max_steps : int or None
        Steps of the fit; None goes on until a stream ends.
    early_stopping, tol, n_iter_no_change
        See `ICFL`.
    device : str
        Where to compute, as torch names it.
    """

    n_atoms: int
    coding: PursuitOptions
    update: Update
    learning_rate: float
    batch_size: int
    max_steps: int | None
    init: Init
    early_stopping: bool
    tol: float
    n_iter_no_change: int
    device: str


class FewSamplesWarning(UserWarning):
    """There are fewer samples than atoms."""


@dataclass(frozen=True)
class FitRecord:
    """Where a fit stands.

    Parameters
    ----------
    step : int
        Steps done.
    total_steps : int or None
        Steps in all; for `ICFL.partial_fit`, the steps done so far. None while a stream goes on
        whose length is not known.
    n_samples : int
        Samples seen so far, repeated ones counted again.
    r2 : float
        Share of the energy of x - bias that the codes reconstruct, over the samples of this step;
        in the last record of a fit, over samples drawn from all.
    dead_atoms : int
        Atoms active in fewer than 1e-5 of the samples of the last 1,000 steps.
    resets : int
        Atoms drawn anew so far.
    seconds : float
        Time spent so far.
    held_out_r2 : float or None
        The same share over samples that the fit never learns from, measured every 20 steps; None
        before the first time and where no samples are held out.
    """

    step: int
    total_steps: int | None
    n_samples: int
    r2: float
    dead_atoms: int
    resets: int
    seconds: float
    held_out_r2: float | None = None


def default_size(n_samples: int, n_features: int) -> tuple[int, int, int]:
    """Size of the dictionary and sparsity of the codes that suit a number of samples.

    About 24 samples an atom, as a power of two between 16 and 8192, and never more atoms than
    samples: with fewer samples an atom, atoms of whitened cells fitted noise. Codes have at most 20
    non-zeros in four iterations of five, fewer where the dictionary has under 160 atoms or the
    samples under 80 dimensions, so that a code stays sparse against both.

    Parameters
    ----------
    n_samples : int
        Number of samples to learn from.
    n_features : int
        Width of a sample.

    Returns
    -------
    n_atoms, n_iterations, atoms_per_iteration : int
        M, J and L.

    Examples
    --------
    >>> default_size(5_000, 192)
    (256, 4, 5)
    >>> default_size(40_000_000, 1024)
    (8192, 4, 5)
    """
    exponent = round(float(np.log2(max(n_samples, 1) / 24)))
    n_atoms = min(int(np.clip(2.0**exponent, 16, 8192)), max(n_samples, 1))
    return n_atoms, *default_sparsity(n_atoms, n_features)


def default_sparsity(n_atoms: int, n_features: int) -> tuple[int, int]:
    """J and L that suit a dictionary; see `default_size`.

    Parameters
    ----------
    n_atoms, n_features : int
        Shape of the dictionary.

    Returns
    -------
    n_iterations, atoms_per_iteration : int
        J and L.
    """
    n_picks = max(1, min(20, n_atoms // 8, n_features // 4))
    # Few picks are better made two at a time than one by one.
    n_iterations = min(4 if n_picks > 4 else 2, n_picks)
    return n_iterations, n_picks // n_iterations


def default_batch(update: Update, n_atoms: int) -> int:
    """Samples a step."""
    # On planted dictionaries, smaller batches were too noisy for "newton", and larger ones saw more
    # samples for the same atoms.
    return 8192 if update == "adam" else int(np.clip(n_atoms // 2, 256, 8192))


def default_steps(update: Update, n_samples: int, batch_size: int) -> int:
    """Number of steps.

    Parameters
    ----------
    update : {"newton", "adam"}
        How atoms are learned.
    n_samples, batch_size : int
        Samples there are, and samples a step.

    Returns
    -------
    int
        10 passes within 300 to 1,500 steps for "newton", 60 within 2,000 to 300,000 for "adam".
    """
    passes, least, most = (10, 300, 1500) if update == "newton" else (60, 2000, 300_000)
    return int(np.clip(passes * n_samples // batch_size, least, most))
