from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from concepts.test_activations import make
from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.report.concept_figures import (
    draw_channels,
    draw_cosines,
    draw_map,
    draw_volcano,
    draw_wells,
    volcano_places,
)
from napari_microdl.report.figures import condition_colours


@pytest.fixture
def axes() -> Axes:
    return Figure().add_subplot()


@pytest.fixture
def activations() -> ConceptActivations:
    return make()[1]


def test_controls_are_grey_and_conditions_differ(activations):
    colours = condition_colours(activations)
    assert set(colours) == {("diffuse", True), ("puncta", False), ("blank", False)}
    assert len(set(colours.values())) == 3


def test_wells_are_ordered_by_their_mean(axes, activations):
    draw_wells(axes, activations, 2, "black")
    wells = activations.units["Metadata_Well"]
    means = {w: activations.alignment(2)[wells == w].mean() for w in set(wells)}
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [f"P {w}" for w in sorted(means, key=means.__getitem__, reverse=True)]
    drawn = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(drawn, sorted(means.values(), reverse=True), rtol=1e-5)


def test_of_many_wells_the_extremes_are_drawn(axes, activations):
    # A field without a well stands for itself.
    activations.units["Metadata_Well"] = None
    draw_wells(axes, activations, 1, "black", most=2)
    fields = activations.units["Metadata_Field"]
    means = {f: activations.alignment(1)[fields == f].mean() for f in set(fields)}
    labels = [text.get_text() for text in axes.get_yticklabels()]
    ranked = sorted(means, key=means.__getitem__, reverse=True)
    assert labels == [ranked[0], ranked[-1]]


def test_a_channel_without_contrast_has_no_bar_and_says_so(axes):
    draw_channels(axes, ["DNA", "empty"], np.array([-0.25, np.nan]), "black")
    assert [bar.get_width() for bar in axes.patches] == [-0.25, 0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["DNA (-0.25)", "empty (same everywhere)"]


def test_histograms_count_every_unit_once(axes, activations):
    draw_cosines(axes, activations, 3, "puncta", "black")
    heights = np.array([bar.get_height() for bar in axes.patches]).reshape(2, -1)
    np.testing.assert_allclose(heights.sum(axis=1), 1)
    edges = [bar.get_x() for bar in axes.patches[: heights.shape[1]]]
    inside = activations.units["Metadata_condition"].to_numpy() == "puncta"
    expected, _ = np.histogram(
        activations.alignment(3)[inside], [*edges, np.inf], weights=np.full(8, 1 / 8)
    )
    np.testing.assert_allclose(heights[1], expected, atol=1e-12)


@pytest.mark.parametrize("column", ["q_cells", "q_wells"])
def test_the_volcano_puts_effect_against_certainty(axes, activations, column):
    compared = activations.compare("diffuse", "puncta")
    compared["q_wells"] = compared["q_cells"]
    compared.loc[0, column] = 0
    names = activations.dictionary.names
    draw_volcano(axes, compared, names, 4, ("diffuse", "puncta"), "black", column)
    places = volcano_places(compared, column)
    assert places[0, 1] == 300
    np.testing.assert_allclose(places[1:, 1], -np.log10(compared[column][1:]))
    drawn = np.concatenate([c.get_offsets() for c in axes.collections[:3]])
    assert sorted(map(tuple, drawn)) == sorted(map(tuple, places))
    np.testing.assert_allclose(axes.collections[3].get_offsets()[0], places[4])
    named = {text.get_text() for text in axes.texts}
    sure = compared["q_wells"] < 0.05
    if column == "q_wells":
        assert named <= {names[i] for i in np.flatnonzero(sure)}
        assert names[0] in named
    # Cells of a well are not independent, so by cells nothing is called sure.
    n_sure = sum(sure) if column == "q_wells" else 0
    assert sum(len(c.get_offsets()) for c in axes.collections[1:3]) == n_sure
    assert len(axes.lines) == (2 if column == "q_wells" else 1)
    assert named


def test_the_map_shows_every_unit_and_rings_the_selected(axes, activations):
    places = np.random.default_rng(0).random((16, 2)).astype(np.float32)
    draw_map(axes, activations, places, np.array([2, 9]), "black")
    *groups, rings = axes.collections
    drawn = np.concatenate([group.get_offsets() for group in groups])
    np.testing.assert_allclose(sorted(map(tuple, drawn)), sorted(map(tuple, places)))
    np.testing.assert_allclose(rings.get_offsets(), places[[2, 9]])


def test_of_very_many_units_a_part_is_drawn(axes, activations):
    places = np.zeros((16, 2), np.float32)
    draw_map(axes, activations, places, np.empty(0, int), "black", most=4)
    assert 0 < sum(len(c.get_offsets()) for c in axes.collections) < 16
