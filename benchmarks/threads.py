"""Milliseconds of a step of the fit, and of codes, with one thread and with several.

``python benchmarks/threads.py --threads 2`` alternates both on random samples, on an otherwise idle
machine, and prints the least and the median. A fit takes one thread whatever torch may use
(`torch_threads(1)`); for this table that is taken away.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext

import numpy as np
import torch

from napari_microdl.estimators.icfl import ICFL, final_solve, learner

SIZES = ((32, 192, 662), (128, 192, 4_000), (512, 192, 12_000), (2048, 384, 20_000))
STEPS, REPEATS = 25, 3


def step_times(x: np.ndarray, n_atoms: int) -> list[float]:
    """Milliseconds of every step of a short fit but the first ones."""
    icfl = ICFL(n_atoms, max_steps=STEPS, random_state=0)
    ends = [time.perf_counter() for _ in icfl.fit_iter(x)]
    # The last record is that of the final solve.
    return (1e3 * np.diff(ends[3:-1])).tolist()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    for module in (learner, final_solve):
        module.torch_threads = nullcontext  # type: ignore[attr-defined]
    random = np.random.default_rng(0)
    print("| what | atoms x dimensions, samples | 1 thread | several | ratio of medians |")
    print("| --- | --- | --- | --- | --- |")
    for n_atoms, width, n in SIZES:
        x = random.normal(size=(n, width)).astype(np.float32)
        fitted = ICFL(n_atoms, max_steps=3, random_state=0).fit(x)
        found: dict[str, dict[int, list[float]]] = {"step": {}, "codes": {}}
        for _ in range(REPEATS):
            for threads in (1, arguments.threads):
                torch.set_num_threads(threads)
                found["step"].setdefault(threads, []).extend(step_times(x, n_atoms))
                started = time.perf_counter()
                fitted.transform(x)
                spent = 1e3 * (time.perf_counter() - started)
                found["codes"].setdefault(threads, []).append(spent)
        for what, times in found.items():
            cells = [f"{min(t):.1f} / {np.median(t):.1f} ms" for t in times.values()]
            one, several = (float(np.median(t)) for t in times.values())
            size = f"{n_atoms:,} x {width}, {n:,}"
            print(f"| {what} | {size} | {cells[0]} | {cells[1]} | {several / one:.2f} |")


if __name__ == "__main__":
    main()
