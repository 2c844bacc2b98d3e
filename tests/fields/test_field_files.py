from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field
from napari_microdl.fields.field_files import FieldFiles, check_field_files, write_field_files
from napari_microdl.fields.tables import read_fields

RNG = np.random.default_rng(0)


def image(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = RNG.integers(0, 200, shape).astype(np.uint16)
    tifffile.imwrite(path, data, photometric="minisblack")
    return data


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
        data = np.stack([image(file, (20, 30)) for file in files])
        field = Field(
            data, ("DNA", "Actin, fixed"), f"f {number}", "DMSO" if number else "", bool(number),
            "B02", f"s{number}", "p1",
        )  # fmt: skip
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
        data = image(file, shape).reshape(len(names), 20, 30)
        rows.append(FieldFiles(Field(data, names, f"field {number}"), (file,)))
    write_field_files(rows, tmp_path / "fields.csv")
    assert_same(read_fields(tmp_path / "fields.csv"), rows)
    check_field_files(rows, tmp_path / "fields.csv")


def test_a_field_without_files_keeps_what_is_known_of_it(pair: list[FieldFiles], tmp_path: Path):
    path = tmp_path / "fields.csv"
    write_field_files([pair[0], replace(pair[1], files=(), labels=None)], path)
    table = pd.read_csv(path, keep_default_na=False)
    assert table["FileName_DNA"].tolist() == ["dna.tif", ""]
    assert table["Metadata_condition"].tolist() == ["", "DMSO"]
    with pytest.raises(MicrodlError, match="there is no file in the column FileName_DNA"):
        read_fields(path)


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
