from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.refusals import refusal
from models import published
from models.comparison import tiles_of
from napari_microdl.core.errors import MicrodlError
from napari_microdl.models import encoder
from napari_microdl.models.base import ChannelRule
from napari_microdl.models.encoder import EncoderModel
from napari_microdl.models.families.builtin import load_builtin
from napari_microdl.models.recipe import Recipe, describe
from napari_microdl.models.registry import recipes
from napari_microdl.models.vit.config import Preprocessing, VitConfig
from napari_microdl.models.vit.network import VisionTransformer


def model_of(recipe: Recipe, precision: str = "fp32") -> EncoderModel:
    network = published.seeded(VisionTransformer, recipe.config)
    return EncoderModel(network, recipe.spec, torch.device("cpu"), precision, recipe.preprocessing)


def own_tiles(recipe: Recipe) -> np.ndarray:
    """As few channels as the model takes, and of its size."""
    return tiles_of(recipe.spec.channels.least, recipe.spec.tile_size)


OPENPHENOM = published.small(recipes()["openphenom"])
CHANNELVIT = published.small(recipes()["channelvit-jump-cp"])
CELL_DINO = published.small(recipes()["cell-dino-cp-vits8"])
RGB = published.small(recipes()["dinov2-small"])
SEVERAL = (OPENPHENOM, CHANNELVIT, CELL_DINO, RGB, RGB.taking(True))


@pytest.mark.parametrize("site", ["residual", "attention"])
@pytest.mark.parametrize("recipe", SEVERAL, ids=lambda r: r.spec.model_id)
def test_several_layers_of_one_pass_are_those_of_several_passes(recipe: Recipe, site: str):
    model = model_of(recipe)
    rule = recipe.spec.channels
    tiles = own_tiles(recipe)
    together = model.tokens_of_layers(tiles, (3, 1), site)
    assert list(together) == [1, 3]
    for layer, tokens in together.items():
        np.testing.assert_array_equal(tokens, model.tokens(tiles, layer, site))
        assert tokens.shape == (2, rule.n_token_channels(rule.least), 3, 3, 24)
        assert tokens.dtype == np.float32


def test_no_layer_is_no_question():
    with pytest.raises(MicrodlError, match="No layer was asked for; name at least one"):
        load_builtin("cpu").tokens_of_layers(tiles_of(1, 16), (), "residual")


@pytest.mark.parametrize("channels", [1, 2, 5, 11])
def test_openphenom_takes_one_to_eleven_channels(channels: int):
    model = model_of(OPENPHENOM)
    tiles = tiles_of(channels, 48)
    tokens = model.tokens(tiles, 3, "residual")
    assert tokens.shape == (2, channels, 3, 3, 24)
    # Channels see each other, and none has a place of its own: swapped they give swapped tokens.
    swapped = model.tokens(np.ascontiguousarray(tiles[:, ::-1]), 3, "residual")
    np.testing.assert_allclose(swapped, tokens[:, ::-1], atol=1e-5)
    if channels > 1:
        alone = model.tokens(tiles[:, :1], 3, "residual")
        assert np.abs(alone - tokens[:, :1]).max() > 1e-3


def test_tiles_that_cannot_be_written_or_run_backwards_are_read_as_they_are():
    tiles = tiles_of(1, 16)
    model = load_builtin("cpu")
    expected = model.tokens(np.ascontiguousarray(tiles[..., ::-1]), 2, "residual")
    np.testing.assert_array_equal(model.tokens(tiles[..., ::-1], 2, "residual"), expected)
    tiles.flags.writeable = False
    model.tokens(tiles, 2, "residual")


def test_a_named_channel_has_a_place_of_its_own():
    model = model_of(CHANNELVIT)
    plane = tiles_of(1, 24)
    tokens = model.tokens(plane.repeat(5, axis=1), 1, "residual")
    assert np.abs(tokens[:, 0] - tokens[:, 1]).max() > 1e-3


@pytest.mark.parametrize(
    ("recipe", "channels", "amount"),
    [
        (OPENPHENOM, 12, "takes from 1 to 11 channels, but the image has 12"),
        (CELL_DINO, 4, "takes 5 channels (DNA, RNA, ER, AGP, Mito), but the image has 4"),
        (RGB.taking(True), 1, "takes 3 channels (R, G, B), but the image has 1"),
    ],
)
def test_another_number_of_channels_is_refused(recipe: Recipe, channels: int, amount: str):
    tiles = tiles_of(channels, recipe.spec.tile_size)
    assert amount in refusal(model_of(recipe).tokens, tiles, 1, "residual")


@pytest.mark.parametrize("edges", [(32, 48), (96, 96)])
def test_a_model_of_fixed_tiles_refuses_others(edges: tuple[int, int]):
    with pytest.raises(MicrodlError, match="takes tiles of 48 x 48 pixels only, not "):
        model_of(OPENPHENOM).tokens(np.zeros((1, 1, *edges), np.float32), 1, "residual")


def test_positions_of_fixed_tiles_are_never_resized():
    network = VisionTransformer(OPENPHENOM.config)
    with pytest.raises(MicrodlError, match="takes images of 48 x 48 pixels only; tile them so"):
        network.read(torch.zeros(1, 1, 64, 48), (1,), "residual")


def test_grey_images_are_the_same_channel_three_times():
    apart, together = model_of(RGB), model_of(RGB.taking(True))
    tiles = tiles_of(2, 42)
    tokens = apart.tokens(tiles, 2, "residual")
    for channel in range(2):
        grey = tiles[:, channel : channel + 1].repeat(3, axis=1)
        expected = together.tokens(np.ascontiguousarray(grey), 2, "residual")
        np.testing.assert_allclose(tokens[:, [channel]], expected, atol=1e-5)


def test_only_models_of_rgb_images_leave_a_choice():
    with pytest.raises(MicrodlError, match=r"OpenPhenom .* always reads its channels one by one"):
        recipes()["openphenom"].taking(True)
    with pytest.raises(MicrodlError, match=r"Cell-DINO .* always reads its channels together"):
        recipes()["cell-dino-cp-vits8"].taking(False)
    assert recipes()["openphenom"].taking(False) is recipes()["openphenom"]
    assert not recipes()["dinobloom-s"].taking(False).spec.channels.joint


def test_a_projection_of_its_own_for_each_channel():
    """ChannelViT's untied variant: each channel by its own kernel, then as with a shared one."""
    config = VitConfig(
        dim=24, depth=2, n_heads=3, patch_size=8, in_channels=3, tokenizer="per_channel",
        channel_projections=True,
    )  # fmt: skip
    shared = replace(config, channel_projections=False)
    network = published.seeded(VisionTransformer, config)
    images = torch.from_numpy(tiles_of(3, 24))
    with torch.inference_mode():
        tokens = network._project(images)
        for channel, kernel in enumerate(network.patch_embed.weight.chunk(3)):
            one = VisionTransformer(shared)
            one.patch_embed.weight.copy_(kernel)
            alone = one._project(images[:, [channel]])
            torch.testing.assert_close(tokens[:, [channel]], alone)


def test_preprocessing_is_what_its_numbers_say():
    images = torch.from_numpy(tiles_of(2, 16)) * 3 + 1
    for norm, eps in (("instance", 0.3), ("standardise", 0.3)):
        done = encoder.prepare(images, Preprocessing(mean=(1.0, 2.0), tile_norm=norm, eps=eps))
        for n in range(2):
            for channel in range(2):
                x = images[n, channel].double().numpy()
                spread = np.sqrt(x.var() + eps) if norm == "instance" else x.std() + eps
                expected = (x - x.mean()) / spread - (1.0, 2.0)[channel]
                np.testing.assert_allclose(done[n, channel].numpy(), expected, atol=1e-5)
    # A flat channel stays finite.
    flat = torch.full((1, 1, 8, 8), 0.5)
    for norm in ("instance", "standardise"):
        done = encoder.prepare(flat, Preprocessing(tile_norm=norm, eps=1e-7))
        assert torch.isfinite(done).all()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """Seconds that a run in each precision seems to take."""
    seconds = {"fp32": 1.0, "bf16": 1.0}
    now = [0.0]
    run = EncoderModel._run

    def timed(model: EncoderModel, *args: object) -> dict:
        now[0] += seconds[str(args[-1])]
        return run(model, *args)

    monkeypatch.setattr(EncoderModel, "_run", timed)
    monkeypatch.setattr(encoder.time, "perf_counter", lambda: now[0])
    return seconds


@pytest.mark.parametrize(("bf16", "used", "ratio"), [(0.5, "bf16", 2), (4, "fp32", 0.25)])
def test_fast_takes_bfloat16_where_it_was_faster(
    clock: dict[str, float], bf16: float, used: str, ratio: float
):
    clock["bf16"] = bf16
    model, tiles = load_builtin("cpu", "fast"), tiles_of(1, 32, n=3)
    assert model.trial is None
    tokens = model.tokens(tiles, 4, "residual")
    trial = model.trial
    assert trial is not None
    assert (trial.used, trial.speed_ratio) == (used, ratio)
    exact, rough = (load_builtin("cpu", p).tokens(tiles, 4, "residual") for p in ("fp32", "bf16"))
    np.testing.assert_array_equal(tokens, rough if used == "bf16" else exact)
    error = np.linalg.norm(rough[:2] - exact[:2]) / np.linalg.norm(exact[:2])
    assert trial.relative_error == pytest.approx(error, rel=1e-4)
    assert 0 < trial.relative_error < 0.03


def test_fast_measures_once(clock: dict[str, float]):
    clock["bf16"] = 0.5
    model = load_builtin("cpu", "fast")
    model.tokens(tiles_of(1, 16), 2, "residual")
    trial, clock["bf16"] = model.trial, 9.0
    model.tokens(tiles_of(2, 16), 3, "attention")
    assert model.trial is trial


def test_other_precisions_try_nothing():
    model = load_builtin("cpu", "bf16")
    model.tokens(tiles_of(1, 16), 1, "residual")
    assert model.trial is None


def test_the_default_layer_exists_and_the_tile_fits_for_every_model():
    for recipe in recipes().values():
        for form in recipe.forms():
            spec, config = form.spec, form.config
            assert 1 <= spec.default_layer <= spec.depth == config.depth
            assert spec.tile_size % spec.patch_size == 0
            assert spec.licence
            assert spec.source
            rule = spec.channels
            assert not rule.names or len(rule.names) == rule.least == rule.most
            if rule.joint:
                assert config.in_channels == rule.least


def test_only_two_families_norm_every_tile_by_itself():
    """As docs/embedding.md says: all others see the scale of the whole image or plate."""
    normed = {name for name, r in recipes().items() if r.preprocessing.tile_norm != "none"}
    assert normed == {
        "openphenom",
        "mae-vitl8",
        "mae-vitg8",
        "cell-dino-hpa-vitl16",
        "cell-dino-hpa-vitl14",
        "cell-dino-cp-vits8",
        "channel-adaptive-dino-vitl16",
    }
    assert load_builtin("cpu").preprocessing.tile_norm == "none"
    # What the norm costs: how bright a tile is.
    for recipe, shows in ((CELL_DINO, False), (RGB, True)):
        model = model_of(recipe)
        tiles = own_tiles(recipe)
        change = model.tokens(2 * tiles, 2, "residual") - model.tokens(tiles, 2, "residual")
        assert (np.abs(change).max() > 1e-3) == shows


def test_a_spec_reads_two_thirds_up_unless_told():
    config = VitConfig(dim=8, depth=1, n_heads=1, patch_size=4)
    spec = describe(config, model_id="m", title="M", tile_size=8, licence="?", source="?")
    assert spec.default_layer == 1
    assert spec.channels == ChannelRule()
    # Where the paper read its models.
    assert recipes()["mae-vitl8"].spec.default_layer == 16
    assert recipes()["mae-vitg8"].spec.default_layer == 33
