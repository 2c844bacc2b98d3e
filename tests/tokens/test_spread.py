from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from napari_microdl.tokens import TokenGrid, TokenStorage
from napari_microdl.tokens.spread import (
    Spread,
    measure_spread,
    place_scales,
    token_shares,
    unit_shares,
)
from napari_microdl.tokens.units import Units, units_of

PATCH = 4
PLACES = 9


def grid_of(seed: int, rows: int = 9, columns: int = 11, d: int = 5) -> TokenGrid:
    random = np.random.default_rng(seed)
    tokens = random.normal(size=(rows, columns, d)).astype(np.float32) * np.arange(1, d + 1)
    shape = (rows * PATCH - 1, columns * PATCH - 2)
    i, j = np.indices((rows, columns))
    position = (i % 3 * 3 + j % 3).astype(np.int32)
    return TokenGrid(tokens.astype(np.float32), position, PATCH, shape)


def scales_of(seed: int, d: int = 5) -> np.ndarray:
    return np.random.default_rng([seed, 2]).uniform(0.5, 2, (PLACES, d)).astype(np.float32)


def cells_of(grid: TokenGrid, seed: int, n: int = 6) -> Units:
    """Boxes of different sizes, later ones over earlier ones."""
    random = np.random.default_rng([seed, 1])
    labels = np.zeros(grid.image_shape, int)
    for label in range(1, n + 1):
        top, left = random.integers(0, np.array(grid.image_shape) - 14)
        height, width = random.integers(3, 14, 2)
        labels[top : top + height, left : left + width] = label
    return units_of(grid, "cell", labels=labels)


def slow_spread(grid: TokenGrid, units: Units, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations by the definition, pixel by pixel."""
    flat = grid.tokens.reshape(-1, grid.tokens.shape[-1]).astype(np.float64)
    of_pixel = scales[grid.position.ravel()]
    means, deviations = [], []
    for row in units.weights.toarray():
        pixels = np.repeat(flat, row.astype(int), axis=0)
        means.append(pixels.mean(0))
        scale = np.repeat(of_pixel, row.astype(int), axis=0)
        deviations.append((np.abs(pixels - pixels.mean(0)) / scale).mean(0))
    return np.array(means), np.array(deviations)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_means_and_deviations_are_those_of_the_pixels(seed: int):
    grid = grid_of(seed)
    units = cells_of(grid, seed)
    scales = scales_of(seed)
    found = measure_spread(grid, units, scales)
    means, deviations = slow_spread(grid, units, scales)
    np.testing.assert_allclose(found.means, means, atol=1e-5)
    np.testing.assert_allclose(found.deviations, deviations, atol=1e-5)
    clear = deviations > found.floor
    np.testing.assert_allclose(found.vectors[clear], np.log(deviations[clear]), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_shares_of_its_patches_add_up_to_a_unit(seed: int):
    grid = grid_of(seed)
    units = cells_of(grid, seed)
    spread = measure_spread(grid, units, scales_of(seed))
    flat = grid.tokens.reshape(-1, grid.tokens.shape[-1])
    for unit, weights in enumerate(units.weights.toarray()):
        shares = unit_shares(flat, grid.position.ravel(), spread, unit)
        mean = (weights[:, None] * shares).sum(0) / weights.sum()
        np.testing.assert_allclose(mean, spread.vectors[unit], atol=2e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), shift=st.floats(-50, 50))
def test_what_all_tokens_share_cancels(seed: int, shift: float):
    grid = grid_of(seed)
    units = cells_of(grid, seed)
    moved = TokenGrid(grid.tokens + np.float32(shift), grid.position, PATCH, grid.image_shape)
    here, there = measure_spread(grid, units), measure_spread(moved, units)
    np.testing.assert_allclose(there.vectors, here.vectors, atol=5e-4)
    (_, shares), (_, others) = (
        next(token_shares(g, units, s)) for g, s in ((grid, here), (moved, there))
    )
    np.testing.assert_allclose(others, shares, atol=2e-3)


def test_a_unit_of_one_patch_and_a_constant_field_have_finite_vectors():
    grid = grid_of(0)
    one = units_of(grid, "cell", labels=np.pad(np.ones((4, 4), int), ((0, 31), (0, 38))))
    assert np.isfinite(measure_spread(grid, one).vectors).all()
    assert (measure_spread(grid, one).deviations == 0).all()
    flat = TokenGrid(np.ones_like(grid.tokens), grid.position, PATCH, grid.image_shape)
    assert np.isfinite(measure_spread(flat, one).vectors).all()


def test_patches_between_units_are_mixed_by_what_is_covered():
    grid = grid_of(3)
    labels = np.zeros(grid.image_shape, int)
    labels[4:20, 4:18] = 1
    labels[4:20, 18:30] = 2
    units = units_of(grid, "cell", labels=labels)
    spread = measure_spread(grid, units, scales_of(3))
    ((_, shares),) = token_shares(grid, units, spread)
    # Columns 16 and 17 of this patch are of the first cell, 18 and 19 of the second.
    own = [unit_shares(grid.tokens, grid.position, spread, unit) for unit in (0, 1)]
    expected = (own[0][2, 4] + own[1][2, 4]) / 2
    np.testing.assert_allclose(shares[2, 4], expected, atol=1e-5)
    np.testing.assert_allclose(shares[2, 2], own[0][2, 2], atol=1e-5)


def test_grids_in_files_give_what_grids_in_memory_give():
    grid = grid_of(5, rows=60, columns=50, d=2_000)
    with closing(TokenStorage(memory_bytes=0).writer(grid.tokens.shape)) as writer:
        writer.put(0, 0, grid.tokens)
        tokens = writer.finish()
    on_disk = TokenGrid(tokens, grid.position, PATCH, grid.image_shape)
    units = cells_of(grid, 5, 40)
    scales = place_scales([grid], [units], PLACES)
    there = place_scales([on_disk], [units], PLACES)
    np.testing.assert_allclose(there, scales, rtol=1e-5)
    here, there = (measure_spread(g, units, scales) for g in (grid, on_disk))
    np.testing.assert_allclose(there.vectors, here.vectors, atol=1e-5)
    parts = list(token_shares(on_disk, units, there))
    assert len(parts) > 1
    ((_, expected),) = token_shares(grid, units, here)
    np.testing.assert_allclose(np.concatenate([p for _, p in parts]), expected, atol=1e-4)


def test_no_units_no_spread():
    grid = grid_of(1)
    units = units_of(grid, "cell", labels=np.zeros(grid.image_shape, int))
    spread = measure_spread(grid, units)
    assert spread.vectors.shape == (0, 5)
    ((_, shares),) = token_shares(grid, units, spread)
    assert np.isfinite(shares).all()


@pytest.mark.parametrize("n_crops", [1, 4])
def test_overlapping_units_share_a_patch(n_crops: int):
    grid = grid_of(2)
    n = grid.tokens[..., 0].size
    weights = sparse.csr_array(np.full((n_crops, n), PATCH**2, np.float32))
    one = units_of(grid, "crop", crop_size=8, crop_stride=8)
    every = Units(*(getattr(one, f)[:n_crops] for f in ("ids", "y", "x", "area", "boxes")), weights)
    spread: Spread = measure_spread(grid, every)
    ((_, shares),) = token_shares(grid, every, spread)
    expected = unit_shares(grid.tokens, grid.position, spread, 0)
    np.testing.assert_allclose(shares, expected, atol=1e-4)


def crops_of(grid: TokenGrid) -> Units:
    """Units of six by six patches."""
    return units_of(grid, "crop", crop_size=6 * PATCH, crop_stride=6 * PATCH)


def test_how_far_tokens_of_a_place_lie_is_found():
    planted = scales_of(7)
    planted /= np.exp(np.log(planted).mean(0))
    random = np.random.default_rng(8)
    grids = [grid_of(seed, 60, 60) for seed in range(3)]
    # Each field has its own strength, and tokens of each unit share something.
    for grid in grids:
        shared = np.repeat(np.linspace(0, 50, 10), 6)[:, None, None]
        grid.tokens[:] = grid.tokens * planted[grid.position] * random.uniform(0.2, 5) + shared
    found = place_scales(grids, [crops_of(grid) for grid in grids], PLACES + 1)
    np.testing.assert_array_equal(found[PLACES], 1)
    np.testing.assert_allclose(found[:PLACES], planted, rtol=0.12)


def test_places_that_differ_by_chance_alone_are_taken_as_the_same():
    grids = [grid_of(seed, 18, 18) for seed in range(2)]
    few = place_scales(grids, [crops_of(grid) for grid in grids], PLACES)
    assert np.abs(np.log(few)).mean() < 0.03
    grids[0].tokens[:] = 2
    constant = place_scales(grids[:1], [crops_of(grids[0])], PLACES)
    np.testing.assert_array_equal(constant, 1)
