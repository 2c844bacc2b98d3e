"""The main paths ask no other machine for anything, unless a person has said so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tifffile

from napari_microdl.cli import main
from napari_microdl.core.config import write_config
from napari_microdl.fields.field import Field
from napari_microdl.fields.tables import FieldFiles, write_field_files
from napari_microdl.models.registry import model_spec
from napari_microdl.pipeline.run import run_pipeline
from pipeline.small_run import corner_fields, small

CROPS = small(unit="crop", cache=False)
REPOSITORY = "recursionpharma/OpenPhenom"


@pytest.fixture(scope="module")
def fields() -> list[Field]:
    return corner_fields()


@pytest.fixture
def table(fields: list[Field], tmp_path: Path) -> Path:
    rows = []
    for field in fields:
        tifffile.imwrite(tmp_path / f"{field.name}.tif", field.data[0])
        rows.append(FieldFiles(field, (tmp_path / f"{field.name}.tif",)))
    write_field_files(rows, tmp_path / "fields.csv")
    write_config(CROPS, tmp_path / "settings.json")
    return tmp_path / "fields.csv"


@pytest.fixture
def of_the_hub(fields: list[Field], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dictionary that names a model on the hub, of which nothing is here."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    known, made = model_spec("openphenom"), run_pipeline(fields, CROPS).dictionary
    facts = {"licence": known.licence, "source": known.source}
    spec = made.spec.replace(model=made.spec.model.replace(id="openphenom", **facts))
    return dataclasses.replace(made, spec=spec).save(tmp_path / "of_the_hub")


def test_fit_apply_and_evaluate_ask_nobody(table, tmp_path, no_network):
    common = [str(table), "--config", str(tmp_path / "settings.json"), "--out"]
    assert main(["fit", *common, str(tmp_path / "fitted"), "--refits", "0", "--atlas"]) == 0
    dictionary = str(tmp_path / "fitted" / "dictionary.microdl.safetensors")
    assert main(["apply", dictionary, *common, str(tmp_path / "applied")]) == 0
    options = ["--no-handcrafted", "--shuffles", "3"]
    assert main(["evaluate", dictionary, *common, str(tmp_path / "evaluated"), *options]) == 0
    assert no_network == []


@pytest.mark.parametrize(
    "command", [["apply"], ["evaluate", "--no-handcrafted"], ["plate", "apply"]]
)
def test_a_dictionary_of_a_model_on_the_hub_fetches_nothing_unasked(
    command, table, of_the_hub, tmp_path, no_network, capsys
):
    arguments = [*command, str(of_the_hub), str(table), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        f"napari-microdl: {REPOSITORY} is not in the cache of the hub, and nothing is fetched "
        "unasked; add --download, or give a file or folder that you have instead."
    )
    assert no_network == []


def test_with_a_word_it_is_fetched(table, of_the_hub, tmp_path, monkeypatch, capsys):
    def no_answer(repository: str, name: str, **options: object) -> str:
        raise ConnectionError(name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_answer)
    arguments = ["apply", str(of_the_hub), str(table), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--download"]) == 2
    problem = f"{REPOSITORY} could not be fetched (ConnectionError)"
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
