"""Whether a run takes the background off by itself: simulated plates with and without haze."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.fields.field import Field
from napari_microdl.fields.simulator import Nuisances, simulate_wells
from napari_microdl.metrics.background import CONTROL, LABEL
from napari_microdl.pipeline.plate.listing import list_fields
from napari_microdl.pipeline.plate.run import run_plate
from napari_microdl.pipeline.run import PipelineResult, run_pipeline
from napari_microdl.report.findings import find_finding
from pipeline.small_run import assert_same_codes, small

AUTO = small(cache=False)


def wells(nuisance: Nuisances, **changes: object) -> list[Field]:
    """Four control and four treated wells of a few cells, whose treatment does nothing."""
    drawn = simulate_wells(
        {"drug": {"size": 0.0}},
        n_control_wells=4,
        n_wells=4,
        nuisances={"drug": nuisance},
        n_cells=6,
        shape=(160, 160),
        channels=("DNA",),
        seed=2,
    )
    return [dataclasses.replace(one.field, **changes) for one in drawn]


@pytest.fixture(scope="module")
def hazy() -> list[Field]:
    return wells(Nuisances(haze=0.5))


@pytest.fixture(scope="module")
def hazy_run(hazy) -> PipelineResult:
    return run_pipeline(hazy, AUTO)


def decision_of(result: PipelineResult) -> str:
    (told,) = [note for note in result.warnings if note.endswith((" left in.", " in cells."))]
    return told


def test_haze_of_the_treated_wells_is_taken_off(hazy, hazy_run):
    assert decision_of(hazy_run).startswith("The background differs between conditions (p = 0.0")
    assert hazy_run.report["fit"]["whitening_background_weight"] == 100
    assert 0 < hazy_run.report["fit"]["whitening_background_p"] <= 0.05
    assert_same_codes(hazy_run, run_pipeline(hazy, AUTO.with_settings(background_weight=100.0)))


def test_wells_that_are_alike_are_whitened_on_controls_alone():
    clean = wells(Nuisances())
    result, plain = (
        run_pipeline(clean, AUTO.with_settings(background_weight=w)) for w in ("auto", 0.0)
    )
    assert decision_of(result).startswith("The background does not differ between conditions")
    assert result.report["fit"]["whitening_background_weight"] == 0
    assert result.report["fit"]["whitening_background_p"] > 0.05
    assert_same_codes(result, plain)
    assert "whitening_background_p" not in plain.report["fit"]
    assert not [note for note in plain.warnings if "background" in note]


def test_each_arrangement_of_the_wells_is_fitted_by_what_is_decided_for_it(hazy, hazy_run):
    samples = hazy_run.activations.fit_samples
    treated = np.array([not field.is_control for field in hazy])
    own = np.where(treated, LABEL, CONTROL)
    np.testing.assert_array_equal(samples.nuisance_for(own), samples.nuisance_for())
    # Two wells of each side: the haze is on both.
    mixed = np.where(np.arange(8) % 2 == 0, LABEL, CONTROL)
    assert samples.nuisance_for(mixed) is None
    finding = find_finding(hazy_run.activations, refit_steps=3)
    assert finding.how == "refits"
    assert finding.smallest_p <= finding.p_value <= 1


@pytest.mark.parametrize(
    ("changes", "samples"),
    [({"unit": "crop"}, "crops"), ({"unit": "token"}, "tokens"), ({"pooling": "mean"}, "means")],
)
def test_what_is_no_spread_of_cells_is_left_as_it_is(changes, samples, hazy):
    result = run_pipeline(hazy, AUTO.with_settings(**changes))
    assert decision_of(result).startswith("The background is looked at for spreads of cells")
    assert samples in decision_of(result)
    assert result.activations.fit_samples.nuisance is None


def test_one_field_a_condition_and_confluent_cells_are_said(hazy):
    few = [hazy[0], hazy[4], dataclasses.replace(hazy[5], condition="other")]
    assert decision_of(run_pipeline(few, AUTO)).startswith("3 wells are too few to show")
    grid = np.arange(160) // 20
    whole = [dataclasses.replace(f, labels=1 + grid[:, None] * 8 + grid) for f in hazy]
    told = decision_of(run_pipeline(whole, AUTO))
    assert told.startswith("There is hardly any background away from cells (0 of 8 fields")


def test_a_plate_run_decides_as_a_run_in_one_piece(hazy, hazy_run, tmp_path: Path):
    rows = []
    for field in hazy:
        tifffile.imwrite(tmp_path / f"{field.name}.tif", field.data[0])
        tifffile.imwrite(tmp_path / f"{field.name}_cells.tif", field.labels.astype(np.uint16))
        files = {"FileName_DNA": f"{field.name}.tif", "FileName_labels": f"{field.name}_cells.tif"}
        rows.append({**field.to_metadata(), **files})
    pd.DataFrame(rows).to_csv(tmp_path / "fields.csv", index=False)
    report = run_plate(list_fields(tmp_path / "fields.csv"), tmp_path / "out", AUTO)
    assert decision_of(hazy_run) in report["notes"]
    made = ConceptDictionary.load(tmp_path / "out" / "dictionary.microdl.safetensors")
    plain, taken = hazy_run.dictionary.whitening, made.whitening
    variance = plain.explained_variance_
    np.testing.assert_allclose(taken.explained_variance_, variance, atol=2e-3 * variance.max())


def test_fewer_cells_are_no_fault_of_the_background():
    drawn = simulate_wells(
        {"drug": {"density": 0.7}},
        n_control_wells=4,
        n_wells=4,
        n_cells=10,
        shape=(192, 192),
        channels=("DNA",),
        seed=1,
    )
    assert len(np.unique(drawn[-1].field.labels)) < len(np.unique(drawn[0].field.labels))
    result = run_pipeline([one.field for one in drawn], AUTO)
    assert decision_of(result).startswith("The background does not differ between conditions")


def test_cells_that_fill_their_fields_leave_no_background_to_a_plate_run(tmp_path):
    random, rows = np.random.default_rng(0), []
    y, x = np.mgrid[:128, :128]
    for number in range(4):
        image = 200 + 100 * np.sin(x / 6) * np.sin(y / 6) + random.normal(0, 5, x.shape)
        tifffile.imwrite(tmp_path / f"{number}.tif", image.clip(0).astype(np.uint16))
        cells = (1 + y // 32 * 4 + x // 32).astype(np.uint16)
        tifffile.imwrite(tmp_path / f"{number}_cells.tif", cells)
        known = {"Metadata_Well": f"A0{number + 1}", "Metadata_control": number < 2}
        files = {"FileName_A": f"{number}.tif", "FileName_Labels": f"{number}_cells.tif"}
        rows.append({**files, **known, "Metadata_condition": "a" if number < 2 else "b"})
    pd.DataFrame(rows).to_csv(tmp_path / "fields.csv", index=False)
    summary = run_plate(list_fields(tmp_path / "fields.csv"), tmp_path / "out", small())
    assert summary["n_units"] == 4 * 16
    assert any("hardly any background" in note for note in summary["notes"])
