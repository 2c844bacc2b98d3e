from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from skimage.io import imsave

from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.tables import read_fields

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
    with pytest.raises(MicrodlError, match=r"'a\.tif' cannot be read"):
        field.read()


@pytest.mark.parametrize(
    ("columns", "words"),
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
        ({"path": ["two.tif"], "channels": ["DNA"]}, "2 channels but 1 channel names"),
        ({"FileName_DNA": ["a.tif"], "Metadata_control": ["perhaps"]}, "write true or false"),
    ],
)
def test_a_row_that_cannot_be_used_says_which_and_why(
    tmp_path: Path, columns: dict[str, list[str]], words: str
):
    write_image(tmp_path / "a.tif", (30, 40))
    write_image(tmp_path / "small.tif", (8, 8))
    write_image(tmp_path / "two.tif", (2, 30, 40))
    write_image(tmp_path / "stack.tif", (2, 2, 8, 8))
    for name in ("text.tif", "text.png"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(MicrodlError, match=words):
        read_fields(write_table(tmp_path, **columns))


def test_channels_of_different_size_are_found_when_read(tmp_path: Path):
    write_image(tmp_path / "a.tif", (30, 40))
    write_image(tmp_path / "small.tif", (8, 8))
    (field,) = read_fields(write_table(tmp_path, FileName_DNA=["a.tif"], FileName_ER=["small.tif"]))
    with pytest.raises(MicrodlError, match=r"'small\.tif' is \(8, 8\) pixels"):
        field.read()


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
