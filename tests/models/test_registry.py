from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.refusals import refusal
from models import published
from napari_microdl.core.arrays import torch_threads
from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.base import ChannelRule
from napari_microdl.models.encoder import resolve_device, usable_cores
from napari_microdl.models.registry import (
    list_models,
    load_model,
    model_spec,
    needs_weights,
    published_name,
    recipes,
)

# These bring their weights.
OWN_NAMES = ("builtin", "random-init")


def test_every_name_loads_a_model_of_that_name():
    tile = np.random.default_rng(0).random((1, 1, 16, 24), np.float32)
    for name in OWN_NAMES:
        model = load_model(name, device="cpu")
        assert model.spec.model_id == name
        tokens = model.tokens(tile, model.spec.default_layer, "residual")
        assert tokens.shape == (1, 1, 2, 3, model.spec.dim)
        assert np.isfinite(tokens).all()


def test_published_models_are_described_before_they_are_loaded():
    specs = {spec.model_id: spec for spec in list_models()}
    assert list(specs) == [*OWN_NAMES, *recipes()]
    assert specs["openphenom"].non_commercial
    assert specs["openphenom"].fixed_tile
    assert specs["openphenom"].channels == ChannelRule(least=1, most=11)
    assert specs["cell-dino-hpa-vitl16"].non_commercial
    assert not specs["dinov2-small"].non_commercial
    assert len(specs["dinov2-small"].weights_sha256) == 64
    assert specs["unidino"].weights_sha256 == ""
    assert model_spec("dinov2-base", joint=True).channels.names == ("R", "G", "B")
    assert model_spec("openphenom@anywhere.safetensors") == specs["openphenom"]
    assert "Model 'none' is not known" in refusal(model_spec, "none")
    assert "Model 'builtin2' is not known" in refusal(load_model, "builtin2", weights="weights.pth")
    with pytest.raises(MicrodlError, match="channel-agnostic takes no file of weights; leave it"):
        load_model("builtin", weights="weights.pth")


def test_some_channels_of_a_model_make_a_model_of_their_own(tmp_path: Path):
    whole = model_spec("channelvit-jump-cp")
    assert whole.channels.subsets
    some = model_spec("channelvit-jump-cp[dna, ER]@anywhere.pth")
    assert some.model_id == "channelvit-jump-cp[DNA,ER]"
    assert some.channels == ChannelRule(names=("DNA", "ER"), least=2, most=2)
    assert model_spec("channelvit-jump-cp[Mito,AGP,RNA,ER,DNA]") == whole
    # Of the names that a dictionary keeps, the model can be found again.
    assert model_spec(some.model_id) == some
    state = published.timm_state(recipes()["channelvit-jump-cp"].config, embedding=True)
    path = published.write(state, tmp_path / "weights.pth")
    tile = np.random.default_rng(0).random((1, 2, 16, 24), np.float32)
    model = load_model(f"channelvit-jump-cp[DNA,ER]@{path}", device="cpu")
    assert model.spec == replace(some, weights_sha256=model.spec.weights_sha256)
    tokens = model.tokens(tile, 2, "residual")
    assert tokens.shape == (1, 2, 2, 3, 384)
    other = load_model("channelvit-jump-cp[ER,DNA]", weights=path, device="cpu")
    swapped = other.tokens(np.ascontiguousarray(tile[:, ::-1]), 2, "residual")
    np.testing.assert_allclose(swapped[:, ::-1], tokens, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("channelvit-jump-cp[DAPI]", "'DAPI' are no channels of ChannelViT-S/8, five Cell"),
        ("channelvit-jump-cp[DNA,dna]", "name one or more of Mito, AGP, RNA, ER, DNA, each once"),
        ("channelvit-jump-cp[]", "name one or more of Mito, AGP, RNA, ER, DNA, each once"),
        ("cell-dino-cp-vits8[DNA]", "cannot run on some of its channels; name none"),
        ("openphenom[DNA]", "cannot run on some of its channels; name none"),
        ("none[DNA]", "Model 'none[DNA]' is not known"),
        ("builtin[DNA]", "Model 'builtin[DNA]' is not known"),
    ],
)
def test_channels_that_a_model_does_not_have_are_refused(name: str, sentence: str):
    for look in (model_spec, load_model):
        assert sentence in refusal(look, name)


@pytest.mark.parametrize(
    "name",
    [
        "unidino",
        "unidino@dir/weights.pth",
        "channelvit-jump-cp[DNA,ER]",
        "channelvit-jump-cp[DNA]@C:\\some place\\a@b[1].pth",
    ],
)
def test_a_name_is_put_together_again_from_its_parts(name: str):
    assert str(published_name(name)) == name


@pytest.mark.parametrize("name", ["builtin", "weights[1].pth", "dir/unidino", "hf://a/b@c", ""])
def test_what_is_no_published_model_has_no_parts(name: str):
    assert published_name(name) is None


def test_a_model_without_weights_says_so_whatever_its_channels():
    assert needs_weights("unidino")
    assert needs_weights("channelvit-jump-cp[DNA]")
    for name in ("unidino@weights.pth", "dinov2-small", "builtin", "weights.pth"):
        assert not needs_weights(name)


def test_the_seed_is_passed_on():
    digests = {load_model("random-init", seed=s).spec.weights_sha256 for s in (0, 1, 0)}
    assert len(digests) == 2


@pytest.mark.parametrize("name", ["", "Builtin", "resnet", "../builtin"])
def test_an_unknown_name_lists_those_that_exist(name: str):
    told = refusal(load_model, name)
    assert told.startswith(f"Model '{name}' is not known; ")
    assert "one of builtin, random-init, dinov2-small, " in told


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_fastest_device_is_taken(
    monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool, expected: str
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto") == torch.device(expected)
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "mps", "tpu"])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert f"Device '{name}' is not available" in refusal(load_model, device=name)


def test_threads_are_bounded_while_work_goes_on_and_are_as_before_after_it():
    assert usable_cores() >= 1
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)

        def work() -> None:
            with torch_threads(2):
                assert torch.get_num_threads() == 2
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            work()
        assert torch.get_num_threads() == 4
        with torch_threads(64):
            assert torch.get_num_threads() == 4, "more threads than asked for"
    finally:
        torch.set_num_threads(before)
