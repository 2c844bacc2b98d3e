"""How many samples a second are coded in a given dictionary, by us and by others.

``python benchmarks/encode.py`` prints a table for each problem, one of our speed and memory for
ever more samples, and one of what rounding changes ("picks"). Codes have as many non-zeros in every
row. Every row is measured in a process of its own, on a core of its own, each coder at the fastest
of its batch sizes. The last columns are ratios of CPU seconds, which suffer less from neighbours
than samples a second. "Bound" is the time that the J products of samples and atoms would take
alone, at the best rate of float32 products that numpy, torch or oneDNN reach on this machine. "s
once" is what preparing for the dictionary takes before the first sample, such as the Gram matrix of
its atoms; it is left out of the rates, because a dictionary codes any number of samples.

Memory is how far the peak rises above what is held before the coding, without the codes
themselves (8 bytes for each non-zero); it is measured on Linux only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import status_bytes
from numpy.typing import NDArray
from peers import CODERS, Coder, Floats, PlainTorch
from planted import Problem, explained, planted_atoms, planted_samples, samples_of
from recovery import Record, core_sets, environment_line, in_own_process, print_columns
from torch.utils.mkldnn import to_mkldnn

from napari_microdl.estimators.pursuit import Method, PursuitOptions
from napari_microdl.estimators.pursuit.coder import Coder as PursuitCoder

PROBLEMS = {
    "m1024": (Problem(width=384, n_true=1024, n_active=20, n_atoms=1024), 40_000),
    "m2048": (Problem(width=384, n_true=2048, n_active=20, n_atoms=2048), 40_000),
    "paper": (Problem(width=1024, n_true=8192, n_active=100, n_atoms=8192), 20_000),
}
MEMORY, MEMORY_OF = "memory", "m2048"
PICKS = "picks"
PICKS_OF = ("m1024", "paper")
PICKS_SAMPLES = 512
CORRELATIONS = (0.0, 0.6, 0.9)
MEMORY_SAMPLES = (10_000, 40_000, 160_000)
BOUND = "bound"
# The dictionary is the planted one moved by this share of an atom's length.
PERTURBATION = 0.2
# Samples that R2 is measured on.
SCORED = 128


class _Ours(Coder):
    """What `ICFL.transform` codes with; it takes all samples at once and cuts them up by itself."""

    variants = (("", 10**9),)
    _options: dict[str, Any]
    _method: Method = "auto"

    def prepare(self, atoms: Floats, n_iterations: int, per_iteration: int, setting: str) -> None:
        """Take a dictionary and make its Gram matrix, which is kept for all samples."""
        self._atoms = atoms
        options = PursuitOptions(n_iterations, per_iteration, **self._options)
        self._coder = PursuitCoder(
            torch.from_numpy(atoms), options, method=self._method, n_expected=10**9
        )
        self._coder.code_array(atoms[:64])

    def encode(self, x: Floats) -> tuple[NDArray[np.int32], Floats]:
        """Picks and coefficients."""
        return self._coder.code_array(x)

    def decode(self, codes: tuple[NDArray[np.int32], Floats]) -> Floats:
        """Sum of weighted atoms."""
        picks, values = codes
        return np.einsum("nk,nkd->nd", values, self._atoms[picks])


class OursFinal(_Ours):
    """As ICFL codes by default: no atom twice, one solve for all picks at the end."""

    name = "ours, refit at the end"
    _options = {"refit": "final", "allow_repeats": False}  # noqa: RUF012


class OursAsPrinted(_Ours):
    """As the paper prints it."""

    name = "ours, as printed"
    _options = {"refit": "block", "allow_repeats": True}  # noqa: RUF012


class OursOnTensors(_Ours):
    """The same as `OursFinal` where numba is not to be had."""

    name = "ours, without numba"
    _options = OursFinal._options
    _method = "gram"


class OursQuantizedFinal(OursFinal):
    """Picks by rounded numbers."""

    name = "ours, quantized, refit at the end"
    _method = "quantized"


class OursQuantized(OursAsPrinted):
    """Picks by rounded numbers."""

    name = "ours, quantized, as printed"
    _method = "quantized"


OURS = (OursFinal, OursAsPrinted, OursQuantizedFinal, OursQuantized, OursOnTensors)
ALL = {c.name: c for c in (*OURS, *CODERS)}


def product_rates(width: int, n_atoms: int) -> float:
    """Best rate of float32 matrix products in floating-point operations a CPU second.

    Parameters
    ----------
    width, n_atoms : int
        Sizes of the dictionary; a large square product is tried as well.

    Returns
    -------
    float
        2 * rows * columns * depth / CPU seconds of the fastest product of all.
    """
    rng = np.random.default_rng(0)
    best = 0.0
    for rows, depth, columns in (
        (256, width, n_atoms),
        (1024, width, n_atoms),
        (4096, width, n_atoms),
        (2048, 2048, 2048),
    ):
        a = rng.normal(size=(rows, depth)).astype(np.float32)
        b = rng.normal(size=(depth, columns)).astype(np.float32)
        out = np.empty((rows, columns), np.float32)
        ta, tb, tout = (torch.from_numpy(array) for array in (a, b, out))
        linear = torch.nn.Linear(depth, columns, bias=False).eval()
        linear.weight.data = tb.T.contiguous()
        onednn = to_mkldnn(linear)
        ma = ta.to_mkldnn()
        for product in (
            lambda a=a, b=b, out=out: np.matmul(a, b, out=out),
            lambda ta=ta, tb=tb, tout=tout: torch.mm(ta, tb, out=tout),
            lambda ma=ma, onednn=onednn: onednn(ma),
        ):
            with torch.inference_mode():
                seconds = min(_seconds(product, time.process_time) for _ in range(6))
            best = max(best, 2.0 * rows * depth * columns / seconds)
    return best


def _seconds(action: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    action()
    return clock() - started


def fastest_variant(coder: Coder, x: Floats, atoms: Floats, problem: Problem) -> tuple[str, int]:
    """The setting and batch size at which a coder is fastest, by short trials.

    Parameters
    ----------
    coder : Coder
        What to try; it is left prepared with the last one tried.
    x, atoms : ndarray
        Samples and dictionary.
    problem : Problem
        Sizes.

    Returns
    -------
    setting : str
        For `Coder.prepare`.
    batch_size : int
        Samples at a time.
    """
    if len(coder.variants) == 1:
        return coder.variants[0]
    rates: dict[tuple[str, int], float] = {}
    for setting, size in coder.variants:
        # A batch that would take over ten seconds at the rate seen so far is not tried.
        if rates and size / max(rates.values()) > 10:
            continue
        coder.prepare(atoms, problem.n_iterations, problem.atoms_per_iteration, setting)
        coder.encode(x[: min(size, 16)])
        rates[setting, size] = size / min(
            _seconds(lambda n=size: coder.encode(x[:n])) for _ in "12"
        )
    return max(rates, key=lambda variant: rates[variant])


def work(task: Record) -> Record:
    """Measure one row in this process."""
    torch.set_num_threads(task["threads"])
    problem = PROBLEMS[task["problem"]][0]
    if task["coder"] == BOUND:
        return {"rate": product_rates(problem.width, problem.n_atoms)}
    x = np.array(np.load(task["x"], mmap_mode="r")[: task["samples"]])
    atoms = np.load(task["atoms"])
    coder = ALL[task["coder"]]()
    setting, size = fastest_variant(coder, x, atoms, problem)
    sizes = (problem.n_iterations, problem.atoms_per_iteration)
    started = time.perf_counter()
    coder.prepare(atoms, *sizes, setting)
    prepared = time.perf_counter() - started
    coder.encode(x[:64])
    r2 = explained(x[:SCORED], coder.decode(coder.encode(x[:SCORED])))
    before = status_bytes("VmRSS")
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        # Writing 5 makes the peak start anew from here.
        reset.write_text("5")
    coded = largest = 0
    cpu, wall = time.process_time(), time.perf_counter()
    while time.perf_counter() - wall < task["seconds"]:
        start = coded % len(x)
        batch = x[start : start + size]
        coder.encode(batch)
        coded += len(batch)
        largest = max(largest, len(batch))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = status_bytes("VmHWM")
    grown = None if before is None or peak is None else peak - before
    codes = 8 * largest * problem.n_active
    return {
        "batch": size if size < len(x) else None,
        "setting": setting,
        "samples_per_second": coded / wall,
        "prepared": prepared,
        "cpu_per_thousand": 1000 * cpu / coded,
        "r2": r2,
        "memory": None if grown is None else max(grown - codes, 0),
    }


def print_table(name: str, rows: dict[str, Record]) -> None:
    """The table of one problem and what it says about us."""
    problem, _ = PROBLEMS[name]
    flops = 2.0 * problem.n_iterations * problem.width * problem.n_atoms
    print(
        f"\n{name}: {problem.n_atoms} atoms in {problem.width} dimensions, "
        f"J {problem.n_iterations} x L {problem.atoms_per_iteration}"
    )
    bound = rows[BOUND]["rate"] / flops if BOUND in rows else None
    ours = rows.get(OursFinal.name)
    plain = rows.get(PlainTorch.name)
    cells = []
    for coder, row in rows.items():
        if coder == BOUND:
            continue
        rate = row["samples_per_second"]
        batch = "all" if row["batch"] is None else str(row["batch"])
        cells.append(
            [
                coder,
                f"{row['setting']} {batch}".strip(),
                f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}",
                f"{row['cpu_per_thousand']:.3g}",
                f"{row['r2']:.4f}",
                "-" if row["memory"] is None else f"{row['memory'] / 1e6:.0f}",
                f"{row['prepared']:.2f}",
                f"{row['cpu_per_thousand'] / ours['cpu_per_thousand']:.2f}" if ours else "-",
                f"{plain['cpu_per_thousand'] / row['cpu_per_thousand']:.1f}" if plain else "-",
                f"{row['cpu_per_thousand'] * bound / 1000:.2f}" if bound else "-",
            ]
        )
    titles = ["coder", "at a time", "samples/s", "CPU s per 1000", "R2", "memory, MB"]
    titles += ["s once", "it / ours", "plain torch / it", "it / bound"]
    print_columns(titles, cells)
    if bound:
        print(
            f"bound: {bound:,.0f} samples a CPU second, {problem.n_iterations} products at "
            f"{rows[BOUND]['rate'] / 1e9:.0f} GFLOP/s"
        )
    for label, candidates in (
        ("the fastest pursuit of a package", [c for c in CODERS if c.is_package and c.is_pursuit]),
        ("the formulas in torch", [PlainTorch]),
    ):
        others = [rows[c.name] | {"name": c.name} for c in candidates if c.name in rows]
        if not others:
            continue
        other = min(others, key=lambda row: row["cpu_per_thousand"])
        print(f"Against {other['name']}, {label}, at R2 {other['r2']:.4f}, samples a CPU second:")
        for coder in OURS:
            if coder.name in rows:
                row = rows[coder.name]
                times = other["cpu_per_thousand"] / row["cpu_per_thousand"]
                print(f"  {coder.name}: {times:.1f} times, at R2 {row['r2']:.4f}")


def perturbed(atoms: Floats, rng: np.random.Generator) -> Floats:
    """Unit atoms a little away from the planted ones, as learned ones are.

    Parameters
    ----------
    atoms : ndarray of shape (n_atoms, width)
        Planted atoms.
    rng : numpy.random.Generator
        Where randomness comes from.

    Returns
    -------
    ndarray of float32, shape (n_atoms, width)
    """
    away = rng.standard_normal(atoms.shape, dtype=np.float32)
    away *= PERTURBATION / np.linalg.norm(away, axis=1, keepdims=True)
    moved: Floats = atoms + away
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    return moved


def print_picks(seed: int) -> None:
    """How far the quantized pursuit is from the exact one, with atoms in groups as well.

    Parameters
    ----------
    seed : int
        Of the planted problems.
    """
    cells = []
    for name in PICKS_OF:
        problem, _ = PROBLEMS[name]
        for correlation in CORRELATIONS:
            rng = np.random.default_rng(seed)
            planted = planted_atoms(problem.n_true, problem.width, correlation=correlation, rng=rng)
            x = samples_of(planted, PICKS_SAMPLES, problem.n_active, rng=rng)
            atoms = perturbed(planted, rng)
            for exact, quantized in (
                (OursAsPrinted, OursQuantized),
                (OursFinal, OursQuantizedFinal),
            ):
                codes = []
                for coder in (exact(), quantized()):
                    coder.prepare(atoms, problem.n_iterations, problem.atoms_per_iteration, "")
                    codes.append(coder.encode(x))
                (picks, _), (others, _) = codes
                pairs = zip(picks, others, strict=True)
                same = [len(set(a) & set(b)) / len(set(a)) for a, b in pairs]
                r2 = [explained(x, coder.decode(c)) for c in codes]
                cells.append(
                    [name, f"{correlation:g}", exact.name, f"{np.mean(same):.3f}"]
                    + [f"{value:.4f}" for value in r2]
                )
    print("\npicks: the quantized pursuit against the exact one")
    titles = ["problem", "cosine in groups", "coder", "same picks", "R2 exact", "R2 quantized"]
    print_columns(titles, cells)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables.

    Parameters
    ----------
    argv : sequence of str or None
        Command line; None takes that of the process.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = [*PROBLEMS, MEMORY, PICKS]
    parser.add_argument("--problems", nargs="+", choices=everything, default=everything)
    names = [*ALL, BOUND]
    parser.add_argument("--coders", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, default=10, help="for each row, at the least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        print(json.dumps(work(json.loads(arguments.worker))))
        return
    (cores,) = core_sets(1, arguments.threads)
    print(environment_line(arguments.threads))
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.problems:
            if name == PICKS:
                print_picks(arguments.seed)
                continue
            of = MEMORY_OF if name == MEMORY else name
            problem, n_samples = PROBLEMS[of]
            if name == MEMORY:
                n_samples = max(MEMORY_SAMPLES)
            rng = np.random.default_rng(arguments.seed + 1)
            x, atoms = planted_samples(
                n_samples, problem.width, problem.n_true, problem.n_active, seed=arguments.seed
            )
            atoms = perturbed(atoms, rng)
            paths = {"x": str(Path(folder) / "x.npy"), "atoms": str(Path(folder) / "atoms.npy")}
            np.save(paths["x"], x)
            np.save(paths["atoms"], atoms)
            del x
            common = {
                "problem": of,
                "threads": arguments.threads,
                "seconds": arguments.seconds,
                **paths,
            }
            if name == MEMORY:
                lines = []
                for n in MEMORY_SAMPLES:
                    task = {**common, "coder": OursFinal.name, "samples": n}
                    row = in_own_process(__file__, task, cores)
                    memory = "-" if row["memory"] is None else f"{row['memory'] / 1e6:.0f}"
                    io = 4 * n * problem.width, 8 * n * problem.n_active
                    lines.append(
                        [
                            f"{n:,}",
                            f"{row['samples_per_second']:,.0f}",
                            *(f"{size / 1e6:.0f}" for size in io),
                            memory,
                        ]
                    )
                gram = 4 * problem.n_atoms**2 / 1e6
                print(f"\nmemory: {OursFinal.name}, problem {of}; Gram matrix {gram:.0f} MB")
                titles = ["samples", "samples/s", "samples, MB", "codes, MB", "beyond both, MB"]
                print_columns(titles, lines)
            else:
                rows = {}
                for coder in arguments.coders:
                    task = {**common, "coder": coder, "samples": n_samples}
                    try:
                        rows[coder] = in_own_process(__file__, task, cores)
                    except RuntimeError as error:
                        print(f"{name}, {coder}: {error}", file=sys.stderr, flush=True)
                print_table(name, rows)


if __name__ == "__main__":
    main()
