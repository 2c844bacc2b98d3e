from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from core.refusals import refusal
from napari_microdl.core.task import current_task
from napari_microdl.fields.metadata import normal_site, normal_well
from napari_microdl.fields.plate_maps import join_metadata
from napari_microdl.fields.sources import find_source
from napari_microdl.fields.tables import read_fields


@pytest.mark.parametrize(
    ("text", "well"),
    [
        ("A1", "A01"), ("a01", "A01"), (" B-3 ", "B03"), ("A001", "A01"), ("aa3", "AA03"),
        ("AF48", "AF48"), ("B:12", "B12"), ("W0001", "W0001"), ("A0", "A0"), ("", ""), ("12", "12"),
    ],
)  # fmt: skip
def test_wells_are_written_alike(text, well):
    assert normal_well(text) == well


@pytest.mark.parametrize(
    ("text", "site"),
    [("s1", "1"), ("f007", "7"), ("Site 2", "2"), ("fld_3", "3"), ("0", "0"), ("left", "left"),
     ("1-2", "1-2"), ("", "")],
)  # fmt: skip
def test_sites_are_numbers(text, site):
    assert normal_site(text) == site


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Two plates with two plate maps, as the Cytomining projects lay them out."""
    (tmp_path / "platemap").mkdir()
    (tmp_path / "barcode_platemap.csv").write_text(
        "Assay_Plate_Barcode,Plate_Map_Name\nBR1,map-1\nBR2,map-2\nBR3,map-1\n"
    )
    for name, drug in (("map-1", "BRD-K1"), ("map-2", "BRD-K2")):
        (tmp_path / "platemap" / f"{name}.txt").write_text(
            "plate_map_name\twell_position\tbroad_sample\tmg_per_ml\tcontrol_type\n"
            f"{name}\tA01\t\t\tnegcon\n{name}\tB02\t{drug}\t2.5\t\n{name}\tAA03\tBRD-P\t5\tposcon\n"
        )
    return tmp_path


def fields(*rows: tuple[str, str], folder: Path | None = None) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["Metadata_Plate", "Metadata_Well"])
    if folder is not None:
        for number in range(len(table)):
            tifffile.imwrite(folder / f"{number}.tif", np.full((4, 5), number, np.uint8))
        table.insert(0, "FileName_DNA", [f"{number}.tif" for number in range(len(table))])
        table.to_csv(folder / "load_data.csv", index=False)
    return table


def test_plates_find_their_plate_maps(experiment):
    table = fields(("BR1", "a1"), ("BR1", "B02"), ("BR2", "B2"), ("BR3", "aa3"), ("BR3", "C01"))
    with current_task().taking_notes() as notes:
        joined = join_metadata(table, experiment)
    assert joined["Metadata_broad_sample"].tolist() == ["", "BRD-K1", "BRD-K2", "BRD-P", ""]
    assert joined["Metadata_mg_per_ml"].tolist() == ["", "2.5", "2.5", "5", ""]
    assert joined["Metadata_plate_map_name"].tolist() == ["map-1", "map-1", "map-2", "map-1", ""]
    assert joined["Metadata_Well"].tolist() == table["Metadata_Well"].tolist()
    assert notes == [
        "Plates and their plate maps come from 'barcode_platemap.csv': 3 plates, 2 plate maps.",
        "'barcode_platemap.csv' tells 4 of 5 fields; not in it: 'BR3 C01'.",
    ]


def test_what_lies_beside_a_table_of_files_is_joined(experiment):
    fields(("BR1", "A1"), ("BR2", "B02"), ("BR3", "AA3"), folder=experiment)
    with current_task().taking_notes():
        read = read_fields(experiment / "load_data.csv")
    assert [(f.condition, f.is_control) for f in read] == [
        ("negcon", True), ("BRD-K2", False), ("BRD-P", False),
    ]  # fmt: skip
    found = find_source(experiment / "load_data.csv")
    assert [f.well for f in found.fields] == ["A01", "B02", "AA03"]
    assert found.metadata["Metadata_mg_per_ml"].tolist() == ["", "2.5", "5"]
    assert "Wells are written with two digits, such as 'A1' as 'A01'." in found.notes
    # The table that is written has it all.
    found.table(experiment).to_csv(experiment / "again.csv", index=False)
    again = pd.read_csv(experiment / "again.csv", keep_default_na=False)
    assert again["Metadata_broad_sample"].tolist() == ["", "BRD-K2", "BRD-P"]


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("row,column,compound,dose", ["A,1,DMSO,0", "2,2,taxol,5"]),
        ("Row,Col,compound,dose", ["1,01,DMSO,0", "B,2.0,taxol,5"]),
        ("well_position;compound;dose", ["a1;DMSO;0", "B2;taxol;5"]),
        ("Plate,Well,compound,dose", ["P,A01,DMSO,0", "P,B02,taxol,5", "Q,A01,other,1"]),
    ],
)
def test_conditions_are_found_by_well_or_by_row_and_column(tmp_path, columns, values):
    for name in ("A01_1", "B02_1", "B02_2"):
        tifffile.imwrite(tmp_path / f"P_{name}_w1.tif", np.zeros((4, 5), np.uint8))
    (tmp_path / "conditions.csv").write_text("\n".join([columns, *values]))
    found = find_source(tmp_path, metadata=tmp_path / "conditions.csv")
    assert [(f.condition, f.is_control) for f in found.fields] == [
        ("DMSO", True), ("taxol", False), ("taxol", False),
    ]  # fmt: skip
    assert found.metadata["Metadata_dose"].tolist() == ["0", "5", "5"]
    assert found.table()["Metadata_dose"].tolist() == ["0", "5", "5"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("compound\nx\n", "tells no wells; add a column well, or row and column"),
        ("well,compound\nA01,x\na1,y\n", "has two rows about well 'A01'"),
        ("plate,well,compound\nP,A01,x\nQ,A01,y\n", "several plates, but no field says"),
        ("Assay_Plate_Barcode,Plate_Map_Name\nP,gone\n", "There is no plate map 'gone'"),
    ],
)
def test_what_cannot_be_joined_says_why(tmp_path, text, sentence):
    (tmp_path / "t.csv").write_text(text)
    table = pd.DataFrame({"Metadata_Well": ["A01"]})
    assert sentence in refusal(join_metadata, table, tmp_path / "t.csv")


def test_fields_without_wells_cannot_be_joined(experiment):
    with current_task().taking_notes():
        told = refusal(join_metadata, pd.DataFrame({"FileName_DNA": ["a"]}), experiment)
    assert "The fields have no wells" in told
    # Where nobody asked for it, it keeps nobody from reading images.
    fields(("BR1", ""), folder=experiment)
    found = find_source(experiment / "load_data.csv")
    assert len(found.fields) == 1
    assert found.notes == ("'barcode_platemap.csv' is passed over, as the fields have no wells.",)


def test_a_parquet_table_is_read_like_any_other(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    table = fields(("P", "A1"), folder=tmp_path).assign(Metadata_dose=[2.5])
    table.to_parquet(tmp_path / "t.parquet")
    found = find_source(tmp_path / "t.parquet")
    assert (found.fields[0].well, found.metadata["Metadata_dose"].tolist()) == ("A01", ["2.5"])
    # In a folder it is found by its columns; what only has that ending is no table.
    (tmp_path / "load_data.csv").unlink()
    (tmp_path / "broken.parquet").write_text("PAR1")
    assert find_source(tmp_path).fields == found.fields
    for name in ("pyarrow", "pyarrow.parquet", "fastparquet"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert "napari-microdl[plate]" in refusal(find_source, tmp_path / "t.parquet")
