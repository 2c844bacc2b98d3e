from __future__ import annotations

import base64
import dataclasses
import io
import re
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from napari_microdl.concepts.painting import unit_window
from napari_microdl.fields.field import Field
from napari_microdl.pipeline.run import PipelineResult
from napari_microdl.report import EvaluationReport, evaluate
from napari_microdl.report.evaluation_figures import (
    draw_reconstruction,
    pictures,
    separation_figure,
)
from napari_microdl.report.figures import grey
from napari_microdl.report.html import html_report
from report.test_evaluation import FEW, cells, fields, six_fields
from tasks import recorded

# Fixtures are found by their names.
__all__ = ["cells", "fields"]
_PICTURE = re.compile(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)">')


@pytest.fixture(scope="module")
def report(cells: PipelineResult, fields: list[Field]) -> EvaluationReport:
    return evaluate(cells.activations, FEW, fields=fields, cells=cells.labels)


def test_the_page_holds_all_it_needs_and_no_markup_of_labels():
    activations = six_fields()
    activations.units["Metadata_kind"] = np.where(
        activations.units["Metadata_control"], "$a & <b>", "$c$ <script>"
    )
    choices = FEW.replace(labels="kind")
    report = evaluate(activations, choices)
    page = html_report(report, "cell", "A <title>")
    assert page.count("<svg") == 2
    assert page.count("<table>") == 5
    assert "<script" not in page
    assert "<td>$a &amp; &lt;b&gt;</td>" in page
    assert "A &lt;title&gt;" in page
    assert "src=" not in page
    assert "http" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    # What every number means is said twice: on hovering and below.
    for heading in ("Selectivity", "AUC", "By luck"):
        assert re.search(rf'<th title="[^"]+">{heading}</th>', page)
        assert f"<li>{heading}: " in page
    report.batches = report.batches * 20
    assert f"{len(report.batches) - 50} more rows" in html_report(report)


def test_pictures_are_inside_and_small(cells, fields, report):
    with recorded() as steps:
        drawn = pictures(report, cells.activations, fields)
    page = html_report(report, "cell", pictures=drawn)
    best = {row["concept"] for row in report.labels}
    assert len(steps) == len(best)
    found = _PICTURE.findall(page)
    assert len(found) == 2 * len(best)
    assert page.count("<img") == page.count("src=") == len(found)
    for alt, data in found:
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.format == "PNG"
            assert 900 < picture.width < 1100
            assert len(picture.convert("RGB").getcolors(10_000)) > 50
        assert "best for" in alt
    assert len(page) < 400_000 * len(best)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures as they are saved."""
    figures, save = [], Figure.savefig

    def keep(figure: Figure, *where: Any, **how: Any) -> None:
        figures.append(figure)
        save(figure, *where, **how)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_the_most_selective_concepts_come_first_and_once(cells, fields, report, drawn):
    rows = [
        {"label": "weak", "concept": 1, "selectivity": 0.1},
        {"label": "strong", "concept": 3, "selectivity": 0.9},
        {"label": "medium", "concept": 1, "selectivity": 0.5},
        {"label": "none", "concept": 2, "selectivity": 0.0},
    ]
    of_rows = dataclasses.replace(report, labels=rows)
    found = pictures(of_rows, cells.activations, fields, most=2)
    assert [p.concept for p in found] == [3, 1]
    assert found[1].heading == "concept 1, best for 'medium', 'weak'"
    assert len(drawn) == 4
    # The heatmap is that of the field with the most aligned cell.
    activations = cells.activations
    number = int(activations.units["field"][activations.top_units(3, 1)[0]])
    image, bars, cosines = drawn[1].axes[:3]
    assert fields[number].name in image.get_title()
    assert image.images[1].get_clim() == (-3, 3)
    assert len(bars.patches) == 1
    names = [text.get_text().split("\n")[0] for text in cosines.get_yticklabels()]
    assert names == ["diffuse (control)", "puncta"]


def test_the_gallery_is_in_the_channel_that_the_heatmap_follows(cells, fields, report, drawn):
    names = ("dull", "GFP")
    dull = [
        dataclasses.replace(f, data=np.concatenate([f.data * 0, f.data]), channel_names=names)
        for f in fields
    ]
    found = pictures(report, cells.activations, dull)[0]
    row = int(cells.activations.top_units(found.concept, 1)[0])
    number, window = unit_window(cells.activations, row)
    shown = drawn[0].axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, grey(fields[number])[window])
    assert "in channel GFP" in found.caption
    bars = drawn[1].axes[1]
    assert [t.get_text().split(" (")[0] for t in bars.get_yticklabels()] == ["dull", "GFP"]


def test_the_curve_is_that_of_the_rows():
    axes = Figure().subplots()
    rows = [{"k": 1, "cosine": 0.5, "r2": None}, {"k": 4, "cosine": 0.8, "r2": 0.6}]
    draw_reconstruction(axes, rows)
    curves = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert curves == {"cosine": [[1, 0.5], [4, 0.8]], "share explained": [[4, 0.6]]}
    assert list(axes.get_xticks()) == [1, 4]


def test_of_many_labels_twelve_are_drawn():
    row = {"name": "$x", "concept": 3, "auc": None}
    row |= {"edges": [0, 0.5, 1], "label": [1, 0], "others": [0, 1]}
    figure = separation_figure([row] * 14)
    assert sum(axes.axison for axes in figure.axes) == 12
    # As matplotlib is told that a dollar is no formula.
    assert figure.axes[0].get_title() == r"\$x: concept 3"
