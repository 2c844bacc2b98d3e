from __future__ import annotations

import base64
import dataclasses
import html
import io
import re

import numpy as np
import pytest
from PIL import Image

from core.refusals import refusal
from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.painting import window_at
from napari_microdl.concepts.pictures import shared_contrast
from napari_microdl.core.files import write_text
from napari_microdl.pipeline.run import PipelineResult
from napari_microdl.report.atlas import concept_atlas
from napari_microdl.report.cell_pictures import picture_edge, strongest_units
from report.browser import driven
from report.test_evaluation import cells, fields
from tasks import cancelling, recorded

# Fixtures are found by their names.
__all__ = ["cells", "fields"]
MARKUP = "<script>alert(1)</script> \"q\" 'q' $\\foo{$ &amp; \ud800"
# The last is half a character.
SHOWN = MARKUP.replace("\ud800", "\N{REPLACEMENT CHARACTER}")
NOTE = "seen <b>twice</b>\n</article><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def named(cells: PipelineResult) -> ConceptActivations:
    """The run with what people may write."""
    activations = cells.activations
    dictionary = dataclasses.replace(
        activations.dictionary,
        names=list(activations.dictionary.names),
        notes=list(activations.dictionary.notes),
        tags=list(activations.dictionary.tags),
    )
    best = int(activations.ranking.index[0])
    dictionary.names[best], dictionary.notes[best] = MARKUP, NOTE
    dictionary.tags[best] = "perturbed"
    return dataclasses.replace(activations, dictionary=dictionary)


@pytest.fixture(scope="module")
def page(named, fields) -> str:
    return concept_atlas(named, fields, title="Atlas of <us>")


def test_every_concept_has_a_card_with_its_cells_in_one_contrast(page, named, fields):
    ranking = named.ranking
    alive = ranking.index[~ranking["dead"]].tolist()
    ids = [int(n) for n in re.findall(r'<h2 id="concept-(\d+)">', page)]
    assert ids == alive
    pictures = [
        base64.b64decode(d) for d in re.findall(r'src="data:image/jpeg;base64,([^"]+)', page)
    ]
    assert len(pictures) == 2 * len(alive)
    best = alive[0]
    inside = (named.units["Metadata_condition"] == ranking["label"][best]).to_numpy()
    row = named.units.iloc[strongest_units(named, best, inside, 1)[0]]
    field, edge = fields[int(row["field"])], picture_edge(named)
    shades = shared_contrast(fields, 0).apply(field.read((0,))[0])
    expected = shades[window_at(row["y"], row["x"], edge, field.shape)]
    with Image.open(io.BytesIO(pictures[0])) as strip:
        assert strip.format == "JPEG"
        tile = strip.crop((0, 0, 96, 96)).resize((edge, edge), Image.Resampling.BICUBIC)
    # But for what JPEG leaves out.
    assert np.abs(np.asarray(tile, float) / 255 - expected).mean() < 0.05


def test_nothing_is_loaded_and_nothing_of_a_name_is_markup(page, tmp_path):
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<script") == 1
    assert html.escape(SHOWN, quote=False).replace("'", "&#39;").replace('"', "&#34;") in page
    write_text(page, tmp_path / "atlas.html")
    assert (tmp_path / "atlas.html").read_text(encoding="utf-8") == page


def test_cards_are_searched_and_sorted_in_a_browser(page, named, tmp_path):
    found = driven(
        page,
        """
        const box = document.getElementById("search");
        const all = selector => [...document.querySelectorAll(selector)];
        const names = () => all(".cards > li")
            .filter(card => card.getClientRects().length).map(card => card.dataset.name);
        const type = text => { box.value = text; box.dispatchEvent(new Event("input")); };
        const press = key => document.querySelector(`[data-key=${key}]`).click();
        const title = document.querySelector("h2");
        const answer = { first: names(), heading: title.firstChild.textContent.trim(),
            note: document.querySelector(".note").textContent,
            scripts: document.scripts.length, broken: all("[onerror]").length,
            loaded: performance.getEntriesByType("resource").map(r => r.name.slice(0, 5))
                .filter(name => name != "data:").length };
        for (const key of ["name", "difference", "rank"]) {
            press(key);
            answer[key] = names();
            answer[key + "_pressed"] = all("[aria-pressed=true]").map(b => b.dataset.key);
        }
        type("TWICE  Perturbed");
        answer.search = names();
        answer.told = document.querySelector("output").textContent;
        type("no such word");
        answer.none = names();
        type("");
        answer.all = names().length;
        // What a screen reader needs.
        answer.silent = all("img:not([alt]), [role=img]:not([aria-label])").length
            + all("input").filter(i => !i.labels.length).length;
        const ids = all("[id]").map(e => e.id);
        answer.twice = ids.length - new Set(ids).size;
        answer.plate = getComputedStyle(document.querySelector("defs .rim")).fill;
        return answer;
        """,
        tmp_path,
    )
    ranking = named.ranking
    names = [
        n.replace("\ud800", "\N{REPLACEMENT CHARACTER}") for n in ranking["name"][~ranking["dead"]]
    ]
    assert found["first"] == found["rank"] == names
    assert found["heading"] == SHOWN
    assert found["note"] == NOTE
    # Its own and the one that drives it.
    assert found["scripts"] == 2
    assert found["broken"] == found["loaded"] == found["silent"] == found["twice"] == 0
    others = sorted(names[1:], key=lambda name: int(name.split()[1]))
    assert found["name"] == [SHOWN, *others]
    assert found["difference"] != names
    assert sorted(found["difference"]) == sorted(names)
    assert [found[f"{key}_pressed"] for key in ("name", "difference")] == [["name"], ["difference"]]
    assert found["search"] == [SHOWN]
    assert found["told"] == f"1 of {len(names)} concepts"
    assert (found["none"], found["all"]) == ([], len(names))
    assert found["plate"] == "none"


def test_without_scripts_it_is_a_plain_page_and_colours_follow_the_reader(page, tmp_path):
    plain = re.sub("<script>.*?</script>", "", page, flags=re.DOTALL)
    seen = """const seen = e => e.getClientRects().length > 0;
        const style = getComputedStyle(document.body);
        return [[style.color, style.backgroundColor], seen(document.querySelector("form")),
            [...document.querySelectorAll("article")].filter(seen).length]"""
    found = [driven(plain, seen, tmp_path, f"preferredColorScheme={scheme}") for scheme in (0, 1)]
    # What needs a script is not there.
    assert [answer[1:] for answer in found] == 2 * [[False, page.count("<article")]]
    dark, light = (
        [sum(map(int, re.findall(r"\d+", colour))) for colour in answer[0]] for answer in found
    )
    assert dark[0] > 600 > 150 > dark[1]
    assert light[1] > 600 > 150 > light[0]


def test_what_does_not_fit_is_named(named, fields, page):
    names = named.ranking["name"][~named.ranking["dead"]].tolist()
    few = concept_atlas(named, fields, most=2)
    assert few.count("<article") == 2
    assert f"{len(names) - 2} concepts have no card here" in few
    assert f"<p>{', '.join(names[2:])}</p>" in few
    # A limit that holds the words of a page, and some of its cards.
    one = len(page) // page.count("<article")
    small = concept_atlas(named, fields, most_bytes=200_000 + 3 * one)
    assert 1 <= small.count("<article") <= 3
    assert len(small) < 200_000 + 3 * one


def test_without_wells_there_is_no_plate_and_it_is_said(named, fields):
    bare = [dataclasses.replace(field, well="") for field in fields]
    made = concept_atlas(named, bare, most=1)
    assert "There are no plate maps, as no well is known; fill in" in made
    assert 'class="plate"' not in made


def test_it_can_be_cancelled_and_tells_how_far_it_is(named, fields):
    with recorded() as steps:
        concept_atlas(named, fields, most=2)
    assert any(s.message.startswith("Drawing ") for s in steps)
    with cancelling(after=2):
        concept_atlas(named, fields)
    assert "images of this run are not open" in refusal(concept_atlas, named, [])
