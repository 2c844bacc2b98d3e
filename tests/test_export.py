from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from napari_microdl.errors import MicrodlError
from napari_microdl.export import label_features, to_anndata, write_anndata, write_table
from test_activations import ATOMS, make


def test_csv_keeps_values_and_a_named_index(tmp_path: Path):
    _, activations = make()
    ranking = activations.ranking
    back = pd.read_csv(write_table(ranking, tmp_path / "concepts.csv"))
    assert back["concept"].tolist() == ranking.index.tolist()
    np.testing.assert_allclose(back["effect"], ranking["effect"])
    back = pd.read_csv(write_table(activations.units, tmp_path / "units.csv"))
    assert list(back.columns) == list(activations.units.columns)


def test_parquet_keeps_values_and_types(tmp_path: Path):
    pytest.importorskip("pyarrow")
    _, activations = make()
    table = activations.to_frame([2])
    back = pd.read_parquet(write_table(table, tmp_path / "cells.parquet"))
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    assert back["Metadata_control"].dtype == bool
    assert back["activation_2"].dtype == np.float32


def test_another_suffix_is_refused(tmp_path: Path):
    with pytest.raises(MicrodlError, match=r"'a\.xlsx' is neither CSV nor Parquet"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path / "a.xlsx")
    with pytest.raises(MicrodlError, match=r"end it in \.h5ad"):
        write_anndata(make()[1], tmp_path / "a.csv")


def test_a_missing_package_is_asked_for(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MicrodlError, match="need the package pyarrow: pip install"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path / "a.parquet")
    _, activations = make()
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(MicrodlError, match="need the package anndata: pip install"):
        to_anndata(activations)


@pytest.fixture
def anndata() -> ModuleType:
    return pytest.importorskip("anndata")


def test_anndata_keeps_codes_units_and_concepts(anndata: ModuleType, tmp_path: Path):
    _, activations = make()
    activations.tag_units(np.array([3]), "perturbed")
    activations.dictionary.names[2] = "bright spots"
    activations.dictionary.notes[2] = "seen in puncta"
    back = anndata.read_h5ad(write_anndata(activations, tmp_path / "cells.h5ad"))
    np.testing.assert_array_equal(back.X.toarray(), activations.codes.toarray())
    assert back.obs["Metadata_condition"].tolist() == (
        activations.units["Metadata_condition"].tolist()
    )
    assert back.obs["Metadata_tag"].tolist()[3] == "perturbed"
    assert back.var.loc["concept_2", "note"] == "seen in puncta"
    np.testing.assert_allclose(
        back.var["effect"].to_numpy(), activations.ranking.sort_index()["effect"]
    )
    np.testing.assert_array_equal(back.obsm["whitened"], activations.vectors)
    np.testing.assert_array_equal(back.obsm["spatial"][:, 0], activations.units["x"])


def test_features_of_labels_carry_the_column_that_napari_matches():
    _, activations = make()
    activations.dictionary.names[:3] = ["well", "spots", "spots"]
    activations.tag_units(activations.rows_of_field(1)[:1], "control-like")
    features = label_features(activations, 1, [0, 1, 2, 5])
    assert list(features.columns) == [
        "index", "condition", "well", "tag", "well (0)", "spots (1)", "spots (2)", "concept 5"
    ]  # fmt: skip
    assert features["index"].tolist() == [3, 7, 11, 900]
    assert features["tag"].tolist() == ["control-like", "", "", ""]
    for concept, column in ((0, "well (0)"), (5, "concept 5")):
        _, values = activations.unit_values(1, concept)
        np.testing.assert_array_equal(features[column], values)
    active = int((~activations.ranking["dead"]).sum())
    assert label_features(activations, 1).shape == (4, 4 + active)
    assert active <= ATOMS
