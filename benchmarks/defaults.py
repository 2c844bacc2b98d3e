"""What stands behind the defaults of layer, atoms, active concepts (K), shrinkage and starts.

``python benchmarks/defaults.py --data DATA --write docs/results.md`` varies one of them at a time,
all others as they are by default but that a fit has one start, and prints and writes one table:
medians of the seeds. DATA holds `transfluor`. Rows are kept in defaults.jsonl, and those that are
there are not measured again.

- *Planted*: as in `benchmarks/cells.py` (the best concept within held-out wells, mean of five
  factors), on the plates of seeds 7 and 8. Seed 0 stays unseen.
- *Selectivity*, *AUC*: of the concept chosen in the fit, on the wells of site f00 that it left out;
  every other control well and treated well are fitted, then the others, and both are averaged.
- *Again*: codes of the best concept of f00's first half with each seed against those with the first
  (Spearman, over cells).
- *Layer, of means*: layers where a cell is the mean of its tokens.
- *R2* of the fits on f00.

Site f01 and the plate of seed 0, which `benchmarks/cells.py` reports, are not looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cells import CONTROLS, best_concept, of_chosen, on_plate, sites
from results_page import append, read_rows, write_between, write_page
from scipy.stats import spearmanr
from simulated import plate

from napari_microdl import Field, PipelineConfig, run_pipeline
from napari_microdl.pipeline.cache import StageCache

ROWS = Path(__file__).with_name("defaults.jsonl")
BEGIN, END = "<!-- defaults: begin -->", "<!-- defaults: end -->"
PLATES = (7, 8)
VARIED: dict[str, list[dict[str, Any]]] = {
    "starts": [{"n_starts": n} for n in (4, 8, 16)],
    "layer": [{"layer": n} for n in (1, 2, 3, 4, 6)],
    "atoms": [{"n_atoms": n} for n in (8, 16, 32, 64, 128)],
    "K": [
        {"n_iterations": 1, "atoms_per_iteration": 1},
        {"n_iterations": 2, "atoms_per_iteration": 1},
        {"n_iterations": 2, "atoms_per_iteration": 2},
        {"n_iterations": 4, "atoms_per_iteration": 2},
        {"n_iterations": 4, "atoms_per_iteration": 4},
    ],
    "shrinkage": [{"shrinkage": s} for s in (0.1, 0.3, 1.0, 3.0, 10.0)],
    "layer, of means": [{"layer": n} for n in (2, 4, 6)],
}
# What goes with all that is varied under a name.
TOGETHER: dict[str, dict[str, Any]] = {"layer, of means": {"pooling": "mean"}}
Row = dict[str, Any]
Parts = tuple[list[Field], list[Field]]


def halves(fields: list[Field]) -> list[Parts]:
    """Every other well of controls and of treated ones, and the others; both ways."""
    groups = [[f for f in fields if (f.well in CONTROLS) is c] for c in (True, False)]
    first, second = ([f for group in groups for f in group[start::2]] for start in (0, 1))
    return [(first, second), (second, first)]


def on_wells(parts: list[Parts], config: PipelineConfig, stages: list[StageCache]) -> Row:
    """The concept that was chosen in the fit, on other wells of f00."""
    rows = []
    for (fit, others), place in zip(parts, (0, 2), strict=True):
        fitted = run_pipeline(fit, config, stages=stages[place])
        before = fitted.activations
        applied = run_pipeline(
            others, config, dictionary=fitted.dictionary, stages=stages[place + 1]
        )
        selectivity, auc = of_chosen(before, applied.activations)
        rows.append(
            {
                "selectivity": selectivity,
                "AUC": auc,
                "R2": float(fitted.dictionary.icfl.history_[-1].r2),
                "codes": before.activation(best_concept(before)),
            }
        )
    found: Row = {k: float(np.mean([row[k] for row in rows])) for k in ("selectivity", "AUC", "R2")}
    return found | {"codes": rows[0]["codes"]}


def measured(data: Path, seeds: int) -> Iterator[Row]:
    """A row a value and seed that is not there yet."""
    done = {(row["varied"], row["value"], row["seed"]) for row in read_rows(ROWS, "defaults")}
    parts, plates = halves(sites(data, "f00")), [plate(seed) for seed in PLATES]
    stages = [StageCache() for _ in range(4 + 2 * len(PLATES))]
    settings = [("default", "default", {})]
    settings += [
        (varied, _value(change), change) for varied, some in VARIED.items() for change in some
    ]
    # Layers last: all others are read from the same tokens.
    settings.sort(key=lambda setting: setting[0].startswith("layer"))
    for varied, value, change in settings:
        first = None
        for seed in range(seeds):
            if (varied, value, seed) in done and not (seed == 0 and seeds > 1):
                continue
            config = PipelineConfig.of(
                random_state=seed, **{"n_starts": 1, **TOGETHER.get(varied, {}), **change}
            )
            found = on_wells(parts, config, stages[:4])
            codes = found.pop("codes")
            first = codes if seed == 0 else first
            if (varied, value, seed) in done:
                continue
            again = None if seed == 0 else float(spearmanr(first, codes).statistic)
            planted = [
                on_plate(config, stages[4 + 2 * place :], ridge=False, drawn=drawn)["planted"]
                for place, drawn in enumerate(plates)
            ]
            known = {"varied": varied, "value": value, "seed": seed}
            yield {**known, "planted": float(np.mean(planted)), **found, "again": again}


def _value(change: dict[str, Any]) -> str:
    return " x ".join(f"{value:g}" for value in change.values())


def table(rows: list[Row]) -> list[str]:
    """Lines of Markdown."""
    columns = ("planted", "selectivity", "AUC", "again", "R2")
    lines = [f"| varied | value | {' | '.join(columns)} |", f"| --- |{' --- |' * 6}"]
    frame = pd.DataFrame(rows)
    order = ["default", *VARIED]
    values = {v: [_value(change) for change in some] for v, some in VARIED.items()}
    for varied in order:
        for value in values.get(varied, ["default"]):
            part = frame[(frame["varied"] == varied) & (frame["value"] == value)]
            if len(part):
                cells = [_cell(part[column].dropna()) for column in columns]
                lines.append(f"| {varied} | {value} | {' | '.join(cells)} |")
    return lines


def _cell(values: pd.Series[float]) -> str:
    if not len(values):
        return "-"
    return f"{values.median():.2f} ({values.min():.2f} to {values.max():.2f})"


def main() -> None:
    """Measure what is missing, print the table, write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the public image sets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the page of results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.data:
        for row in measured(arguments.data, arguments.seeds):
            append(ROWS, {"table": "defaults", **row})
            print(row, flush=True)
    lines = table(read_rows(ROWS, "defaults"))
    print("\n".join(lines))
    if arguments.write:
        write_between(BEGIN, lines, END)
        write_page(Path(__file__).with_name("results.jsonl"), arguments.write)


if __name__ == "__main__":
    main()
