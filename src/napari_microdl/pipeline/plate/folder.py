"""The folder of a plate run: who works in it, what it was begun with, and its log."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_text
from napari_microdl.core.locks import try_lock
from napari_microdl.core.reading import read_json, refusing
from napari_microdl.core.task import current_task

MANIFEST = "plate.json"
LOG = "log.jsonl"
SUMMARY = "summary.json"
FIELDS = "fields.csv"
PLACES = "places.safetensors"
_LOCK = ".lock"


@contextmanager
def sole_driver(folder: Path) -> Iterator[None]:
    """Be the only one that drives a run in a folder; the system lets go when the process ends.

    Parameters
    ----------
    folder : Path
        Made where it is missing.

    Raises
    ------
    MicrodlError
        If another process is at work there; says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a+", encoding="utf-8") as file:
        if not try_lock(file.fileno()):
            file.seek(0)
            who = file.read().strip() or "another process"
            raise MicrodlError(
                f"A run is at work in '{folder}' already ({who}); wait until it has ended, or "
                "choose another folder."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        # What an earlier run was writing when it was killed.
        for part in folder.glob("fields/*/.*"):
            part.unlink(missing_ok=True)
        yield


class Manifest:
    """What the run in a folder was begun with, and what its results were made from.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    begun : dict
        Plain values that decide the results, by their names.

    Raises
    ------
    MicrodlError
        If a run was begun here with others; says which.
    """

    def __init__(self, folder: Path, begun: dict[str, Any]) -> None:
        self._path = folder / MANIFEST
        self._begun = json.loads(json.dumps(begun))
        self._made: dict[str, dict[str, Any]] = {}
        if not self._path.exists():
            if any(path.name not in (_LOCK, LOG) for path in folder.iterdir()):
                raise MicrodlError(
                    f"'{folder}' holds other files; choose a new folder for the run."
                )
            self._write()
            return
        with refusing(f"'{self._path}' is damaged ({{reason}}); choose a new folder for the run."):
            known = read_json(self._path)
            before, self._made = dict(known["begun"]), dict(known["made"])
            if not all({"from", "notes"} <= set(made) for made in self._made.values()):
                raise ValueError("it does not say what files are made from")
        if before != self._begun:
            raise MicrodlError(
                f"'{folder}' holds a run that was begun otherwise ({_difference(before, begun)}); "
                "go on with what it was begun with, or choose a new folder."
            )

    def is_made(self, what: str, made_from: str) -> bool:
        """Whether a file is there and was made from this; what was noted then is noted again."""
        known = self._made.get(what)
        if known is None or known["from"] != made_from or not (self._path.parent / what).exists():
            return False
        for note in known["notes"]:
            current_task().note(note)
        return True

    @contextmanager
    def making(self, what: str, made_from: str) -> Iterator[None]:
        """Write down what a file is made from inside, and what is noted of it."""
        with current_task().taking_notes() as notes:
            yield
        self._made[what] = {"from": made_from, "notes": notes}
        self._write()
        for note in notes:
            current_task().note(note)

    def _write(self) -> None:
        content = {"begun": self._begun, "made": self._made}
        write_text(json.dumps(content, indent=1) + "\n", self._path)


def _difference(before: Any, now: Any, name: str = "") -> str:
    """The first setting that differs, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in (*before, *(key for key in now if key not in before)):
            if before.get(key) != json.loads(json.dumps(now.get(key))):
                below = f"{name}.{key}" if name else str(key)
                return _difference(before.get(key), now.get(key), below)
    return f"{name} was {before!r} and is {now!r}"


class Log:
    """A line of JSON an event, written at once.

    Parameters
    ----------
    folder : Path
        Folder of the run; lines are added to those of earlier runs.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / LOG).open("a", encoding="utf-8")

    def write(self, event: str, **values: Any) -> None:
        """Add a line."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
