from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from core.refusals import refusal
from napari_microdl.cli import main
from napari_microdl.fields.file_patterns import (
    FILE_A_FIELD,
    FOLDER_A_CONDITION,
    PATTERNS,
    differing,
    is_control,
    own_pattern,
    suggest_patterns,
)
from napari_microdl.fields.folder import fields_of_table, find_fields
from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.sources import check_source, find_source
from napari_microdl.fields.tables import read_fields

GUID = "2247376D-6ADD-442D-AE47-F54A05F3EA94"
# How microscopes write well, site, channel, plane and time into a name.
FORMATS = {
    "Opera Phenix, Operetta": "r{r:02}c{c:02}f{s:02}p{z:02}-ch{ch}sk{t}fk1fl1.tiff",
    "Yokogawa CellVoyager": "P_1_{well}_T{t:04}F{s:03}L01A01Z{z:02}C{ch:02}.tif",
    "InCell": "{L} - {c:02}(fld {s:02} wv {ch} - {ch} z {z}).tif",
    "ScanR, ALMF": "{L}{c}--W00001--P{s:05}--Z{z:05}--T{t:05}--{ch}.ome.tif",
    "ImageXpress": f"P_1_{{well}}_s{{s}}_w{{ch}}{GUID}.tif",
    "Cytation, Gen5": "{L}{c}_01_1_{s}_{ch}_{t:03}.tif",
    "ArrayScan": "MFGTMP_1_{well}f{s:02}d{ch}.TIF",
    "plate, well, site, channel": "P1_{well}_site{s}_Ch{ch}.tif",
    "well, site, channel": "{L}{c}_s{s}_{ch}.png",
    "well, site": "{well}_{s}.png",
}


def number(text: str) -> int:
    return int("".join(filter(str.isdigit, text)))


@given(
    st.sampled_from(sorted(FORMATS)),
    st.integers(1, 16), st.integers(1, 24), st.integers(1, 40), st.integers(1, 9),
    st.integers(1, 30), st.integers(1, 99),
)  # fmt: skip
def test_what_a_microscope_wrote_into_a_name_is_read_back(kind, r, c, s, ch, z, t):
    letter = chr(64 + r)
    written = {"L": letter, "well": f"{letter}{c:02}", "r": r, "c": c, "s": s, "ch": ch}
    file = PurePath("data", FORMATS[kind].format(**written, z=z, t=t))
    # The pattern that is suggested is the right one.
    pattern, fitting = suggest_patterns([file])[0]
    assert (pattern.title, fitting) == (kind, 1)
    (read,) = pattern.read([file])
    assert (read["well"][0].upper(), number(read["well"])) == (letter, c)
    assert number(read["site"]) == s
    for part, value in (("channel", ch), ("z", z), ("time", t)):
        assert (
            number(read[part]) == value if read.get(part) else f"{{{part[0]}" not in FORMATS[kind]
        )


def test_every_pattern_fits_its_example_and_no_other_is_preferred():
    for pattern in PATTERNS:
        assert suggest_patterns([PurePath(pattern.example)])[0][0] is pattern
    (read,) = PATTERNS[0].read([PurePath("r27c03f01p01-ch1sk1fk1fl1.tiff")])
    assert read["well"] == "AA03"
    w = [PurePath(f"--W00003--P00001--Z00000--T00000--{x}.tif") for x in ("dapi", "egfp")]
    assert [read["well"] for read in suggest_patterns(w)[0][0].read(w)] == ["W00003"] * 2


@pytest.mark.parametrize(
    ("condition", "control"),
    [
        ("DMSO", True), ("dmso_0.1%", True), ("Untreated cells", True), ("wild type", True),
        ("WT", True), ("wild-type", True), ("negative control", True), ("mock", True),
        ("non-targeting siRNA", True), ("vehicle 2", True),
        ("mockingbird", False), ("uncontrolled", False), ("WT1", False), ("newt", False),
        ("positive control", False), ("taxol in DMSO", False), ("WT + drug", False), ("", False),
    ],
)  # fmt: skip
def test_controls_are_called_so_by_a_whole_word(condition: str, control: bool):
    assert is_control(condition) is control


@pytest.fixture
def save(tmp_path: Path):
    """Save corners of the sample under names, and return the folder."""
    pixels = [field.read()[0][:40, :50] for field in transfluor()]

    def write(*names: str) -> Path:
        for number, name in enumerate(names):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / name, pixels[number % len(pixels)])
        return tmp_path

    return write


def reasons(found) -> dict[str, str]:
    return {left.path.name: left.reason for left in found.left_out}


def test_a_plate_is_grouped_and_read_by_the_command_line(save, tmp_path, capsys):
    names = [f"P_{w}_s{s}_w{c}.tif" for w in ("A01", "B10") for s in (1, 2) for c in (1, 2)]
    folder = save(*names, "P_A01_s1_w1_thumb0A.tif", "P_A01_s3_w1.tif", "P_A01_s1_mask.tif")
    (folder / "notes.txt").write_text("of the plate")
    found = find_fields([folder])
    assert [f.name for f in found.fields] == ["A01_s1", "A01_s2", "B10_s1", "B10_s2"]
    assert found.fields[0].channel_names == ("w1", "w2")
    assert [f.labels is not None for f in found.fields] == [True, False, False, False]
    assert reasons(found) == {
        "notes.txt": "not TIFF, PNG, JPEG or BMP",
        "P_A01_s1_w1_thumb0A.tif": "a thumbnail",
        "P_A01_s3_w1.tif": "of a field without channel 'w2'",
    }
    out = folder / "fields.csv"
    for _ in range(2):
        # The table that was written before is not the source of the second.
        assert main(["manifest", str(folder), "--out", str(out)]) == 0
        said = capsys.readouterr().out
        assert "Names are read as ImageXpress: 9 of 9 fit." in said
        assert "P_A01_s3_w1.tif: of a field without channel 'w2'" in said
    fields = read_fields(out)
    assert [(f.name, f.plate, f.well, f.site) for f in fields][3] == ("B10_s2", "P", "B10", "2")
    np.testing.assert_array_equal(fields[1].read()[1], tifffile.imread(folder / names[3]))
    assert fields[0].labels is not None
    table = pd.read_csv(out)
    assert table["FileName_w2"].tolist() == names[1::2]
    # With it, the folder is read as its table says.
    assert [f.files for f in find_fields([folder]).fields] == [f.files for f in found.fields]


def test_folders_of_time_points_and_planes_are_read(save):
    folder = save(*(f"TimePoint_{t}/ZStep_{z}/P_A01_w1.tif" for t in (1, 2) for z in (1, 2, 3)))
    found = find_fields([folder])
    assert [(f.name, f.time, f.z) for f in found.fields] == [
        ("A01_t1", "1", "2"),
        ("A01_t2", "2", "2"),
    ]
    assert found.sentence() == "4 files are left out: another z plane than the one taken (4)."
    assert found.table()["Metadata_Time"].tolist() == ["1", "2"]
    every = find_fields([folder], plane="all")
    assert [f.name for f in every.fields][:2] == ["A01_z1_t1", "A01_z1_t2"]
    assert len(every.fields) == 6
    assert {f.z for f in find_fields([folder], plane="3").fields} == {"3"}


def test_same_names_in_two_folders_are_told_apart_by_the_folder(save):
    names = [f"r01c0{c}f01p01-ch1sk1fk1fl1.tiff" for c in (1, 2)]
    folder = save(*(f"day 1/{plate}/Images/{name}" for plate in ("P1", "P2") for name in names))
    found = find_fields([folder])
    assert [(f.name, f.plate) for f in found.fields] == [
        ("P1_A01_f01", "P1"), ("P1_A02_f01", "P1"), ("P2_A01_f01", "P2"), ("P2_A02_f01", "P2"),
    ]  # fmt: skip
    assert {f.channel_names for f in found.fields} == {("ch1",)}
    assert not found.left_out


def test_folders_that_are_conditions_and_plain_names(save):
    folder = save("DMSO/1.tif", "DMSO/2.tif", "drug/1.tif", "drug/10.tif")
    assert suggest_patterns([folder / "DMSO" / "1.tif"])[0][0] is FOLDER_A_CONDITION
    found = find_fields([folder])
    assert [(f.name, f.condition, f.is_control) for f in found.fields] == [
        ("2", "DMSO", True), ("10", "drug", False),
        ("DMSO_1", "DMSO", True), ("drug_1", "drug", False),
    ]  # fmt: skip
    plain = find_fields([folder], FILE_A_FIELD)
    assert [(f.name, f.condition) for f in plain.fields] == [
        ("2", "DMSO"), ("10", "drug"), ("DMSO_1", "DMSO"), ("drug_1", "drug"),
    ]  # fmt: skip
    # Folders that are called otherwise are told apart by name and mean nothing.
    (folder / "DMSO").rename(folder / "day 1")
    plain = find_fields([folder], FILE_A_FIELD)
    assert [f.name for f in plain.fields] == ["day 1_1", "day 1_2", "drug_1", "drug_10"]
    assert {f.condition for f in plain.fields} == {""}


def test_labels_find_their_image_by_the_whole_stem(save):
    folder = save(
        "a/1.tif", "a/10.tif", "b/1.tif", "a/masks/10.tif", "b/1_cp_masks.tif", "a/3_mask.tif",
        "HeLa cells.tif",
    )  # fmt: skip
    found = find_fields([folder], FILE_A_FIELD)
    assert {f.name: f.labels and f.labels.relative_to(folder).as_posix() for f in found.fields} == {
        "a_1": None, "a_10": "a/masks/10.tif", "b_1": "b/1_cp_masks.tif",
        "HeLa cells": None,
    }  # fmt: skip
    assert reasons(found) == {"3_mask.tif": "called labels, of no image here"}


def test_a_pattern_of_ones_own_and_several_channels_in_a_file(save, tmp_path):
    save("B02/x_DMSO.tif", "B03/x_drug.tif", "B04.tif")
    tifffile.imwrite(tmp_path / "B02" / "x_DMSO.tif", np.zeros((2, 8, 9), np.uint8))
    found = find_fields([tmp_path], own_pattern("{well}/{channel}_{condition}"))
    assert [(f.name, f.is_control, f.channel_names) for f in found.fields] == [
        ("B02", True, ()), ("B03", False, ()),
    ]  # fmt: skip
    assert reasons(found) == {"B04.tif": "not named as the pattern says"}
    found.table(tmp_path).to_csv(tmp_path / "t.csv", index=False)
    assert [f.n_channels for f in read_fields(tmp_path / "t.csv")] == [2, 1]
    assert "is not known" in refusal(find_fields, [tmp_path], own_pattern("{wel}"))
    assert "no file or folder" in refusal(find_fields, [tmp_path / "nowhere"])


def test_a_table_of_cellprofiler_names_the_files(save):
    folder = save("raw/a.tif", "raw/b.tif", "raw/c.tif")
    (folder / "load_data.csv").write_text(
        "FileName_DNA,PathName_DNA,Metadata_Well,Metadata_condition\n"
        f"a.tif,{folder}/raw,A01,mock\nb.tif,raw,A02,drug\nlost.tif,raw,A03,drug\n"
    )
    found = find_fields([folder])
    assert [(f.name, f.is_control) for f in found.fields] == [("A01", True), ("A02", False)]
    assert reasons(found)["c.tif"] == "not in the table 'load_data.csv'"
    assert reasons(found)["load_data.csv"].startswith("row 3: the file")
    assert fields_of_table(folder / "load_data.csv").fields == found.fields


def test_a_folder_without_images_is_said(tmp_path, capsys):
    assert find_fields([tmp_path]).fields == ()
    assert main(["manifest", str(tmp_path), "--out", str(tmp_path / "t.csv")]) == 2
    assert "No fields were found" in capsys.readouterr().err
    assert not (tmp_path / "t.csv").exists()


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=4).map(tuple), min_size=2, unique=True))
def test_what_folders_are_called_tells_them_apart(folders):
    names = differing(folders)
    assert set(names) == set(folders)
    assert len(set(names.values())) == len(folders)


@pytest.mark.parametrize(
    ("name", "fields", "labels"),
    [
        ("nf1_schwann", 5, 5), ("bbbc022_mock", 10, 0), ("transfluor", 48, 0),
        ("sixchannel_cellpainting", 1, 0),
    ],
)  # fmt: skip
def test_public_sets_are_read_from_their_folders(data_root, tmp_path, name, fields, labels):
    found = find_fields([data_root / name])
    assert len(found.fields) == fields
    assert sum(f.labels is not None for f in found.fields) == labels
    checked = check_source(find_source(data_root / name))
    assert len(checked.headers) == fields
    found.table().head(1).to_csv(tmp_path / "t.csv", index=False)
    (field,) = read_fields(tmp_path / "t.csv")
    assert field.n_channels == {"nf1_schwann": 3, "bbbc022_mock": 5, "transfluor": 1}.get(name, 6)
    assert field.well
    assert field.site
