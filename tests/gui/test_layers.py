from __future__ import annotations

import gc
import weakref

import dask.array as da
import numpy as np
import pytest
import zarr
from napari.layers import Image, Labels

from core.refusals import refusal
from napari_microdl.gui.session.layers import (
    FIELD_TAG,
    Layout,
    Source,
    build_fields,
    channel_names,
    output_data,
    output_geometry,
    read_labels,
    rows_of,
)

EACH = Layout("fields", "none")
RANDOM = np.random.default_rng(0)


def fields_of(*layers: Image, layout: Layout = EACH, with_labels: bool = False):
    rows = [row for layer in layers for row in rows_of(layer, layout)]
    return build_fields(rows, layout, channel_names(rows[0]), with_labels=with_labels)


def test_each_plain_image_is_a_field_with_one_channel():
    a, b = (Image(RANDOM.random((20, 30)), name=n) for n in "ab")
    fields, sources = fields_of(a, b)
    assert [f.name for f in fields] == ["a", "b"]
    assert [f.data.shape for f in fields] == [(1, 20, 30)] * 2
    np.testing.assert_array_equal(fields[1].read()[0], b.data)
    assert [s.layer() for s in sources] == [a, b]


def test_what_the_sample_says_about_a_field_arrives():
    known = {
        "name": "O11_f01",
        "channel_names": ("GFP",),
        "condition": "diffuse",
        "is_control": True,
        "well": "O11",
        "site": "f01",
        "plate": "p",
    }
    layer = Image(RANDOM.random((20, 30)), metadata={FIELD_TAG: known})
    (field,), _ = fields_of(layer)
    assert (field.name, field.condition, field.is_control) == ("O11_f01", "diffuse", True)
    assert (field.well, field.site, field.plate) == ("O11", "f01", "p")
    assert field.channel_names == ("GFP",)


def test_an_image_without_channel_names_takes_those_of_the_first():
    named = Image(np.zeros((9, 9)), name="a", metadata={FIELD_TAG: {"channel_names": ("GFP",)}})
    other = Image(np.zeros((9, 9)), name="b", metadata={FIELD_TAG: {"channel_names": ("DNA",)}})
    fields, _ = fields_of(named, Image(np.zeros((9, 9)), name="plain"), other)
    assert [f.channel_names for f in fields] == [("GFP",), ("GFP",), ("DNA",)]


def test_images_of_one_field_become_its_channels_in_order():
    layers = [Image(np.full((20, 30), i), name=n) for i, n in enumerate(["dna", "actin"])]
    (field,), _ = fields_of(*layers, layout=Layout("channels"))
    assert field.channel_names == ("dna", "actin")
    assert field.read()[:, 0, 0].tolist() == [0, 1]


def test_other_shapes_of_channels_and_two_fields_of_one_name_are_refused_in_one_sentence():
    layers = [Image(np.zeros((20, 20 + i)), name="a") for i in range(2)]
    told = refusal(fields_of, *layers, layout=Layout("channels"))
    assert told.startswith("The channels of 'field 1' differ in shape")
    assert "Two fields are called 'a'" in refusal(fields_of, *layers)


@pytest.mark.parametrize("channel_axis", [0, 1])
def test_a_stack_gives_a_field_for_each_plane_beside_the_channel_axis(channel_axis):
    data = RANDOM.random((2, 3, 20, 30))
    fields, _ = fields_of(Image(data, name="s"), layout=Layout("fields", channel_axis))
    planes = np.moveaxis(data, channel_axis, 1)
    assert [f.name for f in fields] == [f"s [{i}]" for i in range(len(planes))]
    for field, plane in zip(fields, planes, strict=True):
        np.testing.assert_array_equal(field.read(), plane)


def test_rgb_becomes_three_channels():
    data = RANDOM.integers(0, 255, (20, 30, 4)).astype(np.uint8)
    (field,), _ = fields_of(Image(data, rgb=True))
    assert field.channel_names == ("red", "green", "blue")
    np.testing.assert_array_equal(field.read(), np.moveaxis(data[..., :3], -1, 0))


def test_lazy_data_stay_lazy():
    reads = []

    def block(block_info=None):
        reads.append(1)
        return np.ones((1, 20, 30), np.float32)

    data = da.map_blocks(block, chunks=((1,) * 4, (20,), (30,)), dtype=np.float32, meta=np.empty(0))
    layer = Image(data, contrast_limits=(0, 1))
    reads.clear()
    fields, _ = fields_of(layer, layout=Layout("fields", 0))
    assert isinstance(fields[0].data, da.Array)
    fields, _ = fields_of(layer)
    assert len(fields) == 4
    assert not reads
    assert fields[3].read().shape == (1, 20, 30)


def test_zarr_is_read_through_dask(tmp_path):
    stored = zarr.create_array(tmp_path / "a.zarr", shape=(20, 30), dtype="uint16", chunks=(10, 10))
    stored[:] = RANDOM.integers(0, 9, (20, 30)).astype(np.uint16)
    (field,), _ = fields_of(Image(stored, contrast_limits=(0, 9)))
    np.testing.assert_array_equal(field.read()[0], stored[:])


def test_a_multiscale_image_is_read_at_full_size():
    data = RANDOM.random((40, 60))
    (field,), _ = fields_of(Image([data, data[::2, ::2]], multiscale=True))
    np.testing.assert_array_equal(field.read()[0], data)


def test_labels_of_a_stack_follow_its_planes():
    layer = Image(np.zeros((2, 3, 8, 9)), name="s")
    labels = Labels(RANDOM.integers(0, 5, (2, 8, 9)))
    row = rows_of(layer, Layout("fields", 1))[1]
    np.testing.assert_array_equal(read_labels(labels, row), labels.data[1])


@pytest.mark.parametrize("shape", [(3, 8, 9), (2, 2, 8, 9)])
def test_labels_with_other_axes_are_refused(shape):
    (row,) = rows_of(Image(np.zeros((8, 9)), name="a"), EACH)
    labels = Labels(np.zeros(shape, int))
    assert "does not fit the image of 'a'" in refusal(read_labels, labels, row)


def test_an_output_of_a_stack_lies_at_its_plane():
    affine = np.eye(4)
    affine[-2, -2:] = 1.5, 7
    layer = Image(
        RANDOM.random((4, 20, 30)),
        scale=(2, 0.5, 0.25),
        translate=(5, -3, 4),
        rotate=[[1, 0, 0], [0, 0, -1], [0, 1, 0]],
        shear=[0.1, 0.2, 0.3],
        affine=affine,
        units=["um"] * 3,
        axis_labels=["t", "y", "x"],
    )
    _, sources = fields_of(layer)
    data = output_data(np.zeros((20, 30)), sources[2])
    output = Image(data, **output_geometry(sources[2]))
    assert data.shape == (1, 20, 30)
    np.testing.assert_allclose(output.data_to_world((0, 3, 4)), layer.data_to_world((2, 3, 4)))


def test_an_output_of_a_channel_stack_is_seen_in_every_channel():
    layer = Image(RANDOM.random((4, 20, 30)))
    _, (source,) = fields_of(layer, layout=Layout("fields", 0))
    plane = RANDOM.random((20, 30))
    data = output_data(plane, source)
    assert data.shape == (4, 20, 30)
    assert np.shares_memory(data, plane)


def test_a_closed_image_is_named():
    layer = Image(np.zeros((9, 9)), name="gone")
    row = rows_of(layer, EACH)[0]
    source = Source(weakref.ref(layer), (), "gone")
    del layer
    gc.collect()
    assert "'gone' was closed" in refusal(build_fields, [row], EACH, ["a"], with_labels=False)
    assert "'gone' was closed" in refusal(output_geometry, source)
