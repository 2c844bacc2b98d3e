from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from concepts.test_activations import ATOMS, make
from core.refusals import refusal
from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.export import label_features, write_anndata, write_table
from napari_microdl.core.errors import MicrodlError
from tasks import cancelled_at_every_look


@pytest.fixture
def activations() -> ConceptActivations:
    return make()[1]


@pytest.fixture
def anndata() -> ModuleType:
    return pytest.importorskip("anndata")


def test_csv_keeps_values_and_a_named_index(activations, tmp_path):
    ranking = activations.ranking
    back = pd.read_csv(write_table(ranking, tmp_path / "concepts.csv"))
    assert back["concept"].tolist() == ranking.index.tolist()
    np.testing.assert_allclose(back["effect"], ranking["effect"])
    back = pd.read_csv(write_table(activations.units, tmp_path / "units.csv"))
    assert list(back.columns) == list(activations.units.columns)


def test_parquet_keeps_values_and_types(activations, tmp_path):
    pytest.importorskip("pyarrow")
    table = activations.to_frame([2])
    back = pd.read_parquet(write_table(table, tmp_path / "cells.parquet"))
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    assert back["Metadata_control"].dtype == bool
    assert back["activation_2"].dtype == np.float32


def test_another_suffix_is_refused(activations, tmp_path):
    with pytest.raises(MicrodlError, match=r"'a\.xlsx' is neither CSV nor Parquet"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path / "a.xlsx")
    assert "end it in .h5ad or .zarr" in refusal(write_anndata, activations, tmp_path / "a.csv")


def test_a_missing_package_is_asked_for(activations, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MicrodlError, match="need the package pyarrow: pip install"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "anndata", None)
    assert "need the package anndata: pip install" in refusal(
        write_anndata, activations, tmp_path / "a.h5ad"
    )


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_anndata_keeps_codes_units_and_concepts(activations, anndata, tmp_path, suffix):
    if suffix == "zarr":
        pytest.importorskip("zarr")
    activations.tag_units(np.array([3]), "perturbed")
    activations.dictionary.names[2] = "bright spots"
    activations.dictionary.notes[2] = "seen in puncta"
    path = write_anndata(activations, tmp_path / f"cells.{suffix}", numbers_at_once=FEW)
    back = getattr(anndata, f"read_{suffix}")(path)
    np.testing.assert_array_equal(back.X.toarray(), activations.codes.toarray())
    assert list(back.obs["Metadata_condition"]) == list(activations.units["Metadata_condition"])
    assert back.obs["Metadata_tag"].tolist()[3] == "perturbed"
    assert back.var.loc["Cells_Concept_0002", "note"] == "seen in puncta"
    np.testing.assert_allclose(
        back.var["effect"].to_numpy(), activations.ranking.sort_index()["effect"]
    )
    np.testing.assert_array_equal(back.obsm["whitened"], activations.vectors)
    np.testing.assert_array_equal(back.obsm["spatial"][:, 0], activations.units["x"])
    # Everything known of a cell, as pycytominer wants it.
    assert all(name.startswith("Metadata_") for name in back.obs)
    assert list(back.obs["Metadata_ObjectNumber"]) == list(activations.units["label"])
    if suffix == "zarr":
        assert "is there already" in refusal(write_anndata, activations, path)


def test_anndata_and_features_say_which_concepts_are_technical(activations, anndata, tmp_path):
    numbers = range(activations.n_concepts)
    more = pd.DataFrame(
        {
            "technical": [n in {2, 5} for n in numbers],
            "batch_by": "sites",
            "batch_share": [n / 10 for n in numbers],
        },
        index=pd.Index(numbers, name="concept"),
    )
    found = anndata.read_h5ad(write_anndata(activations, tmp_path / "cells.h5ad", more))
    technical = found.var_names[found.var["technical"].to_numpy(bool)]
    assert list(technical) == ["Cells_Concept_0002", "Cells_Concept_0005"]
    assert set(found.var["batch_by"]) == {"sites"}
    np.testing.assert_allclose(found.var["batch_share"], more["batch_share"])
    features = label_features(activations, 1, [1, 2], technical=[2, 5])
    assert list(features.columns[-2:]) == ["concept 1", "concept 2 [technical]"]


def test_features_of_labels_carry_the_column_that_napari_matches(activations):
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


# So few at once that everything is written in many parts, as of a million cells.
FEW = 60


def test_a_table_written_in_parts_is_that_of_pandas(activations, tmp_path):
    pytest.importorskip("pyarrow")
    table = activations.to_frame()
    table.to_csv(tmp_path / "expected.csv", index=False)
    write_table(table, tmp_path / "cells.csv", numbers_at_once=FEW)
    assert (tmp_path / "cells.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()
    table.to_parquet(tmp_path / "expected.parquet", index=False)
    written = write_table(table, tmp_path / "cells.parquet", numbers_at_once=FEW)
    back = pd.read_parquet(written)
    pd.testing.assert_frame_equal(back, pd.read_parquet(tmp_path / "expected.parquet"))
    for name in ("none.csv", "none.parquet"):
        write_table(table.iloc[:0], tmp_path / name)
    assert list(pd.read_csv(tmp_path / "none.csv").columns) == list(table.columns)
    assert len(pd.read_parquet(tmp_path / "none.parquet")) == 0


def test_anndata_written_in_parts_is_whole(activations, anndata, tmp_path):
    whole, back = (
        anndata.read_h5ad(write_anndata(activations, tmp_path / f"{n}.h5ad", numbers_at_once=n))
        for n in (10_000, FEW)
    )
    codes = sparse.csr_matrix(activations.codes)
    assert type(back.X) is type(codes)
    assert (back.X.dtype, back.X.nnz) == (codes.dtype, codes.nnz)
    np.testing.assert_array_equal(back.X.toarray(), codes.toarray())
    for name in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(back, name), getattr(whole, name))
    assert "technical" not in back.var
    places = activations.units[["x", "y"]].to_numpy()
    for name, values in {"whitened": activations.vectors, "spatial": places}.items():
        assert back.obsm[name].dtype == values.dtype
        np.testing.assert_array_equal(back.obsm[name], values)
    assert len(back.obsm) == 2
    assert dict(back.uns) == {"model": activations.dictionary.spec.model.id}


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.h5ad"])
def test_cancelling_at_any_look_leaves_the_old_file(activations, tmp_path, name):
    pytest.importorskip("pyarrow")
    pytest.importorskip("anndata")
    table = activations.to_frame()
    path = tmp_path / name

    def write() -> None:
        if name == "a.h5ad":
            write_anndata(activations, path, numbers_at_once=FEW)
        else:
            write_table(table, path, numbers_at_once=FEW)

    path.write_text("what was there")
    n_looks = 0
    for _ in cancelled_at_every_look(write):
        n_looks += 1
        assert path.read_text() == "what was there"
        assert list(tmp_path.iterdir()) == [path]
    assert n_looks > 4
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() != b"what was there"


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(MicrodlError, match="There is no folder"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path / "none" / "a.csv")
