from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from core.refusals import Payload, refusal
from napari_microdl.core.config import ImagesConfig
from napari_microdl.fields.ome_zarr import find_images
from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.sources import check_source, find_source
from napari_microdl.fields.tables import open_field, read_fields

ngio = pytest.importorskip("ngio")
yaozarrs = pytest.importorskip("yaozarrs")

SIZE = 0.325


@pytest.fixture(scope="module")
def pixels() -> list[np.ndarray]:
    """Two channels of four fields."""
    images = [field.read()[0][:96, :128].astype(np.uint16) for field in transfluor()[:8]]
    return [np.stack(pair) for pair in zip(images[::2], images[1::2], strict=True)]


def write_plate(path: Path, pixels: list[np.ndarray], version: str) -> None:
    """A plate of two wells with two sites, written by a library of others."""
    places = [("B", 3, "0"), ("B", 3, "1"), ("AA", 12, "0"), ("AA", 12, "1")]
    plate = ngio.create_empty_plate(
        path,
        name="plate 7",
        images=[ngio.ImageInWellPath(row=r, column=str(c), path=p) for r, c, p in places],
        ngff_version=version,
    )
    for (row, column, place), image in zip(places, pixels, strict=True):
        container = ngio.create_ome_zarr_from_array(
            plate.get_image_store(row, column, place),
            image,
            pixelsize=SIZE,
            axes_names=("c", "y", "x"),
            channels_meta=["DNA", "ER"],
            levels=2,
            ngff_version=version,
            overwrite=True,
            consolidation_mode="auto",
        )
        labels = container.derive_label("cells")
        labels.set_array((image[0] > image[0].mean()).astype(np.uint32))
        labels.consolidate(mode="auto")
        container.derive_label("spots").set_array(np.zeros(image.shape[1:], np.uint32))


@pytest.fixture(scope="module", params=["0.4", "0.5"])
def plate(request, tmp_path_factory, pixels) -> Path:
    path = tmp_path_factory.mktemp("plates") / "plate.zarr"
    write_plate(path, pixels, request.param)
    return path


def test_the_fields_of_a_plate_are_read_as_they_were_written(plate, pixels):
    found = find_source(plate)
    assert [(f.plate, f.well, f.site, f.name) for f in found.fields] == [
        ("plate 7", "B03", "0", "B03_0"), ("plate 7", "B03", "1", "B03_1"),
        ("plate 7", "AA12", "0", "AA12_0"), ("plate 7", "AA12", "1", "AA12_1"),
    ]  # fmt: skip
    assert found.left_out == ()
    for named, image in zip(found.fields, pixels, strict=True):
        # What is sent to another process is the description.
        field = open_field(pickle.loads(pickle.dumps(named)))
        assert field.channel_names == ("DNA", "ER")
        assert field.pixel_size == pytest.approx(SIZE)
        np.testing.assert_array_equal(field.read(), image)
        np.testing.assert_array_equal(field.read((1,))[0], image[1])
        np.testing.assert_array_equal(field.read_rows(5, 9), image[:, 5:9])
        np.testing.assert_array_equal(field.data[0:2, 3:7, 8], image[0:2, 3:7, 8])
        np.testing.assert_array_equal(field.read_labels(), image[0] > image[0].mean())


def test_another_resolution_and_other_labels_are_chosen_by_the_settings(plate):
    found = find_source(plate, ImagesConfig(level=1, labels="spots"))
    first = ngio.open_ome_zarr_plate(plate).get_image("B", 3, "0")
    field = open_field(found.fields[0])
    np.testing.assert_array_equal(field.read(), first.get_image(path="1").get_as_numpy())
    assert field.pixel_size == pytest.approx(2 * SIZE)
    assert field.shape == (48, 64)
    assert field.read_labels().max() == 0
    for images, reason in (
        (ImagesConfig(level=5), "has 2 resolutions and none with the number 5"),
        (ImagesConfig(labels="nuclei"), "no labels 'nuclei': there are 'cells', 'spots'"),
    ):
        found = find_source(plate, images)
        assert found.fields == ()
        assert {left.kind for left in found.left_out} == {"unreadable"}
        assert reason in found.left_out[0].reason


def test_a_table_of_a_plate_names_the_same_fields(plate, pixels, tmp_path):
    found = find_source(plate, ImagesConfig(level=1))
    found.table(tmp_path).to_csv(tmp_path / "fields.csv", index=False)
    for again, named in zip(read_fields(tmp_path / "fields.csv"), found.fields, strict=True):
        field = open_field(named)
        assert (again.info, again.channel_names) == (field.info, field.channel_names)
        assert again.pixel_size == pytest.approx(field.pixel_size, rel=1e-5)
        np.testing.assert_array_equal(again.read(), field.read())
        np.testing.assert_array_equal(again.read_labels(), field.read_labels())


def test_images_that_a_plate_names_but_does_not_have_are_counted(tmp_path, pixels):
    write_plate(tmp_path / "p.zarr", pixels, "0.5")
    whole = tmp_path / "p.zarr"
    next(whole.glob("B/*3/1")).rename(tmp_path / "elsewhere")
    (whole / "AA" / "12" / "0" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    (whole / "AA" / "12" / "1" / "0" / "zarr.json").write_text("{")
    found = find_source(whole)
    assert [f.name for f in found.fields] == ["B03_0"]
    assert [(left.field, left.kind) for left in found.left_out] == [
        ("B03_1", "not imaged"), ("AA12_0", "unreadable"), ("AA12_1", "unreadable"),
    ]  # fmt: skip


def test_a_single_image_with_planes_and_time_points(tmp_path):
    stack = np.arange(2 * 3 * 4 * 16 * 20, dtype=np.uint16).reshape(2, 3, 4, 16, 20)
    dims = [
        yaozarrs.DimSpec(name="t", size=2, scale=1.0),
        yaozarrs.DimSpec(name="c", size=3),
        yaozarrs.DimSpec(name="z", size=4, scale=0.002, unit="millimeter"),
        yaozarrs.DimSpec(name="y", size=16, scale=650, unit="nanometer"),
        yaozarrs.DimSpec(name="x", size=20, scale=650, unit="nanometer"),
    ]
    image = yaozarrs.v05.Image(multiscales=[yaozarrs.v05.Multiscale.from_dims(dims)])
    from yaozarrs.write.v05 import write_image

    write_image(tmp_path / "stack.ome.zarr", image, [stack], writer="zarr")
    found = find_source(tmp_path / "stack.ome.zarr")
    assert [(f.name, f.z, f.time) for f in found.fields] == [
        ("stack_t1", "3", "1"), ("stack_t2", "3", "2"),
    ]  # fmt: skip
    field = open_field(found.fields[1])
    np.testing.assert_array_equal(field.read(), stack[1, :, 2])
    assert field.channel_names == ("channel 1", "channel 2", "channel 3")
    assert field.pixel_size == pytest.approx(0.65)
    found.table(tmp_path).to_csv(tmp_path / "t.csv", index=False)
    np.testing.assert_array_equal(read_fields(tmp_path / "t.csv")[1].read(), stack[1, :, 2])
    assert len(find_source(tmp_path / "stack.ome.zarr", plane="all").fields) == 8
    (one, _) = find_source(tmp_path / "stack.ome.zarr", plane="1").fields
    np.testing.assert_array_equal(open_field(one).read(), stack[0, :, 0])
    sentence = refusal(find_source, tmp_path / "stack.ome.zarr", plane="9")
    assert "4 planes and none with the number 9" in sentence


def test_a_folder_of_images_and_one_of_plates(tmp_path, pixels):
    for number, image in enumerate(pixels[:2]):
        ngio.create_ome_zarr_from_array(
            tmp_path / f"{number}.zarr",
            image[0],
            pixelsize=SIZE,
            axes_names=("y", "x"),
            levels=1,
            consolidation_mode="auto",
        )
    tifffile.imwrite(tmp_path / "snap.tif", pixels[0][0])
    found = find_source(tmp_path)
    assert [f.name for f in found.fields] == ["0", "1"]
    np.testing.assert_array_equal(open_field(found.fields[1]).read(), pixels[1][:1])
    assert [(left.path.name, left.reason) for left in found.left_out] == [
        ("snap.tif", "beside OME-Zarr")
    ]
    checked = check_source(found)
    assert [h.shape for h in checked.headers] == [(96, 128)] * 2


def test_a_collection_of_images_as_converters_write_it(tmp_path, pixels):
    from yaozarrs.write.v05 import write_bioformats2raw

    dims = [yaozarrs.DimSpec(name="c", size=2)]
    dims += [yaozarrs.DimSpec(name=n, size=s) for n, s in (("y", 96), ("x", 128))]
    image = yaozarrs.v05.Image(multiscales=[yaozarrs.v05.Multiscale.from_dims(dims)])
    images = {str(number): (image, [pixels[number]]) for number in range(3)}
    write_bioformats2raw(tmp_path / "slide.zarr", images, writer="zarr")
    found = find_source(tmp_path / "slide.zarr")
    assert [(f.name, f.site) for f in found.fields] == [
        ("slide_0", "0"), ("slide_1", "1"), ("slide_2", "2"),
    ]  # fmt: skip
    field = open_field(found.fields[2])
    np.testing.assert_array_equal(field.read(), pixels[2])
    assert field.pixel_size is None


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({}, "neither a plate nor an image"),
        ({"ome": {"version": "0.9", "multiscales": []}}, "is OME-Zarr 0.9; versions 0.4 and 0.5"),
        ({"ome": {"version": "0.5", "plate": {}}}, "is not as OME-Zarr 0.5 has it: plate.columns"),
    ],
)
def test_what_is_no_ome_zarr_says_why(tmp_path, attributes, sentence):
    zarr.create_group(tmp_path / "a.zarr", attributes=attributes)
    assert sentence in refusal(find_images, tmp_path / "a.zarr")


@pytest.mark.parametrize("dtype", ["|O", "<u2"])
def test_codecs_that_unpickle_are_refused(tmp_path, pixels, dtype):
    """Zarr and numcodecs of earlier versions would run what a chunk holds."""
    path = tmp_path / "image.zarr"
    ngio.create_ome_zarr_from_array(
        path, pixels[0], pixelsize=SIZE, axes_names=("c", "y", "x"), levels=1, ngff_version="0.4"
    )
    chunk = next(p for p in (path / "0").rglob("*") if p.is_file() and p.name != ".zarray")
    chunk.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    stated = json.loads((path / "0" / ".zarray").read_text())
    stated |= {
        "dtype": dtype,
        "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}],
        "compressor": None,
        "fill_value": "" if dtype == "|O" else 0,
    }
    (path / "0" / ".zarray").write_text(json.dumps(stated))
    refusal(find_source, path)
    assert not (tmp_path / "ran").exists()
