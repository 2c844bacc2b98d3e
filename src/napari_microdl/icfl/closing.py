"""The closed-form dictionary that is optimal for the codes of given samples."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, TimeoutError

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from napari_microdl.icfl.learner import Learner, products_with_codes
from napari_microdl.pursuit import codes_to_csr
from napari_microdl.pursuit.kernels import compiled_module
from napari_microdl.pursuit.tensors import weighted_rows

# Pull towards the atoms as they were, relative to the mean sum of z^2.
_RIDGE = 1e-3
# Samples coded between two chances to cancel.
_ROWS = 2048
_WAIT_SECONDS = 0.1


def close(learner: Learner, samples: NDArray[np.float32]) -> Iterator[None]:
    """Replace the free atoms by those that are optimal for the codes of the given samples.

    The method of optimal directions (Engan et al., 1999), solved for the change of the atoms:
    unused atoms stay, rare ones move little, frozen ones not at all.

    Parameters
    ----------
    learner : Learner
        Changed when the iteration ends; its activity counts are those of the given samples.
    samples : ndarray of float32, shape (n_samples, n_features)
        The same in every process.

    Yields
    ------
    None
        Often, so that a fit can be cancelled here too.
    """
    n_atoms, width = learner.atoms.shape
    squares = np.zeros((n_atoms, n_atoms), dtype=np.float32)
    pull = torch.zeros((n_atoms, width), device=learner.plan.device)
    activity = np.zeros(n_atoms, dtype=np.int64)
    own = samples[learner.processes.share]
    coder = learner.coder(len(own))
    for start in range(0, len(own), _ROWS):
        started = time.perf_counter()
        with torch.no_grad():
            x = learner.tensor(np.ascontiguousarray(own[start : start + _ROWS])) - learner.bias
            indices, values = coder.code(x)
            residual = x - weighted_rows(indices, values, learner.atoms)
            pull += products_with_codes(indices, values, residual, n_atoms)
        _add_squares(squares, indices.cpu().numpy(), values.cpu().numpy())
        activity += learner.activity(indices, values)
        learner.seconds += time.perf_counter() - started
        yield
    learner.processes.sum(torch.from_numpy(squares), torch.from_numpy(activity), pull)
    learner.active[:] = 0
    learner.active_of[:] = 0
    learner.active[0] = activity
    learner.active_of[0] = len(samples)
    started = time.perf_counter()
    free = slice(learner.n_frozen, None)
    squares = squares[free, free].copy()
    squares[np.diag_indices(len(squares))] += _RIDGE * max(
        float(np.trace(squares)) / len(squares), 1e-30
    )
    # LAPACK can take seconds and cannot be interrupted, but it lets other threads run.
    pool = ThreadPoolExecutor(1)
    solving = pool.submit(_solve, squares, pull.cpu().numpy()[free])
    pool.shutdown(wait=False)
    while True:
        try:
            change = solving.result(timeout=_WAIT_SECONDS)
            break
        except TimeoutError:
            yield
    moved = learner.atoms[free].cpu().numpy() + change
    norm = np.linalg.norm(moved, axis=1, keepdims=True)
    np.divide(moved, norm, out=moved, where=norm > 0)
    learner.atoms[free] = torch.from_numpy(moved).to(learner.plan.device)
    learner.seconds += time.perf_counter() - started


def _solve(squares: NDArray[np.float32], pull: NDArray[np.float32]) -> NDArray[np.float32]:
    solved: NDArray[np.float32] = cho_solve(
        cho_factor(squares, overwrite_a=True, check_finite=False), pull, check_finite=False
    )
    return solved


def _add_squares(
    squares: NDArray[np.float32], indices: NDArray[np.int64], values: NDArray[np.float32]
) -> None:
    """Add Z'Z."""
    compiled = compiled_module("napari_microdl.icfl.compiled")
    if compiled is not None:
        compiled.add_squares(indices, values, squares)
        return
    codes = codes_to_csr(indices, values, len(squares))
    squares += codes.T @ codes
