"""What version 0.1 wrote is still read, and computes what it computed (tests/data/version_0_1)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from concepts.test_dictionary import header_of, of_schema_1
from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.concepts.export import write_table
from napari_microdl.concepts.localisation import COLUMNS
from napari_microdl.concepts.store import open_activations, save_activations
from napari_microdl.core.config import EvaluationChoices, PipelineConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.tables import read_fields
from napari_microdl.models.recipe import HubSource
from napari_microdl.models.weights.hub import check_recorded_digest, recorded_digest
from napari_microdl.pipeline.run import PipelineResult, run_pipeline
from napari_microdl.report import evaluate

# Nothing that it wrote has a digest, and each time that is said.
pytestmark = pytest.mark.filterwarnings("ignore:.*of an earlier version and holds no digest")
FOLDER = Path(__file__).parents[1] / "data" / "version_0_1"
NAMES = ("cells", "control_first", "not_whitened")


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def fields(arrays) -> list[Field]:
    """What the dictionaries were fitted on, with the cells that were found then."""
    wells = [field for field in transfluor() if field.well in {"O05", "O07", "O11", "O12"}]
    return [
        dataclasses.replace(
            field, data=field.data[:, :160, :160].copy(), plate="P1", labels=labels.astype(int)
        )
        for field, labels in zip(wells, arrays["cells.labels"], strict=True)
    ]


def applied(name: str, fields: list[Field]) -> PipelineResult:
    dictionary = ConceptDictionary.load(FOLDER / f"{name}.microdl.safetensors")
    config = PipelineConfig.from_dict(dictionary.provenance["config"])
    return run_pipeline(fields, config, dictionary=dictionary)


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """As the file's README says: sums come out in another order on another processor."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# What tests over single cells are called since.
RENAMED = {"q_value": "q_cells", "p_value": "p_cells"}


def assert_rows(found: pd.DataFrame, expected: list[dict[str, Any]]) -> None:
    table = found if found.index.name is None else found.reset_index()
    expected = [{RENAMED.get(k, k): v for k, v in row.items()} for row in expected]
    # Where concepts lie, and in which shares of cells, is looked at since.
    since = (*COLUMNS, "rate_label", "rate_controls")
    assert [name for name in table if name not in since] == list(expected[0])
    for name in expected[0]:
        values = [row[name] for row in expected]
        if any(isinstance(value, float) for value in values):
            known = np.array([np.nan if value is None else value for value in values], float)
            np.testing.assert_allclose(table[name].to_numpy(float), known, rtol=1e-5, atol=1e-6)
        else:
            assert table[name].tolist() == values


@pytest.mark.parametrize("name", NAMES)
def test_a_dictionary_says_what_it_said(name, expected, tmp_path):
    dictionary = ConceptDictionary.load(FOLDER / f"{name}.microdl.safetensors")
    known = expected["dictionaries"][name]
    # As it was, and as it is written now.
    written = header_of(dictionary.save(tmp_path / name))
    assert of_schema_1(written)["spec"] == known["spec"]
    assert dictionary.spec.units.pooling == "mean"
    for part in ("names", "notes", "tags", "figures", "token_width"):
        assert getattr(dictionary, part) == known[part]
    assert sorted(dictionary.provenance) == known["provenance"]
    assert [field["name"] for field in dictionary.provenance["fields"]] == known["fields"]
    config = PipelineConfig.from_dict(dictionary.provenance["config"])
    assert config == PipelineConfig.of(**known["config"])

    position, icfl, whitening = dictionary.position, dictionary.icfl, dictionary.whitening
    assert dictionary.spec.tokens.remove_position == (position is not None)
    assert known["position"] == (
        None
        if position is None
        else {"offsets": list(position.offsets.shape), "basis": list(position.basis.shape)}
    )
    for key, value in known["icfl"].items():
        if key == "bias_sum":
            assert float(icfl.bias_.sum(dtype=float)) == value
        elif key in ("groups", "dead"):
            assert getattr(icfl, f"{key}_").tolist() == value
        elif key == "n_features":
            assert icfl.n_features_in_ == value
        else:
            fitted = key in ("n_atoms", "n_iterations", "atoms_per_iteration")
            assert getattr(icfl, f"{key}_" if fitted else key) == value
    assert (whitening is None) == (known["whitening"] is None)
    for key, value in (known["whitening"] or {}).items():
        assert getattr(whitening, "n_samples_seen_" if key == "n_samples_seen" else key) == value


@pytest.mark.parametrize("again", [False, True], ids=["as it is", "saved again"])
@pytest.mark.parametrize("name", NAMES)
def test_a_dictionary_computes_what_it_computed(name, again, arrays, tmp_path):
    dictionary = ConceptDictionary.load(FOLDER / f"{name}.microdl.safetensors")
    if again:
        dictionary = ConceptDictionary.load(dictionary.save(tmp_path / name))
    vectors = arrays[f"{name}.vectors"]
    whitened = dictionary.whiten(vectors)
    if dictionary.whitening is None:
        assert whitened is vectors
    else:
        assert_close(whitened, arrays[f"{name}.whitened"])
    assert_close(dictionary.encode(vectors).toarray(), arrays[f"{name}.codes"])
    cosines = [dictionary.cosine(whitened, n) for n in range(dictionary.n_concepts)]
    assert_close(np.stack(cosines, axis=1), arrays[f"{name}.cosines"])
    decoded = dictionary.icfl.inverse_transform(arrays[f"{name}.codes"])
    assert_close(decoded, arrays[f"{name}.decoded"])


@pytest.mark.parametrize("again", [False, True], ids=["as it is", "saved again"])
def test_activations_are_those_that_were_written(again, expected, arrays, tmp_path):
    activations = open_activations(FOLDER / "activations")
    if again:
        activations = open_activations(save_activations(activations, tmp_path / "again"))
    known = expected["activations"]
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(
            getattr(activations.codes, part), arrays[f"activations.{part}"]
        )
    cosines = [activations.alignment(concept) for concept in range(activations.n_concepts)]
    assert_close(np.stack(cosines, axis=1), arrays["activations.cosines"])
    assert activations.dictionary.names == known["names"]
    assert_rows(activations.tagged_units(), known["units"])
    assert_rows(activations.ranking, known["ranking"])
    assert_rows(activations.compare("diffuse", "puncta"), known["compared"])
    for concept, rows in known["top_units"].items():
        assert activations.top_units(int(concept), 5).tolist() == rows
    # The ranking that is worked out anew is the one that was written.
    assert_rows(dataclasses.replace(activations).ranking, known["ranking"])


@pytest.mark.parametrize("name", NAMES)
def test_a_dictionary_is_applied_as_it_was(name, fields, expected, arrays):
    result = applied(name, fields)
    codes, known = result.activations.codes, expected["dictionaries"][name]["applied"]
    assert (codes.shape[0], codes.nnz) == (known["n_units"], known["n_codes"])
    assert_close(codes.sum(axis=0, dtype=float), np.array(known["sum_of_concept"]))
    assert_rows(result.activations.ranking.head(5), known["ranking"])
    if name == "cells":
        np.testing.assert_array_equal(np.stack(result.labels), arrays["cells.labels"])
        for part in ("indices", "indptr"):
            np.testing.assert_array_equal(getattr(codes, part), arrays[f"cells.applied.{part}"])
        assert_close(codes.data, arrays["cells.applied.data"])


def tagged_run(fields: list[Field]) -> ConceptActivations:
    """The run of which the evaluation and the tables were written."""
    activations = applied("cells", fields).activations
    activations.unit_tags = open_activations(FOLDER / "activations").unit_tags
    return activations


def test_the_evaluation_finds_what_it_found(fields):
    known = json.loads((FOLDER / "run" / "evaluation.json").read_text(encoding="utf-8"))
    choices = EvaluationChoices(**known["choices"])
    found = json.loads(evaluate(tagged_run(fields), choices).to_json())
    assert found.pop("more") == {}
    # Two wells a side: nothing can be found, and that is said since.
    assert found.pop("finding")["p_value"] is None
    # Not there then.
    found.pop("sets")
    found.pop("places")
    for name in ("wells", "take_off_positions", "sets_by"):
        found["choices"].pop(name)
    assert_alike(found, known, rel=1e-4, abs=1e-5)


def assert_alike(found: Any, known: Any, **tolerance: float) -> None:
    """The same, numbers within the tolerance."""
    if isinstance(known, dict):
        assert list(found) == list(known)
        found, known = list(found.values()), list(known.values())
    if isinstance(known, list):
        assert len(found) == len(known)
        for one, other in zip(found, known, strict=True):
            assert_alike(one, other, **tolerance)
    elif isinstance(known, float):
        assert found == pytest.approx(known, **tolerance)
    else:
        assert found == known


@pytest.mark.parametrize("name", ["cells", "exported", "concepts"])
def test_tables_hold_what_they_held(name, fields, tmp_path):
    activations = tagged_run(fields)
    tables = {
        "cells": lambda: activations.to_frame(),
        "exported": lambda: activations.to_frame([2, 5]),
        "concepts": lambda: activations.ranking.rename_axis("concept"),
    }
    path = tmp_path / f"{name}.csv"
    write_table(tables[name](), path)
    found, known = pd.read_csv(path), pd.read_csv(FOLDER / "run" / f"{name}.csv")
    since = (*COLUMNS, "rate_label", "rate_controls")
    found = found.drop(columns=[column for column in since if column in found])
    known = known.rename(columns=RENAMED)
    # A name that a person gave stands behind the number now.
    found.columns = [re.sub(r"^((activation|cosine)_\d+)_.*", r"\1", c) for c in found.columns]
    pd.testing.assert_frame_equal(found, known, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "tolerance"), [("newton", 1e-5), ("adam", 1e-3)])
def test_a_fit_that_was_stopped_goes_on(name, tolerance, expected, arrays, tmp_path):
    known, path = expected["fits"][name], tmp_path / "checkpoint"
    # It is deleted when the fit ends.
    shutil.copyfile(FOLDER / "fit" / f"{name}.checkpoint", path)
    icfl = ICFL(**known["parameters"])
    x = np.load(FOLDER / "fit" / "samples.npy")
    steps = [record.step for record in icfl.fit_iter(x, checkpoint=path, resume=True)]
    assert (steps[0], steps[-1]) == (known["first_step"], known["last_step"])
    assert icfl.history_[-1].r2 == pytest.approx(known["r2"], rel=tolerance)
    for found, part in ((icfl.components_, "components"), (icfl.bias_, "bias")):
        value = arrays[f"fit.{name}.{part}"]
        np.testing.assert_allclose(found, value, rtol=0, atol=tolerance * np.abs(value).max())


@pytest.mark.parametrize("name", ["window.fields.csv", "stack.fields.csv"])
def test_tables_of_fields_hold_the_same_images(name, expected):
    assert [
        {
            "name": field.name,
            "channels": list(field.channel_names),
            "condition": field.condition,
            "control": field.is_control,
            "well": field.well,
            "site": field.site,
            "plate": field.plate,
            "type": str(field.read().dtype),
            "shape": list(field.read().shape),
            "pixels": sha256(field.read()),
            "labels": None
            if field.labels is None
            else sha256(np.asarray(field.read_labels(), np.int32)),
        }
        for field in read_fields(FOLDER / name)
    ] == expected["tables"][name]


def test_weights_used_before_are_held_to_what_was_written_down(expected, own_cache):
    shutil.copytree(FOLDER / "first-use", own_cache / "first-use")
    source = HubSource("some-lab/some-model", "0123456789ab" * 3 + "0123")
    assert recorded_digest(source) == expected["first_use"]
    check_recorded_digest(source, "model.safetensors", expected["first_use"])
    with pytest.raises(MicrodlError, match="is not the file that was used first"):
        check_recorded_digest(source, "model.safetensors", "1e" * 32)
