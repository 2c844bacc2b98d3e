from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from core.refusals import refusal
from napari_microdl.tokens import TokenGrid
from napari_microdl.tokens.units import (
    Units,
    background_squares,
    far_patches,
    pool,
    units_of,
)

shapes = st.tuples(st.integers(1, 23), st.integers(1, 23))
patches = st.integers(1, 6)


def random_grid(shape: tuple[int, int], patch: int, width: int = 3, seed: int = 0) -> TokenGrid:
    grid_h, grid_w = -(-shape[0] // patch), -(-shape[1] // patch)
    tokens = np.random.default_rng(seed).normal(size=(grid_h, grid_w, width)).astype(np.float32)
    return TokenGrid(tokens, np.zeros((grid_h, grid_w), np.int32), patch, shape)


def token_of_every_pixel(grid: TokenGrid) -> np.ndarray:
    block = np.ones((grid.patch_size, grid.patch_size, 1))
    height, width = grid.image_shape
    return np.kron(grid.tokens.astype(float), block)[:height, :width]


def check_against_masks(grid: TokenGrid, units: Units, masks: list[np.ndarray]) -> None:
    """Everything about units, from the pixels of each."""
    pixels = token_of_every_pixel(grid)
    pooled = pool(grid, units)
    assert pooled.dtype == np.float32
    assert pooled.shape == (len(masks), grid.tokens.shape[-1])
    assert len(units) == len(masks)
    assert units.weights.shape == (len(masks), grid.tokens.shape[0] * grid.tokens.shape[1])
    np.testing.assert_allclose(units.weights.sum(axis=1), units.area)
    for n, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        assert units.area[n] == mask.sum()
        assert units.y[n] == pytest.approx(rows.mean(), abs=1e-4)
        assert units.x[n] == pytest.approx(columns.mean(), abs=1e-4)
        first, last = (rows.min(), columns.min()), (rows.max(), columns.max())
        assert units.boxes[n].tolist() == [*first, last[0] + 1, last[1] + 1]
        np.testing.assert_allclose(pooled[n], pixels[mask].mean(0), atol=1e-5)


@st.composite
def labelled_images(draw: st.DrawFn) -> np.ndarray:
    """Labels with gaps, cells in pieces and at the border, background below and at zero."""
    shape = draw(shapes)
    numbers = draw(
        st.lists(st.sampled_from([-1, 0, 1, 2, 7, 40, 1000, 2**30]), min_size=1, max_size=5)
    )
    return draw(hnp.arrays(np.int64, shape, elements=st.sampled_from(numbers)))


def squares(shape: tuple[int, int], size: int, stride: int, *, whole: bool) -> list[np.ndarray]:
    """Masks of squares, row by row; only those that lie in the image as a whole, or all."""
    masks = []
    for top in range(0, shape[0], stride):
        for left in range(0, shape[1], stride):
            if not whole or (top + size <= shape[0] and left + size <= shape[1]):
                mask = np.zeros(shape, bool)
                mask[top : top + size, left : left + size] = True
                masks.append(mask)
    return masks


@given(labels=labelled_images(), patch=patches)
def test_cells_are_the_means_of_their_pixels(labels: np.ndarray, patch: int):
    grid = random_grid(labels.shape, patch)
    ids = [i for i in np.unique(labels) if i > 0]
    units = units_of(grid, "cell", labels=labels)
    assert units.ids.dtype == np.int64
    assert units.ids.tolist() == ids
    check_against_masks(grid, units, [labels == i for i in ids])


@given(shape=shapes, patch=patches, size=st.integers(1, 12), stride=st.integers(1, 12))
@settings(max_examples=60)
def test_crops_are_the_means_of_their_pixels(
    shape: tuple[int, int], patch: int, size: int, stride: int
):
    grid = random_grid(shape, patch)
    masks = squares(shape, size, stride, whole=True)
    if not masks:
        assert refusal(units_of, grid, "crop", crop_size=size, crop_stride=stride) == (
            f"No crop of {size} px fits into an image of {shape[0]} x {shape[1]} px; "
            "take smaller crops."
        )
        return
    units = units_of(grid, "crop", crop_size=size, crop_stride=stride)
    assert units.ids.tolist() == list(range(1, len(masks) + 1))
    check_against_masks(grid, units, masks)


@given(labels=labelled_images(), patch=patches)
def test_background_is_what_lies_in_no_cell_square_by_square(labels: np.ndarray, patch: int):
    grid = random_grid(labels.shape, patch)
    cells = units_of(grid, "cell", labels=labels)
    found = background_squares(grid, cells)
    if min(labels.shape) < 4 * patch:
        # One square, or a few that are cut smaller than others.
        assert found.weights.sum() <= (labels <= 0).sum() + 1e-3
        return
    masks = squares(labels.shape, 4 * patch, 4 * patch, whole=True)
    shares, pixels = np.array([(labels[m] <= 0).mean() for m in masks]), token_of_every_pixel(grid)
    assert (shares > 0.5 + 1e-6).sum() <= len(found) <= (shares >= 0.5 - 1e-6).sum()
    if not (np.abs(shares - 0.5) < 1e-6).any():
        expected = [pixels[m & (labels <= 0)].mean(0) for m in np.array(masks)[shares > 0.5]]
        np.testing.assert_allclose(pool(grid, found), np.reshape(expected, (-1, 3)), atol=1e-5)


def test_far_patches_are_farther_from_every_cell_than_a_cell_is_wide():
    labels = np.zeros((160, 160), int)
    rows, columns = np.indices(labels.shape)
    for number, (y, x) in enumerate([(40, 40), (60, 120)]):
        labels[np.hypot(rows - y, columns - x) < 20] = number + 1
    grid = random_grid(labels.shape, 8)
    found = far_patches(grid, units_of(grid, "cell", labels=labels))
    distance = ndimage.distance_transform_edt(labels == 0)
    nearest = distance.reshape(20, 8, 20, 8).min((1, 3))
    # A cell's radius is 20 pixels, and distances are of patches of eight.
    assert found[nearest > 20 + 8].all()
    assert not found[nearest < 20 - 8].any()
    # Beside a cell smaller than a patch there is a patch of room.
    labels[:] = 0
    labels[80, 80] = 1
    small = far_patches(grid, units_of(grid, "cell", labels=labels))
    assert (~small).sum() == 5
    # Where cells are everywhere nothing is far.
    labels[:] = 1 + columns // 20
    assert not far_patches(grid, units_of(grid, "cell", labels=labels)).any()


@given(shape=shapes, patch=patches)
def test_tokens_are_units_of_their_own(shape: tuple[int, int], patch: int):
    grid = random_grid(shape, patch)
    units = units_of(grid, "token")
    check_against_masks(grid, units, squares(shape, patch, patch, whole=False))
    np.testing.assert_allclose(pool(grid, units), grid.tokens.reshape(-1, 3), atol=1e-6)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16, np.int32, np.uint32])
def test_labels_of_any_whole_type_give_the_same_cells(kind: type):
    labels = np.zeros((20, 20), kind)
    labels[3:9, 4:15] = 1
    units = units_of(random_grid((20, 20), 4), "cell", labels=labels)
    assert units.ids.tolist() == [1]
    assert units.area.tolist() == [66]


def test_sums_do_not_lose_small_differences():
    grid = random_grid((256, 256), 2)
    grid.tokens[...] = 1000.25
    labels = np.ones((256, 256), int)
    pooled = pool(grid, units_of(grid, "cell", labels=labels))
    np.testing.assert_array_equal(pooled, np.float32(1000.25))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"kind": "cell"}, "There are no cell labels; choose a Labels layer or segment the image."),
        (
            {"kind": "cell", "labels": np.ones((24, 20), int)},
            "The labels have the shape (24, 20) but the image is (20, 24); "
            "choose the labels that belong to this image.",
        ),
        ({"kind": "well"}, "Unit 'well' is not known; use one of cell, crop, token."),
        (
            {"kind": "crop", "crop_size": 0},
            "Crops of 0 px every 64 px are not possible; use 1 or more.",
        ),
        (
            {"kind": "crop", "crop_size": 8, "crop_stride": -8},
            "Crops of 8 px every -8 px are not possible; use 1 or more.",
        ),
    ],
)
def test_units_that_cannot_be_made_give_one_sentence(arguments: dict[str, Any], sentence: str):
    assert refusal(units_of, random_grid((20, 24), 4), **arguments) == sentence
