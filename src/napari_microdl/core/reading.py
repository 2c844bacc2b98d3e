"""Files of others, read within bounds; whatever is wrong with one becomes a single sentence."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.text import shortened

# Settings, recipes and indices are thousands of bytes long; those of a million cells are millions.
MOST_TEXT_BYTES = 256 * 2**20
_MOST_REASON = 240


@contextmanager
def refusing(sentence: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file inside into one sentence.

    Parsers raise all sorts of errors on bytes that nobody wrote (a depth that ends the recursion, a
    division by a size of zero, more memory than there is), so none is left out.

    Parameters
    ----------
    sentence : str
        What the file is refused with; ``{reason}`` in it becomes what was wrong.

    Raises
    ------
    MicrodlError
        The sentence.
    """
    try:
        yield
    except Exception as error:
        raise MicrodlError(sentence.replace("{reason}", reason_of(error))) from error


@contextmanager
def guarding(sentence: str) -> Iterator[None]:
    """As `refusing`, but what was already refused with a sentence of its own stays as it is."""
    try:
        yield
    except MicrodlError:
        raise
    except Exception as error:
        raise MicrodlError(sentence.replace("{reason}", reason_of(error))) from error


def reason_of(error: Exception) -> str:
    """What was wrong, in words that stand inside of a sentence."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split()).removesuffix(".")
    return shortened(words, _MOST_REASON) or type(error).__name__


def require_file(path: Path) -> None:
    """Refuse what is no plain file: a pipe or a device never ends, or waits for ever.

    Raises
    ------
    OSError
        If there is nothing of that name, or no plain file.
    """
    _require_plain(path, path.stat().st_mode)


@contextmanager
def plain_file(path: Path) -> Iterator[BufferedReader]:
    """A plain file opened for reading, see `require_file`.

    Raises
    ------
    OSError
        If it cannot be read, or is no plain file.
    """
    # Opening a pipe would wait for whoever writes to it.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        _require_plain(path, os.fstat(handle).st_mode)
        yield file


def _require_plain(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "Is a directory", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(22, "it is a pipe or a device, not a file", str(path))


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """All of a plain file.

    Parameters
    ----------
    path : Path
        The file.
    most : int, optional
        Bytes that it may have.

    Raises
    ------
    OSError
        If it cannot be read, is no plain file, or is longer.
    """
    with plain_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is None:
            return file.read()
        content = file.read(most + 1) if size <= most else b""
    if size > most or len(content) > most:
        raise OSError(27, f"it has {size:,} bytes, at most {most:,} are read", str(path))
    return content


def read_text(path: Path, most: int = MOST_TEXT_BYTES) -> str:
    """All of a plain file of UTF-8; refused as `read_bytes` does, and with ValueError."""
    return read_bytes(path, most).decode("utf-8")


def parse_json(text: str | bytes) -> Any:
    """Values of a JSON text, without the numbers NaN and Infinity, which JSON does not have.

    Raises
    ------
    ValueError, RecursionError
        If it is none, or nested too deep.
    """
    return json.loads(text, parse_constant=_no_constant)


def read_json(path: Path, most: int = MOST_TEXT_BYTES) -> Any:
    """Values of a JSON file; refused as `read_text` and `parse_json` do."""
    return parse_json(read_text(path, most))


def read_toml(path: Path, most: int = MOST_TEXT_BYTES) -> dict[str, Any]:
    """Values of a TOML file; refused as `read_text` does, and with RecursionError."""
    return tomllib.loads(read_text(path, most))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
