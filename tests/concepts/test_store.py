"""Activations on disk against the same activations in memory."""

from __future__ import annotations

import dataclasses
import json
import mmap
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from concepts.test_activations import ATOMS, make
from core.refusals import Payload, refusal
from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.localisation import COLUMNS
from napari_microdl.concepts.store import ActivationWriter, open_activations, save_activations
from napari_microdl.core.errors import MicrodlError
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
    np.testing.assert_array_equal(np.load(folder / "vectors.npy"), memory.vectors)
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


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "vectors.npy").unlink(), r"vectors\.npy is missing"),
        (lambda f: change_manifest(f, schema_version=9), "another version"),
        (lambda f: change_manifest(f, n_units=15), "does not hold 15 entries"),
        (lambda f: change_manifest(f, n_values="many"), "cannot be read"),
        (lambda f: far_index(f, "codes.indices.npy"), "outside of their table"),
        (lambda f: far_index(f, "columns.indices.npy"), "outside of their table"),
        (lambda f: far_index(f, "columns.indptr.npy"), "outside of their table"),
        (lambda f: far_index(f, "units.00.npy"), "outside of its texts"),
        (lambda f: np.save(f / "vectors.npy", np.zeros((16, 6))), "is float64 of"),
        (lambda f: (f / "codes.data.npy").write_bytes(b"\x93NUMPY\x01\x00"), "cannot be read"),
        (
            lambda f: (f / "vectors.npy").write_bytes((f / "vectors.npy").read_bytes()[:-8]),
            "cannot be read",
        ),
        (lambda f: (f / "codes.data.npy").write_bytes(pickle.dumps([1])), "cannot be read"),
        (lambda f: (f / "activations.json").write_text("{"), "cannot be read"),
    ],
)
def test_a_damaged_folder_is_told_and_nothing_of_it_runs(tmp_path, damage, sentence):
    folder = save_activations(made(), tmp_path / "a")
    damage(folder)
    with pytest.raises(MicrodlError, match=sentence):
        open_activations(folder)


def test_a_pickled_array_is_not_run(tmp_path):
    folder = save_activations(made(), tmp_path / "a")
    np.save(
        folder / "units.07.npy", np.array([Payload(tmp_path / "ran")], object), allow_pickle=True
    )
    assert "cannot be read" in refusal(open_activations, folder)
    assert not (tmp_path / "ran").exists()


def test_codes_keep_their_explicit_zeros_and_order(tmp_path):
    memory = made()
    codes = sparse.csr_array(memory.codes)
    codes.data[1] = 0
    changed = ConceptActivations(memory.units, codes, memory.vectors, memory.dictionary, [], [])
    disk = open_activations(save_activations(changed, tmp_path / "a"))
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(disk.codes, name), getattr(codes, name))
