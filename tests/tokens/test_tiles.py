from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from core.refusals import refusal
from napari_microdl.fields.field import Field
from napari_microdl.fields.intensity import IntensityScaling
from napari_microdl.models.base import ChannelRule
from napari_microdl.tokens import ScaledImage, TilePlan, check_wants, embed, embed_field
from napari_microdl.tokens.tiles import reflected
from tokens.stand_ins import JOINT, PatchMean, plans, shapes, spec

RNG = np.random.default_rng(3)
PLAN = TilePlan(4, 16, 1)
DNA_AND_ER = ChannelRule(names=("DNA", "ER"), least=2, most=2, subsets=True)


@given(plan=plans, shape=shapes)
def test_every_token_is_kept_from_exactly_one_tile(plan: TilePlan, shape: tuple[int, int]):
    rows, columns = plan.grid_shape(shape)
    assert (rows - 1) * plan.patch_size < shape[0] <= rows * plan.patch_size
    assert (columns - 1) * plan.patch_size < shape[1] <= columns * plan.patch_size
    hits = np.zeros((rows, columns), int)
    for i, j in plan.origins(shape):
        assert 0 <= i < rows
        assert 0 <= j < columns
        hits[i : i + plan.inner, j : j + plan.inner] += 1
    np.testing.assert_array_equal(hits, 1)


@pytest.mark.parametrize("size", [100, 0, -8])
def test_tiles_that_hold_no_whole_patches_are_refused(size: int):
    assert refusal(TilePlan, 8, size, 0) == (
        f"Tile size {size} px is not a multiple of the patch size 8 px."
    )


@pytest.mark.parametrize("halo", [-1, 2, 9])
def test_a_halo_that_leaves_nothing_is_refused(halo: int):
    assert refusal(TilePlan, 8, 32, halo) == (
        f"A halo of {halo} tokens leaves nothing of a tile of 4 tokens; "
        "take a smaller halo or a larger tile."
    )


@pytest.mark.parametrize(
    ("rule", "n_channels", "sentence"),
    [
        (
            JOINT,
            2,
            "3 channels (red, green, blue), but 2 are chosen; choose more channels or another "
            "model",
        ),
        (
            ChannelRule(most=11),
            12,
            "1 to 11 channels, but 12 are chosen; choose fewer channels or another model",
        ),
        (
            DNA_AND_ER,
            1,
            "2 channels (DNA, ER), but 1 is chosen; name those that are there, as in "
            "'patch-mean[DNA]', or choose more",
        ),
        (
            DNA_AND_ER,
            3,
            "2 channels (DNA, ER), but 3 are chosen; choose fewer channels or another model",
        ),
        (
            ChannelRule(least=2),
            1,
            "at least 2 channels, but 1 is chosen; choose more channels or another model",
        ),
        (
            ChannelRule(most=1),
            2,
            "1 channel, but 2 are chosen; choose fewer channels or another model",
        ),
    ],
)
def test_channels_that_a_model_does_not_take_give_one_sentence(
    rule: ChannelRule, n_channels: int, sentence: str
):
    told = refusal(check_wants, spec(channels=rule), TilePlan(4, 16, 0), n_channels)
    assert told == f"The model 'Patch mean' takes {sentence}."


def test_channels_that_a_model_takes_are_accepted():
    plan = TilePlan(4, 16, 0)
    check_wants(spec(channels=JOINT), plan, 3)
    for n_channels in (1, 11):
        check_wants(spec(channels=ChannelRule(most=11)), plan, n_channels)
        check_wants(spec(), plan, n_channels)


def test_tiles_that_a_model_does_not_take_give_one_sentence():
    fixed = spec(tile_size=16, fixed_tile=True)
    check_wants(fixed, TilePlan(4, 16, 1), 1)
    check_wants(spec(tile_size=16), TilePlan(4, 24, 1), 1)
    assert refusal(check_wants, fixed, TilePlan(4, 24, 1), 1) == (
        "The model 'Patch mean' takes tiles of 16 px only, not of 24 px; leave the tile size at 16."
    )
    other = refusal(check_wants, fixed, TilePlan(8, 16, 0), 1)
    assert "patches of 8 px but the model 'Patch mean' has" in other


def as_tiff(data: np.ndarray, folder: Path, stack: ExitStack) -> Any:
    """Read from its file, which is open until the stack is done with."""
    path = folder / "image.tif"
    tifffile.imwrite(path, data, tile=(16, 16), photometric="minisblack")
    file = stack.enter_context(tifffile.TiffFile(path))
    return zarr.open_array(file.aszarr(), mode="r")


def as_plane(data: np.ndarray, folder: Path, _: ExitStack) -> Any:
    """One of a stack of times and depths."""
    stack = np.zeros((2, 3, *data.shape), data.dtype)
    stack[1, 2] = data
    stored = zarr.create_array(folder / "stack.zarr", data=stack, chunks=(1, 1, 1, 16, 16))
    return da.from_zarr(stored)[1, 2]


def as_colours(data: np.ndarray, folder: Path, _: ExitStack) -> Any:
    """Channels come last in the file."""
    colours = np.moveaxis(data, 0, -1)
    stored = zarr.create_array(folder / "rgb.zarr", data=colours, chunks=(16, 16, 3))
    return da.moveaxis(da.from_zarr(stored), -1, 0)


STORES: dict[str, Callable[[np.ndarray, Path, ExitStack], Any]] = {
    "dask": lambda data, folder, _: da.from_array(data, chunks=(1, 13, 17)),
    "zarr": lambda data, folder, _: zarr.create_array(folder / "a", data=data, chunks=(1, 11, 8)),
    "chunk": lambda data, folder, _: zarr.create_array(folder / "a", data=data, chunks=data.shape),
    "tiff": as_tiff,
    "plane": as_plane,
    "colours": as_colours,
}


@given(start=st.integers(-60, 60), span=st.integers(1, 60), length=st.integers(1, 20))
def test_places_beyond_an_axis_are_those_of_numpy_in_mirrors(start: int, span: int, length: int):
    padded = np.pad(np.arange(length), 120, mode="reflect")
    expected = padded[120 + start : 120 + start + span]
    np.testing.assert_array_equal(reflected(start, start + span, length), expected)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.bool_])
def test_a_lazy_image_gives_the_tokens_of_the_same_image_in_memory(
    tmp_path: Path, store: str, kind: type, monkeypatch: pytest.MonkeyPatch
):
    # A few rows at a time, so that bands reach over several reads.
    monkeypatch.setattr(
        "napari_microdl.fields.field.STRIP_BYTES", 2 * 61 * np.dtype(kind).itemsize * 14
    )
    data = RNG.gamma(2, 30, (3, 75, 61))
    data = data > 60 if kind is np.bool_ else data.astype(kind)
    with ExitStack() as stack:
        lazy = STORES[store](data, tmp_path, stack)
        pair = [Field(data=d, channel_names=tuple("abc"), name="f") for d in (data, lazy)]
        for mode in ("image", "plate"):
            here, there = (
                embed([f], PatchMean(4), channels=("c", "a"), scaling=mode, halo=1)[0].tokens
                for f in pair
            )
            np.testing.assert_array_equal(there, here)
            assert here[..., 0].std() > 0


class Recorded:
    """An array that tells how many pixels it was asked for at once, and in all."""

    def __init__(self, data: np.ndarray, chunks: tuple[int, ...]) -> None:
        self._data = data
        self.shape, self.dtype, self.chunks = data.shape, data.dtype, chunks
        self.sizes: list[int] = []

    def __getitem__(self, where: Any) -> np.ndarray:
        part = self._data[where]
        self.sizes.append(part.size)
        return part


@pytest.mark.parametrize("chunk", [5, 16, 64])
def test_a_lazy_image_is_read_once_to_scale_and_once_to_embed_in_strips(
    chunk: int, monkeypatch: pytest.MonkeyPatch
):
    width, height = 50, 640
    monkeypatch.setattr("napari_microdl.fields.field.STRIP_BYTES", 2 * width * 2 * 64)
    data = Recorded(RNG.integers(1, 900, (2, height, width), np.uint16), (1, chunk, 25))
    f = Field(data=data, channel_names=("a", "b"), name="f")
    scaler = IntensityScaling().fit([f])
    assert sum(data.sizes) == 2 * height * width
    assert max(data.sizes) <= 2 * width * 64
    data.sizes.clear()
    embed_field(ScaledImage(f, scaler, 0), PatchMean(4), PLAN)
    assert sum(data.sizes) == 2 * height * width
    assert max(data.sizes) <= width * 64


def test_scaled_rows_are_those_of_the_whole_scaled_image():
    data = RNG.gamma(2, 30, (2, 33, 20))
    f = Field(data=da.from_array(data, chunks=(2, 7, 9)), channel_names=("a", "b"), name="f")
    scaler = IntensityScaling().fit([f], ("b",))
    image = ScaledImage(f, scaler, 0, ("b",))
    assert image.shape == (1, 33, 20)
    whole = scaler.apply(0, data[1:])
    for start, stop in ((0, 33), (5, 9), (8, 30), (32, 33), (0, 1)):
        np.testing.assert_array_equal(image.rows(start, stop), whole[:, start:stop])


def test_a_lazy_image_with_nan_is_refused():
    data = RNG.random((1, 300, 20))
    data[0, 299, 3] = np.nan
    f = Field(data=da.from_array(data, chunks=(1, 64, 20)), channel_names=("a",), name="late")
    told = refusal(embed, [f], PatchMean(4), halo=1)
    assert told.startswith("Channel 'a' of field 'late' holds NaN or infinite")
