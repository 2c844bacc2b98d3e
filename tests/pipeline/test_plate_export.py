"""What a plate run holds, written for other programs, and read by these."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from napari_microdl.cli import main
from napari_microdl.concepts.store import open_activations
from napari_microdl.fields.sources import find_source
from napari_microdl.fields.tables import read_fields
from napari_microdl.pipeline.plate.listing import list_fields
from napari_microdl.pipeline.plate.run import run_plate
from napari_microdl.pipeline.run import PipelineRun
from napari_microdl.pipeline.stages import cells_of
from pipeline.plate_cases import write_ome_zarr, write_table
from pipeline.small_run import small

anndata = pytest.importorskip("anndata")
ngio = pytest.importorskip("ngio")
pytest.importorskip("pyarrow")
yaozarrs = pytest.importorskip("yaozarrs")
zarr = pytest.importorskip("zarr")


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


@pytest.fixture(scope="module", params=["0.4", "0.5"])
def ome_zarr(request, table, plate, tmp_path_factory) -> tuple[Path, Path]:
    """A plate in OME-Zarr, and the folder of a run on it."""
    folder = tmp_path_factory.mktemp("plate")
    wells = pd.read_csv(table)[:3]
    wells.to_csv(table.parent / "some.csv", index=False)
    path = write_ome_zarr(table.parent / "some.csv", folder / "P1.zarr", request.param)
    dictionary = plate / "dictionary.microdl.safetensors"
    run_plate(list_fields(path), folder / "out", small(), dictionary=dictionary)
    return path, folder / "out"


def check_labels(plate: Path, run: Path) -> None:
    """What libraries of others read of the labels of a plate is what the run has found."""
    yaozarrs.validate_zarr_store(plate)
    kept, opened = open_activations(run / "activations"), ngio.open_ome_zarr_plate(plate)
    first = int(kept.ranking.index[~kept.ranking["dead"]][0])
    for number, item in enumerate(list_fields(run / "fields.csv").fields):
        row, column, place = item.source.files[0].parts[-3:]
        image = opened.get_image(row, column, place)
        labels = image.get_label("concepts")
        assert labels.pixel_size.x == image.get_image().pixel_size.x == 0.325
        np.testing.assert_array_equal(labels.get_array(), cells_of(item.open(), small()))
        group = yaozarrs.open_group(plate / row / column / place / "labels" / "concepts")
        told = group.attrs.get("ome", group.attrs)["image-label"]["properties"]
        rows = kept.rows_of_field(number)
        assert [p["label-value"] for p in told] == kept.units["label"].to_numpy()[rows].tolist()
        values = [p[f"Cells_Concept_{first:04d}"] for p in told]
        np.testing.assert_allclose(values, kept.activation(first)[rows], rtol=1e-6)


def test_labels_with_concepts_are_read_by_others(ome_zarr, tmp_path):
    _, run = ome_zarr
    new = tmp_path / "new"
    arguments = ["plate", "export", str(run), "--labels", "--concepts", "2"]
    assert main([*arguments, "--out", str(new)]) == 0
    check_labels(new / "P1.zarr", run)
    kept = open_activations(run / "activations")
    [image] = ngio.open_ome_zarr_plate(new / "P1.zarr").get_well("O", "05").paths()
    image = ngio.open_ome_zarr_plate(new / "P1.zarr").get_image("O", "05", image)
    maps, labels = image.get_image().get_array(), image.get_label("concepts").get_array()
    assert maps.shape == (2, *labels.shape)
    assert image.channel_labels == [kept.dictionary.names[c] for c in kept.ranking.index[:2]]
    for label, value in zip(*kept.unit_values(1, int(kept.ranking.index[0])), strict=True):
        assert (maps[0][labels == label] == np.float32(value)).all()


def test_labels_lie_beside_those_of_the_images(ome_zarr, capsys):
    plate, run = ome_zarr
    image = ngio.open_ome_zarr_plate(plate).get_image("O", "05", "1")
    theirs = np.full(image.get_image().shape[1:], 3, np.uint32)
    image.derive_label("theirs").set_array(theirs)
    with warnings.catch_warnings():
        # All metadata in one place, as some write it for version 3 of zarr too.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(plate / "O" / "05" / "1")
    arguments = ["plate", "export", str(run), "--in-images"]
    assert main(arguments) == 0
    check_labels(plate, run)
    image = ngio.open_ome_zarr_plate(plate).get_image("O", "05", "1")
    assert image.list_labels() == ["theirs", "concepts"]
    np.testing.assert_array_equal(image.get_label("theirs").get_array(), theirs)
    assert "concepts" in zarr.open_group(plate / "O" / "05" / "1", use_consolidated=True)["labels"]
    # Those that are there stay as they are, and are no cells of another run.
    assert main(arguments) == 2
    assert "3 of 3 images have labels 'concepts' already" in capsys.readouterr().err
    assert [f.source.labels for f in list_fields(plate).fields[::2]] == [None, None]


def test_cells_of_several_planes_are_told_apart(table, plate, tmp_path, capsys):
    path, run, new = tmp_path / "P1.zarr", tmp_path / "run", tmp_path / "new"
    place = ngio.ImageInWellPath(row="B", column="2", path="0")
    written = ngio.create_empty_plate(path, name="P1", images=[place])
    planes = np.stack([field.read()[0] for field in read_fields(table)[:2]])
    image = ngio.create_ome_zarr_from_array(
        written.get_image_store("B", "2", "0"), planes, pixelsize=0.325, axes_names="zyx",
        channels_meta=["GFP"], levels=1, overwrite=True,
    )  # fmt: skip
    find_source(path, plane="all").table().to_csv(tmp_path / "planes.csv", index=False)
    dictionary = plate / "dictionary.microdl.safetensors"
    run_plate(list_fields(tmp_path / "planes.csv"), run, small(), dictionary=dictionary)
    arguments = ["plate", "export", str(run), "--labels", "--out"]
    assert main([*arguments, str(new)]) == 0
    labels = ngio.open_ome_zarr_plate(new / "P1.zarr").get_image("B", "2", "0")
    labels = labels.get_label("concepts").get_array()
    first, second = (cells_of(field, small()) for field in read_fields(table)[:2])
    np.testing.assert_array_equal(labels[0], first)
    np.testing.assert_array_equal(labels[1], np.where(second > 0, second + first.max(), 0))
    image.get_image().set_array(np.zeros_like(planes))
    assert main([*arguments, str(tmp_path / "later")]) == 2
    assert "are not those of the run" in capsys.readouterr().err
    assert not (tmp_path / "later").exists()


def test_labels_are_refused_where_the_plate_is_none_of_ome_zarr(plate, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["plate", "export", str(plate), "--labels", "--out", str(out)]) == 2
    assert "Of 8 fields with cells 0 are images of OME-Zarr" in capsys.readouterr().err
    assert main(["plate", "export", str(plate)]) == 2
    assert "Give either --out" in capsys.readouterr().err


def test_a_folder_without_an_ended_run_is_refused(tmp_path, capsys):
    assert main(["plate", "export", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "holds no plate run that has ended" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
