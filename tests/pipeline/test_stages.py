"""What is made of one field, here and in another process."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from napari_microdl.core.child_process import call_in_child
from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.field import Field
from napari_microdl.fields.intensity import IntensityScaling
from napari_microdl.pipeline.run import PipelineRun
from napari_microdl.pipeline.stages import (
    Labels,
    cells_of,
    measure_intensities,
    tokens_of,
    units_of_field,
    vectors_of,
    whiten,
)
from napari_microdl.tokens import TokenGrid
from napari_microdl.tokens.units import Units
from pipeline.small_run import small, small_model

# The position component is of all fields.
CONFIG = small(remove_position=False, scaling="plate", cache=False)


def all_of(
    field: Field, scaler: IntensityScaling, config: PipelineConfig
) -> tuple[Labels, TokenGrid, Units, np.ndarray]:
    """What a worker makes of one field."""
    labels = cells_of(field, config)
    grid = tokens_of(field, scaler, small_model(), config, field.channel_names)
    units = units_of_field(field, grid, labels, config)
    return labels, grid, units, vectors_of(grid, units, config)


def assert_same(one: Any, other: Any) -> None:
    labels, grid, units, vectors = one
    np.testing.assert_array_equal(labels, other[0])
    np.testing.assert_array_equal(grid.tokens, other[1].tokens)
    np.testing.assert_array_equal(units.weights.toarray(), other[2].weights.toarray())
    np.testing.assert_array_equal(vectors, other[3])


def test_one_field_gives_the_same_in_the_loop_and_in_workers(fields):
    run = PipelineRun(fields, CONFIG)
    labels, tokens, samples = run.cells(), run.tokens(), run.samples()
    model = small_model()
    scaler = measure_intensities(fields, CONFIG, model.spec, ("GFP",)).scaler
    of_field = [scaler.of_field(number) for number in range(4)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        mapped = list(pool.map(all_of, fields, of_field, [CONFIG] * 4))
    begin = np.searchsorted(samples.of_field(), np.arange(5))
    for number, found in enumerate(mapped):
        rows = slice(begin[number], begin[number + 1])
        expected = (
            labels[number],
            tokens.grids[number],
            samples.geometry[number],
            samples.vectors[rows],
        )
        assert_same(found, expected)
    assert_same(call_in_child(all_of, fields[2], of_field[2], CONFIG), mapped[2])


def test_where_the_unit_is_no_cell_none_are_found(fields):
    config = small(unit="crop")
    assert cells_of(fields[0], config) is None
    assert PipelineRun(fields, config).cells() == [None] * 4


def test_a_field_without_cells_has_no_samples(fields):
    scaler = IntensityScaling().fit(fields[:1])
    grid = tokens_of(fields[0], scaler, small_model(), CONFIG, ("GFP",))
    units = units_of_field(fields[0], grid, np.zeros((125, 130), int), CONFIG)
    assert len(units) == 0
    assert vectors_of(grid, units, CONFIG).shape == (0, grid.tokens.shape[-1])


def test_without_a_whitening_samples_stay(fields):
    run = PipelineRun(fields, small(whiten=False, unit="crop"))
    samples = run.samples()
    whitened = whiten(fields, run.config, samples)
    assert whitened.whitening is None
    assert whitened.vectors is samples.vectors
