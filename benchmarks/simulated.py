"""How well concepts of the whole pipeline follow planted factors, cell by cell.

``python benchmarks/simulated.py --results benchmarks/results.jsonl`` draws a plate of Cell
Painting-like fields (`napari_microdl.fields.simulator`): six control wells and, for each of the six
factors, three wells in which its strength differs from cell to cell. `run_pipeline` with the
built-in model and the plate's own labels fits on four control wells and two of each treatment, and
its dictionary is applied to the wells left. For every factor, `factor_recovery` chooses the concept
on the fitting wells and correlates it with the truth on the others (Spearman, over cells): over the
cells of the factor's own wells and of controls, and over those of its own wells alone, where no
difference between wells can help. Samples are the means of cells' tokens, as in the paper;
`benchmarks/cells.py` has their spread, the default, too. Dictionaries have the default size, or 256
atoms. Two bars: the best handcrafted measurement, chosen and tested alike, and a ridge regression
on all dimensions of the whitened tokens, which says whether they hold the factor at all. The null
is the 95th percentile of what comes out when the truth is shuffled among the cells of each field,
which leaves differences between wells as they are. A seed draws the dictionary's start; the plate
stays the same.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from results_page import PAGE, append, read_rows, simulated_tables, write_page
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV

from napari_microdl import Field, PipelineConfig, run_pipeline
from napari_microdl.core.arrays import unit_length
from napari_microdl.fields.simulator import CONTROL, FACTORS, simulate_plate
from napari_microdl.metrics import cell_measurements, factor_recovery
from napari_microdl.tokens import TokenCache

STRENGTH, SPREAD = 0.5, 0.25
N_CONTROL, N_WELLS, N_HELD_OUT = 6, 3, (2, 1)
SHUFFLES = 100
WHITENED = "whitened"
MEAN = {"pooling": "mean"}
CONFIGS: dict[str, dict[str, Any]] = {
    WHITENED: MEAN,
    "large": {**MEAN, "n_atoms": 256},
    "not whitened": {**MEAN, "whiten": False},
}
Row = dict[str, Any]
Floats = NDArray[np.floating]


def plate(seed: int = 0) -> tuple[list[Field], pd.DataFrame, set[str]]:
    """Fields, truth, and the names of the fields held out: the last wells of each condition."""
    fields, truth = simulate_plate(
        {factor: {factor: STRENGTH} for factor in FACTORS},
        n_control_wells=N_CONTROL,
        n_wells=N_WELLS,
        spread=SPREAD,
        seed=seed,
    )
    held_out = set()
    for condition in (CONTROL, *FACTORS):
        names = [f.name for f in fields if f.condition == condition]
        held_out |= set(names[-N_HELD_OUT[0] if condition == CONTROL else -N_HELD_OUT[1] :])
    return fields, truth, held_out


def shuffled(truth: pd.DataFrame, factor: str, rng: np.random.Generator) -> pd.DataFrame:
    """The truth with the strengths of a factor swapped among the cells of each field."""
    drawn = truth.groupby("field")[factor].transform(lambda part: rng.permutation(part.to_numpy()))
    return truth.assign(**{factor: drawn})


def followed(
    values: Floats, units: pd.DataFrame, truth: pd.DataFrame, factor: str, held_out: set[str]
) -> float:
    """Correlation on the held-out fields, below zero where the chosen concept has turned round."""
    table = factor_recovery(values, units, truth, [factor], held_out)
    chosen, found = table[["chosen", "held_out"]].iloc[0]
    return float(found * np.sign(chosen))


def regressed(
    values: Floats, units: pd.DataFrame, truth: pd.DataFrame, factor: str, held_out: set[str]
) -> float:
    """Correlation on the held-out fields of what a ridge regression makes of all dimensions."""
    keys = units[["Metadata_Field", "label"]].rename(columns={"Metadata_Field": "field"})
    strength = keys.merge(truth, on=["field", "label"], how="left")[factor].to_numpy(float)
    apart = units["Metadata_Field"].isin(held_out).to_numpy()
    known = np.isfinite(strength)
    ridge = RidgeCV(np.logspace(-2, 5, 8)).fit(values[known & ~apart], strength[known & ~apart])
    predicted = ridge.predict(values[known & apart])
    return float(spearmanr(predicted, strength[known & apart]).statistic)


def recovered(
    values: Floats,
    units: pd.DataFrame,
    truth: pd.DataFrame,
    held_out: set[str],
    score: Callable[..., float] = followed,
    *,
    null: bool,
) -> dict[str, Row]:
    """What a representation tells of every factor."""
    found: dict[str, Row] = {}
    for factor in FACTORS:
        own = truth["condition"] == factor
        row: Row = {}
        for name, of in (("controls", own | (truth["condition"] == CONTROL)), ("own", own)):
            known = truth[of]
            if known[factor].nunique() < 2:
                continue
            row[name] = score(values, units, known, factor, held_out)
            # The density of a field is the same for all of its cells: nothing can be swapped.
            if null and known.groupby("field")[factor].nunique().max() > 1:
                rng = np.random.default_rng(0)
                draws = [
                    score(values, units, shuffled(known, factor, rng), factor, held_out)
                    for _ in range(SHUFFLES)
                ]
                row[f"{name}_null"] = float(np.quantile(draws, 0.95))
        found[factor] = row
    return found


def measurements(fields: list[Field], units: pd.DataFrame) -> NDArray[np.float64]:
    """Handcrafted measurements of the same cells in the same order."""
    tables = []
    for field in fields:
        labels = field.read_labels()
        assert labels is not None
        table = cell_measurements(field.read(), labels, field.channel_names)
        tables.append(table.assign(Metadata_Field=field.name).reset_index())
    keys = ["Metadata_Field", "label"]
    merged = units[keys].merge(pd.concat(tables), on=keys, how="left", validate="one_to_one")
    values: NDArray[np.float64] = merged.drop(columns=keys).to_numpy(float)
    return values


def main() -> None:
    """Run what is missing, print the table, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results.jsonl"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path, metavar=PAGE, help="write the page of results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    done = {(r["method"], r["seed"]) for r in read_rows(arguments.results, "simulated")}
    fields, truth, held_out = plate()
    parts = [
        [f for f in fields if f.name not in held_out],
        [f for f in fields if f.name in held_out],
    ]

    def keep(method: str, seed: int, found: dict[str, Row], more: Row) -> None:
        factors = {f: {k: round(v, 4) for k, v in row.items()} for f, row in found.items()}
        row = {"table": "simulated", "method": method, "seed": seed, "factors": factors, **more}
        append(arguments.results, row)
        print(f"{method} {seed}", flush=True)

    wanted = [(s, m) for s in range(arguments.seeds) for m in CONFIGS if (m, s) not in done]
    with tempfile.TemporaryDirectory() as folder:
        cache = TokenCache(Path(folder))
        for seed, method in wanted:
            config = PipelineConfig.of(random_state=seed, **CONFIGS[method])
            fitted = run_pipeline(parts[0], config, cache=cache)
            applied = run_pipeline(parts[1], config, dictionary=fitted.dictionary, cache=cache)
            results = fitted.activations, applied.activations
            units = pd.concat([a.units for a in results], ignore_index=True)
            vectors = unit_length(np.concatenate([a.vectors for a in results]))
            cosines = np.einsum("nd,md->nm", vectors, fitted.dictionary.directions)
            sizes = {
                "n_fit": len(results[0].units),
                "n_test": len(results[1].units),
                "n_concepts": cosines.shape[1],
                "width": vectors.shape[1],
            }
            found = recovered(cosines, units, truth, held_out, null=seed == 0)
            keep(method, seed, found, sizes)
            if method == WHITENED and ("tokens", seed) not in done and seed == 0:
                found = recovered(vectors, units, truth, held_out, regressed, null=True)
                keep("tokens", 0, found, sizes)
                values = measurements(parts[0] + parts[1], units)
                found = recovered(values, units, truth, held_out, null=True)
                keep("handcrafted", 0, found, {"n_concepts": values.shape[1]})
    print("\n".join(simulated_tables(read_rows(arguments.results, "simulated"))))
    if arguments.write:
        write_page(arguments.results, arguments.write)


if __name__ == "__main__":
    main()
