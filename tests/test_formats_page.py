"""docs/formats.md names every column and entry of the files that a fit and an evaluation leave."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.task import Task
from napari_microdl.fields.samples import transfluor
from napari_microdl.pipeline.files import evaluate_run, write_run
from napari_microdl.pipeline.run import run_pipeline
from napari_microdl.report import EvaluationChoices
from napari_microdl.report.findings import find_finding

PAGE = Path(__file__).parents[1] / "docs" / "formats.md"
CONFIG = PipelineConfig.of(
    model="random-init",
    layer=1,
    n_atoms=12,
    n_iterations=1,
    atoms_per_iteration=2,
    max_steps=3,
    device="cpu",
)
# Entries whose names are those of something else, which the page describes as a whole.
NAMED_BY_OTHERS = {"config", "spec", "packages", "model_channels"}
NUMBERED = [
    (r"(activation|cosine)_\d+(_.*)?", r"\1_<concept>"),
    (r"passes_[\d.]+", "passes_<threshold>"),
    (r"null_[\d.]+", "null_<quantile>"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that can be written: two plates, tags, further seeds, cells."""
    out = tmp_path_factory.mktemp("run")
    fields = [
        dataclasses.replace(f, data=f.data[:, 100:260, 100:260], plate=f"P{number % 2}")
        for number, f in enumerate(transfluor())
    ]
    with Task().active() as task, task.taking_notes():
        result = run_pipeline(fields, CONFIG)
        result.activations.unit_tags[:5] = "perturbed"
        result.activations.unit_tags[-5:] = "control-like"
        finding = find_finding(result.activations, n_refits=19, refit_steps=3)
        write_run(result, out, finding=finding)
        choices = EvaluationChoices(n_permutations=19, n_seeds=1)
        evaluate_run(result, fields, out, choices)
    return out


def section(heading: str) -> str:
    page = PAGE.read_text(encoding="utf-8")
    start = page.index(f"## {heading}\n")
    end = page.find("\n## ", start + 1)
    return page[start : end if end > 0 else len(page)]


def keys(values: Any) -> Iterator[str]:
    """Names of all entries, also inside of others."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield key
            if key not in NAMED_BY_OTHERS:
                yield from keys(value)
    elif isinstance(values, list):
        for value in values:
            yield from keys(value)


def missing(names: Iterator[str] | list[str], text: str) -> set[str]:
    found = set()
    for name in names:
        told = name
        for pattern, placeholder in NUMBERED:
            told = re.sub(f"^{pattern}$", placeholder, told)
        if f"`{told}`" not in text:
            found.add(told)
    return found


@pytest.mark.parametrize(
    ("file", "heading"), [("cells.csv", "`cells.csv`"), ("concepts.csv", "`concepts.csv`")]
)
def test_every_column_of_a_table_is_told(folder: Path, file: str, heading: str):
    columns = list(pd.read_csv(folder / file).columns)
    assert len(columns) > 10
    assert missing(columns, section(heading)) == set()
    assert missing(["no_such_column"], section(heading)) == {"no_such_column"}


def test_every_entry_of_the_report_is_told(folder: Path):
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert {"finding", "finding_figures", "fit", "concepts"} <= set(report)
    text = section("`report.json`") + section("`concepts.csv`")
    assert missing(keys(report), text) == set()


def test_every_entry_of_the_evaluation_is_told(folder: Path):
    report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    empty = {name for name, part in report.items() if not part} - {"notes", "more"}
    assert empty == set()
    text = section("`evaluation.json`") + section("`report.json`")
    assert missing(keys(report), text) == set()


def test_what_the_dictionary_says_of_its_fit_is_told(folder: Path):
    figures = ConceptDictionary.load(folder / "dictionary.microdl.safetensors").figures
    text = section("Dictionary: `*.microdl.safetensors`") + section("`report.json`")
    assert set(figures["chosen"]) == {"concept", "label", "selectivity", "p_value"}
    assert missing(keys(figures), text) == set()


def test_the_comparison_of_two_conditions_is_told():
    from concepts.test_activations import make

    _, activations = make(("blank", "puncta") * 2, (True, False) * 2)
    table = activations.compare("blank", "puncta").reset_index()
    assert missing([*table.columns, "name"], section("`concepts.csv`")) == set()
