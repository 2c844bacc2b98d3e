"""Files that are there whole or not at all, and the folder for what can be computed again."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from platformdirs import user_cache_path

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task


@contextmanager
def write_whole(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """A file to be written beside another, whose place it takes in the end.

    Parameters
    ----------
    path : Path
        Where the file is wanted; what is there stays until the new one is whole.
    flush : bool, default=True
        Whether to wait until it is on the disk, so that it outlasts a crash of the system. Where
        a damaged file is noticed when it is read, that can be saved.

    Yields
    ------
    Path
        Where to write, with the same suffix, under a name that nobody else uses. It is closed by
        the end of the block; where that ends with an error, nothing of it is left.

    Raises
    ------
    MicrodlError
        If the folder does not exist.
    OSError
        If it cannot be written to.
    """
    if not path.parent.is_dir():
        raise MicrodlError(f"There is no folder '{path.parent}'; choose another place.")
    partial = path.with_name(f".{path.stem[:64]}-{uuid4().hex}{path.suffix}")
    try:
        yield partial
        if flush:
            flush_file(partial)
        # A task that was cancelled leaves what was there.
        current_task().check()
        partial.replace(path)
        if flush:
            flush_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def flush_file(path: Path) -> None:
    """Wait until a file is on the disk, so that it outlasts a crash of the system."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can tell."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def write_whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to be filled, which gets its name once it is whole.

    Parameters
    ----------
    path : Path
        Where it is wanted. An empty folder may be there.

    Yields
    ------
    Path
        A folder beside it; where the block ends with an error, nothing of it is left.

    Raises
    ------
    MicrodlError
        If something is there already: nothing is taken away.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise MicrodlError(f"'{path}' is there already; choose another name, or remove it first.")
    partial = path.with_name(f".{path.stem[:64]}-{uuid4().hex}{path.suffix}")
    partial.mkdir(parents=True)
    try:
        yield partial
        current_task().check()
        if path.exists():
            path.rmdir()
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(text: str, path: str | Path) -> Path:
    """Write a text, whole or not at all.

    Parameters
    ----------
    text : str
        Written as UTF-8.
    path : str or Path
        Where to.

    Returns
    -------
    Path
        The file written.
    """
    path = Path(path)
    with write_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def cache_folder() -> Path:
    """Folder named in ``NAPARI_MICRODL_CACHE``, or the system's for caches; may not exist."""
    named = os.environ.get("NAPARI_MICRODL_CACHE")
    return Path(named).expanduser() if named else user_cache_path("napari-microdl")
