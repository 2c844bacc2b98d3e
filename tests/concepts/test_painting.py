from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage, stats

from napari_microdl.concepts.painting import (
    BoxPainter,
    LabelPainter,
    channel_correlations,
    coarsest_step,
    grid_to_pixels,
    rims,
    window_of,
)
from napari_microdl.core.errors import MicrodlError

shapes = st.tuples(st.integers(1, 14), st.integers(1, 14))


@given(data=st.data())
def test_cells_are_painted_as_by_a_loop(data):
    dtype = data.draw(st.sampled_from([np.int32, np.int64]))
    numbers = [-3, 0, 1, 2, 5, 9, 70_000, 2**31 - 1, *([2**40] if dtype is np.int64 else [])]
    labels = data.draw(hnp.arrays(dtype, data.draw(shapes), elements=st.sampled_from(numbers)))
    # In any order, some of them in no pixel, some of the pixels with none.
    ids = data.draw(st.lists(st.sampled_from(numbers[2:]), min_size=1, unique=True))
    values = np.arange(len(ids), dtype=np.float32) - 1.5
    painted = LabelPainter(labels, np.array(ids)).paint(values)
    expected = np.full(labels.shape, np.nan, np.float32)
    for place in np.ndindex(labels.shape):
        if labels[place] in ids:
            expected[place] = values[ids.index(labels[place])]
    assert painted.dtype == np.float32
    np.testing.assert_array_equal(painted, expected)


@given(data=st.data(), width=st.integers(1, 4))
def test_rims_are_what_morphology_takes_off(data, width):
    labels = data.draw(hnp.arrays(np.int32, data.draw(shapes), elements=st.integers(0, 3)))
    painter = LabelPainter(labels, np.array([1, 2, 3]))
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=3, max_size=3)))
    units = painter.regions(chosen)
    cross = np.zeros((2 * width + 1, 2 * width + 1), bool)
    cross[width], cross[:, width] = True, True
    rim = rims(units, width)
    for number, is_chosen in enumerate(chosen, start=1):
        cell = labels == number
        np.testing.assert_array_equal(units[cell] >= 0, is_chosen)
        if is_chosen:
            inner = ndimage.binary_erosion(cell, cross, border_value=1)
            np.testing.assert_array_equal(rim & cell, cell & ~inner)


def test_one_painter_paints_many_values():
    labels = np.array([[0, 4], [4, 2]], np.uint8)
    painter = LabelPainter(labels, np.array([2, 4]))
    for scale in (1, 10):
        painted = painter.paint(np.array([1, 2], np.float32) * scale)
        np.testing.assert_array_equal(painted, [[np.nan, 2 * scale], [2 * scale, scale]])


@given(data=st.data(), shape=shapes)
def test_boxes_are_painted_with_the_mean_where_they_overlap(data, shape):
    def edges(length: int) -> st.SearchStrategy:
        places = st.lists(st.integers(0, length), min_size=2, max_size=2, unique=True)
        return places.map(sorted)

    drawn = data.draw(st.lists(st.tuples(edges(shape[0]), edges(shape[1])), max_size=6))
    boxes = np.array([[y[0], x[0], y[1], x[1]] for y, x in drawn], np.int32).reshape(-1, 4)
    values = np.random.default_rng(0).normal(size=len(boxes)).astype(np.float32)
    painted = BoxPainter(boxes, shape).paint(values)
    assert painted.dtype == np.float32
    assert painted.shape == shape
    for y, x in np.ndindex(shape):
        here = [
            value
            for (top, left, bottom, right), value in zip(boxes, values, strict=True)
            if top <= y < bottom and left <= x < right
        ]
        if here:
            assert painted[y, x] == pytest.approx(np.mean(here), abs=1e-6)
        else:
            assert np.isnan(painted[y, x])


@given(
    grid=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 6)),
        elements=st.floats(-1, 1, width=32),
    ),
    patch=st.integers(1, 9),
    data=st.data(),
)
@settings(max_examples=60)
def test_pixels_lie_between_the_centres_of_patches(grid, patch, data):
    # The last row and column of patches may stick out of the image.
    shape = tuple(patch * n - data.draw(st.integers(0, patch - 1)) for n in grid.shape)
    before = grid.copy()
    pixels = grid_to_pixels(grid, patch, shape)
    assert pixels.shape == shape
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(grid, before)
    by_torch = torch.nn.functional.interpolate(
        torch.from_numpy(grid)[None, None], scale_factor=patch, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    np.testing.assert_allclose(pixels, by_torch[: shape[0], : shape[1]], atol=1e-5)
    places = [(np.arange(n) + 0.5) / patch - 0.5 for n in shape]
    by_scipy = ndimage.map_coordinates(
        grid.astype(float), np.meshgrid(*places, indexing="ij"), order=1, mode="nearest"
    )
    np.testing.assert_allclose(pixels, by_scipy, atol=1e-5)


@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.integers(0, 4), st.integers(0, 4)
)
def test_the_coarsest_pixels_lie_between_the_centres_of_patches(rows, columns, patch, cut_y, cut_x):
    grid = np.random.default_rng(rows).normal(size=(rows, columns)).astype(np.float32)
    shape = (max(rows * patch - cut_y, 1), max(columns * patch - cut_x, 1))
    coarsest = coarsest_step(patch, shape)
    assert patch % coarsest == shape[0] % coarsest == shape[1] % coarsest == 0
    for step in (1, coarsest):
        centres = ((np.arange(n // step) + 0.5) * step - 0.5 for n in shape)
        y, x = ((c + 0.5) / patch - 0.5 for c in centres)
        expected = ndimage.map_coordinates(
            grid, np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest", output=np.float64
        )
        found = grid_to_pixels(grid, patch, shape, step)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_patches_that_fill_the_image_are_shown_as_they_are():
    grid = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    assert coarsest_step(16, (48, 80)) == 16
    np.testing.assert_array_equal(grid_to_pixels(grid, 16, (48, 80), 16), grid)


@given(shape=st.tuples(st.integers(1, 90), st.integers(1, 90)), data=st.data())
def test_a_window_lies_in_the_image_around_its_box(shape, data):
    top = data.draw(st.integers(0, shape[0] - 1))
    left = data.draw(st.integers(0, shape[1] - 1))
    bottom = data.draw(st.integers(top + 1, shape[0]))
    right = data.draw(st.integers(left + 1, shape[1]))
    rows, columns = window_of(np.array([top, left, bottom, right], np.int32), shape)
    for part, first, last, length in (
        (rows, top, bottom, shape[0]),
        (columns, left, right, shape[1]),
    ):
        assert 0 <= part.start <= first
        assert last <= part.stop <= length
    wanted = max(24, round(1.4 * max(bottom - top, right - left)))
    assert rows.stop - rows.start == min(wanted, shape[0])
    assert columns.stop - columns.start == min(wanted, shape[1])


def test_a_window_is_centred_where_there_is_room():
    rows, columns = window_of(np.array([50, 60, 80, 90], np.int32), (200, 200))
    assert (rows, columns) == (slice(44, 86), slice(54, 96))


@given(st.integers(0, 100), st.sampled_from([np.uint8, np.uint16, np.float32]))
def test_every_channel_is_correlated_as_scipy_does(seed, dtype):
    random = np.random.default_rng(seed)
    heatmap = random.normal(size=(4, 5)).astype(np.float32)
    image = random.integers(0, 200, (3, 30, 39)).astype(dtype)
    image[1] = 7
    pixels = grid_to_pixels(heatmap, 8, (30, 39))
    found = channel_correlations(heatmap, image, 8)
    assert np.isnan(found[1])
    for channel in (0, 2):
        expected = stats.pearsonr(pixels.ravel(), image[channel].ravel().astype(float))
        assert found[channel] == pytest.approx(expected.statistic, abs=1e-6)


def test_a_channel_that_is_the_heatmap_gets_one_and_its_negative_minus_one():
    heatmap = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    pixels = grid_to_pixels(heatmap, 4, (12, 12))
    np.testing.assert_allclose(
        channel_correlations(heatmap, np.stack([pixels * 9 + 2, -pixels]), 4), [1, -1]
    )


def test_a_heatmap_that_says_nothing_follows_no_channel():
    image = np.random.default_rng(0).random((2, 8, 8))
    assert np.isnan(channel_correlations(np.ones((2, 2), np.float32), image, 4)).all()


def test_an_image_without_channels_is_refused():
    with pytest.raises(MicrodlError, match="has 2 dimensions"):
        channel_correlations(np.ones((2, 2), np.float32), np.ones((8, 8)), 4)
