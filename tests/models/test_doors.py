"""The family of docs/new_model.md, installed as a package and dropped into the folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from core.refusals import refusal
from doors import Door
from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field
from napari_microdl.models import families
from napari_microdl.models.base import ModelSpec, terms_of
from napari_microdl.models.registry import (
    known_spec,
    list_models,
    load_model,
    model_spec,
    needs_weights,
    published_name,
)
from napari_microdl.pipeline.run import run_pipeline
from napari_microdl.tokens import TilePlan, TokenCache, embed_field

DOOR = Door("new_model.md")


@pytest.fixture(autouse=True)
def _found_anew() -> Iterator[None]:
    families.known_models.cache_clear()
    yield
    families.known_models.cache_clear()
    for name in [name for name in sys.modules if "toy_family" in name]:
        del sys.modules[name]


def drop(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str = DOOR.example) -> None:
    """A file in a folder of families."""
    (folder / "toy_family.py").write_text(code)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(folder)])


@pytest.fixture
def fields() -> list[Field]:
    rng = np.random.default_rng(0)
    return [
        Field(
            data=rng.gamma(2, 30 + 20 * n, (2, 64, 72)),
            channel_names=("a", "b"),
            name=f"f{n}",
            is_control=n < 2,
        )
        for n in range(4)
    ]


@pytest.mark.parametrize("add", [DOOR.install, drop])
def test_a_family_of_somebody_else_is_a_model_like_any_other(
    add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: list[Field]
):
    assert DOOR.example.count("\n") < 40
    assert "toy" not in [spec.model_id for spec in list_models()]
    families.known_models.cache_clear()
    add(tmp_path, monkeypatch)
    # After those of the package that need no file either, before those that do.
    assert [spec.model_id for spec in list_models()][:3] == ["builtin", "random-init", "toy"]
    spec = model_spec("toy")
    assert spec == known_spec("toy")
    assert terms_of(spec) == (
        "Licence of the weights: CC0-1.0 (commercial use is allowed). Source: docs/new_model.md."
    )
    assert published_name("toy") is None
    assert not needs_weights("toy")
    model = load_model("toy", seed=3)
    tokens = model.tokens(np.ones((2, 3, 16, 24), np.float32), 1, "residual")
    assert tokens.shape == (2, 3, 2, 3, 16)
    config = PipelineConfig.of(
        model="toy", unit="crop", crop_size=16, crop_stride=16, n_atoms=8, max_steps=20
    )
    result = run_pipeline(fields, config)
    assert result.dictionary.spec.model.id == "toy"
    assert result.dictionary.spec.model.licence == "CC0-1.0"
    assert result.activations.codes.shape[1] == 8


def with_(code: str) -> str:
    """The family with another `load`."""
    return DOOR.example[: DOOR.example.index("def load")] + code


def test_load_gets_what_it_has_parameters_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    DOOR.install(
        tmp_path,
        monkeypatch,
        with_(
            "SPECS = (SPEC, __import__('dataclasses').replace(SPEC, model_id='other'))\n"
            "def load(spec, device, precision, weights):\n"
            "    toy = Toy(spec, __import__('torch').nn.Identity(), 'cpu')\n"
            "    toy.given = device, precision, weights\n"
            "    return toy\n"
        ),
    )
    for name in ("toy", "other"):
        model = load_model(f"{name}@a/b.pt", device="mps", precision="bf16", sha256="0" * 64)
        assert model.spec.model_id == name
        assert model.given == ("mps", "bf16", Path("a/b.pt"))
        assert str(published_name(f"{name}@a/b.pt")) == f"{name}@a/b.pt"
        assert needs_weights(name)
        assert "The weights of Toy convolution are not on the hub" in refusal(load_model, name)
        with pytest.raises(MicrodlError, match="cannot run on some of its channels; name none"):
            load_model(f"{name}[DNA]@a/b.pt")


def test_recipes_are_enough_for_what_this_package_can_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    DOOR.install(
        tmp_path,
        monkeypatch,
        "from dataclasses import replace\n"
        "from napari_microdl.models.families.microscopy import UNIDINO\n"
        "RECIPES = (replace(UNIDINO, spec=replace(UNIDINO.spec, model_id='ours')),)\n",
    )
    assert replace(model_spec("ours"), model_id="unidino") == model_spec("unidino")
    assert needs_weights("ours")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_package", "ModuleNotFoundError, No module named 'no_such_package'"),
        ("x = 1", "AttributeError, module 'toy_family' has no attribute 'SPEC'"),
        (
            DOOR.example.replace('"toy"', '"builtin"'),
            "there is a model of the name 'builtin' already",
        ),
        (DOOR.example.replace('"toy"', '"a b"'), "the name 'a b' may hold letters, digits"),
    ],
)
def test_a_family_that_cannot_be_used_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
):
    DOOR.install(tmp_path, monkeypatch, code)
    with pytest.warns(UserWarning, match=f"The models of 'toy' are left out: .*{reason}"):
        found = list_models()
    assert [spec.model_id for spec in found][:2] == ["builtin", "random-init"]
    # It is said once.
    assert list_models() == found


def toy(spec: ModelSpec, tokens: np.ndarray) -> ModuleType:
    """A model that answers any tiles with the same tokens."""
    model = ModuleType("toy")
    model.spec, model.tokens = spec, lambda tiles, layer, site: tokens
    return model


def test_tokens_of_another_shape_than_the_spec_says_are_refused():
    spec = ModelSpec("toy", "Toy", 4, 2, 1, 1, 16)
    image, plan = np.ones((1, 8, 8), np.float32), TilePlan(4, 16, 1)
    for shape in ((1, 1, 4, 4, 3), (1, 4, 4, 2), (1, 1, 16, 2)):
        model = toy(spec, np.zeros(shape, np.float32))
        assert refusal(embed_field, image, model, plan) == (
            f"The model 'Toy' made tokens of the shape {shape} where its spec says "
            "(1, 1, 4, 4, 2); correct one of them."
        )


def test_weights_that_nothing_tells_apart_are_not_cached(tmp_path: Path):
    spec = ModelSpec("toy", "Toy", 4, 2, 1, 1, 16)
    image, plan = np.ones((1, 8, 8), np.float32), TilePlan(4, 16, 1)
    for digest, n_files in (("", 0), ("ab", 1)):
        model = toy(replace(spec, weights_sha256=digest), np.zeros((1, 1, 4, 4, 2), np.float32))
        cache = TokenCache(tmp_path)
        embed_field(image, model, plan, cache=cache)
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == n_files
