from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from core.refusals import refusal
from napari_microdl.core.config import ImagesConfig, PipelineConfig
from napari_microdl.core.task import current_task
from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.tables import open_field, read_fields, read_file_table, table_rows
from napari_microdl.pipeline.run import run_pipeline

SHAPE = (60, 80)
# Light that falls off to the edges, as a microscope's does.
LIGHT = 1.6 - np.hypot(*np.meshgrid(np.linspace(-0.6, 0.6, 80), np.linspace(-0.6, 0.6, 60)))


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, np.ndarray]:
    """Two channels of a field and a function each, beside a table."""
    images = {
        name: field.read()[0][: SHAPE[0], : SHAPE[1]].astype(np.uint16)
        for name, field in zip(("DNA", "ER"), transfluor(), strict=False)
    }
    for name, image in images.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", image)
    (tmp_path / "functions").mkdir()
    np.save(tmp_path / "functions" / "d.npy", LIGHT)
    np.save(tmp_path / "functions" / "e.npy", (LIGHT**2).astype(np.float32))
    tifffile.imwrite(tmp_path / "both.tif", np.stack(list(images.values())))
    return images


def table(folder: Path, **columns: str) -> Path:
    path = folder / "load_data.csv"
    pd.DataFrame({name: [value] for name, value in columns.items()}).to_csv(path, index=False)
    return path


FILES = {"FileName_OrigDNA": "DNA.tif", "FileName_OrigER": "ER.tif"}
NAMED = {
    "FileName_IllumDNA": "d.npy", "PathName_IllumDNA": "functions",
    "FileName_IllumER": "e.npy", "PathName_IllumER": "functions",
}  # fmt: skip
PLAIN = {"IllumDNA": "functions/d.npy", "IllumER": "functions/e.npy"}


@pytest.mark.parametrize(
    "columns",
    [
        FILES | NAMED,
        FILES | PLAIN,
        {"FileName_DNA": "DNA.tif", "FileName_ER": "ER.tif"} | NAMED,
        {"path": "both.tif", "channels": "DNA;ER"} | PLAIN,
    ],
)
def test_intensities_are_divided_by_the_function_that_a_table_names(tmp_path, raw, columns):
    path = table(tmp_path, **columns)
    (field,) = read_fields(path)
    functions = LIGHT, (LIGHT**2).astype(np.float32)
    expected = [image / function for image, function in zip(raw.values(), functions, strict=True)]
    assert field.data.dtype == np.float32
    assert field.corrected == field.channel_names
    np.testing.assert_allclose(field.read(), expected, rtol=1e-6)
    np.testing.assert_allclose(field.read_rows(7, 20, (1,))[0], expected[1][7:20], rtol=1e-6)
    # Switched off, nothing of them is looked at.
    np.save(tmp_path / "functions" / "d.npy", np.zeros(SHAPE))
    (field,) = read_fields(path, ImagesConfig(illumination=False))
    assert field.corrected == ()
    np.testing.assert_array_equal(field.read(), list(raw.values()))
    assert field.data.dtype == np.uint16


def test_a_function_beside_the_table_is_that_of_the_plate(tmp_path, raw):
    np.save(tmp_path / "P1_IllumER.npy", LIGHT)
    files = {"FileName_DNA": "DNA.tif", "FileName_ER": "ER.tif"}
    (field,) = read_fields(table(tmp_path, **files, Metadata_Plate="P1"))
    assert field.corrected == ("ER",)
    np.testing.assert_array_equal(field.read()[0], raw["DNA"])
    np.testing.assert_allclose(field.read()[1], raw["ER"] / LIGHT, rtol=1e-6)
    (other,) = read_fields(table(tmp_path, **files, Metadata_Plate="P2"))
    assert other.corrected == ()


def test_no_pixel_is_read_before_it_is_asked_for(tmp_path, raw):
    path = table(tmp_path, **FILES, **NAMED)
    (row,) = table_rows(read_file_table(path), path)
    field = open_field(row)
    (tmp_path / "ER.tif").unlink()
    assert "'ER.tif' cannot be read" in refusal(field.read)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (np.where(LIGHT > 1.5, 0, LIGHT), "'d.npy' holds zeros or negative numbers"),
        (np.where(LIGHT > 1.5, np.nan, LIGHT), "'d.npy' holds numbers that are none"),
        (np.ones((4, 5)), "'d.npy' is (4, 5) pixels but the images of channel 'OrigDNA' are"),
        (np.ones((2, *SHAPE)), "'d.npy' is float64 of the shape (2, 60, 80)"),
        (np.array([{}], dtype=object), "'d.npy' cannot be read"),
    ],
)
def test_a_function_that_cannot_divide_is_refused_by_name(tmp_path, raw, function, sentence):
    np.save(tmp_path / "functions" / "d.npy", function, allow_pickle=True)
    assert sentence in refusal(read_fields, table(tmp_path, **FILES, **NAMED))


def test_a_function_that_is_not_there_is_missed_and_none_at_all_is_noted(tmp_path, raw):
    path = table(tmp_path, **FILES, **NAMED)
    (tmp_path / "functions" / "d.npy").unlink()
    assert "correct the column FileName_IllumDNA" in refusal(read_fields, path)
    (tmp_path / "functions" / "e.npy").unlink()
    with current_task().taking_notes() as notes:
        (field,) = read_fields(path)
    assert field.corrected == ()
    assert "'DNA', 'ER' that do not exist: intensities are not corrected" in notes[0]


def test_the_report_of_a_run_says_what_was_corrected(tmp_path):
    rows = []
    for number, field in enumerate(transfluor()[:4]):
        tifffile.imwrite(tmp_path / f"{number}.tif", field.read()[0][:128, :128])
        rows.append({"FileName_GFP": f"{number}.tif", "Metadata_control": number < 2})
    np.save(tmp_path / "even.npy", np.full((128, 128), 2.0))
    pd.DataFrame(rows).assign(FileName_IllumGFP=["even.npy"] * 3 + [""]).to_csv(
        tmp_path / "t.csv", index=False
    )
    config = PipelineConfig.of(
        model="random-init", layer=1, unit="crop", n_atoms=4, n_iterations=1,
        atoms_per_iteration=1, max_steps=1, device="cpu",
    )  # fmt: skip
    result = run_pipeline(read_fields(tmp_path / "t.csv"), config)
    assert any("corrected in 3 of 4 fields: intensities of 'GFP'" in n for n in result.warnings)
    assert result.report["notes"] == result.warnings
