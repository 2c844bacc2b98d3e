"""Fit and apply on files through the command line, compared with the same run in memory."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from concepts.test_activations import make
from napari_microdl.cli import main
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import PipelineConfig, read_config, write_config
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.metrics import average_selectivity
from napari_microdl.models.registry import model_spec
from napari_microdl.pipeline.files import evaluate_run
from napari_microdl.pipeline.inputs import mark_controls
from napari_microdl.pipeline.run import PipelineResult, run_pipeline
from napari_microdl.report import EvaluationChoices

CONFIG = PipelineConfig.of(n_atoms=16, max_steps=50, unit="crop", shrinkage=1.0)
WRITTEN = ["concepts.csv", "crops.csv", "dictionary.microdl.safetensors", "report.json"]
QUERY = ["--controls", "Metadata_condition == 'diffuse'"]


@pytest.fixture(scope="module")
def fields() -> list[Field]:
    chosen = [f for f in transfluor() if f.well in {"O01", "O05", "O11", "O12"}]
    return [dataclasses.replace(f, data=f.data[:, 100:356, 100:356]) for f in chosen]


@pytest.fixture(scope="module")
def plate(fields: list[Field], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose rows mark no controls."""
    folder = tmp_path_factory.mktemp("plate")
    for field in fields:
        tifffile.imwrite(folder / f"{field.name}.tif", field.data[0])
    names = ["FileName_GFP", *(f"Metadata_{n}" for n in ("Field", "Well", "Site", "condition"))]
    rows = [(f"{f.name}.tif", f.name, f.well, f.site, f.condition) for f in fields]
    pd.DataFrame(rows, columns=names).to_csv(folder / "fields.csv", index=False)
    return folder / "fields.csv"


@pytest.fixture(scope="module")
def in_memory(fields: list[Field]) -> PipelineResult:
    return run_pipeline(fields, CONFIG)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def with_settings(folder: Path, **changes: str) -> list[str]:
    """Arguments that name a file of settings."""
    write_config(CONFIG.with_settings(**changes), folder / "settings.json")
    return ["--config", str(folder / "settings.json")]


@pytest.mark.usefixtures("offline")
def test_the_licence_is_told_before_weights_are_fetched(plate, tmp_path, capsys):
    arguments = [*with_settings(tmp_path, model="openphenom"), "--out", str(tmp_path / "fitted")]
    assert main(["fit", str(plate), *arguments, *QUERY]) != 0
    terms, _, problem = capsys.readouterr().err.partition("\n")
    assert terms.startswith(
        "Model: OpenPhenom CA-MAE ViT-S/16. Licence of the weights: Recursion's"
    )
    assert "(no commercial use). Source: Recursion, huggingface.co/recursionpharma/" in terms
    assert "Commit 0f92333685f6; the sha256 of the first download" in terms
    assert "recursionpharma/OpenPhenom is not in the cache" in problem


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("command", ["apply", "evaluate"])
@pytest.mark.parametrize(
    ("non_commercial", "words"),
    [(True, "no commercial use"), (None, "whether commercial use is allowed is not stated")],
)
def test_the_terms_of_a_dictionarys_model_are_told_before_weights_are_fetched(
    command, non_commercial, words, plate, in_memory, tmp_path, capsys
):
    known = model_spec("openphenom")
    terms = {"licence": known.licence, "source": known.source, "non_commercial": non_commercial}
    spec = in_memory.dictionary.spec
    spec = spec.replace(model=spec.model.replace(id="openphenom", **terms))
    file = dataclasses.replace(in_memory.dictionary, spec=spec).save(tmp_path / "phenom")
    assert main([command, str(file), str(plate), "--out", str(tmp_path / "out")]) == 2
    told, _, problem = capsys.readouterr().err.partition("\n")
    assert told.startswith(
        f"Model: openphenom. Licence of the weights: {known.licence} ({words}). "
        f"Source: {known.source}. Commit 0f92333685f6; the sha256 of the first download"
    )
    assert "recursionpharma/OpenPhenom is not in the cache" in problem


def test_a_folder_that_the_library_runs_is_described_fitted_and_applied(plate, tmp_path, capsys):
    from transformers.models.vit_msn.configuration_vit_msn import ViTMSNConfig
    from transformers.models.vit_msn.modeling_vit_msn import ViTMSNModel

    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTMSNConfig(**shape, intermediate_size=48, image_size=128, patch_size=16)
    ViTMSNModel(config).save_pretrained(tmp_path / "lab-msn")
    capsys.readouterr()
    common = [str(plate), *with_settings(tmp_path, model=str(tmp_path / "lab-msn")), "--out"]
    fitted, applied = tmp_path / "fitted", tmp_path / "applied"
    assert main(["fit", *common, str(fitted), *QUERY]) == 0
    terms = capsys.readouterr().err.partition("\n")[0]
    assert terms.startswith("Model: lab-msn (vit_msn). ")
    assert "not stated, see its source" in terms
    assert "local folder 'lab-msn'" in terms
    dictionary = fitted / "dictionary.microdl.safetensors"
    assert ConceptDictionary.load(dictionary).spec.model.patch_size == 16
    assert main(["apply", str(dictionary), *common, str(applied)]) == 0
    first, second = (pd.read_csv(out / "crops.csv") for out in (fitted, applied))
    concepts = [name for name in first if name.startswith("cosine_")]
    np.testing.assert_allclose(first[concepts], second[concepts], atol=1e-5)


def test_fit_and_apply_write_what_the_same_runs_in_memory_find(plate, in_memory, tmp_path, capsys):
    fitted, applied = tmp_path / "fitted", tmp_path / "applied"
    common = [str(plate), *with_settings(tmp_path), "--out"]
    assert main(["fit", *common, str(fitted), *QUERY]) == 0
    output = capsys.readouterr()
    assert "16 concepts" in output.out
    licence = "Licence of the weights: BSD-3-Clause (commercial use is allowed). Source: trained by"
    assert output.err.startswith(f"Model: Built-in MAE ViT-T/8, channel-agnostic. {licence}")
    assert sorted(p.name for p in fitted.iterdir()) == [*WRITTEN, "settings.json"]
    assert read_config(fitted / "settings.json") == CONFIG

    written, expected = ConceptDictionary.load(fitted / WRITTEN[2]), in_memory.dictionary
    np.testing.assert_array_equal(written.icfl.components_, expected.icfl.components_)
    table = pd.read_csv(fitted / "crops.csv", keep_default_na=False)
    frame = in_memory.activations.to_frame()
    assert table.columns.tolist() == frame.columns.tolist()
    np.testing.assert_allclose(table["cosine_3"], frame["cosine_3"], atol=1e-6)
    assert table["Metadata_control"].tolist() == frame["Metadata_control"].tolist()

    pictures = ["--atlas", "--figures", "1"]
    assert main(["apply", str(fitted / WRITTEN[2]), *common, str(applied), *pictures]) == 0
    output = capsys.readouterr()
    assert output.err.startswith(f"Model: builtin. {licence} napari-microdl")
    ranking = pd.read_csv(applied / "concepts.csv")
    figure = f"concept_{ranking['concept'][0]}.pdf"
    assert f"Also there: {figure}, atlas.html." in output.out
    assert (applied / figure).read_bytes()[:4] == b"%PDF"
    page = (applied / "atlas.html").read_text(encoding="utf-8")
    assert page.count("<article") == (~ranking["dead"]).sum()
    again = pd.read_csv(applied / "crops.csv", keep_default_na=False)
    # Nobody said which fields are controls, and none is needed to apply a dictionary.
    assert not again["Metadata_control"].any()
    np.testing.assert_allclose(again["activation_3"], table["activation_3"], atol=1e-5)
    report = json.loads((applied / "report.json").read_text())
    assert report["config"]["dictionary"]["n_atoms"] == 16


def test_evaluate_measures_what_apply_finds(plate, fields, in_memory, tmp_path, capsys):
    dictionary = in_memory.dictionary.save(tmp_path / "puncta.microdl.safetensors")
    out = tmp_path / "out"
    assert main(["evaluate", str(dictionary), str(plate), "--out", str(out), *QUERY]) == 0
    output = capsys.readouterr()
    assert f"The evaluation is in {out / 'evaluation.html'}." in output.out
    assert f"Note: The dictionary was fitted on {len(fields)} of these" in output.out
    assert "with an average selectivity of" in output.out
    # Progress has a line a measure.
    assert any(line.startswith("Shuffling labels") for line in output.err.splitlines())
    written = json.loads((out / "evaluation.json").read_text())
    conditions = [f.condition for f in fields for _ in range(49)]
    classes, selectivity = average_selectivity(in_memory.activations.codes, conditions)
    rows = {row["label"]: row for row in written["labels"]}
    assert set(rows) == set(classes)
    for label, values in zip(classes, selectivity, strict=True):
        assert rows[label]["selectivity"] == pytest.approx(values.max(), abs=1e-6)
    page = (out / "evaluation.html").read_text()
    assert "<svg" in page
    # Nothing is fetched when the page is opened.
    assert page.count("src=") == page.count('src="data:image/png;base64,') > 0
    assert "<link" not in page


def test_every_choice_of_evaluate_has_an_option(plate, fields, tmp_path, capsys):
    half = [f for f in fields if f.well in {"O01", "O11"}]
    dictionary = run_pipeline(half, CONFIG).dictionary.save(tmp_path / "half")
    table = pd.read_csv(plate)
    table["Metadata_Compound"] = np.where(table["Metadata_condition"] == "puncta", "iso", "none")
    table.to_csv(plate.with_name("compounds.csv"), index=False)
    out = tmp_path / "out"
    arguments = [str(dictionary), str(plate.with_name("compounds.csv")), "--out", str(out)]
    options = ["--labels", "compound", "--independent", "fields", "--shuffles", "7", "--seeds", "1"]
    options += ["--batches", "well"]
    assert main(["evaluate", *arguments, *options, "--no-handcrafted", "--unseen-only"]) == 0
    written = json.loads((out / "evaluation.json").read_text())
    choices = EvaluationChoices(
        labels="compound", independent="fields", n_permutations=7, n_seeds=1, batches="well",
        handcrafted=False, unseen_only=True,
    )  # fmt: skip
    assert written["choices"] == dict(choices)
    # The table marks no controls.
    assert any("Controls are of 0 batches" in note for note in written["notes"])
    unseen = [f for f in fields if f.well in {"O05", "O12"}]
    assert written["summary"]["n_fields"] == len(unseen)
    assert [row["label"] for row in written["labels"]] == ["iso", "none"]
    assert written["labels"][0]["p_value"] in {n / 8 for n in range(1, 9)}
    crops = pd.read_csv(out / "crops.csv").query("Metadata_Well in ['O05', 'O12']")
    active = crops.filter(like="activation_") > 0
    # The well with puncta got the compound.
    treated = crops["Metadata_Well"] == "O05"
    selectivity = active[treated].mean() - active[~treated].mean()
    assert written["labels"][0]["selectivity"] == pytest.approx(selectivity.max())
    assert written["seeds"]["n_seeds"] == 1
    assert written["handcrafted"] == {}
    capsys.readouterr()
    for wrong, sentence in (
        (["--shuffles", "0"], "The setting n_permutations is 0 but must be 1 or more."),
        (["--labels", "dose"], "There is no column 'dose' to take labels from"),
        (["--batches", "week"], "There is no column 'week' to take labels from"),
    ):
        unused = str(tmp_path / "unused")
        assert main(["evaluate", *arguments[:2], "--out", unused, *wrong]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert sentence in error
    # Nothing was begun.
    assert not (tmp_path / "unused").exists()


def test_the_ranking_is_written_again_with_what_is_technical(tmp_path):
    fields, activations = make(("diffuse", "puncta") * 3, (True, False) * 3)
    activations.units["Metadata_Plate"] = np.where(activations.units["field"] < 3, "p1", "p2")
    result = PipelineResult(PipelineConfig.of(unit="cell"), activations, [None] * 6, {})
    choices = EvaluationChoices(n_permutations=9, handcrafted=False)
    report = evaluate_run(result, fields, tmp_path, choices)
    written = pd.read_csv(tmp_path / "concepts.csv", index_col="concept")
    assert list(written.index) == list(activations.ranking.index)
    assert set(written["technical"]) <= {True, False}
    q = {row["concept"]: row["q_value"] for row in report.batches}
    assert list(written["technical"]) == [q[concept] < 0.05 for concept in written.index]
    assert list(written["batch_q"]) == pytest.approx([q[concept] for concept in written.index])
    assert set(written["batch_by"]) == {"plates"}


def test_a_library_of_measurements_that_is_missing_is_said_before_the_work(
    plate, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = ["evaluate", "missing.microdl.safetensors", str(plate), "--library", "cp_measure"]
    arguments += ["--out", str(tmp_path / "out")]
    for options, sentence in (
        ([], "pip install 'napari-microdl[cellprofiler]'"),
        # Without cells to measure it is the dictionary that is missing.
        (["--no-handcrafted"], "missing.microdl.safetensors"),
    ):
        assert main([*arguments, *options]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert sentence in error


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "No control field is chosen"),
        (["--controls", "Metadata_condition == 'DMSO'"], "No control field is chosen"),
        (["--controls", "Metadata_dose == '1'"], "the columns are Metadata_Field"),
        (["--config", "missing.json"], "settings 'missing.json' cannot be read"),
    ],
)
def test_what_cannot_be_run_gives_one_sentence(plate, tmp_path, capsys, arguments, sentence):
    assert main(["fit", str(plate), "--out", str(tmp_path / "out"), *arguments]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert sentence in error
    assert error.startswith("napari-microdl: ")


def test_a_query_marks_controls_and_takes_marks_away(fields):
    marked = mark_controls(fields, "Metadata_Well == 'O05'")
    assert [f.is_control for f in marked] == [f.well == "O05" for f in fields]
    with pytest.raises(MicrodlError, match="yes-or-no"):
        mark_controls(fields, "Metadata_Well")
