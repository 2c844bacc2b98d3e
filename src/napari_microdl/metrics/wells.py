"""Profiles of wells against those of controls: how far off they lie, and what their place does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from napari_microdl.core.errors import MicrodlError
from napari_microdl.metrics.resampling import arrangements_of, count_arrangements

# Spread of a normal distribution over its median absolute deviation.
_MAD_TO_SPREAD = 1.4826
# The least spread of a feature, as a share of the median spread of all.
FLOOR = 0.25
MOST_ARRANGEMENTS = 4999
TERMS = ("row", "column", "edge")
# Control wells beside those that the terms and the plates take.
_LEAST_FREE = 6


@dataclass(frozen=True)
class WellTest:
    """A treatment against controls, wells as unit.

    Parameters
    ----------
    effect : ndarray of shape (n_features,)
        Mean of its wells less that of the controls of their plates, in spreads.
    p_value : float
        Share of arrangements of the wells whose largest effect is as large.
    smallest_p : float
        What p cannot be below for the number of wells.
    n_wells, n_controls : int
        Wells on plates that have both.
    """

    effect: NDArray[np.float64]
    p_value: float
    smallest_p: float
    n_wells: int
    n_controls: int


def spread_of(values: NDArray[np.float64], blocks: NDArray[np.generic]) -> NDArray[np.float64]:
    """Robust spread of every feature about the medians of blocks.

    Parameters
    ----------
    values : ndarray of shape (n_wells, n_features)
        Means of wells.
    blocks : ndarray of shape (n_wells,)
        Plates.

    Returns
    -------
    ndarray of shape (n_features,)
        1.4826 times the median absolute deviation, at least a quarter of what the median feature
        has; 1 where no feature varies.
    """
    centred = values - _medians(values, blocks, values, blocks)
    spread = _MAD_TO_SPREAD * np.median(np.abs(centred), axis=0)
    positive = spread[spread > 0]
    found: NDArray[np.float64] = (
        np.maximum(spread, FLOOR * np.median(positive)) if len(positive) else np.ones(len(spread))
    )
    return found


def robust_z(
    values: NDArray[np.float64], control: NDArray[np.bool_], plates: NDArray[np.generic]
) -> NDArray[np.float64]:
    """How far wells lie from the controls of their plate.

    Parameters
    ----------
    values : ndarray of shape (n_wells, n_features)
        Means of wells.
    control : ndarray of bool, shape (n_wells,)
        Which are controls.
    plates : ndarray of shape (n_wells,)
        Plate of each.

    Returns
    -------
    ndarray of shape (n_wells, n_features)
        Less the median of the controls of the plate, over `spread_of` the controls of all plates;
        NaN on a plate without controls.
    """
    spread = spread_of(values[control], plates[control])
    found: NDArray[np.float64] = (
        values - _medians(values[control], plates[control], values, plates)
    ) / spread
    return found


def compare_with_controls(
    values: NDArray[np.float64],
    treated: NDArray[np.bool_],
    control: NDArray[np.bool_],
    plates: NDArray[np.generic],
    *,
    most: int = MOST_ARRANGEMENTS,
    random_state: int = 0,
) -> WellTest:
    """Ask whether the wells of a treatment lie further off than wells that swap places with them.

    Parameters
    ----------
    values : ndarray of shape (n_wells, n_features)
        Means of wells.
    treated, control : ndarray of bool, shape (n_wells,)
        The wells of the treatment, and of controls.
    plates : ndarray of shape (n_wells,)
        Plate of each; wells swap within plates, and those on a plate without the other kind take
        no part.
    most : int, default=4999
        Of more arrangements as many are drawn.
    random_state : int, default=0
        Of the draw.

    Returns
    -------
    WellTest

    Raises
    ------
    MicrodlError
        If no plate has both kinds.

    Notes
    -----
    A permutation test of the largest effect in magnitude over all features, which corrects for
    their number by itself. The spread is that of all wells that take part, whatever their kind, so
    that it is the same in every arrangement.
    """
    both = np.intersect1d(plates[treated], plates[control])
    rows = np.flatnonzero((treated | control) & np.isin(plates, both))
    if not len(rows):
        raise MicrodlError("no plate has both wells of the treatment and of controls.")
    y, inside = values[rows], treated[rows]
    _, block = np.unique(plates[rows], return_inverse=True)
    y = y / spread_of(y, block)
    arranged = arrangements_of(inside, block, most, random_state)
    effects = _weights(np.vstack([inside, arranged]), block) @ y
    largest = np.abs(effects).max(axis=1)
    # Sums in another order differ in the last digits.
    reached = int((largest[1:] >= largest[0] * (1 - 1e-9)).sum())
    n_inside, sizes = np.bincount(block, inside), np.bincount(block)
    # With as many on either side, kinds swapped as a whole give the same.
    alike = 2 if (2 * n_inside == sizes).all() and len(arranged) else 1
    if count_arrangements(inside, block) - 1 > most:
        alike = 1
    n = 1 + len(arranged)
    return WellTest(
        effects[0], (1 + reached) / n, min(1.0, alike / n), int(inside.sum()), int((~inside).sum())
    )


def _weights(inside: NDArray[np.bool_], block: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rows of weights whose products with values are effects of arrangements."""
    n_inside, sizes = np.bincount(block, inside[0]), np.bincount(block)
    share = n_inside / n_inside.sum()
    weights: NDArray[np.float64] = np.where(
        inside, (share / n_inside)[block], -(share / (sizes - n_inside))[block]
    )
    return weights


def _medians(
    of: NDArray[np.float64],
    blocks: NDArray[np.generic],
    values: NDArray[np.float64],
    own: NDArray[np.generic],
) -> NDArray[np.float64]:
    """Medians of blocks for rows of these or others; NaN where a block is not there."""
    found = np.full(values.shape, np.nan)
    for name in np.unique(blocks):
        found[own == name] = np.median(of[blocks == name], axis=0)
    return found


@dataclass(frozen=True, eq=False)
class PositionEffects:
    """What wells owe to their place on a plate, measured on controls.

    Parameters
    ----------
    slopes : ndarray of shape (3, n_features)
        Of the row and the column, from one end of the plate to the other, and of the edge against
        the inside.
    p_values : ndarray of shape (3, n_features)
        Partial F tests of the same.
    share : ndarray of shape (n_features,)
        Share of the variance of control wells about their plates that lies in the three, less what
        chance gives (epsilon squared).
    fitted : ndarray of shape (n_wells, n_features)
        What is taken off each well; of a control what the other controls say.
    """

    slopes: NDArray[np.float64]
    p_values: NDArray[np.float64]
    share: NDArray[np.float64]
    fitted: NDArray[np.float64]


def place_terms(places: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Row and column from -1/2 to 1/2, and whether it is at the edge, of places on a plate.

    Parameters
    ----------
    places : ndarray of int, shape (n, 2)
        Row and column, from 0.
    shape : (int, int)
        Rows and columns of the plate.

    Returns
    -------
    ndarray of shape (n, 3)
    """
    last = np.asarray(shape) - 1
    edge = ((places == 0) | (places == last)).any(axis=1)
    return np.column_stack([places / last - 0.5, edge])


def position_effects(
    values: NDArray[np.float64],
    control: NDArray[np.bool_],
    plates: NDArray[np.generic],
    places: NDArray[np.int64],
    shape: tuple[int, int],
) -> PositionEffects:
    """Least squares on control wells: a level a plate, and row, column and edge of all plates.

    Parameters
    ----------
    values : ndarray of shape (n_wells, n_features)
        Means of wells.
    control : ndarray of bool, shape (n_wells,)
        Which are controls.
    plates : ndarray of shape (n_wells,)
        Plate of each.
    places : ndarray of int, shape (n_wells, 2)
        Row and column, from 0.
    shape : (int, int)
        Rows and columns of the plates.

    Returns
    -------
    PositionEffects

    Raises
    ------
    MicrodlError
        If controls are too few, or lie so that the three cannot be told apart.

    Notes
    -----
    Row and column are straight lines from -1/2 to 1/2; the edge is the outermost ring. A two-way
    median polish would take a control in every row and column, which plates seldom have. A control
    well is corrected by what the others say of its place: corrected by themselves, controls would
    lie closer together than treated wells do.
    """
    terms = place_terms(places, shape)
    levels = (plates[:, None] == np.unique(plates[control])).astype(np.float64)
    design = np.hstack([levels, terms])
    x, y = design[control], values[control]
    n, width = x.shape
    least = width + _LEAST_FREE
    if n < least:
        raise MicrodlError(
            f"there are {n} control wells on plates; {least} are needed to tell what row, column "
            "and edge do."
        )
    if np.linalg.matrix_rank(x) < width:
        raise MicrodlError(
            "controls lie so that row, column and edge cannot be told apart: they are needed in "
            "several rows and columns, at the edge and inside."
        )
    inverse = np.linalg.inv(x.T @ x)
    slopes = inverse @ x.T @ y
    residual = y - x @ slopes
    squares, free = (residual**2).sum(axis=0), n - width
    own = slopes[-3:]
    tiny = np.finfo(np.float64).tiny
    f = own**2 / np.diag(inverse)[-3:, None] / np.maximum(squares / free, tiny)
    within = y - x[:, :-3] @ np.linalg.lstsq(x[:, :-3], y, rcond=None)[0]
    total = (within**2).sum(axis=0)
    unexplained = np.divide(squares, total, out=np.ones(len(total)), where=total > 1e-20)
    fitted = (terms - terms.mean(axis=0)) @ own
    leverage = np.einsum("ij,jk,ik->i", x, inverse, x)
    # About the mean of all controls of its plate, beside which wells are seen; not of the others.
    others = 1 - 1 / levels[control].sum(axis=0)[levels[control].argmax(axis=1)]
    left_out = residual * (others / np.maximum(1 - leverage, 1e-6))[:, None]
    fitted[control] += residual - left_out
    return PositionEffects(
        own,
        stats.f.sf(f, 1, free),
        1 - unexplained * (n - x.shape[1] + 3) / free,
        fitted,
    )


def replicate_correlation(
    profiles: NDArray[np.float64], labels: NDArray[np.generic]
) -> tuple[dict[str, float], float]:
    """How alike wells of a treatment are, beside wells of different treatments.

    Parameters
    ----------
    profiles : ndarray of shape (n_wells, n_features)
        Profiles of treated wells.
    labels : ndarray of shape (n_wells,)
        Their treatments.

    Returns
    -------
    correlations : dict of str to float
        Median Pearson correlation of the pairs of wells of each treatment; of one well NaN.
    luck : float
        What pairs of different treatments are below in 95 of 100 cases; NaN of one treatment.
    """
    if len(profiles) < 2:
        return {str(label): math.nan for label in np.unique(labels)}, math.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation: NDArray[np.float64] = np.atleast_2d(np.corrcoef(profiles))
    first, second = np.triu_indices(len(profiles), 1)
    value, same = correlation[first, second], labels[first] == labels[second]
    others = value[~same]
    return {
        str(label): float(np.median(value[same & (labels[first] == label)]))
        if (labels == label).sum() > 1
        else math.nan
        for label in np.unique(labels)
    }, float(np.quantile(others, 0.95)) if len(others) else math.nan
