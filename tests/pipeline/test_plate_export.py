"""What a plate run holds, written for other programs, and read by these."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from napari_microdl.cli import main
from napari_microdl.concepts.store import open_activations
from napari_microdl.fields.tables import read_fields
from napari_microdl.pipeline.plate.listing import list_fields
from napari_microdl.pipeline.plate.run import run_plate
from napari_microdl.pipeline.run import PipelineRun
from pipeline.plate_cases import write_table
from pipeline.small_run import small

anndata = pytest.importorskip("anndata")
pytest.importorskip("pyarrow")
pytest.importorskip("zarr")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_table(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def plate(table, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("plate") / "out"
    run_plate(list_fields(table), out, small())
    return out


def test_cells_and_vectors_have_the_names_of_cytomining(table, plate, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["plate", "export", str(plate), "--out", str(out)]) == 0
    kept = open_activations(plate / "activations")
    cells = anndata.read_zarr(out / "cells.zarr")
    assert cells.var_names[5] == "Cells_Concept_0005"
    np.testing.assert_array_equal(cells.X.toarray(), kept.codes.toarray())
    assert all(name.startswith("Metadata_") for name in cells.obs)
    assert set(cells.obs["Metadata_dose"]) == {"0", "5"}
    parts = [pd.read_parquet(path) for path in sorted((out / "embeddings").iterdir())]
    found = pd.concat(parts, ignore_index=True)
    features = [name for name in found if not name.startswith("Metadata_")]
    assert features[7] == "Cells_Embedding_0007"
    for name in ("Metadata_ObjectNumber", "Metadata_ImageNumber", "Metadata_Location_Center_X"):
        assert found[name].tolist() == cells.obs[name].tolist()
    # What a run in one piece has, kept in half precision.
    expected = PipelineRun(read_fields(table), small()).samples().vectors
    order = np.lexsort((found["Metadata_ObjectNumber"], found["Metadata_ImageNumber"]))
    assert (order == np.arange(len(found))).all()
    np.testing.assert_allclose(found[features], expected, atol=1e-3 * np.abs(expected).max())
    # Nothing that is there is taken away.
    assert main(["plate", "export", str(plate), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_plate_lies_in_the_folders_of_the_gallery(plate, tmp_path, capsys):
    source = tmp_path / "source_1"
    arguments = ["plate", "export", str(plate), "--out", str(source), "--layout", "gallery"]
    assert main(arguments) == 2
    assert "give --batch, such as 2026_12_01_Batch1" in capsys.readouterr().err
    for batch in ("2026_12_01_Batch1", "2026_12_02_Batch2"):
        assert main([*arguments, "--batch", batch]) == 0
    model = next((source / "workspace_dl" / "embeddings").iterdir())
    assert model.name.startswith("random-init_layer2_")
    site = pd.read_parquet(model / "2026_12_01_Batch1" / "P1" / "O05-1" / "embedding.parquet")
    assert set(site["Metadata_Well"]) == {"O05"}
    [profile] = source.glob("workspace_dl/profiles/*/2026_12_02_Batch2/P1/P1.parquet")
    wells = pd.read_parquet(plate / "wells.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(profile), wells, check_dtype=False)
    maps = source / "workspace" / "quality_control" / "heatmap" / "2026_12_01_Batch1" / "P1"
    assert (maps / "P1_cell_count.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(maps.glob("P1_Cells_Concept_*.png"))) == 3


def test_a_folder_without_an_ended_run_is_refused(tmp_path, capsys):
    assert main(["plate", "export", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "holds no plate run that has ended" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
