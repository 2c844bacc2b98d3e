"""Activations on disk against the same activations in memory."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import json
import mmap
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from concepts.test_activations import ATOMS, make
from core.refusals import Payload, refusal
from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.localisation import COLUMNS
from napari_microdl.concepts.store import (
    ActivationWriter,
    open_activations,
    replace_dictionary,
    save_activations,
)
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from tasks import Looked, cancelled_at_every_look, cancelling, recorded

# Everything goes in many parts, as a table of a million cells does.
SAVED = {"units_at_once": 3, "values_at_once": 7}


def made() -> ConceptActivations:
    _, activations = make()
    activations.dictionary.names[3] = "bright spots"
    activations.dictionary.notes[3] = "seen near the rim"
    activations.tag_units(np.array([2, 5]), "perturbed")
    return activations


def lies_on_disk(array: object) -> bool:
    """Whether an array is a view of a file, and no copy in memory."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    return array is not None


def arrays_of(folder: Path) -> Path:
    """Where the arrays of a folder lie."""
    (data,) = folder.glob("data-*")
    return data


def of_schema_1(folder: Path) -> Path:
    """The folder as version 0.1 wrote it: all beside the manifest, without digests."""
    for path in (data := arrays_of(folder)).iterdir():
        path.replace(folder / path.name)
    data.rmdir()
    manifest = json.loads((folder / "activations.json").read_text())
    for name in ("data", "digest", "digests"):
        del manifest[name]
    (folder / "activations.json").write_text(json.dumps({**manifest, "schema_version": 1}))
    return folder


def test_nothing_changes_on_the_way_through_the_folder(tmp_path):
    memory = made()
    expected = memory.ranking
    folder = save_activations(memory, tmp_path / "a", **SAVED)
    disk = open_activations(folder, memory.grids, memory.geometry, values_at_once=7)
    assert disk.columns is not None
    for codes in (disk.codes, disk.columns):
        assert lies_on_disk(codes.data)
        assert lies_on_disk(codes.indices)
    assert lies_on_disk(disk.vectors)
    pd.testing.assert_frame_equal(disk.units, memory.units, check_dtype=False)
    assert disk.unit_tags.tolist() == memory.unit_tags.tolist()
    assert disk.dictionary.notes == memory.dictionary.notes
    np.testing.assert_array_equal(disk.codes.toarray(), memory.codes.toarray())
    np.testing.assert_array_equal(disk.vectors, memory.vectors)
    pd.testing.assert_frame_equal(disk.ranking, expected, check_dtype=False)
    for concept in range(ATOMS):
        np.testing.assert_array_equal(disk.activation(concept), memory.activation(concept))
        np.testing.assert_allclose(disk.alignment(concept), memory.alignment(concept), atol=1e-6)
        np.testing.assert_array_equal(disk.heatmap(1, concept), memory.heatmap(1, concept))
        for sign in (1, -1):
            rows = disk.top_units(concept, 5, sign)
            np.testing.assert_array_equal(rows, memory.top_units(concept, 5, sign))
    for row in (0, 9):
        np.testing.assert_array_equal(disk.concepts_of(row)[0], memory.concepts_of(row)[0])
        np.testing.assert_array_equal(disk.similar_units(row)[0], memory.similar_units(row)[0])
    pd.testing.assert_frame_equal(
        disk.compare("blank", "puncta"), memory.compare("blank", "puncta")
    )
    pd.testing.assert_frame_equal(disk.to_frame(), memory.to_frame(), check_dtype=False, atol=1e-6)


def test_cells_written_in_parts_are_ranked_as_in_memory(tmp_path):
    """Parts that are cut out of a larger table begin in its middle; one of them is empty."""
    memory = made()
    folder = tmp_path / "a"
    with ActivationWriter(folder, memory.dictionary, values_at_once=7) as writer:
        for begin, end in ((0, 5), (5, 5), (5, 16)):
            rows = slice(begin, end)
            writer.add(memory.tagged_units().iloc[rows], memory.codes[rows], memory.vectors[rows])
        with pytest.raises(MicrodlError, match=r"is missing|no whole set"):
            open_activations(folder)
        writer.finish()
    disk = open_activations(folder)
    # Without tokens nothing is known of where concepts lie.
    assert disk.ranking[list(COLUMNS)].replace("", np.nan).isna().all(axis=None)
    for one in (disk, memory):
        one.ranking = one.ranking.drop(columns=list(COLUMNS))
    pd.testing.assert_frame_equal(disk.ranking, memory.ranking, check_dtype=False, atol=1e-6)
    assert disk.grids == disk.geometry == []
    assert disk.unit_tags[5] == "perturbed"
    # Arrays are plain files of NumPy.
    np.testing.assert_array_equal(np.load(arrays_of(folder) / "vectors.npy"), memory.vectors)
    by_concept = disk.columns
    assert by_concept is not None
    np.testing.assert_array_equal(by_concept.toarray(), memory.codes.toarray())
    assert all((np.diff(by_concept[:, [c]].indices) > 0).all() for c in range(ATOMS))


def test_a_folder_is_replaced_only_where_it_is_ours(tmp_path):
    memory = made()
    folder = save_activations(memory, tmp_path / "a")
    disk = open_activations(folder)
    assert "being read from" in refusal(save_activations, disk, folder)
    memory.tag_units(np.array([2]), "")
    assert open_activations(save_activations(memory, folder)).unit_tags[2] == ""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.docx").write_text("x")
    assert "holds other files" in refusal(save_activations, memory, tmp_path / "b")
    # What a stopped writer left is no obstacle, and is not opened.
    (folder / "activations.json").unlink()
    assert "activations.json is missing" in refusal(open_activations, folder)
    save_activations(memory, folder)


@pytest.mark.parametrize("before", [False, True], ids=["new folder", "activations there"])
def test_cancelling_at_any_look_leaves_the_folder_as_it_was(tmp_path, before):
    folder = tmp_path / "a"
    if before:
        save_activations(made(), folder)
    there = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = made()
    other.dictionary.names[0] = "another"

    def save() -> None:
        # A copy has no ranking yet.
        save_activations(dataclasses.replace(other), folder, **SAVED)

    n_looks = 0
    for _ in cancelled_at_every_look(save):
        n_looks += 1
        found = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert found == there
        assert len(list(tmp_path.iterdir())) == int(before)
    # They are many: cells, codes turned round, columns, the ranking.
    assert n_looks > 40
    with recorded() as heard:
        save_activations(other, folder, **SAVED)
    # Nothing is left beside it where it ended, and what was told never runs backwards.
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    shares = [progress.share for progress in heard]
    assert shares == sorted(shares)
    assert {progress.message for progress in heard} == {"Saving activations"}
    assert open_activations(folder).dictionary.names[0] == "another"


def test_opening_can_be_cancelled_between_its_checks(tmp_path):
    folder = save_activations(made(), tmp_path / "a")
    with Looked().active() as counted:
        open_activations(folder, values_at_once=7)
    assert counted.looks > 20
    with cancelling(counted.looks - 1):
        open_activations(folder, values_at_once=7)


def test_cells_that_do_not_fit_the_dictionary_are_refused(tmp_path):
    memory = made()
    most = memory.codes.nnz - 1
    with ActivationWriter(tmp_path / "a", memory.dictionary, most_values=most) as writer:
        with pytest.raises(MicrodlError, match="do not fit 16 cells of a dictionary of 8 concepts"):
            writer.add(memory.units, memory.codes, memory.vectors[:3])
        assert "codes at most" in refusal(writer.add, memory.units, memory.codes, memory.vectors)
        assert "nothing to write" in refusal(writer.finish)


def change_manifest(folder: Path, **changes: object) -> None:
    path = folder / "activations.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def far_index(folder: Path, name: str) -> None:
    array = np.load(folder / name)
    array[len(array) // 2] = 10**6
    np.save(folder / name, array)


def times(folder: Path, name: str, factor: float) -> None:
    np.save(folder / name, (np.load(folder / name) * factor).astype(np.float32))


def put_first(folder: Path, name: str, value: float) -> None:
    array = np.load(folder / name)
    array.reshape(-1)[0] = value
    np.save(folder / name, array)


def header_with(folder: Path, name: str, before: bytes, now: bytes) -> None:
    content = (folder / name).read_bytes()
    assert before in content
    (folder / name).write_bytes(content.replace(before, now, 1))


DAMAGE = [
    (lambda f: (f / "vectors.npy").unlink(), r"vectors\.npy is missing"),
    (lambda f: far_index(f, "codes.indices.npy"), "outside of their table"),
    (lambda f: far_index(f, "columns.indices.npy"), "outside of their table"),
    (lambda f: far_index(f, "columns.indptr.npy"), "outside of their table"),
    (lambda f: far_index(f, "units.00.npy"), "outside of its texts"),
    (lambda f: np.save(f / "units.00.npy", np.zeros(16, "f4")), "outside of its texts"),
    (lambda f: np.save(f / "vectors.npy", np.zeros((16, 6))), "is float64 of"),
    (lambda f: (f / "codes.data.npy").write_bytes(b"\x93NUMPY\x01\x00"), "cannot be read"),
    (
        lambda f: (f / "vectors.npy").write_bytes((f / "vectors.npy").read_bytes()[:-8]),
        "cannot be read",
    ),
    (lambda f: (f / "codes.data.npy").write_bytes(pickle.dumps([1])), "cannot be read"),
    (lambda f: np.savez(f / "x.npz", a=[1]) or (f / "x.npz").replace(f / "lengths.npy"), "read"),
    (lambda f: header_with(f, "ranking.02.npy", b"(8,)", b"(8,{"), "cannot be read"),
    (lambda f: header_with(f, "ranking.00.npy", b"(8,), }", b"(99999999999,), }"), "be read"),
    (
        lambda f: np.save(f / "ranking.00.npy", np.load(f / "ranking.00.npy").astype(float)),
        "every concept once",
    ),
    (lambda f: put_first(f, "vectors.npy", np.nan), "lengths are not those of the vectors"),
    (lambda f: times(f, "lengths.npy", 7), "lengths are not those of the vectors"),
    (lambda f: times(f, "columns.data.npy", 3), "codes by concept are not those by cell"),
    (lambda f: times(f, "codes.data.npy", np.nan), "codes are NaN"),
]


@pytest.mark.filterwarnings("ignore:.*of an earlier version and holds no digest")
@pytest.mark.parametrize(("damage", "sentence"), DAMAGE)
def test_a_damaged_folder_is_told_and_nothing_of_it_runs(tmp_path, damage, sentence):
    folder = save_activations(made(), tmp_path / "a")
    damage(arrays_of(folder))
    with pytest.raises(MicrodlError, match=r"is not what was written|is missing"):
        open_activations(folder)
    # Without digests the numbers themselves are looked at.
    folder = of_schema_1(save_activations(made(), tmp_path / "b"))
    open_activations(folder)
    damage(folder)
    with pytest.raises(MicrodlError, match=sentence):
        open_activations(folder)


@pytest.mark.filterwarnings("ignore:.*of an earlier version and holds no digest")
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: change_manifest(f, schema_version=9), "another version"),
        (lambda f: change_manifest(f, n_units=15), "does not hold 15 entries"),
        (lambda f: change_manifest(f, n_values="many"), "n_values is 'many'"),
        (lambda f: change_manifest(f, n_units=True), "n_units is True"),
        (lambda f: change_manifest(f, n_concepts=10**12), "n_concepts is 1000000000000"),
        (lambda f: change_manifest(f, units=[{"name": "a"}]), "cannot be read"),
        (lambda f: change_manifest(f, ranking=[{"file": "x"}] * 20_000), "20008|columns"),
        (lambda f: (f / "activations.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "activations.json").write_text("[" * 100_000), "nested too deep"),
        (lambda f: (f / "activations.json").write_text("[]"), "cannot be read"),
    ],
)
def test_a_damaged_manifest_is_told(tmp_path, damage, sentence):
    folder = save_activations(made(), tmp_path / "a")
    damage(folder)
    with pytest.raises(MicrodlError, match=r"is not what was written|cannot be read|another vers"):
        open_activations(folder)
    folder = of_schema_1(save_activations(made(), tmp_path / "b"))
    damage(folder)
    with pytest.raises(MicrodlError, match=sentence):
        open_activations(folder)


def test_a_folder_of_an_earlier_version_is_read_and_that_it_has_no_digests_is_said(tmp_path):
    memory = made()
    folder = of_schema_1(save_activations(memory, tmp_path / "a"))
    with current_task().taking_notes() as notes:
        disk = open_activations(folder)
    assert len(notes) == 1
    assert "'a' is of an earlier version and holds no digest" in notes[0]
    np.testing.assert_array_equal(disk.codes.toarray(), memory.codes.toarray())
    # Replaced, it is as any other.
    save_activations(memory, folder)
    assert {path.name[:5] for path in folder.iterdir()} == {"activ", ".lock", "data-"}
    open_activations(folder)


def test_every_flipped_bit_is_noticed(tmp_path):
    folder = save_activations(made(), tmp_path / "a")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    assert len(files) > 15
    random = np.random.default_rng(0)
    for path in files:
        content = path.read_bytes()
        for place in random.integers(len(content), size=8):
            changed = bytearray(content)
            changed[place] ^= 1 << int(random.integers(8))
            path.write_bytes(changed)
            if json_alike(content, changed):
                continue
            refusal(open_activations, folder)
        path.write_bytes(content)
    open_activations(folder)


def json_alike(before: bytes, now: bytes) -> bool:
    """Whether two texts are the same values, as spaces between them do not count."""
    try:
        return json.loads(before) == json.loads(now)
    except ValueError:
        return False


class Killed(BaseException):
    """The end of a process, after which nothing of it is done any more."""


@contextlib.contextmanager
def killed_after(step: int):
    """Let this many changes of names happen and none that follow, those of cleaning up too."""
    seen = 0

    def dying(original):
        def call(*arguments, **options):
            nonlocal seen
            seen += 1
            if seen > step:
                raise Killed
            return original(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            *((Path, name) for name in ("replace", "unlink", "mkdir", "rmdir")),
            (shutil, "rmtree"),
        ):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        yield


@pytest.mark.parametrize("before", ["nothing", "schema 1", "this"])
@pytest.mark.filterwarnings("ignore:.*of an earlier version and holds no digest")
def test_a_killed_writer_leaves_the_old_or_the_new_set_whole(tmp_path, monkeypatch, before):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    other, first = made(), made()
    other.dictionary.names[0] = "another"
    found = []
    for step in itertools.count(0, 5 if before == "schema 1" else 1):
        folder = tmp_path / f"{step}" / "a"
        if before != "nothing":
            save_activations(first, folder)
        if before == "schema 1":
            of_schema_1(folder)
        try:
            with killed_after(step):
                save_activations(other, folder)
        except Killed:
            pass
        else:
            break
        try:
            disk = open_activations(folder)
        except MicrodlError:
            assert before == "nothing"
            found.append("none")
        else:
            assert len(disk.units) == 16
            found.append(disk.dictionary.names[0])
        # The next writer is not held up, and clears away what is left.
        assert open_activations(save_activations(other, folder)).dictionary.names[0] == "another"
        assert [path.name for path in folder.parent.iterdir()] == ["a"]
        arrays_of(folder)
    # First the old set, then the new one.
    assert found[0] != "another"
    assert found[-1] == "another"
    assert found == sorted(found, key="another".__eq__)
    assert step > 5


def test_two_may_write_one_folder_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: save_activations(made(), tmp_path / "a"), range(8)))
    assert len(open_activations(tmp_path / "a").units) == 16
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    arrays_of(tmp_path / "a")


def test_names_of_concepts_are_written_again_only_into_their_own_folder(tmp_path):
    memory = made()
    folder = save_activations(memory, tmp_path / "a")
    memory.dictionary.names[1] = "rings"
    replace_dictionary(folder, memory.dictionary)
    assert open_activations(folder).dictionary.names[1] == "rings"
    changed = dataclasses.replace(memory.dictionary)
    changed.icfl = copy.copy(changed.icfl)
    changed.icfl.bias_ = changed.icfl.bias_ + 1
    assert "of another dictionary" in refusal(replace_dictionary, folder, changed)


def test_a_pickled_array_is_not_run(tmp_path):
    folder = of_schema_1(save_activations(made(), tmp_path / "a"))
    np.save(
        folder / "units.07.npy", np.array([Payload(tmp_path / "ran")], object), allow_pickle=True
    )
    assert "cannot be read" in refusal(open_activations, folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    folder = save_activations(made(), tmp_path / "a")
    for path in (arrays_of(folder) / "vectors.npy", folder / "activations.json"):
        path.unlink()
        os.mkfifo(path)
        refusal(open_activations, folder)


def test_codes_keep_their_explicit_zeros_and_order(tmp_path):
    memory = made()
    codes = sparse.csr_array(memory.codes)
    codes.data[1] = 0
    changed = ConceptActivations(memory.units, codes, memory.vectors, memory.dictionary, [], [])
    disk = open_activations(save_activations(changed, tmp_path / "a"))
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(disk.codes, name), getattr(codes, name))
