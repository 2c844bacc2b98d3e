"""Trust on first use: the digest of weights that nobody has published one for.

The first time that weights of a repository come from the hub, their sha256 is written down with the
commit; from then on nothing else is taken for them. That shows a change, not a wrong first file.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.folders import cache_folder
from napari_microdl.models.recipe import HubSource


def record_path(source: HubSource) -> Path:
    """File of the record, in the format of ``sha256sum``; it may not be there."""
    name = source.repository.replace("/", "--")
    return cache_folder() / "first-use" / f"{name}@{source.revision}.sha256"


def recorded_digest(source: HubSource) -> str:
    """Digest written down for the weights of a repository at a commit, or "" before their use.

    Raises
    ------
    MicrodlError
        If the record is damaged.
    """
    path = record_path(source)
    try:
        words = path.read_text(encoding="utf-8").split()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        raise MicrodlError(f"'{path}' cannot be read; delete it.") from error
    digest = words[0] if words else ""
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise MicrodlError(f"'{path}' holds no sha256; delete it.")
    return digest


def check_first_use(source: HubSource, file_name: str, digest: str) -> None:
    """Write down the digest of weights at their first use, and compare it from then on.

    Parameters
    ----------
    source : HubSource
        Repository and commit.
    file_name : str
        Name of the weights file.
    digest : str
        Its sha256.

    Raises
    ------
    MicrodlError
        If other weights were used first.
    """
    before = recorded_digest(source)
    if before and before != digest:
        raise MicrodlError(
            f"'{file_name}' of {source.repository} is not the file that was used first: its sha256 "
            f"is {digest}, not {before}; do not use it, or delete '{record_path(source)}' if you "
            "know why it changed."
        )
    if before:
        return
    path = record_path(source)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    # A folder that cannot be written keeps no record, and the next use is the first again.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(f"{digest}  {file_name}\n", encoding="utf-8")
        partial.replace(path)
