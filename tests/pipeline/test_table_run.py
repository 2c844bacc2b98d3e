"""Rows of a table that cannot be used are left out and told; the others run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from napari_microdl.cli import main
from napari_microdl.core.config import write_config
from napari_microdl.fields.field import Field
from napari_microdl.pipeline.files import add_columns
from napari_microdl.pipeline.table_run import open_table
from pipeline.small_run import small

BAD = ("gone", "cut", "broken", "black", "little", "nan")


@pytest.fixture
def table(fields: list[Field], tmp_path: Path) -> Path:
    """Good fields with bad ones between them, each bad in its own way; a column of doses."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 200, (96, 96)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "cut.tif", noise)
    content = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) - 4000])
    Image.fromarray(noise).save(tmp_path / "broken.png")
    content = bytearray((tmp_path / "broken.png").read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    (tmp_path / "broken.png").write_bytes(content)
    tifffile.imwrite(tmp_path / "black.tif", np.zeros((96, 96), np.uint8))
    tifffile.imwrite(tmp_path / "little.tif", noise[:20, :20])
    tifffile.imwrite(tmp_path / "nan.tif", np.where(noise > 100, np.nan, 1).astype(np.float32))
    rows = []
    for number, field in enumerate(fields):
        tifffile.imwrite(tmp_path / f"good{number}.tif", field.data[0])
        known = {k: v for k, v in field.to_metadata().items() if k != "Metadata_Plate"}
        rows.append({"FileName_GFP": f"good{number}.tif", **known, "Metadata_dose": f"d{number}"})
    for number, name in enumerate(BAD):
        suffix = "png" if name == "broken" else "tif"
        bad = {"FileName_GFP": f"{name}.{suffix}", "Metadata_Field": name, "Metadata_Well": "Z01"}
        rows.insert(2 * number, {**bad, "Metadata_control": "true", "Metadata_dose": "none"})
    pd.DataFrame(rows).fillna("").to_csv(tmp_path / "fields.csv", index=False)
    return tmp_path / "fields.csv"


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    write_config(small(unit="crop", cache=False), tmp_path / "config.json")
    return ["--config", str(tmp_path / "config.json")]


def test_bad_rows_are_left_out_and_told(table, settings, fields, tmp_path, capsys):
    out = tmp_path / "fitted"
    assert main(["fit", str(table), *settings, "--out", str(out), "--refits", "0"]) == 0
    printed = capsys.readouterr().out
    (note,) = [line for line in printed.splitlines() if "left out" in line]
    assert note.startswith("Note: 6 of 10 fields are left out: row 1 (gone): ")
    assert "; and 1 more, which the report names." in note
    left_out = json.loads((out / "report.json").read_text(encoding="utf-8"))["left_out"]
    assert sorted(left["name"] for left in left_out) == sorted(BAD)
    reasons = {left["name"]: left["reason"] for left in left_out}
    for name, word in (
        ("gone", "does not exist"), ("cut", "ends after"), ("broken", "cannot be read as an image"),
        ("black", "is constant"), ("little", "No crop of 32 px fits"), ("nan", "holds NaN"),
    ):  # fmt: skip
        assert word in reasons[name]
    crops = pd.read_csv(out / "crops.csv")
    assert sorted(crops["Metadata_Field"].unique()) == sorted(f.name for f in fields)


def test_columns_of_the_table_go_with_their_own_rows(table):
    found = open_table(table).without({1: "it is of no use."})
    units = pd.DataFrame({"field": range(len(found.fields))})
    add_columns(units, table, found.rows)
    rows = pd.read_csv(table, keep_default_na=False).set_index("Metadata_Field")
    assert units["Metadata_dose"].tolist() == [
        rows["Metadata_dose"][field.name] for field in found.fields
    ]
    assert found.left_out[-1].reason == "it is of no use."


def test_where_no_row_can_be_used_the_first_is_told(table, settings, tmp_path, capsys):
    rows = pd.read_csv(table, keep_default_na=False)
    rows = rows[rows["Metadata_Field"].isin(["gone", "cut"])]
    rows.to_csv(table, index=False)
    assert main(["fit", str(table), *settings, "--out", str(tmp_path / "out")]) == 2
    assert "Row 1 of 'fields.csv': the file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
