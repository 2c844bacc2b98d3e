from __future__ import annotations

from collections.abc import Generator
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_microdl.embedding import TilePlan, TokenGrid, embed, embed_field
from napari_microdl.errors import MicrodlError
from napari_microdl.fields import Field
from napari_microdl.models.builtin import BuiltinModel, random_init
from napari_microdl.scaling import IntensityScaling

PATCH = 8


class PatchMean:
    """Stands in for a model: a token is the patch's mean and its place in the tile."""

    def __init__(self, patch_size: int) -> None:
        self.spec = SimpleNamespace(
            patch_size=patch_size, dim=2, default_layer=1, tile_size=4 * patch_size
        )
        self.batches: list[tuple[int, ...]] = []

    def tokens(self, tiles: np.ndarray, layer: int, site: str) -> np.ndarray:
        self.batches.append(tiles.shape)
        n, channels, height, width = tiles.shape
        p = self.spec.patch_size
        rows, columns = height // p, width // p
        means = tiles.reshape(n, channels, rows, p, columns, p).mean((3, 5))
        place = np.broadcast_to(np.arange(rows * columns).reshape(rows, columns), means.shape)
        return np.stack([means, place], axis=-1).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> BuiltinModel:
    return random_init("cpu")


def finish(steps: Generator[int, None, TokenGrid]) -> tuple[list[int], TokenGrid]:
    done = []
    while True:
        try:
            done.append(next(steps))
        except StopIteration as finished:
            return done, finished.value


def reflected(image: np.ndarray, y: int, x: int) -> np.ndarray:
    """The pixel at any place of an image that goes on in mirrors, edges not repeated."""
    places = []
    for place, length in ((y, image.shape[1]), (x, image.shape[2])):
        while not 0 <= place < length:
            place = 0 if length == 1 else -place if place < 0 else 2 * (length - 1) - place
        places.append(place)
    return image[:, places[0], places[1]]


def tile_at(image: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    return np.stack(
        [
            np.stack([reflected(image, top + y, left + x) for x in range(size)], axis=1)
            for y in range(size)
        ],
        axis=1,
    )


plans = st.builds(
    lambda patch, tokens, halo: TilePlan(patch, patch * tokens, min(halo, (tokens - 1) // 2)),
    st.integers(1, 5),
    st.integers(1, 7),
    st.integers(0, 3),
)
shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(plan=plans, shape=shapes)
def test_every_token_is_kept_from_exactly_one_tile(plan: TilePlan, shape: tuple[int, int]):
    rows, columns = plan.grid_shape(shape)
    assert (rows - 1) * plan.patch_size < shape[0] <= rows * plan.patch_size
    assert (columns - 1) * plan.patch_size < shape[1] <= columns * plan.patch_size
    hits = np.zeros((rows, columns), int)
    for i, j in plan.origins(shape):
        assert 0 <= i < rows
        assert 0 <= j < columns
        hits[i : i + plan.inner, j : j + plan.inner] += 1
    np.testing.assert_array_equal(hits, 1)


@settings(max_examples=60)
@given(plan=plans, shape=shapes, batch_size=st.integers(1, 5), channels=st.integers(1, 2))
def test_each_token_stands_for_its_own_patch(
    plan: TilePlan, shape: tuple[int, int], batch_size: int, channels: int
):
    model = PatchMean(plan.patch_size)
    p = plan.patch_size
    image = np.random.default_rng(0).random((channels, *shape)).astype(np.float32)
    done, grid = finish(embed_field(image, model, plan, batch_size=batch_size))
    rows, columns = plan.grid_shape(shape)
    assert grid.tokens.shape == (rows, columns, 2 * channels)
    assert (grid.patch_size, grid.image_shape) == (p, shape)
    # The place in the tile that the model saw is the place that the grid reports.
    np.testing.assert_array_equal(grid.tokens[..., 1], grid.position)
    inside = plan.tile_tokens - 2 * plan.halo
    i, j = np.indices((rows, columns))
    expected = (i % inside + plan.halo) * plan.tile_tokens + j % inside + plan.halo
    np.testing.assert_array_equal(grid.position, expected)
    for row in range(rows):
        for column in range(columns):
            patch = tile_at(image, row * p, column * p, p)
            np.testing.assert_allclose(grid.tokens[row, column, ::2], patch.mean((1, 2)), atol=1e-5)
    n_tiles = len(plan.origins(shape))
    assert done[-1] == n_tiles == sum(b[0] for b in model.batches)
    # Every channel of a tile is a pass of its own.
    at_once = max(1, batch_size // channels)
    assert done == [min(k, n_tiles) for k in range(at_once, n_tiles + at_once, at_once)]
    assert all(b[2:] == (plan.tile_size, plan.tile_size) for b in model.batches)


@pytest.mark.parametrize("shape", [(64, 64), (53, 70), (30, 9), (5, 3), (1, 1)])
def test_tiling_equals_each_tile_alone(model: BuiltinModel, shape: tuple[int, int]):
    plan = TilePlan(PATCH, 48, 1)
    image = np.random.default_rng(1).random((2, *shape)).astype(np.float32)
    _, grid = finish(embed_field(image, model, plan, layer=2, batch_size=3))
    rows, columns = plan.grid_shape(shape)
    assert grid.tokens.shape == (rows, columns, 2 * 192)
    for i, j in plan.origins(shape):
        tile = tile_at(image, (i - 1) * PATCH, (j - 1) * PATCH, 48)[None]
        alone = model.tokens(np.ascontiguousarray(tile), 2, "residual")[0, :, 1:-1, 1:-1]
        here = grid.tokens[i : i + plan.inner, j : j + plan.inner]
        alone = np.concatenate(list(alone), axis=-1)[: here.shape[0], : here.shape[1]]
        np.testing.assert_allclose(here, alone, atol=1e-4)


def test_a_shift_by_one_tile_shifts_the_grid(model: BuiltinModel):
    plan = TilePlan(PATCH, 32, 1)
    step = plan.inner * PATCH
    image = np.random.default_rng(2).random((1, 8 * step, 6 * step)).astype(np.float32)
    _, whole = finish(embed_field(image, model, plan))
    _, moved = finish(embed_field(image[:, step:, step:], model, plan))
    # Tiles whose halo reaches over the new edge saw its mirror image instead.
    n = plan.inner
    here, there = moved.tokens[n:, n:], whole.tokens[2 * n :, 2 * n :]
    np.testing.assert_allclose(here, there, atol=1e-4)
    assert np.abs(moved.tokens[:n] - whole.tokens[n : 2 * n, n:]).max() > 0.01
    np.testing.assert_array_equal(moved.position[n:, n:], whole.position[2 * n :, 2 * n :])


def test_channels_are_put_side_by_side_or_averaged(model: BuiltinModel):
    plan = TilePlan(PATCH, 48, 1)
    image = np.random.default_rng(3).random((3, 50, 44)).astype(np.float32)
    each = [finish(embed_field(image[[c]], model, plan))[1].tokens for c in range(3)]
    _, concat = finish(embed_field(image, model, plan, channel_tokens="concat"))
    _, mean = finish(embed_field(image, model, plan, channel_tokens="mean"))
    np.testing.assert_allclose(concat.tokens, np.concatenate(each, axis=-1), atol=1e-4)
    np.testing.assert_allclose(mean.tokens, np.mean(each, axis=0), atol=1e-4)
    assert mean.tokens.dtype == np.float32


def test_layer_and_site_are_passed_on(model: BuiltinModel):
    plan = TilePlan(PATCH, 16, 0)
    image = np.random.default_rng(4).random((1, 16, 16)).astype(np.float32)
    for layer in (1, 7):
        for site in ("residual", "attention"):
            _, grid = finish(embed_field(image, model, plan, layer=layer, site=site))
            expected = model.tokens(image[None], layer, site)[0, 0]
            np.testing.assert_allclose(grid.tokens, expected, atol=1e-5)
    _, grid = finish(embed_field(image, model, plan))
    default = model.tokens(image[None], model.spec.default_layer, "residual")[0, 0]
    np.testing.assert_allclose(grid.tokens, default, atol=1e-5)


def test_closing_stops_before_the_next_batch():
    model = PatchMean(4)
    steps = embed_field(np.ones((1, 64, 64), np.float32), model, TilePlan(4, 16, 1), batch_size=2)
    assert next(steps) == 2
    steps.close()
    assert len(model.batches) == 1


def test_fields_are_scaled_and_embedded_one_after_the_other(model: BuiltinModel):
    rng = np.random.default_rng(5)
    fields = [
        Field(rng.gamma(2, 30, (2, 40, 56)), ("a", "b"), "numpy"),
        Field(da.from_array(rng.gamma(2, 90, (2, 33, 20))), ("a", "b"), "dask"),
    ]
    grids = embed(fields, model, channels=("b",), tile_size=48, halo=1, layer=3)
    assert [g.image_shape for g in grids] == [(40, 56), (33, 20)]
    plan = TilePlan(PATCH, 48, 1)
    for field, grid in zip(fields, grids, strict=True):
        # Scaled over the image alone: the other field has no say.
        scaled = IntensityScaling().fit([field], ("b",)).apply(0, field.read((1,)))
        _, expected = finish(embed_field(scaled, model, plan, layer=3))
        np.testing.assert_array_equal(grid.tokens, expected.tokens)
    plate = embed(fields, model, channels=("b",), scaling="plate", tile_size=48, halo=1, layer=3)
    assert np.abs(plate[1].tokens - grids[1].tokens).max() > 0.01


def test_a_model_can_be_given_by_name():
    field = Field(np.random.default_rng(6).random((1, 16, 16)), ("a",), "f")
    (grid,) = embed([field], "random-init")
    (same,) = embed([field], random_init())
    np.testing.assert_array_equal(grid.tokens, same.tokens)


def test_plans_that_cut_nothing_are_refused():
    with pytest.raises(MicrodlError) as caught:
        TilePlan(8, 100, 0)
    assert str(caught.value) == "Tile size 100 px is not a multiple of the patch size 8 px."
    for size in (0, -8):
        with pytest.raises(MicrodlError, match="is not a multiple of the patch size"):
            TilePlan(8, size, 0)
    for halo in (-1, 2, 9):
        with pytest.raises(MicrodlError) as caught:
            TilePlan(8, 32, halo)
        assert str(caught.value) == (
            f"A halo of {halo} tokens leaves nothing of a tile of 4 tokens; "
            "take a smaller halo or a larger tile."
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"channel_tokens": "sum"}, "Channel tokens 'sum' are not known; use concat or mean"),
        ({"site": "mlp"}, "Site 'mlp' is not known; use residual or attention"),
        ({"scaling": "tile"}, "Scaling mode 'tile' is not known"),
        ({"layer": 9}, "Layer 9 does not exist: this model has layers 1 to 8"),
        ({"layer": 0}, "Layer 0 does not exist: this model has layers 1 to 8"),
        ({"tile_size": 20}, "Tile size 20 px is not a multiple"),
        ({"channels": ("z",)}, "Field 'f' has no channel 'z'; its channels are 'a'"),
        ({"model": "dino"}, "Model 'dino' is not known"),
        ({"batch_size": 0}, "Batch size 0"),
    ],
)
def test_options_that_do_not_exist_give_one_sentence(
    model: BuiltinModel, options: dict, sentence: str
):
    field = Field(np.random.default_rng(7).random((1, 16, 16)), ("a",), "f")
    with pytest.raises(MicrodlError) as caught:
        embed([field], **{"model": model, **options})
    assert str(caught.value).startswith(sentence)


def test_no_fields_give_one_sentence(model: BuiltinModel):
    with pytest.raises(MicrodlError, match="There are no fields"):
        embed([], model)
