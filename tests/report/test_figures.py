from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from napari_microdl.concepts.painting import (
    BoxPainter,
    LabelPainter,
    grid_to_pixels,
    outlines_of,
    unit_window,
    window_of,
)
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.pipeline.run import PipelineResult, run_pipeline
from napari_microdl.report.figures import (
    condition_groups,
    distribution_figure,
    draw_layers,
    gallery_figure,
    grey,
    heatmap_figure,
    unit_figure,
)
from pipeline.small_run import small

CONFIG = small(layer=1, n_iterations=1, crop_stride=32)


@pytest.fixture(scope="module")
def fields() -> list[Field]:
    """A corner of one well of each kind."""
    sample = transfluor()
    return [dataclasses.replace(sample[i], data=sample[i].data[:, :128, :144]) for i in (5, 0, 1)]


@pytest.fixture(scope="module")
def cells(fields: list[Field]) -> PipelineResult:
    return run_pipeline(fields, CONFIG)


@pytest.fixture(scope="module")
def crops(fields: list[Field]) -> PipelineResult:
    return run_pipeline(fields, CONFIG.with_settings(unit="crop"))


def pixels_of(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def assert_drawn(figure: Figure) -> None:
    colours = pixels_of(figure).astype(int) @ [65536, 256, 1]
    assert len(np.unique(colours)) > 50


def test_images_are_shown_between_zero_and_one():
    rng = np.random.default_rng(0)
    image = rng.gamma(2, 100, (2, 30, 30)).astype(np.uint16)
    shown = grey(Field(data=image, channel_names=("a", "b"), name="f"), 1)
    low, high = np.percentile(image[1], [0.5, 99.8])
    expected = np.clip((image[1] - low) / (high - low), 0, 1) ** 0.6
    np.testing.assert_allclose(shown, expected, atol=1e-5)
    constant = grey(Field(data=np.ones((1, 4, 4)), channel_names=("a",), name="f"))
    assert np.isfinite(constant).all()


def test_heatmaps_are_those_of_the_activations_on_one_scale(cells, fields):
    shown = [0, 2]
    figure = heatmap_figure(cells.activations, fields, shown, 3)
    assert_drawn(figure)
    above, below = np.array(figure.axes[:4]).reshape(2, 2)
    for column, index in enumerate(shown):
        np.testing.assert_array_equal(above[column].images[0].get_array(), grey(fields[index]))
        drawn = below[column].images[1]
        expected = grid_to_pixels(cells.activations.heat.compared(index, 3), 8, (128, 144))
        # What is usual in controls is not drawn.
        unusual = np.abs(expected) >= 1
        np.testing.assert_array_equal(np.ma.getmaskarray(drawn.get_array()), ~unusual)
        np.testing.assert_array_equal(drawn.get_array()[unusual], expected[unusual])
        assert drawn.get_clim() == (-3, 3)
        state = "control" if fields[index].is_control else fields[index].condition
        assert above[column].get_title() == f"{fields[index].name} ({state})"
    label = "concept 3, 1 is unusual in controls"
    assert any(label in axes.get_ylabel() for axes in figure.axes)


def test_units_are_coloured_by_their_activation(cells, crops, fields):
    for result in (cells, crops):
        activations = result.activations
        concept = int(activations.ranking.index[0])
        figure = unit_figure(activations, fields, [1], concept, result.labels)
        assert_drawn(figure)
        drawn = figure.axes[1].images[1]
        labels, values = activations.unit_values(1, concept)
        units = activations.geometry[1]
        np.testing.assert_array_equal(labels, units.ids)
        painter = (
            LabelPainter(result.labels[1], units.ids)
            if result is cells
            else BoxPainter(units.boxes, (128, 144))
        )
        expected = painter.paint(values)
        np.testing.assert_array_equal(np.ma.filled(drawn.get_array(), np.nan), expected)
        assert drawn.get_clim() == (0, activations.activation(concept).max())


def test_a_concept_that_is_active_nowhere_is_drawn(cells, fields):
    activations = dataclasses.replace(
        cells.activations, codes=cells.activations.codes * np.float32(0)
    )
    assert_drawn(unit_figure(activations, fields, [0, 1], 0, cells.labels))
    assert_drawn(distribution_figure(activations, [0], "cell"))


def test_the_gallery_shows_the_extreme_units(crops, fields):
    activations = crops.activations
    figure = gallery_figure(activations, fields, [2, 0], n=4)
    assert_drawn(figure)
    axes = np.array(figure.axes).reshape(4, 4)
    for line, (concept, sign) in enumerate(((2, 1), (2, -1), (0, 1), (0, -1))):
        rows = activations.top_units(concept, 4, sign)
        for column, row in enumerate(rows):
            unit = activations.units.iloc[row]
            field = fields[unit["field"]]
            box = activations.geometry[unit["field"]].boxes[unit["label"] - 1]
            shown = axes[line, column].images[0].get_array()
            np.testing.assert_array_equal(shown, grey(field)[window_of(box, field.shape)])
            state = "control" if field.is_control else field.condition
            cosine = activations.alignment(concept)[row]
            assert axes[line, column].get_title() == f"{state}\n{cosine:+.2f}"
            drawn = np.array(axes[line, column].collections[0].get_segments()).reshape(-1, 4)
            expected = outlines_of(activations, row, concept, sign) - 0.5
            np.testing.assert_allclose(drawn, expected)


def test_the_gallery_shows_the_most_aligned_patches_of_the_same_fields(crops, fields):
    activations = crops.activations
    figure = gallery_figure(activations, fields, [2], n=3, patches=True)
    assert_drawn(figure)
    axes = np.array(figure.axes).reshape(3, 3)
    shown_in = {int(activations.units["field"][row]) for row in activations.top_units(2, 3)}
    table = activations.top_patches(2, 3, fields=shown_in)
    for axis, patch in zip(axes[2], table.itertuples(), strict=True):
        top, left = 8 * patch.row, 8 * patch.column
        shape = fields[patch.field].shape
        rows, columns = window_of(np.array([top, left, top + 8, left + 8]), shape)
        shown = axis.images[0].get_array()
        np.testing.assert_array_equal(shown, grey(fields[patch.field])[rows, columns])
        corners = np.array(axis.collections[0].get_segments()).reshape(-1, 2) + 0.5
        np.testing.assert_allclose(corners.min(0), [left - columns.start, top - rows.start])
        np.testing.assert_allclose(corners.max(0) - corners.min(0), 8)
        assert axis.get_title().endswith(f"{patch.cosine:+.2f}")


def test_the_gallery_shows_the_channel_asked_for(crops, fields):
    two = [
        dataclasses.replace(
            f, data=np.concatenate([f.data, f.data[:, ::-1]]), channel_names=("a", "b")
        )
        for f in fields
    ]
    figure = gallery_figure(crops.activations, two, [0], n=1, channel=1)
    field, window = unit_window(crops.activations, int(crops.activations.top_units(0, 1)[0]))
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, grey(two[field], 1)[window])
    assert (shown != grey(two[field], 0)[window]).any()


def test_a_gallery_with_fewer_units_than_places(cells, fields):
    n = len(cells.activations.units) + 2
    figure = gallery_figure(cells.activations, fields, [0], n=n)
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(shown) == 2 * (n - 2)


def test_conditions_come_controls_first(cells):
    groups = condition_groups(cells.activations)
    assert [(condition, control) for condition, control, _ in groups] == [
        ("diffuse", True),
        ("puncta", False),
    ]
    table = cells.activations.units
    for condition, control, rows in groups:
        np.testing.assert_array_equal(
            rows,
            (table["Metadata_condition"] == condition) & (table["Metadata_control"] == control),
        )


def test_the_distribution_counts_units_of_every_condition(crops):
    figure = distribution_figure(crops.activations, [1, 4], "crop")
    assert_drawn(figure)
    assert [axes.get_title() for axes in figure.axes] == ["concept 1", "concept 4"]
    table = crops.activations.units
    on = crops.activations.activation(4) > 0
    names = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    for name, control in zip(names, (True, False), strict=True):
        rows = table["Metadata_control"] == control
        title = "diffuse (control)" if control else "puncta"
        assert name == f"{title}\n{rows.sum()} crops, {on[rows].mean():.0%} active"


def test_the_same_result_gives_the_same_picture(crops):
    one, two = (pixels_of(distribution_figure(crops.activations, [0], "crop")) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_every_layer_is_on_the_curve_and_the_chosen_one_is_marked():
    table = pd.DataFrame(
        {
            "layer": [2, 4, 7],
            "auc": [0.6, 0.9, 0.8],
            "auc_spread": [0.1, 0.05, 0.02],
            "balanced_accuracy": [0.55, 0.8, 0.7],
            "balanced_accuracy_spread": [0.1, 0.05, 0.02],
        }
    )
    figure = Figure()
    axes = figure.subplots()
    draw_layers(axes, table, chosen=4)
    assert_drawn(figure)
    curves = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(curves["AUC"], table[["layer", "auc"]])
    np.testing.assert_allclose(curves["balanced accuracy"], table[["layer", "balanced_accuracy"]])
    assert set(curves["layer 4"][:, 0]) == {4}
    band = axes.collections[0].get_datalim(axes.transData)
    np.testing.assert_allclose([band.y0, band.y1], [0.5, 0.95], atol=1e-6)
    axes.clear()
    draw_layers(axes, table)
    assert "layer 4" not in {line.get_label() for line in axes.lines}
