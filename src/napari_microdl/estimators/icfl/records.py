"""What a fit tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass


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
