"""Kills processes while they write, and looks at what is left: the old or the new, whole.

Every path is run in processes of its own (forked once all is imported), which are killed (SIGKILL)
at random times; half of them in the last fifth of the time that the path takes, where most is
written. What a path leaves carries a number by which old, new and mixed are told apart.

Run as ``python benchmarks/kills.py --kills 50``; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import tifffile
import torch  # noqa: F401 (each child would import it again)

from napari_microdl.cli import main as command_line
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.concepts.store import open_activations, save_activations
from napari_microdl.core.config import PipelineConfig, read_config, write_config
from napari_microdl.fields.field import Field
from napari_microdl.pipeline.files import write_run
from napari_microdl.pipeline.run import PipelineResult, run_pipeline
from napari_microdl.pipeline.run_folder import run_folder

DICTIONARY = "dictionary.microdl.safetensors"
SETTINGS = {
    "model": "random-init", "layer": 1, "unit": "crop", "crop_size": 32, "crop_stride": 16,
    "n_atoms": 6, "n_iterations": 1, "atoms_per_iteration": 1, "max_steps": 3, "n_starts": 1,
    "shrinkage": 1.0, "cache": False, "device": "cpu",
}  # fmt: skip
EDGE = 96


@dataclass(frozen=True)
class WritingPath:
    """Something that writes.

    Parameters
    ----------
    write : callable
        Writes to a place, with a number.
    number_of : callable
        Number of what lies at a place; raises an error where it is not whole, or of two numbers.
    may_be_missing : bool
        Whether nothing may be there, as where nothing was before.
    """

    write: Callable[[Path, int], object]
    number_of: Callable[[Path], int]
    may_be_missing: bool = False


def fields() -> list[Field]:
    """Two controls and two treated fields."""
    found = []
    for number in range(4):
        rng = np.random.default_rng(number)
        image = rng.poisson(20, (1, EDGE, EDGE)).astype(np.uint16)
        if number % 2:
            image[0, 20:60, 20:60] += 100
        found.append(
            Field(
                data=image,
                channel_names=("DNA",),
                name=f"f{number}",
                well=f"A0{number + 1}",
                condition="drug" if number % 2 else "DMSO",
                is_control=not number % 2,
            )
        )
    return found


def table_of(folder: Path) -> Path:
    """The same fields as files."""
    rows = []
    for field in fields():
        tifffile.imwrite(folder / f"{field.name}.tif", field.data[0])
        known = {k: v for k, v in field.to_metadata().items() if v != ""}
        rows.append({"FileName_DNA": f"{field.name}.tif", **known})
    pd.DataFrame(rows).to_csv(folder / "fields.csv", index=False)
    return folder / "fields.csv"


def settings_of(number: int) -> PipelineConfig:
    """Settings whose seed is the number."""
    return PipelineConfig.of(**SETTINGS, random_state=number)


def numbered_run(out: Path) -> int:
    """Number of a run: that of all its files."""
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    dictionary = ConceptDictionary.load(out / DICTIONARY)
    found = {
        read_config(out / "settings.json").random_state,
        report["config"]["random_state"],
        dictionary.provenance["config"]["random_state"],
    }
    crops, ranking = pd.read_csv(out / "crops.csv"), pd.read_csv(out / "concepts.csv")
    assert len(crops) == report["fit"]["n_samples"]
    assert len(ranking) == dictionary.n_concepts
    assert set(ranking["id"].str[:8]) == {dictionary.fingerprint}
    (number,) = found
    return number


def numbered_application(out: Path) -> int:
    """Number of a run that applied a dictionary: that of its settings."""
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    dictionary = ConceptDictionary.load(out / DICTIONARY)
    ranking = pd.read_csv(out / "concepts.csv")
    assert set(ranking["id"].str[:8]) == {dictionary.fingerprint}
    assert len(pd.read_csv(out / "crops.csv")) == report["fit"]["n_samples"]
    (number,) = {
        read_config(out / "settings.json").random_state, report["config"]["random_state"]
    }  # fmt: skip
    return number


def numbered_evaluation(out: Path) -> int:
    """The same, with a page and figures of the evaluation."""
    number = numbered_application(out)
    choices = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["choices"]
    assert choices["n_permutations"] == 2 + number
    assert (out / "evaluation.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    return number


def paths(folder: Path) -> dict[str, WritingPath]:
    """All that is tried; what they need is made in a folder."""
    table = table_of(folder)
    results: dict[int, PipelineResult] = {}

    def result(number: int) -> PipelineResult:
        if number not in results:
            results[number] = run_pipeline(fields(), settings_of(number))
        return results[number]

    for number in range(2):
        result(number)
        write_config(settings_of(number), folder / f"{number}.json")
    given = results[0].dictionary.save(folder / "given")

    def write(out: Path, number: int) -> None:
        with run_folder(out, overwrite=True) as made:
            write_run(results[number], made.path)

    def run(*words: object) -> Callable[[Path, int], int]:
        def call(out: Path, number: int) -> int:
            more = ["--shuffles", str(2 + number), "--no-handcrafted"] * (words[0] == "evaluate")
            config = ["--config", str(folder / f"{number}.json")]
            arguments = [*map(str, words), *config, *more, "--out", str(out), "--overwrite"]
            return command_line(arguments)

        return call

    def save_dictionary(out: Path, number: int) -> None:
        results[number].dictionary.save(out.with_name(f"{out.name}.microdl.safetensors"))

    def dictionary_there(out: Path) -> int:
        found = ConceptDictionary.load(out.with_name(f"{out.name}.microdl.safetensors"))
        return int(found.provenance["config"]["random_state"])

    def save_folder(out: Path, number: int) -> None:
        save_activations(results[number].activations, out)

    def folder_there(out: Path) -> int:
        found = open_activations(out)
        assert len(found.vectors) == len(found.units)
        return int(found.dictionary.provenance["config"]["random_state"])

    return {
        "write": WritingPath(write, numbered_run),
        "write, new": WritingPath(write, numbered_run, may_be_missing=True),
        "dictionary": WritingPath(save_dictionary, dictionary_there),
        "activations": WritingPath(save_folder, folder_there),
        "fit": WritingPath(run("fit", table, "--refits", 0), numbered_run),
        "fit, new": WritingPath(run("fit", table, "--refits", 0), numbered_run, True),
        "apply": WritingPath(run("apply", given, table), numbered_application),
        "evaluate": WritingPath(run("evaluate", given, table), numbered_evaluation),
    }


def in_child(write: Callable[[Path, int], object], out: Path, number: int) -> int:
    """Begin to write in a process of its own, which says nothing."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        status = 1
        try:
            status = int(write(out, number) or 0)
        finally:
            os._exit(status)
    return child


def kill_often(path: WritingPath, folder: Path, kills: int, rng: random.Random) -> dict[str, int]:
    """Kill a path some times; how often the old, the new or nothing was there, and what was not."""
    seen = {"kills": 0, "old": 0, "new": 0, "nothing": 0, "wrong": 0, "ended before": 0}
    out, number = folder / "out", 0
    started = time.perf_counter()
    _, status = os.waitpid(in_child(path.write, out, 0), 0)
    seconds = time.perf_counter() - started
    assert status == 0
    assert path.number_of(out) == 0
    while seen["kills"] < kills:
        if path.may_be_missing:
            for left in (*folder.glob(".out*"), *folder.glob("out*")):
                _remove(left)
            before = None
        else:
            before = number
        number = 1 - number
        child = in_child(path.write, out, number)
        part = rng.uniform(0.8, 1.05) if rng.random() < 0.5 else rng.random()
        time.sleep(seconds * part)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            seen["ended before"] += 1
            number = path.number_of(out)
            continue
        seen["kills"] += 1
        try:
            found = path.number_of(out)
            seen["new" if found == number else "old" if found == before else "wrong"] += 1
            number = found
        except Exception as error:
            if before is None and not out.exists():
                seen["nothing"] += 1
            else:
                seen["wrong"] += 1
                print(f"  {type(error).__name__}: {error}")
            number = 1 - number
    # What killed ones have left goes with the next that ends.
    os.waitpid(in_child(path.write, out, number), 0)
    assert path.number_of(out) == number
    seen["left over"] = sum(not p.name.startswith("out") for p in folder.iterdir())
    return seen


def _remove(place: Path) -> None:
    import shutil

    shutil.rmtree(place) if place.is_dir() else place.unlink()


def main() -> None:
    """Kill, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each path")
    parser.add_argument("--only", action="append", help="this path; several may be named")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, found = random.Random(asked.seed), {}
    with tempfile.TemporaryDirectory() as name:
        os.environ["NAPARI_MICRODL_CACHE"] = f"{name}/cache"
        for title, path in paths(Path(name)).items():
            if asked.only and title not in asked.only:
                continue
            folder = Path(name) / title.replace(", ", "-")
            folder.mkdir()
            found[title] = kill_often(path, folder, asked.kills, rng)
            print(title, found[title], flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
