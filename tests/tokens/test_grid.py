from __future__ import annotations

import gc
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from core.processes import python
from core.refusals import refusal
from napari_microdl.tokens import TilePlan, TokenGrid, TokenStorage, embed_field, grid
from napari_microdl.tokens.positions import PositionComponent, left_out_share, position_share
from napari_microdl.tokens.units import pool, units_of
from tasks import cancelling
from tokens.stand_ins import PatchMean

RNG = np.random.default_rng(4)


@pytest.fixture
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of a grid of 20 columns and 6 dimensions a band."""
    monkeypatch.setattr(grid, "BAND_BYTES", 3 * 4 * 20 * 6)


def pair(shape: tuple[int, int, int] = (25, 20, 6)) -> tuple[TokenGrid, TokenGrid]:
    """The same random tokens in memory and in a file."""
    tokens = RNG.normal(size=shape).astype(np.float32)
    i, j = np.indices(shape[:2])
    position = (i % 3 * 3 + j % 3).astype(np.int32)
    tokens += RNG.normal(size=(9, shape[2])).astype(np.float32)[position]
    size = (shape[0] * 4, shape[1] * 4)
    with closing(TokenStorage(memory_bytes=0).writer(shape)) as writer:
        writer.put(0, 0, tokens)
        return TokenGrid(tokens, position, 4, size), TokenGrid(writer.finish(), position, 4, size)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 20), st.integers(1, 4)),
    tile=st.integers(1, 9),
    memory_bytes=st.sampled_from([0, 10**9]),
)
def test_blocks_become_the_grid_that_they_were_cut_from(
    shape: tuple[int, int, int], tile: int, memory_bytes: int
):
    # Blocks at the lower and right edge stick out, as tiles do.
    padded = RNG.random((shape[0] + tile, shape[1] + tile, shape[2])).astype(np.float32)
    with closing(TokenStorage(memory_bytes).writer(shape)) as writer:
        for i in range(0, shape[0], tile):
            for j in range(0, shape[1], tile):
                writer.put(i, j, padded[i : i + tile, j : j + tile])
        tokens = writer.finish()
    np.testing.assert_array_equal(tokens, padded[: shape[0], : shape[1]])
    assert isinstance(tokens, np.memmap) == (memory_bytes == 0)
    assert tokens.dtype == np.float32


def test_grids_go_into_memory_until_it_is_full():
    storage = TokenStorage(memory_bytes=2 * 4 * 5 * 5 * 3)
    in_file = []
    for _ in range(3):
        with closing(storage.writer((5, 5, 3))) as writer:
            writer.put(0, 0, np.ones((5, 5, 3), np.float32))
            in_file.append(isinstance(writer.finish(), np.memmap))
    assert in_file == [False, False, True]


def test_a_single_large_grid_goes_into_a_file():
    edge = grid.LARGEST_IN_MEMORY // 4 // 1024
    for shape, in_file in (((1, edge, 1024), False), ((1, edge + 1, 1024), True)):
        with closing(TokenStorage().writer(shape)) as writer:
            writer.put(0, 0, np.zeros((1, 1, 1024), np.float32))
            assert isinstance(writer.finish(), np.memmap) == in_file


def test_a_file_is_gone_with_its_grid_and_when_a_run_is_stopped(own_cache: Path):
    image = RNG.random((1, 200, 200)).astype(np.float32)
    plan = TilePlan(4, 16, 1)
    model = PatchMean(4)
    made = embed_field(image, model, plan, storage=TokenStorage(0))
    expected = embed_field(image, model, plan)
    assert not made.in_memory
    assert expected.in_memory
    np.testing.assert_array_equal(made.tokens, expected.tokens)
    with cancelling(2):
        embed_field(image, model, plan, storage=TokenStorage(0))
    del made
    gc.collect()
    assert not list(own_cache.rglob("*"))


@pytest.mark.usefixtures("small_bands")
def test_bands_are_the_rows_from_the_first_to_the_last():
    in_memory, in_file = pair()
    ((rows, tokens),) = in_memory.bands()
    assert (rows, tokens is in_memory.tokens) == (slice(0, 25), True)
    bands = list(in_file.bands())
    assert [(r.start, r.stop) for r, _ in bands] == [(k, min(k + 3, 25)) for k in range(0, 25, 3)]
    np.testing.assert_array_equal(np.concatenate([t for _, t in bands]), in_memory.tokens)


@pytest.mark.usefixtures("small_bands")
def test_what_is_made_of_tokens_is_the_same_from_a_file():
    grids = [pair(), pair((14, 20, 6))]
    in_memory, in_file = ([g[k] for g in grids] for k in (0, 1))
    assert position_share(in_file) == pytest.approx(position_share(in_memory), rel=1e-6)
    assert left_out_share(in_file, 9) == pytest.approx(left_out_share(in_memory, 9), rel=1e-3)
    here, there = (PositionComponent.fit(g, 9, explained=0.6) for g in (in_memory, in_file))
    np.testing.assert_allclose(there.offsets, here.offsets, atol=1e-6)
    for one, other in grids:
        removed, from_file = here.remove(one), here.remove(other)
        assert removed.in_memory
        assert not from_file.in_memory
        np.testing.assert_allclose(from_file.tokens, removed.tokens, atol=1e-6)
        for units in (
            units_of(one, "crop", crop_size=9, crop_stride=5),
            units_of(one, "token"),
        ):
            np.testing.assert_allclose(pool(from_file, units), pool(removed, units), atol=1e-6)


def test_a_folder_that_cannot_be_written_to_gives_one_sentence(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    sentence = refusal(TokenStorage(0, blocked / "folder").writer, (1000, 1000, 100))
    assert sentence.startswith(
        "The tokens of one field take 0.4 GB, which could not be written to the cache folder ("
    )
    assert sentence.endswith("); free some space or name another folder in NAPARI_MICRODL_CACHE.")


def test_a_full_disk_gives_one_sentence():
    class Full:
        def write(self, content: object) -> int:
            raise OSError(28, "No space left on device")

    writer = grid.TokenWriter((2, 2, 2), Full())
    writer.put(0, 0, np.ones((1, 2, 2), np.float32))
    assert "No space left on device" in refusal(writer.put, 1, 0, np.ones((1, 2, 2), np.float32))


MEASURE = """
import sys
import numpy as np
import zarr
from core.processes import memory
from tokens.stand_ins import PatchMean
from napari_microdl.tokens.units import pool, units_of
from napari_microdl.tokens import ScaledImage, TilePlan, TokenStorage, embed_field
from napari_microdl.fields.field import Field
from napari_microdl.tokens.positions import PositionComponent, position_share
from napari_microdl.fields.intensity import IntensityScaling

data = zarr.open_array(sys.argv[1], mode="r")
model, plan = PatchMean(4, dim=32), TilePlan(4, 64, 2)
wide = model.tokens
model.tokens = lambda *a: np.repeat(wide(*a), 16, axis=-1)
small = Field(data=data[:, :256, :256], channel_names=("a",), name="small")

def run(field):
    scaler = IntensityScaling().fit([field])
    image = ScaledImage(field, scaler, 0)
    made = embed_field(image, model, plan, storage=TokenStorage(20 * 2**20))
    position_share([made])
    made = PositionComponent.fit([made], 256).remove(made)
    vectors = pool(made, units_of(made, "crop", crop_size=64, crop_stride=64))
    return made, vectors

run(small)
before = memory("VmHWM")
made, vectors = run(Field(data=data, channel_names=("a",), name="large"))
print(made.in_memory, made.tokens.size * 4 / 2**20, (memory("VmHWM") - before) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_lazy_image_is_embedded_and_pooled_in_a_small_part_of_its_size(tmp_path: Path):
    edge = 4096
    stored = zarr.create_array(
        tmp_path / "image.zarr", shape=(1, edge, edge), chunks=(1, 512, 512), dtype="uint16"
    )
    for row in range(0, edge, 512):
        stored[0, row : row + 512] = RNG.integers(1, 4000, (512, edge), np.uint16)
    in_memory, tokens, more = python(MEASURE, tmp_path / "image.zarr").stdout.split()
    # 64 MiB of scaled image and two times 128 MiB of tokens, before and after their removal.
    assert (in_memory, float(tokens)) == ("False", 128)
    assert float(more) < 200
