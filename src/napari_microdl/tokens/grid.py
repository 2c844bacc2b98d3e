"""Grids of patch tokens, in memory while they fit there and in a file after that."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import cache_folder
from napari_microdl.core.task import current_task

MEMORY_BYTES = 512 * 2**20
# What is made of a grid in memory takes five times its size for a while.
LARGEST_IN_MEMORY = 256 * 2**20
BAND_BYTES = 16 * 2**20


@dataclass(frozen=True, eq=False)
class TokenGrid:
    """Patch tokens of one field.

    Parameters
    ----------
    tokens : ndarray of shape (grid_h, grid_w, d)
        float32. ``tokens[i, j]`` stands for the patch whose first pixel is ``[i * p, j * p]``. A
        memory map where they are kept in a file; go through `bands` to hold few of them at a time.
    position : ndarray of shape (grid_h, grid_w)
        Index of the place in the model's own grid that each token was computed at.
    patch_size : int
        Edge `p` of a patch in pixels.
    image_shape : tuple of int
        Height and width of the field in pixels; the last row and column of patches may stick out.
    """

    tokens: NDArray[np.float32]
    position: NDArray[np.int32]
    patch_size: int
    image_shape: tuple[int, int]

    @property
    def in_memory(self) -> bool:
        """Whether the tokens are in memory rather than in a file."""
        return not isinstance(self.tokens, np.memmap)

    def bands(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Bands of rows, from the first to the last.

        Yields
        ------
        rows : slice
            Rows of the grid.
        tokens : ndarray of shape (n_rows, grid_w, d)
            Their tokens; all at once where they are in memory.
        """
        if self.in_memory:
            yield slice(0, len(self.tokens)), self.tokens
            return
        for rows in _bands(self.tokens.shape):
            current_task().check()
            band = np.array(self.tokens[rows])
            _release(self.tokens)
            yield rows, band

    def map(
        self,
        function: Callable[[NDArray[np.float32], NDArray[np.int32]], NDArray[np.float32]],
    ) -> TokenGrid:
        """A grid of other tokens at the same places, kept where this one is kept.

        Parameters
        ----------
        function : callable
            From tokens of shape (n_rows, grid_w, d) and their positions of shape (n_rows, grid_w)
            to new tokens of the shape of the old ones. It may not change its input.

        Returns
        -------
        TokenGrid
        """
        if self.in_memory:
            tokens = function(self.tokens, self.position)
        else:
            with closing(TokenStorage(memory_bytes=0).writer(self.tokens.shape)) as writer:
                for rows, band in self.bands():
                    writer.put(rows.start, 0, function(band, self.position[rows]))
                tokens = writer.finish()
        return TokenGrid(tokens, self.position, self.patch_size, self.image_shape)


def order_by_content(grids: Sequence[TokenGrid]) -> NDArray[np.int64]:
    """Numbers of the grids in an order that is theirs, in whichever order they are given.

    What is learned from fields in this order does not depend on how somebody opened them.

    Parameters
    ----------
    grids : sequence of TokenGrid
        Tokens of every field, of the same width.

    Returns
    -------
    ndarray of shape (n_grids,)
        Sorted by their mean tokens, whose first digits are the same on every machine.
    """
    return np.lexsort(np.transpose([mean_token(grid) for grid in grids])[::-1])


def mean_token(grid: TokenGrid) -> NDArray[np.float64]:
    """Mean of all tokens of a field, shape (d,)."""
    sums = [band.sum(axis=(0, 1), dtype=np.float64) for _, band in grid.bands()]
    return np.asarray(np.sum(sums, axis=0) / grid.position.size)


class TokenStorage:
    """Where the tokens of a run are kept: in memory up to a bound, in files after that.

    Parameters
    ----------
    memory_bytes : int, default=512 MiB
        What all grids of the run may take in memory together; a single one takes 256 MiB at most.
    folder : Path, optional
        Folder of the files; the cache folder where not given, as the system's temporary folder is
        often in memory itself. A file vanishes with its grid, or with the process.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES, folder: Path | None = None) -> None:
        self._left = memory_bytes
        self._folder = folder

    def writer(self, shape: tuple[int, ...]) -> TokenWriter:
        """Room for a grid with so many rows and columns of tokens of that width.

        Raises
        ------
        MicrodlError
            If it has to go into a file and there is no room for one.
        """
        n_bytes = 4 * int(np.prod(shape))
        if n_bytes <= min(self._left, LARGEST_IN_MEMORY):
            self._left -= n_bytes
            return TokenWriter(shape, None)
        folder = self._folder or cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = tempfile.TemporaryFile(dir=folder, prefix="grid-")  # noqa: SIM115
        except OSError as error:
            raise _no_room(shape, error) from error
        return TokenWriter(shape, file)


class TokenWriter:
    """Takes the tokens of one grid, block by block and from the top to the bottom.

    They go into the file, or into memory where there is none.
    """

    def __init__(self, shape: tuple[int, ...], file: IO[bytes] | None) -> None:
        self.shape = shape
        self._file = file
        # In a file: the rows that are not written yet. In memory: all rows.
        self._rows = np.empty(shape if file is None else (0, *shape[1:]), np.float32)
        self._first = 0

    def put(self, row: int, column: int, block: NDArray[np.float32]) -> None:
        """Place a block of tokens at its first row and column; what sticks out is left out.

        No block may begin above the one before it.
        """
        end = min(row + len(block), self.shape[0])
        if self._file is not None and (row > self._first or end > self._first + len(self._rows)):
            self._write()
            self._first = row
            self._rows = np.empty((end - row, *self.shape[1:]), np.float32)
        part = self._rows[row - self._first : end - self._first, column : column + block.shape[1]]
        part[:] = block[: part.shape[0], : part.shape[1]]

    def finish(self) -> NDArray[np.float32]:
        """The whole grid, shape (rows, columns, d)."""
        if self._file is None:
            return self._rows
        self._write()
        try:
            self._file.flush()
        except OSError as error:
            raise _no_room(self.shape, error) from error
        tokens: NDArray[np.float32] = np.memmap(
            self._file, dtype=np.float32, mode="r", shape=self.shape
        )
        return tokens

    def close(self) -> None:
        """Let go of the file; a finished grid keeps it."""
        if self._file is not None:
            self._file.close()

    def _write(self) -> None:
        if self._file is not None and len(self._rows):
            try:
                # Written, not mapped: pages of a map would count as memory of this process.
                self._file.write(self._rows.data)
            except OSError as error:
                raise _no_room(self.shape, error) from error


def _bands(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, BAND_BYTES // (4 * shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _release(tokens: NDArray[np.float32]) -> None:
    """Let go of the pages of a map that were read; they stay in its file."""
    mapping: object = tokens.base
    while isinstance(mapping, np.ndarray):
        mapping = mapping.base
    if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _no_room(shape: tuple[int, ...], error: OSError) -> MicrodlError:
    return MicrodlError(
        f"The tokens of one field take {4 * np.prod(shape) / 1e9:.1f} GB, which could not be "
        f"written to the cache folder ({error.strerror or error}); free some space or name another "
        "folder in NAPARI_MICRODL_CACHE."
    )
