"""What a plate run leaves of the codes of its fields, made up here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from napari_microdl.concepts.dictionary import ConceptDictionary, DictionarySpec
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.fields.field import FieldInfo
from napari_microdl.models.registry import model_spec
from napari_microdl.pipeline.inputs import tile_plan
from napari_microdl.pipeline.plate.profiles import Coded, gather
from napari_microdl.pipeline.plate.shards import write_shard
from napari_microdl.pipeline.plate.work import Job
from pipeline.small_run import small

N_CONCEPTS, K, N_CELLS = 4, 5, 3
# Names whose order by letters is not that by numbers.
PLATES = [f"P{number}" for number in range(1, 13)]


def infos() -> list[FieldInfo]:
    """Two wells of each plate, a control and a treated one, with two sites each."""
    return [
        FieldInfo(
            f"{plate} {well} {site}",
            condition="drug" if well == "B02" else "control",
            well=well,
            site=str(site),
            plate=plate,
            is_control=well == "A01",
        )
        for plate in PLATES
        for well in ("A01", "B02")
        for site in (1, 2)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """Folder of a run that was gathered, and the mean code of every field, shape (48, 4)."""
    folder, random = tmp_path_factory.mktemp("run"), np.random.default_rng(5)
    samples = random.standard_normal((60, K)).astype(np.float32)
    icfl = ICFL(N_CONCEPTS, n_iterations=1, atoms_per_iteration=2, max_steps=2).fit(samples)
    model, config = model_spec("random-init"), small()
    plan = tile_plan(model, config)
    spec = DictionarySpec.of(model, config.tokens, config.units, plan, ("GFP",))
    path = folder / "dictionary.microdl.safetensors"
    ConceptDictionary(spec, icfl, None, None).save(path)
    job = Job(folder, config, ("GFP",), "key", dictionary=path, fingerprint="made up")
    means = []
    for number in range(len(infos())):
        codes = random.random((N_CELLS, N_CONCEPTS), np.float32)
        tensors = {
            **{name: np.arange(1, N_CELLS + 1) for name in ("label", "y", "x", "area")},
            "whitened": random.standard_normal((N_CELLS, K)).astype(np.float32),
            "data": codes.ravel(),
            "indices": np.tile(np.arange(N_CONCEPTS, dtype=np.int32), N_CELLS),
            "indptr": np.arange(0, codes.size + 1, N_CONCEPTS, dtype=np.int32),
            "sums": np.stack([codes.sum(0), (codes > 0).sum(0), np.zeros(N_CONCEPTS)]),
        }
        write_shard(job.file("codes", number), tensors, "key", {"n_units": N_CELLS})
        means.append(codes.mean(axis=0))
    known = pd.DataFrame([info.to_metadata() for info in infos()])
    fields = [Coded(number, info, N_CELLS) for number, info in enumerate(infos())]
    gathered = gather(job, fields, known)
    assert gathered.n_wells == 2 * len(PLATES)
    assert {"wells.csv", "wells.parquet", "wells.h5ad"} <= set(gathered.files)
    return folder, np.array(means)


def test_a_well_is_the_mean_over_the_cells_of_its_fields(run):
    folder, means = run
    wells = pd.read_csv(folder / "wells.csv").set_index(["Metadata_Plate", "Metadata_Well"])
    features = [f"Cells_Concept_{concept:04d}" for concept in range(N_CONCEPTS)]
    expected = means.reshape(-1, 2, N_CONCEPTS).mean(axis=1)
    order = pd.DataFrame([info.to_metadata() for info in infos()[::2]])
    names = pd.MultiIndex.from_frame(order[["Metadata_Plate", "Metadata_Well"]])
    np.testing.assert_allclose(wells.loc[names, features], expected, rtol=1e-5)
    assert (wells["Metadata_Object_Count"] == 2 * N_CELLS).all()


@pytest.mark.parametrize("suffix", [".parquet", ".h5ad"])
def test_wells_are_the_same_in_every_format(run, suffix):
    folder, _ = run
    wells = pd.read_csv(folder / "wells.csv")
    if suffix == ".parquet":
        found = pd.read_parquet(folder / "wells.parquet")
    else:
        anndata = pytest.importorskip("anndata")
        table = anndata.read_h5ad(folder / "wells.h5ad")
        found = pd.concat([table.obs, table.to_df()], axis=1)
    texts = ["Metadata_Plate", "Metadata_Well", "Metadata_condition"]
    assert found[texts].astype(str).to_numpy().tolist() == wells[texts].to_numpy().tolist()
    features = [name for name in wells if name.startswith("Cells_")]
    np.testing.assert_allclose(found[features], wells[features], rtol=1e-5)
