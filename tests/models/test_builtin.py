from __future__ import annotations

import hashlib
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from core.refusals import Payload, refusal
from napari_microdl.models.encoder import EncoderModel
from napari_microdl.models.families import builtin
from napari_microdl.models.families.builtin import CONFIG, load_builtin, random_init
from napari_microdl.models.vit.network import VisionTransformer

WEIGHTS = Path(str(files("napari_microdl"))) / "data" / "mae" / "microdl_mae.safetensors"


@pytest.fixture(scope="module")
def model() -> EncoderModel:
    return load_builtin("cpu")


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    return np.random.default_rng(0).random((2, 3, 32, 40), np.float32)


def test_the_weights_are_small_finite_and_described(model: EncoderModel):
    assert WEIGHTS.stat().st_size <= 8_000_000
    tensors = load_file(WEIGHTS)
    assert {str(t.dtype) for t in tensors.values()} == {"float16"}
    assert 3e6 < sum(t.size for t in tensors.values()) < 4e6
    card = (WEIGHTS.parent / "model_card.md").read_text(encoding="utf-8")
    assert "licen" in card.lower()
    spec = model.spec
    assert spec.model_id == "builtin"
    assert spec.weights_sha256 == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert (spec.patch_size, spec.dim, spec.depth) == (8, 192, 8)
    assert 1 <= spec.default_layer <= spec.depth
    assert spec.tile_size % spec.patch_size == 0
    assert not spec.non_commercial


def test_tokens_are_those_of_the_stored_weights(model: EncoderModel, tiles: np.ndarray):
    network = VisionTransformer(CONFIG).eval()
    stored = {k: torch.from_numpy(v.astype(np.float32)) for k, v in load_file(WEIGHTS).items()}
    network.load_state_dict(stored)
    tokens = model.tokens(tiles, 5, "residual")
    assert tokens.shape == (2, 3, 4, 5, 192)
    assert tokens.dtype == np.float32
    for n in range(2):
        for channel in range(3):
            image = (torch.from_numpy(tiles[n, channel])[None, None] - 0.25) / 0.3
            with torch.inference_mode():
                expected = network(image, 5, "residual")[0].numpy()
            np.testing.assert_allclose(tokens[n, channel], expected, atol=2e-4)


def test_channels_do_not_see_each_other(model: EncoderModel, tiles: np.ndarray):
    tokens = model.tokens(tiles, 3, "attention")
    swapped = model.tokens(np.ascontiguousarray(tiles[:, [2, 0, 1]]), 3, "attention")
    np.testing.assert_allclose(swapped, tokens[:, [2, 0, 1]], atol=1e-4)


def test_bf16_is_close_to_fp32(model: EncoderModel, tiles: np.ndarray):
    exact = model.tokens(tiles, 5, "residual").reshape(-1, 192)
    rough = load_builtin("cpu", "bf16").tokens(tiles, 5, "residual")
    assert rough.dtype == np.float32
    rough = rough.reshape(-1, 192)
    assert not np.array_equal(rough, exact), "bf16 changed nothing"
    error = np.linalg.norm(rough - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert error.max() < 0.03


def test_tiles_are_left_as_they_are_and_nothing_can_be_trained(
    model: EncoderModel, tiles: np.ndarray
):
    before = tiles.copy()
    model.tokens(tiles, 1, "residual")
    np.testing.assert_array_equal(tiles, before)
    assert not any(p.requires_grad for p in model._network.parameters())


def test_the_untrained_model_follows_its_seed(tiles: np.ndarray):
    state = torch.random.get_rng_state()
    one, same, other = (random_init("cpu", seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator moved"
    tokens = [m.tokens(tiles, 5, "residual") for m in (one, same, other)]
    np.testing.assert_array_equal(tokens[0], tokens[1])
    assert np.abs(tokens[0] - tokens[2]).max() > 0.1
    assert one.spec == same.spec
    assert one.spec.weights_sha256 != other.spec.weights_sha256
    assert one.spec.model_id == "random-init"
    assert "seed 1" in one.spec.title


def test_untrained_models_made_at_once_follow_their_seeds(tiles: np.ndarray):
    alone = [random_init("cpu", seed=s).tokens(tiles, 1, "residual") for s in range(4)]
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda s: random_init("cpu", seed=s), [0, 1, 2, 3] * 8))
    for number, model in enumerate(models):
        np.testing.assert_array_equal(model.tokens(tiles, 1, "residual"), alone[number % 4])


def test_damaged_weights_give_one_sentence_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, mark = tmp_path / "weights.safetensors", tmp_path / "executed"
    monkeypatch.setattr(builtin, "WEIGHTS", path)
    path.write_bytes(WEIGHTS.read_bytes()[:-1000])
    assert "truncated or damaged" in refusal(load_builtin, "cpu")
    path.write_bytes(pickle.dumps(Payload(mark)))
    assert "it is a pickle, which may hold code" in refusal(load_builtin, "cpu")
    assert not mark.exists()
    tensors = load_file(WEIGHTS)
    broken = tensors["blocks.3.mlp.0.weight"].copy()
    broken[5, 5] = np.nan
    save_file({**tensors, "blocks.3.mlp.0.weight": broken}, path)
    assert "NaN or infinite values in 'blocks.3.mlp.0.weight" in refusal(load_builtin, "cpu")
    missing = {k: v for k, v in tensors.items() if k != "cls_token"}
    reshaped = {**tensors, "cls_token": np.zeros((1, 1, 7), np.float16)}
    for other in (missing, reshaped, {**tensors, "extra": np.zeros(2, np.float16)}, {}):
        save_file(other, path)
        assert refusal(load_builtin, "cpu") == (
            "The built-in weights do not fit this version; reinstall napari-microdl."
        )
    save_file(tensors, path, metadata={"note": json.dumps("resaved")})
    resaved = load_builtin("cpu")
    assert resaved.spec.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
