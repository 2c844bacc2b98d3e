"""The folder of a run: the old or the new, whole, with what a person has added."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from core.refusals import refusal
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import read_config, read_window, write_config
from napari_microdl.fields.field import Field
from napari_microdl.pipeline.files import write_run
from napari_microdl.pipeline.run import PipelineResult, run_pipeline
from napari_microdl.pipeline.run_folder import run_folder
from pipeline.small_run import small

DICTIONARY = "dictionary.microdl.safetensors"
FILES = ["concepts.csv", "crops.csv", DICTIONARY, "report.json", "settings.json"]
CROPS = small(unit="crop", cache=False)


@pytest.fixture(scope="module")
def first(fields: list[Field]) -> PipelineResult:
    return run_pipeline(fields, CROPS)


@pytest.fixture(scope="module")
def second(fields: list[Field]) -> PipelineResult:
    return run_pipeline(fields, CROPS.with_settings(n_atoms=6))


def write(result: PipelineResult, out: Path, *, overwrite: bool = False) -> list[str]:
    """Write a run as the command line does; what was noted of the one before."""
    # What is renamed in a file is not renamed in memory.
    dictionary = result.dictionary
    names, notes, tags = list(dictionary.names), list(dictionary.notes), list(dictionary.tags)
    activations = dataclasses.replace(
        result.activations,
        dictionary=dataclasses.replace(dictionary, names=names, notes=notes, tags=tags),
    )
    with run_folder(out, result.config, overwrite=overwrite) as folder:
        write_run(dataclasses.replace(result, activations=activations), folder.path)
    return folder.notes


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def name_a_concept(out: Path) -> None:
    """What a person does in the window."""
    dictionary = ConceptDictionary.load(out / DICTIONARY)
    dictionary.names[2], dictionary.notes[2] = "puncta (by hand)", "hours of work"
    dictionary.tags[3] = "perturbed"
    dictionary.save(out / DICTIONARY)


def test_a_run_is_there_once_it_is_whole(first, tmp_path):
    out = tmp_path / "made" / "here"
    with run_folder(out) as folder:
        write_run(first, folder.path)
        assert not out.exists()
    assert names_in(out) == FILES
    assert names_in(out.parent) == ["here"]
    assert folder.path == out


def test_a_run_that_is_there_is_refused_and_stays_until_a_new_one_is_whole(first, second, tmp_path):
    out = tmp_path / "run"
    write(first, out)
    before = contents(out)
    sentence = refusal(write, second, out)
    assert sentence.startswith(f"'{out}' holds a run already ('concepts.csv', 'crops.csv'")
    assert "--overwrite" in sentence
    assert contents(out) == before
    # Of another unit, and a picture of a concept that there may not be any more.
    (out / "cells.csv").write_text("stale")
    (out / "concept_3.pdf").write_text("stale")
    with run_folder(out, overwrite=True) as folder:
        write_run(second, folder.path)
        assert contents(out) == {**before, "cells.csv": b"stale", "concept_3.pdf": b"stale"}
    assert names_in(out) == FILES
    assert names_in(tmp_path) == ["run"]
    assert ConceptDictionary.load(out / DICTIONARY).n_concepts == 6


def test_other_files_in_the_folder_and_the_part_of_the_window_stay(first, second, tmp_path):
    (tmp_path / "images.tif").write_bytes(b"of a person")
    window = {"fields": "settings.fields.csv"}
    write_config(first.config, tmp_path / "settings.json", window)
    # The settings that the window saved are those of the run.
    write(first, tmp_path)
    assert read_window(tmp_path / "settings.json") == window
    write(second, tmp_path, overwrite=True)
    assert names_in(tmp_path) == sorted([*FILES, "images.tif"])
    assert read_window(tmp_path / "settings.json") == window
    assert read_config(tmp_path / "settings.json") == second.config
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["config_hash"] == second.config.hash
    assert len(pd.read_csv(tmp_path / "concepts.csv")) == 6


def test_other_settings_in_the_folder_are_not_replaced(first, tmp_path):
    write_config(first.config.with_settings(n_atoms=99), tmp_path / "settings.json")
    assert "holds a run already ('settings.json')" in refusal(write, first, tmp_path)


def test_words_of_a_person_stay_with_the_same_concepts(first, tmp_path):
    out = tmp_path / "run"
    write(first, out)
    name_a_concept(out)
    assert write(first, out, overwrite=True) == ["Names, notes and tags of 2 concepts were kept."]
    kept = ConceptDictionary.load(out / DICTIONARY)
    assert (kept.names[2], kept.notes[2]) == ("puncta (by hand)", "hours of work")
    assert kept.tags[3] == "perturbed"
    assert kept.names[3] == "concept 3"
    assert names_in(out) == FILES


def test_words_that_no_concept_has_are_kept_in_their_dictionary(first, second, tmp_path):
    out = tmp_path / "run"
    write(first, out)
    name_a_concept(out)
    (note,) = write(second, out, overwrite=True)
    aside = "dictionary-before-1.microdl.safetensors"
    assert "names, notes or tags of 2 concepts that the new one does not have" in note
    assert aside in note
    assert ConceptDictionary.load(out / aside).names[2] == "puncta (by hand)"
    # The next run keeps it, too, and other words of the same concept do not take its place.
    assert write(second, out, overwrite=True) == []
    assert names_in(out) == sorted([*FILES, aside])
    (out / DICTIONARY).write_bytes((out / aside).read_bytes())
    first.dictionary.names[2] = "another"
    try:
        (note,) = write(first, out, overwrite=True)[1:]
    finally:
        first.dictionary.names[2] = "concept 2"
    assert "of 1 concept that the new one does not have" in note
    again = ConceptDictionary.load(out / "dictionary-before-2.microdl.safetensors")
    assert again.names[2] == "puncta (by hand)"
    assert ConceptDictionary.load(out / DICTIONARY).names[2] == "another"


def test_a_dictionary_that_cannot_be_read_is_kept(first, tmp_path):
    out = tmp_path / "run"
    write(first, out)
    (out / DICTIONARY).write_bytes(b"of a later version")
    (note,) = write(first, out, overwrite=True)
    assert "cannot be read; it is kept as dictionary-before-1" in note
    assert (out / "dictionary-before-1.microdl.safetensors").read_bytes() == b"of a later version"


@pytest.mark.parametrize("name", ["plate.json", "activations.json"])
def test_a_folder_that_others_write_is_refused(first, tmp_path, name):
    (tmp_path / name).write_text("{}")
    assert "choose another folder" in refusal(write, first, tmp_path, overwrite=True)
    assert names_in(tmp_path) == [name]


def test_what_is_whole_stays_where_the_rest_fails(first, second, tmp_path):
    out = tmp_path / "run"

    def fail(result: PipelineResult, *, written: bool) -> list[str]:
        try:
            with run_folder(out, overwrite=True) as folder:
                if written:
                    result.dictionary.save(folder.path / DICTIONARY)
                raise OSError("No space left")
        except OSError as error:
            return getattr(error, "__notes__", [])

    assert fail(first, written=False) == []
    assert names_in(tmp_path) == []
    assert fail(first, written=True) == [f"What was whole by then is in {out}."]
    assert names_in(out) == [DICTIONARY]
    before = contents(out)
    aside = tmp_path / "run-unfinished"
    assert fail(second, written=True) == [f"What was whole by then is in {aside}."]
    assert contents(out) == before
    assert ConceptDictionary.load(aside / DICTIONARY).n_concepts == 6
    assert names_in(tmp_path) == ["run", "run-unfinished"]


def test_a_run_without_another_to_replace_is_in_place_before_what_is_added(first, tmp_path):
    out = tmp_path / "run"
    with contextlib.suppress(KeyboardInterrupt), run_folder(out) as folder:
        write_run(first, folder.path)
        folder.keep()
        assert names_in(folder.path) == FILES
        raise KeyboardInterrupt
    assert names_in(out) == FILES


def test_two_runs_for_one_place_are_refused(first, tmp_path):
    out = tmp_path / "run"
    with run_folder(out) as folder:
        assert "A run is at work for" in refusal(write, first, out)
        write_run(first, folder.path)
    assert names_in(out) == FILES


def test_what_a_killed_run_left_goes_with_the_next(first, tmp_path):
    (tmp_path / ".run.unfinished" / "below").mkdir(parents=True)
    (tmp_path / ".run.unfinished" / "cells.csv").write_text("half")
    write(first, tmp_path / "run")
    assert names_in(tmp_path) == ["run"]
    assert names_in(tmp_path / "run") == FILES


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that root cannot write to either")
def test_a_folder_that_cannot_be_written_to_is_found_before_the_work():
    with pytest.raises(OSError, match="/proc/sys/fs"), run_folder(Path("/proc/sys/fs")):
        pytest.fail("the work has begun")


def test_the_folder_where_one_stands_is_not_taken_away(first, second, tmp_path, monkeypatch):
    write(first, tmp_path)
    monkeypatch.chdir(tmp_path)
    here = Path().stat().st_ino
    write(second, Path(), overwrite=True)
    assert Path().stat().st_ino == here
    assert names_in(Path()) == FILES
    assert ConceptDictionary.load(DICTIONARY).n_concepts == 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_writer_that_is_killed_leaves_the_old_or_the_new_whole():
    script = Path(__file__).parents[2] / "benchmarks" / "kills.py"
    done = subprocess.run(
        [sys.executable, script, "--kills", "5", "--only", "write"],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    seen = json.loads(done.stdout.splitlines()[-1])["write"]
    assert seen["kills"] == seen["old"] + seen["new"] == 5, done.stdout
    assert seen["left over"] == 0
