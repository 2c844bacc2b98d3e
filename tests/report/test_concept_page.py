from __future__ import annotations

import dataclasses
import re
from itertools import combinations
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from core.refusals import refusal
from napari_microdl.concepts.concept_set import choose_concepts
from napari_microdl.concepts.pictures import shared_contrast
from napari_microdl.core.pictures import write_figure
from napari_microdl.pipeline.run import run_pipeline
from napari_microdl.report.cell_pictures import outlines_in, typical_units
from napari_microdl.report.concept_page import concept_page, fitted, round_length, wrapped
from napari_microdl.report.text import figure_text
from pipeline.small_run import small
from report.test_atlas import MARKUP, SHOWN, named
from report.test_evaluation import cells, fields

# Fixtures are found by their names.
__all__ = ["cells", "fields", "named"]


def texts_of(figure: Figure) -> list[Text]:
    """Words that are drawn; numbers beyond the ends of an axis are there and are not."""
    drawn, draw = [], Text.draw

    def keep(text: Text, *args: Any, **options: Any) -> None:
        drawn.append(text)
        draw(text, *args, **options)

    with patch.object(Text, "draw", keep):
        FigureCanvasAgg(figure).draw()
    return [text for text in drawn if text.get_text().strip()]


def nothing_overlaps(figure: Figure) -> None:
    """Words lie on the page and on no other words."""
    figure.dpi = 150
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts_of(figure)]
    page = figure.bbox
    for text, box in boxes:
        assert min(box.x0, box.y0, page.x1 - box.x1, page.y1 - box.y1) >= 0, text
    for (one, first), (other, second) in combinations(boxes, 2):
        width = min(first.x1, second.x1) - max(first.x0, second.x0)
        height = min(first.y1, second.y1) - max(first.y0, second.y0)
        # Descenders of one line touch the next.
        assert width < 1 or height < 2.5, (one, other)


@pytest.mark.parametrize("name", [MARKUP, "W" * 300])
def test_any_name_is_text_that_fits_the_page(named, fields, cells, tmp_path, name):
    best = int(named.ranking.index[0])
    dictionary = dataclasses.replace(named.dictionary, names=list(named.dictionary.names))
    dictionary.names[best] = name
    activations = dataclasses.replace(named, dictionary=dictionary)
    figure = concept_page(activations, fields, best, cells.labels, pixel_size=0.65)
    nothing_overlaps(figure)
    heading = figure.texts[0].get_text()
    assert heading == figure_text(name) or heading.endswith("…")
    if name == MARKUP:
        assert figure_text(SHOWN) == heading
        for suffix, begins in (("png", b"\x89PNG"), ("svg", b"<?xm"), ("pdf", b"%PDF")):
            path = write_figure(figure, tmp_path / f"page.{suffix}", 100)
            assert path.read_bytes()[:4] == begins
        assert imread(tmp_path / "page.png").shape == (900, 720, 4)
        # Letters of a PDF can be edited.
        assert b"/CIDFontType2" in (tmp_path / "page.pdf").read_bytes()


def test_both_fields_are_in_one_contrast_and_at_one_size(named, fields, cells):
    best = int(named.ranking.index[0])
    figure = concept_page(named, fields, best, cells.labels, pixel_size=2.0)
    treated, control, *tiles = [axes for axes in figure.axes if axes.images]
    contrast = shared_contrast(fields, 0)
    sizes = [axes.get_position().size for axes in (treated, control)]
    np.testing.assert_allclose(*sizes)
    shapes = [axes.images[0].get_array().shape for axes in (treated, control)]
    assert shapes[0] == shapes[1]
    assert len({axes.images[0].get_array().shape for axes in tiles}) == 1
    for axes, is_control in ((treated, False), (control, True)):
        shown = axes.images[0].get_array()
        assert axes.images[0].get_clim() == (0, 1)
        wholes = [contrast.apply(f.read((0,))[0]) for f in fields if f.is_control is is_control]
        windows = [np.lib.stride_tricks.sliding_window_view(w, shown.shape) for w in wholes]
        assert any((w == shown).all(axis=(2, 3)).any() for w in windows)
    # A bar of the length that it says.
    (bar,) = [p for p in treated.patches if isinstance(p, Rectangle)]
    (said,) = [t.get_text() for t in treated.texts]
    assert said == f"{bar.get_width() * 2:g} µm"
    # Wells are points: all of them.
    wells = next(axes for axes in figure.axes if axes.get_xlabel() == "cells with the concept (%)")
    assert [len(points.get_offsets()) for points in wells.collections] == [2, 2]
    shares = {}
    active = named.activation(best) > 0
    for well in named.units["Metadata_Well"].unique():
        shares[well] = 100 * active[(named.units["Metadata_Well"] == well).to_numpy()].mean()
    drawn = np.concatenate([points.get_offsets()[:, 0] for points in wells.collections])
    np.testing.assert_allclose(sorted(drawn), sorted(shares.values()))


def test_outlines_go_around_every_cell_of_the_window(named, cells):
    labels, window = cells.labels[0], (slice(10, 150), slice(20, 140))
    found = outlines_in(named, labels, 0, window)
    ids = named.units["label"].to_numpy()
    assert {int(ids[row]) for row, _ in found} == set(np.unique(labels[window])) - {0}
    row, line = found[0]
    mask = labels[window] == ids[row]
    y, x = np.nonzero(mask)
    others = np.concatenate([points for r, points in found if r == row])
    assert others[:, 0].min() >= x.min() - 0.5
    assert others[:, 0].max() <= x.max() + 0.5
    assert others[:, 1].max() == pytest.approx(y.max() + 0.5)
    assert len(line) > 4


def test_crops_concept_sets_and_runs_without_controls_have_pages_too(fields):
    result = run_pipeline(fields, small(unit="crop"))
    activations = result.activations
    label = str(activations.ranking["label"].iloc[0])
    for concept in (0, choose_concepts(activations, label)):
        nothing_overlaps(concept_page(activations, fields, concept, result.labels))
    activations.units["Metadata_condition"] = "one"
    bare = [dataclasses.replace(f, condition="one", is_control=False) for f in fields]
    activations.units["Metadata_control"] = False
    activations = activations.of_fields(range(4))
    figure = concept_page(activations, bare, 0, result.labels)
    nothing_overlaps(figure)
    assert not any("µm" in text.get_text() for text in texts_of(figure))


def test_what_cannot_be_drawn_is_refused(named, fields, cells, tmp_path):
    assert "images of this run are not open" in refusal(concept_page, named, [], 0, [])
    none = named.of_fields([])
    assert "There is no cell in these images" in refusal(concept_page, none, fields, 0, [])
    assert "is no picture" in refusal(write_figure, Figure(), tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_typical_units_are_of_usual_size_and_in_the_middle(named):
    rows = named.units["Metadata_control"].to_numpy()
    found = typical_units(named, 1, rows, 3)
    area = named.units["area"].to_numpy()
    low, high = np.quantile(area[rows], [0.25, 0.75])
    assert ((low <= area[found]) & (area[found] <= high)).all()
    usual = rows & (low <= area) & (area <= high)
    away = np.abs(named.alignment(1) - np.median(named.alignment(1)[usual]))
    np.testing.assert_allclose(away[found], np.sort(away[usual])[:3])


@given(st.floats(1e-3, 1e5))
def test_a_scale_bar_is_a_round_length_of_at_least_two_fifths(most):
    length = round_length(most)
    assert 0.4 * most < length <= most * (1 + 1e-6)
    assert re.fullmatch(r"[125]0*e[+-]\d+", f"{length:.0e}")


@given(st.text(st.characters(max_codepoint=0x24F), max_size=120), st.floats(0.5, 7))
def test_lines_are_as_wide_as_they_may_be_at_most(text, width):
    plain = wrapped(text, 8, width)
    assert all(fitted(line, 8, width) == line for line in plain)
    whole = " ".join(plain)
    if "…" not in whole:
        assert whole == " ".join(fitted(text, 8, 1e6).split())
