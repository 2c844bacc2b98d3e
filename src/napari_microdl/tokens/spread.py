"""How much the tokens of a unit differ from one another.

What all tokens of a field share, such as exposure or haze, is in their mean and cancels in what
sets them apart; a cell's spots, its texture and its shape do not. The mean is the paper's; this is
ours. How far tokens lie apart also depends on their place in the tile, as the model sees less
around those at its edges; `place_scales` says how much, and distances are divided by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from napari_microdl.core.task import current_task
from napari_microdl.tokens.grid import TokenGrid
from napari_microdl.tokens.units import Units

# Of a cell of one patch nothing is known of its spread. Where it is less than this share of that of
# the whole field the logarithm goes on as a straight line, so that it ends somewhere.
_FLOOR = 0.05
# Neighbourhood of a token outside of all units, in patches, and where it ends.
_SIGMA = 2.0
_REACH = 6
_VALUES_AT_ONCE = 2**22


@dataclass(frozen=True, eq=False)
class Spread:
    """What the tokens of every unit of one field are compared with.

    Parameters
    ----------
    means : ndarray of shape (n_units, d)
        Mean token of every unit.
    deviations : ndarray of shape (n_units, d)
        Mean absolute deviation of its tokens from it, weighted as the mean is.
    floor : ndarray of shape (d,)
        Below it deviations count on a straight line.
    scales : ndarray of shape (n_places, d), or None
        As `place_scales` gives them; None where places count alike.
    """

    means: NDArray[np.float32]
    deviations: NDArray[np.float32]
    floor: NDArray[np.float32]
    scales: NDArray[np.float32] | None = None

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Logarithm of the deviations, shape (n_units, d): the samples."""
        return _shares(self.deviations, np.maximum(self.deviations, self.floor))

    def distance(
        self,
        tokens: NDArray[np.float32],
        centre: NDArray[np.float32],
        position: NDArray[np.int32],
    ) -> NDArray[np.float32]:
        """How far tokens of shape (..., d), at places of shape (...), are from a centre."""
        return _distance(tokens, centre, position, self.scales)


def _shares(deviation: NDArray[np.float32], typical: NDArray[np.float32]) -> NDArray[np.float32]:
    """Tangent of the logarithm at what is typical: its mean is the logarithm of the mean."""
    return np.asarray(deviation / typical - 1 + np.log(typical), np.float32)


def _distance(
    tokens: NDArray[np.float32],
    centre: NDArray[np.float32],
    position: NDArray[np.int32],
    scales: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    far: NDArray[np.float32] = np.abs(tokens - centre)
    if scales is not None:
        far /= scales[position]
    return far


def place_scales(
    grids: Sequence[TokenGrid], geometry: Sequence[Units], n_places: int
) -> NDArray[np.float32]:
    """How far tokens at each place of a tile are from the mean of their unit, beside other places.

    Parameters
    ----------
    grids : sequence of TokenGrid
        Tokens of all fields at hand, position component removed.
    geometry : sequence of Units
        Units of each field.
    n_places : int
        Places in the model's grid.

    Returns
    -------
    ndarray of shape (n_places, d)
        Ratios, their geometric mean over the places 1; 1 at places never seen. Distances count
        beside the mean one of their field, so that fields weigh alike. Only what several dimensions
        or places have in common, beyond what so few tokens show by chance, is kept.
    """
    return scales_of_sums(*distances_by_place(grids, geometry, n_places))


def distances_by_place(
    grids: Sequence[TokenGrid], geometry: Sequence[Units], n_places: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What `place_scales` is made from, which can be added up over fields.

    Parameters
    ----------
    grids, geometry, n_places
        As for `place_scales`.

    Returns
    -------
    sums, squares : ndarray of shape (n_places, d)
        Of the distances of tokens at each place.
    counts : ndarray of shape (n_places,)
        Tokens, by how much of each lies in a unit.
    """
    d = grids[0].tokens.shape[-1]
    sums, squares, counts = np.zeros((n_places, d)), np.zeros((n_places, d)), np.zeros(n_places)
    for grid, units in zip(grids, geometry, strict=True):
        spread, columns = measure_spread(grid, units), grid.tokens.shape[1]
        area = np.asarray(units.weights.sum(axis=1)).ravel()
        typical = area @ spread.deviations / max(float(area.sum()), 1)
        typical = np.maximum(typical, spread.floor)
        by_token = sparse.csc_array(units.weights / grid.patch_size**2)
        for rows, tokens in grid.bands():
            flat, position = tokens.reshape(-1, d), grid.position[rows].ravel()
            begin, end = rows.start * columns, rows.stop * columns
            for token, unit, weight in _pairs(by_token, begin, end, d):
                far = np.abs(flat[token] - spread.means[unit]) / typical
                add = sparse.csr_array(
                    (weight, (position[token], np.arange(len(token)))),
                    shape=(n_places, len(token)),
                )
                sums += add @ far
                squares += add @ np.square(far)
                counts += add.sum(axis=1)
    return sums, squares, counts


def scales_of_sums(
    sums: NDArray[np.float64], squares: NDArray[np.float64], counts: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The scales of `place_scales` from sums over fields, as `distances_by_place` gives them."""
    n_places, d = sums.shape
    known = counts > 0
    n = counts[known, None]
    means = np.maximum(sums[known] / n, _FLOOR)
    logs = np.log(means) - np.log(means).mean(0)
    # A matrix of noise has no singular value above this edge (Marchenko and Pastur).
    chance = np.maximum(squares[known] / n - means**2, 0) / (means**2 * n)
    edge = np.sqrt(chance.mean()) * (np.sqrt(known.sum()) + np.sqrt(d))
    left, strength, right = np.linalg.svd(logs, full_matrices=False)
    scales = np.ones((n_places, d), np.float32)
    scales[known] = np.exp((left * np.where(strength > edge, strength, 0)) @ right)
    return scales


def measure_spread(
    grid: TokenGrid, units: Units, scales: NDArray[np.float32] | None = None
) -> Spread:
    """Mean token of every unit, and the mean absolute deviation from it.

    Parameters
    ----------
    grid : TokenGrid
        Tokens of the field.
    units : Units
        Units of the same field; patches count by how much of them a unit covers.
    scales : ndarray of shape (n_places, d), optional
        As `place_scales` gives them.

    Returns
    -------
    Spread
    """
    columns, d = grid.tokens.shape[1:]
    by_token = sparse.csc_array(units.weights.astype(np.float64))
    area = np.asarray(by_token.sum(axis=1))[:, None]
    totals, sums, squares = np.zeros((len(units), d)), np.zeros(d), np.zeros(d)
    for rows, tokens in grid.bands():
        flat = tokens.reshape(-1, d)
        totals += by_token[:, rows.start * columns : rows.stop * columns] @ flat
        sums += flat.sum(0, dtype=np.float64)
        squares += np.square(flat, dtype=np.float64).sum(0)
    n = grid.tokens.shape[0] * columns
    variance = np.maximum(squares / n - (sums / n) ** 2, 0)
    # Only where all tokens of the field are the same is there nothing to compare with.
    floor = np.where(variance > 0, _FLOOR * np.sqrt(variance), 1.0).astype(np.float32)
    means = (totals / area).astype(np.float32)
    deviations = np.zeros((len(units), d))
    for rows, tokens in grid.bands():
        flat = tokens.reshape(-1, d)
        position = grid.position[rows].ravel()
        for token, unit, weight in _pairs(by_token, rows.start * columns, rows.stop * columns, d):
            far = _distance(flat[token], means[unit], position[token], scales)
            add = sparse.csr_array(
                (weight, (unit, np.arange(len(unit)))), shape=(len(units), len(unit))
            )
            deviations += add @ far
    return Spread(means, (deviations / area).astype(np.float32), floor, scales)


def _pairs(
    by_token: sparse.csc_array, begin: int, end: int, d: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.integer], NDArray[np.float64]]]:
    """Tokens from `begin` to `end`, numbered from there, with the units on them, some at a time."""
    first, last = int(by_token.indptr[begin]), int(by_token.indptr[end])
    tokens = np.repeat(np.arange(end - begin), np.diff(by_token.indptr[begin : end + 1]))
    step = max(1, _VALUES_AT_ONCE // d)
    for start in range(first, last, step):
        current_task().check()
        some = slice(start, min(start + step, last))
        yield (
            tokens[some.start - first : some.stop - first],
            by_token.indices[some],
            by_token.data[some],
        )


def unit_shares(
    tokens: NDArray[np.float32], position: NDArray[np.int32], spread: Spread, unit: int
) -> NDArray[np.float32]:
    """What each token adds to the vector of one unit.

    Parameters
    ----------
    tokens : ndarray of shape (..., d)
        Tokens of the unit.
    position : ndarray of shape (...)
        Place of each in the model's grid.
    spread : Spread
        Of its field.
    unit : int
        Its place among the units of the field.

    Returns
    -------
    ndarray of shape (..., d)
        Their mean, weighted by what the unit covers of each patch, is its vector.
    """
    deviations = spread.deviations[unit]
    typical = np.maximum(deviations, spread.floor)
    return _shares(spread.distance(tokens, spread.means[unit], position), typical)


def token_shares(
    grid: TokenGrid, units: Units, spread: Spread
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """What each token adds to the vectors of the units on it.

    Parameters
    ----------
    grid : TokenGrid
        Tokens of the field.
    units : Units
        Units of the same field.
    spread : Spread
        As `measure_spread` finds it.

    Yields
    ------
    rows : slice
        Rows of the grid.
    shares : ndarray of shape (n_rows, grid_w, d)
        As `unit_shares`, the mean of several units on a patch. What is outside of all units is
        compared with its neighbourhood, a Gaussian of two patches.
    """
    grid_h, columns, d = grid.tokens.shape
    by_token = sparse.csc_array(units.weights.astype(np.float64))
    covered = np.asarray(by_token.sum(axis=0)) / grid.patch_size**2
    for rows, tokens in grid.bands():
        # A neighbourhood of neighbourhoods has to be known.
        near = slice(max(rows.start - 2 * _REACH, 0), min(rows.stop + 2 * _REACH, grid_h))
        around = tokens if grid.in_memory else np.array(grid.tokens[near])
        inside = slice(rows.start - near.start, rows.stop - near.start)
        far = spread.distance(around, _neighbourhood(around), grid.position[near])
        typical = np.maximum(_neighbourhood(far)[inside], spread.floor)
        shares = _shares(far[inside], typical).reshape(-1, d)
        begin, end = rows.start * columns, rows.stop * columns
        here = covered[begin:end]
        shares *= np.maximum(1 - here, 0)[:, None].astype(np.float32)
        # Where crops overlap, a patch is covered several times.
        scale = 1 / (grid.patch_size**2 * np.maximum(here, 1))
        flat = tokens.reshape(-1, d)
        position = grid.position[rows].ravel()
        for token, unit, weight in _pairs(by_token, begin, end, d):
            far_from_unit = spread.distance(flat[token], spread.means[unit], position[token])
            of_unit = _shares(far_from_unit, np.maximum(spread.deviations[unit], spread.floor))
            add = sparse.csr_array(
                (weight * scale[token], (token, np.arange(len(token)))),
                shape=(end - begin, len(token)),
                dtype=np.float32,
            )
            shares += add @ of_unit
        yield rows, shares.reshape(-1, columns, d)


def _neighbourhood(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the tokens around each one."""
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(
        tokens, (_SIGMA, _SIGMA, 0), mode="nearest", radius=(_REACH, _REACH, 0)
    )
    return smooth
