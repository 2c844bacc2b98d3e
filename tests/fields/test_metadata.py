from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.refusals import refusal
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field
from napari_microdl.fields.metadata import (
    column,
    describe_row,
    match_table,
    read_names,
    read_table,
)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        (
            "{well}_{site}_{condition}.tif",
            "B02_s1_DMSO.tif",
            {"well": "B02", "site": "s1", "condition": "DMSO"},
        ),
        ("{well}{site}*", "A01f03d4.TIF", {"well": "A01", "site": "f03"}),
        (
            "{plate}-{field}-{channel}",
            "p1-pos 7-actin",
            {"plate": "p1", "field": "pos 7", "channel": "actin"},
        ),
        ("{condition} (*)", "10 uM (a.b)", {"condition": "10 uM"}),
        ("{well}_{well}", "B02_B02", {"well": "B02"}),
        ("{well}_{well}", "B02_B03", {}),
        (r"(?P<well>[A-P]\d+)-.*", "C05-x", {"well": "C05"}),
        (r"(?P<well>[A-P]\d+)(-(?P<site>\d))?", "C05", {"well": "C05", "site": ""}),
        ("{well}_{site}", "something else", {}),
        ("r{row}c{column}-{z}-{time}", "r02c3-z4-t10", {"well": "B03", "z": "z4", "time": "t10"}),
        ("{row}-{column}", "AA-7", {"well": "AA07"}),
        ("{row}-{column}", "27-7", {"well": "AA07"}),
    ],
)
def test_a_pattern_reads_a_name(pattern: str, name: str, expected: dict[str, str]):
    assert read_names([name], pattern) == [expected]


_NAMES = st.text(st.characters(whitelist_categories=("Lu", "Ll", "Nd")), min_size=1, max_size=8)


@given(
    st.lists(
        st.tuples(_NAMES, st.from_regex(r"[A-P][0-9]{2}", fullmatch=True), st.integers(0, 99)),
        min_size=1,
    )
)
def test_what_was_written_into_names_is_read_back(parts: list[tuple[str, str, int]]):
    names = [f"{condition}+{well}.{site}" for condition, well, site in parts]
    read = read_names(names, "{condition}+{well}.{site}")
    assert read == [
        {"condition": condition, "well": well, "site": str(site)} for condition, well, site in parts
    ]


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("{wel}", "{wel}, which is not known"),
        ("plain text", "names nothing"),
        (r"(?P<well>[", "is not a regular expression"),
        (r"(?P<colour>.*)", "{colour}, which is not known"),
    ],
)
def test_a_bad_pattern_says_what_to_write(pattern: str, sentence: str):
    told = refusal(read_names, ["a"], pattern)
    assert sentence in told
    assert "pattern" in told
    assert "{well}" in told


def table(**columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns)


def fields(*names: str, wells: tuple[str, ...] = (), sites: tuple[str, ...] = ()) -> list[Field]:
    blank = ("",) * len(names)
    return [
        Field(data=np.ones((1, 2, 2)), channel_names=("DNA",), name=name, well=well, site=site)
        for name, well, site in zip(names, wells or blank, sites or blank, strict=True)
    ]


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_table_is_read_as_text(tmp_path: Path, ending: str):
    separator = "," if ending == ".csv" else "\t"
    path = tmp_path / f"plate{ending}"
    path.write_text(
        separator.join(["Metadata_Well", "dose"]) + f"\nA01{separator}007\nNA{separator}\n"
    )
    read = read_table(path)
    assert read.to_dict("list") == {"Metadata_Well": ["A01", "NA"], "dose": ["007", ""]}
    # Of one column nothing is noted, either.
    path.write_text("Metadata_Well\nA01\n")
    assert read_table(path).to_dict("list") == {"Metadata_Well": ["A01"]}


ROWS = "FileName_GFP,Metadata_Well,Metadata_condition\na.tif,A01,5 \u00b5M\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (ROWS.encode("utf-8-sig"), []),
        (ROWS.replace(",", ", ").replace("M\n", "M \r\n").encode(), []),
        (ROWS.replace("A01", '" A01"').encode(), []),
        (ROWS.replace(",", ";").encode(), ["semicolons between columns"]),
        (ROWS.replace(",", "\t").encode("utf-16"), ["tabs between columns", "letters as UTF-16"]),
        (ROWS.encode("cp1252"), ["letters as Windows-1252"]),
    ],
)
def test_a_table_is_read_as_a_spreadsheet_saves_it(tmp_path: Path, content: bytes, said: list[str]):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with current_task().taking_notes() as notes:
        read = read_table(path)
    assert read.loc[0].to_dict() == {
        "FileName_GFP": "a.tif",
        "Metadata_Well": "A01",
        "Metadata_condition": "5 \u00b5M",
    }
    assert notes == ([f"'t.csv' was read with {' and '.join(said)}."] if said else [])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "cannot be read"), ("", "cannot be read"), ("a,b\n", "holds no rows")],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, content: str | None, sentence: str):
    path = tmp_path / "plate.csv"
    if content is not None:
        path.write_text(content)
    assert sentence in refusal(read_table, path)


def test_columns_are_found_in_any_case_and_the_first_name_wins():
    t = table(treatment=["a"], Metadata_Condition=["b"], Metadata_WELL=["A01"])
    assert column(t, "condition", "treatment") == "Metadata_Condition"
    assert column(t, "treatment") == "treatment"
    assert column(t, "well") == "Metadata_WELL"
    assert column(t, "site") is None


def test_a_row_tells_what_the_table_has():
    t = table(Metadata_Well=["A01", "B01"], compound=["x", "y"], Metadata_control=["True", "no"])
    assert describe_row(t, 0) == {"well": "A01", "condition": "x", "is_control": True}
    assert describe_row(t, 1) == {"well": "B01", "condition": "y", "is_control": False}
    with pytest.raises(MicrodlError, match="Row 1 has 'maybe' in the column control"):
        describe_row(table(control=["maybe"]), 0)


def test_fields_are_matched_by_name_whatever_folder_and_ending():
    t = table(FileName_DNA=["b.ome.tif", "x/a.tif", "c.tif"], Metadata_Well=["B", "A", "C"])
    assert match_table(fields("a.tiff", "b", "d"), t) == [1, 0, None]
    # As napari calls the layer.
    assert match_table(fields("b.ome"), t) == [0]


def test_fields_are_matched_by_well_and_site_where_there_are_no_names():
    t = table(
        Metadata_Well=["A01", "A01", "B01"], Metadata_Site=["1", "2", "1"], dose=["0", "1", "2"]
    )
    known = fields("p", "q", "r", wells=("B01", "A01", "A01"), sites=("1", "2", "3"))
    assert match_table(known, t) == [2, 1, None]


@pytest.mark.parametrize(
    ("well", "site", "row"),
    [
        ("A1", "1", 0),
        ("a01", "s1", 0),
        ("A01 ", "01", 0),
        ("AA1", "1", None),
        ("A10", "1", None),
        ("A01", "10", None),
        ("A01", "left", None),
    ],
)
def test_wells_and_sites_are_the_same_however_they_are_written(
    well: str, site: str, row: int | None
):
    (known,) = fields("x", wells=("A01",), sites=("s1",))
    assert match_table([known], table(Metadata_Well=[well], Metadata_Site=[site])) == [row]


def test_a_table_that_cannot_be_matched_says_why():
    with pytest.raises(MicrodlError, match="no column that tells which field"):
        match_table(fields("a"), table(Metadata_Well=["A01"]))
    with pytest.raises(MicrodlError, match=r"Rows 1 and 2 .* same Metadata_field \('a'\)"):
        match_table(fields("a"), table(Metadata_field=["a", "a"]))
    # Rows that no field asks for may repeat.
    assert match_table(fields("b"), table(Metadata_field=["a", "a", "b"])) == [2]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_are_numbers_where_all_of_a_column_is(tmp_path, separator):
    rows = [("field", "dose", "text"), ("a", "0,05", "1,5"), ("b", "10", "x,5"), ("c", "", "2")]
    path = tmp_path / "plate.csv"
    path.write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8")
    with current_task().taking_notes() as notes:
        found = read_table(path)
    assert found["dose"].tolist() == ["0.05", "10", ""]
    assert found["text"].tolist() == ["1,5", "x,5", "2"]
    assert "decimal commas in 'dose'" in notes[0]


def test_a_comma_in_a_number_between_commas_stays(tmp_path):
    path = tmp_path / "plate.csv"
    path.write_text('field,cells\na,"1,234"\n', encoding="utf-8")
    assert read_table(path)["cells"].tolist() == ["1,234"]
