"""What version 0.1 wrote is still read, and computes what it computed (tests/data/version_0_1)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.concepts.store import open_activations, save_activations
from napari_microdl.core.config import PipelineConfig

FOLDER = Path(__file__).parents[1] / "data" / "version_0_1"
NAMES = ("cells", "control_first", "not_whitened")


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "expected.npz") as file:
        return dict(file)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """As the file's README says: sums come out in another order on another processor."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def assert_rows(found: pd.DataFrame, expected: list[dict[str, Any]]) -> None:
    table = found if found.index.name is None else found.reset_index()
    assert list(table.columns) == list(expected[0])
    for name in table:
        values = [row[name] for row in expected]
        if any(isinstance(value, float) for value in values):
            known = np.array([np.nan if value is None else value for value in values], float)
            np.testing.assert_allclose(table[name].to_numpy(float), known, rtol=1e-5, atol=1e-6)
        else:
            assert table[name].tolist() == values


@pytest.mark.parametrize("name", NAMES)
def test_a_dictionary_says_what_it_said(name: str, expected: dict[str, Any]):
    dictionary = ConceptDictionary.load(FOLDER / f"{name}.microdl.safetensors")
    known = expected["dictionaries"][name]
    model, tokens, units = dictionary.spec.model, dictionary.spec.tokens, dictionary.spec.units
    assert known["spec"] == {
        "model_id": model.id,
        "weights_sha256": model.weights_sha256,
        "weights_licence": model.licence,
        "weights_source": model.source,
        "weights_non_commercial": model.non_commercial,
        "joint": model.joint,
        "patch_size": model.patch_size,
        "intensity": model.intensity,
        "layer": tokens.layer,
        "site": tokens.site,
        "channel_names": list(tokens.channels),
        "channel_tokens": tokens.channel_tokens,
        "scaling": tokens.scaling,
        "tile_size": tokens.tile_size,
        "halo": tokens.halo,
        "unit": units.kind,
        "crop_size": units.crop_size,
        "crop_stride": units.crop_stride,
    }
    for part in ("names", "notes", "tags", "figures", "token_width"):
        assert getattr(dictionary, part) == known[part]
    assert sorted(dictionary.provenance) == known["provenance"]
    assert [field["name"] for field in dictionary.provenance["fields"]] == known["fields"]
    config = PipelineConfig.from_dict(dictionary.provenance["config"])
    assert config == PipelineConfig.of(**known["config"])

    position, icfl, whitening = dictionary.position, dictionary.icfl, dictionary.whitening
    assert tokens.remove_position == (position is not None)
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
def test_a_dictionary_computes_what_it_computed(
    name: str, again: bool, arrays: dict[str, np.ndarray], tmp_path: Path
):
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
def test_activations_are_those_that_were_written(
    again: bool, expected: dict[str, Any], arrays: dict[str, np.ndarray], tmp_path: Path
):
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
