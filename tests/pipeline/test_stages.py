"""Stages of a run, kept from one run to the next."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest

from napari_microdl.core.config import PipelineConfig, SegmentationConfig
from napari_microdl.core.stepping import run_through
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.segmentation import segment_cells
from napari_microdl.pipeline.run import (
    KeptStages,
    PipelineResult,
    Progress,
    StagedRun,
    run_pipeline,
)

SMALL = PipelineConfig.of(
    model="random-init",
    layer=2,
    n_atoms=8,
    n_iterations=2,
    atoms_per_iteration=2,
    max_steps=5,
    crop_size=32,
    crop_stride=16,
    batch_size=2,
    device="cpu",
    random_state=3,
)
# What a run reports when a stage does its work.
WORK = {
    "read": "Reading tokens of",
    "segment": "Finding cells in",
    "pool": "Averaging tokens in",
    "whiten": "Whitening on",
    "learn": "Fitting the dictionary",
}


def small(**changes: Any) -> PipelineConfig:
    return SMALL.with_settings(**changes)


@pytest.fixture(scope="module")
def fields() -> list[Field]:
    sample = transfluor()
    return [
        dataclasses.replace(sample[i], data=sample[i].data[:, :125, :130].copy())
        for i in (0, 5, 1, 4)
    ]


@pytest.fixture(scope="module")
def first(fields: list[Field]) -> tuple[KeptStages, PipelineResult]:
    kept = KeptStages()
    worked, result = run(fields, SMALL, kept)
    assert worked == set(WORK)
    return kept, result


@pytest.fixture
def kept(first: tuple[KeptStages, PipelineResult]) -> KeptStages:
    """What a run left, each test with its own."""
    mine = KeptStages()
    mine._kept = dict(first[0]._kept)
    return mine


def run(
    fields: list[Field], config: PipelineConfig, kept: KeptStages, dictionary: Any = None
) -> tuple[set[str], PipelineResult]:
    """A run, and which stages worked in it."""
    heard: list[Progress] = []
    steps = StagedRun(fields, config, dictionary, kept=kept).result()
    result = run_through(steps, heard.append)
    worked = {
        stage for stage, words in WORK.items() if any(p.message.startswith(words) for p in heard)
    }
    return worked, result


def assert_same(one: PipelineResult, other: PipelineResult) -> None:
    np.testing.assert_array_equal(
        one.activations.codes.toarray(), other.activations.codes.toarray()
    )
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


CHANGES = [
    ({}, set()),
    ({"n_atoms": 12}, {"learn"}),
    ({"positive_code": True}, {"learn"}),
    ({"shrinkage": 2.0}, {"whiten", "learn"}),
    ({"whiten": False}, {"learn"}),
    ({"segmentation": SegmentationConfig(diameter=25)}, {"segment", "pool", "whiten", "learn"}),
    ({"unit": "crop"}, {"pool", "whiten", "learn"}),
    ({"layer": 3}, {"read", "pool", "whiten", "learn"}),
    ({"halo": 1}, {"read", "pool", "whiten", "learn"}),
    ({"scaling": "plate"}, {"read", "pool", "whiten", "learn"}),
    ({"remove_position": False}, {"read", "pool", "whiten", "learn"}),
    ({"random_state": 4}, {"read", "pool", "whiten", "learn"}),
]


@pytest.mark.parametrize(("changes", "expected"), CHANGES, ids=lambda x: "-".join(sorted(x)) or "0")
def test_a_changed_setting_reruns_its_stage_and_those_behind_it(
    fields: list[Field], kept: KeptStages, changes: dict[str, Any], expected: set[str]
):
    worked, result = run(fields, small(**changes), kept)
    assert worked == expected
    assert_same(result, run_pipeline(fields, small(**changes)))


def test_changed_images_and_labels_are_noticed_even_in_place(fields: list[Field]):
    kept = KeptStages()
    labels = [segment_cells(f.read()[0]).astype(np.int64) for f in fields]
    own = [
        dataclasses.replace(f, data=f.data.copy(), labels=cells)
        for f, cells in zip(fields, labels, strict=True)
    ]
    run(own, SMALL, kept)
    assert run(own, SMALL, kept)[0] == set()
    labels[1][:20, :20] = 500
    worked, result = run(own, SMALL, kept)
    assert worked == {"segment", "pool", "whiten", "learn"}
    assert 500 in result.activations.units["label"].to_numpy()
    own[2].data[0, 60:70, 60:70] = 255
    worked, result = run(own, SMALL, kept)
    # The cells are the user's, whatever the image shows.
    assert worked == {"read", "pool", "whiten", "learn"}
    assert_same(result, run_pipeline(own, SMALL))


def test_a_seed_is_the_weights_of_no_model_but_an_untrained_one(fields: list[Field]):
    kept = KeptStages()
    run(fields[1:3], small(model="builtin"), kept)
    assert run(fields[1:3], small(model="builtin", random_state=4), kept)[0] == {"learn"}


def test_conditions_and_names_are_those_of_the_last_run(fields: list[Field], kept: KeptStages):
    _, before = run(fields, SMALL, kept)
    before.dictionary.names[3] = "spots"
    other = [dataclasses.replace(f, name=f"n{i}", condition="x") for i, f in enumerate(fields)]
    worked, result = run(other, SMALL, kept)
    assert worked == set()
    assert set(result.activations.units["Metadata_condition"]) == {"x"}
    assert [entry["field"] for entry in result.report["intensity"]] == ["n0", "n1", "n2", "n3"]
    # A person's words belong to the concepts, which are the same.
    assert result.dictionary.names[3] == "spots"
    assert result.dictionary.provenance["fields"] != before.dictionary.provenance["fields"]
    controls = [dataclasses.replace(f, is_control=not f.is_control) for f in fields]
    assert run(controls, SMALL, kept)[0] == {"whiten", "learn"}


def test_lazy_images_are_told_apart_by_name(fields: list[Field]):
    kept = KeptStages()
    lazy = [dataclasses.replace(f, data=da.from_array(f.data, chunks=(1, 50, 50))) for f in fields]
    run(lazy, SMALL, kept)
    again = [dataclasses.replace(f, data=da.from_array(f.data, chunks=(1, 50, 50))) for f in fields]
    assert run(again, SMALL, kept)[0] == set()
    again[0] = dataclasses.replace(again[0], data=again[0].data[:, ::-1])
    assert run(again, SMALL, kept)[0] == set(WORK)


def test_a_dictionary_that_is_applied_takes_nothing_of_a_fit_but_what_is_the_same(
    fields: list[Field], kept: KeptStages
):
    _, fitted = run(fields, SMALL, kept)
    worked, applied = run(fields, SMALL, kept, fitted.dictionary)
    assert worked == {"read", "pool"}
    np.testing.assert_array_equal(
        applied.activations.codes.toarray(), fitted.activations.codes.toarray()
    )
    assert run(fields, SMALL, kept, fitted.dictionary)[0] == set()
    other = run_pipeline(fields, small(random_state=3, n_atoms=5, remove_position=False))
    assert run(fields, SMALL, kept, other.dictionary)[0] == {"read", "pool"}


@pytest.mark.parametrize(
    ("stage", "finished", "left"),
    [
        ("read", {"segment"}, {"read", "pool", "whiten", "learn"}),
        ("whiten", {"segment", "read", "pool"}, {"whiten", "learn"}),
        ("learn", {"segment", "read", "pool", "whiten"}, {"learn"}),
    ],
)
def test_a_stopped_run_leaves_the_stages_that_it_finished(
    fields: list[Field], first: Any, stage: str, finished: set[str], left: set[str]
):
    kept = KeptStages()
    steps = StagedRun(fields, SMALL, kept=kept).result()
    while not next(steps).message.startswith(WORK[stage]):
        pass
    steps.close()
    assert set(WORK) - finished == left
    worked, result = run(fields, SMALL, kept)
    assert worked == left
    assert_same(result, first[1])


def test_a_stopped_run_changes_nothing_of_the_last_result(fields: list[Field], kept: KeptStages):
    _, shown = run(fields, SMALL, kept)
    before = dict(shown.dictionary.provenance), dict(shown.dictionary.figures)
    other = [dataclasses.replace(f, condition="x") for f in fields]
    steps = StagedRun(other, SMALL, kept=kept).result()
    while next(steps).message != "Done":
        pass
    steps.close()
    assert (shown.dictionary.provenance, shown.dictionary.figures) == before


def test_each_stage_alone_does_no_more_than_it_needs(fields: list[Field], first: Any):
    kept = KeptStages()
    heard: list[Progress] = []

    def alone(name: str) -> tuple[set[str], Any]:
        heard.clear()
        steps = getattr(StagedRun(fields, SMALL, kept=kept), name)()
        result = run_through(steps, heard.append)
        return {s for s, w in WORK.items() if any(p.message.startswith(w) for p in heard)}, result

    worked, tokens = alone("tokens")
    assert worked == {"read"}
    assert tokens.device == "cpu"
    assert len(tokens.limits) == 4
    worked, labels = alone("labels")
    assert worked == {"segment"}
    np.testing.assert_array_equal(labels[2], segment_cells(fields[2].read()[0]))
    worked, whitened = alone("whitened")
    assert worked == {"pool", "whiten"}
    worked, result = run(fields, SMALL, kept)
    assert worked == {"learn"}
    np.testing.assert_array_equal(result.activations.vectors, whitened.vectors)
    assert_same(result, first[1])


def test_tokens_are_not_read_from_disk_again(
    fields: list[Field], kept: KeptStages, own_cache: Path
):
    # The folder of a test is its own, and empty.
    run(fields, small(n_atoms=9), kept)
    assert not list(own_cache.rglob("*.tokens"))


def test_weights_that_were_written_anew_are_noticed(tmp_path: Path):
    from napari_microdl.pipeline.keys import _file

    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"one")
    before = _file(f"dinov2-s@{path}")
    assert before == _file(f"dinov2-s@{path}")
    assert before == _file(str(path))
    path.write_bytes(b"other")
    assert _file(str(path)) != before
    assert _file("builtin") is None
    # A description stays as it is when the weights beside it are replaced, and the other way round.
    description = tmp_path / "weights.toml"
    description.write_text("[vit]")
    before = [_file(str(description)), _file(str(path))]
    path.write_bytes(b"others")
    assert _file(str(description)) != before[0]
    before = [_file(str(description)), _file(str(path))]
    description.write_text("[vit]\ndepth = 3")
    assert _file(str(path)) != before[1]


def test_large_samples_are_pooled_anew(fields: list[Field], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("napari_microdl.pipeline.run._MOST_KEPT_BYTES", 0)
    kept = KeptStages()
    run(fields, SMALL, kept)
    worked, result = run(fields, small(shrinkage=2.0), kept)
    assert worked == {"pool", "whiten", "learn"}
    assert_same(result, run_pipeline(fields, small(shrinkage=2.0)))
