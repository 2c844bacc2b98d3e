"""Weights in several files, which an index names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.comparison import refused, tiles_of, tokens_of
from models.test_hub import COMMIT, cached_repository, offline
from models.transformers_cases import BY_NAME, FULL_SIZE
from napari_microdl.models.registry import load_model, weights_pin

__all__ = ["offline"]

INDEX = "model.safetensors.index.json"
TILES = tiles_of(2, 56)
# Of the package's own, and of those that the library runs.
FAMILIES = ["DINOv2", "CLIP"]


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """As the library splits it."""
    place = BY_NAME[request.param].write(tmp_path / "ours", max_shard_size="100KB")
    assert not (place / "model.safetensors").exists()
    assert len(shards(place)) > 2
    return place


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


@pytest.mark.parametrize("family", FAMILIES)
def test_several_files_give_the_tokens_of_one(family: str, tmp_path: Path):
    expected = tokens_of(BY_NAME[family].write(tmp_path / "whole"))
    parts = BY_NAME[family].write(tmp_path / "parts", max_shard_size="100KB")
    np.testing.assert_array_equal(tokens_of(parts), expected)
    # Also as PyTorch files, which the index of those names.
    index = json.loads((parts / INDEX).read_text())
    index["weight_map"] = {
        name: file.replace(".safetensors", ".bin") for name, file in index["weight_map"].items()
    }
    (parts / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (parts / INDEX).unlink()
    for file in shards(parts):
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
    np.testing.assert_array_equal(tokens_of(parts), expected)


def test_the_digest_is_that_of_all_files_in_order(folder: Path):
    content = b"".join(file.read_bytes() for file in shards(folder))
    digest = hashlib.sha256(content).hexdigest()
    assert load_model(folder, device="cpu").spec.weights_sha256 == digest
    assert load_model(folder, device="cpu", sha256=digest.upper()).spec.depth == 3
    assert f"'{INDEX}' is not the file that was pinned" in refused(folder, sha256="0" * 64)


def test_a_folder_of_several_files_may_stand_for_a_published_model(tmp_path: Path):
    FULL_SIZE["dinov2-small"].write(tmp_path, max_shard_size="30MB")
    model = load_model("dinov2-small", weights=tmp_path, device="cpu")
    assert model.spec.model_id == "dinov2-small"


def edit(folder: Path, number: int, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = load_file(shards(folder)[number])
    change(state)
    save_file(state, shards(folder)[number], metadata={"format": "pt"})


def test_a_file_that_is_missing_or_cut_short_is_named(folder: Path):
    last = shards(folder)[-1]
    last.write_bytes(last.read_bytes()[:-100])
    assert f"'{last.name}' is truncated or damaged; fetch it again" in refused(folder)
    last.write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
    assert f"'{last.name}' holds no weights that can be read" in refused(folder)
    last.unlink()
    assert f"'{last.name}' is missing, which '{INDEX}' names" in refused(folder)


def test_files_and_index_must_agree(folder: Path):
    first = load_file(shards(folder)[0])
    name = sorted(first)[0]
    edit(folder, 0, lambda state: state.update(stowaway=torch.ones(1)))
    assert f"The files beside '{INDEX}' do not hold 'stowaway' where it says" in refused(folder)
    edit(folder, 0, lambda state: [state.pop("stowaway"), state.pop(name)])
    assert f"do not hold '{name}' where it says" in refused(folder)
    edit(folder, 1, lambda state: state.update({name: first[name]}))
    assert f"do not hold '{name}' where it says" in refused(folder)
    edit(folder, 0, lambda state: state.update({name: first[name]}))
    twice = f"'{shards(folder)[1].name}' holds '{name}', which '{shards(folder)[0].name}' holds too"
    assert twice in refused(folder)


def test_every_file_is_checked_for_numbers_that_are_none(folder: Path):
    def spoil(state: dict[str, torch.Tensor]) -> None:
        for name, value in state.items():
            if "norm1" in name and not name.startswith("text_model"):
                value.fill_(torch.nan)

    for number in range(len(shards(folder))):
        edit(folder, number, spoil)
    assert f"'{INDEX}' holds NaN or infinite values in '" in refused(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, f"'{INDEX}' names no files of weights; fetch it again."),
        ({"weight_map": []}, f"'{INDEX}' names no files of weights"),
        ({"weight_map": {"a": "../secret"}}, f"'{INDEX}' names '../secret', which is no file"),
        ({"weight_map": {"a": "/etc/passwd"}}, "names '/etc/passwd', which is no file beside it"),
        ({"weight_map": {"a": "C:x"}}, "names 'C:x', which is no file beside it"),
        ({"weight_map": {"a": ".."}}, "names '..', which is no file beside it"),
        ({"weight_map": {"a": 3}}, "names '3', which is no file beside it"),
    ],
)
def test_an_index_names_files_beside_it_and_no_others(
    folder: Path, content: dict[str, Any], reason: str
):
    (folder / INDEX).write_text(json.dumps(content))
    assert reason in refused(folder)


def test_all_files_of_a_commit_are_fetched_and_checked(folder: Path, offline: Path):
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    cached_repository(offline, "lab/parts", files)
    reference = f"hf://lab/parts@{COMMIT}"
    model = load_model(reference, device="cpu")
    np.testing.assert_array_equal(model.tokens(TILES, 3, "residual"), tokens_of(folder))
    digest = model.spec.weights_sha256
    assert weights_pin(reference) == (
        f"Commit {COMMIT[:12]}, sha256 {digest[:12]} at the first download."
    )
    last = shards(folder)[-1].name
    snapshot = offline / "models--lab--parts" / "snapshots" / COMMIT
    blob = (snapshot / last).resolve()
    blob.write_bytes(files[last][:-4] + b"\0\0\0\1")
    assert f"'{last}' in the hub's cache is damaged; delete" in refused(reference)
    (snapshot / last).unlink()
    assert f"lab/parts has no {last} in the cache" in refused(reference)
