from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr

from core.refusals import refusal
from napari_microdl.fields.field import STRIP_BYTES, Field


def image(channels: int = 2, height: int = 6, width: int = 7) -> np.ndarray:
    return np.arange(channels * height * width, dtype=np.uint16).reshape(channels, height, width)


def test_a_field_says_what_it_is():
    field = Field(
        data=image(),
        channel_names=["DNA", "RNA"],
        name="A01",
        condition="drug",
        well="A01",
        plate="P1",
    )
    assert field.channel_names == ("DNA", "RNA")
    assert field.shape == (6, 7)
    assert field.n_channels == 2
    assert not field.is_control
    assert field.read_labels() is None
    np.testing.assert_array_equal(field.read(), image())


def test_channels_come_in_the_order_asked_for():
    field = Field(data=image(3), channel_names=("a", "b", "c"), name="f")
    assert field.channel_indices(None) == (0, 1, 2)
    assert field.channel_indices(("c", "a")) == (2, 0)
    np.testing.assert_array_equal(field.read((2, 0)), image(3)[[2, 0]])
    assert field.read((2, 0)).dtype == np.uint16


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"data": np.zeros((6, 7))},
            "Field 'f' has 2 axes (6, 7); give an array with the axes (channel, y, x).",
        ),
        (
            # Grey with a time axis, or RGB with a channel axis before it.
            {"data": np.zeros((1, 6, 7, 3))},
            "Field 'f' has 4 axes (1, 6, 7, 3); give an array with the axes (channel, y, x).",
        ),
        ({"data": np.zeros((2, 0, 7))}, "Field 'f' is empty: its shape is (2, 0, 7)."),
        (
            {"data": np.zeros((2, 6, 7), complex)},
            "Field 'f' holds complex128 values; real intensities are needed.",
        ),
        (
            {"data": np.full((2, 6, 7), "x")},
            "Field 'f' holds <U1 values; real intensities are needed.",
        ),
        (
            # RGB in the axes (y, x, colour).
            {"data": np.zeros((64, 64, 3), np.uint8)},
            "Field 'f' has 64 channels but 2 channel names ('a', 'b'); name every channel once.",
        ),
        (
            {"data": np.zeros((2, 6, 7)), "channel_names": ("a", "a")},
            "Field 'f' uses a channel name twice ('a', 'a'); give every channel a name of its own.",
        ),
        (
            {"data": np.zeros((2, 6, 7)), "labels": np.zeros((7, 6), int)},
            "The labels of field 'f' have the shape (7, 6) but its image is (6, 7); "
            "choose the labels that belong to this image.",
        ),
        (
            {"data": np.zeros((2, 6, 7)), "labels": np.zeros((6, 7))},
            "The labels of field 'f' are float64 values; whole numbers are needed, one per cell.",
        ),
    ],
)
def test_what_cannot_be_a_field_gives_one_sentence(arguments: dict, sentence: str):
    arguments = {"channel_names": ("a", "b"), "name": "f", **arguments}
    assert refusal(Field, **arguments) == sentence


def test_a_missing_channel_is_named_beside_those_that_exist():
    field = Field(data=image(), channel_names=("DNA", "RNA"), name="f")
    assert refusal(field.channel_indices, ("ER", "DNA", "Mito")) == (
        "Field 'f' has no channel 'ER', 'Mito'; its channels are 'DNA', 'RNA'."
    )


def test_a_lazy_array_is_read_only_when_asked_and_only_where_asked():
    computed: list[int] = []

    def block(block_id: tuple[int, int, int]) -> np.ndarray:
        computed.append(block_id[0])
        return np.full((1, 6, 7), block_id[0], np.uint16)

    lazy = da.map_blocks(
        block, chunks=((1, 1, 1), (6,), (7,)), dtype=np.uint16, meta=np.empty((0, 0, 0), np.uint16)
    )
    field = Field(data=lazy, channel_names=("a", "b", "c"), name="f")
    assert field.shape == (6, 7)
    assert computed == [], "making a field computed the image"
    assert field.data is lazy
    np.testing.assert_array_equal(field.read((2,)), np.full((1, 6, 7), 2))
    assert computed == [2], "reading one channel computed another"


def test_a_zarr_array_is_read():
    stored = zarr.array(image(), chunks=(1, 3, 3))
    labels = zarr.array(np.eye(6, 7, dtype=np.uint8))
    field = Field(data=stored, channel_names=("a", "b"), name="f", labels=labels)
    assert field.data is stored
    read = field.read((1,))
    assert type(read) is np.ndarray
    np.testing.assert_array_equal(read, image()[[1]])
    np.testing.assert_array_equal(field.read_labels(), np.eye(6, 7))
    assert field.read_labels().dtype == np.int64


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int32, np.uint64])
def test_labels_of_any_whole_type_are_read(kind: type):
    labels = np.zeros((6, 7), kind)
    labels[2:4] = 1
    field = Field(data=image(), channel_names=("a", "b"), name="f", labels=labels)
    assert field.read_labels().dtype == np.int64
    np.testing.assert_array_equal(field.read_labels(), labels)


@pytest.mark.parametrize("lazy", [False, True])
def test_rows_of_some_channels_are_read(*, lazy: bool):
    data = np.arange(3 * 7 * 5).reshape(3, 7, 5)
    field = Field(
        data=da.from_array(data, chunks=(2, 3, 4)) if lazy else data,
        channel_names=tuple("abc"),
        name="f",
    )
    np.testing.assert_array_equal(field.read_rows(2, 6, (2, 0)), data[[2, 0], 2:6])
    np.testing.assert_array_equal(field.read_rows(0, 7), data)


@pytest.mark.parametrize(
    ("chunk", "n_channels", "rows"),
    [
        (100, 1, STRIP_BYTES // 20_000 // 100 * 100),
        (100, 3, STRIP_BYTES // 60_000 // 100 * 100),
        # A chunk is larger than what is to be read at once.
        (9000, 1, STRIP_BYTES // 20_000),
        (None, 1, STRIP_BYTES // 20_000),
    ],
)
def test_strips_are_whole_chunks_of_bounded_size(chunk: int | None, n_channels: int, rows: int):
    data = da.zeros((3, 9000, 10_000), dtype=np.uint16, chunks=(1, chunk or 1, 5000))
    if chunk is None:
        data = np.broadcast_to(np.zeros(1, np.uint16), data.shape)
    assert Field(data=data, channel_names=tuple("abc"), name="f").strip_rows(n_channels) == rows
    assert (
        Field(data=data[:, :50], channel_names=tuple("abc"), name="f").strip_rows(n_channels) == 50
    )


def test_what_no_file_can_hold_of_a_name_is_replaced():
    half = "a\udc80b\x00"
    field = Field(
        data=np.zeros((1, 4, 4)), channel_names=(half,), name=half, condition=half, well=half
    )
    shown = "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert (field.name, field.condition, field.well) == (shown,) * 3
    assert field.channel_names == (shown,)
    assert field.info.to_metadata()["Metadata_Field"] == shown
    shown.encode()
