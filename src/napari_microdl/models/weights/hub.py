"""Fetches weights from the Hugging Face hub, at one commit, or from what it has cached."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import cache_folder, write_whole
from napari_microdl.core.reading import read_text, refusing
from napari_microdl.core.safetensors_files import file_sha256
from napari_microdl.models.weights.files import (
    IMAGE_PROCESSOR_NAMES,
    WEIGHTS_NAMES,
    is_index,
    shard_names,
    weights_files,
    weights_sha256,
)

SCHEME = "hf://"
_OFFLINE = "HF_HUB_OFFLINE"
_MOST_RECORD_BYTES = 4096
SIDE_NAMES = ("config.json", *IMAGE_PROCESSOR_NAMES)


@dataclass(frozen=True)
class HubSource:
    """Where weights lie on the Hugging Face hub.

    Parameters
    ----------
    repository : str
        ``organisation/name``.
    revision : str
        Commit, 40 hex digits; empty where none is pinned.
    sha256 : str
        Digest of the weights file; empty where none is pinned.
    """

    repository: str
    revision: str = ""
    sha256: str = ""


def parse_reference(reference: str) -> HubSource:
    """Repository and commit out of ``hf://organisation/name@commit``.

    Raises
    ------
    MicrodlError
        If it has another form, or names a branch, whose weights may change at any time.
    """
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@(.*))?", reference)
    if not found:
        raise MicrodlError(
            f"'{reference}' names no model on the hub; write hf://organisation/name@commit."
        )
    return _pinned(HubSource(found[1], found[2] or ""))


def _pinned(source: HubSource) -> HubSource:
    if not re.fullmatch(r"[0-9a-f]{40}", source.revision):
        raise MicrodlError(
            f"Name the commit of {source.repository} by its 40 hex digits, as in "
            f"hf://{source.repository}@<commit>, so that the weights cannot change unseen."
        )
    return source


class NotHereError(MicrodlError):
    """Weights that would have to be fetched, where nothing may be.

    Parameters
    ----------
    repository : str
        ``organisation/name``.
    """

    def __init__(self, repository: str) -> None:
        super().__init__(
            f"{repository} is not in the cache, and HF_HUB_OFFLINE forbids the network; give a "
            "file or folder that you have instead."
        )
        self.repository = repository


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids the network."""
    return os.environ.get(_OFFLINE, "").upper() in {"1", "ON", "YES", "TRUE"}


@contextmanager
def offline() -> Iterator[None]:
    """Fetch nothing inside, in any thread and in processes that are started there."""
    before = os.environ.get(_OFFLINE)
    os.environ[_OFFLINE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_OFFLINE]
        else:
            os.environ[_OFFLINE] = before


def is_here(source: HubSource) -> bool:
    """Whether weights are in the hub's cache folder; nothing is fetched, and nothing is read."""
    weights = next((path for name in WEIGHTS_NAMES if (path := _cached(source, name))), None)
    if weights is None:
        return False
    return not is_index(weights) or all(_cached(source, name) for name in shard_names(weights))


def _cached(source: HubSource, name: str) -> Path | None:
    # `hf_hub_download` asks the hub for other things, also where it is to use local files only.
    from huggingface_hub import try_to_load_from_cache

    folder = os.environ.get("HF_HUB_CACHE")
    found = try_to_load_from_cache(source.repository, name, folder, source.revision)
    return Path(found) if isinstance(found, str) else None


def fetch(source: HubSource, names: Sequence[str] = WEIGHTS_NAMES) -> Path:
    """One file of a repository at a commit, beside its configuration, in the hub's cache folder.

    The first of `names` that is there; its weights by default, an index with all files it names.

    Raises
    ------
    NotHereError
        If the network is forbidden and the file is not cached.
    MicrodlError
        If no commit is named, the extra is missing, the file is neither cached nor to be had, is
        damaged, or is not the one that was used first where no digest is pinned.
    """
    _pinned(source)
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            RepositoryNotFoundError,
        )
    except ImportError as error:
        raise MicrodlError(
            "Models from the hub need the package huggingface_hub; install napari-microdl[hub], or "
            "give a file or folder."
        ) from error

    def download(name: str) -> Path | None:
        if is_offline():
            return _cached(source, name)
        try:
            return Path(
                hf_hub_download(
                    source.repository,
                    name,
                    revision=source.revision,
                    cache_dir=os.environ.get("HF_HUB_CACHE"),
                )
            )
        except EntryNotFoundError:
            # Also what is raised where there is no network and nothing cached.
            return None

    # No cause is passed on: those errors quote request headers.
    try:
        for name in SIDE_NAMES:
            download(name)
        found = next((path for name in names if (path := download(name))), None)
        shards = shard_names(found) if found is not None and is_index(found) else ()
        lacking = next((name for name in shards if download(name) is None), "")
    except GatedRepoError:
        problem = "asks to accept its licence on its page and to log in (hf auth login) first"
        raise _not_fetched(source, problem) from None
    except RepositoryNotFoundError:
        raise _not_fetched(source, "does not exist, or not for you") from None
    except Exception as error:
        # Whatever the hub, its HTTP library (another in every major version, and not every timeout
        # is an OSError) or its transfer library raises: they have no class in common.
        problem = f"could not be fetched ({type(error).__name__})"
        raise _not_fetched(source, problem) from None
    if found is None and is_offline():
        raise NotHereError(source.repository)
    if found is None:
        raise _not_fetched(source, f"has no {names[0]} at that commit, or the network is down")
    if lacking:
        problem = f"has no {lacking} in the cache or at that commit, or the network is down"
        raise _not_fetched(source, problem)
    for file in weights_files(found):
        _check_blob(file, file_sha256(file))
    digest = weights_sha256(found)
    if found.name in WEIGHTS_NAMES and not source.sha256:
        check_recorded_digest(source, found.name, digest)
    return found


def _not_fetched(source: HubSource, problem: str) -> MicrodlError:
    return MicrodlError(
        f"{source.repository} {problem}; give a file or folder that you have instead."
    )


def _check_blob(path: Path, digest: str) -> None:
    """Large files lie in the cache under their digest, which the commit fixes."""
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name) and digest != blob.name:
        raise MicrodlError(
            f"'{path.name}' in the hub's cache is damaged; delete '{blob}' and fetch it again."
        )


def record_path(source: HubSource) -> Path:
    """File of the record, in the format of ``sha256sum``; it may not be there."""
    name = source.repository.replace("/", "--")
    return cache_folder() / "first-use" / f"{name}@{source.revision}.sha256"


def recorded_digest(source: HubSource) -> str:
    """Digest written down for the weights of a repository at a commit, or "" before their use."""
    path = record_path(source)
    with refusing(f"'{path}' cannot be read; delete it."):
        try:
            entries = read_text(path, _MOST_RECORD_BYTES).split()
        except (FileNotFoundError, NotADirectoryError):
            return ""
    digest = entries[0] if entries else ""
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise MicrodlError(f"'{path}' holds no sha256; delete it.")
    return digest


def check_recorded_digest(source: HubSource, file_name: str, digest: str) -> None:
    """Write down the digest of weights at their first use, and compare it from then on.

    Nothing else is then taken for them. That shows a change, not a wrong first file.
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
    # A folder that cannot be written keeps no record, and the next use is the first again.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as partial:
            partial.write_text(f"{digest}  {file_name}\n", encoding="utf-8")
