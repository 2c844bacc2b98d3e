from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.refusals import refusal
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.concepts.store import open_activations
from napari_microdl.core.task import Task
from napari_microdl.estimators.whitening import ControlWhitening
from napari_microdl.fields.field import FieldInfo
from napari_microdl.fields.tables import read_fields
from napari_microdl.pipeline.plate.listing import list_fields
from napari_microdl.pipeline.plate.run import PlateOptions, run_plate
from napari_microdl.pipeline.plate.sampling import hold_back
from napari_microdl.pipeline.run import PipelineRun, run_pipeline
from napari_microdl.report.options import unit_labels
from napari_microdl.report.well_profiles import WellProfiles
from pipeline.plate_cases import write_two_plates
from pipeline.small_run import small


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_two_plates(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def whole(table) -> PipelineRun:
    run = PipelineRun(read_fields(table), small(unit="crop"))
    run.result()
    return run


@pytest.fixture(scope="module")
def plates(table, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("plates") / "out"
    run_plate(list_fields(table), out, small(unit="crop"))
    return out


def test_samples_are_whitened_about_the_controls_of_their_plate(whole):
    samples, fields = whole.samples(), whole.fields
    plate, control = samples.plates(fields), samples.is_control(fields)
    x = samples.vectors.astype(float)
    for name in ("P1", "P2"):
        x[plate == name] -= x[control & (plate == name)].mean(0)
    found = whole.result()
    dictionary = found.dictionary
    assert dictionary.plates.kind == "centre"
    reference = ControlWhitening(shrinkage=dictionary.whitening.shrinkage)
    with Task().active() as task, task.taking_notes():
        expected = reference.fit(x[control]).transform(x)
    vectors = found.activations.vectors
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-3)
    rows = plate == "P2"
    np.testing.assert_allclose(dictionary.whiten(samples.vectors[rows], "P2"), vectors[rows])
    # The heat of a patch is of the same space: patches make up crops.
    heat = found.activations.heat
    tokens = found.activations.grids[1].tokens.reshape(-1, x.shape[1])
    direction = dictionary.directions[0]
    whitened = dictionary.whiten(np.asarray(tokens), fields[1].plate)
    np.testing.assert_allclose(
        heat.of_field(1, 0).ravel(), whitened @ direction, rtol=1e-3, atol=1e-4
    )


def test_a_plate_run_places_plates_as_a_run_in_one_piece(whole, plates):
    one = whole.result().dictionary
    other = ConceptDictionary.load(plates / "dictionary.microdl.safetensors")
    assert other.plates.kind == "centre"
    scale = np.abs(one.plates.means["P1"]).max()
    for name, mean in one.plates.means.items():
        np.testing.assert_allclose(other.plates.means[name] / scale, mean / scale, atol=5e-4)
    samples = whole.samples()
    rows = samples.plates(whole.fields) == "P2"
    a, b = (d.whiten(samples.vectors[rows], "P2") for d in (one, other))
    np.testing.assert_allclose(a @ a.T, b @ b.T, atol=1e-2)


def test_a_dictionary_is_applied_about_the_controls_of_the_new_plate(table, plates, tmp_path):
    saved = plates / "dictionary.microdl.safetensors"
    rows = pd.read_csv(table)
    rows["Metadata_Plate"] = "P" + rows["Metadata_Plate"].str[1:].map({"1": "3", "2": "4"})
    rows.to_csv(table.parent / "others.csv", index=False)
    listing = list_fields(table.parent / "others.csv")
    run_plate(listing, tmp_path / "out", small(), dictionary=saved)
    dictionary = ConceptDictionary.load(saved)
    fields = read_fields(table.parent / "others.csv")
    here = run_pipeline(fields, small(), dictionary=dictionary).activations
    kept = open_activations(tmp_path / "out" / "activations")
    assert sorted(kept.dictionary.plates.means) == ["P3", "P4"]
    np.testing.assert_allclose(kept.vectors, here.vectors, atol=0.01)
    # The same images on the plates that it was learned on give the same.
    before = open_activations(plates / "activations")
    np.testing.assert_allclose(kept.vectors, before.vectors, atol=1e-5)
    # One field of a plate that it knows, without controls, as a person looks at it in the window.
    treated = next(f for f in read_fields(table) if not f.is_control)
    alone = run_pipeline([treated], small(), dictionary=dictionary)
    assert any("'P1' has no control here" in note for note in alone.warnings)
    number = [f.name for f in read_fields(table)].index(treated.name)
    rows_of_it = before.rows_of_field(number)
    np.testing.assert_allclose(alone.activations.vectors, before.vectors[rows_of_it], atol=0.01)
    strange = dataclasses.replace(treated, plate="P9")
    assert "The plate 'P9' has no control of its own" in refusal(
        lambda: run_pipeline([strange], small(), dictionary=dictionary)
    )


def test_a_plate_without_a_cell_is_passed_over(table):
    fields = read_fields(table)
    empty = [
        dataclasses.replace(f, plate="P3", labels=np.zeros(f.shape[-2:], int), name=f"empty {n}")
        for n, f in enumerate(fields[:2])
    ]
    config = small(background_weight=50.0, remove_position=False)
    with_it, alone = (run_pipeline(some, config) for some in ([*fields, *empty], fields))
    assert with_it.dictionary.plates.kind == "centre"
    assert sorted(with_it.dictionary.plates.means) == ["P1", "P2"]
    np.testing.assert_allclose(
        with_it.activations.fit_samples.nuisance, alone.activations.fit_samples.nuisance, rtol=1e-4
    )


def test_plates_that_were_placed_by_all_controls_have_none_to_compare_with(plates, table, tmp_path):
    rows = pd.read_csv(table)
    rows["Metadata_Plate"] = "P3"
    rows["Metadata_Field"] = "new " + rows["Metadata_Field"]
    rows.to_csv(table.parent / "new.csv", index=False)
    saved = plates / "dictionary.microdl.safetensors"
    for copies, fair in ((1, False), (3, True)):
        more = [rows.assign(Metadata_Well=rows["Metadata_Well"].str.replace("O", letter))
                for letter in "OPQ"[:copies]]  # fmt: skip
        for letter, part in zip("OPQ", more, strict=False):
            part["Metadata_Field"] = letter + part["Metadata_Field"]
        pd.concat(more).to_csv(table.parent / "new.csv", index=False)
        out = tmp_path / f"out {copies}"
        run_plate(list_fields(table.parent / "new.csv"), out, small(), dictionary=saved)
        kept = open_activations(out / "activations")
        wells = WellProfiles.of(kept, unit_labels(kept.units, "condition"))
        assert wells.is_fair == fair
        # Half of twelve control wells were held back from what places the plate.
        assert (wells.control & ~wells.seen).sum() == (6 if fair else 0)


@pytest.mark.parametrize("kind", ["scale", "whiten"])
def test_references_are_kept_in_the_file(kind, table, tmp_path):
    run = run_pipeline(read_fields(table), small(unit="token", plates=kind))
    saved = run.dictionary.save(tmp_path / "kept")
    loaded = ConceptDictionary.load(saved)
    assert loaded.plates.digest == run.dictionary.plates.digest
    np.testing.assert_array_equal(loaded.plates.common, run.dictionary.plates.common)


def test_a_plate_without_controls_is_refused_where_each_is_placed_by_its_own(table, tmp_path):
    listing = list_fields(table, "Metadata_control and Metadata_Plate == 'P1'")
    for plates in ("centre", "whiten"):
        assert "The plate 'P2' has no control of its own" in refusal(
            lambda plates=plates: run_plate(listing, tmp_path / "out", small(plates=plates))
        )
    # Not asked for, plates are taken as they are, and it is said.
    options = PlateOptions(until="dictionary")
    summary = run_plate(listing, tmp_path / "out", small(unit="crop"), options=options)
    assert any("so plates are taken as they are" in note for note in summary["notes"])
    saved = ConceptDictionary.load(tmp_path / "out" / "dictionary.microdl.safetensors")
    assert saved.plates is None


def test_control_wells_are_held_back_on_every_plate_alike():
    fields = [
        FieldInfo(f"{plate}{well}{site}", is_control=well < 8, plate=plate, well=f"A{well:02d}")
        for plate in "PQ"
        for well in range(8 if plate == "P" else 12)
        for site in "ab"
    ]
    held = hold_back(fields, None, 0)
    wells = {(fields[n].plate, fields[n].well) for n in held}
    # Wells whole, half of each plate, none of a plate with few.
    assert len(held) == 2 * len(wells) == 16
    assert sum(plate == "P" for plate, _ in wells) == 4
    assert all(fields[n].is_control for n in held)
    assert hold_back(fields[:14], None, 0) == []
    assert len(hold_back(fields[:6], 0.9, 0)) == 4
    assert hold_back(fields, 0.0, 0) == []
    # Whatever the order of the fields.
    again = hold_back(fields[::-1], None, 0)
    assert {(fields[::-1][n].plate, fields[::-1][n].well) for n in again} == wells
