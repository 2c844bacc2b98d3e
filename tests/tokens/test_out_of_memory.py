from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.refusals import refusal
from napari_microdl.tokens import MemoryLimited, TilePlan, TokenCache, embed_field
from napari_microdl.tokens.out_of_memory import is_out_of_memory
from tasks import recorded
from tokens.stand_ins import JOINT, PatchMean

PLAN = TilePlan(4, 16, 1)
IMAGE = np.random.default_rng(6).random((1, 60, 70)).astype(np.float32)


def failing(kind: type[Exception], words: str) -> Callable[[], None]:
    def fail() -> None:
        raise kind(words)

    return fail


MPS = "MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB)"
WINDOWS = (
    "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried "
    "to allocate 1099511627776 bytes."
)
RUN_OUT: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.empty(2**60, dtype=torch.uint8),
    "numpy": lambda: np.empty(2**60, np.uint8),
    # The class that CUDA raises; its words are those of torch.
    "cuda": failing(torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB."),
    "mps": failing(RuntimeError, MPS),
    "windows": failing(RuntimeError, WINDOWS),
}


class Narrow(PatchMean):
    """Runs out of memory above so many tiles at a time."""

    def __init__(self, most: int, run_out: Callable[[], None], **changes: object) -> None:
        super().__init__(4, **changes)
        self.most = most
        self.run_out = run_out
        self.refused: list[int] = []

    def tokens(self, tiles: np.ndarray, layer: int, site: str) -> np.ndarray:
        if len(tiles) > self.most:
            self.refused.append(len(tiles))
            self.run_out()
        return super().tokens(tiles, layer, site)


@pytest.mark.parametrize("run_out", RUN_OUT.values(), ids=RUN_OUT)
def test_a_run_goes_on_with_smaller_passes(run_out: Callable[[], None]):
    model = Narrow(2, run_out)
    careful = MemoryLimited(model)
    with recorded() as reports:
        grid = embed_field(IMAGE, careful, PLAN, batch_size=9)
    done = [progress.done for progress in reports]
    expected = embed_field(IMAGE, PatchMean(4), PLAN, batch_size=9)
    np.testing.assert_array_equal(grid.tokens, expected.tokens)
    # 8 x 9 tiles, and halved twice, once in the whole run.
    assert done == list(range(9, 73, 9))
    assert model.refused == [9, 4]
    assert careful.most_tiles == 2
    assert max(n for n, *_ in model.batches) == 2
    assert sum(n for n, *_ in model.batches) == 72


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_what_a_device_keeps_aside_is_let_go_before_the_next_pass(
    device: str, monkeypatch: pytest.MonkeyPatch
):
    events: list[str] = []

    def run_out() -> None:
        events.append("out of memory")
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: device == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: device == "mps")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: events.append("cuda emptied"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: events.append("mps emptied"))
    embed_field(IMAGE, Narrow(2, run_out), PLAN, batch_size=9)
    assert events == ["out of memory", f"{device} emptied"] * 2


def test_a_single_field_backs_off_without_being_asked():
    model = Narrow(3, RUN_OUT["torch"])
    grid = embed_field(IMAGE, model, PLAN, batch_size=8)
    expected = embed_field(IMAGE, PatchMean(4), PLAN)
    np.testing.assert_array_equal(grid.tokens, expected.tokens)


def test_too_little_memory_for_one_tile_gives_one_sentence():
    model = Narrow(0, RUN_OUT["torch"])
    assert refusal(embed_field, IMAGE, model, PLAN) == (
        "There is not enough memory for the model 'Patch mean' to see a single tile of 16 x 16 px "
        "with 1 channel; close other programs, use smaller tiles or choose a smaller model."
    )
    assert model.refused == [8, 4, 2, 1]


def test_only_what_a_model_allows_is_suggested():
    image = np.repeat(IMAGE, 3, 0)
    fixed = Narrow(0, RUN_OUT["numpy"], channels=JOINT, tile_size=16, fixed_tile=True)
    assert refusal(embed_field, image, fixed, PLAN, batch_size=1).endswith(
        "with 3 channels; close other programs or choose a smaller model."
    )
    free = Narrow(0, RUN_OUT["numpy"])
    told = refusal(embed_field, image, free, PLAN, batch_size=1)
    assert "close other programs, use fewer channels, use smaller tiles or" in told


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("no memory")]
)
def test_other_errors_go_through(error: Exception):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error), match=str(error)):
        embed_field(IMAGE, Narrow(2, failing(type(error), str(error))), PLAN)


def test_a_trial_of_the_precision_backs_off_as_a_pass_does(tmp_path: Path):
    class Trying(Narrow):
        used_precision = "fast"

        def settle_precision(self, tiles: np.ndarray, layers: tuple[int, ...], site: str) -> str:
            if self.used_precision == "fast":
                self.tokens(tiles[:3], layers[0], site)
                self.used_precision = "bf16"
            return self.used_precision

    model = Trying(1, RUN_OUT["torch"])
    careful = MemoryLimited(model)
    cache = TokenCache(tmp_path)
    grid = embed_field(IMAGE, careful, PLAN, batch_size=8, cache=cache)
    expected = embed_field(IMAGE, PatchMean(4), PLAN, batch_size=8)
    np.testing.assert_array_equal(grid.tokens, expected.tokens)
    # Tries of the trial with 8, 4 and 2 tiles; passes are small from the start.
    assert model.refused == [3, 3, 2]
    assert careful.most_tiles == 1
    assert len(model.batches) == 1 + 72
    hopeless = Trying(0, RUN_OUT["torch"])
    cache = TokenCache(tmp_path / "other")
    told = refusal(embed_field, IMAGE, hopeless, PLAN, batch_size=1, cache=cache)
    assert told.startswith("There is not enough memory for the model")


def test_arrays_of_a_failed_pass_are_let_go_before_the_next():
    class Holding(PatchMean):
        """Keeps a large array in the frame that fails."""

        alive = 0

        def tokens(self, tiles: np.ndarray, layer: int, site: str) -> np.ndarray:
            assert Holding.alive == 0
            held = Held()
            if len(tiles) > 1:
                raise MemoryError
            del held
            return super().tokens(tiles, layer, site)

    class Held:
        def __init__(self) -> None:
            Holding.alive += 1

        def __del__(self) -> None:
            Holding.alive -= 1

    embed_field(IMAGE, Holding(4), PLAN, batch_size=8)
    assert Holding.alive == 0
