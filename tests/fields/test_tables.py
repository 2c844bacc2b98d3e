from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from skimage.io import imsave

from core.refusals import refusal
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field
from napari_microdl.fields.tables import (
    FieldFiles,
    check_field_files,
    read_fields,
    write_field_files,
)

RNG = np.random.default_rng(0)


def write_table(folder: Path, **columns: list[str]) -> Path:
    path = folder / "fields.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def write_image(path: Path, shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    image = RNG.integers(0, 200, shape).astype(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        imsave(path, image, check_contrast=False)
    else:
        tifffile.imwrite(path, image, photometric="minisblack")
    return image


def test_one_file_a_channel_as_cellprofiler_names_them(tmp_path: Path):
    dna = write_image(tmp_path / "raw" / "a_dna.tif", (30, 40))
    actin = write_image(tmp_path / "a_actin.tif", (30, 40))
    cells = write_image(tmp_path / "a_cells.tif", (30, 40))
    path = write_table(
        tmp_path,
        FileName_DNA=["a_dna.tif"],
        PathName_DNA=["raw"],
        FileName_Actin=["a_actin.tif"],
        FileName_Labels=["a_cells.tif"],
        Metadata_Plate=["p1"],
        Metadata_Well=["B02"],
        Metadata_condition=["DMSO"],
        Metadata_control=["true"],
    )
    (field,) = read_fields(path)
    assert field.channel_names == ("DNA", "Actin")
    assert field.name == "p1_B02"
    assert (field.plate, field.well, field.condition, field.is_control) == (
        "p1",
        "B02",
        "DMSO",
        True,
    )
    np.testing.assert_array_equal(field.read(), [dna, actin])
    np.testing.assert_array_equal(field.read((1,))[0], actin)
    np.testing.assert_array_equal(field.data[1, 3:9, 4:5], actin[3:9, 4:5])
    np.testing.assert_array_equal(field.data[0:2, 3:9], [dna[3:9], actin[3:9]])
    np.testing.assert_array_equal(field.read_labels(), cells)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "channels_first"),
    [
        ("a.tif", (3, 30, 40), "uint16", (0, 1, 2)),
        ("a.tif", (30, 40, 3), "uint8", (2, 0, 1)),
        ("a.png", (30, 40, 3), "uint8", (2, 0, 1)),
        ("a.tif", (2, 30, 40), "float32", (0, 1, 2)),
    ],
)
def test_one_file_a_field(
    tmp_path: Path,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    channels_first: tuple[int, ...],
):
    image = write_image(tmp_path / name, shape, dtype).transpose(channels_first)
    names = ["DNA", "ER", "Mito"][: len(image)]
    (field,) = read_fields(write_table(tmp_path, path=[name], channels=["; ".join(names)]))
    assert field.channel_names == tuple(names)
    assert field.name == "a"
    assert field.data.dtype == dtype
    np.testing.assert_array_equal(field.read(), image)
    np.testing.assert_array_equal(np.asarray(field.data), image)


@pytest.mark.parametrize(
    ("shape", "options", "sizes"),
    [
        ((1, 1, 30, 40), {}, (1, 30, 40)),
        ((30, 40, 2), {"photometric": "minisblack", "planarconfig": "contig"}, (2, 30, 40)),
        ((3, 30, 40), {"ome": True, "metadata": {"axes": "CYX"}}, (3, 30, 40)),
        ((1, 3, 30, 40), {"imagej": True, "metadata": {"axes": "ZCYX"}}, (3, 30, 40)),
    ],
)
def test_the_axes_that_a_file_names_are_heeded(tmp_path: Path, shape, options, sizes):
    pixels = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, **{"photometric": "minisblack"} | options)
    (field,) = read_fields(write_table(tmp_path, path=["a.tif"]))
    assert field.data.shape == sizes
    last = options.get("planarconfig") is not None
    expected = np.moveaxis(pixels, -1, 0) if last else pixels.reshape(sizes)
    np.testing.assert_array_equal(field.read(), expected)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"ome": True, "metadata": {"axes": "ZYX"}}, "3 z planes"),
        ({"imagej": True, "metadata": {"axes": "TYX"}}, "3 time points"),
    ],
)
def test_planes_and_time_points_are_no_channels(tmp_path: Path, options, what):
    pixels = np.zeros((3, 30, 40), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", **options)
    path = write_table(tmp_path, path=["a.tif"])
    assert f"'a.tif' holds {what}, which are no channels" in refusal(read_fields, path)


def test_the_numbers_of_a_palette_are_no_intensities(tmp_path: Path):
    grey = np.add.outer(np.arange(30), np.arange(40)).astype(np.uint8)
    picture = Image.fromarray(grey).convert("RGB").quantize(256)
    picture.save(tmp_path / "a.png")
    (field,) = read_fields(write_table(tmp_path, FileName_GFP=["a.png"]))
    np.testing.assert_array_equal(field.read()[0], np.asarray(picture.convert("L")))


def test_arrays_that_are_none_of_numpy_are_no_channels(tmp_path: Path):
    write_image(tmp_path / "a.tif", (30, 40))
    path = write_table(tmp_path, FileName_DNA=["a.tif"], FileName_IllumDNA=["illum.mat"])
    with current_task().taking_notes() as notes:
        (field,) = read_fields(path)
    assert field.channel_names == ("DNA",)
    assert notes == ["'fields.csv' names arrays and no images of 'IllumDNA'."]


def test_channels_that_nobody_named_are_numbered(tmp_path: Path):
    write_image(tmp_path / "a.tif", (2, 30, 40))
    (field,) = read_fields(write_table(tmp_path, path=["a.tif"], Metadata_field=["pos 1"]))
    assert field.channel_names == ("channel 1", "channel 2")
    assert field.name == "pos 1"
    assert field.labels is None


def test_pixels_are_read_when_they_are_asked_for(tmp_path: Path):
    write_image(tmp_path / "a.tif", (30, 40))
    (field,) = read_fields(write_table(tmp_path, FileName_DNA=["a.tif"]))
    assert field.shape == (30, 40)
    (tmp_path / "a.tif").unlink()
    assert "'a.tif' cannot be read" in refusal(field.read)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"Metadata_Well": ["A01"]}, "names no image files"),
        ({"FileName_DNA": ["b.tif"]}, r"Row 1 of 'fields\.csv': the file '.*b\.tif' does not"),
        ({"FileName_DNA": ["a.tif"], "FileName_ER": [""]}, "no file in the column FileName_ER"),
        ({"FileName_DNA": ["two.tif"]}, "holds 2 channels but stands for one"),
        ({"FileName_DNA": ["text.tif"]}, r"'text\.tif' cannot be read as an image"),
        ({"FileName_DNA": ["stack.tif"]}, r"has the shape \(2, 2, 8, 8\)"),
        ({"path": ["text.png"]}, r"'text\.png' cannot be read as an image"),
        ({"FileName_DNA": ["a.tif"], "labels": ["two.tif"]}, "labels need one plane"),
        (
            {"FileName_DNA": ["a.tif"], "labels": ["small.tif"]},
            "labels of field 'a' have the shape",
        ),
        ({"path": ["two.tif"], "channels": ["DNA"]}, "holds 2 channels but stands for one"),
        ({"FileName_DNA": ["a.tif"], "Metadata_control": ["perhaps"]}, "write true or false"),
    ],
)
def test_a_row_that_cannot_be_used_says_which_and_why(
    tmp_path: Path, columns: dict[str, list[str]], sentence: str
):
    write_image(tmp_path / "a.tif", (30, 40))
    write_image(tmp_path / "small.tif", (8, 8))
    write_image(tmp_path / "two.tif", (2, 30, 40))
    write_image(tmp_path / "stack.tif", (2, 2, 8, 8))
    for name in ("text.tif", "text.png"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(MicrodlError, match=sentence):
        read_fields(write_table(tmp_path, **columns))


def test_channels_of_different_size_are_found_when_read(tmp_path: Path):
    write_image(tmp_path / "a.tif", (30, 40))
    write_image(tmp_path / "small.tif", (8, 8))
    (field,) = read_fields(write_table(tmp_path, FileName_DNA=["a.tif"], FileName_ER=["small.tif"]))
    assert "'small.tif' is (8, 8) pixels" in refusal(field.read)


def test_a_public_screen_is_read_from_its_table(tmp_path: Path, data_root: Path):
    folder = data_root / "transfluor"
    table = pd.read_csv(folder / "conditions.csv", dtype=str).head(4)
    names = table["file"]
    path = tmp_path / "plate.csv"
    pd.DataFrame(
        {
            "FileName_GFP": names,
            "PathName_GFP": str(folder / "images"),
            "Metadata_Well": [f"W{i}" for i in range(4)],
            "Metadata_condition": table["condition"],
        }
    ).to_csv(path, index=False)
    fields = read_fields(path)
    for field, name, condition in zip(fields, names, table["condition"], strict=True):
        assert field.condition == condition
        np.testing.assert_array_equal(field.read()[0], tifffile.imread(folder / "images" / name))


def assert_same(found: list[Field], rows: list[FieldFiles]) -> None:
    for one, row in zip(found, rows, strict=True):
        other = row.field
        for name in ("name", "channel_names", "condition", "is_control", "well", "site", "plate"):
            assert getattr(one, name) == getattr(other, name)
        np.testing.assert_array_equal(one.read(), other.read())
        labels = [field.read_labels() for field in (one, other)]
        if labels[1] is None:
            assert labels[0] is None
        else:
            np.testing.assert_array_equal(*labels)


@pytest.fixture
def pair(tmp_path: Path) -> list[FieldFiles]:
    """Two fields of two channels, a file each: below the table, and elsewhere."""
    rows = []
    for number, folder in enumerate((tmp_path / "here" / "raw", tmp_path / "there")):
        files = (folder / "dna.tif", folder / "actin.tif")
        data = np.stack([write_image(file, (20, 30)) for file in files])
        field = Field(
            data=data,
            channel_names=("DNA", "Actin, fixed"),
            name=f"f {number}",
            condition="DMSO" if number else "",
            is_control=bool(number),
            well="B02",
            site=f"s{number}",
            plate="p1",
        )
        rows.append(FieldFiles(field, files))
    (tmp_path / "here" / "cells.tif").write_bytes((tmp_path / "there" / "dna.tif").read_bytes())
    cells = tifffile.imread(tmp_path / "there" / "dna.tif").astype(np.int64)
    labelled = replace(rows[1].field, labels=cells)
    return [rows[0], FieldFiles(labelled, rows[1].files, tmp_path / "here" / "cells.tif")]


def test_one_file_a_channel_is_read_as_it_was_written(pair: list[FieldFiles], tmp_path: Path):
    path = tmp_path / "here" / "fields.csv"
    write_field_files(pair, path)
    assert_same(read_fields(path), pair)
    check_field_files(pair, path)
    table = pd.read_csv(path, keep_default_na=False)
    assert table["FileName_DNA"].tolist() == ["dna.tif", "dna.tif"]
    assert table["PathName_DNA"].tolist() == ["raw", str(tmp_path / "there")]
    assert table["FileName_labels"].tolist() == ["", "cells.tif"]
    assert table["PathName_labels"].tolist() == ["", ""]
    # What lies below the table is found when the folder is moved.
    (tmp_path / "here").rename(tmp_path / "moved")
    np.testing.assert_array_equal(
        read_fields(tmp_path / "moved" / "fields.csv")[0].read(), pair[0].field.read()
    )


def test_one_file_a_field_is_read_as_it_was_written(tmp_path: Path):
    rows = []
    for number, names in enumerate((("DNA", "ER", "actin"), ("GFP",))):
        file = tmp_path / f"{number}.tif"
        shape = (len(names), 20, 30) if number == 0 else (20, 30)
        data = write_image(file, shape).reshape(len(names), 20, 30)
        rows.append(
            FieldFiles(Field(data=data, channel_names=names, name=f"field {number}"), (file,))
        )
    write_field_files(rows, tmp_path / "fields.csv")
    assert_same(read_fields(tmp_path / "fields.csv"), rows)
    check_field_files(rows, tmp_path / "fields.csv")


def test_a_field_without_files_keeps_what_is_known_of_it(pair: list[FieldFiles], tmp_path: Path):
    path = tmp_path / "fields.csv"
    write_field_files([pair[0], replace(pair[1], files=(), labels=None)], path)
    table = pd.read_csv(path, keep_default_na=False)
    assert table["FileName_DNA"].tolist() == ["dna.tif", ""]
    assert table["Metadata_condition"].tolist() == ["", "DMSO"]
    assert "there is no file in the column FileName_DNA" in refusal(read_fields, path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data": np.zeros((2, 9, 30), np.uint16)}, "2 x 9 x 30 of uint16; in the file: 2 x 20"),
        ({"data": np.zeros((2, 20, 30), np.float32)}, "of float32; in the file: 2 x 20 x 30 of ui"),
        ({"name": " a"}, "The name of ' a' is ' a', which a table cannot hold: 'a' is read"),
    ],
)
def test_what_the_files_do_not_hold_is_said(
    pair: list[FieldFiles], tmp_path: Path, change: dict, sentence: str
):
    rows = [pair[0], FieldFiles(replace(pair[1].field, labels=None, **change), pair[1].files)]
    write_field_files(rows, tmp_path / "fields.csv")
    with pytest.raises(MicrodlError, match=sentence):
        check_field_files(rows, tmp_path / "fields.csv")


def test_pictures_that_a_pipeline_was_to_save_are_no_channels(tmp_path: Path):
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.tif", (30, 40))
    names = {"FileName_DNA": ["a.tif", "b.tif"], "FileName_Overlay": ["a.png", "b.png"]}
    path = write_table(tmp_path, **names)
    with current_task().taking_notes() as notes:
        fields = read_fields(path)
    assert [f.channel_names for f in fields] == [("DNA",)] * 2
    assert notes == [
        "'fields.csv' names pictures of 'Overlay' that do not exist; they are left out."
    ]
    # Where one is there, the other is missed.
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(MicrodlError, match=r"Row 1 .*a\.png' does not exist"):
        read_fields(path)
