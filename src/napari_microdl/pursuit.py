"""Batched matching pursuit: sparse codes of samples in a given dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from napari_microdl.errors import MicrodlError

if TYPE_CHECKING:
    import torch

Selection = Literal["signed", "absolute"]
Refit = Literal["block", "full", "final"]
Method = Literal["auto", "gram", "residual"]

# Numbers held at a time in the largest intermediate array; 16 MB in float32 stay near the cache.
_CHUNK_NUMBERS = 1 << 22
_CHUNK_ROWS = 1024
# A picked atom whose squared distance from the span of the earlier picks is below this share of
# its own squared length adds nothing but rounding.
_DEPENDENT = {4: 1e-5, 8: 1e-10}
# Atoms searched together for the best, in smaller dictionaries and in those of many atoms.
_BLOCK_WIDTHS = (32, 64)
_WIDE_FROM = 4096


def matching_pursuit(
    x: ArrayLike,
    atoms: ArrayLike,
    n_iterations: int,
    atoms_per_iteration: int,
    *,
    selection: Selection = "signed",
    refit: Refit = "block",
    allow_repeats: bool = True,
    method: Method = "auto",
    chunk_size: int | None = None,
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Sparse codes by the batched matching pursuit of ICFL [1]_.

    From the residual r(1) = x, each of J iterations picks the L atoms that correlate most with the
    residual, solves the least squares of the residual on these L atoms alone, and subtracts the
    result. The defaults are the algorithm as printed. A bias is the caller's to subtract.

    Parameters
    ----------
    x : array-like of shape (n_samples, n_features)
        Samples. float64 samples are coded in float64, all others in float32.
    atoms : array-like of shape (n_atoms, n_features)
        The dictionary, one atom a row, of any length.
    n_iterations : int
        J.
    atoms_per_iteration : int
        L.
    selection : {"signed", "absolute"}
        Whether the atoms with the largest inner product are picked, as printed, or those with the
        largest magnitude of it, as in orthogonal matching pursuit. "signed" gives each direction
        and its opposite an atom of its own.
    refit : {"block", "full", "final"}
        "block" solves for the newly picked atoms alone, as printed; "final" does, and solves once
        more for all of the picks at the end, which costs little and reconstructs better; "full"
        solves for all picks so far in every iteration (orthogonal matching pursuit for L = 1).
    allow_repeats : bool
        Whether an atom may be picked again in a later iteration, as printed.
    method : {"auto", "gram", "residual"}
        "residual" follows the formulas; "gram" updates inner products through the atoms' Gram
        matrix and gives the same result within rounding. "auto" takes whichever needs less
        arithmetic for this many samples.
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
    import torch

    samples = np.asarray(x)
    dtype = np.float64 if samples.dtype == np.float64 else np.float32
    dictionary = np.ascontiguousarray(atoms, dtype=dtype)
    check_pursuit(n_iterations, atoms_per_iteration, selection, refit)
    if samples.ndim != 2 or dictionary.ndim != 2 or samples.shape[1] != dictionary.shape[1]:
        raise MicrodlError(
            f"Samples of shape {samples.shape} cannot be coded by atoms of shape "
            f"{dictionary.shape}: both must be matrices of the same width."
        )
    if method not in ("auto", "gram", "residual"):
        raise MicrodlError(f"method is {method!r} but must be 'auto', 'gram' or 'residual'.")
    if not len(dictionary):
        raise MicrodlError("The dictionary has no atoms: pass at least one.")
    if chunk_size is not None and chunk_size < 1:
        raise MicrodlError(f"chunk_size is {chunk_size} but must be at least 1, or None.")
    if not np.isfinite(dictionary).all():
        raise MicrodlError("The atoms hold NaN or infinity: fit the dictionary again.")
    n_picks = n_iterations * atoms_per_iteration
    indices = np.full((len(samples), n_picks), -1, dtype=np.int32)
    values = np.zeros((len(samples), n_picks), dtype=dtype)
    if method == "auto":
        # Products of samples and atoms that one Gram matrix saves against those it costs.
        cheaper = len(samples) * (n_iterations - 1) > len(dictionary)
        method = "gram" if cheaper else "residual"
    w = torch.from_numpy(dictionary)
    gram = w @ w.T if method == "gram" else None
    if chunk_size is None:
        chunk_size = chunk_rows(w.shape[0], w.shape[1], n_picks, gram is not None)
    for start in range(0, len(samples), chunk_size):
        rows = slice(start, start + chunk_size)
        chunk = np.ascontiguousarray(samples[rows], dtype=dtype)
        if not np.isfinite(chunk).all():
            raise MicrodlError(
                f"A sample between rows {start} and {start + len(chunk) - 1} holds NaN or "
                "infinity: remove it first."
            )
        # A read-only array is not written to here, but torch would warn that it could be.
        tensor = torch.from_numpy(chunk if chunk.flags.writeable else chunk.copy())
        picks, coefficients = pursue(
            tensor,
            w,
            n_iterations,
            atoms_per_iteration,
            selection=selection,
            refit=refit,
            allow_repeats=allow_repeats,
            gram=gram,
        )
        indices[rows, : picks.shape[1]] = picks.numpy()
        values[rows, : picks.shape[1]] = coefficients.numpy()
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


def check_pursuit(n_iterations: int, atoms_per_iteration: int, selection: str, refit: str) -> None:
    """Refuse parameters of a pursuit that mean nothing.

    Parameters
    ----------
    n_iterations, atoms_per_iteration : int
        J and L.
    selection, refit : str
        See `matching_pursuit`.

    Raises
    ------
    MicrodlError
        If a number is below 1 or a choice is not known.
    """
    for name, value in (
        ("n_iterations", n_iterations),
        ("atoms_per_iteration", atoms_per_iteration),
    ):
        if value < 1:
            raise MicrodlError(f"{name} is {value} but must be at least 1.")
    if selection not in ("signed", "absolute"):
        raise MicrodlError(f"selection is {selection!r} but must be 'signed' or 'absolute'.")
    if refit not in ("block", "full", "final"):
        raise MicrodlError(f"refit is {refit!r} but must be 'block', 'full' or 'final'.")


def chunk_rows(n_atoms: int, n_features: int, n_picks: int, through_gram: bool) -> int:
    """Samples to code at a time so that the largest intermediate array stays small.

    Parameters
    ----------
    n_atoms, n_features, n_picks : int
        Sizes of the problem.
    through_gram : bool
        Whether inner products are updated through the Gram matrix.

    Returns
    -------
    int
        At least 1.
    """
    widest = max(n_atoms, n_picks * (n_picks if through_gram else n_features))
    return max(1, min(_CHUNK_ROWS, _CHUNK_NUMBERS // widest))


def pursue(
    x: torch.Tensor,
    atoms: torch.Tensor,
    n_iterations: int,
    atoms_per_iteration: int,
    *,
    selection: Selection,
    refit: Refit,
    allow_repeats: bool,
    gram: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`matching_pursuit` of one chunk of tensors, without checks.

    Parameters
    ----------
    x : torch.Tensor of shape (n_samples, n_features)
        Samples.
    atoms : torch.Tensor of shape (n_atoms, n_features)
        Dictionary on the same device and of the same dtype.
    n_iterations, atoms_per_iteration, selection, refit, allow_repeats
        See `matching_pursuit`.
    gram : torch.Tensor of shape (n_atoms, n_atoms) or None
        Inner products of the atoms; None follows the residual instead.

    Returns
    -------
    indices : torch.Tensor of int64, shape (n_samples, n_picks)
        Picked atoms; n_picks is below J * L where the atoms ran out.
    values : torch.Tensor of shape (n_samples, n_picks)
        Coefficients.
    """
    n_picks = n_iterations * atoms_per_iteration
    if not allow_repeats:
        n_picks = min(n_picks, atoms.shape[0])
    per_iteration = min(atoms_per_iteration, atoms.shape[0])
    blocks = [
        (start, min(start + per_iteration, n_picks))
        for start in range(0, min(n_picks, n_iterations * per_iteration), per_iteration)
    ]
    if gram is None:
        return _follow_residual(x, atoms, blocks, selection, refit, allow_repeats)
    return _follow_correlations(x, atoms, gram, blocks, selection, refit, allow_repeats)


def weighted_rows(indices: torch.Tensor, weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Sum of ``weights[i, k] * rows[indices[i, k]]`` over k.

    Parameters
    ----------
    indices : torch.Tensor of int, shape (n, k)
        Rows to take.
    weights : torch.Tensor of shape (n, k)
        Their weights.
    rows : torch.Tensor of shape (m, width)
        Rows to sum.

    Returns
    -------
    torch.Tensor of shape (n, width)
        The sums.
    """
    import torch

    # embedding_bag sums without storing the (n, k, width) rows; 32-bit indices are its fast path.
    return torch.nn.functional.embedding_bag(
        indices.int(), rows, per_sample_weights=weights, mode="sum"
    )


def least_squares(gram: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Least-squares coefficients of many small sets of atoms at once.

    An atom that depends linearly on those before it in its set, or is zero, gets the coefficient 0,
    so that the result is finite and is a least-squares solution whatever the atoms are.

    Parameters
    ----------
    gram : torch.Tensor of shape (n, k, k)
        Inner products within each set.
    target : torch.Tensor of shape (n, k)
        Inner products of each set with what it is to approximate.

    Returns
    -------
    torch.Tensor of shape (n, k)
        Coefficients.
    """
    import torch

    factor, failed = torch.linalg.cholesky_ex(gram)
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    pivots = factor.diagonal(dim1=-2, dim2=-1).square()
    tolerance = _DEPENDENT[gram.element_size()]
    sound = (pivots > tolerance * diagonal).all(dim=1) & (failed == 0)
    if not sound.all():
        weak = ~sound
        factor[weak], kept = _cholesky_of_independent(gram[weak], tolerance)
        target = target.clone()
        target[weak] *= kept
    return torch.cholesky_solve(target[:, :, None], factor)[:, :, 0]


def _cholesky_of_independent(
    gram: torch.Tensor, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cholesky factors with each dependent atom's row and column set to the identity's."""
    import torch

    factor = torch.zeros_like(gram)
    kept = torch.ones_like(gram[:, :, 0])
    for j in range(gram.shape[1]):
        row = factor[:, j, :j]
        pivot = gram[:, j, j] - row.square().sum(dim=1)
        independent = pivot > tolerance * gram[:, j, j]
        kept[:, j] = independent.to(gram.dtype)
        root = torch.where(independent, pivot, 1.0).sqrt()
        below = gram[:, j + 1 :, j] - (factor[:, j + 1 :, :j] @ row[:, :, None])[:, :, 0]
        factor[:, j + 1 :, j] = below / root[:, None] * kept[:, j, None]
        factor[:, j, :j] *= kept[:, j, None]
        factor[:, j, j] = root
    return factor, kept


def _best(
    correlations: torch.Tensor, count: int, selection: Selection, barred: torch.Tensor | None
) -> torch.Tensor:
    """Atoms that correlate most, best first, of equal ones that with the lowest number first."""
    import torch

    key = correlations.abs() if selection == "absolute" else correlations.clone()
    if barred is not None:
        key.scatter_(1, barred, -torch.inf)
    n, n_atoms = key.shape
    width = _BLOCK_WIDTHS[n_atoms >= _WIDE_FROM]
    if n_atoms % width:
        key = torch.nn.functional.pad(key, (0, -n_atoms % width), value=-torch.inf)
    # The best atom is the best of the best block: after each pick only its block is searched
    # again. This takes half the time of topk, and orders equal values, which topk does not.
    blocks = key.view(-1, width)
    maxima = key.view(n, -1, width).amax(dim=2)
    first_block = torch.arange(n, device=key.device) * maxima.shape[1]
    best = torch.empty((n, count), dtype=torch.int64, device=key.device)
    for i in range(count):
        number = maxima.argmax(dim=1)
        block = blocks.index_select(0, first_block + number)
        place = block.argmax(dim=1)
        best[:, i] = number * width + place
        if i + 1 < count:
            block.scatter_(1, place[:, None], -torch.inf)
            blocks.index_copy_(0, first_block + number, block)
            maxima.scatter_(1, number[:, None], block.amax(dim=1, keepdim=True))
    return best


def _follow_residual(
    x: torch.Tensor,
    atoms: torch.Tensor,
    blocks: list[tuple[int, int]],
    selection: Selection,
    refit: Refit,
    allow_repeats: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pursuit as its formulas say: one residual a sample."""
    import torch

    def solve(picked: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        w = atoms[picked]
        return least_squares(w @ w.mT, (w @ target[:, :, None])[:, :, 0])

    n_picks = blocks[-1][1]
    picks = torch.empty((len(x), n_picks), dtype=torch.int64, device=x.device)
    values = torch.empty((len(x), n_picks), dtype=x.dtype, device=x.device)
    residual = x
    for start, stop in blocks:
        barred = None if allow_repeats or not start else picks[:, :start]
        new = _best(residual @ atoms.T, stop - start, selection, barred)
        picks[:, start:stop] = new
        if refit == "full":
            values[:, :stop] = solve(picks[:, :stop], x)
            residual = x - weighted_rows(picks[:, :stop], values[:, :stop], atoms)
        else:
            values[:, start:stop] = solve(new, residual)
            residual = residual - weighted_rows(new, values[:, start:stop], atoms)
    if refit == "final":
        values = solve(picks, x)
    return picks, values


def _follow_correlations(
    x: torch.Tensor,
    atoms: torch.Tensor,
    gram: torch.Tensor,
    blocks: list[tuple[int, int]],
    selection: Selection,
    refit: Refit,
    allow_repeats: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same pursuit without residuals: subtracting z W subtracts z W W' from their products."""
    import torch

    def products(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        flat = rows[:, :, None] * gram.shape[1] + columns[:, None, :]
        return gram.view(-1).index_select(0, flat.view(-1)).view(flat.shape)

    n_picks = blocks[-1][1]
    picks = torch.empty((len(x), n_picks), dtype=torch.int64, device=x.device)
    values = torch.zeros((len(x), n_picks), dtype=x.dtype, device=x.device)
    # Products of the picked atoms with the residual they were picked by, and with x itself.
    met = torch.empty_like(values)
    whole = torch.empty_like(values)
    correlations = x @ atoms.T
    for start, stop in blocks:
        barred = None if allow_repeats or not start else picks[:, :start]
        new = _best(correlations, stop - start, selection, barred)
        picks[:, start:stop] = new
        met[:, start:stop] = correlations.gather(1, new)
        if refit == "full":
            old = picks[:, :start]
            whole[:, start:stop] = met[:, start:stop]
            if start:
                known = products(new, old) @ values[:, :start, None]
                whole[:, start:stop] += known[:, :, 0]
            used = picks[:, :stop]
            solution = least_squares(products(used, used), whole[:, :stop])
            change = solution - values[:, :stop]
            values[:, :stop] = solution
        else:
            used = new
            change = least_squares(products(new, new), met[:, start:stop])
            values[:, start:stop] = change
        if stop < n_picks:
            correlations -= weighted_rows(used, change, gram)
    if refit == "final":
        inner = products(picks, picks)
        iteration = torch.arange(n_picks, device=x.device) // (blocks[0][1] - blocks[0][0])
        earlier = (iteration[:, None] > iteration[None, :]).to(x.dtype)
        whole = met + ((inner * earlier) @ values[:, :, None])[:, :, 0]
        values = least_squares(inner, whole)
    return picks, values
