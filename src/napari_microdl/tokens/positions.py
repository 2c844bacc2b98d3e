"""Removes what a token owes to its place in the model's grid rather than to the image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.arrays import right_vectors
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.tokens.grid import TokenGrid


class PlacedTokens(Protocol):
    """Tokens with their places, as a `TokenGrid` has them, some rows at a time."""

    @property
    def position(self) -> NDArray[np.int32]:
        """Place in the model's own grid of every token."""

    def bands(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Rows of the grid and their tokens, from the first to the last."""


def sums_by_position(
    grids: Iterable[PlacedTokens], n_positions: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums of tokens by their place, which can be added up over fields.

    Parameters
    ----------
    grids : iterable of TokenGrid
        Tokens of one or more fields.
    n_positions : int
        Places in the model's grid.

    Returns
    -------
    sums : ndarray of shape (n_positions, d)
        Of the tokens at each place.
    counts : ndarray of shape (n_positions,)
        How many there are.

    Raises
    ------
    MicrodlError
        If there are no tokens.
    """
    sums: NDArray[np.float64] | None = None
    counts = np.zeros(n_positions, np.int64)
    for grid in grids:
        for rows, tokens in grid.bands():
            current_task().check()
            flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
            position = grid.position[rows].ravel()
            order = np.argsort(position, kind="stable")
            present, starts = np.unique(position[order], return_index=True)
            if sums is None:
                sums = np.zeros((n_positions, flat.shape[1]))
            sums[present] += np.add.reduceat(flat[order], starts, axis=0)
            counts += np.bincount(position, minlength=n_positions)
    if sums is None:
        raise MicrodlError("There are no tokens to learn the position component from.")
    return sums, counts


def position_share(grids: Iterable[PlacedTokens]) -> float:
    """Share of the variance of tokens that their place in the tile explains.

    Parameters
    ----------
    grids : iterable of TokenGrid
        Tokens of one or more fields; iterated twice.

    Returns
    -------
    float
        Between-position sum of squares over the total, 0 to 1, all dimensions together, less the
        share that grouping at random would give (adjusted as the coefficient of determination is).
    """
    grids = list(grids)
    n_positions = max(int(g.position.max()) for g in grids) + 1
    sums, counts = sums_by_position(grids, n_positions)
    n = int(counts.sum())
    grand = sums.sum(0) / n
    total = 0.0
    for grid in grids:
        for _, tokens in grid.bands():
            current_task().check()
            total += float(((tokens - grand) ** 2).sum(dtype=np.float64))
    present = counts > 0
    means = sums[present] / counts[present, None]
    between = float((counts[present] * ((means - grand) ** 2).sum(1)).sum())
    groups = int(present.sum())
    if n <= groups or total == 0:
        return 0.0
    return max(0.0, 1.0 - (1.0 - between / total) * (n - 1) / (n - groups))


class PositionComponent:
    """What tokens owe to their place in the model's grid: a mean per place, and a few directions.

    Parameters
    ----------
    offsets : ndarray of shape (n_positions, d)
        Mean token of every place less the grand mean, subtracted; zero for places never seen.
    basis : ndarray of shape (r, d)
        Orthonormal directions along which the means vary. Tokens are projected off them, because
        how strongly a place shows depends on the image: what the mean leaves lies along the same
        directions.
    scales : ndarray of shape (n_positions, d), optional
        How far tokens of each place lie from others, as `place_scales` gives it, where samples are
        spreads; not taken off tokens, but distances are divided by it.

    Notes
    -----
    Ours; the paper averages over whole crops, which hides it. Position explained more than half of
    the token variance of the built-in model, and after subtracting the means alone the concepts of
    single cells still followed the columns of the tiles.
    """

    def __init__(
        self,
        offsets: NDArray[np.float32],
        basis: NDArray[np.float32],
        scales: NDArray[np.float32] | None = None,
    ) -> None:
        self.offsets = offsets
        self.basis = basis
        self.scales = scales

    @classmethod
    def fit(
        cls, grids: Iterable[PlacedTokens], n_positions: int, explained: float = 0.99
    ) -> PositionComponent:
        """Measure means and directions.

        Parameters
        ----------
        grids : iterable of TokenGrid
            Tokens of all fields at hand, treated ones too: what they lack would be left in them
            and pass for a treatment.
        n_positions : int
            Places in the model's grid.
        explained : float, default=0.99
            Share of the variance of the means that the directions have to cover.

        Returns
        -------
        PositionComponent
        """
        return cls.of_sums(*sums_by_position(grids, n_positions), explained)

    @classmethod
    def of_sums(
        cls, sums: NDArray[np.float64], counts: NDArray[np.int64], explained: float = 0.99
    ) -> PositionComponent:
        """The same from sums over fields, as `sums_by_position` gives them."""
        grand = sums.sum(0) / counts.sum()
        means = sums / np.maximum(counts, 1)[:, None]
        offsets = np.where(counts[:, None] > 0, means - grand, 0.0)
        strengths, directions = right_vectors(offsets)
        energy = np.cumsum(strengths**2)
        # Never more than an eighth of the token: the rest is for the image.
        most = max(1, offsets.shape[1] // 8)
        rank = 0
        if energy[-1] > 0:
            rank = min(int(np.searchsorted(energy, explained * energy[-1])) + 1, most)
        return cls(offsets.astype(np.float32), directions[:rank].astype(np.float32))

    def remove(self, grid: TokenGrid) -> TokenGrid:
        """The grid without its position component; the input is left as it is.

        Raises
        ------
        MicrodlError
            If the grid was made with larger tiles.
        """
        if int(grid.position.max()) >= len(self.offsets):
            raise MicrodlError(
                f"The tile grid has more places than the {len(self.offsets)} that the position "
                "means were fitted for; use the tile size of the dictionary."
            )
        return grid.map(self.take_off)

    def take_off(
        self, tokens: NDArray[np.float32], position: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Tokens of shape (rows, columns, d) without the component.

        `position` is the place of each in the model's grid, of shape (rows, columns).
        """
        left: NDArray[np.float32] = tokens - self.offsets[position]
        left -= (left @ self.basis.T) @ self.basis
        return left


def left_out_share(grids: Sequence[TokenGrid], n_positions: int) -> float:
    """Position share that is left in fields which the component was not fitted on.

    Parameters
    ----------
    grids : sequence of TokenGrid
        Tokens of all fields; every other one is left out.
    n_positions : int
        Places in the model's grid.

    Returns
    -------
    float
        As `position_share`; with a single field, what is left in that field.
    """
    component = PositionComponent.fit(grids[::2], n_positions)
    without = [_WithoutPosition(g, component) for g in grids[1::2] or grids]
    return position_share(without)


class _WithoutPosition:
    """A grid without its position component, which is taken off anew whenever tokens are asked for.

    Half of the fields would otherwise be there twice, in memory or on disk.
    """

    def __init__(self, grid: TokenGrid, component: PositionComponent) -> None:
        self._grid, self._component = grid, component
        self.position = grid.position

    def bands(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Rows of the grid and their tokens, from the first to the last."""
        for rows, tokens in self._grid.bands():
            yield rows, self._component.take_off(tokens, self.position[rows])
