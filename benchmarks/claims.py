"""What the paper claims of ICFL and control whitening, measured on four public sets.

``python benchmarks/claims.py --data DATA --results benchmarks/results.jsonl`` measures every row
that the file does not hold yet, appends it, and prints the tables; ``--write docs/results.md``
writes the page. A row is one data set, one preparation of the samples, one method and one seed:

samples   centred: less the controls' mean, at unit length (measurements: as they are); whitened:
          `ControlWhitening` with the shrinkage that the package chooses on controls left out. Both
          from fitting fields alone.
ICFL, TopK SAE   with the package's defaults, and so with the same M and K; of ICFL these are not
          the printed algorithm (Newton updates, data as the start, a final refit).
printed   on `transfluor`, the printed algorithm: Adam, a linear layer as the start, each block of
          atoms solved alone, an atom picked as often as it likes. Batches of 1,024 and 2,000 steps,
          as the autoencoder has them, and the rate that the package names for short fits, 3e-3.
PCA axes  both directions of every principal axis of the fitting samples as a dictionary; the code
          is the K largest of a sample.
handcrafted   intensity and texture (`cell_measurements`), high or low, made as sparse as the codes
          by quantiles (the paper's way), and once more split at the median, because with few
          measurements the sparse reading cannot reach more than the share of samples it marks.
random-init   ICFL on tokens of the same model with random weights.
large     with ``--large``, on `transfluor` and for three seeds: both learners at M 1024, as many
          atoms a dimension as the paper has, where dead features can be expected.

The concept of a label is the most selective one on the fitting fields; what counts is what it
reaches on those held out. Nothing was tuned on these: the one well of `transfluor` that was looked
at when the intensity scaling was chosen is left out, and the figures are told once more without all
wells of the package's sample. A seed draws the start of a dictionary, and of the random model its
weights; PCA and measurements have none.

Run it with ``OMP_NUM_THREADS=1``; half an hour on one core. ``--quick`` is one seed of one set.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from public_sets import SETS, Floats, PublicSet, Samples, handcrafted_samples, token_samples
from results_page import PAGE, append, read_rows, tables, write_page
from scipy import sparse

from napari_microdl import ICFL, ControlWhitening, TopKSAE
from napari_microdl.core.arrays import unit_length
from napari_microdl.estimators.icfl.plan import default_size, default_sparsity
from napari_microdl.estimators.shrinkage import choose_shrinkage
from napari_microdl.estimators.whitening import FewControlsWarning
from napari_microdl.metrics import (
    ProbeScores,
    active,
    average_selectivity,
    balanced_accuracy,
    best_selectivity_null,
    check_split,
    codes_of,
    dead_features,
    largest_codes,
    linear_probe,
    quantile_codes,
    reconstruction_cosine,
    relative_accuracy,
    selectivity_counts,
    separation_auc,
)

Row = dict[str, Any]
PREPARATIONS = ("centred", "whitened")
LEARNERS = {"ICFL": ICFL, "TopK SAE": TopKSAE}
RANDOM = "random-init"
PRINTED, PRINTED_SET = "ICFL, printed", "transfluor"
SPARSE, SPLIT = "handcrafted", "handcrafted, median"
METHODS = (*LEARNERS, "PCA axes", SPARSE, SPLIT, RANDOM)
LARGE = {f"{name}, large": learner for name, learner in LEARNERS.items()}
LARGE_SET, LARGE_ATOMS, LARGE_SEEDS = "transfluor", 1024, 3
DETERMINISTIC = ("PCA axes", SPARSE, SPLIT)
SHUFFLES = 199


def printed(n_atoms: int | None, seed: int) -> ICFL:
    """The algorithm of the paper, with a rate and a number of steps for few samples."""
    return ICFL(
        n_atoms,
        update="adam",
        init="linear",
        learning_rate=3e-3,
        batch_size=1024,
        random_state=seed,
    )


class SignedAxes:
    """Principal axes, both ways, as a dictionary whose code is the K largest of a sample."""

    def __init__(self, x: Floats, k: int) -> None:
        self.mean = x.mean(axis=0, dtype=np.float64)
        axes = np.linalg.svd(x - self.mean, full_matrices=False)[2]
        self.components_ = np.vstack([axes, -axes])
        self.k = k

    def transform(self, X: NDArray[Any]) -> sparse.csr_array:
        """The K largest projections."""
        return largest_codes(np.maximum((X - self.mean) @ self.components_.T, 0), self.k)

    def inverse_transform(self, X: Any) -> NDArray[Any]:
        """Samples from codes."""
        return np.asarray(X @ self.components_ + self.mean)


def prepared(fit: Samples, test: Samples, preparation: str) -> tuple[Samples, Samples, float]:
    """Both parts as the controls of the fitting fields have it, and the shrinkage."""
    controls, fields = fit.vectors[fit.control], fit.fields[fit.control]
    if preparation == "centred":
        mean = controls.mean(axis=0, dtype=np.float64)
        vectors = [unit_length((s.vectors - mean).astype(np.float32)) for s in (fit, test)]
        return replace(fit, vectors=vectors[0]), replace(test, vectors=vectors[1]), 0.0
    shrinkage = choose_shrinkage(controls, fields)
    whitening = ControlWhitening(shrinkage=shrinkage).fit(controls)
    vectors = [whitening.transform(s.vectors).astype(np.float32) for s in (fit, test)]
    return replace(fit, vectors=vectors[0]), replace(test, vectors=vectors[1]), shrinkage


def probe(
    of_fit: Any, of_test: Any, fit: Samples, test: Samples, *, allow_leak: bool
) -> ProbeScores:
    """Balanced accuracy on the held-out part of a probe of the fitting part.

    Refuses wells, or images, that are on both sides, unless told: three of the sets have no others.
    """
    side = np.repeat([0, 1], [len(fit.labels), len(test.labels)])
    check_split(side, np.concatenate([fit.fields, test.fields]), allow_leak=allow_leak)
    model = linear_probe(is_sparse=sparse.issparse(of_fit)).fit(of_fit, fit.labels)
    score = balanced_accuracy(test.labels, model.predict(of_test))
    n_labels = len(np.unique(fit.labels))
    return ProbeScores(score, 0.0, 1 / n_labels, 1, n_labels, len(test.labels))


def selective(
    fit_codes: sparse.csr_array,
    test_codes: sparse.csr_array,
    fit: Samples,
    test: Samples,
    scores: Callable[[int], NDArray[np.floating]],
    bundled: frozenset[str],
) -> Row:
    """Per label the concept chosen on the fitting part, and what it reaches on the other.

    Where wells held out are bundled with the package, once more on the others alone.
    """
    classes, chosen_on = average_selectivity(fit_codes, fit.labels)
    _, selectivity = average_selectivity(test_codes, test.labels)
    null = best_selectivity_null(
        test_codes, test.labels, test.groups, test.blocks, n_permutations=SHUFFLES
    )
    labels = {}
    for number, name in enumerate(classes):
        concept = int(chosen_on[number].argmax())
        labels[str(name)] = {
            "concept": concept,
            "fit": float(chosen_on[number, concept]),
            "held_out": float(selectivity[number, concept]),
            "best_held_out": float(selectivity[number].max()),
            "null": float(null.loc[name, "null_0.95"]),
            "p": float(null.loc[name, "p_value"]),
            "auc": separation_auc(scores(concept), test.labels == name),
        }
        if bundled:
            apart = ~np.isin(test.groups, sorted(bundled))
            alone = average_selectivity(test_codes[np.flatnonzero(apart)], test.labels[apart])[1]
            labels[str(name)] |= {
                "held_out_apart": float(alone[number, concept]),
                "auc_apart": separation_auc(scores(concept)[apart], test.labels[apart] == name),
            }
    counts = {f"{t:g}": n for t, n in selectivity_counts(selectivity).items()}
    return {"labels": labels, "counts": counts}


def measure(
    method: str,
    preparation: str,
    fit: Samples,
    test: Samples,
    seed: int,
    *,
    same_wells: bool,
    bundled: frozenset[str],
) -> Row:
    """One row, without its keys."""
    shrinkage = 0.0
    # Quantiles of measurements ask for no origin, and a sample's length is a measurement too.
    if preparation == "whitened" or method not in (SPARSE, SPLIT):
        fit, test, shrinkage = prepared(fit, test, preparation)
    n_atoms, n_iterations, per_iteration = default_size(len(fit.vectors), fit.vectors.shape[1])
    k = n_iterations * per_iteration
    row: Row = {"n_fit": len(fit.vectors), "width": fit.vectors.shape[1], "shrinkage": shrinkage}
    if method in (SPARSE, SPLIT):
        # At most every measurement once, high or low.
        non_zeros = min(k, row["width"]) if method == SPARSE else row["width"]
        return row | _of_measurements(
            fit.clear(), test.clear(), non_zeros, same_wells=same_wells, bundled=bundled
        )
    if method == "PCA axes":
        coder: Any = SignedAxes(fit.vectors, k)
    elif method in LARGE:
        coder = LARGE[method](LARGE_ATOMS, random_state=seed).fit(fit.vectors)
        k = math.prod(default_sparsity(LARGE_ATOMS, fit.vectors.shape[1]))
    elif method == PRINTED:
        coder = printed(n_atoms, seed).fit(fit.vectors)
    else:
        coder = LEARNERS.get(method, ICFL)(random_state=seed).fit(fit.vectors)
        assert coder.n_atoms_ == n_atoms
    dead = int(dead_features(coder.transform(fit.vectors)).sum())
    fit, test = fit.clear(), test.clear()
    codes = coder.transform(fit.vectors), coder.transform(test.vectors)
    directions = unit_length(np.asarray(coder.components_, np.float32))
    samples = unit_length(test.vectors)
    found = selective(
        *codes,
        fit,
        test,
        lambda concept: np.einsum("nd,d->n", samples, directions[concept]),
        bundled,
    )
    back = [coder.inverse_transform(c) for c in codes]
    of_x, of_back, of_codes = (
        probe(*both, fit, test, allow_leak=same_wells)
        for both in ((fit.vectors, test.vectors), back, codes)
    )
    few = max(1, k // 4)
    return {
        **row,
        **found,
        "n_test": len(test.vectors),
        "n_concepts": len(directions),
        "k": k,
        "non_zeros": float(active(codes[1]).sum() / len(test.vectors)),
        "dead": dead,
        "cosine": reconstruction_cosine(test.vectors, back[1]),
        "k_few": few,
        "cosine_few": reconstruction_cosine(
            test.vectors, coder.inverse_transform(codes_of(coder, test.vectors, few))
        ),
        "probe": of_x.balanced_accuracy,
        "probe_reconstruction": of_back.balanced_accuracy,
        "probe_codes": of_codes.balanced_accuracy,
        "probe_relative": relative_accuracy(of_back, of_x),
    }


def _of_measurements(
    fit: Samples, test: Samples, non_zeros: int, *, same_wells: bool, bundled: frozenset[str]
) -> Row:
    """Measurements have no reconstruction."""
    width = fit.vectors.shape[1]
    codes = [quantile_codes(s.vectors, non_zeros, both_tails=True) for s in (fit, test)]

    def scores(concept: int) -> NDArray[np.floating]:
        return test.vectors[:, concept % width] * (1 if concept < width else -1)

    of_x, of_codes = (
        probe(*both, fit, test, allow_leak=same_wells)
        for both in ((fit.vectors, test.vectors), codes)
    )
    return {
        **selective(codes[0], codes[1], fit, test, scores, bundled),
        "n_test": len(test.vectors),
        "n_concepts": 2 * width,
        "k": non_zeros,
        "non_zeros": float(active(codes[1]).sum() / len(test.vectors)),
        "dead": int(dead_features(codes[0]).sum()),
        "probe": of_x.balanced_accuracy,
        "probe_codes": of_codes.balanced_accuracy,
    }


def participation(x: Floats) -> float:
    """Over how many directions the variance of samples is spread: 1 for a line, d for a ball."""
    variance = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    return float(variance.sum() ** 2 / (variance**2).sum())


def missing(
    names: list[str], seeds: int, done: list[Row], *, large: bool
) -> Iterator[tuple[str, str, str, int]]:
    """Keys of the rows that are not there.

    The random models come late, as each of their seeds takes tokens of its own.
    """
    there = {(r["set"], r["method"], r["samples"], r["seed"]) for r in done}
    first = tuple(m for m in METHODS if m != RANDOM)
    wanted = [(n, m, s) for n in names for s in range(seeds) for m in first]
    if PRINTED_SET in names:
        wanted += [(PRINTED_SET, PRINTED, s) for s in range(seeds)]
    wanted += [(n, RANDOM, s) for s in range(seeds) for n in names]
    if large and LARGE_SET in names:
        wanted += [(LARGE_SET, m, s) for s in range(min(seeds, LARGE_SEEDS)) for m in LARGE]
    for name, method, seed in wanted:
        if method in DETERMINISTIC and seed:
            continue
        for preparation in PREPARATIONS:
            if (name, method, preparation, seed) not in there:
                yield name, method, preparation, seed


def rounded(value: Any) -> Any:
    """Four significant decimals are more than was measured."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    """Measure what is missing, print the tables, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the public sets; none measures none")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results.jsonl"))
    parser.add_argument("--tokens", type=Path, default=Path("build/claims-tokens"))
    parser.add_argument("--datasets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one seed of bbbc014_vitra")
    parser.add_argument("--large", action="store_true", help="larger dictionaries too; see above")
    parser.add_argument("--write", type=Path, metavar=PAGE, help="write the page of results")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.datasets, arguments.seeds = ["bbbc014_vitra"], 1
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FewControlsWarning)
    public: PublicSet | None = None
    done = read_rows(arguments.results, "claims")
    todo = missing(arguments.datasets, arguments.seeds, done, large=arguments.large)
    for name, method, preparation, seed in todo if arguments.data else ():
        if public is None or public.name != name:
            public = SETS[name](arguments.data)
        cpu = time.process_time()
        if method in (SPARSE, SPLIT):
            fit, test = handcrafted_samples(public, arguments.tokens)
        else:
            model, number = (RANDOM, seed) if method == RANDOM else ("builtin", 0)
            fit, test = token_samples(public, model, number, arguments.tokens)
        row = measure(
            method,
            preparation,
            fit,
            test,
            seed,
            same_wells=public.same_wells,
            bundled=public.bundled,
        )
        row = rounded(row)
        keys = {"table": "claims", "set": name, "method": method, "samples": preparation}
        row = {**keys, "seed": seed, **row, "cpu": round(time.process_time() - cpu, 1)}
        append(arguments.results, row)
        print(f"{name} {method} {preparation} {seed}: {row['cpu']} s", flush=True)
    measured = {row["set"] for row in read_rows(arguments.results, "spread")}
    for name in set(arguments.datasets) - measured if arguments.data else ():
        fit, test = token_samples(SETS[name](arguments.data), "builtin", 0, arguments.tokens)
        spread = {p: participation(prepared(fit, test, p)[0].vectors) for p in PREPARATIONS}
        append(arguments.results, {"table": "spread", "set": name, **rounded(spread)})
    rows = read_rows(arguments.results, "claims")
    print("\n".join(tables([row for row in rows if row["set"] in arguments.datasets])))
    if arguments.write:
        write_page(arguments.results, arguments.write)


if __name__ == "__main__":
    main()
