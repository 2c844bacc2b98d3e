"""How large a pixel is: in files as programs write them, in tables, and compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.pixel_size import (
    common_pixel_size,
    micrometres,
    pixel_size_note,
    read_pixel_size,
)
from napari_microdl.fields.tables import FieldFiles, read_fields, write_field_files

PLANE = np.arange(12, dtype=np.uint16).reshape(3, 4)


@pytest.mark.parametrize(
    ("size", "unit", "expected"),
    [
        (0.65, "µm", 0.65),
        (0.65, "\u03bcm", 0.65),
        (0.65, "\\u00B5m", 0.65),
        (650, "nm", 0.65),
        (0.00065, "mm", 0.65),
        (0.65, "Micron", 0.65),
        (72, "inch", None),
        (1, "pixel", None),
        (0, "um", None),
        (float("nan"), "um", None),
    ],
)
def test_lengths_are_told_in_micrometres(size, unit, expected):
    assert micrometres(size, unit) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.65, "PhysicalSizeXUnit": "µm"}}, 0.65),
        ({"ome": True, "metadata": {"PhysicalSizeX": 650, "PhysicalSizeXUnit": "nm"}}, 0.65),
        ({"ome": True, "metadata": {}}, None),
        (
            {"imagej": True, "resolution": (1 / 0.65, 1 / 0.65), "metadata": {"unit": "um"}},
            0.65,
        ),
        ({"imagej": True, "metadata": {}}, None),
        # What a camera's program writes for a printer.
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
    ],
)
def test_files_tell_it_as_programs_write_it(tmp_path, how, expected):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, PLANE, **how)
    found = read_pixel_size(path)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-5))


def test_a_table_comes_before_the_files_and_takes_it_along(tmp_path):
    for name in ("a", "b"):
        tifffile.imwrite(
            tmp_path / f"{name}.ome.tif",
            PLANE,
            metadata={"PhysicalSizeX": 0.65, "PhysicalSizeXUnit": "µm"},
        )
    files = ["a.ome.tif", "b.ome.tif"]
    pd.DataFrame({"path": files, "pixel_size": ["1.3", ""]}).to_csv(tmp_path / "t.csv")
    fields = read_fields(tmp_path / "t.csv")
    assert [f.pixel_size for f in fields] == [1.3, pytest.approx(0.65)]
    rows = [FieldFiles(f, (tmp_path / name,)) for f, name in zip(fields, files, strict=True)]
    write_field_files(rows, tmp_path / "again.csv")
    again = read_fields(tmp_path / "again.csv")
    assert [f.pixel_size for f in again] == [1.3, pytest.approx(0.65)]


@pytest.mark.parametrize("text", ["large", "-1", "0", "inf"])
def test_what_is_no_size_is_named(tmp_path: Path, text: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLANE)
    pd.DataFrame({"path": ["a.tif"], "pixel_size": [text]}).to_csv(tmp_path / "t.csv")
    with pytest.raises(MicrodlError, match=f"Row 1 .*'{text}' in the column pixel_size"):
        read_fields(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([0.65, 0.65], 0.65),
        ([0.65, 0.6501], 0.65),
        ([0.65, 0.7], None),
        ([0.65, None], None),
        ([], None),
    ],
)
def test_images_share_a_size_or_none(sizes, expected):
    assert common_pixel_size(sizes) == expected


@pytest.mark.parametrize(
    ("made_with", "sizes", "words"),
    [
        (None, [0.1], None),
        (0.65, [None, None], None),
        (0.65, [0.65 * 1.24, 0.65 / 1.24], None),
        (0.65, [0.65 * 1.26], "the image has 0.819: the model sees cells 0.79 times as large"),
        (0.65, [0.65, 0.325, 0.3, None], "of 4 images 2 have 0.3: the model sees cells 2.2 times"),
    ],
)
def test_a_difference_of_more_than_a_quarter_is_told(made_with, sizes, words):
    note = pixel_size_note(made_with, sizes)
    assert (note == "") if words is None else (words in note)
