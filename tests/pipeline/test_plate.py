from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.refusals import refusal
from napari_microdl.cli import main
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.concepts.store import open_activations
from napari_microdl.core.safetensors_files import read_safetensors
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.fields.field import FieldInfo
from napari_microdl.fields.tables import read_fields
from napari_microdl.pipeline.plate.folder import sole_driver
from napari_microdl.pipeline.plate.listing import list_fields
from napari_microdl.pipeline.plate.run import PlateOptions, run_plate
from napari_microdl.pipeline.plate.sampling import draw_fields, draw_units
from napari_microdl.pipeline.run import PipelineResult, PipelineRun, run_pipeline
from pipeline.plate_cases import (
    command,
    content_of,
    differing,
    log_of,
    run_whole,
    settings_file,
    spoil,
    write_ome_zarr,
    write_table,
)
from pipeline.small_run import small


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_table(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def whole(table) -> PipelineResult:
    return run_pipeline(read_fields(table), small())


@pytest.fixture(scope="module")
def plate(table, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("plate") / "out"
    run_plate(list_fields(table), out, small())
    return out


# The same numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "weight"), [("cell", 0.0), ("crop", 0.0), ("cell", 50.0)], ids=str
)
def test_a_plate_is_whitened_and_learned_as_in_one_piece(unit, weight, table, tmp_path):
    config = small(unit=unit, background_weight=weight)
    run = PipelineRun(read_fields(table), config)
    whole, vectors = run.result().dictionary, run.samples().vectors
    run_plate(list_fields(table), tmp_path / "out", config)
    plate = ConceptDictionary.load(tmp_path / "out" / "dictionary.microdl.safetensors")
    # Sums in another order; half precision in what the whitening sees.
    np.testing.assert_allclose(plate.position.offsets, whole.position.offsets, atol=1e-6)
    if unit == "cell":
        np.testing.assert_allclose(plate.position.scales, whole.position.scales, rtol=1e-4)
    assert plate.whitening.shrinkage == whole.whitening.shrinkage
    assert plate.whitening.n_samples_seen_ == whole.whitening.n_samples_seen_
    scale = np.abs(whole.whitening.mean_).max()
    np.testing.assert_allclose(
        plate.whitening.mean_ / scale, whole.whitening.mean_ / scale, atol=5e-4
    )
    variance = whole.whitening.explained_variance_
    np.testing.assert_allclose(
        plate.whitening.explained_variance_, variance, atol=2e-3 * variance.max()
    )
    # What atoms are learned from is the same but for a turn: directions that vary alike may mix.
    one, other = (d.whiten(vectors) for d in (plate, whole))
    np.testing.assert_allclose(one @ one.T, other @ other.T, atol=5e-3)
    assert plate.spec == whole.spec


def test_an_applied_dictionary_gives_a_plate_what_the_command_line_gives(
    table, whole, tmp_path, monkeypatch
):
    saved = whole.dictionary.save(tmp_path / "given")
    applied = run_pipeline(read_fields(table), small(), dictionary=ConceptDictionary.load(saved))
    run_plate(list_fields(table), tmp_path / "out", small(), dictionary=saved)
    found = open_activations(tmp_path / "out" / "activations")
    units = applied.activations.units
    pd.testing.assert_frame_equal(found.units[units.columns], units, check_dtype=False)
    assert set(found.units["Metadata_dose"]) == {"0", "5"}
    np.testing.assert_allclose(found.vectors, applied.activations.vectors, atol=1e-5)
    np.testing.assert_allclose(
        found.codes.toarray(), applied.activations.codes.toarray(), rtol=1e-4, atol=1e-5
    )


def test_the_window_finds_in_a_field_what_the_plate_run_found(table, plate):
    dictionary = ConceptDictionary.load(plate / "dictionary.microdl.safetensors")
    kept = open_activations(plate / "activations")
    fields = read_fields(table)
    here = run_pipeline(fields[1:2], small(), dictionary=dictionary).activations
    rows = kept.rows_of_field(1)
    assert len(rows) == len(here.units) > 0
    there = kept.codes[rows].toarray()
    # Half precision between the passes.
    np.testing.assert_allclose(there, here.codes.toarray(), atol=0.01 * np.abs(there).max())
    # What the fit chose is known to who applies it elsewhere.
    assert dictionary.figures["chosen"]["concept"] == kept.ranking.index[0]


def test_wells_are_means_over_their_cells(plate):
    found = open_activations(plate / "activations")
    wells = pd.read_parquet(plate / "wells.parquet")
    assert wells["Metadata_Object_Count"].sum() == len(found.units)
    names = found.units["Metadata_Well"].to_numpy()
    for _, well in wells.iterrows():
        rows = names == well["Metadata_Well"]
        for concept in (0, 5):
            values = found.activation(concept)[rows]
            column = f"{concept:04d}"
            assert well[f"Cells_Concept_{column}"] == pytest.approx(values.mean(), abs=1e-5)
            assert well[f"Cells_ConceptShare_{column}"] == pytest.approx((values > 0).mean())
            cosine = found.alignment(concept)[rows].mean()
            assert well[f"Cells_ConceptCosine_{column}"] == pytest.approx(cosine, abs=1e-5)
    # All that the table knows, and nothing that differs within a well.
    assert set(wells["Metadata_dose"]) == {"0", "5"}
    assert "Metadata_Site" not in wells
    concepts = pd.read_csv(plate / "concepts.csv").set_index("concept")
    assert concepts.loc[5, "feature"] == "Cells_Concept_0005"


# What can go wrong --------------------------------------------------------------------------------


def test_fields_that_cannot_be_used_are_counted_apart(tmp_path, capsys):
    table = write_table(tmp_path / "images")
    spoil(table, unreadable="O05_s1", odd="O07_s1", missing="O08_s1", blank="O11_s1")
    arguments = [str(table), "--out", str(tmp_path / "out"), "--config"]
    assert main(["plate", "run", *arguments, str(settings_file(tmp_path))]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["n_fields"], summary["n_done"]) == (8, 4)
    assert [f["name"] for f in summary["not_imaged"]] == ["O08_s1"]
    unreadable = {f["name"]: f["reason"] for f in summary["unreadable"]}
    assert set(unreadable) == {"O05_s1", "O07_s1"}
    assert "O05_s1.tif" in unreadable["O05_s1"]
    assert "(3, 2, 40, 40)" in unreadable["O07_s1"]
    assert [f["name"] for f in summary["no_cells"]] == ["O11_s1"]
    printed = capsys.readouterr().out
    assert "1 field not imaged: O08_s1" in printed
    assert "1 field without cells: O11_s1." in printed


def test_a_plate_of_which_nothing_can_be_read_says_why(tmp_path):
    table = write_table(tmp_path / "images")
    for image in table.parent.glob("*.tif"):
        image.write_bytes(b"II*\0")
    assert "cannot be read as an image" in refusal(
        lambda: run_plate(list_fields(table), tmp_path / "out", small())
    )


def test_what_is_there_and_whole_is_not_made_again(table, plate):
    before = content_of(plate)
    written = {p: p.stat().st_mtime_ns for p in plate.glob("fields/*/*")}
    damaged = plate / "fields" / "vectors" / "000003.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    n = len(log_of(plate))
    run_plate(list_fields(table), plate, small())
    after = content_of(plate)
    assert [name for name in before | after if before.get(name) != after.get(name)] == []
    changed = {p.name for p, at in written.items() if p.stat().st_mtime_ns != at}
    assert changed == {damaged.name}
    made = [(e["work"], e["number"]) for e in log_of(plate)[n:] if e.get("fresh")]
    assert made == [("vectors", 3)]


def test_a_folder_of_another_run_is_refused(table, plate, tmp_path):
    listing = list_fields(table)
    other = small(layer=1)
    assert "settings.tokens.layer was 2 and is 1" in refusal(
        lambda: run_plate(listing, plate, other)
    )
    # How a run goes may differ.
    run_plate(listing, plate, small(batch_size=1))
    (tmp_path / "notes.txt").write_text("mine")
    assert "holds other files" in refusal(lambda: run_plate(listing, tmp_path, small()))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != ".lock") == ["notes.txt"]


def test_of_two_drivers_the_second_is_told(table, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["plate", "run", str(table), "--out", str(out)]
    with sole_driver(out):
        assert main([*arguments, "--config", str(settings_file(tmp_path))]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"A run is at work in '{out}' already (process {os.getpid()} on " in error


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scaling": "plate"}, "set the scaling of the tokens to 'image'"),
        ({"channels": ("DNA",)}, "has no channel 'DNA'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_once(changes, sentence, table, tmp_path):
    out = tmp_path / "out"
    assert sentence in refusal(lambda: run_plate(list_fields(table), out, small(**changes)))


def test_a_whitening_needs_controls(table, tmp_path):
    listing = list_fields(table, "Metadata_Well == 'A01'")
    assert "No control field is chosen" in refusal(
        lambda: run_plate(listing, tmp_path / "out", small())
    )


def test_a_dry_run_says_what_a_plate_will_take(table, tmp_path, capsys):
    arguments = [str(table), "--out", str(tmp_path / "out"), "--dry-run"]
    assert main(["plate", "run", *arguments]) == 0
    told = capsys.readouterr().out
    assert told.startswith("8 fields are there, 4 of them controls, with 125 x 130 pixels")
    assert "cells are expected" in told
    assert "hours of one process" in told
    assert not (tmp_path / "out").exists()


def test_a_plate_is_evaluated_from_its_folder(table, tmp_path, capsys):
    out, arguments = tmp_path / "out", ["--labels", "dose", "--shuffles", "19"]
    run_plate(list_fields(table), out, small(unit="crop"))
    assert main(["plate", "evaluate", str(out), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "The dictionary was fitted on 8 of these 8 fields" in printed
    assert (out / "evaluation.html").exists()
    measured = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert measured["choices"]["labels"] == "dose"
    assert "feature" in pd.read_csv(out / "concepts.csv")
    assert main(["plate", "evaluate", str(out), "--labels", "colour"]) == 2
    assert main(["plate", "evaluate", str(tmp_path)]) == 2
    assert "holds no plate run that has ended" in capsys.readouterr().err


def test_a_field_that_comes_later_is_learned_from_too(tmp_path):
    table, out = write_table(tmp_path / "images"), tmp_path / "out"
    late = table.parent / "O12_s1.tif"
    content = late.read_bytes()
    late.unlink()
    assert run_plate(list_fields(table), out, small())["n_done"] == 7
    late.write_bytes(content)
    assert run_plate(list_fields(table), out, small())["n_done"] == 8
    run_plate(list_fields(table), tmp_path / "at once", small())
    assert not differing(out, tmp_path / "at once")


def test_vectors_alone_are_gone_on_from_with_other_controls(table, tmp_path, capsys):
    out, settings = tmp_path / "out", str(settings_file(tmp_path))
    arguments = [str(table), "--out", str(out), "--config", settings]
    assert main(["plate", "embed", *arguments, "--controls", "Metadata_Well == 'none'"]) == 0
    assert "fields.csv, fields/vectors/ and summary.json are in" in capsys.readouterr().out
    assert not (out / "dictionary.microdl.safetensors").exists()
    # The table of the fields is one of image files, wherever it lies.
    assert [f.name for f in read_fields(out / "fields.csv")] == [f.name for f in read_fields(table)]
    n = len(log_of(out))
    for well in ("O05", "O12"):
        controls = ["--controls", f"Metadata_Well == '{well}'"]
        assert main(["plate", "fit", *arguments, *controls]) == 0
        dictionary = ConceptDictionary.load(out / "dictionary.microdl.safetensors")
        controls = [f["well"] for f in dictionary.provenance["fields"] if f["control"]]
        assert controls == [well]
    # How many cells are learned from, and what is held back, is asked for now as well.
    half = [*arguments, "--controls", "Metadata_control", "--hold-back", "0.5"]
    assert main(["plate", "fit", *half, "--samples", "40"]) == 0
    dictionary = ConceptDictionary.load(out / "dictionary.microdl.safetensors")
    held = [f["well"] for f in dictionary.provenance["fields"] if f.get("held_back")]
    assert len(held) == 2
    assert "learned from 40 of" in capsys.readouterr().out
    assert not [e for e in log_of(out)[n:] if e.get("fresh")]


# Drawing ------------------------------------------------------------------------------------------


def test_units_are_drawn_from_all_wells_alike_whatever_the_order_of_fields():
    counts, wells = [50, 5, 200, 150], ["A", "B", "C", "C"]
    rows = draw_units(counts, wells, 105, 3)
    assert [len(r) for r in rows[:2]] == [50, 5]
    assert len(rows[2]) + len(rows[3]) == 50
    assert all((np.diff(r) > 0).all() and r[-1] < n for r, n in zip(rows, counts, strict=True))
    swapped = draw_units([5, 50, 200, 150], ["B", "A", "C", "C"], 105, 3)
    np.testing.assert_array_equal(swapped[2], rows[2])
    assert [len(r) for r in draw_units(counts, wells, 1000, 3)] == counts


def test_fields_are_drawn_from_all_plates_and_conditions():
    fields = [
        FieldInfo(f"{plate}{n}", condition="drug" if n % 10 == 0 else "DMSO", plate=plate)
        for plate in "PQ"
        for n in range(50)
    ]
    drawn = [fields[n] for n in draw_fields(fields, 20, 1)]
    strata = pd.Series([(f.plate, f.condition) for f in drawn]).value_counts()
    assert strata.to_list() == [5, 5, 5, 5]


def test_a_dictionary_can_be_learned_from_some_of_the_cells(table, tmp_path):
    out = tmp_path / "out"
    summary = run_plate(
        list_fields(table), out, small(), options=PlateOptions(most_samples=30, until="dictionary")
    )
    assert summary["n_wells"] is None
    assert any("learned from 30 of" in note for note in summary["notes"])
    assert not (out / "activations").exists()


def test_a_dictionary_can_be_learned_from_all_cells_in_a_file(table, tmp_path):
    out, options = tmp_path / "out", PlateOptions(most_samples=None, until="dictionary")
    run_plate(list_fields(table), out, small(max_steps=40), options=options)
    found = ConceptDictionary.load(out / "dictionary.microdl.safetensors")
    whitened = [
        found.whiten(read_safetensors(path)[0]["vectors"].astype(np.float32))
        for path in sorted((out / "fields" / "vectors").iterdir())
    ]
    whole = np.concatenate(whitened)
    assert found.figures["n_samples"] == len(whole)
    icfl = ICFL(8, 2, 2, max_steps=40, random_state=3).fit(whole)

    def explained(learned: ICFL) -> float:
        rest = whole - learned.inverse_transform(learned.transform(whole))
        return 1 - float((rest**2).sum() / (whole**2).sum())

    # Rows of a file are read in another order; what is learned explains as much.
    assert explained(found.icfl) == pytest.approx(explained(icfl), abs=0.03)
    assert not list((out / "fields").glob("*/.*"))


# Processes ----------------------------------------------------------------------------------------


def wait_for(condition, process) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(table, tmp_path_factory) -> Path:
    """Folder of a run in a process of its own that nothing stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_whole(table, folder / "out", settings_file(folder))
    return folder / "out"


def test_a_driver_that_is_killed_or_stopped_is_gone_on_with(table, undisturbed, tmp_path):
    out, settings = tmp_path / "out", settings_file(tmp_path)
    arguments = ["run", table, "--out", out, "--config", settings]
    # The first drives workers, which end with it.
    for how, after, more in ((signal.SIGKILL, 2, ("--workers", 2)), (signal.SIGINT, 12, ())):
        process = command(*arguments, *more)
        wait_for(lambda after=after: len(log_of(out)) > after, process)
        process.send_signal(how)
        _, error = process.communicate()
        if how == signal.SIGINT:
            assert process.returncode == 130
            last = error.splitlines()[-1]
            assert last == "napari-microdl: stopped; the same command goes on from here."
        else:
            assert process.returncode == -signal.SIGKILL
        assert not (out / "summary.json").exists()
    process = command(*arguments)
    output, error = process.communicate()
    assert process.returncode == 0, error
    assert "8 of 8 fields in 8 wells" in output
    assert not differing(out, undisturbed)


# A folder on a disk of its own, too small at first.
ON_A_SMALL_DISK = """
mkdir disk && mount -t tmpfs -o size=96k tmpfs disk || exit 1
"$@" --out disk/out; echo "ended with $?" >&2
mount -o remount,size=64m disk && "$@" --out disk/out && cp -r disk/out out
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts are of Linux")
def test_a_full_disk_ends_a_run_by_a_sentence_and_it_goes_on_with_more_room(
    table, undisturbed, tmp_path
):
    run = [sys.executable, "-m", "napari_microdl.cli", "plate", "run", str(table)]
    run += ["--config", str(settings_file(tmp_path))]
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh", *run]
    done = subprocess.run(inside, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "ended with" not in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    first, _, second = done.stderr.partition("ended with 2\n")
    assert "No space left on device" in first.splitlines()[-1]
    assert done.returncode == 0, second
    assert not differing(tmp_path / "out", undisturbed)


# Other programs -----------------------------------------------------------------------------------


def test_pycytominer_takes_the_profiles_as_they_are(plate):
    with warnings.catch_warnings():
        # It sets an option that pandas no longer has.
        warnings.simplefilter("ignore")
        pycytominer = pytest.importorskip("pycytominer", reason="reads profiles in this test alone")
        from pycytominer.cyto_utils import load_profiles
    wells = pd.read_parquet(plate / "wells.parquet")
    for name in ("wells.csv", "wells.h5ad"):
        read = load_profiles(plate / name)
        pd.testing.assert_frame_equal(
            # What CSV does not tell: that a dose was a text.
            read[wells.columns].reset_index(drop=True).astype({"Metadata_dose": str}),
            wells, check_dtype=False, check_categorical=False, rtol=1e-5,
        )  # fmt: skip
    features = [c for c in wells if not c.startswith("Metadata_")]
    strata = ["Metadata_condition"]
    means = pycytominer.aggregate(wells, strata=strata, features="infer", operation="mean")
    assert list(means.columns) == [*strata, *features]
    expected = wells.groupby(strata)[features].mean().to_numpy()
    np.testing.assert_allclose(means[features], expected, rtol=1e-4, atol=1e-6)
    normal = pycytominer.normalize(
        wells, features="infer", meta_features="infer", samples="Metadata_control == True"
    )
    controls = wells.loc[wells["Metadata_control"], "Cells_ConceptCosine_0003"]
    z = (wells["Cells_ConceptCosine_0003"] - controls.mean()) / controls.std(ddof=0)
    np.testing.assert_allclose(normal["Cells_ConceptCosine_0003"], z, rtol=1e-3)
    operations = ["variance_threshold", "correlation_threshold", "drop_na_columns", "blocklist"]
    chosen = pycytominer.feature_select(normal, features="infer", operation=operations)
    assert 0 < sum(c.startswith("Cells_") for c in chosen) < len(features)
    agreed = pycytominer.consensus(chosen, replicate_columns=strata, features="infer")
    assert set(agreed["Metadata_condition"]) == {"diffuse", "puncta"}


def test_an_ome_zarr_plate_gives_the_profiles_of_its_files(table, plate, tmp_path):
    """The same wells in files and, written by a library of others, in an OME-Zarr plate."""
    wells = pd.read_csv(table)
    path = write_ome_zarr(table, tmp_path / "P1.zarr")
    conditions = tmp_path / "conditions.csv"
    wells[["Metadata_Well", "Metadata_condition", "Metadata_control"]].to_csv(
        conditions, index=False
    )
    out = tmp_path / "out"
    arguments = [str(path), "--out", str(out), "--metadata", str(conditions), "--config"]
    assert main(["plate", "run", *arguments, str(settings_file(tmp_path))]) == 0
    found, known = (pd.read_csv(folder / "wells.csv") for folder in (out, plate))
    features = [name for name in known.columns if not name.startswith("Metadata")]
    assert list(found["Metadata_Well"]) == list(known["Metadata_Well"])
    assert list(found["Metadata_condition"]) == list(known["Metadata_condition"])
    np.testing.assert_allclose(found[features], known[features], rtol=1e-5, atol=1e-7)
