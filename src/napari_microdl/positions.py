"""Removes what a token owes to its place in the model's grid rather than to the image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from napari_microdl.embedding import TokenGrid
from napari_microdl.errors import MicrodlError


def _sums_by_position(
    grids: Iterable[TokenGrid], n_positions: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    sums: NDArray[np.float64] | None = None
    counts = np.zeros(n_positions, np.int64)
    for grid in grids:
        flat = grid.tokens.reshape(-1, grid.tokens.shape[-1]).astype(np.float64)
        position = grid.position.ravel()
        order = np.argsort(position, kind="stable")
        present, starts = np.unique(position[order], return_index=True)
        if sums is None:
            sums = np.zeros((n_positions, flat.shape[1]))
        sums[present] += np.add.reduceat(flat[order], starts, axis=0)
        counts += np.bincount(position, minlength=n_positions)
    if sums is None:
        raise MicrodlError("There are no tokens to learn the position component from.")
    return sums, counts


def position_share(grids: Iterable[TokenGrid]) -> float:
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
    sums, counts = _sums_by_position(grids, n_positions)
    n = int(counts.sum())
    grand = sums.sum(0) / n
    total = sum(float(((g.tokens - grand) ** 2).sum(dtype=np.float64)) for g in grids)
    seen = counts > 0
    means = sums[seen] / counts[seen, None]
    between = float((counts[seen] * ((means - grand) ** 2).sum(1)).sum())
    groups = int(seen.sum())
    if n <= groups or total == 0:
        return 0.0
    return max(0.0, 1.0 - (1.0 - between / total) * (n - 1) / (n - groups))


class PositionMean:
    """Mean token of every place in the model's grid, less the grand mean.

    Parameters
    ----------
    offsets : ndarray of shape (n_positions, d)
        What is subtracted from a token at each place; zero for places never seen.

    Notes
    -----
    Positions explained about half of the token variance of a small masked autoencoder; left in,
    the dictionary spends its atoms on them.
    """

    def __init__(self, offsets: NDArray[np.float32]) -> None:
        self.offsets = offsets

    @classmethod
    def fit(cls, grids: Iterable[TokenGrid], n_positions: int) -> PositionMean:
        """Measure the means.

        Parameters
        ----------
        grids : iterable of TokenGrid
            Tokens of the control fields.
        n_positions : int
            Places in the model's grid.

        Returns
        -------
        PositionMean
        """
        sums, counts = _sums_by_position(grids, n_positions)
        grand = sums.sum(0) / counts.sum()
        means = sums / np.maximum(counts, 1)[:, None]
        return cls(np.where(counts[:, None] > 0, means - grand, 0.0).astype(np.float32))

    def remove(self, grid: TokenGrid) -> TokenGrid:
        """The grid without its position component; the input is left as it is."""
        if int(grid.position.max()) >= len(self.offsets):
            raise MicrodlError(
                f"The tile grid has more places than the {len(self.offsets)} that the position "
                "means were fitted for; use the tile size of the dictionary."
            )
        return TokenGrid(
            grid.tokens - self.offsets[grid.position],
            grid.position,
            grid.patch_size,
            grid.image_shape,
        )
