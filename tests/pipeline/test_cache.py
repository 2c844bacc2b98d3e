"""Stages of a run, cache from one run to the next."""

from __future__ import annotations

import dataclasses
from copy import copy
from typing import Any

import dask.array as da
import numpy as np
import pytest

from napari_microdl.core.config import PipelineConfig, SegmentationConfig
from napari_microdl.core.task import Progress
from napari_microdl.fields.field import Field
from napari_microdl.fields.segmentation import segment_cells
from napari_microdl.pipeline.cache import StageCache, stage_settings, weights_files
from napari_microdl.pipeline.run import PipelineResult, PipelineRun, run_pipeline
from pipeline.small_run import SMALL, assert_same_codes, small
from tasks import cancelled_by, recorded

# What a run reports when a stage does its work.
WORK = {
    "tokens": "Reading patches of",
    "cells": "Finding cells in",
    "samples": "Averaging patches in",
    "whitening": "Whitening on",
    "dictionary": "Fitting the dictionary",
}


@pytest.fixture(scope="module")
def first(fields: list[Field]) -> tuple[StageCache, PipelineResult]:
    cache = StageCache()
    worked, result = run(fields, SMALL, cache)
    assert worked == set(WORK)
    return cache, result


@pytest.fixture
def cache(first: tuple[StageCache, PipelineResult]) -> StageCache:
    """What a run left, each test with its own."""
    return copy(first[0])


def run(
    fields: list[Field], config: PipelineConfig, cache: StageCache, dictionary: Any = None
) -> tuple[set[str], PipelineResult]:
    """A run, and which stages worked in it."""
    with recorded() as heard:
        result = run_pipeline(fields, config, dictionary=dictionary, stages=cache)
    return worked_in(heard), result


def worked_in(heard: list[Progress]) -> set[str]:
    return {s for s, words in WORK.items() if any(p.message.startswith(words) for p in heard)}


def assert_same(one: PipelineResult, other: PipelineResult) -> None:
    assert_same_codes(one, other)
    np.testing.assert_array_equal(one.activations.vectors, other.activations.vectors)
    np.testing.assert_array_equal(
        one.dictionary.icfl.components_, other.dictionary.icfl.components_
    )
    for mine, theirs in zip(one.activations.grids, other.activations.grids, strict=True):
        np.testing.assert_array_equal(mine.tokens, theirs.tokens)
    reports = [run.report | {"seconds": {}} for run in (one, other)]
    assert reports[0] == reports[1]
    assert one.dictionary.provenance == other.dictionary.provenance
    assert one.warnings == other.warnings


FROM_SAMPLES = {"samples", "whitening", "dictionary"}
FROM_TOKENS = {"tokens", *FROM_SAMPLES}
LARGER_CELLS = {"segmentation": SegmentationConfig(diameter=25)}
CHANGES = [
    ({}, set()),
    ({"n_atoms": 12}, {"dictionary"}),
    ({"positive_code": True}, {"dictionary"}),
    ({"shrinkage": 2.0}, {"whitening", "dictionary"}),
    ({"whiten": False}, {"dictionary"}),
    (LARGER_CELLS, {"cells", *FROM_SAMPLES}),
    ({"unit": "crop"}, FROM_SAMPLES),
    ({"layer": 3}, FROM_TOKENS),
    ({"halo": 1}, FROM_TOKENS),
    ({"scaling": "plate"}, FROM_TOKENS),
    ({"remove_position": False}, FROM_TOKENS),
    ({"random_state": 4}, FROM_TOKENS),
]


@pytest.mark.parametrize(("changes", "expected"), CHANGES, ids=lambda x: "-".join(sorted(x)) or "0")
def test_a_changed_setting_reruns_its_stage_and_those_behind_it(fields, cache, changes, expected):
    worked, result = run(fields, small(**changes), cache)
    assert worked == expected
    assert_same(result, run_pipeline(fields, small(**changes)))


def test_changed_images_and_labels_are_noticed_even_in_place(fields):
    cache = StageCache()
    labels = [segment_cells(f.read()[0]).astype(np.int64) for f in fields]
    own = [
        dataclasses.replace(f, data=f.data.copy(), labels=cells)
        for f, cells in zip(fields, labels, strict=True)
    ]
    run(own, SMALL, cache)
    assert run(own, SMALL, cache)[0] == set()
    labels[1][:20, :20] = 500
    worked, result = run(own, SMALL, cache)
    assert worked == {"cells", *FROM_SAMPLES}
    assert 500 in result.activations.units["label"].to_numpy()
    own[2].data[0, 60:70, 60:70] = 255
    worked, result = run(own, SMALL, cache)
    # The cells are the user's, whatever the image shows.
    assert worked == FROM_TOKENS
    assert_same(result, run_pipeline(own, SMALL))


def test_a_seed_is_the_weights_of_no_model_but_an_untrained_one(fields):
    cache = StageCache()
    run(fields[1:3], small(model="builtin"), cache)
    assert run(fields[1:3], small(model="builtin", random_state=4), cache)[0] == {"dictionary"}


def test_conditions_and_names_are_those_of_the_last_run(fields, cache):
    _, before = run(fields, SMALL, cache)
    before.dictionary.names[3] = "spots"
    other = [dataclasses.replace(f, name=f"n{i}", condition="x") for i, f in enumerate(fields)]
    worked, result = run(other, SMALL, cache)
    assert worked == set()
    assert set(result.activations.units["Metadata_condition"]) == {"x"}
    assert [entry["field"] for entry in result.report["intensity"]] == ["n0", "n1", "n2", "n3"]
    # A person's words belong to the concepts, which are the same.
    assert result.dictionary.names[3] == "spots"
    assert result.dictionary.provenance["fields"] != before.dictionary.provenance["fields"]
    controls = [dataclasses.replace(f, is_control=not f.is_control) for f in fields]
    assert run(controls, SMALL, cache)[0] == {"whitening", "dictionary"}


def test_lazy_images_are_told_apart_by_name(fields):
    cache = StageCache()
    lazy = [dataclasses.replace(f, data=da.from_array(f.data, chunks=(1, 50, 50))) for f in fields]
    run(lazy, SMALL, cache)
    again = [dataclasses.replace(f, data=da.from_array(f.data, chunks=(1, 50, 50))) for f in fields]
    assert run(again, SMALL, cache)[0] == set()
    again[0] = dataclasses.replace(again[0], data=again[0].data[:, ::-1])
    assert run(again, SMALL, cache)[0] == set(WORK)


def test_a_dictionary_that_is_applied_takes_nothing_of_a_fit_but_what_is_the_same(fields, cache):
    _, fitted = run(fields, SMALL, cache)
    worked, applied = run(fields, SMALL, cache, fitted.dictionary)
    assert worked == {"tokens", "samples"}
    assert_same_codes(applied, fitted)
    assert run(fields, SMALL, cache, fitted.dictionary)[0] == set()
    other = run_pipeline(fields, small(random_state=3, n_atoms=5, remove_position=False))
    assert run(fields, SMALL, cache, other.dictionary)[0] == {"tokens", "samples"}


@pytest.mark.parametrize(
    ("stage", "finished"),
    [
        ("tokens", {"cells"}),
        ("whitening", {"cells", "tokens", "samples"}),
        ("dictionary", {"cells", "tokens", "samples", "whitening"}),
    ],
)
def test_a_cancelled_run_leaves_the_stages_that_it_finished(fields, first, stage, finished):
    cache = StageCache()
    run_of = PipelineRun(fields, SMALL, stages=cache)
    with cancelled_by(lambda progress: progress.message.startswith(WORK[stage])):
        run_of.result()
    assert run_of.finished == finished
    worked, result = run(fields, SMALL, cache)
    assert worked == set(WORK) - finished
    assert_same(result, first[1])


def test_a_cancelled_run_changes_nothing_of_the_last_result(fields, cache):
    _, shown = run(fields, SMALL, cache)
    before = dict(shown.dictionary.provenance), dict(shown.dictionary.figures)
    other = [dataclasses.replace(f, condition="x") for f in fields]
    with cancelled_by(lambda progress: progress.message.startswith("Ranking concepts")):
        run_pipeline(other, SMALL, stages=cache)
    assert (shown.dictionary.provenance, shown.dictionary.figures) == before


def test_each_stage_alone_does_no_more_than_it_needs(fields, first):
    cache = StageCache()

    def alone(name: str) -> tuple[set[str], Any]:
        with recorded() as heard:
            result = getattr(PipelineRun(fields, SMALL, stages=cache), name)()
        return worked_in(heard), result

    worked, tokens = alone("tokens")
    assert worked == {"tokens"}
    assert tokens.device == "cpu"
    assert len(tokens.limits) == 4
    worked, labels = alone("cells")
    assert worked == {"cells"}
    np.testing.assert_array_equal(labels[2], segment_cells(fields[2].read()[0]))
    worked, whitened = alone("whitening")
    assert worked == {"samples", "whitening"}
    worked, result = run(fields, SMALL, cache)
    assert worked == {"dictionary"}
    np.testing.assert_array_equal(result.activations.vectors, whitened.vectors)
    assert_same(result, first[1])


def test_settings_of_stages_are_the_groups_that_decide_them():
    before = stage_settings(SMALL)
    for changes, stages in (
        ({"device": "cuda"}, {"tokens"}),
        ({"batch_size": 3}, {"tokens"}),
        ({"precision": "bf16"}, {"tokens"}),
        ({"crop_size": 33}, {"samples"}),
        ({"unit": "crop"}, {"cells", "samples"}),
        (LARGER_CELLS, {"cells"}),
        ({"n_components": 3}, {"whitening"}),
        ({"random_state": 4}, {"dictionary"}),
        ({"cache": False}, set()),
    ):
        now = stage_settings(small(**changes))
        assert {stage for stage in now if now[stage] != before[stage]} == stages
    for config, options in ((SMALL, {"own_cells": True}), (small(unit="crop"), {})):
        other = config.with_settings(**LARGER_CELLS)
        assert stage_settings(config, **options) == stage_settings(other, **options)


def test_tokens_are_not_read_from_disk_again(fields, cache, own_cache):
    # The folder of a test is its own, and empty.
    run(fields, small(n_atoms=9), cache)
    assert not list(own_cache.rglob("*.tokens"))


def test_weights_that_were_written_anew_are_noticed(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"one")
    before = weights_files(f"dinov2-s@{path}")
    assert before == weights_files(f"dinov2-s@{path}")
    assert before == weights_files(str(path))
    path.write_bytes(b"other")
    assert weights_files(str(path)) != before
    assert weights_files("builtin") is None
    # A description stays as it is when the weights beside it are replaced, and the other way round.
    description = tmp_path / "weights.toml"
    description.write_text("[vit]")
    before = [weights_files(str(description)), weights_files(str(path))]
    path.write_bytes(b"others")
    assert weights_files(str(description)) != before[0]
    before = [weights_files(str(description)), weights_files(str(path))]
    description.write_text("[vit]\ndepth = 3")
    assert weights_files(str(path)) != before[1]


def test_large_samples_are_averaged_anew(fields):
    cache = StageCache(most_bytes=0)
    run(fields, SMALL, cache)
    worked, result = run(fields, small(shrinkage=2.0), cache)
    assert worked == FROM_SAMPLES
    assert_same(result, run_pipeline(fields, small(shrinkage=2.0)))
