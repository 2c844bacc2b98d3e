"""The folder of a run: written beside, it takes its place once it is whole.

What was there stays until then. Names, notes and tags that a person gave to concepts are kept, and
so is what the window has written into the settings.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from napari_microdl.concepts.dictionary import SUFFIX, ConceptDictionary, unnamed
from napari_microdl.core.config import PipelineConfig, read_config, read_window, write_config
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import flush_file, flush_folder
from napari_microdl.core.folders import exchange
from napari_microdl.core.locks import try_lock
from napari_microdl.core.text import counted, listed
from napari_microdl.pipeline.files import DICTIONARY, SETTINGS, is_of_a_run

_LOCK = ".lock"
_UNFINISHED = "unfinished"
# What lies in folders that others write, which are no runs in one piece.
_OF_OTHERS = {"plate.json": "a plate run", "activations.json": "activations"}
# Dictionaries of earlier runs whose names nothing else has.
_BEFORE = re.compile(rf"dictionary-before-\d+{re.escape(SUFFIX)}")


class RunFolder:
    """Where the files of a run are written, and how they get where they are wanted.

    Attributes
    ----------
    wanted : Path
        Where they are wanted.
    path : Path
        Where they are written: a folder beside or inside, and in the end the wanted one.
    notes : list of str
        What a user should know of what was there before.
    """

    def __init__(self, wanted: Path, unfinished: Path, lock: IO[str]) -> None:
        self.wanted, self.path = wanted, unfinished
        self.notes: list[str] = []
        self._lock = lock
        self._replaces = bool(_files_of_a_run(wanted))

    def keep(self) -> None:
        """Say that the run is whole; where it replaces no other, it takes its place already."""
        if not self._replaces:
            self.put_in_place()

    def put_in_place(self) -> None:
        """Let the run take its place, all at once where the system can do that.

        In a folder that holds other things as well, file by file, each whole, the dictionary first.
        """
        if self.path == self.wanted:
            return
        unfinished = self.path
        self.notes += _keep_words(self.wanted, unfinished)
        _keep_window(self.wanted, unfinished)
        self._unlock()
        _place(unfinished, self.wanted)
        self.path = self.wanted
        # Where both have changed places, the run that was there.
        shutil.rmtree(unfinished, ignore_errors=True)

    def give_up(self) -> str:
        """Leave nothing, unless there is a dictionary: what is whole is kept then.

        Returns
        -------
        str
            Where it is, as a sentence; empty where it is nowhere.
        """
        if self.path == self.wanted:
            return f"What was whole by then is in {self.path}."
        unfinished = self.path
        self._unlock()
        if not (unfinished / DICTIONARY).exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            return ""
        self.path = self.wanted
        if self.wanted.exists():
            self.path = _free(unfinished.parent / f"{self.wanted.resolve().name}-{_UNFINISHED}")
        unfinished.rename(self.path)
        return f"What was whole by then is in {self.path}."

    def _unlock(self) -> None:
        # On Windows a folder with an open file cannot be moved.
        self._lock.close()
        (self.path / _LOCK).unlink()


@contextmanager
def run_folder(
    out: Path, config: PipelineConfig | None = None, *, overwrite: bool = False
) -> Iterator[RunFolder]:
    """A folder for the files of a run, checked before any work begins.

    Parameters
    ----------
    out : Path
        Where they are wanted; made in the end where it is missing.
    config : PipelineConfig, optional
        Settings of the run. Those in the folder may be the same, as saved by the window.
    overwrite : bool, default=False
        Whether a run that is there may be replaced; it stays until the new one is whole.

    Yields
    ------
    RunFolder
        The files are to be written to its `path`.

    Raises
    ------
    MicrodlError
        If a run is there that may not be replaced, what others write is there, or another run is
        at work for this place.
    OSError
        If it cannot be written to.
    """
    _refuse_others(out, config, overwrite=overwrite)
    unfinished = _make_unfinished(out)
    with (unfinished / _LOCK).open("a+", encoding="utf-8") as lock:
        if not try_lock(lock.fileno()):
            raise MicrodlError(
                f"A run is at work for '{out}' already; wait until it has ended, or choose another "
                "folder."
            )
        # What an earlier run left when it was killed.
        for path in unfinished.iterdir():
            if path.name != _LOCK:
                _remove(path)
        folder = RunFolder(out, unfinished, lock)
        try:
            yield folder
            folder.put_in_place()
        except BaseException as error:
            if where := folder.give_up():
                error.add_note(where)
            raise


def _refuse_others(out: Path, config: PipelineConfig | None, *, overwrite: bool) -> None:
    """Refuse a folder whose files would be lost."""
    if not out.exists():
        return
    if not out.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(out))
    for name, what in _OF_OTHERS.items():
        if (out / name).exists():
            raise MicrodlError(f"'{out}' holds {what}; choose another folder.")
    there = _files_of_a_run(out)
    if there == [SETTINGS] and config is not None and _holds(out / SETTINGS, config):
        # The window saved them, and the run is to be as they say.
        return
    if there and not overwrite:
        raise MicrodlError(
            f"'{out}' holds a run already ({listed(there)}); choose another folder, or replace it "
            "with --overwrite."
        )


def _holds(settings: Path, config: PipelineConfig) -> bool:
    try:
        return read_config(settings) == config
    except MicrodlError:
        return False


def _files_of_a_run(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if is_of_a_run(path.name))


def _make_unfinished(out: Path) -> Path:
    """A folder for what is not whole yet, on the disk of the place where it is wanted."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = out.with_name(f".{out.name}.{_UNFINISHED}")
    else:
        # That it may be written to is known before the work, not after.
        try:
            tempfile.TemporaryFile(dir=out).close()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(out)) from error
        real = out.resolve()
        beside = real.with_name(f".{real.name}.{_UNFINISHED}")
        unfinished = beside if _can_be_exchanged(out) else out / f".{_UNFINISHED}"
    unfinished.mkdir(exist_ok=True)
    return unfinished


def _can_be_exchanged(out: Path) -> bool:
    """Whether a folder holds nothing but a run, and nobody would be left in the old one."""
    holds_more = any(not (is_of_a_run(p.name) or _BEFORE.fullmatch(p.name)) for p in out.iterdir())
    stands_in_it = Path.cwd().is_relative_to(out.resolve())
    beside = os.access(out.resolve().parent, os.W_OK)
    return beside and not (holds_more or stands_in_it or out.is_mount() or out.is_symlink())


def _place(unfinished: Path, wanted: Path) -> None:
    new = sorted(unfinished.iterdir(), key=lambda path: (path.name != DICTIONARY, path.name))
    for path in new:
        flush_file(path)
    if not wanted.exists():
        unfinished.rename(wanted)
    elif unfinished.parent.samefile(wanted) or not exchange(unfinished, wanted):
        _move_all(new, wanted)
        # Of another unit, or pictures of concepts that are no longer there.
        for name in set(_files_of_a_run(wanted)) - {path.name for path in new}:
            (wanted / name).unlink()
    flush_folder(wanted.resolve().parent)


def _move_all(files: list[Path], to: Path) -> None:
    """Move files one by one; what interrupts that has to wait until the last is there."""
    try:
        for file in files:
            file.replace(to / file.name)
    except OSError:
        raise
    except BaseException:
        for file in files:
            if file.exists():
                file.replace(to / file.name)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _free(place: Path) -> Path:
    """A place, or one with a number behind, where nothing is yet."""
    free, number = place, 1
    while free.exists():
        number += 1
        free = place.with_name(f"{place.name}-{number}")
    return free


# What a person has added ------------------------------------------------------------------------


def _keep_window(before: Path, new: Path) -> None:
    """Keep what the window has written beside the settings."""
    if not (before / SETTINGS).is_file() or not (new / SETTINGS).is_file():
        return
    try:
        window = read_window(before / SETTINGS)
    except MicrodlError:
        return
    if window is not None:
        write_config(read_config(new / SETTINGS), new / SETTINGS, window)


def _keep_words(before: Path, new: Path) -> list[str]:
    """Keep names, notes and tags of the same concepts; of others the dictionary that has them.

    What was done is returned as sentences.
    """
    for path in before.iterdir() if before.is_dir() else ():
        if _BEFORE.fullmatch(path.name):
            shutil.copy2(path, new / path.name)
    file = before / DICTIONARY
    if not file.is_file() or not (new / DICTIONARY).is_file():
        return []
    dictionary = ConceptDictionary.load(new / DICTIONARY)
    try:
        earlier = ConceptDictionary.load(file)
    except MicrodlError:
        # Of a later version, or damaged: what a person wrote into it is not known.
        return [f"The dictionary that was there cannot be read; it is {_set_aside(file, new)}."]
    notes, same = [], earlier.fingerprint == dictionary.fingerprint
    if same and (n := _take_words(dictionary, earlier)):
        dictionary.save(new / DICTIONARY)
        notes.append(f"Names, notes and tags of {counted(n, 'concept')} were kept.")
    lost = sum(
        _has_words(earlier, concept)
        and not (same and _words(earlier, concept) == _words(dictionary, concept))
        for concept in range(earlier.n_concepts)
    )
    if lost:
        notes.append(
            f"The dictionary that was there has names, notes or tags of {counted(lost, 'concept')} "
            f"that the new one does not have; it is {_set_aside(file, new)}."
        )
    return notes


def _words(dictionary: ConceptDictionary, concept: int) -> tuple[str, str, str]:
    """What a person has said of a concept."""
    return dictionary.names[concept], dictionary.notes[concept], dictionary.tags[concept]


def _has_words(dictionary: ConceptDictionary, concept: int) -> bool:
    return _words(dictionary, concept) != (unnamed(concept), "", "")


def _take_words(dictionary: ConceptDictionary, earlier: ConceptDictionary) -> int:
    """Give concepts without any words those that they had; how many got some."""
    n = 0
    for concept in range(dictionary.n_concepts):
        if _has_words(earlier, concept) and not _has_words(dictionary, concept):
            name, note, tag = _words(earlier, concept)
            dictionary.names[concept] = name
            dictionary.notes[concept] = note
            dictionary.tags[concept] = tag
            n += 1
    return n


def _set_aside(file: Path, new: Path) -> str:
    """Keep a dictionary under another name, and say so."""
    number = 1
    while (kept := new / f"dictionary-before-{number}{SUFFIX}").exists():
        number += 1
    shutil.copy2(file, kept)
    return f"kept as {kept.name}"
