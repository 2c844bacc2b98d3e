"""Gives every loader damaged files and counts what it does with them.

    python scripts/fuzz.py --inputs 100000 --out fuzz.json
    python scripts/fuzz.py --only dictionary tiff

Inputs are guided by the lines of this package that they reach where atheris is installed
(``pip install atheris``; Linux and macOS), else drawn at random, which the counts say. Each loader
runs in a process of its own. What no loader may do (another error than one sentence, more than 2 s
or 1 GiB, a command run, other numbers than were written) ends with the input that did it, and
with exit code 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Try all loaders, each for so many inputs or seconds, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs a loader")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="most a loader")
    parser.add_argument("--only", nargs="*", help="names of loaders")
    parser.add_argument("--random", action="store_true", help="without guidance")
    parser.add_argument("--seed", type=int, default=0, help="of inputs without guidance")
    parser.add_argument("--out", type=Path, help="JSON file of the counts")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    guided = not options.random and importlib.util.find_spec("atheris") is not None
    if guided:
        import atheris

        with atheris.instrument_imports(include=["napari_microdl"]):
            import fuzzed
    else:
        import fuzzed
    rows: list[dict[str, Any]] = []
    for name in options.only or fuzzed.LOADERS:
        with tempfile.TemporaryDirectory() as folder:
            child = os.fork()
            if not child:
                of_one(name, Path(folder), options, guided=guided)
            _, status = os.waitpid(child, 0)
            counts = Path(folder, "counts.json")
            row = json.loads(counts.read_text()) if counts.is_file() else {"loader": name}
            if status and "fault" not in row:
                row["fault"] = f"the process ended with {os.waitstatus_to_exitcode(status)}"
        rows.append(row)
        print(json.dumps(row), flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any("fault" in row for row in rows))


def of_one(name: str, folder: Path, options: argparse.Namespace, *, guided: bool) -> None:
    """Try one loader until something is wrong, or the limits are reached, and end the process."""
    import fuzzed

    warnings.simplefilter("ignore")
    loader = fuzzed.all_loaders(folder)[name]()
    counts = {"loader": name, "guided": guided, "inputs": 0, "refused": 0, "read": 0}
    slowest, began = 0.0, time.monotonic()

    def end(fault: str = "", data: bytes = b"") -> None:
        row: dict[str, Any] = counts | {
            "slowest_ms": round(1000 * slowest),
            "seconds": round(time.monotonic() - began),
        }
        if fault:
            row |= {"fault": fault, "input": data.hex()}
        (folder / "counts.json").write_text(json.dumps(row))
        sys.stdout.flush()
        # Nothing that a fuzzer does at its end is waited for.
        os._exit(1 if fault else 0)

    def one(data: bytes) -> None:
        nonlocal slowest
        started = time.process_time()
        try:
            found = fuzzed.try_input(loader, data)
        except fuzzed.FaultError as error:
            end(str(error), data)
        slowest = max(slowest, time.process_time() - started)
        counts[found] += 1
        counts["inputs"] += 1
        if counts["inputs"] >= options.inputs or time.monotonic() - began > options.seconds:
            end()

    if guided:
        import atheris

        corpus = folder / "corpus"
        corpus.mkdir()
        for number, data in enumerate(fuzzed.random_inputs(50)):
            (corpus / str(number)).write_bytes(data)
        # One that hangs is ended from outside.
        atheris.Setup(
            ["fuzz", "-timeout=60", "-max_len=4096", "-rss_limit_mb=8192", str(corpus)], one
        )
        atheris.Fuzz()
    for data in fuzzed.random_inputs(options.inputs, options.seed):
        one(data)


if __name__ == "__main__":
    sys.exit(main())
