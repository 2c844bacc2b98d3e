"""The closed-form dictionary that is optimal for the codes of given samples."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from napari_microdl.core.arrays import torch_threads
from napari_microdl.core.task import call_in_thread, current_task
from napari_microdl.estimators.icfl.learner import Learner, products_with_codes
from napari_microdl.estimators.pursuit import codes_to_csr
from napari_microdl.estimators.pursuit.options import compiled_module
from napari_microdl.estimators.pursuit.torch_backend import weighted_rows

# Pull towards the atoms as they were, relative to the mean sum of z^2.
_RIDGE = 1e-3


def solve_atoms(learner: Learner, pieces: Iterable[NDArray[np.float32]], n_samples: int) -> None:
    """Replace the free atoms by those that are optimal for the codes of the given samples.

    The method of optimal directions (Engan et al., 1999), solved for the change of the atoms:
    unused atoms stay, rare ones move little, frozen ones not at all.

    Parameters
    ----------
    learner : Learner
        Changed at the end; its activity counts are then those of the given samples.
    pieces : iterable of ndarray of float32, shape (n, n_features)
        Samples, the same in every process. One piece is held at a time.
    n_samples : int
        Samples in all of them.
    """
    n_atoms, width = learner.atoms.shape
    squares = np.zeros((n_atoms, n_atoms), dtype=np.float32)
    pull = torch.zeros((n_atoms, width), device=learner.plan.device)
    activity = np.zeros(n_atoms, dtype=np.int64)
    coder = learner.coder(n_samples // learner.processes.count)
    for piece in pieces:
        current_task().check()
        started = time.perf_counter()
        with torch.no_grad(), torch_threads(1):
            x = learner.centred(np.ascontiguousarray(piece[learner.processes.share]))
            indices, values = coder.code(x)
            residual = x - weighted_rows(indices, values, learner.atoms)
            pull += products_with_codes(indices, values, residual, n_atoms)
        _add_squares(squares, indices.cpu().numpy(), values.cpu().numpy())
        activity += learner.activity(indices, values)
        learner.seconds += time.perf_counter() - started
    # Its Gram matrix is as large as the sums are.
    del coder
    learner.processes.sum(torch.from_numpy(squares), torch.from_numpy(activity), pull)
    learner.active[:] = 0
    learner.active_of[:] = 0
    learner.active[0] = activity
    learner.active_of[0] = n_samples
    started = time.perf_counter()
    free = slice(learner.n_frozen, None)
    moved = torch.from_numpy(squares[free, free]).to(learner.plan.device)
    change = call_in_thread(_solve, moved, pull[free])
    atoms = learner.atoms[free] + change
    norm = torch.linalg.vector_norm(atoms, dim=1, keepdim=True)
    learner.atoms[free] = atoms / torch.where(norm > 0, norm, 1.0)
    learner.seconds += time.perf_counter() - started


def _solve(squares: torch.Tensor, pull: torch.Tensor) -> torch.Tensor:
    """Change of the atoms that is optimal but for the pull back; `squares` is changed."""
    diagonal = squares.diagonal()
    before = diagonal.clone()
    ridge = _RIDGE * before.mean().clamp_min(1e-30)
    failed = True
    while failed:
        # In place: of thousands of atoms a copy is hundreds of megabytes.
        diagonal.copy_(before + ridge)
        factor, info = torch.linalg.cholesky_ex(squares)
        # In float32, codes that nearly always come together can need a stronger pull.
        failed, ridge = bool(info), 10 * ridge
    return torch.cholesky_solve(pull, factor)


def _add_squares(
    squares: NDArray[np.float32], indices: NDArray[np.int64], values: NDArray[np.float32]
) -> None:
    """Add Z'Z."""
    compiled = compiled_module("napari_microdl.estimators.icfl.compiled")
    if compiled is not None:
        compiled.add_squares(indices, values, squares)
        return
    codes = codes_to_csr(indices, values, len(squares))
    squares += codes.T @ codes
