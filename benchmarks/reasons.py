"""Why some of the paper's claims do not hold on the public sets of `claims.py`: two experiments.

``python benchmarks/reasons.py --data DATA`` measures every row that ``benchmarks/results.jsonl``
does not hold yet, appends it and prints two tables; ``--write docs/results.md`` writes the page.
Samples, fitting fields and held-out fields are those of `claims.py`, sizes and rates the package's
defaults unless a row says otherwise; median (range) over seeds.

encoder   On samples that are not whitened the autoencoder's concepts are the more selective ones.
          Is it the atoms, the way in which samples are coded with them, or a mean that the
          autoencoder's bias takes away and ICFL has no bias for? Each in turn:
          less the mean    ICFL on the samples less the mean of those fitted (the autoencoder has
                           learned a bias that does this);
          less 8 axes      ICFL on samples off the first eight principal axes of those fitted, and
                           again of unit length;
          positive         ICFL whose codes may not be negative, as the autoencoder's may not;
          one round        ICFL that picks all K atoms at once, as the autoencoder does, so that
                           none is learned on what others leave;
          linear read-out  ICFL's atoms, of which a sample's code is the K largest inner products,
                           as an autoencoder whose encoder is its decoder would have it;
          pursuit          the autoencoder's atoms and bias, coded by ICFL's pursuit.
          And on whitened samples, ICFL with codes of both signs and with positive ones.
dead      Few features are dead. 32 or 256 atoms on `bccd`: the autoencoder with and without its
          auxiliary loss; ICFL with and without the redraw of unused and doubled atoms; ICFL as
          printed, and the same but started from samples. Dead is active in none of the fitted
          samples, as in `claims.py`.

Run it with ``OMP_NUM_THREADS=1``; a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from claims import prepared, printed, rounded
from numpy.typing import NDArray
from public_sets import SETS, Floats, Samples, token_samples
from results_page import (
    CONTROL_LABEL,
    PAGE,
    append,
    dead_table,
    encoder_table,
    read_rows,
    write_page,
)
from scipy import sparse

from napari_microdl import ICFL, TopKSAE
from napari_microdl.core.arrays import unit_length
from napari_microdl.estimators.icfl.learner import Learner
from napari_microdl.estimators.icfl.plan import default_sparsity
from napari_microdl.estimators.pursuit import codes_to_csr, matching_pursuit
from napari_microdl.estimators.whitening import FewControlsWarning
from napari_microdl.metrics import (
    average_selectivity,
    dead_features,
    largest_codes,
    separation_auc,
)

Row = dict[str, Any]
ENCODER_SETS = ("transfluor", "bbbc014_vitra", "bccd")
AXES = 8
DEAD_SET, DEAD_ATOMS, DEAD_SEEDS = "bccd", (32, 256), 3
PREPARATIONS = ("centred", "whitened")
# In turn with their options; a redraw has none, as there is no other use for leaving it out.
LEARNERS: dict[str, dict[str, Any]] = {
    "ICFL": {},
    "ICFL, no redraw": {},
    "ICFL as printed": {},
    "ICFL as printed, started from samples": {"init": "data"},
    "TopK SAE": {},
    "TopK SAE, no auxiliary loss": {"aux_weight": 0.0},
}


def less_mean(fit: Samples, test: Samples) -> tuple[Samples, Samples]:
    """Both parts less the mean of the first."""
    mean = fit.vectors.mean(axis=0)
    return tuple(replace(s, vectors=s.vectors - mean) for s in (fit, test))


def less_axes(fit: Samples, test: Samples) -> tuple[Samples, Samples]:
    """Both parts off the first principal axes of the first, again of unit length."""
    mean = fit.vectors.mean(axis=0)
    axes = np.linalg.svd(fit.vectors - mean, full_matrices=False)[2][:AXES]
    return tuple(
        replace(s, vectors=unit_length(s.vectors - (s.vectors @ axes.T) @ axes))
        for s in (fit, test)
    )


def scored(
    codes: tuple[sparse.csr_array, sparse.csr_array],
    atoms: NDArray[np.floating],
    fit: Samples,
    test: Samples,
    name: str,
) -> Row:
    """Mean over the labels but the controls' of the concept chosen on the fitting part."""
    classes, chosen = average_selectivity(codes[0], fit.labels)
    _, reached = average_selectivity(codes[1], test.labels)
    directions, samples = unit_length(np.asarray(atoms, np.float32)), unit_length(test.vectors)
    selectivities, areas, shares = [], [], []
    for number, label in enumerate(classes):
        if label == CONTROL_LABEL[name]:
            continue
        best = int(chosen[number].argmax())
        selectivities.append(reached[number, best])
        areas.append(separation_auc(samples @ directions[best], test.labels == label))
        shares.append((codes[1][:, [best]] > 0).sum() / len(test.labels))
    return {
        "held_out": float(np.mean(selectivities)),
        "auc": float(np.mean(areas)),
        "active": float(np.mean(shares)),
        "non_zeros": float((codes[1] > 0).sum() / len(test.labels)),
    }


def icfl_on(name: str, fit: Samples, test: Samples, seed: int, **options: Any) -> tuple[ICFL, Row]:
    """A fit and its scores."""
    icfl = ICFL(random_state=seed, **options).fit(fit.vectors)
    clear = fit.clear(), test.clear()
    codes = tuple(icfl.transform(part.vectors) for part in clear)
    return icfl, scored(codes, icfl.components_, *clear, name)


def encoder_rows(name: str, fit: Samples, test: Samples, seed: int) -> Iterator[tuple[str, Row]]:
    """Every variant on samples that are not whitened."""
    icfl, row = icfl_on(name, fit, test, seed)
    yield "ICFL", row
    yield "ICFL, less the mean", icfl_on(name, *less_mean(fit, test), seed)[1]
    yield f"ICFL, less {AXES} axes", icfl_on(name, *less_axes(fit, test), seed)[1]
    yield "ICFL, positive", icfl_on(name, fit, test, seed, positive_code=True)[1]
    k = icfl.n_iterations_ * icfl.atoms_per_iteration_
    clear = fit.clear(), test.clear()
    once = {"n_iterations": 1, "atoms_per_iteration": k}
    yield "ICFL, one round", icfl_on(name, fit, test, seed, **once)[1]
    parts = less_mean(fit, test)
    yield "ICFL, one round, less the mean", icfl_on(name, *parts, seed, **once)[1]
    atoms = unit_length(icfl.components_)
    codes = tuple(largest_codes(np.maximum(s.vectors @ atoms.T, 0), k) for s in clear)
    yield "ICFL, linear read-out", scored(codes, atoms, *clear, name)
    sae = TopKSAE(random_state=seed).fit(fit.vectors)
    codes = tuple(sae.transform(s.vectors) for s in clear)
    yield "TopK SAE", scored(codes, sae.components_, *clear, name)
    codes = tuple(pursued(sae, s.vectors, icfl) for s in clear)
    yield "TopK SAE, pursuit", scored(codes, sae.components_, *clear, name)


def whitened_rows(name: str, fit: Samples, test: Samples, seed: int) -> Iterator[tuple[str, Row]]:
    """ICFL on whitened samples, with codes of both signs and with positive ones."""
    yield "ICFL", icfl_on(name, fit, test, seed)[1]
    yield "ICFL, positive", icfl_on(name, fit, test, seed, positive_code=True)[1]


def pursued(sae: TopKSAE, x: Floats, icfl: ICFL) -> sparse.csr_array:
    """Codes by the pursuit that ICFL has by default, in the atoms of an autoencoder."""
    indices, values = matching_pursuit(
        x - sae.bias_,
        sae.components_,
        icfl.n_iterations_,
        icfl.atoms_per_iteration_,
        refit="final",
        allow_repeats=False,
    )
    return codes_to_csr(indices, values, len(sae.components_))


def dead_of(learner: str, n_atoms: int, x: Floats, seed: int) -> Row:
    """Dead features of one fit."""
    sparsity, options = default_sparsity(n_atoms, x.shape[1]), LEARNERS[learner]
    coder: Any
    if learner.startswith("TopK"):
        coder = TopKSAE(n_atoms, math.prod(sparsity), random_state=seed, **options)
    elif "printed" in learner:
        coder = printed(n_atoms, seed).set_params(**options)
    else:
        coder = ICFL(n_atoms, random_state=seed)
    without = mock.patch.object(Learner, "_redraw", return_value=None)
    with without if learner == "ICFL, no redraw" else contextlib.nullcontext():
        coder.fit(x)
    return {"dead": int(dead_features(coder.transform(x)).sum()), "n_fit": len(x)}


def main() -> None:
    """Measure what is missing, print the tables, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the public sets; none measures none")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results.jsonl"))
    parser.add_argument("--tokens", type=Path, default=Path("build/claims-tokens"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--datasets", nargs="+", choices=ENCODER_SETS, default=list(ENCODER_SETS))
    parser.add_argument("--write", type=Path, metavar=PAGE, help="write the page of results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FewControlsWarning)
    done = {(r["set"], r["samples"], r["seed"]) for r in read_rows(arguments.results, "encoder")}
    for name in arguments.datasets if arguments.data else ():
        both = token_samples(SETS[name](arguments.data), "builtin", 0, arguments.tokens)
        for preparation, variants in (("centred", encoder_rows), ("whitened", whitened_rows)):
            fit, test, _ = prepared(*both, preparation)
            for seed in range(arguments.seeds):
                keys: Row = {"table": "encoder", "set": name, "samples": preparation, "seed": seed}
                if (name, preparation, seed) in done:
                    continue
                # All of a seed or none, so that a run broken off goes on where it was.
                for method, row in list(variants(name, fit, test, seed)):
                    append(arguments.results, keys | {"method": method} | rounded(row))
                print(name, preparation, seed, flush=True)
    keys_of = ("method", "samples", "n_atoms", "seed")
    there = {tuple(r[k] for k in keys_of) for r in read_rows(arguments.results, "dead")}
    wanted = [
        (learner, preparation, n_atoms, seed)
        for n_atoms in DEAD_ATOMS
        for seed in range(DEAD_SEEDS)
        for preparation in PREPARATIONS
        for learner in LEARNERS
    ]
    wanted = [each for each in wanted if each not in there] if arguments.data else []
    if wanted and DEAD_SET in arguments.datasets:
        fit, test = token_samples(SETS[DEAD_SET](arguments.data), "builtin", 0, arguments.tokens)
        ready = {p: prepared(fit, test, p)[0].vectors for p in PREPARATIONS}
        for each in wanted:
            learner, preparation, n_atoms, seed = each
            row = dead_of(learner, n_atoms, ready[preparation], seed)
            keys = {"table": "dead", "set": DEAD_SET, **dict(zip(keys_of, each, strict=True))}
            append(arguments.results, keys | row)
            print(*each, row["dead"], flush=True)
    for table, rows in (("encoder", encoder_table), ("dead", dead_table)):
        print("\n".join(["", *rows(read_rows(arguments.results, table))]))
    if arguments.write:
        write_page(arguments.results, arguments.write)


if __name__ == "__main__":
    main()
