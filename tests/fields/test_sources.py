from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from core.refusals import refusal
from napari_microdl.cli import main
from napari_microdl.core.config import ImagesConfig
from napari_microdl.core.task import Cancelled, Task
from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.sources import check_source, find_source, left_out_sentences
from napari_microdl.fields.tables import open_field, read_fields

PIXELS = [field.read()[0][:40, :50] for field in transfluor()[:8]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four wells of two channels, and a table that names them."""
    rows = []
    for number, well in enumerate(("A1", "A2", "B1", "B2")):
        names = {c: f"P_{well}_s1_{c}.tif" for c in ("DNA", "ER")}
        for channel, name in names.items():
            tifffile.imwrite(tmp_path / name, PIXELS[2 * number + (channel == "ER")])
        rows.append(
            {f"FileName_{c}": name for c, name in names.items()}
            | {"Metadata_Plate": "P", "Metadata_Well": well, "Metadata_Site": "s1"}
        )
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path


def faults(found) -> set[tuple[str, str, str]]:
    return {(left.field, left.kind, left.path.name) for left in found.left_out}


def test_a_table_and_a_folder_give_the_same_fields(folder):
    of_table = find_source(folder / "table.csv")
    assert of_table.notes == (
        "Wells are written with two digits, such as 'A1' as 'A01'; sites are written as numbers, "
        "such as 's1' as '1'.",
    )
    assert find_source(folder).fields == of_table.fields
    (folder / "table.csv").unlink()
    of_names = find_source(folder)
    assert [(f.well, f.site, f.files) for f in of_names.fields] == [
        (f.well, f.site, f.files) for f in of_table.fields
    ]
    np.testing.assert_array_equal(open_field(of_names.fields[1]).read(), PIXELS[2:4])


def test_every_fault_is_found_before_any_work(folder):
    tifffile.imwrite(folder / "P_A2_s1_ER.tif", PIXELS[0][:9])
    whole = (folder / "P_B1_s1_DNA.tif").read_bytes()
    (folder / "P_B1_s1_DNA.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "P_B1_s1_ER.tif").write_text("no image")
    (folder / "P_B2_s1_DNA.tif").unlink()
    found = find_source(folder / "table.csv")
    assert [f.name for f in found.fields] == ["P_A1_s1", "P_A2_s1", "P_B1_s1"]
    assert faults(found) == {("P_B2_s1", "not imaged", "table.csv")}
    # One more goes while the table is known.
    (folder / "P_A1_s1_ER.tif").rename(folder / "away.tif")
    checked = check_source(found)
    assert checked.found.fields == ()
    assert faults(checked.found) == {
        ("P_B2_s1", "not imaged", "table.csv"),
        ("P_A1_s1", "not imaged", "P_A1_s1_ER.tif"),
        ("P_A2_s1", "unreadable", "P_A2_s1_DNA.tif"),
        ("P_B1_s1", "unreadable", "P_B1_s1_DNA.tif"),
        ("P_B1_s1", "unreadable", "P_B1_s1_ER.tif"),
    }
    reasons = " ".join(left.reason for left in checked.found.left_out)
    assert "P_A2_s1_DNA.tif 40 x 50, P_A2_s1_ER.tif 9 x 50" in reasons
    assert "'P_B1_s1_DNA.tif' ends after" in reasons
    assert left_out_sentences(checked.found) == [
        "2 fields not imaged: 'P_B2_s1', 'P_A1_s1'.",
        "2 fields unreadable: 'P_A2_s1', 'P_B1_s1'.",
    ]
    (folder / "away.tif").rename(folder / "P_A1_s1_ER.tif")
    checked = check_source(found)
    assert [f.name for f in checked.found.fields] == ["P_A1_s1"]
    assert len(checked.found.metadata) == 1
    (header,) = checked.headers
    assert (header.channel_names, header.shape, header.dtype) == (("DNA", "ER"), (40, 50), "uint8")


def test_channels_of_a_field_are_alike_and_those_of_all_fields(tmp_path):
    names = ["a.tif", "b.tif", "c.tif"]
    for name, shape in zip(names, [(2, 9, 8), (2, 9, 8), (3, 9, 8)], strict=True):
        tifffile.imwrite(tmp_path / name, np.zeros(shape, np.uint16), photometric="minisblack")
    Image.fromarray(PIXELS[0]).save(tmp_path / "d.png")
    pd.DataFrame({"path": [*names, "d.png"]}).to_csv(tmp_path / "t.csv", index=False)
    checked = check_source(find_source(tmp_path / "t.csv"))
    assert [f.name for f in checked.found.fields] == ["a", "b"]
    assert faults(checked.found) == {
        ("c", "unreadable", "c.tif"), ("d", "unreadable", "d.png"),
    }  # fmt: skip
    assert "those of most fields 'channel 1', 'channel 2'" in checked.found.left_out[0].reason
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((2, 7, 8), np.uint8), photometric="minisblack")
    notes = check_source(find_source(tmp_path / "t.csv")).found.notes
    assert notes == (
        "Fields differ in size: 9 x 8 (1), 7 x 8 (1) pixels.",
        "Fields differ in the type of their intensities: uint16 (1), uint8 (1).",
    )
    pd.DataFrame({"FileName_x": ["d.png"], "FileName_y": ["e.png"]}).to_csv(tmp_path / "t.csv")
    Image.fromarray(PIXELS[0].astype(np.uint16)).save(tmp_path / "e.png")
    (left,) = check_source(find_source(tmp_path / "t.csv")).found.left_out
    assert left.reason == "its channels differ in type: uint16, uint8"


def test_the_check_is_given_up_with_its_task(folder):
    found = find_source(folder)
    task = Task()
    task.cancel()
    with pytest.raises(Cancelled), task.active():
        check_source(found)


def test_same_fields_of_two_plates_are_told_apart(folder):
    table = pd.read_csv(folder / "table.csv", dtype=str).assign(Metadata_field="x")
    table.loc[0, "Metadata_Plate"] = "Q"
    table.to_csv(folder / "table.csv", index=False)
    assert [f.name for f in find_source(folder).fields] == ["Q_x", "P_x", "P_x_2", "P_x_3"]


def test_files_are_named_by_urls(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    for number in range(2):
        tifffile.imwrite(tmp_path / f"{number} of 2.tif", PIXELS[number])
    with fsspec.open("memory://screen/a.tif", "wb") as file:
        file.write((tmp_path / "1 of 2.tif").read_bytes())
    with fsspec.open("memory://screen/b.png", "wb") as file:
        Image.fromarray(PIXELS[2]).save(file, "PNG")
    table = pd.DataFrame(
        {
            "URL_DNA": [(tmp_path / "0 of 2.tif").as_uri(), "memory://screen/a.tif"],
            "URL_ER": ["memory://screen/b.png", "memory://screen/gone.tif"],
        }
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    found = find_source(tmp_path / "t.csv")
    np.testing.assert_array_equal(open_field(found.fields[0]).read(), [PIXELS[0], PIXELS[2]])
    np.testing.assert_array_equal(open_field(found.fields[1]).read((0,)), [PIXELS[1]])
    checked = check_source(found)
    assert faults(checked.found) == {("a", "not imaged", "gone.tif")}
    found.table(tmp_path).to_csv(tmp_path / "again.csv", index=False)
    assert find_source(tmp_path / "again.csv").fields == found.fields
    # Names of files on the machine of somebody else give way to places that all can reach.
    table.assign(FileName_DNA="x.tif", PathName_DNA="/home/elsewhere").to_csv(tmp_path / "t.csv")
    assert find_source(tmp_path / "t.csv").fields[0].files == found.fields[0].files
    for place, sentence in (("s3://bucket/a.tif", "s3"), ("nowhere", "is no URL")):
        table.assign(URL_DNA=place).to_csv(tmp_path / "t.csv", index=False)
        outcome = check_source(find_source(tmp_path / "t.csv")).found
        assert any(sentence in left.reason for left in outcome.left_out)


def test_what_is_no_source_is_refused(tmp_path):
    (tmp_path / "image.tif").write_bytes(b"")
    assert "is no table of image files" in refusal(find_source, tmp_path / "image.tif")
    assert "There is no file or folder" in refusal(find_source, tmp_path / "nowhere")


def test_the_command_writes_the_table_and_says_what_it_left_out(folder, tmp_path, capsys):
    (folder / "P_B2_s1_DNA.tif").unlink()
    (folder / "P_B1_s1_DNA.tif").write_text("no image")
    (folder / "plate.csv").write_text("well,compound\nA1,DMSO\nA2,taxol\n")
    np.save(folder / "P_IllumDNA.npy", np.full((40, 50), 2.0))
    (folder / "settings.json").write_text(json.dumps({"images": {"illumination": False}}))
    arguments = ["manifest", str(folder / "table.csv"), "--out", str(folder / "out.csv"), "--check",
                 "--metadata", str(folder / "plate.csv")]  # fmt: skip
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "2 fields, 1 of them called like controls" in said
    assert "1 field not imaged: 'P_B2_s1'." in said
    assert "1 field unreadable: 'P_B1_s1'." in said
    fields = read_fields(folder / "out.csv")
    assert [(f.well, f.site, f.condition) for f in fields] == [
        ("A01", "1", "DMSO"), ("A02", "1", "taxol"),
    ]  # fmt: skip
    np.testing.assert_array_equal(fields[0].read(), [PIXELS[0] / 2, PIXELS[1]])
    assert main([*arguments, "--config", str(folder / "settings.json")]) == 0
    assert "FileName_IllumDNA" not in pd.read_csv(folder / "out.csv")


def test_nothing_of_plates_is_loaded_before_there_is_one():
    code = (
        "import sys, napari_microdl, napari_microdl.fields.sources\n"
        "print([n for n in ('zarr', 'yaozarrs', 'fsspec', 'torch', 'distributed', "
        "'napari') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_settings_of_images_are_checked():
    assert "images.level is -1 but must be 0 or more" in refusal(ImagesConfig, level=-1)
