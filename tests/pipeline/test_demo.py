from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.pipeline import demo
from napari_microdl.pipeline.demo import run_demo
from napari_microdl.pipeline.run import run_pipeline
from pipeline.small_run import small
from tasks import recorded

CONFIG = small(layer=1, unit="crop", crop_stride=32, n_atoms=12, n_iterations=1, batch_size=32)
IMAGES = ["distribution.png", "gallery.png", "overlay_heatmap.png", "overlay_units.png"]


def corners() -> list[Field]:
    return [dataclasses.replace(f, data=f.data[:, 100:228, 100:228]) for f in transfluor()]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo")
    (out / "crops.csv").write_text("of an earlier run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "transfluor", corners)
        return out, run_demo(out, CONFIG, overwrite=True)


def test_everything_promised_is_left(done):
    out, _ = done
    written = ["concepts.csv", "crops.csv", "dictionary.microdl.safetensors"]
    written += [*IMAGES, "report.json", "settings.json"]
    assert sorted(p.name for p in out.iterdir()) == sorted(written)


def test_the_table_has_one_row_a_unit_and_the_top_concepts(done):
    table = pd.read_csv(done[0] / "crops.csv")
    assert len(table) == 8 * 16
    columns = list(table.columns)
    for wanted in ("Metadata_Well", "Metadata_condition", "Metadata_control", "label", "y", "x"):
        assert wanted in columns
    concepts = [c.removeprefix("activation_") for c in columns if c.startswith("activation_")]
    assert len(concepts) == 10
    assert [c for c in columns if c.startswith("cosine_")] == [f"cosine_{c}" for c in concepts]
    assert set(table["Metadata_condition"]) == {"diffuse", "puncta"}
    assert table["Metadata_control"].sum() == 4 * 16
    assert (table[[f"activation_{c}" for c in concepts]] > 0).to_numpy().any()
    assert table[[f"cosine_{c}" for c in concepts]].abs().to_numpy().max() <= 1 + 1e-6


def test_the_dictionary_gives_the_activations_of_the_table(done):
    dictionary = ConceptDictionary.load(done[0] / "dictionary.microdl.safetensors")
    table = pd.read_csv(done[0] / "crops.csv")
    again = run_pipeline(corners(), CONFIG, dictionary=dictionary)
    for column in (c for c in table.columns if c.startswith("activation_")):
        concept = int(column.removeprefix("activation_"))
        np.testing.assert_allclose(table[column], again.activations.activation(concept), rtol=1e-6)


def test_the_report_holds_the_config_and_the_finding(done):
    out, sentence = done
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["finding"] == sentence
    figures = report["finding_figures"]
    assert (figures["wells_label"], figures["wells_others"], figures["arrangements"]) == (4, 4, 70)
    assert figures["is_finding"] == (figures["p_value"] <= 0.05)
    assert sentence.startswith("No finding") != figures["is_finding"]
    # The dictionary keeps what it is known for.
    kept = ConceptDictionary.load(out / "dictionary.microdl.safetensors").figures["chosen"]
    assert kept == {key: figures[key] for key in ("concept", "label", "selectivity", "p_value")}
    assert PipelineConfig.from_dict(report["config"]) == CONFIG
    assert report["fit"]["n_samples"] == 128


@pytest.mark.parametrize("name", IMAGES)
def test_pictures_open_and_are_not_blank(done, name):
    image = imread(done[0] / name)
    assert min(image.shape[:2]) > 300
    colours = (image[..., :3] * 255).astype(int) @ [65536, 256, 1]
    assert len(np.unique(colours)) > 100


def test_a_folder_that_cannot_be_made_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with recorded() as heard, pytest.raises(OSError, match="file"):
        run_demo(tmp_path / "file" / "out", CONFIG)
    assert heard == []
    assert (tmp_path / "file").read_text() == "not a folder"
