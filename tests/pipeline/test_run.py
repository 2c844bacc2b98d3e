from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import dask.array as da
import numpy as np
import pytest

from core.refusals import refusal
from models import published
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.concepts.painting import LabelPainter
from napari_microdl.core.config import PipelineConfig, SegmentationConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import Cancelled, Progress, Stage, Task
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.estimators.shrinkage import choose_shrinkage
from napari_microdl.estimators.whitening import ControlWhitening, FewControlsWarning
from napari_microdl.fields.field import Field
from napari_microdl.fields.intensity import IntensityScaling
from napari_microdl.fields.segmentation import segment_cells
from napari_microdl.models.base import ChannelRule, ModelSpec
from napari_microdl.models.encoder import PrecisionTrial
from napari_microdl.models.registry import load_model, recipes
from napari_microdl.pipeline import inputs
from napari_microdl.pipeline.cache import StageCache
from napari_microdl.pipeline.run import PipelineResult, PipelineRun, iter_pipeline, run_pipeline
from napari_microdl.tokens import (
    TilePlan,
    TokenCache,
    TokenStorage,
    embed,
    embed_field,
    estimate_embedding,
)
from napari_microdl.tokens.grid import TokenWriter
from napari_microdl.tokens.positions import PositionComponent, left_out_share, position_share
from napari_microdl.tokens.spread import measure_spread, place_scales
from napari_microdl.tokens.units import background_squares, pool, units_of
from pipeline.small_run import SMALL, assert_same_codes, small, small_model
from tasks import cancelled_by, cancelling, recorded


@pytest.fixture(scope="module")
def told(fields: list[Field], tmp_path_factory) -> tuple[list[Progress], PipelineResult]:
    """All progress of a run whose cache is empty, and its result."""
    heard: list[Progress] = []
    cache = TokenCache(tmp_path_factory.mktemp("tokens"))
    return heard, run_pipeline(fields, SMALL, progress=heard.append, cache=cache)


@pytest.fixture
def heard(told: tuple[list[Progress], PipelineResult]) -> list[Progress]:
    return told[0]


@pytest.fixture
def result(told: tuple[list[Progress], PipelineResult]) -> PipelineResult:
    return told[1]


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        small(unit="crop", model="builtin", layer=None, site="attention", scaling="plate"),
        small(unit="token", whiten=False, remove_position=False, tile_size=64, halo=1),
        small(shrinkage=3.0, n_components=20, selection="absolute").with_settings(
            update="adam", init="linear", learning_rate=1e-2
        ),
    ],
    ids=["cell", "crop", "token", "options"],
)
def test_a_run_equals_its_public_pieces_put_together(fields, config):
    grids = embed(
        fields,
        load_model(config.model.name, seed=config.random_state),
        layer=config.tokens.layer,
        site=config.tokens.site,
        scaling=config.tokens.scaling,
        tile_size=config.tokens.tile_size,
        halo=config.tokens.halo,
        # Another batch size is another order of sums.
        batch_size=config.model.batch_size,
    )
    # What it learns from is in the order of mean tokens.
    order = np.argsort([grid.tokens[..., 0].mean() for grid in grids])
    fields, grids = ([of[number] for number in order] for of in (fields, grids))
    control = [f.is_control for f in fields]
    shares = {"token_position_share": position_share(grids)}
    scales = None
    if config.tokens.remove_position:
        places = ((config.tokens.tile_size or 128) // 8) ** 2
        shares["token_position_share_after"] = left_out_share(grids, places)
        component = PositionComponent.fit(grids, places)
        grids = [component.remove(g) for g in grids]
    labels = [segment_cells(f.read()[0]) if config.units.kind == "cell" else None for f in fields]
    units = [
        units_of(g, config.units.kind, labels=cells, crop_size=32, crop_stride=16)
        for g, cells in zip(grids, labels, strict=True)
    ]
    if config.tokens.remove_position and config.units.kind == "cell":
        scales = place_scales(grids, units, places)
    vectors = np.concatenate(
        [
            measure_spread(g, u, scales).vectors if config.units.kind == "cell" else pool(g, u)
            for g, u in zip(grids, units, strict=True)
        ]
    )
    of_field = np.repeat(np.arange(4), [len(u) for u in units])
    samples = vectors
    if config.whitening.enabled:
        rows = np.array(control)[of_field]
        shrinkage = config.whitening.shrinkage
        if shrinkage is None:
            shrinkage = choose_shrinkage(vectors[rows], of_field[rows])
        whitening = ControlWhitening(config.whitening.n_components, shrinkage=shrinkage)
        with warnings.catch_warnings(action="ignore", category=FewControlsWarning):
            samples = whitening.fit(vectors[rows]).transform(vectors)
    names = ("update", "selection", "init", "learning_rate")
    options = {name: getattr(config.dictionary, name) for name in names}
    icfl = ICFL(8, 2, 2, **options, max_steps=5, random_state=3)
    codes = icfl.fit(samples).transform(samples)

    run = run_pipeline(fields, config)
    np.testing.assert_array_equal(run.activations.vectors, samples)
    np.testing.assert_array_equal(run.activations.codes.toarray(), codes.toarray())
    np.testing.assert_array_equal(run.dictionary.icfl.components_, icfl.components_)
    np.testing.assert_array_equal(run.dictionary.icfl.bias_, icfl.bias_)
    np.testing.assert_array_equal(run.activations.units["field"], of_field)
    for made, expected in zip(run.activations.grids, grids, strict=True):
        np.testing.assert_array_equal(made.tokens, expected.tokens)
    for made, expected in zip(run.labels, labels, strict=True):
        assert (made is None) == (expected is None)
        np.testing.assert_array_equal(made, expected)
    assert run.report["position"] == shares


def test_a_whitening_that_knows_the_background_counts_what_sets_it_apart_less(fields, tmp_path):
    labels = [segment_cells(f.read()[0]) for f in fields]
    # Cells that leave no room in one field.
    labels[2] = np.arange(1, 651).repeat(25).reshape(125, 130)
    fields = [dataclasses.replace(f, labels=own) for f, own in zip(fields, labels, strict=True)]
    config, plain = small(background_weight=50.0), run_pipeline(fields, SMALL)
    run = PipelineRun(fields, config)
    result, grids = run.result(), run.tokens().grids
    assert (
        "The background was measured in 3 of 4 fields; in the others there are no cells, or they "
        "leave no room." in result.warnings
    )
    scales, means = result.dictionary.position.scales, []
    for number in (0, 1, 3):
        squares = background_squares(grids[number], result.activations.geometry[number])
        means.append(measure_spread(grids[number], squares, scales).vectors.mean(0))
    expected = 50 * np.cov(np.stack(means), rowvar=False)
    np.testing.assert_allclose(result.activations.fit_samples.nuisance, expected, atol=1e-5)
    apart = np.stack(means) - np.mean(means, axis=0)
    lengths = [
        np.linalg.norm(r.dictionary.whitening.project(apart + r.dictionary.whitening.mean_))
        for r in (result, plain)
    ]
    assert lengths[0] < 0.9 * lengths[1]
    # Of crops there is none, and it goes with the dictionary as any whitening does.
    crops = run_pipeline(fields, config.with_settings(unit="crop"))
    assert crops.activations.fit_samples.nuisance is None
    assert "Only cells have a background, so none was taken off crops." in crops.warnings
    result.dictionary.save(tmp_path / "with.microdl.safetensors")
    known = ConceptDictionary.load(tmp_path / "with.microdl.safetensors")
    assert_same_codes(run_pipeline(fields, SMALL, dictionary=known), result)


def test_without_room_between_cells_the_background_is_said_to_stay(fields):
    whole = [dataclasses.replace(f, labels=np.ones(f.shape[-2:], int)) for f in fields]
    cells = [f.labels for f in whole]
    for own in cells:
        own[:60] = 2
    result = run_pipeline(whole, small(background_weight=50.0))
    assert (
        "Of 4 fields 0 have a background without cells, so it could not be taken off: the "
        "whitening knows the controls alone." in result.warnings
    )
    assert result.activations.fit_samples.nuisance is None


def test_every_stage_reports_its_steps(heard):
    stages = list(dict.fromkeys(step.stage for step in heard))
    assert stages == ["fields", "cells", "tokens", "whitening", "dictionary", "activations"]
    assert [s.stage for s in heard] == sorted((s.stage for s in heard), key=stages.index)
    for step in heard:
        assert 0 <= step.done <= step.total
        assert 0 <= step.share <= 1
        assert step.message
        assert (step.record is not None) == (step.stage == "dictionary")
    reading = [s for s in heard if s.message.startswith("Reading patches of")]
    # Tiles of 128 px with a halo of 2 patches: 12 x 12 of 16 x 17 patches each, two at a time.
    assert [s.share for s in reading] == sorted([n / 8 for n in range(9)] + [1 / 4, 1 / 2, 3 / 4])
    # Every field is told before its cells are found, and again whenever a step of that is done.
    segmented = [s.done for s in heard if s.stage == "cells"]
    assert segmented == sorted(segmented)
    assert set(segmented) == {0, 1, 2, 3}
    records = [s.record for s in heard if s.stage == "dictionary"]
    assert [r.step for r in records[:5]] == [1, 2, 3, 4, 5]
    # Memory is told before the first tile.
    first = next(s for s in heard if s.stage == "tokens")
    sentence = r"16 tiles will take about \d+ MB of memory, beside the model\."
    assert re.fullmatch(sentence, first.message)
    assert [s for s in heard if s.stays] == [first]
    assert (first.done, first.total) == (0, 4)
    assert (heard[-1].done, heard[-1].total, heard[-1].message) == (1, 1, "Done")


def steps_of(heard: list[Progress]) -> list[tuple[str, int, int]]:
    return [(progress.stage, progress.done, progress.total) for progress in heard]


def test_the_task_around_a_run_hears_of_it_and_may_cancel_it(fields, heard):
    with recorded() as around:
        run_pipeline(fields, SMALL)
    assert steps_of(around) == steps_of(heard)
    with Task().active() as task, pytest.raises(Cancelled):
        run_pipeline(fields, SMALL, progress=lambda _: task.cancel())


def test_cancelling_at_any_look_leaves_nothing(fields, result, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filters = list(warnings.filters)
    images = [f.data.copy() for f in fields]
    # How often a run looks while its model loads is up to the machine.
    for after in (1, 3, 9, 30, 60, 90):
        with cancelling(after):
            run_pipeline(fields, SMALL)
        assert warnings.filters == filters
    for stage in get_args(Stage):
        with cancelled_by(lambda progress, stage=stage: progress.stage == stage):
            run_pipeline(fields, SMALL)
        assert warnings.filters == filters
    assert not list(tmp_path.iterdir())
    for field, image in zip(fields, images, strict=True):
        np.testing.assert_array_equal(field.data, image)
    assert_same_codes(run_pipeline(fields, SMALL), result)


def test_a_run_can_be_cancelled_while_its_model_loads(fields, monkeypatch):
    may_end, began = threading.Event(), threading.Event()

    def load_slowly(*args: Any, **options: Any) -> Any:
        began.set()
        may_end.wait(timeout=60)
        return load_model(*args, **options)

    monkeypatch.setattr(inputs, "load_model", load_slowly)
    # The run is over although the loading, which nothing can interrupt, is not.
    with cancelling(6):
        run_pipeline(fields, SMALL)
    assert began.wait(timeout=60)
    assert not may_end.is_set()
    may_end.set()
    for thread in threading.enumerate():
        if thread.name.startswith("napari-microdl"):
            thread.join(timeout=60)


def test_what_is_wrong_with_a_model_is_said_by_the_run(fields, monkeypatch):
    def fail(*_args: Any, **_options: Any) -> Any:
        raise MicrodlError("The weights are damaged.")

    monkeypatch.setattr(inputs, "load_model", fail)
    assert error_of(fields, SMALL) == "The weights are damaged."


def test_warnings_of_others_are_neither_taken_nor_silenced(fields):
    """The program around a run goes on at every step of it, in other threads too."""
    filters = list(warnings.filters)
    heard = 0

    def others(progress: Progress) -> None:
        nonlocal heard
        assert warnings.filters == filters
        with pytest.warns(UserWarning, match="of another"):
            warnings.warn("of another", UserWarning, stacklevel=1)
        heard += 1

    result = run_pipeline(fields, SMALL, progress=others)
    assert not any("of another" in note for note in result.warnings)
    assert heard > 10


def test_a_generator_of_the_progress_is_there_for_old_scripts(fields, heard, result):
    def old_script() -> Iterator[Progress]:
        assert_same_codes((yield from iter_pipeline(fields, SMALL)), result)

    assert steps_of(list(old_script())) == steps_of(heard)
    assert "There are no fields" in refusal(next, iter_pipeline([]))


def test_closing_the_generator_cancels_the_run(fields):
    running = set(threading.enumerate())
    steps = iter_pipeline(fields, SMALL)
    while next(steps).stage != "tokens":
        pass
    steps.close()
    assert set(threading.enumerate()) == running
    assert list(steps) == []


def test_any_object_that_reads_tokens_can_be_the_model(fields):
    class MeanOfPatch:
        """Its token is the mean and the largest of the patch."""

        spec = ModelSpec("lab-mean", "Lab", 8, 2, 1, 1, 64, "ab" * 32, "MIT", "a script")

        def tokens(self, tiles: np.ndarray, layer: int, site: str) -> np.ndarray:
            n, channels, height, width = tiles.shape
            patches = tiles.reshape(n, channels, height // 8, 8, width // 8, 8)
            parts = [patches.mean(axis=(3, 5)), patches.max(axis=(3, 5))]
            return np.stack(parts, axis=-1).astype(np.float32)

    config = small(layer=None, unit="crop", n_atoms=4, whiten=False, cache=False)
    stages = StageCache()
    run = run_pipeline(fields, config, model=MeanOfPatch(), stages=stages)
    assert run.config.model.name == run.dictionary.spec.model.id == "lab-mean"
    assert run.dictionary.spec.model.weights_sha256 == "ab" * 32
    assert run.report["device"] == "cpu"
    again = run_pipeline(fields, config, model=MeanOfPatch(), dictionary=run.dictionary)
    assert_same_codes(run, again)
    # Its tokens are those of the same weights, not of another object.
    kept = PipelineRun(fields, config, model=MeanOfPatch(), stages=stages).tokens()
    assert kept.grids[0] is run.activations.grids[0]
    other = MeanOfPatch()
    other.spec = dataclasses.replace(other.spec, weights_sha256="")
    unknown = PipelineRun(fields, config, model=other, stages=stages).tokens()
    assert unknown.grids[0] is not run.activations.grids[0]
    with pytest.raises(MicrodlError, match="made with other weights of 'lab-mean'"):
        run_pipeline(fields, config, model=other, dictionary=run.dictionary)


def test_one_seed_gives_one_result_also_of_lazy_images_and_another_seed_another(fields, result):
    lazy = [dataclasses.replace(f, data=da.from_array(f.data, chunks=(1, 50, 50))) for f in fields]
    same = run_pipeline(lazy, SMALL)
    assert_same_codes(result, same)
    np.testing.assert_array_equal(
        result.dictionary.icfl.components_, same.dictionary.icfl.components_
    )
    assert result.activations.ranking.equals(same.activations.ranking)
    built = [run_pipeline(fields, small(model="builtin", random_state=s)) for s in (3, 4)]
    atoms = [run.dictionary.icfl.components_ for run in built]
    assert np.abs(atoms[0] - atoms[1]).max() > 0.01


@pytest.mark.parametrize(
    "config",
    [
        small(model="builtin", layer=None, control_atoms=2),
        small(unit="crop", scaling="plate", shrinkage=3.0),
        small(unit="token", whiten=False, remove_position=False),
    ],
    ids=["cell", "crop", "token"],
)
def test_what_is_learned_does_not_depend_on_the_order_of_fields(fields, config):
    first = run_pipeline(fields, config)
    turned = run_pipeline([fields[number] for number in (2, 0, 3, 1)], config)
    one, other = first.dictionary, turned.dictionary
    np.testing.assert_array_equal(one.icfl.components_, other.icfl.components_)
    if config.tokens.remove_position:
        np.testing.assert_array_equal(one.position.offsets, other.position.offsets)
    np.testing.assert_array_equal(
        first.activations.vectors[first.activations.rows_of_field(0)],
        turned.activations.vectors[turned.activations.rows_of_field(1)],
    )
    best = first.activations.ranking.index[0]
    assert turned.activations.ranking.index[0] == best


def test_of_several_starts_the_fit_whose_energy_is_on_the_fewest_atoms_is_kept(fields):
    config = small(model="builtin", n_starts=3, max_steps=20)
    run = PipelineRun(fields, config)
    with recorded() as steps:
        kept = run.result().dictionary.icfl
    x = run.whitening().vectors[run.samples().in_order()]
    seeds = [3, *(np.random.RandomState([3, n]).randint(2**31 - 1) for n in (1, 2))]
    fits = [ICFL(8, 2, 2, max_steps=20, random_state=int(seed)).fit(x) for seed in seeds]
    energies = [np.square(fit.transform(x).toarray()).sum(axis=0) for fit in fits]
    best = fits[int(np.argmin([e.sum() ** 2 / np.square(e).sum() for e in energies]))]
    np.testing.assert_array_equal(kept.components_, best.components_)
    assert len({fit.components_.tobytes() for fit in fits}) == 3
    told = [s for s in steps if s.stage == "dictionary"]
    assert any(s.message.startswith("Fitting the dictionary, start 3 of 3: explains") for s in told)
    assert all(a.done <= b.done for a, b in itertools.pairwise(told))
    assert told[-1].done == told[-1].total


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"unit": "crop", "site": "attention", "scaling": "plate", "halo": 1},
        {"unit": "token", "whiten": False, "remove_position": False, "tile_size": 64},
    ],
    ids=["cell", "crop", "token"],
)
def test_a_saved_dictionary_gives_the_same_codes(fields, tmp_path, changes):
    config = small(**changes)
    fitted = run_pipeline(fields, config)
    path = fitted.dictionary.save(tmp_path / "d")
    loaded = ConceptDictionary.load(path)
    # Settings of the samples come from the file, whatever is asked for here.
    other = PipelineConfig.of(model="builtin", layer=7, unit="crop", random_state=3, batch_size=2)
    with recorded() as seen:
        applied = run_pipeline(fields, other, dictionary=loaded)
    assert_same_codes(fitted, applied)
    assert "dictionary" not in {s.stage for s in seen}
    assert applied.dictionary is loaded
    assert applied.config.model.name == config.model.name
    # What the settings leave to the model is known by then.
    known = {"tile_size": 64 if "tile_size" in changes else 128, "channels": ("GFP",)}
    assert applied.config.tokens == config.tokens.replace(**known)
    units = config.units.replace(pooling=config.units.pooled_by)
    assert applied.config.units == units
    assert applied.config.whitening.enabled == config.whitening.enabled
    assert applied.report["spec"] == fitted.report["spec"]
    # Applying changes nothing in the file.
    assert loaded.save(tmp_path / "again").read_bytes() == path.read_bytes()
    # And needs no control. Other tiles in a batch change the last digits of tokens.
    alone = run_pipeline([fields[0]], other, dictionary=loaded)
    if changes.get("scaling") != "plate":
        codes = fitted.activations.codes.toarray()[: len(alone.activations.units)]
        np.testing.assert_allclose(alone.activations.codes.toarray(), codes, atol=1e-3)


def test_an_application_leaves_the_dictionary_as_it_is(fields, result):
    whole = result.dictionary
    before = (dict(whole.provenance), dict(whole.figures))
    with cancelling(10):
        run_pipeline(fields, SMALL, dictionary=whole)
    # The seed of an untrained model stands for its weights.
    with pytest.raises(MicrodlError, match="made with other weights of 'random-init'"):
        run_pipeline(fields, small(random_state=4), dictionary=whole)
    assert (whole.provenance, whole.figures) == before
    bare = dataclasses.replace(whole, provenance={}, figures={})
    run_pipeline(fields, SMALL, dictionary=bare)
    assert bare.provenance == bare.figures == {}


def test_labels_that_come_with_a_field_are_its_cells(fields):
    labels = np.zeros((125, 130), np.uint16)
    labels[10:40, 10:40], labels[60:100, 70:125] = 500, 20
    own = [dataclasses.replace(f, labels=labels) for f in fields]
    run = run_pipeline(own, SMALL)
    for cells in run.labels:
        np.testing.assert_array_equal(cells, labels)
    assert run.activations.units["label"].tolist() == [20, 500] * 4
    assert run.activations.units["area"].tolist() == [2200, 900] * 4


def test_channels_are_found_by_name_and_the_segmentation_uses_its_own(fields):
    two = []
    for n, f in enumerate(fields):
        other = np.random.default_rng(n).gamma(2, 20, (125, 130)).astype(np.uint8)
        planes, names = [f.data[0], other], ["GFP", "noise"]
        if n % 2:  # The order differs from field to field.
            planes, names = planes[::-1], names[::-1]
        two.append(dataclasses.replace(f, data=np.stack(planes), channel_names=tuple(names)))
    one = run_pipeline(fields, SMALL)
    same = run_pipeline(
        two, small(channels=("GFP",), segmentation=SegmentationConfig(channel="GFP"))
    )
    assert_same_codes(one, same)
    joined = run_pipeline(two, small(unit="crop"))
    assert joined.activations.grids[0].tokens.shape[-1] == 2 * 192
    assert joined.dictionary.spec.tokens.channels == ("GFP", "noise")
    mean = run_pipeline(two, small(unit="crop", channel_tokens="mean"))
    assert mean.activations.grids[0].tokens.shape[-1] == 192


def test_the_report_is_plain_json(fields, result):
    report = json.loads(json.dumps(result.report, allow_nan=False))
    assert report["config"] == json.loads(json.dumps(SMALL.to_dict()))
    assert report["config_hash"] == SMALL.hash
    assert [f["name"] for f in report["fields"]] == [f.name for f in fields]
    assert [f["control"] for f in report["fields"]] == [False, True, False, True]
    assert sum(f["units"] for f in report["fields"]) == report["fit"]["n_samples"]
    assert report["fit"]["n_samples"] == len(result.activations.units)
    control = result.activations.units["Metadata_control"].sum()
    assert report["fit"]["n_control_samples"] == control
    assert report["fit"]["n_atoms"] == 8
    assert report["notes"] == result.warnings
    stages = ["fields", "cells", "tokens", "whitening", "dictionary", "activations"]
    assert list(report["seconds"]) == stages
    assert [c["concept"] for c in report["concepts"]] == result.activations.ranking.index.tolist()
    x = result.activations.vectors.astype(float)
    y = result.activations.codes.toarray() @ result.dictionary.icfl.components_.astype(float)
    cosines = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) if b.any() else 0
        for a, b in zip(x, y, strict=True)
    ]
    assert report["fit"]["reconstruction_cosine"] == pytest.approx(np.mean(cosines), abs=1e-6)
    # Active means a code above 0, here as everywhere.
    on = (result.activations.codes.toarray() > 0).sum(1).mean()
    assert report["fit"]["mean_active_per_unit"] == pytest.approx(on)
    assert result.dictionary.provenance["config"] == SMALL.to_dict()
    assert result.dictionary.figures["n_samples"] == report["fit"]["n_samples"]


@pytest.mark.parametrize("whiten", [True, False])
def test_a_report_without_two_conditions_has_no_nan(fields, whiten):
    same = [dataclasses.replace(f, condition="", is_control=True) for f in fields]
    run = run_pipeline(same, small(unit="crop", whiten=whiten))
    report = json.loads(json.dumps(run.report, allow_nan=False))
    assert {(c["selectivity"], c["auc"]) for c in report["concepts"]} == {(None, None)}


def test_few_controls_and_chosen_sizes_are_said(fields):
    run = run_pipeline(fields, small(n_atoms=None, n_iterations=None, atoms_per_iteration=None))
    n = len(run.activations.units)
    controls = int(run.activations.units["Metadata_control"].sum())
    icfl = run.dictionary.icfl
    assert any(f"There are {controls} control samples for 192" in note for note in run.warnings)
    assert any("times the median eigenvalue" in note for note in run.warnings)
    assert any(
        f"{n} cells: a dictionary of {icfl.n_atoms_} atoms with at most "
        f"{icfl.n_iterations_} x {icfl.atoms_per_iteration_} active was chosen." == note
        for note in run.warnings
    )


def error_of(fields: list[Field], config: PipelineConfig = SMALL) -> str:
    return refusal(run_pipeline, fields, config)


def test_no_fields_and_no_control_give_one_sentence(fields):
    assert "There are no fields" in error_of([])
    treated = [f for f in fields if not f.is_control]
    assert "No control field is chosen" in error_of(treated)
    run = run_pipeline(treated, small(whiten=False, unit="crop"))
    assert run.dictionary.whitening is None


def test_missing_channels_give_one_sentence(fields):
    for dna in ({"channels": ("DNA",)}, {"segmentation": SegmentationConfig(channel="DNA")}):
        assert "has no channel 'DNA'" in error_of(fields, small(**dna))
    renamed = [*fields[:3], dataclasses.replace(fields[3], channel_names=("RFP",))]
    assert "Field 'O11_f01' has no channel 'GFP'; its channels are 'RFP'" in error_of(renamed)
    extra = np.concatenate([fields[3].data] * 2)
    more = dataclasses.replace(fields[3], data=extra, channel_names=("GFP", "RFP"))
    assert "'O11_f01' has the channels ('GFP', 'RFP') but" in error_of([*fields[:3], more])


def test_bad_images_and_labels_are_named_by_their_field(fields):
    def third(**changes: Any) -> list[Field]:
        return [*fields[:2], dataclasses.replace(fields[2], **changes), fields[3]]

    broken = fields[2].data.astype(np.float32)
    broken[0, 5, 5] = np.nan
    assert "of field 'O05_f01' holds NaN" in error_of(third(data=broken))
    constant = np.full((1, 125, 130), 7, np.uint8)
    assert "of field 'O05_f01' is constant" in error_of(third(data=constant))
    with pytest.raises(MicrodlError, match="The labels of field 'O05_f01' have the shape"):
        third(labels=np.ones((512, 512), int))
    small_image = third(data=fields[2].data[:, :20, :20])
    assert "Field 'O05_f01': No crop of 32 px" in error_of(small_image, small(unit="crop"))


def without_cells(field: Field) -> Field:
    return dataclasses.replace(field, labels=np.zeros(field.shape, int))


def test_a_field_without_cells_is_named_and_the_others_are_as_without_it(fields: list[Field]):
    with_empty = run_pipeline([*fields[:2], without_cells(fields[2]), fields[3]], small())
    assert "There is no cell in 'O05_f01'" in with_empty.warnings[0]
    counted = with_empty.activations.units["Metadata_Field"].value_counts()
    assert set(counted.index) == {f.name for f in (*fields[:2], fields[3])}
    assert [field["units"] for field in with_empty.report["fields"]][2] == 0
    # Its heatmap is there, its cells are painted, and it has no best cell.
    grid = with_empty.activations.grids[2]
    assert with_empty.activations.heatmap(2, 0).shape == grid.tokens.shape[:2]
    painter = LabelPainter(np.zeros(fields[2].shape, int), np.empty(0, np.int64))
    assert np.isnan(painter.paint(np.empty(0, np.float32))).all()


def test_without_any_cell_of_controls_a_run_ends_before_tokens_are_read(fields: list[Field]):
    controls_empty = [without_cells(f) if f.is_control else f for f in fields]
    for given, sentence in (
        (controls_empty, "No control field has a cell"),
        ([without_cells(f) for f in fields], "No field has a cell"),
    ):
        seen: list[Progress] = []
        with pytest.raises(MicrodlError, match=f"^{sentence}"):
            run_pipeline(given, small(), progress=seen.append)
        assert "tokens" not in {progress.stage for progress in seen}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "dino"}, "Model 'dino' is not known"),
        ({"layer": 9}, "Layer 9 does not exist"),
        ({"layer": 0}, "layer"),
        ({"unit": "well"}, "unit"),
        ({"channel_tokens": "sum"}, "channel"),
        ({"device": "tpu"}, "Device 'tpu' is not available"),
        ({"precision": "fp16"}, "precision is 'fp16', which is not known"),
        ({"batch_size": 0}, "Batch size 0"),
        ({"halo": 8}, "A halo of 8 tokens leaves nothing"),
        ({"tile_size": 100}, "Tile size 100 px is not a multiple"),
        ({"update": "sgd"}, "update is 'sgd'"),
        ({"n_atoms": 0}, "n_atoms is 0"),
        ({"shrinkage": -1.0}, "shrinkage is -1.0"),
        ({"n_components": 500}, "n_components is 500"),
        ({"crop_size": 0, "unit": "crop"}, "crop"),
    ],
)
def test_settings_that_do_not_exist_give_one_sentence(fields, changes, sentence):
    # What is a choice among names is refused when the settings are made, the rest by its stage.
    told = refusal(lambda: run_pipeline(fields, small(**changes)))
    assert sentence.lower() in told.lower()


def test_positions_stay_where_a_tile_has_too_few_tokens_a_place(fields):
    one = dataclasses.replace(fields[0], data=fields[0].data[:, :64, :64], is_control=True)
    config = small(unit="token", n_components=5)
    run = run_pipeline([one], config)
    assert run.dictionary.position is None
    assert "token_position_share_after" not in run.report["position"]
    (note,) = [n for n in run.warnings if "tokens for each place" in n]
    assert note.startswith("There are only 1.0 tokens")


def test_a_second_run_takes_its_tokens_from_the_cache(fields, result, monkeypatch):
    model = small_model()
    passes: list[int] = []
    tokens = model.tokens
    monkeypatch.setattr(model, "tokens", lambda *a: passes.append(len(a[0])) or tokens(*a))
    without = run_pipeline(fields, small(cache=False), model=model)
    assert sum(passes) == 16
    assert TokenCache().size() == 0
    for expected in (32, 32):
        assert_same_codes(run_pipeline(fields, SMALL, model=model), without)
        assert sum(passes) == expected
    assert TokenCache().size() > 0


def test_a_run_that_backs_off_says_so(fields, monkeypatch):
    model = small_model()
    tokens = model.tokens

    def one_tile(tiles: np.ndarray, *where: Any) -> np.ndarray:
        if len(tiles) > 1:
            raise MemoryError
        return tokens(tiles, *where)

    monkeypatch.setattr(model, "tokens", one_tile)
    note = "Memory ran out: the model was given 1 tile at a time instead of a batch of 2."
    assert note in run_pipeline(fields, SMALL, model=model).warnings


@pytest.mark.parametrize(("used", "ratio"), [("bf16", 2.34), ("fp32", 0.51)])
def test_fast_arithmetic_is_noted_with_its_error(fields, used, ratio):
    model = load_model(SMALL.model.name, device="cpu", precision="fast", seed=SMALL.random_state)
    model.trial = PrecisionTrial(used, ratio, 0.0123)
    told = f"ran in {used}; bfloat16 is {ratio:.1f} times .* changes tokens by 1.2%"
    # Also where all tokens were kept.
    for _ in range(2):
        notes = run_pipeline(fields, small(precision="fast"), model=model).warnings
        assert any(re.search(told, note) for note in notes)
    assert not [n for n in run_pipeline(fields, small(precision=used)).warnings if "Fast" in n]


def test_a_cache_that_cannot_be_written_to_is_noted(fields, own_cache, monkeypatch):
    blocked = own_cache / "file"
    blocked.write_text("")
    monkeypatch.setenv("NAPARI_MICRODL_CACHE", str(blocked))
    notes = run_pipeline(fields, SMALL).warnings
    assert any(note.startswith("Tokens could not be kept in") for note in notes)


@pytest.mark.parametrize("curve", ["log", "linear"])
def test_intensities_are_scaled_as_the_model_wants_and_that_is_kept(fields, curve):
    model = small_model()
    model.spec = dataclasses.replace(model.spec, intensity=curve)
    run = run_pipeline(fields, small(remove_position=False), model=model)
    assert run.dictionary.spec.model.intensity == curve
    scaler = IntensityScaling(curve=curve).fit(fields)
    image = scaler.apply(0, fields[0].read())
    expected = embed_field(image, model, TilePlan(8, 128, 2), layer=2, batch_size=2)
    np.testing.assert_array_equal(run.activations.grids[0].tokens, expected.tokens)
    limits = [dataclasses.asdict(entry) for entry in scaler.describe()]
    assert run.report["intensity"] == run.dictionary.provenance["intensity"] == limits
    # Applied again, the dictionary decides.
    again = run_pipeline(fields, SMALL, model=small_model(), dictionary=run.dictionary)
    assert_same_codes(again, run)


def test_a_model_that_takes_fewer_channels_is_refused_before_anything_is_read(fields):
    model = small_model()
    model.spec = dataclasses.replace(model.spec, channels=ChannelRule(least=3, most=3))
    with pytest.raises(MicrodlError, match="takes 3 channels, but 1 is chosen; choose more"):
        run_pipeline(fields, SMALL, model=model)


def test_grids_in_files_give_the_concepts_of_grids_in_memory(fields, result):
    run = PipelineRun(fields, SMALL, storage=TokenStorage(0)).result()
    assert not any(grid.in_memory for grid in run.activations.grids)
    np.testing.assert_allclose(run.activations.vectors, result.activations.vectors, atol=1e-4)
    in_memory = [
        dataclasses.replace(grid, tokens=np.array(grid.tokens)) for grid in run.activations.grids
    ]
    same = dataclasses.replace(run.activations, grids=in_memory)
    for concept in (0, 3):
        here, there = run.activations.heatmap(0, concept), same.heatmap(0, concept)
        np.testing.assert_allclose(here, there, atol=1e-4)


def bytes_without_name() -> int:
    """Size of the files that this process holds and that no folder lists any more."""
    sizes = {}
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            status = file.stat()
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("remove_position", [True, False])
def test_disk_space_is_told_as_it_is_taken(fields, monkeypatch, remove_position):
    # Fields of several sizes, the largest neither first nor last.
    edges = (72, 120, 96, 64)
    some = [
        dataclasses.replace(f, data=f.data[:, :edge]) for f, edge in zip(fields, edges, strict=True)
    ]
    finished, taken, before = TokenWriter.finish, [], bytes_without_name()

    def spy(writer: TokenWriter) -> np.ndarray:
        tokens = finished(writer)
        taken.append(bytes_without_name() - before)
        return tokens

    monkeypatch.setattr(TokenWriter, "finish", spy)
    config = small(remove_position=remove_position)
    run = PipelineRun(some, config, storage=TokenStorage(0)).result()
    assert (run.dictionary.position is not None) == remove_position
    shapes, plan = [f.shape for f in some], TilePlan(8, 128, 2)
    options = {"remove_position": remove_position, "memory_bytes": 0}
    estimate = estimate_embedding(shapes, 1, small_model().spec, plan, **options)
    assert max(taken) == estimate.disk
    # That is what runs ask for.
    asked = []
    monkeypatch.setattr(
        "napari_microdl.pipeline.estimate.estimate_embedding",
        lambda *_, **options: asked.append(options["remove_position"]) or estimate,
    )
    run_pipeline(some, config)
    run_pipeline(some, SMALL, dictionary=run.dictionary)
    assert asked == [remove_position] * 2


def test_terms_that_nobody_states_are_not_stated_by_the_dictionary(fields, tmp_path):
    lab = published.small(recipes()["unidino"])
    published.write(published.timm_state(lab.config), tmp_path / "lab.safetensors")
    (tmp_path / "lab.toml").write_text(
        'weights = "lab.safetensors"\nlayout = "timm"\n[model]\ntile_size = 48\n'
        "[vit]\ndim = 24\ndepth = 3\nn_heads = 3\npatch_size = 16\nposition_grid = [3, 3]\n"
        'positions = "learned"\nposition_offset = 0.1\n'
    )
    config = small(model=str(tmp_path / "lab.toml"), halo=0, unit="crop", whiten=False)
    fitted = run_pipeline(fields, config)
    fitted.dictionary.save(tmp_path / "lab")
    saved = ConceptDictionary.load(tmp_path / "lab.microdl.safetensors")
    assert saved.spec.model.non_commercial is None
    assert saved.provenance["weights_non_commercial"] is None
    applied = run_pipeline(fields, config, dictionary=saved)
    for run in (fitted, applied):
        assert run.report["spec"]["model"]["non_commercial"] is None
        assert "Source: local file 'lab.toml'" in run.report["weights_terms"]


def test_a_dictionary_of_some_channels_finds_them_in_weights_given_for_all(fields, tmp_path):
    state = published.timm_state(recipes()["channelvit-jump-cp"].config, embedding=True)
    weights = published.write(state, tmp_path / "weights.pth")
    names = ("Hoechst", "conA")
    two = [
        dataclasses.replace(f, data=np.repeat(f.data[:, :96, :96], 2, 0), channel_names=names)
        for f in fields
    ]
    whole = f"channelvit-jump-cp@{weights}"
    config = small(model=f"channelvit-jump-cp[DNA,ER]@{weights}", tile_size=96, halo=0, layer=1)
    config = config.with_settings(unit="crop", whiten=False, cache=False)
    fitted = run_pipeline(two, config)
    spec = fitted.dictionary.spec
    assert spec.model.id == "channelvit-jump-cp[DNA,ER]"
    assert spec.tokens.channels == ("Hoechst", "conA")
    # What its weights may be used for goes with the dictionary into its file.
    fitted.dictionary.save(tmp_path / "some.microdl.safetensors")
    saved = ConceptDictionary.load(tmp_path / "some.microdl.safetensors")
    terms, stated = saved.spec.model, recipes()["channelvit-jump-cp"].spec
    assert (terms.licence, terms.source) == (stated.licence, stated.source)
    assert saved.provenance["weights_source"] == stated.source
    assert terms.non_commercial is saved.provenance["weights_non_commercial"] is True
    # So does the model itself.
    model = saved.model
    assert (model.dim, model.patch_size, model.tile_size) == (384, 8, 96)
    again = run_pipeline(two, small(model=whole), dictionary=fitted.dictionary)
    assert again.dictionary.spec.model.id == spec.model.id
    assert_same_codes(fitted, again)
    # Without the dictionary, the whole model lacks channels, found by name or given in any order.
    with pytest.raises(MicrodlError, match=r"there, 'channelvit-jump-cp\[ER,DNA\]'\."):
        run_pipeline(two, config.with_settings(model=whole))
    with pytest.raises(MicrodlError, match=r"as in 'channelvit-jump-cp\[Mito\]', or choose more"):
        run_pipeline(two, config.with_settings(model=whole, channels=names))
