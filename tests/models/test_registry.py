from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models import published
from napari_microdl.errors import MicrodlError
from napari_microdl.models import device, loading
from napari_microdl.models.base import ChannelRule
from napari_microdl.models.device import bounded_threads, resolve_device, usable_cores
from napari_microdl.models.recipe import Recipe
from napari_microdl.models.registry import (
    MODEL_NAMES,
    PUBLISHED_NAMES,
    RECIPES,
    list_models,
    load_model,
    model_spec,
)


def test_every_name_loads_a_model_of_that_name():
    tile = np.random.default_rng(0).random((1, 1, 16, 24), np.float32)
    for name in MODEL_NAMES:
        model = load_model(name, device="cpu")
        assert model.spec.model_id == name
        tokens = model.tokens(tile, model.spec.default_layer, "residual")
        assert tokens.shape == (1, 1, 2, 3, model.spec.dim)
        assert np.isfinite(tokens).all()


def test_published_models_are_described_before_they_are_loaded():
    specs = {spec.model_id: spec for spec in list_models()}
    assert list(specs) == [*MODEL_NAMES, *PUBLISHED_NAMES]
    assert specs["openphenom"].non_commercial
    assert specs["openphenom"].fixed_tile
    assert specs["openphenom"].channels == ChannelRule(least=1, most=11)
    assert specs["cell-dino-hpa-vitl16"].non_commercial
    assert not specs["dinov2-small"].non_commercial
    assert len(specs["dinov2-small"].weights_sha256) == 64
    assert specs["unidino"].weights_sha256 == ""
    assert model_spec("dinov2-base", joint=True).channels.names == ("R", "G", "B")
    assert model_spec("openphenom@anywhere.safetensors") == specs["openphenom"]
    with pytest.raises(MicrodlError, match="Model 'none' is not known"):
        model_spec("none")
    with pytest.raises(MicrodlError, match="Model 'builtin2' is not known"):
        load_model("builtin2", weights="weights.pth")


FILES = [
    (form, shapes)
    for recipe in RECIPES.values()
    for form in recipe.forms()
    for layout, shapes in (("timm", published.timm_shapes), ("parallel", published.parallel_shapes))
    if form.keys.name == layout
]


@pytest.mark.parametrize(
    ("recipe", "shapes"), FILES, ids=[f"{r.spec.model_id}-{r.keys.name}" for r, _ in FILES]
)
def test_no_two_published_files_are_taken_for_one_another(
    recipe: Recipe, shapes: Callable, monkeypatch: pytest.MonkeyPatch
):
    everything = [form for r in RECIPES.values() for form in r.forms()]
    monkeypatch.setattr(loading, "tensor_shapes", lambda _: shapes(recipe.config))
    assert loading.recognise(Path("weights.pth"), everything) is recipe


def test_a_file_that_fits_several_models_asks_which(monkeypatch: pytest.MonkeyPatch):
    recipe = RECIPES["unidino"]
    monkeypatch.setattr(loading, "tensor_shapes", lambda _: published.timm_shapes(recipe.config))
    with pytest.raises(
        MicrodlError, match=r"fits several models \(unidino, unidino\); write which"
    ):
        loading.recognise(Path("weights.pth"), [recipe, replace(recipe)])


def test_the_seed_is_passed_on():
    digests = {load_model("random-init", seed=s).spec.weights_sha256 for s in (0, 1, 0)}
    assert len(digests) == 2


@pytest.mark.parametrize("name", ["", "Builtin", "resnet", "../builtin"])
def test_an_unknown_name_lists_those_that_exist(name: str):
    with pytest.raises(MicrodlError) as caught:
        load_model(name)
    assert str(caught.value).startswith(
        f"Model '{name}' is not known; give a file, a folder, hf://organisation/name@commit, or "
        "one of builtin, random-init, openphenom, "
    )


def test_names_can_be_listed_without_torch():
    code = (
        "import sys\nfrom napari_microdl.models.registry import MODEL_NAMES\n"
        "assert 'torch' not in sys.modules\nprint(*MODEL_NAMES)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == list(MODEL_NAMES)


def test_the_fastest_device_is_taken(monkeypatch: pytest.MonkeyPatch):
    for cuda, mps, expected in (
        (True, True, "cuda"),
        (False, True, "mps"),
        (False, False, "cpu"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert resolve_device("auto") == torch.device(expected)
        assert resolve_device("cpu") == torch.device("cpu")


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "mps", "tpu"):
        with pytest.raises(MicrodlError) as caught:
            load_model(device=name)
        assert str(caught.value) == (
            f"Device '{name}' is not available here; choose one of: auto, cpu."
        )


def test_threads_are_bounded_while_the_model_runs_and_put_back(monkeypatch: pytest.MonkeyPatch):
    assert usable_cores() >= 1
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.setattr(device, "usable_cores", lambda: 2)

        def work() -> None:
            with bounded_threads():
                assert torch.get_num_threads() == 2
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            work()
        assert torch.get_num_threads() == 4
        monkeypatch.setattr(device, "usable_cores", lambda: 64)
        with bounded_threads():
            assert torch.get_num_threads() == 4, "more threads than asked for"
    finally:
        torch.set_num_threads(before)
