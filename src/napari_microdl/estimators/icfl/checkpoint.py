"""A fit on disk, so that it can go on after its process has died."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import refusing
from napari_microdl.core.safetensors_files import note_missing_digest, read_record, write_record
from napari_microdl.core.task import Task

_KEY = "napari_microdl_icfl_checkpoint"
_VERSION = 1


@dataclass(frozen=True)
class State:
    """What a checkpoint holds: arrays, and the rest, fit for JSON."""

    arrays: dict[str, NDArray[Any]]
    numbers: dict[str, Any]


class Checkpoint:
    """One file that holds where a fit stands.

    Parameters
    ----------
    path : str or Path
        The file; replaced as a whole every time.
    minutes : float
        Time between two saves; 0 saves after every step.
    resume : bool
        Whether to go on from the file, where there is one.

    Raises
    ------
    MicrodlError
        If the file is damaged or no checkpoint, or is there although the fit is to begin anew.
    """

    def __init__(self, path: str | Path, minutes: float, *, resume: bool) -> None:
        self.path = Path(path)
        if minutes < 0:
            raise MicrodlError(f"checkpoint_minutes is {minutes} but must be 0 or more.")
        self._seconds = 60 * minutes
        self._saved_at = time.monotonic()
        self._identity: dict[str, Any] = {}
        self._stored: State | None = None
        if not self.path.exists():
            if not self.path.parent.is_dir():
                raise MicrodlError(
                    f"The folder of the checkpoint '{self.path}' does not exist: make it first."
                )
            return
        if not resume:
            raise MicrodlError(
                f"The checkpoint '{self.path.name}' is there already: pass resume=True to go on "
                "from it, or delete it to begin anew."
            )
        self._stored, self._identity = self._read()

    @property
    def seed(self) -> int | None:
        """Seed of the stored fit, None where there is none."""
        return None if self._stored is None else int(self._identity["seed"])

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._saved_at >= self._seconds

    def begin(self, identity: dict[str, Any]) -> State | None:
        """Tell which fit this is, and take what was stored of it.

        Parameters
        ----------
        identity : dict
            What must be the same for a run to go on: seed, settings, hash of the samples. Fit for
            JSON; the keys are words for a person.

        Returns
        -------
        State or None
            None where nothing was stored.

        Raises
        ------
        MicrodlError
            If what was stored belongs to another fit.
        """
        # As JSON gives it back: tuples become lists.
        identity = json.loads(json.dumps(identity))
        if self._stored is not None:
            other = [key for key in identity if self._identity.get(key) != identity[key]]
            if other:
                raise MicrodlError(
                    f"The checkpoint '{self.path.name}' is of a fit with other {other[0]}: fit "
                    "with those it was begun with, or delete it to begin anew."
                )
        self._identity = identity
        return self._stored

    def save(self, state: State) -> None:
        """Write the file.

        Parameters
        ----------
        state : State
            Where the fit stands.

        Raises
        ------
        MicrodlError
            If the file cannot be written.
        """
        header = {"version": _VERSION, "identity": self._identity, "numbers": state.numbers}
        try:
            # A task of its own: what a cancelled fit leaves is written all the same.
            with Task().active():
                write_record(self.path, _KEY, state.arrays, header, allow_nan=True)
        except OSError as error:
            raise MicrodlError(
                f"The checkpoint '{self.path}' cannot be written ({error.strerror}): choose a "
                "folder with space left."
            ) from error
        self._saved_at = time.monotonic()

    def _read(self) -> tuple[State, dict[str, Any]]:
        otherwise = f"'{self.path.name}' is not a checkpoint of a fit: choose another file name."
        record = read_record(self.path, _KEY, otherwise)
        with refusing(otherwise):
            if set(record.header) != {"version", "identity", "numbers"}:
                raise ValueError("it holds something else")
            version = record.header["version"]
            identity, numbers = dict(record.header["identity"]), dict(record.header["numbers"])
            int(identity["seed"])
        if version != _VERSION:
            raise MicrodlError(
                f"The checkpoint '{self.path.name}' was written by another version of "
                "napari-microdl: delete it to begin anew."
            )
        if not record.has_digest:
            note_missing_digest(self.path.name)
        return State(record.tensors, numbers), identity
