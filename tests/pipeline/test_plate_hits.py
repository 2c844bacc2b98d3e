"""Simulated plates from images to a hit list, which is checked against what was planted."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from napari_microdl.cli import main
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.concepts.store import open_activations
from napari_microdl.core.config import EvaluationChoices, PipelineConfig
from napari_microdl.pipeline.plate.listing import list_fields
from napari_microdl.pipeline.plate.run import run_plate
from napari_microdl.report.measures import MEASURES, EvaluationInput
from pipeline.plate_cases import write_simulated
from test_formats_page import keys, missing, section

PLANTED = {"large", "nuclear"}


@pytest.fixture(scope="module")
def plates(tmp_path_factory) -> Path:
    table = write_simulated(tmp_path_factory.mktemp("images"))
    out = tmp_path_factory.mktemp("plates") / "out"
    config = PipelineConfig.of(n_atoms=32, n_starts=1, channel_tokens="mean", device="cpu")
    run_plate(list_fields(table), out, config)
    return out


@pytest.fixture(scope="module")
def evaluated(plates) -> tuple[Path, str]:
    """The folder and what was printed, where copairs is not installed."""
    printed = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setitem(sys.modules, "copairs", None)
        assert main(["plate", "evaluate", str(plates), "--shuffles", "19"]) == 0
    return plates, printed.getvalue()


def asked(folder: Path, **choices) -> EvaluationInput:
    activations = open_activations(folder / "activations")
    return EvaluationInput(
        activations, EvaluationChoices(**choices), activations, None, None, 20_000
    )


def test_planted_treatments_are_the_hits(evaluated):
    folder, printed = evaluated
    hits = pd.read_csv(folder / "hits.csv").set_index("Metadata_condition")
    assert set(hits.index[hits["hit"]]) == PLANTED
    assert len(hits) == 6
    assert (hits["n_wells"] == 4).all()
    # What all wells of a treatment share stands beside it.
    assert (hits["Metadata_dose"] == 10).all()
    assert "2 of 6 treatments are hits" in printed
    # Six of twelve control wells of each plate were held back from the whitening.
    assert "With 12 control wells the p of a treatment cannot be below" in printed
    dictionary = ConceptDictionary.load(folder / "dictionary.microdl.safetensors")
    held = [f for f in dictionary.provenance["fields"] if f.get("held_back")]
    assert len(held) == 12
    assert all(f["control"] for f in held)
    row = hits.loc["large"]
    assert row["concept_id"] == dictionary.concept_id(row["concept"])
    assert row["concept_name"] == f"concept {row['concept']}"


def test_z_is_of_the_means_of_wells_against_controls_held_back(evaluated):
    folder, _ = evaluated
    hits = pd.read_csv(folder / "hits.csv").set_index("Metadata_condition")
    wells = pd.read_parquet(folder / "wells.parquet")
    dictionary = ConceptDictionary.load(folder / "dictionary.microdl.safetensors")
    held = {(f["plate"], f["well"]) for f in dictionary.provenance["fields"] if f.get("held_back")}
    own = pd.MultiIndex.from_frame(wells[["Metadata_Plate", "Metadata_Well"]])
    control = own.isin(list(held))
    cosines = wells.filter(like="Cells_ConceptCosine_")
    by_plate = cosines[control].groupby(wells["Metadata_Plate"][control])
    centred = cosines[control] - by_plate.transform("median")
    spread = 1.4826 * centred.abs().median()
    spread = spread.clip(lower=spread.median() / 4)
    z = (cosines - by_plate.median().loc[wells["Metadata_Plate"]].to_numpy()) / spread
    for condition, row in hits.iterrows():
        own_z = z[wells["Metadata_condition"] == condition].iloc[:, row["concept"]]
        assert row["robust_z"] == pytest.approx(own_z.mean(), rel=1e-3)


def test_every_column_is_told(evaluated):
    folder, _ = evaluated
    told = section("`hits.csv`")
    columns = [c for c in pd.read_csv(folder / "hits.csv") if not c.startswith("Metadata_")]
    assert missing(columns, told) == set()
    measured = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["more"]
    assert missing([key for part in measured.values() for key in keys(part)], told) == {
        "label",
        "labels",
    }


def test_figures_stand_in_files_and_on_the_page(evaluated):
    folder, _ = evaluated
    names = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert names >= {"hits", "replicates", "plates_number", "plates_position"}
    assert sum(name.startswith("plates_concept_") for name in names) > 1
    for path in (folder / "figures").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    page = (folder / "evaluation.html").read_text(encoding="utf-8")
    for heading in ("Hits", "Replicates", "Number of cells", "Treatments against controls"):
        assert f"<h2>{heading}</h2>" in page
    measured = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["more"]
    assert [row["term"] for row in measured["positions"]] == ["row", "column", "edge"]
    # Plates are placed by their own controls, so that little lies between them.
    assert abs(measured["batch_score"]["share"]) < 0.2


def test_what_wells_owe_to_their_place_is_taken_off_where_that_is_asked_for(plates):
    run = asked(plates, take_off_positions=True)
    left = run.wells.cosines - run.wells.positions[0].fitted
    plate, control = run.wells.plate, run.wells.control
    centred = left - np.stack([np.median(left[control & (plate == p)], axis=0) for p in plate])
    spread = 1.4826 * np.median(np.abs(centred[control]), axis=0)
    spread = np.maximum(spread, np.median(spread) / 4)
    np.testing.assert_allclose(run.well_z, centred / spread, rtol=1e-6)
    hits = MEASURES["hits"].function(run)
    assert set(hits.index[:2]) == PLANTED
    assert hits.attrs["positions_taken_off"]


def test_without_copairs_everything_else_is_made(evaluated):
    folder, printed = evaluated
    assert "No mean average precision (mAP): it takes the package copairs: pip install" in printed
    hits = pd.read_csv(folder / "hits.csv")
    assert "map" not in hits
    assert np.isfinite(hits["correlation"]).all()


def test_with_copairs_there_is_map(plates):
    pytest.importorskip("copairs")
    found = MEASURES["map"].function(asked(plates))["map"]
    assert found[list(PLANTED)].min() > found.drop(list(PLANTED)).max()
