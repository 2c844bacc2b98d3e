"""What coding and learning cost at the size of the paper: M 8,192, d 1,024, J 20, L 5.

``python benchmarks/paper_size.py`` prints seconds for a thousand samples coded and for a step of
the default learner and of the published one, on the processor and on the GPU where there is one. A
step codes a batch and moves the atoms; the batches are the defaults, 4,096 samples and 8,192.

"Bound" is the time of the two matrix products that no pursuit through the Gram matrix can do
without, of samples with atoms and, in a step or once for a dictionary, of atoms with atoms, at the
best rate of float32 products measured in the same run. It is set against CPU seconds on the
processor and against wall time on a GPU.

Before that, the memory that a fit of a float16 file allocates at its peak is printed, the final
solve included. Pages of the file do not count: the system takes them back when it needs them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from memory import Memory, status_bytes
from planted import planted_samples

from napari_microdl import ICFL
from napari_microdl.estimators.pursuit import Method, PursuitOptions
from napari_microdl.estimators.pursuit.coder import Coder

WIDTH, N_ATOMS, J, L = 1024, 8192, 20, 5
CODED = {"block": True, "final": False}
LEARNERS = {
    "default": ({"update": "newton"}, 4096),
    "as published": ({"update": "adam", "init": "linear"}, 8192),
}
# The first step also makes the first atoms.
STEPS = 4


def product_rate(device: str) -> float:
    """Best rate of float32 products in floating-point operations a second.

    Parameters
    ----------
    device : str
        Where.

    Returns
    -------
    float
        Of CPU seconds on the processor and of wall time on a GPU.
    """
    best = 0.0
    for rows in (512, 4096, N_ATOMS):
        a = torch.randn(rows, WIDTH, device=device)
        b = torch.randn(WIDTH, N_ATOMS, device=device)
        for _ in range(4):
            cpu, wall = timed(lambda a=a, b=b: a @ b)
            best = max(best, 2.0 * rows * WIDTH * N_ATOMS / (cpu if device == "cpu" else wall))
    return best


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds and wall seconds that something takes, until a GPU is done with it as well.

    Parameters
    ----------
    action : callable
        What to do.

    Returns
    -------
    cpu, wall : float
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    cpu, wall = time.process_time(), time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time() - cpu, time.perf_counter() - wall


def fit_memory(x: np.memmap) -> tuple[float, float]:
    """Memory that a fit of a file allocates at its peak, and its CPU seconds.

    Parameters
    ----------
    x : memmap of shape (n_samples, n_features)
        Samples.

    Returns
    -------
    n_bytes, seconds : float
    """
    # What is needed once, as compiled code, is not memory of the fit.
    ICFL(64, J, L, max_steps=2, random_state=0).fit(x[:8192])
    before = status_bytes("RssAnon") or 0
    with Memory() as memory:
        cpu, _ = timed(lambda: ICFL(N_ATOMS, J, L, max_steps=STEPS, random_state=0).fit(x))
    return memory.peak * 2**20 - before, cpu


def print_fit_memory(n_samples: int) -> None:
    """Print the memory of a fit of a file with so many samples.

    Parameters
    ----------
    n_samples : int
        Rows of the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        shape = (n_samples, WIDTH)
        x = np.lib.format.open_memmap(Path(folder) / "x.npy", "w+", np.float16, shape)
        rng = np.random.default_rng(0)
        for start in range(0, n_samples, 4096):
            part = x[start : start + 4096]
            part[:] = rng.standard_normal(part.shape, np.float32)
        n_bytes, seconds = fit_memory(x)
    print(
        f"A fit of {n_samples:,} samples in a float16 file, {STEPS} steps and the final solve: "
        f"{n_bytes / 1e9:.2f} GB at its peak ({2 * n_samples * WIDTH / 1e9:.2f} GB in the file), "
        f"{seconds:.0f} CPU s",
        flush=True,
    )


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
    parser.add_argument("--file", type=int, default=400_000, help="samples in the file; 0 for none")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.file and status_bytes("RssAnon") is not None:
        print_fit_memory(arguments.file)
    x, atoms = planted_samples(arguments.samples, WIDTH, N_ATOMS, J * L, seed=0)
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        rate = product_rate(device)
        name = (
            torch.cuda.get_device_name() if device == "cuda" else f"{arguments.threads} thread(s)"
        )
        print(f"\n{device}, {name}: float32 products at {rate / 1e9:,.0f} GFLOP/s")
        print(f"{'':<34}{'CPU s':>10}{'wall s':>10}{'bound':>10}{'share of bound':>16}")
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
                once = timed(lambda c=again, s=samples: c.code(s[:1]))
                cpu, wall = min(timed(lambda c=coder, s=samples: c.code(s)) for _ in "123")
                of_thousand = cpu / len(samples) * 1000, wall / len(samples) * 1000
                how = "exact" if method == "auto" else method
                bound = WIDTH * N_ATOMS**2 / rate
                print_row(f"made once, {how}", once, bound, device)
                bound = 2e3 * WIDTH * N_ATOMS / rate
                print_row(f"1000 samples, {refit}, {how}", of_thousand, bound, device)
        for name, (parameters, batch) in LEARNERS.items():
            icfl = ICFL(
                N_ATOMS, J, L, batch_size=batch, max_steps=STEPS + 1, validation_fraction=0,
                device=device, random_state=0, **parameters,
            )  # fmt: skip
            steps = islice(icfl.fit_iter(x), STEPS)
            seconds = [timed(lambda steps=steps: next(steps)) for _ in range(STEPS)]
            cpu, wall = np.median(seconds[1:], axis=0)
            bound = 2.0 * (batch + N_ATOMS / 2) * WIDTH * N_ATOMS / rate
            print_row(f"a step of {batch:,}, {name}", (float(cpu), float(wall)), bound, device)


def print_row(what: str, seconds: tuple[float, float], bound: float, device: str) -> None:
    """Print a row of the table.

    Parameters
    ----------
    what : str
        First column.
    seconds : tuple of float
        CPU seconds and wall seconds.
    bound : float
        Seconds that it cannot do without.
    device : str
        Decides which seconds the bound is set against.
    """
    cpu, wall = seconds
    share = bound / (cpu if device == "cpu" else wall)
    print(f"{what:<34}{cpu:>10.3g}{wall:>10.3g}{bound:>10.3g}{share:>16.2f}", flush=True)


if __name__ == "__main__":
    main()
