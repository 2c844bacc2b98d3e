"""What coding and learning cost at the size of the paper: M 8,192, d 1,024, J 20, L 5.

``python benchmarks/paper_size.py`` prints seconds for a thousand samples coded and for a step of
the default learner and of the published one, on the processor and on the GPU where there is one. A
step codes a batch and moves the atoms; the batches are the defaults, 4,096 samples and 8,192.

"Bound" is the time of the two matrix products that no pursuit through the Gram matrix can do
without, of samples with atoms and, in a step or once for a dictionary, of atoms with atoms, at the
best rate of float32 products measured in the same run. Seconds are CPU seconds on the processor and
wall time on a GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import torch
from planted import planted_samples

from napari_microdl import ICFL
from napari_microdl.pursuit import Method, PursuitOptions
from napari_microdl.pursuit.coder import Coder

WIDTH, N_ATOMS, J, L = 1024, 8192, 20, 5
CODED = {"block": True, "final": False}
LEARNERS = {
    "default": ({"update": "newton"}, 4096),
    "as published": ({"update": "adam", "init": "linear"}, 8192),
}
# The first step also makes the first atoms.
STEPS = 4


def product_rate(device: str, clock: Callable[[], float]) -> float:
    """Best rate of float32 products in floating-point operations a second.

    Parameters
    ----------
    device : str
        Where.
    clock : callable
        Seconds.

    Returns
    -------
    float
    """
    best = 0.0
    for rows in (512, 4096, N_ATOMS):
        a = torch.randn(rows, WIDTH, device=device)
        b = torch.randn(WIDTH, N_ATOMS, device=device)
        for _ in range(4):
            best = max(best, 2.0 * rows * WIDTH * N_ATOMS / timed(lambda a=a, b=b: a @ b, clock))
    return best


def timed(action: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds that something takes, until a GPU is done with it as well.

    Parameters
    ----------
    action : callable
        What to do.
    clock : callable
        Seconds.

    Returns
    -------
    float
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = clock()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the command line if left out.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=16_384)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    x, atoms = planted_samples(arguments.samples, WIDTH, N_ATOMS, J * L, seed=0)
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        clock = time.process_time if device == "cpu" else time.perf_counter
        rate = product_rate(device, clock)
        name = (
            torch.cuda.get_device_name() if device == "cuda" else f"{arguments.threads} thread(s)"
        )
        print(f"\n{device}, {name}: float32 products at {rate / 1e9:,.0f} GFLOP/s")
        print(f"{'':<34}{'seconds':>10}{'bound':>10}{'share of bound':>16}")
        methods: tuple[Method, ...] = ("auto", "quantized") if device == "cpu" else ("auto",)
        for refit, repeats in CODED.items():
            for method in methods:
                options = PursuitOptions(J, L, refit=refit, allow_repeats=repeats)
                tensor = torch.from_numpy(atoms).to(device)
                coder = Coder(tensor, options, method=method, n_expected=10**9)
                samples = torch.from_numpy(x[:2048]).to(device)
                # Compiled before, so that this is what is made once for a dictionary.
                coder.code(samples[:64])
                again = Coder(tensor, options, method=method, n_expected=10**9)
                once = timed(lambda c=again, s=samples: c.code(s[:1]), clock)
                seconds = min(timed(lambda c=coder, s=samples: c.code(s), clock) for _ in "123")
                of_thousand = seconds / len(samples) * 1000
                how = "exact" if method == "auto" else method
                print_row(f"made once, {how}", once, WIDTH * N_ATOMS**2 / rate)
                print_row(
                    f"1000 samples, {refit}, {how}", of_thousand, 2e3 * WIDTH * N_ATOMS / rate
                )
        for name, (parameters, batch) in LEARNERS.items():
            icfl = ICFL(
                N_ATOMS, J, L, batch_size=batch, max_steps=STEPS + 1, validation_fraction=0,
                device=device, random_state=0, **parameters,
            )  # fmt: skip
            steps = islice(icfl.fit_iter(x), STEPS)
            seconds = [timed(lambda steps=steps: next(steps), clock) for _ in range(STEPS)]
            bound = 2.0 * (batch + N_ATOMS / 2) * WIDTH * N_ATOMS / rate
            print_row(f"a step of {batch:,}, {name}", float(np.median(seconds[1:])), bound)


def print_row(what: str, seconds: float, bound: float) -> None:
    """Print a row of the table.

    Parameters
    ----------
    what : str
        First column.
    seconds, bound : float
        The others.
    """
    print(f"{what:<34}{seconds:>10.3g}{bound:>10.3g}{bound / seconds:>16.2f}", flush=True)


if __name__ == "__main__":
    main()
