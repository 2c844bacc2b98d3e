from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from core.processes import python
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor

FOLDER = Path(str(files("napari_microdl"))) / "data" / "transfluor"
CONTROLS = ["O11", "O12", "O14", "O16"]
TREATED = ["O01", "O05", "O07", "O08"]


def test_the_fields_arrive_with_conditions_and_controls(sample_fields: list[Field]):
    assert [f.well for f in sample_fields] == TREATED + CONTROLS
    assert [f.well for f in sample_fields if f.is_control] == CONTROLS
    assert {f.condition for f in sample_fields if f.is_control} == {"diffuse"}
    assert {f.condition for f in sample_fields if not f.is_control} == {"puncta"}
    # The model was not trained on that site.
    assert {f.site for f in sample_fields} == {"f01"}
    assert [f.name for f in sample_fields] == [f"{well}_f01" for well in TREATED + CONTROLS]


def test_the_images_are_whole_single_channel_fields(sample_fields: list[Field]):
    for field in sample_fields:
        image = field.read()
        assert image.shape == (1, 512, 512)
        assert image.dtype == np.uint8
        assert field.channel_names == ("GFP",)
        assert np.ptp(image) > 100, "a blank image"
    assert len({field.read().tobytes() for field in sample_fields}) == len(sample_fields)


def test_pixels_and_conditions_are_those_of_the_originals(data_root: Path):
    source = data_root / "transfluor"
    originals = pd.read_csv(source / "conditions.csv").set_index(["Metadata_Well", "Metadata_Site"])
    for field in transfluor():
        row = originals.loc[(field.well, field.site)]
        original = tifffile.imread(source / "images" / row["file"])
        np.testing.assert_array_equal(field.read()[0], original)
        assert field.condition == row["condition"]
        assert field.is_control == row["is_control"]


def test_the_images_open_without_the_optional_codecs():
    code = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "from napari_microdl.fields.samples import transfluor\n"
        "print(len(transfluor()))"
    )
    assert python(code).stdout.strip() == "8"


def test_the_sample_is_small_and_says_where_it_is_from():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 5_000_000
    attribution = (FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for wanted in ("BBBC016v1", "Ilya Ravkin", "CC BY 3.0", "Ljosa", "inferred"):
        assert wanted in attribution
