"""The pursuit on tensors: any device, any precision, many samples at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.config import Selection
from napari_microdl.estimators.pursuit.options import PursuitOptions
from napari_microdl.estimators.pursuit.threads import limited_blas

if TYPE_CHECKING:
    import torch

# A picked atom whose squared distance from the span of the earlier picks is below this share of
# its own squared length adds nothing but rounding. By the size of a number in bytes.
DEPENDENT = {4: 1e-5, 8: 1e-10}
# Atoms searched together for the best, in smaller dictionaries and in those of many atoms.
_BLOCK_WIDTHS = (32, 64)
_WIDE_FROM = 4096
# Edge of the blocks by which a triangle is mirrored.
_MIRROR_ROWS = 256
# Largest number whose upper eight bits are at most 127 once it is rounded to them.
_LARGEST_ROUNDED = 127 * 256 + 127
# A step of eight bits above this share of a row's typical product leaves too little of it.
_COARSE = 0.1


def pursue(
    x: torch.Tensor,
    atoms: torch.Tensor,
    gram: torch.Tensor | None,
    blocks: list[tuple[int, int]],
    options: PursuitOptions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse codes of one chunk of samples.

    Parameters
    ----------
    x : torch.Tensor of shape (n_samples, n_features)
        Samples.
    atoms : torch.Tensor of shape (n_atoms, n_features)
        Dictionary on the same device and of the same dtype.
    gram : torch.Tensor of shape (n_atoms, n_atoms) or None
        Inner products of the atoms; None follows the residual instead.
    blocks : list of (int, int)
        Ranges of picks, one an iteration (`PursuitOptions.blocks`).
    options : PursuitOptions
        How to code.

    Returns
    -------
    indices : torch.Tensor of int64, shape (n_samples, n_picks)
        Picked atoms.
    values : torch.Tensor of shape (n_samples, n_picks)
        Coefficients.
    """
    if gram is None:
        return _follow_residual(x, atoms, blocks, options)
    return _follow_correlations(x, atoms, gram, blocks, options)


def as_tensor(array: NDArray[Any], device: torch.device | str) -> torch.Tensor:
    """A tensor of contiguous values, not to be written to: it may share their memory."""
    import torch

    # torch would warn that a read-only array could be written to.
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


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


def gram_matrix(atoms: torch.Tensor) -> torch.Tensor:
    """Inner products of the atoms, on their device."""
    import torch

    if atoms.device.type != "cpu":
        return atoms @ atoms.T
    from scipy.linalg import get_blas_funcs

    w = atoms.numpy()
    (syrk,) = get_blas_funcs(("syrk",), (w,))
    with limited_blas():
        # One triangle, which is half of the work; numpy would take as long to copy it to the other.
        gram = syrk(1.0, w.T, trans=1, lower=1).T
    for start in range(0, len(gram), _MIRROR_ROWS):
        rows = slice(start, start + _MIRROR_ROWS)
        corner = gram[rows, rows]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T
        for other in range(start + _MIRROR_ROWS, len(gram), _MIRROR_ROWS):
            columns = slice(other, other + _MIRROR_ROWS)
            gram[columns, rows] = gram[rows, columns].T
    return torch.from_numpy(gram)


class RoundedGram(NamedTuple):
    """Inner products of different atoms in 16 bits, and the upper eight of these by themselves.

    Parameters
    ----------
    high, low : ndarray of int8, shape (n_atoms, n_atoms)
        ``(256 * high + low) * steps[:, None]`` are the inner products, 0 on the diagonal.
    steps : ndarray of float32, shape (n_atoms,)
        What 1 stands for in each row.
    uneven : ndarray of bool, shape (n_atoms,)
        Rows with single products so large that eight bits leave little of the others.
    """

    high: NDArray[np.int8]
    low: NDArray[np.int8]
    steps: NDArray[np.float32]
    uneven: NDArray[np.bool_]


def rounded_gram_matrix(atoms: torch.Tensor) -> RoundedGram:
    """Inner products of float32 atoms on the CPU, rounded row by row."""
    full: NDArray[Any] = gram_matrix(atoms).numpy()
    np.fill_diagonal(full, 0)
    high, low = np.empty(full.shape, np.int8), np.empty(full.shape, np.int8)
    steps = np.empty(len(full), np.float32)
    uneven = np.empty(len(full), bool)
    for start in range(0, len(full), _MIRROR_ROWS):
        rows = slice(start, start + _MIRROR_ROWS)
        part = full[rows]
        largest = np.abs(part).max(axis=1)
        steps[rows] = np.where(largest > 0, largest, 1) / _LARGEST_ROUNDED
        rounded = np.rint(part / steps[rows, None])
        # The lower eight bits go from -128 to 127.
        upper = np.floor((rounded + 128) / 256)
        high[rows], low[rows] = upper, rounded - 256 * upper
        typical = np.sqrt(np.einsum("mn,mn->m", part, part) / len(full))
        uneven[rows] = 256 * steps[rows] > _COARSE * typical
    return RoundedGram(high, low, steps, uneven)


def least_squares(
    gram: torch.Tensor, target: torch.Tensor, *, positive: bool = False
) -> torch.Tensor:
    """Least-squares coefficients of many small sets of atoms at once.

    An atom that depends linearly on those before it in its set, or is zero, gets the coefficient 0,
    so that the result is finite and is a least-squares solution whatever the atoms are.

    Parameters
    ----------
    gram : torch.Tensor of shape (n, k, k)
        Inner products within each set.
    target : torch.Tensor of shape (n, k)
        Inner products of each set with what it is to approximate.
    positive : bool
        Whether coefficients may not be negative.

    Returns
    -------
    torch.Tensor of shape (n, k)
        Coefficients.
    """
    import torch

    factor, failed = torch.linalg.cholesky_ex(gram)
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    pivots = factor.diagonal(dim1=-2, dim2=-1).square()
    tolerance = DEPENDENT[gram.element_size()]
    sound = (pivots > tolerance * diagonal).all(dim=1) & (failed == 0)
    reached = target
    if not sound.all():
        weak = ~sound
        factor[weak], independent = _cholesky_of_independent(gram[weak], tolerance)
        reached = target.clone()
        reached[weak] *= independent
    solved = torch.cholesky_solve(reached[:, :, None], factor)[:, :, 0]
    if positive:
        wrong = (solved < 0).any(dim=1)
        if wrong.any():
            solved[wrong] = _nonnegative(gram[wrong], target[wrong])
    return solved


def _nonnegative(gram: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Non-negative least squares by the active set of Lawson and Hanson, started from all atoms."""
    import torch

    size = gram.shape[1]
    slack = DEPENDENT[gram.element_size()] * target.abs().amax(dim=1, keepdim=True)
    identity = torch.eye(size, dtype=gram.dtype, device=gram.device)
    passive = torch.ones_like(target, dtype=torch.bool)
    current = torch.zeros_like(target)
    active = torch.arange(len(gram), device=gram.device)
    for _ in range(3 * size + 20):
        members, now = passive[active], current[active]
        inner, aim, tolerance = gram[active], target[active], slack[active]
        both = members[:, :, None] & members[:, None, :]
        trial = least_squares(torch.where(both, inner, identity), torch.where(members, aim, 0.0))
        leaving = members & (trial <= 0)
        feasible = ~leaving.any(dim=1)
        # As far as the first coefficient that would turn negative allows.
        reach = torch.where(leaving, now / (now - trial).clamp_min(1e-30), torch.inf)
        step = torch.where(feasible, 1.0, reach.amin(dim=1).clamp(max=1.0))
        now = torch.where(members, now + step[:, None] * (trial - now), 0.0)
        gone = leaving & (now <= 1e-3 * tolerance)
        now = now.masked_fill(gone, 0.0)
        members = members & ~gone
        slope = aim - (inner @ now[:, :, None])[:, :, 0]
        steepest, entering = slope.masked_fill(members, -torch.inf).max(dim=1)
        enters = feasible & (steepest > tolerance[:, 0])
        members[enters, entering[enters]] = True
        passive[active], current[active] = members, now
        active = active[~feasible | enters]
        if not len(active):
            break
    return current


def _cholesky_of_independent(
    gram: torch.Tensor, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cholesky factors with each dependent atom's row and column set to the identity's."""
    import torch

    factor = torch.zeros_like(gram)
    mask = torch.ones_like(gram[:, :, 0])
    for j in range(gram.shape[1]):
        row = factor[:, j, :j]
        pivot = gram[:, j, j] - row.square().sum(dim=1)
        independent = pivot > tolerance * gram[:, j, j]
        mask[:, j] = independent.to(gram.dtype)
        root = torch.where(independent, pivot, 1.0).sqrt()
        below = gram[:, j + 1 :, j] - (factor[:, j + 1 :, :j] @ row[:, :, None])[:, :, 0]
        factor[:, j + 1 :, j] = below / root[:, None] * mask[:, j, None]
        factor[:, j, :j] *= mask[:, j, None]
        factor[:, j, j] = root
    return factor, mask


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
    options: PursuitOptions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pursuit as its formulas say: one residual a sample."""
    import torch

    def solve(picked: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        w = atoms[picked]
        return least_squares(
            w @ w.mT, (w @ target[:, :, None])[:, :, 0], positive=options.positive_code
        )

    n_picks = blocks[-1][1]
    picks = torch.empty((len(x), n_picks), dtype=torch.int64, device=x.device)
    values = torch.empty((len(x), n_picks), dtype=x.dtype, device=x.device)
    residual = x
    for start, stop in blocks:
        barred = None if options.allow_repeats or not start else picks[:, :start]
        new = _best(residual @ atoms.T, stop - start, options.selection, barred)
        picks[:, start:stop] = new
        if options.refit == "full":
            values[:, :stop] = solve(picks[:, :stop], x)
            residual = x - weighted_rows(picks[:, :stop], values[:, :stop], atoms)
        else:
            values[:, start:stop] = solve(new, residual)
            residual = residual - weighted_rows(new, values[:, start:stop], atoms)
    if options.refit == "final":
        values = solve(picks, x)
    return picks, values


def _follow_correlations(
    x: torch.Tensor,
    atoms: torch.Tensor,
    gram: torch.Tensor,
    blocks: list[tuple[int, int]],
    options: PursuitOptions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same pursuit without residuals: subtracting z W subtracts z W W' from their products."""
    import torch

    def products(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        flat = rows[:, :, None] * gram.shape[1] + columns[:, None, :]
        return gram.view(-1).index_select(0, flat.view(-1)).view(flat.shape)

    def solve(inner: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return least_squares(inner, target, positive=options.positive_code)

    n_picks = blocks[-1][1]
    picks = torch.empty((len(x), n_picks), dtype=torch.int64, device=x.device)
    values = torch.zeros((len(x), n_picks), dtype=x.dtype, device=x.device)
    # Products of the picked atoms with the residual they were picked by, and with x itself.
    met = torch.empty_like(values)
    whole = torch.empty_like(values)
    correlations = x @ atoms.T
    for start, stop in blocks:
        barred = None if options.allow_repeats or not start else picks[:, :start]
        new = _best(correlations, stop - start, options.selection, barred)
        picks[:, start:stop] = new
        met[:, start:stop] = correlations.gather(1, new)
        if options.refit == "full":
            old = picks[:, :start]
            whole[:, start:stop] = met[:, start:stop]
            if start:
                known = products(new, old) @ values[:, :start, None]
                whole[:, start:stop] += known[:, :, 0]
            used = picks[:, :stop]
            solution = solve(products(used, used), whole[:, :stop])
            change = solution - values[:, :stop]
            values[:, :stop] = solution
        else:
            used = new
            change = solve(products(new, new), met[:, start:stop])
            values[:, start:stop] = change
        if stop < n_picks:
            correlations -= weighted_rows(used, change, gram)
    if options.refit == "final":
        inner = products(picks, picks)
        iteration = torch.arange(n_picks, device=x.device) // (blocks[0][1] - blocks[0][0])
        earlier = (iteration[:, None] > iteration[None, :]).to(x.dtype)
        whole = met + ((inner * earlier) @ values[:, :, None])[:, :, 0]
        values = solve(inner, whole)
    return picks, values
