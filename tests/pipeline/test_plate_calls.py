"""Plates as workflow managers call them: Fractal's JSON, Snakemake's shell lines."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest

from napari_microdl.cli import main
from pipeline.plate_cases import settings_file, write_ome_zarr, write_table
from pipeline.small_run import small

ROOT = Path(__file__).parents[2]
BEGIN = "## From a folder to profiles of wells\n\n```\n"
# The lines that a reader of the docs types, as the shell splits them.
LINES = [
    shlex.split(line)
    for line in (ROOT / "docs" / "plates.md")
    .read_text()
    .split(BEGIN)[1]
    .split("```")[0]
    .split("\n")
    if line.startswith("napari-microdl")
]


# Two wells with two sites each of shared images: a control and a treated one.
WELLS = {"bbbc022_mock": ("A14", "E18"), "transfluor": ("O12", "O05")}


@pytest.fixture(params=WELLS)
def place(request, data_root, tmp_path, monkeypatch) -> Path:
    """A folder with the images of two wells, and settings."""
    folder, wells = tmp_path / "plate_folder", WELLS[request.param]
    folder.mkdir()
    for image in sorted((data_root / request.param / "images").iterdir()):
        if any(f"_{well}" in image.name for well in wells):
            (folder / image.name).write_bytes(image.read_bytes())
    (tmp_path / "conditions.csv").write_text(f"well,condition\n{wells[0]},DMSO\n{wells[1]},drug\n")
    # Of several channels the first.
    channels = ("channel 1",) if request.param == "bbbc022_mock" else None
    settings_file(tmp_path, small(unit="crop", channels=channels, random_state=0))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_lines_of_the_docs_run_as_they_stand(place, request, capsys):
    assert [line[1:3] for line in LINES] == [
        ["manifest", "plate_folder"], ["plate", "run"], ["plate", "run"], ["plate", "evaluate"],
        ["plate", "apply"], ["plate", "export"],
    ]  # fmt: skip
    for line in LINES:
        arguments = line[1:]
        if "--workers" in arguments:
            # As on a cluster, which there is none of here; `test_plate_dask` has processes.
            at = arguments.index("--workers")
            del arguments[at : at + 2]
        assert main(arguments) == 0, arguments
        if arguments[0] == "manifest":
            shutil.copy("fields.csv", "next_plate.csv")
    assert "--dry-run" in LINES[1]
    assert "4 fields are there, 2 of them controls" in capsys.readouterr().out
    profiles = [pd.read_csv(place / name / "wells.csv") for name in ("plate1", "plate2")]
    for table in profiles:
        wells = WELLS[request.node.callspec.params["place"]]
        assert list(table["Metadata_Well"]) == sorted(wells)
        controls = table.set_index("Metadata_Well")["Metadata_condition"] == "DMSO"
        assert controls.to_dict() == {wells[0]: True, wells[1]: False}
    assert (place / "plate1" / "evaluation.html").exists()
    assert (place / "cells1" / "cells.zarr").exists()


def test_the_example_of_snakemake_runs_the_lines_of_the_docs():
    """The command of each rule is a line that is run above, what it leaves open filled in."""
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((ROOT / "examples" / "snakemake.yaml").read_text())
    rules = (ROOT / "examples" / "Snakefile").read_text()
    filled = set()
    commands = re.findall(r"shell:\n((?: +['\"].*\n)+)", rules)
    for command in commands:
        words = shlex.split(ast.literal_eval(f"({command})"))
        [line] = [
            line
            for line in LINES
            if len(line) == len(words)
            and all(w == known or w.startswith("{") for w, known in zip(words, line, strict=True))
        ]
        filled |= {known for w, known in zip(words, line, strict=True) if w.startswith("{")}
    assert len(commands) == 3
    assert filled == {*config.values(), "fields.csv", "8"}


def test_fractal_calls_a_plate_with_json_that_its_schema_describes(tmp_path, capsys):
    jsonschema = pytest.importorskip("jsonschema")
    assert main(["plate", "task", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    table = write_table(tmp_path / "images")
    pd.read_csv(table)[:3].to_csv(table, index=False)
    plate = write_ome_zarr(table, tmp_path / "P1.zarr")
    urls = [f"{plate}/O/{column}/1" for column in ("01", "05")]
    arguments = {
        "zarr_urls": urls,
        "zarr_dir": str(tmp_path),
        "controls": "Metadata_Well == 'O05'",
        "settings": small().to_dict(),
        "labels": True,
    }
    validator.validate(arguments)
    given, out = tmp_path / "args.json", tmp_path / "out.json"
    call = ["plate", "task", "--args-json", str(given), "--out-json", str(out)]
    given.write_text(json.dumps(arguments))
    assert main(call) == 0
    updates = json.loads(out.read_text())["image_list_updates"]
    assert updates == [{"zarr_url": url, "types": {"concepts": True}} for url in urls]
    assert sorted(pd.read_csv(tmp_path / "concepts" / "wells.csv")["Metadata_Well"]) == [
        "O01", "O05",
    ]  # fmt: skip
    assert (Path(urls[0]) / "labels" / "concepts").is_dir()
    for changes, sentence in (
        ({"zarr_urls": [*urls, f"{plate}/O/24/1"]}, "1 images are not in"),
        ({"until": "noon"}, "The setting until is 'noon'"),
        ({"settings": {"units": {"kind": "dog"}}}, "The setting units.kind is 'dog'"),
    ):
        given.write_text(json.dumps(arguments | changes))
        assert validator.is_valid(arguments | changes) == ("zarr_urls" in changes)
        assert main(call) == 2
        assert sentence in capsys.readouterr().err
