"""Folders that the library transformers runs: what is shown, read, stopped and refused."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit_msn.configuration_vit_msn import ViTMSNConfig
from transformers.models.vit_msn.modeling_vit_msn import ViTMSNModel

from core.processes import python
from core.refusals import Payload, refusal
from models.comparison import refused, tiles_of, tokens_of
from models.transformers_cases import BY_NAME, LIBRARY, VISION, Library, randomised
from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.base import ChannelRule
from napari_microdl.models.encoder import prepare
from napari_microdl.models.formats.transformers import (
    TRANSFORMERS,
    TRANSFORMERS_FAMILIES,
    USUAL_SETTINGS,
)
from napari_microdl.models.registry import load_model, model_spec
from napari_microdl.models.vit.config import Preprocessing
from napari_microdl.models.weights.files import read_preprocessing

CLIP = BY_NAME["CLIP, vision model"]
ENCODERS = {library.read.__name__ for library in LIBRARY}
# Families whose image processor is that of another one.
PROCESSORS = {"data2vec-vision": "beit", "ijepa": "vit", "vit_msn": "vit"}
TILES = tiles_of(2, 56)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A vision model of CLIP."""
    return CLIP.write(tmp_path / "lab-clip")


def change_settings(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("library", LIBRARY, ids=lambda x: x.name)
def test_a_folder_says_what_it_is_and_is_frozen(library: Library, tmp_path: Path):
    place = library.write(tmp_path / "ours")
    spec = model_spec(place)
    kind = json.loads((place / "config.json").read_text())["model_type"]
    assert (spec.model_id, spec.title) == ("ours", f"ours ({kind})")
    assert (spec.dim, spec.depth, spec.patch_size, spec.tile_size) == (48, 3, 14, 56)
    assert (spec.default_layer, spec.fixed_tile, spec.intensity) == (2, False, "linear")
    assert (spec.licence, spec.source) == ("not stated, see its source", "local folder 'ours'")
    assert spec.channels == ChannelRule(either=True)
    assert model_spec(place, joint=True).channels.names == ("R", "G", "B")
    model = load_model(place, device="cpu")
    assert replace(model.spec, weights_sha256="") == spec
    assert not model._network.training
    assert not any(p.requires_grad for p in model._network.parameters())
    # Each channel is a grey image.
    tokens = model.tokens(TILES, 2, "attention")
    assert tokens.shape == (2, 2, 4, 4, 48)
    grey = np.ascontiguousarray(TILES[:, 1:].repeat(3, axis=1))
    together = load_model(place, device="cpu", joint=True).tokens(grey, 2, "attention")
    np.testing.assert_allclose(tokens[:, 1:], together, atol=1e-5)
    rough = load_model(place, device="cpu", precision="bf16").tokens(TILES, 2, "attention")
    assert 0 < np.linalg.norm(rough - tokens) < 0.02 * np.linalg.norm(tokens)


@pytest.mark.parametrize("library", LIBRARY, ids=lambda x: x.name)
def test_nothing_after_the_layer_that_is_asked_for_is_computed(library: Library, tmp_path: Path):
    network = load_model(library.write(tmp_path / "ours"), device="cpu")._network
    ran: set[str] = set()
    for name, module in network.encoder.named_modules():
        module.register_forward_pre_hook(lambda _, __, name=name: ran.add(name))
    images = torch.zeros(1, 3, 56, 56)
    blocks = next(n for n, _ in network.encoder.named_modules() if n.endswith(("layer", "layers")))

    def after(layers: tuple[int, ...], site: str) -> set[str]:
        ran.clear()
        assert list(network.read(images, layers, site)) == sorted(layers)
        return set(ran)

    everything = after((3,), "residual")
    assert {f"{blocks}.{k}" for k in range(3)} < everything
    # Norms and heads behind the blocks are never run.
    assert not [n for n in everything if n.startswith(("layernorm", "post_", "pooler", "head"))]
    for layers in ((2,), (2, 1)):
        residual, attention = after(layers, "residual"), after(layers, "attention")
        assert f"{blocks}.1" in residual
        assert not [n for n in residual if n.startswith(f"{blocks}.2")]
        hidden = {n for n in residual if n.startswith(f"{blocks}.1.")} - attention
        assert any("dense" in n or "fc" in n for n in hidden), "the hidden layer was run"
        assert attention < residual
    tokens = network.read(images, (1, 3), "attention")
    torch.testing.assert_close(tokens[1], network.read(images, (1,), "attention")[1])


@pytest.mark.parametrize("library", LIBRARY, ids=lambda x: x.name)
def test_no_tensor_stays_on_the_processor_while_a_model_is_elsewhere(
    library: Library, tmp_path: Path
):
    network = load_model(library.write(tmp_path / "ours"), device="cpu")._network.to("meta")
    for site in ("residual", "attention"):
        read = network.read(torch.empty(2, 3, 56, 70, device="meta"), (1, 3), site)
        assert [tokens.device.type for tokens in read.values()] == ["meta", "meta"]


def test_passes_of_two_threads_do_not_see_each_other(folder: Path):
    model = load_model(folder, device="cpu")
    expected = {layer: model.tokens(TILES, layer, "residual") for layer in (1, 3)}
    wrong: list[int] = []

    def work(layer: int) -> None:
        found = (model.tokens(TILES, layer, "residual") for _ in range(20))
        wrong.extend(layer for tokens in found if not np.array_equal(tokens, expected[layer]))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, expected))
    assert not wrong


@pytest.mark.parametrize(
    ("layer", "site", "edges", "reason"),
    [
        (4, "residual", (56, 56), "Layer 4 does not exist: this model has layers 1 to 3."),
        (0, "residual", (56, 56), "Layer 0 does not exist"),
        (1, "mlp", (56, 56), "Site 'mlp' is not known"),
        (1, "residual", (56, 50), "A 56 x 50 image does not divide into patches of 14 x 14"),
    ],
)
def test_what_cannot_be_read_gives_one_sentence(
    folder: Path, layer: int, site: Any, edges: tuple[int, int], reason: str
):
    model = load_model(folder, device="cpu")
    assert reason in refusal(model.tokens, tiles_of(1, *edges), layer, site)


@pytest.mark.parametrize("kind", TRANSFORMERS_FAMILIES)
def test_what_a_family_takes_for_granted_is_what_the_library_does(kind: str):
    family = TRANSFORMERS_FAMILIES[kind]
    name = family.name or family.module
    module = import_module(f"transformers.models.{family.module}.configuration_{name}")
    config = getattr(module, family.config)()
    assert {k: getattr(config, k) for k in USUAL_SETTINGS} == {**USUAL_SETTINGS, **family.defaults}
    of = PROCESSORS.get(kind, kind.removesuffix("_vision_model"))
    module = import_module(f"transformers.models.{of}.image_processing_pil_{of}")
    (processor,) = (getattr(module, name) for name in module.__all__)
    for ours, theirs in zip(family.constants, ("image_mean", "image_std"), strict=True):
        np.testing.assert_array_equal(np.broadcast_to(ours, 3), getattr(processor, theirs))


@pytest.mark.parametrize("options", [{}, {"do_normalize": False}, {"rescale_factor": 1 / 127.5}])
@pytest.mark.parametrize("where", ["preprocessor_config.json", "processor_config.json"])
def test_tiles_are_prepared_as_the_library_prepares_bytes(
    tmp_path: Path, options: dict[str, Any], where: str
):
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False, **options)
    processor.save_pretrained(tmp_path)
    if where == "processor_config.json":
        # Beside the processor of a text, as release 5 saves both.
        saved = tmp_path / "preprocessor_config.json"
        content = {"image_processor": json.loads(saved.read_text()), "processor_class": "CLIP"}
        saved.unlink()
        (tmp_path / where).write_text(json.dumps(content))
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    expected = processor(images=image, return_tensors="np")["pixel_values"]
    found = read_preprocessing(tmp_path, 3, (0.9,), (0.9,))
    tiles = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    np.testing.assert_allclose(prepare(tiles, found).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"image_mean": None}, Preprocessing(mean=(0.4,), std=(0.2,))),
        # Images that were divided before, and bytes.
        (
            {"do_rescale": False, "image_mean": [0.3], "image_std": [0.1]},
            Preprocessing(mean=(0.3,), std=(0.1,)),
        ),
        (
            {"do_rescale": False, "image_mean": [51.0], "image_std": [102.0]},
            Preprocessing(mean=(0.2,), std=(0.4,)),
        ),
    ],
)
def test_other_ways_of_saying_what_a_processor_does(
    tmp_path: Path, content: dict[str, Any], expected: Preprocessing
):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    assert read_preprocessing(tmp_path, 3, (0.4,), (0.2,)) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"image_mean": "grey"}, "The image processor of 'lab-clip' cannot be read"),
        ({"image_processor": [1]}, "The image processor of 'lab-clip' cannot be read"),
        ({"rescale_factor": 0}, "scales by 0, which leaves no image"),
        ({"image_std": [1, 0, 1]}, "A model's std must be above 0"),
        ({"image_mean": [1, 2]}, "reads 3 channels, but has 2 means; write one for each"),
    ],
)
def test_a_processor_that_cannot_be_followed_gives_one_sentence(
    folder: Path, content: dict[str, Any], reason: str
):
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    assert reason in refused(folder)


@pytest.mark.parametrize("channels", [1, 5])
def test_other_numbers_of_channels_go_in_as_one_or_all(tmp_path: Path, channels: int):
    config = ViTMSNConfig(**VISION, num_channels=channels)
    randomised(ViTMSNModel(config)).save_pretrained(tmp_path / "ours")
    model = load_model(tmp_path / "ours", device="cpu")
    assert model.spec.channels == (
        ChannelRule() if channels == 1 else ChannelRule(joint=True, least=5, most=5)
    )
    tokens = model.tokens(tiles_of(channels, 56), 1, "residual")
    assert tokens.shape == (2, 1, 4, 4, 48)
    with pytest.raises(MicrodlError, match="always reads its channels"):
        model_spec(tmp_path / "ours", joint=channels == 1)


def test_names_of_earlier_releases_and_pytorch_files_are_read(folder: Path):
    expected = tokens_of(folder)

    def as_published(state: dict[str, torch.Tensor]) -> None:
        for name in list(state):
            state[f"vision_model.{name}"] = state.pop(name)
        state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]

    change_weights(folder, as_published)
    np.testing.assert_array_equal(tokens_of(folder), expected)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    # What a training run leaves beside them is not asked about.
    torch.save({"x": torch.ones(1)}, folder / "optimizer.pt")
    np.testing.assert_array_equal(tokens_of(folder), expected)


@pytest.mark.parametrize(
    ("module", "head", "config"),
    [
        ("beit.modeling_beit", "BeitForMaskedImageModeling", BY_NAME["BEiT"].config),
        ("beit.modeling_beit", "BeitForSemanticSegmentation", BY_NAME["BEiT"].config),
        ("deit.modeling_deit", "DeiTForMaskedImageModeling", BY_NAME["DeiT"].config),
        ("clip.modeling_clip", "CLIPVisionModelWithProjection", CLIP.config),
        ("clip.modeling_clip", "CLIPForImageClassification", BY_NAME["CLIP"].config),
        ("siglip.modeling_siglip", "SiglipForImageClassification", BY_NAME["SigLIP"].config),
        ("ijepa.modeling_ijepa", "IJepaForImageClassification", BY_NAME["I-JEPA"].config),
        ("vit_msn.modeling_vit_msn", "ViTMSNForImageClassification", BY_NAME["ViT-MSN"].config),
    ],
)
def test_heads_do_not_matter(tmp_path: Path, module: str, head: str, config: Any):
    config = copy.deepcopy(config)
    if head.endswith("Segmentation"):
        config.out_indices = [0, 1, 2, 3]
    made = getattr(import_module(f"transformers.models.{module}"), head)(config)
    randomised(made).save_pretrained(tmp_path / "ours")
    (network,) = [m for m in made.modules() if type(m).__name__ in ENCODERS]
    library = next(x for x in LIBRARY if x.read is type(network))
    expected = library.tokens(tmp_path / "ours", (TILES[:, [0, 0, 0]] - 0.5) / 0.5)
    (tmp_path / "ours" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )
    np.testing.assert_allclose(
        tokens_of(tmp_path / "ours")[:, :1], expected[3, "residual"], atol=1e-5
    )


def test_only_the_vision_tower_is_kept_of_a_pytorch_file(tmp_path: Path, own_cache: Path):
    place = BY_NAME["CLIP"].write(tmp_path / "both")
    expected = tokens_of(place)
    torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    for file in (own_cache / "weights").glob("*"):
        file.unlink()
    np.testing.assert_array_equal(tokens_of(place), expected)
    (copy,) = (own_cache / "weights").iterdir()
    assert all(name.startswith("vision_model.") for name in load_file(copy))
    np.testing.assert_array_equal(tokens_of(place), expected)


INDEX = "beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"
BEHIND = ("post_layernorm.weight", "post_layernorm.bias")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        # Indices are made anew.
        ("BEiT", partial(change_weights, change=lambda s: s.update({INDEX: torch.arange(9)}))),
        # These come behind the blocks.
        (CLIP.name, partial(change_weights, change=lambda s: [s.pop(name) for name in BEHIND])),
        ("BEiT", partial(change_settings, layer_scale_init_value=1)),
    ],
    ids=["more tensors than are needed", "fewer than are saved", "a whole number"],
)
def test_tensors_that_are_not_run_and_whole_numbers_do_not_matter(
    tmp_path: Path, name: str, change: Callable[[Path], Any]
):
    place = BY_NAME[name].write(tmp_path / "ours")
    expected = tokens_of(place)
    change(place)
    np.testing.assert_array_equal(tokens_of(place), expected)


NORM = "encoder.layers.1.layer_norm1.weight"
WRONG: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (
        lambda s: s.pop(NORM),
        f"does not hold the weights of lab-clip (clip_vision_model): one tensor missing, such as "
        f"'{NORM}'",
    ),
    "deeper": (
        lambda s: s.update({"encoder.layers.3.layer_norm1.weight": torch.ones(48)}),
        "it holds one tensor that the model does not have, such as 'encoder.layers.3.layer_norm1",
    ),
    "shape": (
        lambda s: s.update({NORM: torch.ones(47)}),
        f"'{NORM}' has the shape (47,), where the model has (48,)",
    ),
    "another model": (
        lambda s: [s.clear(), s.update({"conv1.weight": torch.ones(3)})],
        "none of its 1 tensors, such as 'conv1.weight', belongs to that model",
    ),
    "NaN": (
        lambda s: s[NORM].fill_(torch.nan),
        f"'model.safetensors' holds NaN or infinite values in '{NORM}'; it was not used.",
    ),
    "infinity": (
        lambda s: s["embeddings.class_embedding"].fill_(torch.inf),
        "holds NaN or infinite values in 'embeddings.class_embedding'",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_weights_that_do_not_fit_give_one_sentence(
    folder: Path, wrong: str, capfd: pytest.CaptureFixture[str]
):
    change, reason = WRONG[wrong]
    change_weights(folder, change)
    capfd.readouterr()
    assert reason in refused(folder)
    # The library would have reported, and gone on with random numbers.
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("library", LIBRARY, ids=lambda x: x.name)
def test_no_tensor_that_is_run_may_be_missing(library: Library, tmp_path: Path):
    place = library.write(tmp_path / "ours")
    whole = load_file(place / "model.safetensors")
    # One block stands for all.
    block = re.compile(r"layers?\.[02]\.")
    needed = [n for n in whole if TRANSFORMERS.piece(n) and not block.search(n)]
    assert len(needed) > 15
    for name in needed:
        rest = {other: value for other, value in whole.items() if other != name}
        save_file(rest, place / "model.safetensors")
        assert "one tensor missing, such as '" in refused(place)


def test_a_truncated_file_gives_one_sentence(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "'model.safetensors' is truncated or damaged" in refused(folder)


def test_code_in_a_folder_is_never_run(folder: Path):
    expected, mark = tokens_of(folder), folder / "executed"
    (folder / "modeling_ours.py").write_text(f"open({str(mark)!r}, 'w')\nOurs = None\n")
    change_settings(
        folder,
        auto_map={"AutoModel": "modeling_ours.Ours", "AutoConfig": "modeling_ours.Ours"},
        trust_remote_code=True,
        _attn_implementation="elsewhere/kernel",
        attn_implementation="elsewhere/kernel",
        fusion_config={"patch_embeddings": True},
        quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True},
        dtype="float16",
        transformers_weights="other.safetensors",
    )
    np.testing.assert_array_equal(tokens_of(folder), expected)
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": {}, "hook": Payload(mark)}, folder / "pytorch_model.bin")
    assert "is damaged, or asks to run code" in refused(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"patch_size": [14, 7]}, "The patch size '[14, 7]' is no edge of a square"),
        ({"patch_size": 64}, "has patches of 64 px in images of 56 px"),
        ({"hidden_size": "48"}, "sets hidden_size to '48'"),
        ({"num_hidden_layers": 0}, "sets num_hidden_layers to 0"),
        ({"num_hidden_layers": 2}, "tensors that the model does not have"),
        ({"num_attention_heads": 5}, "transformers cannot make it ("),
        ({"hidden_act": "none such"}, "transformers cannot make it ("),
        ({"layer_norm_eps": "small"}, "sets layer_norm_eps to 'small'"),
        ({"hidden_size": 64}, "has the shape ("),
        ({"image_size": 70}, "where the model has (26, 48)"),
    ],
)
def test_settings_that_do_not_fit_give_one_sentence(
    folder: Path, changes: dict[str, Any], reason: str
):
    change_settings(folder, **changes)
    assert reason in refused(folder)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "swin"}, " because its layers do not share one grid of patches"),
        ({"model_type": "convnextv2"}, " because its layers do not share one grid of patches"),
        ({"model_type": "resnet"}, " because its layers do not share one grid of patches"),
        ({"model_type": "bert", "vocab_size": 9}, " because it reads text"),
        ({"model_type": "clip_text_model", "vocab_size": 9}, " because it reads text"),
        ({"model_type": "sam", "vision_config": {}}, ""),
        ({}, ""),
    ],
)
def test_other_models_are_refused(tmp_path: Path, config: dict[str, Any], why: str):
    (tmp_path / "config.json").write_text(json.dumps(config))
    for look in (model_spec, load_model):
        kind = f"of the type '{config.get('model_type')}', which cannot be run{why}; these can: vit"
        assert kind in refusal(look, tmp_path)


@pytest.mark.parametrize("look", ["model_spec", "load_model"])
def test_without_the_extra_one_sentence_says_what_to_install(folder: Path, look: str):
    code = (
        "import sys\nsys.modules['transformers'] = None\n"
        f"from napari_microdl.models.registry import {look} as look\n"
        f"look({str(folder)!r})"
    )
    done = python(code, check=False)
    told = done.stderr.strip().splitlines()[-1]
    assert told.endswith("which is not installed; pip install 'napari-microdl[transformers]'.")


def test_a_folder_is_described_without_torch_and_without_the_library(folder: Path):
    code = (
        "import sys\nfrom napari_microdl.models.registry import model_spec\n"
        f"print(model_spec({str(folder)!r}).title)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    assert python(code).stdout.strip() == "lab-clip (clip_vision_model)"


def test_a_release_without_the_family_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "transformers.models.clip.modeling_clip", None)
    assert "pip install --upgrade 'napari-microdl[transformers]'" in refused(folder)
