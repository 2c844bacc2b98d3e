from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import published
from models.transformers_cases import BY_NAME
from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.encoder import EncoderModel, PrecisionTrial
from napari_microdl.models.families.builtin import random_init
from napari_microdl.models.registry import load_model
from napari_microdl.tokens import TilePlan, TokenCache, TokenGrid, embed_field, embed_layers
from tokens.stand_ins import PatchMean

PLAN = TilePlan(4, 16, 1)
IMAGE = np.random.default_rng(5).random((2, 30, 40)).astype(np.float32)


def files(cache: TokenCache) -> list[Path]:
    return sorted(path for path in cache.folder.rglob("*") if path.is_file())


def run(cache: TokenCache, model: Any = None, **options: Any) -> tuple[PatchMean, TokenGrid]:
    model = model or PatchMean(4)
    options = {"plan": PLAN, "image": IMAGE, **options}
    grid = embed_field(model=model, cache=cache, **options)
    return model, grid


def key(cache: TokenCache, **changes: Any) -> str:
    facts = {"tiles": IMAGE[None], "model": PatchMean(4), "layer": 1, "site": "residual"}
    return cache.key(**{**facts, "plan": PLAN, **changes})


def test_a_second_run_asks_no_model_and_gives_the_same_tokens(tmp_path: Path):
    cache = TokenCache(tmp_path)
    first, grid = run(cache, batch_size=4)
    assert (cache.hits, cache.misses) == (0, len(first.batches)) == (0, 10)
    again = TokenCache(tmp_path)
    second, same = run(again, batch_size=4)
    assert (again.hits, again.misses, second.batches) == (10, 0, [])
    np.testing.assert_array_equal(same.tokens, grid.tokens)
    without = embed_field(IMAGE, PatchMean(4), PLAN, batch_size=4)
    np.testing.assert_array_equal(same.tokens, without.tokens)


class Elsewhere(PatchMean):
    device, used_precision = "cuda", "fp32"


class Coarse(PatchMean):
    device, used_precision = "cpu", "bf16"


CHANGES: dict[str, dict[str, Any]] = {
    "pixels": {"tiles": IMAGE[None] + np.float32(1e-6)},
    "shape": {"tiles": IMAGE.reshape(2, 1, 30, 40)},
    "weights": {"model": PatchMean(4, weights_sha256="other")},
    "name of the model": {"model": PatchMean(4, model_id="other")},
    "scale that it wants": {"model": PatchMean(4, intensity="linear")},
    "device": {"model": Elsewhere(4)},
    "precision": {"model": Coarse(4)},
    "layer": {"layer": 2},
    "site": {"site": "attention"},
    "tiles": {"plan": TilePlan(4, 16, 0)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_tokens_depend_on_changes_their_name(tmp_path: Path, change: str):
    cache = TokenCache(tmp_path)
    assert key(cache) == key(cache, model=PatchMean(4))
    assert key(cache) != key(cache, **CHANGES[change])


def folder_of_transformers(folder: Path) -> Path:
    means = {"image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}
    (folder / "preprocessor_config.json").write_text(json.dumps(means))
    return BY_NAME["DINOv2"].write(folder)


@pytest.mark.parametrize(
    ("write", "edited", "old", "new"),
    [
        (published.described, "own.toml", "mean = [0.25]", "mean = [0.2]"),
        (published.described, "own.toml", "n_heads = 3", "n_heads = 6"),
        (folder_of_transformers, "preprocessor_config.json", "0.4, 0.4, 0.4", "0.4, 0.4, 0.5"),
        (folder_of_transformers, "config.json", '_heads": 4', '_heads": 2'),
    ],
)
def test_the_same_weights_told_otherwise_are_another_model(
    tmp_path: Path, write: Callable[[Path], Path], edited: str, old: str, new: str
):
    (tmp_path / "lab").mkdir()
    place = write(tmp_path / "lab")
    before = load_model(place, device="cpu")
    plan = TilePlan(before.spec.patch_size, 4 * before.spec.patch_size, 1)
    cache = TokenCache(tmp_path / "tokens")
    _, grid = run(cache, before, plan=plan, layer=2)
    path = tmp_path / "lab" / edited
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    after = load_model(place, device="cpu")
    # Neither name nor weights tell them apart.
    assert after.spec == before.spec
    cache = TokenCache(tmp_path / "tokens")
    _, other = run(cache, after, plan=plan, layer=2)
    assert cache.hits == 0
    assert cache.misses > 0
    expected = embed_field(IMAGE, after, plan, layer=2)
    np.testing.assert_array_equal(other.tokens, expected.tokens)
    assert np.abs(other.tokens - grid.tokens).max() > 1e-3


def test_another_version_of_the_package_computes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache = TokenCache(tmp_path)
    before = key(cache)
    monkeypatch.setattr("napari_microdl.tokens.cache.__version__", "0.0.1")
    assert key(cache) != before


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Tiles and precision of every pass of an encoder outside of trials."""
    seen: list[tuple[int, str]] = []
    run_pass = EncoderModel._run

    def counted(model: EncoderModel, tiles: np.ndarray, layers: Any, site: str, used: str) -> Any:
        seen.append((len(tiles), used))
        return run_pass(model, tiles, layers, site, used)

    monkeypatch.setattr(EncoderModel, "_run", counted)
    return seen


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What trials find, and how many tiles and which layers they got."""
    facts: dict[str, Any] = {"used": "bf16", "seen": []}

    def found(_: EncoderModel, tiles: np.ndarray, layers: Any, site: str) -> PrecisionTrial:
        facts["seen"].append((len(tiles), layers))
        return PrecisionTrial(facts["used"], 2.0 if facts["used"] == "bf16" else 0.5, 0.01)

    monkeypatch.setattr(EncoderModel, "_try", found)
    return facts


def test_tokens_of_fast_arithmetic_are_kept_under_what_its_trial_chose(
    tmp_path: Path, passes: list[tuple[int, str]], trials: dict[str, Any]
):
    plan = TilePlan(8, 32, 1)
    expected = {
        precision: embed_field(
            IMAGE, random_init("cpu", precision), plan, layer=3, batch_size=2
        ).tokens
        for precision in ("bf16", "fp32")
    }
    assert np.abs(expected["bf16"] - expected["fp32"]).max() > 1e-3
    # Six tiles of two channels, one tile a pass.
    for used, n_passes in (("bf16", 6), ("fp32", 6), ("bf16", 0), ("fp32", 0)):
        trials["used"] = used
        trials["seen"].clear()
        passes.clear()
        cache = TokenCache(tmp_path)
        fast = random_init("cpu", "fast")
        _, grid = run(cache, fast, plan=plan, layer=3, batch_size=2)
        np.testing.assert_array_equal(grid.tokens, expected[used])
        assert trials["seen"] == [(1, (3,))]
        assert passes == [(1, used)] * n_passes
        assert (cache.hits, cache.misses) == (6 - n_passes, n_passes)
    # The same arithmetic, asked for by name.
    passes.clear()
    run(TokenCache(tmp_path), random_init("cpu", "bf16"), plan=plan, layer=3, batch_size=2)
    assert passes == []


def test_tokens_without_a_precision_have_no_name(tmp_path: Path):
    with pytest.raises(MicrodlError, match="no name before the precision 'fast' has made its tri"):
        key(TokenCache(tmp_path), model=random_init("cpu", "fast"))


def test_only_tiles_that_changed_are_computed_again(tmp_path: Path):
    run(TokenCache(tmp_path), batch_size=2)
    changed = IMAGE.copy()
    changed[:, 0, 0] += 1
    model, grid = run(TokenCache(tmp_path), image=changed, batch_size=2)
    assert len(model.batches) == 1
    expected = embed_field(changed, PatchMean(4), PLAN)
    np.testing.assert_array_equal(grid.tokens, expected.tokens)


def test_only_layers_that_are_not_there_are_computed(tmp_path: Path):
    run(TokenCache(tmp_path), layer=2)
    cache = TokenCache(tmp_path)
    grids = embed_layers(IMAGE, PatchMean(4), PLAN, (1, 2), cache=cache)
    assert cache.hits == cache.misses == 5
    for layer in (1, 2):
        alone = embed_field(IMAGE, PatchMean(4), PLAN, layer=layer)
        np.testing.assert_array_equal(grids[layer].tokens, alone.tokens)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: b"x" * 200,
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    ],
    ids=["short", "empty", "foreign", "flipped bit", "flipped checksum"],
)
def test_a_damaged_file_is_dropped_and_computed_again(tmp_path: Path, damage: Any):
    _, grid = run(TokenCache(tmp_path), batch_size=40)
    (path,) = files(TokenCache(tmp_path))
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    cache = TokenCache(tmp_path)
    assert cache.get(path.stem) is None
    assert not path.exists()
    model, same = run(cache, batch_size=40)
    assert len(model.batches) == 1
    np.testing.assert_array_equal(same.tokens, grid.tokens)
    assert path.read_bytes() == whole


def test_the_longest_unused_files_make_room(tmp_path: Path):
    tokens = np.arange(1000, dtype=np.float32)
    names = [f"{i:02x}" * 32 for i in range(20)]
    cache = TokenCache(tmp_path, most_bytes=10 * 4200)
    for age, name in enumerate(names[:8]):
        cache.put(name, tokens + age)
        os.utime(cache._path(name), (1e9 + age, 1e9 + age))
    # Used again, so younger than all others.
    np.testing.assert_array_equal(cache.get(names[0]), tokens)
    for name in names[8:12]:
        cache.put(name, tokens)
        assert cache.size() <= cache.most_bytes
    left = [name for name in names if cache.get(name) is not None]
    assert names[0] in left
    assert names[1] not in left
    assert set(names[8:12]) <= set(left)
    assert len(left) >= 8
    cache.clear()
    assert cache.size() == 0
    assert files(cache) == []


def test_tokens_larger_than_the_whole_cache_are_not_kept(tmp_path: Path):
    cache = TokenCache(tmp_path, most_bytes=1000)
    cache.put("ab" * 32, np.zeros(1000, np.float32))
    assert files(cache) == []


def test_the_size_is_that_of_the_files(tmp_path: Path):
    cache = TokenCache(tmp_path)
    assert cache.size() == 0
    run(cache)
    assert cache.size() == sum(path.stat().st_size for path in files(cache)) > 0


def test_a_folder_that_cannot_be_written_to_does_not_stop_a_run(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = TokenCache(blocked)
    assert cache.problem is None
    model, grid = run(cache)
    assert len(model.batches) == 5 * 4 // 4
    assert cache.problem.startswith(f"Tokens could not be kept in '{blocked}' (")
    expected = embed_field(IMAGE, PatchMean(4), PLAN)
    np.testing.assert_array_equal(grid.tokens, expected.tokens)


def test_the_folder_is_that_of_the_package(own_cache: Path):
    assert TokenCache().folder == own_cache / "tokens"


WRITE = """
import sys
from pathlib import Path
import numpy as np
from napari_microdl.tokens import TokenCache

cache = TokenCache(Path(sys.argv[1]), most_bytes=40 * 4200)
for turn in range(150):
    number = turn * int(sys.argv[2]) % 50
    name = f"{number:02x}" * 32
    expected = np.full(1000, number, np.float32)
    found = cache.get(name)
    assert found is None or np.array_equal(found, expected), number
    cache.put(name, expected)
assert cache.problem is None, cache.problem
"""


def test_two_processes_share_a_folder(tmp_path: Path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path), step]) for step in ("7", "3")
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    cache = TokenCache(tmp_path)
    assert files(cache)
    assert all(path.suffix == ".tokens" for path in files(cache))
    assert all(cache.get(path.stem) is not None for path in files(cache))
