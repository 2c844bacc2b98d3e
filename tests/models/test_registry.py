from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from napari_microdl.errors import MicrodlError
from napari_microdl.models import device
from napari_microdl.models.device import bounded_threads, resolve_device, usable_cores
from napari_microdl.models.registry import MODEL_NAMES, load_model


def test_every_name_loads_a_model_of_that_name():
    tile = np.random.default_rng(0).random((1, 1, 16, 24), np.float32)
    for name in MODEL_NAMES:
        model = load_model(name, device="cpu")
        assert model.spec.model_id == name
        tokens = model.tokens(tile, model.spec.default_layer, "residual")
        assert tokens.shape == (1, 1, 2, 3, model.spec.dim)
        assert np.isfinite(tokens).all()


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
