from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import published
from models.comparison import refused
from models.transformers_cases import BY_NAME
from napari_microdl.models.base import terms_of
from napari_microdl.models.families.builtin import load_builtin
from napari_microdl.models.loading import load_published
from napari_microdl.models.registry import load_model, model_spec, recipes

TOML = """
weights = "encoder.safetensors"
layout = "timm"

[model]
title = "Our model"
licence = "CC-BY-4.0"
source = "our lab"
default_layer = 2
tile_size = 48
intensity = "log"

[vit]
dim = 24
depth = 3
n_heads = 3
patch_size = 16
in_channels = 2
positions = "learned"
position_grid = [3, 3]
position_offset = 0.1

[channels]
names = ["DNA", "ER"]
joint = true
least = 2
most = 2

[preprocessing]
mean = [0.2, 0.3]
std = [1, 2.0]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A lab's own weights beside their description."""
    config = replace(published.small(recipes()["unidino"]).config, in_channels=2)
    published.write(published.timm_state(config), tmp_path / "lab" / "encoder.safetensors")
    (tmp_path / "lab" / "ours.toml").write_text(TOML)
    return tmp_path / "lab"


def test_a_description_is_all_that_a_lab_needs(folder: Path):
    by_file = load_model(str(folder / "ours.toml"), device="cpu")
    by_folder = load_model(str(folder), device="cpu")
    spec = by_file.spec
    assert by_folder.spec == spec
    assert replace(spec, weights_sha256="") == model_spec(str(folder))
    assert (spec.title, spec.licence, spec.source) == ("Our model", "CC-BY-4.0", "our lab")
    assert (spec.model_id, spec.default_layer, spec.tile_size) == ("ours", 2, 48)
    assert (spec.intensity, spec.channels.names) == ("log", ("DNA", "ER"))
    # The same as the recipe by hand, with its constants.
    recipe = published.small(recipes()["unidino"])
    recipe = replace(
        recipe,
        config=replace(recipe.config, in_channels=2),
        spec=replace(recipe.spec, channels=spec.channels),
    )
    plain = load_published(recipe, folder / "encoder.safetensors", "cpu", "fp32")
    tiles = np.random.default_rng(0).random((2, 2, 48, 64), np.float32)
    prepared = (tiles - np.float32([0.2, 0.3]).reshape(2, 1, 1)) / np.float32([1, 2])[:, None, None]
    np.testing.assert_array_equal(
        by_file.tokens(tiles, 3, "attention"), plain.tokens(prepared, 3, "attention")
    )


def test_the_packages_own_weights_can_be_described(tmp_path: Path):
    model = load_model(str(published.described(tmp_path)), device="cpu")
    tiles = np.random.default_rng(0).random((1, 3, 32, 40), np.float32)
    expected = load_builtin("cpu").tokens(tiles, 5, "residual")
    np.testing.assert_array_equal(model.tokens(tiles, 5, "residual"), expected)


def test_a_description_can_pin_its_weights(folder: Path):
    (folder / "ours.toml").write_text(f'sha256 = "{"1" * 64}"\n{TOML}')
    assert "is not the file that was pinned" in refused(folder)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('weights = "encoder.safetensors"', "", "does not name its weights"),
        ('"encoder.safetensors"', "3", "does not name its weights"),
        ('"encoder.safetensors"', '"none.pth"', "'none.pth' cannot be read"),
        ('layout = "timm"', "", "names the layout 'None'; it must be one of timm, "),
        ('layout = "timm"', 'layout = "resnet"', "names the layout 'resnet'"),
        ("[model]", "[modell]", "holds 'modell', which is not known"),
        ("dim = 24", "dims = 24", r"sets 'dims' in [vit], which is not known; it may set dim, "),
        ("dim = 24", 'dim = "24"', "sets 'dim' in [vit] to '24'; correct it"),
        ("dim = 24", "dim = true", "sets 'dim' in [vit] to True; correct it"),
        ("dim = 24", "dim = 25", "describes no model that can be run: dim 25 is not a multiple"),
        ("dim = 24", "", "does not set 'dim' in [vit]; add it"),
        ("[3, 3]", "[3]", "sets 'position_grid' in [vit] to [3]; correct it"),
        ("default_layer = 2", "default_layer = 4", "default_layer 4, which does not exist"),
        ('"learned"', '"random"', "sets 'positions' in [vit] to 'random'; correct it"),
        ("depth = 3", "depth = 2", "it holds 12 tensors that the model does not have"),
        ("std = [1, 2.0]", "std = [1, 0]", "A model's std must be above 0 in every channel"),
        ("std = [1, 2.0]", 'tile_norm = "instance"', "A norm over tiles needs an eps above 0"),
        ("title", "dim", r"sets 'dim' in [model], which is not known"),
        ("[channels]\n", "channels = 3\n[more]\n", "holds 'more', which is not known"),
        ("[vit]", "[[vit]]", "holds 'vit' as a value; write a section [vit]"),
        ("dim = 24", "dim = ", "cannot be read as TOML"),
    ],
)
def test_a_wrong_description_gives_one_sentence(folder: Path, old: str, new: str, reason: str):
    assert old in TOML
    (folder / "ours.toml").write_text(TOML.replace(old, new, 1))
    assert reason in refused(folder)


@pytest.fixture
def small_state() -> dict[str, torch.Tensor]:
    """Weights of no model that is known."""
    return published.timm_state(published.small(recipes()["unidino"]).config)


def dinov2_folder(tmp_path: Path, **changes: Any) -> Path:
    folder = BY_NAME["DINOv2"].write(tmp_path / "ours")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_a_folder_of_transformers_says_what_it_is(tmp_path: Path):
    folder = dinov2_folder(tmp_path)
    spec = model_spec(str(folder))
    assert (spec.title, spec.patch_size, spec.depth) == ("ours (dinov2)", 14, 3)
    assert spec.channels.names == ()
    assert model_spec(str(folder), joint=True).channels.names == ("R", "G", "B")
    twice = dinov2_folder(tmp_path / "twice", patch_size=[14, 14])
    assert model_spec(twice).patch_size == 14
    # Colours that are equal make a grey image.
    tiles = np.random.default_rng(0).random((1, 1, 56, 56), np.float32)
    together = load_model(str(folder), device="cpu", joint=True)
    apart = load_model(str(folder), device="cpu")
    np.testing.assert_allclose(
        together.tokens(tiles.repeat(3, axis=1), 2, "residual"),
        apart.tokens(tiles, 2, "residual"),
        atol=1e-6,
    )


def test_what_nobody_states_of_a_models_terms_is_not_known(folder: Path, tmp_path: Path):
    description = folder / "ours.toml"
    assert model_spec(str(description)).non_commercial is None
    for stated in (True, False):
        line = f"non_commercial = {str(stated).lower()}\ntitle"
        description.write_text(TOML.replace("title", line, 1))
        assert model_spec(str(description)).non_commercial is stated
    # A family does not tell: Cell-DINO is a DINOv2, too, and may not be used commercially.
    for family in ("dinov2", "dinov3_vit"):
        changes = {"model_type": family, "rope_theta": 100.0, "intermediate_size": 96}
        spec = model_spec(dinov2_folder(tmp_path / family, **changes))
        assert (spec.licence, spec.non_commercial) == ("not stated, see its source", None)
        terms = f"{spec.licence} (whether commercial use is allowed is not stated). Source: local"
        assert terms in terms_of(spec)


def test_constants_of_the_image_processor_are_used(tmp_path: Path):
    folder = dinov2_folder(tmp_path)
    tiles = np.random.default_rng(0).random((1, 2, 28, 28), np.float32)
    usual = load_model(str(folder), device="cpu").tokens(tiles, 1, "residual")
    settings = folder / "preprocessor_config.json"
    settings.write_text(json.dumps({"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}))
    own = load_model(str(folder), device="cpu").tokens(tiles, 1, "residual")
    settings.write_text(json.dumps({"do_normalize": False}))
    none = load_model(str(folder), device="cpu").tokens(tiles, 1, "residual")
    assert np.abs(usual - own).max() > 1e-3
    np.testing.assert_array_equal(own, none)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "clip"}, "'ours' does not say what its vision model is"),
        ({"hidden_act": "relu"}, "uses the activation 'relu', which cannot be run"),
        (
            {"model_type": "dinov3_vit", "rope_theta": 10.0},
            "Only DINOv3 models with a rope_theta of 100 can be run.",
        ),
        (
            {"model_type": "dinov3_vit", "layer_norm_eps": 1e-5},
            "it holds a table of positions, which that model does not have",
        ),
        ({"patch_size": [14, 7]}, "The patch size '[14, 7]' is no edge of a square"),
        ({"hidden_size": 49}, "describes no model that can be run: dim 49"),
        ({"hidden_size": "48"}, "describes no model that can be run: dim is '48'"),
        ({"num_hidden_layers": 4}, "tensors missing, such as 'blocks.3."),
        ({"num_hidden_layers": 1}, "tensors that the model does not have"),
        ({"image_size": 70}, "its positions are 17, not 25 or 26 of them"),
    ],
)
def test_a_folder_that_cannot_be_run_gives_one_sentence(
    tmp_path: Path, changes: dict[str, Any], reason: str
):
    assert reason in refused(dinov2_folder(tmp_path, **changes))


@pytest.mark.parametrize(("content", "reason"), [("{", "read as JSON"), ("[]", "hold settings")])
def test_a_broken_configuration_gives_one_sentence(tmp_path: Path, content: str, reason: str):
    (tmp_path / "config.json").write_text(content)
    assert reason in refused(tmp_path)


def test_a_folder_with_several_weights_asks_which(tmp_path: Path):
    for name in ("a.pth", "b.pth"):
        torch.save({"x": torch.ones(1)}, tmp_path / name)
    assert "holds 2 files of weights, not one; name the file itself" in refused(tmp_path)
    (tmp_path / "a.pth").unlink()
    (tmp_path / "b.pth").unlink()
    assert "holds 0 files of weights" in refused(tmp_path)


def test_published_weights_are_recognised_by_their_tensors(tmp_path: Path):
    recipe = recipes()["unidino"]
    path = published.write(
        {"teacher": published.timm_state(recipe.config)}, tmp_path / "checkpoint.pth"
    )
    assert load_model(str(path), device="cpu").spec.model_id == "unidino"
    assert model_spec(str(path)).model_id == "unidino"
    both_forms = recipes()["dinov2-small"].alternative
    assert both_forms is not None
    state = published.timm_state(both_forms.config)
    native = published.write(state, tmp_path / "dinov2_vits14_pretrain.pth")
    by_itself = load_model(str(native), device="cpu")
    by_name = load_model("dinov2-small", weights=native, device="cpu")
    one_string = load_model(f"dinov2-small@{native}", device="cpu")
    assert by_itself.spec == by_name.spec == one_string.spec
    assert by_name.spec.model_id == "dinov2-small"


def test_weights_of_no_known_model_ask_for_a_description(tmp_path: Path, small_state: Any):
    path = published.write(small_state, tmp_path / "w.safetensors")
    assert "fits no model that is known; describe it in a small TOML file" in refused(path)
    told = refused(f"openphenom@{path}")
    assert "does not hold the weights of OpenPhenom CA-MAE ViT-S/16: none of its" in told


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_truncated_file_is_not_recognised(tmp_path: Path, suffix: str, small_state: Any):
    path = published.write(small_state, tmp_path / f"w.{suffix}")
    path.write_bytes(path.read_bytes()[:2000])
    assert "damaged" in refused(path)


def test_a_folder_of_openphenom_is_recognised(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "MAE"}))
    state = published.parallel_state(recipes()["openphenom"].config)
    published.write(state, tmp_path / "model.safetensors")
    assert load_model(str(tmp_path), device="cpu").spec.model_id == "openphenom"
