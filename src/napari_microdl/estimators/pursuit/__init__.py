"""Batched matching pursuit: sparse codes of samples in a given dictionary."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from napari_microdl.core.config import Refit, Selection
from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.pursuit.options import Method, PursuitOptions

__all__ = ["Method", "PursuitOptions", "codes_to_csr", "matching_pursuit"]

# Samples turned to the dictionary's dtype at a time.
_SLAB_ROWS = 8192


def matching_pursuit(
    x: ArrayLike,
    atoms: ArrayLike,
    n_iterations: int,
    atoms_per_iteration: int,
    *,
    selection: Selection = "signed",
    refit: Refit = "block",
    allow_repeats: bool = True,
    positive_code: bool = False,
    method: Method = "auto",
    device: str = "cpu",
    chunk_size: int | None = None,
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Sparse codes by the batched matching pursuit of ICFL [1]_.

    From the residual r(1) = x, each of J iterations picks the L atoms that correlate most with the
    residual, solves the least squares of the residual on these L atoms alone, and subtracts the
    result. The defaults are the algorithm as printed. A bias is the caller's to subtract.

    Parameters
    ----------
    x : array-like of shape (n_samples, n_features)
        Samples, also a memory map, of which a chunk at a time is read. float64 samples are coded in
        float64, all others in float32.
    atoms : array-like of shape (n_atoms, n_features)
        The dictionary, one atom a row, of any length.
    n_iterations : int
        J. More iterations reconstruct better and cost more; at least two are worth while.
    atoms_per_iteration : int
        L.
    selection : {"signed", "absolute"}
        Whether the atoms with the largest inner product are picked, as printed, or those with the
        largest magnitude of it, as in orthogonal matching pursuit. "signed" gives each direction
        and its opposite an atom of its own: take it where "more of this" and "less of this" are
        different findings, as between treatments. "absolute" needs half as many atoms for the same
        reconstruction.
    refit : {"block", "full", "final"}
        "block" solves for the newly picked atoms alone, as printed: take it to compare with
        published codes. "final" does, and solves once more for all of the picks at the end, which
        costs little and reconstructs better: take it for everything else. "full" solves for all
        picks so far in every iteration (orthogonal matching pursuit for L = 1): the best
        reconstruction, at a cost that grows with the square of the number of picks.
    allow_repeats : bool
        Whether an atom may be picked again in a later iteration, as printed.
    positive_code : bool
        Whether each least squares is solved without negative coefficients, so that a code says only
        what is present. Reconstructs a little worse; needs ``selection="signed"``.
    method : {"auto", "compiled", "quantized", "gram", "residual"}
        "residual" follows the formulas; "gram" updates inner products through the atoms' Gram
        matrix; "compiled" does the same in code that numba compiles for the processor, when it is
        first used. These give the same result within rounding; "auto" takes the fastest of them
        for this many samples. "quantized", for float32 samples, picks atoms by inner products of 8
        bits and solves for their coefficients without rounding: of atoms that are nearly equally
        good, another may be picked. Take it for many samples and thousands of atoms. It does not
        know ``refit="full"``.
    device : str
        Where to compute, as torch names it, for example "cuda".
    chunk_size : int or None
        Samples coded at a time, which bounds the memory. None takes a size that suits the
        processor's cache.

    Returns
    -------
    indices : ndarray of int32, shape (n_samples, J * L)
        Picked atoms in the order of picking; -1 where there was no atom left to pick.
    values : ndarray of shape (n_samples, J * L)
        Their coefficients, 0 where there was no atom left. Coefficients of an atom that was picked
        twice add up. A pick that depends linearly on earlier ones gets the coefficient 0.

    Raises
    ------
    MicrodlError
        If a parameter or the shape of an array is wrong, or a value is not finite.

    References
    ----------
    .. [1] K. Donhauser et al., "Towards scientific discovery with dictionary learning: Extracting
       biological concepts from microscopy foundation models", ICML 2025, section on Iterative
       Codebook Feature Learning.
    """
    from napari_microdl.estimators.pursuit.coder import Coder
    from napari_microdl.estimators.pursuit.torch_backend import as_tensor

    samples = np.asarray(x)
    dtype = np.float64 if samples.dtype == np.float64 else np.float32
    dictionary = np.array(atoms, dtype=dtype, order="C")
    options = PursuitOptions(
        n_iterations, atoms_per_iteration, selection, refit, allow_repeats, positive_code
    )
    if samples.ndim != 2 or dictionary.ndim != 2 or samples.shape[1] != dictionary.shape[1]:
        raise MicrodlError(
            f"Samples of shape {samples.shape} cannot be coded by atoms of shape "
            f"{dictionary.shape}: both must be matrices of the same width."
        )
    if not len(dictionary):
        raise MicrodlError("The dictionary has no atoms: pass at least one.")
    if chunk_size is not None and chunk_size < 1:
        raise MicrodlError(f"chunk_size is {chunk_size} but must be at least 1, or None.")
    if not np.isfinite(dictionary).all():
        raise MicrodlError("The atoms hold NaN or infinity: fit the dictionary again.")
    coder = Coder(
        as_tensor(dictionary, device),
        options,
        method=method,
        chunk_size=chunk_size,
        n_expected=len(samples),
    )
    indices = np.full((len(samples), options.n_picks), -1, dtype=np.int32)
    values = np.zeros((len(samples), options.n_picks), dtype=dtype)
    for start in range(0, len(samples), _SLAB_ROWS):
        slab = np.ascontiguousarray(samples[start : start + _SLAB_ROWS], dtype=dtype)
        if not np.isfinite(slab).all():
            raise MicrodlError(
                f"A sample between rows {start} and {start + len(slab) - 1} holds NaN or "
                "infinity: remove it first."
            )
        rows = slice(start, start + len(slab))
        indices[rows], values[rows] = coder.code_array(slab)
    return indices, values


def codes_to_csr(
    indices: NDArray[np.integer[Any]], values: NDArray[np.floating[Any]], n_atoms: int
) -> sparse.csr_array:
    """Sparse matrix of the codes that `matching_pursuit` returns.

    Parameters
    ----------
    indices : ndarray of int, shape (n_samples, n_picks)
        Picked atoms, -1 where there is none.
    values : ndarray of shape (n_samples, n_picks)
        Coefficients.
    n_atoms : int
        Number of columns.

    Returns
    -------
    scipy.sparse.csr_array of shape (n_samples, n_atoms)
        Coefficients of an atom picked twice are summed; zeros are not stored; columns are sorted.
    """
    present = (indices >= 0) & (values != 0)
    ends = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    # scipy's 32-bit indices halve the memory wherever they suffice.
    pointer = np.int32 if ends[-1] < np.iinfo(np.int32).max else np.int64
    codes = sparse.csr_array(
        (values[present], indices[present].astype(pointer), ends.astype(pointer)),
        shape=(len(indices), n_atoms),
    )
    codes.sum_duplicates()
    codes.eliminate_zeros()
    return codes
