"""Print the figures of runs on the bundled sample that no change of the code may alter.

A refactoring moves code and leaves what it computes as it was. This script runs the main job in a
dozen ways and prints a line for every array and table that comes of it: its type, its shape and
the SHA-256 of its bytes, and the headline figures in full. Compare two outputs, made before and
after a change on the same machine:

    python scripts/behaviour.py > before.txt
    python scripts/behaviour.py > after.txt
    diff before.txt after.txt

It uses the public names of the package alone, so that one copy of it runs in both versions. All is
computed on one thread, and neither tokens nor compiled functions are taken from an earlier call.
What is under way, and the seconds it took, are written to the standard error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read when torch, numba and the BLAS libraries load: the order of a parallel sum changes its last
# digits, and a GPU adds in yet another one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["VECLIB_MAXIMUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np

from napari_microdl import ConceptDictionary, Field, PipelineConfig, run_pipeline

try:
    from napari_microdl.fields.samples import transfluor
except ImportError:
    from napari_microdl.samples import transfluor

# What is done one after the other, see `main`.
TASKS = ("compile", "run")
# Pixels along an edge of the corner in which every token is a sample.
CORNER = 160
FEW_STEPS = {"max_steps": 60}
ADAM = {"update": "adam", "init": "linear", "learning_rate": 3e-3, **FEW_STEPS}
# What is changed of the default settings, and whether a corner of each field is enough.
CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "cell seed 0": ({}, False),
    "cell seed 1": ({"random_state": 1}, False),
    "crop": ({"unit": "crop"}, False),
    "token": ({"unit": "token", "n_atoms": 64, **FEW_STEPS}, True),
    "adam linear": (ADAM, False),
    "adam absolute": ({**ADAM, "selection": "absolute", "refit": "full"}, False),
    "positive code": ({"positive_code": True}, False),
    "control first": ({"n_atoms": 32, "control_atoms": 12}, False),
    "early stopping": ({"unit": "crop", "early_stopping": True}, False),
    "scaling by plate": ({"scaling": "plate"}, False),
    "not whitened": ({"whiten": False}, False),
    "with position": ({"remove_position": False, "n_components": 48, "shrinkage": 0.5}, False),
    "untrained, other layer": (
        {
            "model": "random-init",
            "layer": 3,
            "site": "attention",
            "tile_size": 64,
            "halo": 1,
            "segmentation": {"diameter": 30.0, "threshold": "otsu", "min_area": 80.0},
            **FEW_STEPS,
        },
        True,
    ),
}


def corner_of(field: Field) -> Field:
    """The upper left corner of a field."""
    return dataclasses.replace(field, data=field.data[:, :CORNER, :CORNER].copy())


def digest_of(array: Any) -> str:
    """Type, shape and SHA-256 of an array."""
    array = np.ascontiguousarray(array)
    if array.dtype.kind in "UO":
        content = "\n".join(map(str, array.ravel().tolist())).encode()
        kind = "text"
    else:
        content, kind = array.tobytes(), str(array.dtype)
    shape = "x".join(map(str, array.shape))
    return f"{kind} {shape} {hashlib.sha256(content).hexdigest()}"


def figures_of(result: Any) -> Iterator[tuple[str, str]]:
    """Name and value of everything that is to stay the same of a run."""
    activations, dictionary = result.activations, result.dictionary
    ranking, icfl, whitening = activations.ranking, dictionary.icfl, dictionary.whitening
    best = ranking.iloc[0]
    yield "units", str(len(activations.units))
    yield "atoms", str(activations.codes.shape[1])
    yield "best concept", str(int(ranking.index[0]))
    for name in ("selectivity", "auc"):
        yield name, repr(float(best[name]))
    # A dictionary that was loaded does not know how its fit went.
    if icfl.history_:
        yield "R2", repr(float(icfl.history_[-1].r2))
        yield "steps", str(int(icfl.history_[-1].step))
    for name in ("data", "indices", "indptr"):
        yield f"codes.{name}", digest_of(getattr(activations.codes, name))
    for name in ("components", "bias", "dead", "groups"):
        yield f"icfl.{name}", digest_of(getattr(icfl, f"{name}_"))
    if whitening is None:
        yield "whitening", "none"
    else:
        yield "whitening.shrinkage", repr(float(whitening.shrinkage))
        for name in ("mean", "components", "explained_variance", "scale"):
            yield f"whitening.{name}", digest_of(getattr(whitening, f"{name}_"))
    for number, labels in enumerate(result.labels):
        yield f"labels {number}", "none" if labels is None else digest_of(labels)
    for name, text in (
        ("units as CSV", activations.units.to_csv(index=False, lineterminator="\n")),
        ("ranking as CSV", ranking.to_csv(index_label="concept", lineterminator="\n")),
    ):
        yield name, hashlib.sha256(text.encode()).hexdigest()


def show(case: str, result: Any, started: float) -> None:
    """Print the figures of a run."""
    for name, value in figures_of(result):
        print(f"{case} | {name} | {value}", flush=True)
    print(f"{case}: {time.perf_counter() - started:.1f} s", file=sys.stderr)


def run_all(folder: Path, *, quick: bool) -> None:
    """Run every case and print its figures; quick ones are on corners, and nothing is printed."""
    # Some cases have few samples for what they ask, which is meant.
    warnings.simplefilter("ignore")
    fields = transfluor()
    corners = [corner_of(field) for field in fields]
    if quick:
        fields = corners[2:6]
    device = {"device": "cpu"}
    saved = folder / "cells.microdl.safetensors"
    for case, (changes, is_corner) in CASES.items():
        started = time.perf_counter()
        config = PipelineConfig.from_dict({**device, **changes, **(FEW_STEPS if quick else {})})
        result = run_pipeline(corners if is_corner else fields, config)
        if not saved.exists():
            result.dictionary.save(saved)
        if not quick:
            show(case, result, started)
    started = time.perf_counter()
    loaded = ConceptDictionary.load(saved)
    config = PipelineConfig.from_dict(device)
    for case, images in (("applied", fields), ("applied to corners", corners)):
        result = run_pipeline(images, config, dictionary=loaded)
        if not quick:
            show(case, result, started)


def main() -> None:
    """Run every case twice, each time in a process of its own; the second one prints."""
    with tempfile.TemporaryDirectory() as made:
        for task in TASKS:
            print(f"{task}...", file=sys.stderr)
            folder = Path(made) / task
            folder.mkdir()
            # The tokens are kept for the runs of one process. The compiled functions are kept for
            # the next: what numba has just compiled differs in its last digits from the same
            # function loaded from its cache, and what is found there may be of an earlier version.
            own = {
                "NAPARI_MICRODL_CACHE": str(folder / "tokens"),
                "NUMBA_CACHE_DIR": str(Path(made) / "compiled"),
            }
            command = [sys.executable, __file__, task, str(folder)]
            subprocess.run(command, check=True, env={**os.environ, **own})


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        run_all(Path(sys.argv[2]), quick=sys.argv[1] == TASKS[0])
