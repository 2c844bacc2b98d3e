"""What becomes of batch, focus and position effects by how plates are brought together.

``python benchmarks/plates.py`` draws experiments of four plates
(`napari_microdl.fields.simulator`). A plate has 16 control wells and 15 treatments in one well
each, laid out at random on 96 places, a field a well. Five treatments are planted (size,
elongation, texture, translocation, puncta), ten do nothing. What is no treatment: every plate has
its own gain, haze, blur and background, weak ones or three times as much; every well its own focus;
wells at the edge are hazier, and blur grows from the first column to the last. The built-in model
reads each experiment once; the whitening, the dictionary and all that follows are made anew for
each choice.

Half of the control wells are held back from the whitening, as in a plate run, and all is measured
on these; rows with "none" show what comes out where the whitening has seen all of them.

Batch score: share of the variance of control wells' mean cosines that lies between plates, less
chance (`batch_effects`); "of place" the same of row, column and edge. mAP: mean over the planted
treatments, of z against the controls of all plates, where effects of plates remain, and against
those of the own plate, as the hit list has it. Found and called are treatments with a q of at most
0.05 (the list itself calls nothing a hit where none is held back); the last column is the share of
the ten treatments that do nothing with a p of at most 0.05.

``--write`` puts the table into docs/plates.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from results_page import markdown, write_between

from napari_microdl import Field, PipelineConfig
from napari_microdl.core.config import EvaluationChoices
from napari_microdl.core.task import Task
from napari_microdl.fields.simulator import Nuisances, simulate_field
from napari_microdl.metrics.average_precision import mean_average_precision
from napari_microdl.metrics.wells import robust_z
from napari_microdl.pipeline.cache import StageCache
from napari_microdl.pipeline.plate.sampling import hold_back
from napari_microdl.pipeline.run import run_pipeline
from napari_microdl.report.measures import MEASURES, EvaluationInput
from napari_microdl.tokens import TokenCache

PLANTED = {
    "size": {"size": 0.4},
    "elongation": {"elongation": 0.35},
    "texture": {"texture": 0.5},
    "translocation": {"translocation": 0.5},
    "puncta": {"puncta": 0.5},
}
N_NULL, N_CONTROL, SPREAD = 10, 16, 0.2
CHANNELS = ("ER", "RNA", "AGP")
EDGE, CELLS = 192, 24
# Gain, haze, blur and background of the plates.
PLATES = ((1.0, 0.0, 0.0, 0.0), (0.8, 0.2, 0.0, 0.05), (1.2, 0.05, 0.7, 0.0), (1.0, 0.1, 0.3, 0.1))
AT_EDGE, LAST_COLUMN, FOCUS = 0.1, 0.6, 0.15
NAMES = {
    "together": "as they are",
    "centre": "own centre",
    "scale": "own centre and scale",
}
STRENGTHS = {"weak": 1, "strong": 3}
# Whether half of the control wells are held back, and how plates are brought together.
RUNS = (
    (False, "together"), (False, "centre"),
    (True, "together"), (True, "centre"), (True, "scale"),
)  # fmt: skip
HEADER = (
    "batch", "held back", "plates", "place", "batch score", "of place", "mAP", "mAP, own plate",
    "planted found", "called a hit of nothing", "p below 0.05 of nothing",
)  # fmt: skip
DOCS = Path(__file__).parents[1] / "docs" / "plates.md"
BEGIN, END = "<!-- plates: begin -->", "<!-- plates: end -->"


def experiment(seed: int, strength: float) -> list[Field]:
    """Fields of four plates."""
    rng = np.random.default_rng(seed)
    treatments: list[tuple[str, dict[str, float]]] = [("control", {})] * N_CONTROL
    treatments += [*PLANTED.items(), *((f"nothing {n + 1}", {}) for n in range(N_NULL))]
    fields = []
    for number, (gain, haze, blur, background) in enumerate(PLATES):
        places = rng.permutation(96)[: len(treatments)]
        for (condition, factors), place in zip(treatments, places.tolist(), strict=True):
            row, column = divmod(place, 12)
            at_edge = row in (0, 7) or column in (0, 11)
            nuisances = Nuisances(
                gain=gain**strength * float(np.exp(0.1 * rng.normal())),
                haze=strength * haze + AT_EDGE * at_edge,
                blur=strength * blur + LAST_COLUMN * column / 11 + FOCUS * abs(float(rng.normal())),
                background=strength * background,
            )
            well, plate = f"{chr(65 + row)}{column + 1:02d}", f"P{number + 1}"
            strengths = {
                factor: np.clip(rng.normal(strength, SPREAD, CELLS), 0, 1).tolist()
                for factor, strength in factors.items()
            }
            drawn = simulate_field(
                strengths,
                n_cells=CELLS,
                shape=(EDGE, EDGE),
                channels=CHANNELS,
                nuisances=nuisances,
                name=f"{plate}_{well}",
                condition=condition,
                is_control=condition == "control",
                well=well,
                plate=plate,
                seed=int(rng.integers(2**31)),
            )
            fields.append(drawn.field)
    return fields


def looked_at(activations: Any, *, off: bool) -> dict[str, float]:
    """Figures of one run, with what wells owe to their place or without."""
    choices = EvaluationChoices(take_off_positions=off)
    run = EvaluationInput(activations, choices, activations, None, None, 20_000)
    hits = MEASURES["hits"].function(run)
    wells = run.wells
    values = wells.values(take_off_positions=off)
    one = np.zeros(len(values), int)
    batch = MEASURES["batch_score"].function(run).iloc[0]
    places = MEASURES["positions"].function(run)
    planted = hits.index.isin(PLANTED)
    precision = [
        mean_average_precision(z, wells.label, wells.control, wells.plate)["map"][list(PLANTED)]
        for z in (robust_z(values, wells.control, one), run.well_z)
    ]
    return {
        "batch score": batch["share"],
        "of place": float("nan") if off else places["share"].iloc[0],
        "mAP": precision[0].mean(),
        "mAP of own plate": precision[1].mean(),
        "found": int((hits["q_value"][planted] <= 0.05).sum()),
        "false": int((hits["q_value"][~planted] <= 0.05).sum()),
        "p below 0.05": float((hits["p_value"][~planted] <= 0.05).mean()),
    }


def measured(seed: int, batch: str, folder: Path) -> list[dict[str, Any]]:
    """Rows of one experiment."""
    fields, rows = experiment(seed, STRENGTHS[batch]), []
    held = set(hold_back(fields, None, seed))
    with_held_back = [
        dataclasses.replace(f, is_control=f.is_control and n not in held)
        for n, f in enumerate(fields)
    ]
    stages: dict[bool, StageCache] = {}
    for back, kind in RUNS:
        started = time.process_time()
        with Task().active() as task, task.taking_notes():
            result = run_pipeline(
                with_held_back if back else fields,
                PipelineConfig.of(channel_tokens="mean", plates=kind, random_state=seed),
                cache=TokenCache(folder),
                stages=stages.setdefault(back, StageCache()),
            )
            # What was held back is a control all the same.
            units = result.activations.units
            units["Metadata_control"] = units["Metadata_condition"] == "control"
            for off in (False, True):
                row = {"batch": batch, "back": back, "kind": kind, "off": off, "seed": seed}
                rows.append(row | looked_at(result.activations, off=off))
                print(rows[-1], flush=True)
        print(f"{time.process_time() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


def table_of(rows: pd.DataFrame) -> list[str]:
    """Lines of the table: means over experiments."""
    lines = []
    for (batch, back, kind, off), own in rows.groupby(["batch", "back", "kind", "off"], sort=False):
        mean = own.mean(numeric_only=True)
        n = len(own)
        lines.append(
            [
                str(batch),
                "half" if back else "none",
                NAMES[str(kind)],
                "taken off" if off else "left",
                f"{mean['batch score']:.2f}",
                "" if off else f"{mean['of place']:.2f}",
                f"{mean['mAP']:.2f}",
                f"{mean['mAP of own plate']:.2f}",
                f"{own['found'].sum():.0f} of {n * len(PLANTED)}",
                f"{own['false'].sum():.0f} of {n * N_NULL}",
                f"{mean['p below 0.05']:.2f}",
            ]
        )
    return markdown(HEADER, lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as tokens:
        found = [
            row
            for seed in range(arguments.seeds)
            for batch in STRENGTHS
            for row in measured(seed, batch, Path(tokens))
        ]
    table = table_of(pd.DataFrame(found))
    print(*table, sep="\n")
    if arguments.write:
        write_between(BEGIN, table, END, DOCS)
