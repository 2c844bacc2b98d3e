from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from core.refusals import refusal
from models import naive, published
from napari_microdl.models.encoder import prepare
from napari_microdl.models.families.builtin import CONFIG as BUILTIN_CONFIG
from napari_microdl.models.families.builtin import PREPROCESSING as BUILTIN_PREPROCESSING
from napari_microdl.models.registry import recipes
from napari_microdl.models.vit.blocks import ParallelBlock
from napari_microdl.models.vit.network import VisionTransformer, VitConfig, sincos_positions
from napari_microdl.models.vit.positions import rotary_positions
from napari_microdl.models.weights.assembly import empty_network
from tasks import cancelling

CONFIG = VitConfig(dim=12, depth=4, n_heads=3, patch_size=4, in_channels=2, mlp_ratio=2.0)


@pytest.fixture(scope="module")
def network() -> VisionTransformer:
    """A small model in which no weight is at its starting value, biases and norms included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = VisionTransformer(CONFIG).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.5)
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 2, 8, 12)).astype(np.float32)


def reference_positions(grid_h: int, grid_w: int, dim: int) -> np.ndarray:
    """Sine and cosine of the column, then of the row, as in the published code of MAE."""
    table = np.zeros((grid_h * grid_w, dim))
    quarter = dim // 4
    for i in range(grid_h):
        for j in range(grid_w):
            for k in range(quarter):
                omega = 1 / 10000 ** (k / quarter)
                row = table[i * grid_w + j]
                row[k] = math.sin(j * omega)
                row[quarter + k] = math.cos(j * omega)
                row[2 * quarter + k] = math.sin(i * omega)
                row[3 * quarter + k] = math.cos(i * omega)
    return table


def reference_tokens(weights: dict, config: VitConfig, image: np.ndarray) -> dict:
    """Every layer and site of one image in float64, patch by patch and head by head."""
    w = {name: value.double().numpy() for name, value in weights.items()}
    w = {k.replace("mlp.0", "mlp.fc1").replace("mlp.2", "mlp.fc2"): v for k, v in w.items()}
    grid = tuple(edge // config.patch_size for edge in image.shape[1:])
    kernel = w["patch_embed.weight"].reshape(config.dim, -1)
    x = naive.patches(image.astype(float), config.patch_size) @ kernel.T + w["patch_embed.bias"]
    tokens = np.vstack([w["cls_token"][0], x + reference_positions(*grid, config.dim)])
    read = naive.sequential(w, tokens, config.n_heads, 1e-6)
    return {key: found[1:].reshape(*grid, config.dim) for key, found in read.items()}


@pytest.mark.parametrize("shape", [(1, 1, 4), (3, 5, 12), (16, 16, 192)])
def test_positions_equal_a_loop(shape: tuple[int, int, int]):
    positions = sincos_positions(*shape)
    assert positions.dtype == torch.float32
    np.testing.assert_allclose(positions.numpy(), reference_positions(*shape), atol=1e-7)


def test_every_layer_and_site_equals_a_plain_forward_pass(
    network: VisionTransformer, images: np.ndarray
):
    expected = [reference_tokens(network.state_dict(), CONFIG, image) for image in images]
    for layer in range(1, CONFIG.depth + 1):
        for site in ("residual", "attention"):
            with torch.inference_mode():
                tokens = network(torch.from_numpy(images), layer, site).numpy()
            wanted = np.stack([e[layer, site] for e in expected])
            assert tokens.shape == (2, 2, 3, CONFIG.dim)
            # Float32 against float64: 1e-6 of values of up to about 10.
            np.testing.assert_allclose(tokens, wanted, atol=2e-5 * np.abs(wanted).max())


def test_the_last_layer_is_the_default(network: VisionTransformer, images: np.ndarray):
    with torch.inference_mode():
        default = network(torch.from_numpy(images))
        last = network(torch.from_numpy(images), CONFIG.depth, "residual")
    assert torch.equal(default, last)


@pytest.mark.parametrize("site", ["residual", "attention"])
@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (CONFIG, ("attn", "mlp")),
        # Attention and hidden layer come from one projection, whose norm tells a block that ran;
        # of what follows it, attention needs its own out-projection alone.
        (published.small(recipes()["openphenom"]).config, ("norm", "attn_out", "mlp_out")),
    ],
    ids=["sequential", "parallel"],
)
def test_nothing_after_the_layer_asked_for_is_computed(
    config: VitConfig, parts: tuple[str, ...], site: str
):
    network = published.seeded(VisionTransformer, config)
    edge = 3 * config.patch_size
    images = torch.ones(1, 2, edge, edge)
    used: list[str] = []
    for name, module in network.named_modules():
        if name.endswith(tuple(f".{part}" for part in parts)):
            module.register_forward_hook(lambda *_, name=name: used.append(name))
    for layer in range(1, config.depth + 1):
        used.clear()
        with torch.inference_mode():
            network(images, layer, site)
        expected = [f"blocks.{b}.{part}" for b in range(layer) for part in parts]
        if site == "attention":
            expected.pop()
        assert used == expected


def test_a_pass_that_is_cancelled_ends_with_its_block(
    network: VisionTransformer, images: np.ndarray
):
    done = []
    handles = [block.register_forward_hook(lambda *_: done.append(1)) for block in network.blocks]
    try:
        with cancelling(2), torch.inference_mode():
            network(torch.from_numpy(images))
    finally:
        for handle in handles:
            handle.remove()
    assert len(done) == 2


def test_images_of_a_batch_do_not_see_each_other(network: VisionTransformer, images: np.ndarray):
    with torch.inference_mode():
        together = network(torch.from_numpy(images), 3).numpy()
        alone = [network(torch.from_numpy(image[None]), 3)[0].numpy() for image in images]
    np.testing.assert_allclose(together, alone, atol=1e-5 * np.abs(together).max())


@pytest.mark.parametrize(
    ("edges", "layer", "site", "reason"),
    [
        ((8, 8), 0, "residual", "Layer 0 does not exist: this model has layers 1 to 4"),
        ((8, 8), 5, "residual", "Layer 5 does not exist"),
        ((8, 8), -1, "residual", "Layer -1 does not exist"),
        ((8, 9), 1, "residual", "A 8 x 9 image does not divide into patches of 4 x 4 pixels"),
        ((10, 8), 1, "residual", "does not divide into patches of 4 x 4 pixels"),
        ((3, 3), 1, "residual", "does not divide into patches of 4 x 4 pixels"),
        ((8, 8), 1, "atention", "Site 'atention' is not known"),
    ],
)
def test_what_cannot_be_read_gives_one_sentence(
    network: VisionTransformer, edges: tuple[int, int], layer: int, site: Any, reason: str
):
    assert reason in refusal(network, torch.zeros(1, 2, *edges), layer, site)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"n_heads": 5}, "dim 12 is not a multiple of n_heads 5"),
        ({"dim": 6, "n_heads": 3}, "dim 6 is not a multiple of 4"),
        ({"positions": "rope"}, "A head of 6 is not a multiple of 4"),
        ({"positions": "learned"}, "A position grid goes with learned positions"),
        ({"position_grid": (2, 2)}, "A position grid goes with learned positions"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(options: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=reason):
        VitConfig(**{"dim": 12, "depth": 1, "n_heads": 2, "patch_size": 4, **options})


def test_rotary_positions_turn_a_parallel_block_as_well():
    """A turn of queries and keys by the same angles leaves a block as it is without any."""
    config = VitConfig(dim=16, depth=1, n_heads=2, patch_size=4, blocks="parallel")
    block = published.seeded(ParallelBlock, config)
    tokens = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 5, 16))).float()
    cos, sin = rotary_positions(2, 2, 8)
    same = (cos[:1].expand(4, -1), sin[:1].expand(4, -1))
    with torch.inference_mode():
        # The class token is not turned: leave it out.
        plain = block.attend(tokens[:, 1:])
        torch.testing.assert_close(block.attend(tokens[:, 1:], same), plain)
        assert (block.attend(tokens[:, 1:], (cos, sin)) - plain).abs().max() > 1e-4


def test_starting_weights_are_those_of_the_mae_reference():
    config = VitConfig(dim=64, depth=1, n_heads=4, patch_size=8)
    weights = published.seeded(VisionTransformer, config).state_dict()
    for name in ("blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.0.mlp.0", "patch_embed"):
        weight = weights[f"{name}.weight"].reshape(len(weights[f"{name}.weight"]), -1)
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.95 * bound < weight.abs().max() <= bound
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert not weights[f"{name}.bias"].any()
    assert weights["cls_token"].std() == pytest.approx(0.02, rel=0.4)


EVERY_NETWORK = [
    (form.config, form.preprocessing) for r in recipes().values() for form in r.forms()
]


@pytest.mark.parametrize("number", range(len(EVERY_NETWORK) + 1))
def test_nothing_stays_on_the_processor_while_a_model_runs_elsewhere(number: int):
    """On torch's device without memory, which refuses what lies on the processor as a GPU does."""
    config, preprocessing = [*EVERY_NETWORK, (BUILTIN_CONFIG, BUILTIN_PREPROCESSING)][number]
    config = replace(config, dim=24, n_heads=3, depth=2, hidden_dim=48)
    grid = (3, 2) if config.position_resize else (3, 3)
    if config.position_grid is not None:
        config = replace(config, position_grid=(3, 3))
    channels = config.in_channels
    if config.tokenizer == "per_channel" and not config.channel_embeddings:
        channels = 2
    edges = (edge * config.patch_size for edge in grid)
    images = torch.empty(2, channels, *edges, device="meta")
    for site in ("residual", "attention"):
        read = empty_network(config).read(prepare(images, preprocessing), (1, 2), site)
        assert [tokens.device.type for tokens in read.values()] == ["meta", "meta"]
