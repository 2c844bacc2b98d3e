"""How often a run claims a finding where there is none: random splits of sets without a treatment.

``python benchmarks/claims_null.py --data DATA`` calls half of the wells, or of the fields, of a set
"treated" at random, a hundred times, and runs from there on what `napari-microdl fit` runs:
whitening on the others, dictionary, ranking, and the test of the best concept
(`napari_microdl.report.findings.find_finding`). Every finding is a false one. Printed is the share
of the splits that are called something, with its 95 % interval (Clopper-Pearson):

finding      `find_finding`: wells, or fields without a well, swap conditions as a whole, and
             whitening and dictionary are fitted anew each time;
codes fixed  the best of all concepts against 999 such swaps, of the codes as they are
             (`best_selectivity_null`), though they were learned knowing which are controls;
q wells      the best concept by the test of means of wells that the ranking has;
q cells      the same, cells counted as independent.

transfluor   the control fields, O11 to O16 at two sites: 12 fields, 3 of 6 wells treated or 6 of 12
             fields whose wells are not told. Of 6 wells there are 20 splits: all are taken.
dsb2018      24 fields alike in size, brightness and size of the nuclei (as the built-in
             segmentation finds them), 12 treated.
simulated    12 control wells of the simulator, 6 treated.

The dictionary that is ranked is fitted in 30 steps, as those of the test are; what the test says
does not depend on it. Run it with ``OMP_NUM_THREADS=1``.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import stats
from skimage.io import imread

from napari_microdl import Field, PipelineConfig
from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.fit_samples import FitSamples
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import Task
from napari_microdl.fields.segmentation import segment_cells
from napari_microdl.fields.simulator import simulate_plate
from napari_microdl.metrics import best_selectivity_null
from napari_microdl.pipeline.run import PipelineRun
from napari_microdl.pipeline.stages import Samples, Tokens, encode, learn, whiten
from napari_microdl.report.findings import REFIT_STEPS, find_finding
from napari_microdl.report.options import unit_groups

LEVEL = 0.05
CONFIG = PipelineConfig.of(max_steps=REFIT_STEPS, device="cpu")
N_DSB, DSB_SHAPE, DSB_CELLS = 24, (256, 256), (12, 60)
N_WELLS = 12
SHUFFLES = 999
COLUMNS = ("finding", "codes fixed", "q wells", "q cells")


def transfluor(data: Path) -> list[Field]:
    """Control wells of the whole set, both sites."""
    folder = data / "transfluor"
    with (folder / "conditions.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["is_control"] == "true"]
    return [
        Field(
            data=np.squeeze(tifffile.imread(folder / "images" / row["file"]))[None],
            channel_names=("GFP",),
            name=f"{row['Metadata_Well']}_{row['Metadata_Site']}",
            is_control=True,
            well=row["Metadata_Well"],
            site=row["Metadata_Site"],
        )
        for row in rows
    ]


def without_wells(fields: list[Field]) -> list[Field]:
    """The same fields, of which nobody told the well."""
    return [replace(field, well="") for field in fields]


def dsb2018(data: Path) -> list[Field]:
    """Fields of one size that lie nearest to each other in brightness and size of the nuclei."""
    found, traits = [], []
    for path in sorted((data / "dsb2018" / "images").glob("*.png")):
        image = imread(path)
        if image.shape != DSB_SHAPE:
            continue
        try:
            labels = segment_cells(image, CONFIG.cells)
        except MicrodlError:
            continue
        areas = np.bincount(labels[labels > 0])
        areas = areas[areas > 0]
        if not DSB_CELLS[0] <= len(areas) <= DSB_CELLS[1]:
            continue
        inside = np.median(image[labels > 0]) + 1.0
        traits.append(np.log([np.median(areas), inside, np.median(image[labels == 0]) + 1.0]))
        found.append(
            Field(
                data=image[None],
                channel_names=("DNA",),
                name=path.stem,
                is_control=True,
                labels=labels,
            )
        )
    apart = np.array(traits)
    apart = (apart - np.median(apart, axis=0)) / (apart.std(axis=0) + 1e-9)
    near = np.argsort((apart**2).sum(axis=1), kind="stable")[:N_DSB]
    return [found[number] for number in sorted(near.tolist())]


def simulated(_: Path) -> list[Field]:
    """Control wells alone, which differ by their gain and the cells that were drawn."""
    return simulate_plate(
        {},
        n_control_wells=N_WELLS,
        n_cells=24,
        shape=(256, 256),
        channels=("DNA", "RNA"),
        seed=2,
    )[0]


SETS: dict[str, Callable[[Path], list[Field]]] = {
    "transfluor, wells": transfluor,
    "simulated, wells": simulated,
    "dsb2018, fields": dsb2018,
    "transfluor, fields": lambda data: without_wells(transfluor(data)),
}


def splits(fields: list[Field], n: int) -> Iterator[NDArray[np.bool_]]:
    """Which fields are called treated: half of the wells, or fields; all ways, or some of them."""
    wells = np.array([field.well or field.name for field in fields])
    names = np.unique(wells)
    if math.comb(len(names), len(names) // 2) <= n:
        for chosen in combinations(names.tolist(), len(names) // 2):
            yield np.isin(wells, chosen)
        return
    for number in range(n):
        random = np.random.default_rng([7, number])
        yield np.isin(wells, random.choice(names, len(names) // 2, replace=False))


def fitted(
    fields: list[Field], tokens: Tokens, samples: Samples, treated: NDArray[np.bool_]
) -> ConceptActivations:
    """What `run_pipeline` makes of these conditions."""
    told = [
        replace(f, condition="treated" if t else "control", is_control=not t)
        for f, t in zip(fields, treated.tolist(), strict=True)
    ]
    whitened = whiten(told, CONFIG, samples)
    learned = learn(told, CONFIG, tokens, samples, whitened)
    activations = encode(told, tokens, samples, whitened.vectors, learned.dictionary)
    activations.fit_samples = FitSamples.draw(samples.vectors, CONFIG)
    return activations


def called(activations: ConceptActivations) -> dict[str, float]:
    """The p-value, or q-value, by which the best concept would be called something."""
    best, units = activations.ranking.iloc[0], activations.units
    fixed = best_selectivity_null(
        activations.codes,
        units["Metadata_condition"].to_numpy(str),
        unit_groups(units),
        n_permutations=SHUFFLES,
    )
    p = find_finding(activations).p_value
    return {
        "finding": np.inf if p is None else p,
        "codes fixed": fixed.loc["treated", "p_value"],
        "q wells": best["q_wells"],
        "q cells": best["q_cells"],
    }


def main() -> None:
    """Print the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(os.environ.get("MICRODL_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    arguments = parser.parse_args()
    print(f"| set | fields | units | splits | {' | '.join(COLUMNS)} |")
    print(f"| {' | '.join(['---'] * (4 + len(COLUMNS)))} |")
    for name in arguments.sets:
        fields = SETS[name](arguments.data)
        # That there are few samples was said of the fit itself, and is no matter here.
        with Task().active() as task, task.taking_notes():
            run = PipelineRun(fields, CONFIG)
            tokens, samples = run.tokens(), run.samples()
            rows, known = [], {}
            for treated in splits(fields, arguments.splits):
                key = treated.tobytes()
                if key not in known:
                    known[key] = called(fitted(fields, tokens, samples, treated))
                rows.append(known[key])
        cells = []
        for column in COLUMNS:
            n = sum(row[column] <= LEVEL for row in rows)
            low, high = stats.binomtest(n, len(rows)).proportion_ci(0.95)
            cells.append(f"{n / len(rows):.0%} ({low:.0%}-{high:.0%})")
        start = f"| {name} | {len(fields)} | {len(samples.vectors)} | {len(rows)} "
        print(f"{start}| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
