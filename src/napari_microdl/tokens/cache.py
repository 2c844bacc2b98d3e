"""Tokens of tiles that were seen before, in files named after what they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_microdl import __version__
from napari_microdl.core.config import Orientations, Site
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import cache_folder, write_whole
from napari_microdl.core.reading import read_bytes
from napari_microdl.models.base import TokenModel
from napari_microdl.tokens.out_of_memory import MemoryLimited
from napari_microdl.tokens.tiles import TilePlan

MOST_BYTES = 4 * 2**30
_SUFFIX = ".tokens"
_DIGEST_BYTES = 16


class TokenCache:
    """Kept tokens of batches of tiles on disk, the longest unused dropped first.

    A file is named after a digest of the scaled intensities of the tiles with their halo, the model
    with its weights, shape, preprocessing, precision and device, the layer and site, the tile plan,
    and the versions of torch and of this package. It holds a NumPy array and a checksum. Several
    processes may share a folder.

    Parameters
    ----------
    folder : Path, optional
        ``tokens`` in the folder that ``NAPARI_MICRODL_CACHE`` names, or else in the system's folder
        for caches, where not given.
    most_bytes : int, default=4 GiB
        Size that the files may have together.

    Attributes
    ----------
    hits, misses : int
        Batches that were found, and that were not.
    problem : str or None
        Why nothing more is written, as a full disk does; a run goes on without.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        self.folder = folder or cache_folder() / "tokens"
        self.most_bytes = most_bytes
        self.hits = 0
        self.misses = 0
        self.problem: str | None = None
        # Files of this process and those there at its first write; others are seen when it is full.
        self._size: int | None = None

    def key(
        self,
        tiles: NDArray[np.float32],
        model: TokenModel,
        layer: int,
        site: Site,
        plan: TilePlan,
        orientations: Orientations = 1,
    ) -> str:
        """Name of the tokens of a batch of tiles, in hex digits.

        Parameters
        ----------
        tiles : ndarray of shape (n, channels, height, width)
            Scaled intensities with their halo.
        model, layer, site, plan, orientations
            As for `napari_microdl.tokens.embed_field`.

        Raises
        ------
        MicrodlError
            If the model has not yet chosen the precision that it will use.
        """
        model = model.model if isinstance(model, MemoryLimited) else model
        precision = getattr(model, "used_precision", "")
        if precision == "fast":
            raise MicrodlError(
                "Tokens have no name before the precision 'fast' has made its trial; call the "
                "model's settle_precision first."
            )
        facts = (
            model.spec,
            # The same weights give other tokens as another network, or from other input.
            getattr(model, "config", None),
            getattr(model, "preprocessing", None),
            layer,
            site,
            plan,
            precision,
            # Sums are rounded in another order on another device or by another torch; another
            # version of this package may put the network together in another way.
            str(getattr(model, "device", "")),
            version("torch"),
            __version__,
            tiles.shape,
            *([] if orientations == 1 else [orientations]),
        )
        digest = hashlib.sha256(repr(facts).encode())
        digest.update(np.ascontiguousarray(tiles).data)
        return digest.hexdigest()

    def get(self, key: str) -> NDArray[np.float32] | None:
        """Tokens of that name, or None; a damaged file is dropped."""
        path = self._path(key)
        try:
            content = read_bytes(path, self.most_bytes)
        except OSError:
            self.misses += 1
            return None
        body, digest = memoryview(content)[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if _digest(body) != digest:
            self._drop(path)
            self.misses += 1
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        self.hits += 1
        tokens: NDArray[np.float32] = np.lib.format.read_array(io.BytesIO(body), allow_pickle=False)
        return tokens

    def put(self, key: str, tokens: NDArray[np.float32]) -> None:
        """Write tokens under a name, all or nothing, and drop others where they are too many."""
        if self.problem is not None:
            return
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(tokens), allow_pickle=False)
        buffer.write(_digest(buffer.getbuffer()))
        n_bytes = buffer.tell()
        if n_bytes > self.most_bytes:
            return
        path = self._path(key)
        try:
            if self._size is None:
                self._size = self.size()
            if self._size + n_bytes > self.most_bytes:
                self._shrink(self.most_bytes - n_bytes)
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_whole(path, flush=False) as partial:
                partial.write_bytes(buffer.getbuffer())
            self._size += n_bytes
        except OSError as error:
            self.problem = (
                f"Tokens could not be kept in '{self.folder}' ({error.strerror or error}); the run "
                "went on without."
            )

    def size(self) -> int:
        """Bytes that all files take."""
        return sum(n_bytes for _, n_bytes, _ in self._files())

    def clear(self) -> None:
        """Drop every file; whoever reads or writes at the time is not disturbed."""
        for path, _, _ in self._files():
            self._drop(path)
        self._size = None

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{_SUFFIX}"

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        """Every file with its size and when it was last used."""
        for path in self.folder.glob("??/*"):
            try:
                status = path.stat()
            except OSError:
                # Another process was faster.
                continue
            yield path, status.st_size, status.st_mtime

    def _shrink(self, most_bytes: int) -> None:
        files = sorted(self._files(), key=lambda file: file[2])
        size = sum(n_bytes for _, n_bytes, _ in files)
        # A little more than asked for, so that not every write has to look.
        goal = most_bytes - self.most_bytes // 16
        for path, n_bytes, _ in files:
            if size <= goal:
                break
            self._drop(path)
            size -= n_bytes
        self._size = size

    @staticmethod
    def _drop(path: Path) -> None:
        # On Windows a file that is being read stays; it goes the next time.
        with contextlib.suppress(OSError):
            path.unlink()


def _digest(content: memoryview | bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
