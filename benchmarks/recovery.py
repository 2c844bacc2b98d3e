"""How soon planted atoms are found, in CPU seconds and in samples, by ICFL and by other learners.

``python benchmarks/recovery.py`` prints a table for each problem. An atom is found when a learned
one has |cosine| above 0.9 with it. Every training runs in a process of its own on cores of its own.
CPU seconds are those of all threads, around the training alone: imports, data, compilation and
evaluation are left out. Each learner gets the best of three or four learning rates. A point of ICFL
is a whole fit of so many steps, with its first atoms and its final solve; a point of the others
is a look at a training on its way.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import itertools
import json
import os
import platform
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import nuisance
import numpy as np
import torch
from peers import PEERS, Floats, Learner
from planted import Problem, explained, recovered

from napari_microdl import ICFL


@dataclass(frozen=True)
class NuisanceProblem(Problem):
    """Rare concepts of treated samples under a strong shared nuisance, after control whitening.

    The concepts of `nuisance.py` are the atoms to be found; its samples are all there are, however
    many are asked for.

    Parameters
    ----------
    amplitude : float
        Amount of a concept relative to a background concept.
    """

    amplitude: float = 1.0

    def summary(self, n_samples: int) -> str:
        """What is planted, and in how many samples, in words."""
        screen = nuisance.Screen()
        n_samples = screen.n_controls + screen.n_perturbations * screen.n_treated_each
        return (
            f"{self.n_true} concepts in {self.width} dimensions, of treated samples alone, under a "
            f"nuisance, amplitude {self.amplitude:g}, after control whitening; {n_samples} samples"
        )

    def draw(self, n_samples: int, n_held_out: int, seed: int) -> tuple[Floats, Floats, Floats]:
        """Samples to learn from, held-out samples, and the concepts."""
        drawn = nuisance.draw(nuisance.Screen(amplitude=self.amplitude), seed)
        data = nuisance.prepare(drawn, "control whitening")
        return data.learning.x, data.held_out.x, data.concepts


def _under_nuisance(amplitude: float, times_larger: int = 1) -> NuisanceProblem:
    screen = nuisance.Screen()
    n_iterations, per_iteration = nuisance.SPARSITY
    return NuisanceProblem(
        width=screen.width,
        n_true=screen.n_perturbations * screen.concepts_each,
        n_active=n_iterations * per_iteration,
        n_atoms=times_larger * nuisance.N_ATOMS,
        atoms_per_iteration=per_iteration,
        amplitude=amplitude,
    )


PROBLEMS = {
    "m1024": Problem(width=384, n_true=1024, n_active=20, n_atoms=1024),
    "m2048": Problem(width=384, n_true=2048, n_active=20, n_atoms=2048),
    "k40": Problem(width=384, n_true=1024, n_active=40, n_atoms=1024),
    "k100": Problem(width=384, n_true=1024, n_active=100, n_atoms=1024),
    "larger": Problem(width=384, n_true=1024, n_active=20, n_atoms=2048),
    "correlated": Problem(width=384, n_true=1024, n_active=20, n_atoms=1024, correlation=0.6),
    "nuisance": _under_nuisance(1.0),
    "nuisance_half": _under_nuisance(0.5),
    "nuisance_half_larger": _under_nuisance(0.5, times_larger=2),
}
HELD_OUT = 4096
LEVELS = (0.8, 0.9, 0.95)
SHOWN_AT = (2, 8, 32)
SHOWN_AT_SAMPLES = (16_384, 65_536, 262_144, 1_048_576)
# Share of the atoms at which the curve of ICFL ends.
ENOUGH = 0.995
# Steps of the fits that make the curve of ICFL.
STEPS = tuple(round(10 * 2 ** (i / 2)) for i in range(17))

Record = dict[str, Any]


class ICFLAsPrinted(Learner):
    """The published algorithm: Adam, atoms drawn like the weights of a linear layer."""

    name = "ICFL as printed"
    rates = (3e-4, 1e-3, 3e-3, 1e-2)
    _per_iteration: ClassVar[int] = 5

    def _begin(self, x: Floats, n_atoms: int, n_active: int, rate: float, seed: int) -> None:
        self._icfl = ICFL(
            n_atoms,
            n_active // self._per_iteration,
            self._per_iteration,
            update="adam",
            init="linear",
            learning_rate=rate,
            batch_size=self.batch_size,
            random_state=seed,
        )

    def _learn(self, batch: Floats) -> None:
        self._icfl.partial_fit(batch)

    def atoms(self) -> Floats:
        """`ICFL.components_`."""
        return self._icfl.components_

    def reconstruct(self, x: Floats) -> Floats:
        """Decoded codes."""
        return self._icfl.inverse_transform(self._icfl.transform(x))


ICFL_NAME = "ICFL"
# Fits as a user begins them, with the number of steps left to the estimator.
WHOLE_FITS: dict[str, dict[str, Any]] = {
    "ICFL, all its steps": {},
    "ICFL, early stopping": {"early_stopping": True},
}
LEARNERS: dict[str, type[Learner]] = {c.name: c for c in (ICFLAsPrinted, *PEERS)}


def icfl_points(x: Floats, held_out: Floats, truth: Floats, task: Record) -> Iterator[Record]:
    """Whole fits of ever more steps, until nearly all atoms are found, or the one asked for."""
    problem = PROBLEMS[task["problem"]]
    make = functools.partial(
        ICFL,
        problem.n_atoms,
        problem.n_iterations,
        problem.atoms_per_iteration,
        random_state=task["seed"],
    )
    started = time.perf_counter()
    make(max_steps=2).fit(x[: 2 * problem.n_atoms])
    yield {"warm_up": time.perf_counter() - started}

    def point(**settings: Any) -> Record:
        cpu, wall = time.process_time(), time.perf_counter()
        icfl = make(**settings).fit(x)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return {
            "cpu": cpu,
            "wall": wall,
            "steps": icfl.history_[-1].step,
            "samples": icfl.history_[-1].n_samples,
            "recovered": recovered(truth, icfl.components_),
            "r2": explained(held_out, icfl.inverse_transform(icfl.transform(held_out))),
        }

    if task["learner"] in WHOLE_FITS:
        yield point(**WHOLE_FITS[task["learner"]])
        return
    for steps in STEPS:
        yield (measured := point(max_steps=steps))
        if measured["cpu"] > task["budget"] or measured["recovered"] >= ENOUGH:
            break


def learner_points(x: Floats, held_out: Floats, truth: Floats, task: Record) -> Iterator[Record]:
    """One training, looked at whenever its CPU seconds have grown by a fifth."""
    problem = PROBLEMS[task["problem"]]
    learner = LEARNERS[task["learner"]]()
    sizes = (problem.n_atoms, problem.n_active, task["rate"], task["seed"])
    started = time.perf_counter()
    learner.begin(x, *sizes)
    learner.step()
    yield {"warm_up": time.perf_counter() - started}
    cpu = wall = 0.0
    steps = 0

    def timed(action: Callable[[], None]) -> None:
        nonlocal cpu, wall
        cpu_then, wall_then = time.process_time(), time.perf_counter()
        action()
        cpu += time.process_time() - cpu_then
        wall += time.perf_counter() - wall_then

    timed(lambda: learner.begin(x, *sizes))
    for quarter in itertools.count():
        due = min(2 ** (quarter / 4), task["budget"])
        last = due == task["budget"]
        if cpu >= due and not last:
            continue
        while cpu < due:
            timed(learner.step)
            steps += 1
        yield {
            "cpu": cpu,
            "wall": wall,
            "steps": steps,
            "samples": learner.samples_seen,
            "recovered": recovered(truth, learner.atoms()),
            # Some encoders take longer than all steps between two points.
            "r2": explained(held_out, learner.reconstruct(held_out))
            if last or due in SHOWN_AT
            else None,
        }
        if last:
            return


def work(task: Record) -> Record:
    """Run one training in this process."""
    torch.set_num_threads(task["threads"])
    with np.load(task["data"]) as data:
        x, held_out, truth = data["x"], data["held_out"], data["atoms"]
    points_of = learner_points if task["learner"] in LEARNERS else icfl_points
    first, *points = points_of(x, held_out, truth, task)
    return {**first, "points": points}


def in_own_process(
    script: str | Path, task: Mapping[str, Any], cores: Sequence[int] | None
) -> Record:
    """Run ``script --worker TASK`` on given cores and read the line of JSON that it prints last.

    Parameters
    ----------
    script : path
        A script whose option --worker takes a task as JSON.
    task : dict
        The task; its "threads" is how many threads each library may use.
    cores : sequence of int or None
        Cores to run on; None leaves them to the system.

    Returns
    -------
    dict
        What the worker printed.

    Raises
    ------
    RuntimeError
        If the worker failed; with the end of what it wrote to its standard error.
    """
    threads = str(task["threads"])
    names = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    environment = {**os.environ, **{f"{name}_NUM_THREADS": threads for name in names}}
    command = [sys.executable, str(script), "--worker", json.dumps(task)]
    if cores is not None and shutil.which("taskset"):
        command = ["taskset", "-c", ",".join(map(str, cores)), *command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def core_sets(jobs: int, threads: int) -> list[list[int] | None]:
    """Cores for each of so many workers at once.

    Parameters
    ----------
    jobs : int
        Workers at once.
    threads : int
        Cores for each.

    Returns
    -------
    list of list of int, or of None
        None where the system does not pin processes to cores.

    Raises
    ------
    SystemExit
        If there are too few cores.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [None] * jobs
    cores = sorted(os.sched_getaffinity(0))
    if jobs * threads > len(cores):
        raise SystemExit(
            f"{jobs} jobs of {threads} threads need {jobs * threads} cores, but there are "
            f"{len(cores)}: ask for fewer."
        )
    return [cores[i * threads : (i + 1) * threads] for i in range(jobs)]


def environment_line(threads: int) -> str:
    """The processor and the versions that a table was made with.

    Parameters
    ----------
    threads : int
        Threads of a worker.

    Returns
    -------
    str
        One line.
    """
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = models[0] if models else processor
    packages = ("numpy", "torch", "scikit-learn", "sae-lens", "eai-sparsify", "napari-microdl")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    threads_each = f"{threads} thread{'s' if threads > 1 else ''} each"
    return f"{processor}, {threads_each}; Python {platform.python_version()}, {versions}"


class Results:
    """Finished trainings, one a line of a file, so that a broken run goes on where it was."""

    keys = ("problem", "learner", "rate", "budget", "seed", "samples", "threads")

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._of = {self._key(r): r for r in map(json.loads, lines)}

    def _key(self, task: Record) -> tuple[Any, ...]:
        return tuple(task[k] for k in self.keys)

    def get(self, task: Record) -> Record | None:
        """The result of a task, if there is one."""
        return self._of.get(self._key(task))

    def add(self, task: Record, result: Record) -> None:
        """Keep a result."""
        record = {**{k: task[k] for k in self.keys}, **result}
        self._of[self._key(task)] = record
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def run_all(
    tasks: Sequence[Record], results: Results, cores: list[list[int] | None], data: Path
) -> None:
    """Run what has no result yet, so many at once as there are sets of cores."""
    free: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
    for of_worker in cores:
        free.put(of_worker)
    missing = [t for t in tasks if results.get(t) is None]
    if missing and not data.exists():
        first = missing[0]
        x, held_out, atoms = PROBLEMS[first["problem"]].draw(
            first["samples"], HELD_OUT, first["seed"]
        )
        np.savez(data, x=x, held_out=held_out, atoms=atoms)
        # While the workers run, the memory is theirs.
        del x, held_out, atoms

    def run(task: Record) -> None:
        mine = free.get()
        label = f"{task['problem']}, {task['learner']}, rate {task['rate']}"
        try:
            result = in_own_process(__file__, {**task, "data": str(data)}, mine)
        except RuntimeError as error:
            print(f"{label}: {error}", file=sys.stderr, flush=True)
        else:
            results.add(task, result)
            last = result["points"][-1]
            print(
                f"{label}: {last['recovered']:.1%} after {last['cpu']:.1f} CPU s",
                file=sys.stderr,
                flush=True,
            )
        finally:
            free.put(mine)

    with ThreadPoolExecutor(len(cores)) as pool:
        list(pool.map(run, missing))


def first_at(points: Sequence[Record], level: float) -> Record | None:
    """The earliest point at which a share of the atoms is found."""
    return next(
        (p for p in sorted(points, key=lambda p: p["cpu"]) if p["recovered"] >= level), None
    )


def merit(result: Record) -> tuple[float, float, float]:
    """What the best learning rate has most of: an early 95 %, then atoms, then R2."""
    there = first_at(result["points"], LEVELS[-1])
    last = result["points"][-1]
    return (-there["cpu"] if there else -np.inf, last["recovered"], last["r2"])


def within(points: Sequence[Record], seconds: float) -> str:
    """Atoms found and R2 at the last measured point within so many CPU seconds."""
    before = [p for p in points if p["cpu"] <= 1.05 * seconds and p["r2"] is not None]
    if not before:
        return "-"
    point = max(before, key=lambda p: p["cpu"])
    return f"{point['recovered']:.1%} / {point['r2']:.3f}"


def found_by(points: Sequence[Record], samples: int) -> str:
    """Atoms found at the last measured point within so many samples."""
    before = [p for p in points if p["samples"] <= samples]
    if not before:
        return "-"
    point = max(before, key=lambda p: p["samples"])
    # The training ended long before: its last point says nothing of so many samples.
    if point is points[-1] and point["samples"] < samples / 2:
        return "-"
    return f"{point['recovered']:.1%}"


def print_columns(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column is aligned to the left.

    Parameters
    ----------
    titles : sequence of str
        Head of each column.
    rows : sequence of sequence of str
        Cells.
    """
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        first, *rest = zip(row, widths, strict=True)
        print("  ".join([f"{first[0]:<{first[1]}}", *(f"{cell:>{w}}" for cell, w in rest)]))


def print_table(name: str, chosen: Mapping[str, Record], n_samples: int, budget: float) -> None:
    """The table of one problem and what it says about ICFL."""
    p = PROBLEMS[name]
    print(
        f"\n{name}: {p.summary(n_samples)}; {p.n_atoms} atoms learned, "
        f"J {p.n_iterations} x L {p.atoms_per_iteration} or K {p.n_active}"
    )
    times = [*(s for s in SHOWN_AT if s < budget), budget]
    columns = ["learner", "rate", *(f"found / R2, {t:g} s" for t in times)]
    columns += [*(f"{level:.0%}, CPU s" for level in LEVELS), "wall s", "samples to it", "of ICFL"]
    rows, by_samples = [], []
    ours = first_at(chosen[ICFL_NAME]["points"], LEVELS[-1]) if ICFL_NAME in chosen else None
    for learner, result in chosen.items():
        points = result["points"]
        there = [first_at(points, level) for level in LEVELS]
        last = there[-1]
        ratio = "-"
        if ours:
            spent = last["cpu"] if last else points[-1]["cpu"]
            ratio = f"{'' if last else '> '}{spent / ours['cpu']:.1f}"
        rows.append(
            [
                learner,
                "" if result["rate"] is None else f"{result['rate']:g}",
                *(within(points, t) for t in times),
                *("-" if point is None else f"{point['cpu']:.1f}" for point in there),
                "-" if last is None else f"{last['wall']:.1f}",
                "-" if last is None else f"{last['samples']:,}",
                ratio,
            ]
        )
        by_samples.append([learner, *(found_by(points, n) for n in SHOWN_AT_SAMPLES)])
    print_columns(columns, rows)
    print("\nfound after so many samples")
    print_columns(["learner", *(f"{n:,}" for n in SHOWN_AT_SAMPLES)], by_samples)
    others = {c.name for c in PEERS} & chosen.keys()
    if ours and others:
        reached = {o: p for o in others if (p := first_at(chosen[o]["points"], LEVELS[-1]))}
        text = f"ICFL finds {LEVELS[-1]:.0%} in {ours['cpu']:.1f} CPU s"
        if reached:
            soonest = min(reached, key=lambda o: reached[o]["cpu"])
            times_ours = reached[soonest]["cpu"] / ours["cpu"]
            print(f"{text}, {times_ours:.1f} times sooner than {soonest}, the next.")
        else:
            spent = min(chosen[o]["points"][-1]["cpu"] for o in others)
            print(f"{text}; no package does in {spent:.0f}, {spent / ours['cpu']:.1f} times that.")
    if ICFL_NAME in chosen:
        warm_up = chosen[ICFL_NAME]["warm_up"]
        print(f"ICFL, compilation and a first tiny fit, not counted above: {warm_up:.1f} s")
    sys.stdout.flush()


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
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=[*PROBLEMS])
    names = [ICFL_NAME, *WHOLE_FITS, *LEARNERS]
    parser.add_argument("--learners", nargs="+", choices=names, default=names)
    parser.add_argument("--budget", type=float, default=200, help="CPU seconds of a training")
    parser.add_argument(
        "--pilot",
        type=float,
        help="CPU seconds for each learning rate, if not the whole budget",
    )
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads of a training")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--results", type=Path, help="file of finished trainings to go on with")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        print(json.dumps(work(json.loads(arguments.worker))))
        return
    pilot = arguments.pilot or arguments.budget
    cores = core_sets(arguments.jobs, arguments.threads)
    print(environment_line(arguments.threads))
    with tempfile.TemporaryDirectory() as folder:
        results = Results(arguments.results or Path(folder) / "results.jsonl")
        for name in arguments.problems:
            common = {
                "problem": name,
                "seed": arguments.seed,
                "samples": arguments.samples,
                "threads": arguments.threads,
            }
            data = Path(folder) / "problem.npz"
            pilots = [
                {**common, "learner": learner, "rate": rate, "budget": pilot}
                for learner in arguments.learners
                if learner in LEARNERS
                for rate in LEARNERS[learner].rates
            ]
            run_all(pilots, results, cores, data)
            tried: dict[str, list[Record]] = {}
            for task in pilots:
                if (result := results.get(task)) is not None:
                    tried.setdefault(task["learner"], []).append(result)
            rates = {learner: max(of, key=merit)["rate"] for learner, of in tried.items()}
            ours = [name for name in (ICFL_NAME, *WHOLE_FITS) if name in arguments.learners]
            rates = {**dict.fromkeys(ours), **rates}
            full = [
                {**common, "learner": learner, "rate": rate, "budget": arguments.budget}
                for learner, rate in rates.items()
            ]
            run_all(full, results, cores, data)
            data.unlink(missing_ok=True)
            chosen = {t["learner"]: r for t in full if (r := results.get(t)) is not None}
            print_table(name, chosen, arguments.samples, arguments.budget)


if __name__ == "__main__":
    main()
