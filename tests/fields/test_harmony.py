from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
import tifffile

from core.refusals import refusal
from napari_microdl.core.task import Cancelled, Task
from napari_microdl.fields.harmony import find_indexed
from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.sources import find_source
from napari_microdl.fields.tables import open_field

CHANNELS = {1: "HOECHST 33342", 2: "Alexa & 488"}
HEAD = (
    '<?xml version="1.0" encoding="utf-8"?>\n'
    '<EvaluationInputData xmlns="http://www.perkinelmer.com/PEHH/HarmonyV{v}" Version="1">\n'
    "  <Plates><Plate><PlateID>123</PlateID><Name>screen 1</Name><PlateRows>16</PlateRows>"
    '<Well id="0203" /></Plate></Plates>\n'
)


def resolution(metres: float) -> str:
    return f'<ImageResolutionX Unit="m">{metres}</ImageResolutionX>'


def index(version: int, images: list[tuple[int, int, int, int, int]], *, state: str = "Ok") -> str:
    """An index of (row, column, site, plane, channel), with channels where the version has them."""
    text = HEAD.format(v=version)
    entries = []
    for r, c, f, p, ch in images:
        url = f"r{r:02}c{c:02}f{f:02}p{p:02}-ch{ch}sk1fk1fl1.tiff"
        own = f"<ChannelName>{escape(CHANNELS[ch])}</ChannelName>{resolution(2.98e-7)}"
        entries.append(
            f"<Image Version='1'><id>x</id><State>{state}</State><URL>{url}</URL><Row>{r}</Row>"
            f"<Col>{c}</Col><FieldID>{f}</FieldID><PlaneID>{p}</PlaneID><TimepointID>0</TimepointID>"
            f"<ChannelID>{ch}</ChannelID>{own if version < 6 else ''}"
            "<PositionX Unit='m'>0.1</PositionX></Image>"
        )
    if version >= 6:
        maps = "".join(
            f"<Entry ChannelID='{ch}'><ChannelName>{escape(name)}</ChannelName>"
            f"{resolution(2.98e-7)}<FlatfieldProfile>{'x' * 10000}</FlatfieldProfile></Entry>"
            for ch, name in CHANNELS.items()
        )
        text += f"<Maps><Map>{maps}</Map></Maps>"
    return f"{text}<Images>{''.join(entries)}</Images></EvaluationInputData>"


@pytest.fixture
def images(tmp_path: Path):
    """Save images under the names of an index."""
    pixels = [field.read()[0][:40, :50] for field in transfluor()]

    def write(folder: Path, places: list[tuple[int, int, int, int, int]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for number, (r, c, f, p, ch) in enumerate(places):
            name = f"r{r:02}c{c:02}f{f:02}p{p:02}-ch{ch}sk1fk1fl1.tiff"
            tifffile.imwrite(folder / name, pixels[number % len(pixels)])

    return write


PLACES = [(r, c, f, p, ch) for r, c in ((2, 3), (28, 48)) for f in (1, 2) for p in (1, 2, 3)
          for ch in (1, 2)]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "version", "folder"),
    [("Index.idx.xml", 5, "Images"), ("Index.xml", 7, ""), ("index.ref.xml", 5, "Images")],
)
def test_an_index_tells_all_of_its_fields(tmp_path, images, name, version, folder):
    images(tmp_path / "Images", PLACES)
    (tmp_path / folder / name).write_text(index(version, PLACES), encoding="utf-8")
    found = find_source(tmp_path)
    assert [(f.plate, f.well, f.site, f.z) for f in found.fields] == [
        ("screen 1", "AB48", "1", "2"), ("screen 1", "AB48", "2", "2"),
        ("screen 1", "B03", "1", "2"), ("screen 1", "B03", "2", "2"),
    ]  # fmt: skip
    field = open_field(found.fields[3])
    assert field.channel_names == ("Alexa & 488", "HOECHST 33342")
    assert field.pixel_size == pytest.approx(0.298)
    for channel, number in zip(field.read(), (2, 1), strict=True):
        file = tmp_path / "Images" / f"r02c03f02p02-ch{number}sk1fk1fl1.tiff"
        np.testing.assert_array_equal(channel, tifffile.imread(file))
    assert {left.reason for left in found.left_out} <= {
        "another z plane than the one taken", "not TIFF, PNG, JPEG or BMP"
    }  # fmt: skip
    assert len(find_source(tmp_path / folder / name, plane="all").fields) == 12
    # Names alone tell the same places, but neither channels nor pixel size.
    (tmp_path / folder / name).unlink()
    plain = find_source(tmp_path)
    assert [f.well for f in plain.fields] == [f.well for f in found.fields]


def test_files_that_are_listed_but_absent_are_not_imaged(tmp_path, images):
    places = [place for place in PLACES if place[3] == 1]
    images(tmp_path, places[:3] + places[4:6])
    images(tmp_path, [(9, 9, 9, 1, 1)])
    (tmp_path / "Index.idx.xml").write_text(index(5, places), encoding="utf-8")
    found = find_source(tmp_path)
    assert [f.name for f in found.fields] == ["AB48_1", "B03_1"]
    missed = {(left.field, left.path.name) for left in found.left_out if left.kind == "not imaged"}
    assert missed == {
        ("B03_2", "r02c03f02p01-ch2sk1fk1fl1.tiff"), ("B03_2", "r02c03f02p01-ch1sk1fk1fl1.tiff"),
        ("AB48_2", "r28c48f02p01-ch1sk1fk1fl1.tiff"),
        ("AB48_2", "r28c48f02p01-ch2sk1fk1fl1.tiff"),
    }  # fmt: skip
    assert [left.path.name for left in found.left_out if left.reason == "not in the index"] == [
        "r09c09f09p01-ch1sk1fk1fl1.tiff"
    ]
    (tmp_path / "Index.idx.xml").write_text(index(5, places, state="Failed"), encoding="utf-8")
    assert {left.kind for left in find_source(tmp_path).left_out} >= {"unreadable"}


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa">'
    '<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><EvaluationInputData><Images><Image>'
    "<URL>&b;</URL></Image></Images></EvaluationInputData>"
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (BOMB, "declares a document type or entities"),
        (
            BOMB.replace('"aaaaaaaaaa"', 'SYSTEM "file:///etc/hostname"'),
            "entities",
        ),
        ("<EvaluationInputData>" + "<a>" * 100, "deeper in each other"),
        (HEAD.format(v=5) + "<Images><Image><URL>" + "u" * 10**5, "longer than in any index"),
        (HEAD.format(v=5) + "<Images/></EvaluationInputData>", "names no images"),
        (index(5, PLACES).replace("<Row>2</Row>", "<Row>-2</Row>"), "lacks what tells its place"),
        (index(5, PLACES)[:-40], "unclosed token"),
        ("II*\0 no XML", "cannot be read as an index"),
    ],
)
def test_what_is_no_index_is_refused(tmp_path, text, sentence):
    (tmp_path / "Index.idx.xml").write_text(text, encoding="utf-8")
    assert sentence in refusal(find_indexed, tmp_path / "Index.idx.xml")


def test_no_name_leads_out_of_the_folder(tmp_path, images):
    images(tmp_path / "plate", PLACES[:2])
    (tmp_path / "secret.tiff").write_bytes((next((tmp_path / "plate").iterdir())).read_bytes())
    text = index(5, PLACES[:2]).replace("r02c03f01p01-ch2sk1fk1fl1.tiff", "../secret.tiff")
    (tmp_path / "plate" / "Index.xml").write_text(text, encoding="utf-8")
    found = find_source(tmp_path / "plate" / "Index.xml")
    assert all(f.parent == tmp_path / "plate" for named in found.fields for f in named.files)
    assert tmp_path / "plate" / "secret.tiff" in {left.path for left in found.left_out}


def test_a_long_index_can_be_given_up(tmp_path):
    (tmp_path / "Index.xml").write_text(index(5, PLACES * 50), encoding="utf-8")
    task = Task()
    task.cancel()
    with pytest.raises(Cancelled), task.active():
        find_indexed(tmp_path / "Index.xml")
