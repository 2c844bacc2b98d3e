from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.refusals import refusal
from napari_microdl.fields.field import Field
from napari_microdl.fields.intensity import IntensityScaling
from napari_microdl.models.encoder import EncoderModel
from napari_microdl.models.families.builtin import random_init
from napari_microdl.tokens import TilePlan, embed, embed_field, embed_layers
from tasks import cancelling, recorded
from tokens.stand_ins import JOINT, PatchMean, plans, shapes, tile_at

PATCH = 8
FIELD = Field(data=np.random.default_rng(7).random((1, 16, 16)), channel_names=("a",), name="f")


@pytest.fixture(scope="module")
def model() -> EncoderModel:
    return random_init("cpu")


@settings(max_examples=60)
@given(plan=plans, shape=shapes, batch_size=st.integers(1, 5), channels=st.integers(1, 2))
def test_each_token_stands_for_its_own_patch(
    plan: TilePlan, shape: tuple[int, int], batch_size: int, channels: int
):
    model = PatchMean(plan.patch_size)
    p = plan.patch_size
    image = np.random.default_rng(0).random((channels, *shape)).astype(np.float32)
    with recorded() as reports:
        grid = embed_field(image, model, plan, batch_size=batch_size)
    done = [progress.done for progress in reports]
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
def test_tiling_equals_each_tile_alone(model: EncoderModel, shape: tuple[int, int]):
    plan = TilePlan(PATCH, 48, 1)
    image = np.random.default_rng(1).random((2, *shape)).astype(np.float32)
    grid = embed_field(image, model, plan, layer=2, batch_size=3)
    rows, columns = plan.grid_shape(shape)
    assert grid.tokens.shape == (rows, columns, 2 * 192)
    for i, j in plan.origins(shape):
        tile = tile_at(image, (i - 1) * PATCH, (j - 1) * PATCH, 48)[None]
        alone = model.tokens(np.ascontiguousarray(tile), 2, "residual")[0, :, 1:-1, 1:-1]
        here = grid.tokens[i : i + plan.inner, j : j + plan.inner]
        alone = np.concatenate(list(alone), axis=-1)[: here.shape[0], : here.shape[1]]
        np.testing.assert_array_equal(here, alone)


@settings(max_examples=30)
@given(plan=plans, shape=st.tuples(st.integers(2, 30), st.integers(2, 30)))
def test_a_shift_by_one_patch_shifts_the_grid(plan: TilePlan, shape: tuple[int, int]):
    """Of a model that sees every patch by itself; test_seams.py says how nearly a real one does."""
    p = plan.patch_size
    model = PatchMean(p)
    image = np.random.default_rng(9).random((1, shape[0] + p, shape[1] + p)).astype(np.float32)
    whole = embed_field(image, model, plan)
    moved = embed_field(image[:, p:, p:], model, plan)
    # Patches that stick out are filled up with a mirror image of whatever there is.
    rows, columns = shape[0] // p, shape[1] // p
    here, there = (t[:rows, :columns, 0] for t in (moved.tokens, whole.tokens[1:, 1:]))
    np.testing.assert_array_equal(here, there)
    np.testing.assert_array_equal(moved.position, whole.position[:-1, :-1])


def test_a_shift_by_one_tile_shifts_the_grid(model: EncoderModel):
    plan = TilePlan(PATCH, 32, 1)
    step = plan.inner * PATCH
    image = np.random.default_rng(2).random((1, 8 * step, 6 * step)).astype(np.float32)
    whole = embed_field(image, model, plan)
    moved = embed_field(image[:, step:, step:], model, plan)
    # Tiles whose halo reaches over the new edge saw its mirror image instead.
    n = plan.inner
    here, there = moved.tokens[n:, n:], whole.tokens[2 * n :, 2 * n :]
    np.testing.assert_allclose(here, there, atol=1e-4)
    assert np.abs(moved.tokens[:n] - whole.tokens[n : 2 * n, n:]).max() > 0.01
    np.testing.assert_array_equal(moved.position[n:, n:], whole.position[2 * n :, 2 * n :])


def test_channels_are_put_side_by_side_or_averaged(model: EncoderModel):
    plan = TilePlan(PATCH, 48, 1)
    image = np.random.default_rng(3).random((3, 50, 44)).astype(np.float32)
    each = [embed_field(image[[c]], model, plan).tokens for c in range(3)]
    concat = embed_field(image, model, plan, channel_tokens="concat")
    mean = embed_field(image, model, plan, channel_tokens="mean")
    np.testing.assert_allclose(concat.tokens, np.concatenate(each, axis=-1), atol=1e-4)
    np.testing.assert_allclose(mean.tokens, np.mean(each, axis=0), atol=1e-4)
    assert mean.tokens.dtype == np.float32


@pytest.mark.parametrize("channel_tokens", ["concat", "mean"])
def test_channels_that_are_seen_together_give_one_token_a_patch(channel_tokens: str):
    model = PatchMean(4, channels=JOINT)
    plan = TilePlan(4, 16, 1)
    image = np.random.default_rng(8).random((3, 21, 30)).astype(np.float32)
    with recorded() as reports:
        grid = embed_field(image, model, plan, channel_tokens=channel_tokens, batch_size=4)
    done = [progress.done for progress in reports]
    assert grid.tokens.shape == (6, 8, 2)
    alone = embed_field(image.mean(0, keepdims=True), PatchMean(4), plan)
    np.testing.assert_allclose(grid.tokens, alone.tokens, atol=1e-6)
    # A tile is one pass however many channels it has.
    assert done == [4, 8, 12]


def test_several_layers_are_those_read_one_by_one(model: EncoderModel):
    plan = TilePlan(PATCH, 48, 1)
    image = np.random.default_rng(10).random((2, 50, 70)).astype(np.float32)
    several = embed_layers(image, model, plan, (2, 5), site="attention")
    assert list(several) == [2, 5]
    for layer, grid in several.items():
        alone = embed_field(image, model, plan, layer=layer, site="attention")
        np.testing.assert_array_equal(grid.tokens, alone.tokens)
        np.testing.assert_array_equal(grid.position, alone.position)


def test_a_model_that_can_is_asked_for_all_layers_at_once():
    class AtOnce(PatchMean):
        asked: tuple[tuple[int, ...], str] | None = None

        def tokens_of_layers(self, tiles, layers, site):
            self.asked = (layers, site)
            return {layer: self.tokens(tiles, layer, site) for layer in layers}

    image = np.random.default_rng(11).random((1, 9, 9)).astype(np.float32)
    model = AtOnce(4)
    grids = embed_layers(image, model, TilePlan(4, 16, 0), (1, 3))
    assert model.asked == ((1, 3), "residual")
    np.testing.assert_allclose(grids[3].tokens[..., 0], 3 * grids[1].tokens[..., 0])


def test_layer_and_site_are_passed_on(model: EncoderModel):
    plan = TilePlan(PATCH, 16, 0)
    image = np.random.default_rng(4).random((1, 16, 16)).astype(np.float32)
    for layer in (1, 7):
        for site in ("residual", "attention"):
            grid = embed_field(image, model, plan, layer=layer, site=site)
            expected = model.tokens(image[None], layer, site)[0, 0]
            np.testing.assert_allclose(grid.tokens, expected, atol=1e-5)
    grid = embed_field(image, model, plan)
    default = model.tokens(image[None], model.spec.default_layer, "residual")[0, 0]
    np.testing.assert_allclose(grid.tokens, default, atol=1e-5)


@pytest.mark.parametrize("looks", [1, 2])
def test_cancelling_stops_before_the_next_batch(looks: int):
    model = PatchMean(4)
    with cancelling(looks):
        embed_field(np.ones((1, 64, 64), np.float32), model, TilePlan(4, 16, 1), batch_size=2)
    assert len(model.batches) == 1


def test_fields_are_scaled_and_embedded_one_after_the_other(model: EncoderModel):
    rng = np.random.default_rng(5)
    images = (rng.gamma(2, 30, (2, 40, 56)), da.from_array(rng.gamma(2, 90, (2, 33, 20))))
    fields = [Field(data=image, channel_names=("a", "b"), name="f") for image in images]
    grids = embed(fields, model, channels=("b",), tile_size=48, halo=1, layer=3)
    assert [g.image_shape for g in grids] == [(40, 56), (33, 20)]
    plan = TilePlan(PATCH, 48, 1)
    for field, grid in zip(fields, grids, strict=True):
        # Scaled over the image alone: the other field has no say.
        scaled = IntensityScaling().fit([field], ("b",)).apply(0, field.read((1,)))
        expected = embed_field(scaled, model, plan, layer=3)
        np.testing.assert_array_equal(grid.tokens, expected.tokens)
    plate = embed(fields, model, channels=("b",), scaling="plate", tile_size=48, halo=1, layer=3)
    assert np.abs(plate[1].tokens - grids[1].tokens).max() > 0.01


def test_a_model_can_be_given_by_name():
    (grid,) = embed([FIELD], "random-init")
    (same,) = embed([FIELD], random_init())
    np.testing.assert_array_equal(grid.tokens, same.tokens)


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
        ({"fields": []}, "There are no fields"),
    ],
)
def test_options_that_do_not_exist_give_one_sentence(
    model: EncoderModel, options: dict, sentence: str
):
    arguments = {"fields": [FIELD], "model": model, **options}
    assert refusal(embed, **arguments).startswith(sentence)
