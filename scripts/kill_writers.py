"""Kills processes while they replace files, and counts what is found afterwards.

    python scripts/kill_writers.py --kills 100

Each writer replaces one of two versions by the other, again and again, until it is killed (SIGKILL)
after a random time; then one of both has to be there, whole. Where it is not, that is said and the
exit code is 1. Linux and macOS.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from concepts.test_activations import make
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.concepts.store import open_activations, save_activations
from napari_microdl.core.config import PipelineConfig, read_config, write_config

MOST_SECONDS = 0.25
# A version written by its number, and the number of the version that is found.
Write, Found = Callable[[Path, int], object], Callable[[Path], int]


def of_activations() -> tuple[Write, Found]:
    """A folder of activations; the first name of a concept tells the version."""
    versions = [make()[1] for _ in range(2)]
    for number, activations in enumerate(versions):
        activations.dictionary.names[0] = str(number)
        _ = activations.ranking
    return (
        lambda path, number: save_activations(versions[number], path),
        lambda path: int(open_activations(path).dictionary.names[0]),
    )


def of_dictionary() -> tuple[Write, Found]:
    """A dictionary."""
    versions = [make()[1].dictionary for _ in range(2)]
    for number, dictionary in enumerate(versions):
        dictionary.names[0] = str(number)
    file = "d.microdl.safetensors"
    return (
        lambda path, number: (path.mkdir(exist_ok=True), versions[number].save(path / file)),
        lambda path: int(ConceptDictionary.load(path / file).names[0]),
    )


def of_settings() -> tuple[Write, Found]:
    """Settings."""
    versions = [PipelineConfig.of(random_state=number) for number in range(2)]
    file = "settings.json"
    return (
        lambda path, number: (
            path.mkdir(exist_ok=True),
            write_config(versions[number], path / file),
        ),
        lambda path: read_config(path / file).random_state,
    )


def main() -> int:
    """Kill every writer so many times; the number of times that neither version was whole."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="kills a writer")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    draw, failures = random.Random(0), 0
    for name, made in (
        ("activations", of_activations),
        ("dictionary", of_dictionary),
        ("settings", of_settings),
    ):
        write, found = made()
        seen, lost, left = [0, 0], 0, 0
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a"
            for _ in range(options.kills):
                write(path, 0)
                child = os.fork()
                if not child:
                    for number in cycle((1, 0)):
                        write(path, number)
                time.sleep(draw.uniform(0, MOST_SECONDS))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                try:
                    seen[found(path)] += 1
                except Exception as error:
                    lost += 1
                    print(name, error)
            if name == "activations":
                write(path, 0)
                left = len(list(path.parent.iterdir())) - 1 + len(list(path.glob("data-*"))) - 1
        print(
            f"{name}: {options.kills} kills, the one version {seen[0]} times, the other {seen[1]}, "
            f"neither {lost}, folders left over {left}",
            flush=True,
        )
        failures += lost + left
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
