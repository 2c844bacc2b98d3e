"""Where samples come from: arrays, files larger than memory, and streams of batches."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_microdl.errors import MicrodlError
from napari_microdl.validation import require_finite

# Batches that are read from a file and shuffled at a time.
_WINDOW_BATCHES = 8
# Rows that are read from a file in one piece, where it does not say how it is divided.
_PIECE_ROWS = 1024
# Unused rows that are read along rather than skipped.
_GAP_ROWS = 8
_FINGERPRINT_ROWS = 64


class EndOfSamplesError(Exception):
    """A stream has ended."""


class Batches(Protocol):
    """Samples for a fit.

    Attributes
    ----------
    width : int
        Features of a sample.
    n_samples : int or None
        Samples to learn from; None where that is not known.
    held_out : ndarray of float32, shape (n, width)
        Samples that are never in a batch.
    """

    width: int
    n_samples: int | None
    held_out: NDArray[np.float32]

    def batch(self, step: int, size: int) -> NDArray[np.float32]:
        """Samples of a step, which depend on the seed and the step alone.

        Parameters
        ----------
        step : int
            Counted from 0. A stream moves forward only.
        size : int
            Number of samples; the same in every call.

        Returns
        -------
        ndarray of float32, shape (size, width)
            Samples.

        Raises
        ------
        EndOfSamplesError
            If a stream has no batch for this step.
        MicrodlError
            If a sample is not finite, or of another width.
        """

    def first(self, count: int) -> NDArray[np.float32]:
        """Samples to begin with.

        Parameters
        ----------
        count : int
            How many.

        Returns
        -------
        ndarray of float32, shape (at most count, width)
            Samples.
        """

    def drawn(self, count: int) -> NDArray[np.float32]:
        """Samples to end with.

        Parameters
        ----------
        count : int
            How many.

        Returns
        -------
        ndarray of float32, shape (at most count, width)
            From all samples; of a stream, the latest.
        """

    def fingerprint(self) -> str:
        """Tell whether another run had the same samples.

        Returns
        -------
        str
            A hash.
        """


class ArrayBatches:
    """Samples in a matrix, in memory or in a file.

    Rows of a matrix in memory are drawn at random. From a file (a memory map, a zarr array), pieces
    of neighbouring rows are read in random order, eight batches at a time, and shuffled: no more is
    held in memory, and no row is read twice in a pass.

    Parameters
    ----------
    x : array of shape (n, width)
        Samples; anything with `shape`, `dtype` and rows to slice.
    seed : int
        Of the order.
    rows : ndarray of int or None
        Rows to use, ascending; None uses all.
    n_held_out : int
        Samples to keep out of the batches.
    in_memory : bool
        Whether rows can be drawn one by one.
    """

    def __init__(
        self,
        x: Any,
        seed: int,
        *,
        rows: NDArray[np.intp] | None = None,
        n_held_out: int = 0,
        in_memory: bool = True,
    ) -> None:
        self._x = x
        self._seed = seed
        self._in_memory = in_memory
        self.width = int(x.shape[1])
        n = int(x.shape[0]) if rows is None else len(rows)
        self._rows = rows
        self._held_rows = np.sort(_generator(seed, 0).choice(n, n_held_out, replace=False))
        self.held_out = self._read(self._held_rows)
        self.n_samples: int | None = n - n_held_out
        self._n = n
        self._epoch: tuple[int, NDArray[np.intp]] | None = None
        self._window: tuple[tuple[int, int], NDArray[Any]] | None = None

    def batch(self, step: int, size: int) -> NDArray[np.float32]:
        """See `Batches.batch`."""
        assert self.n_samples is not None
        size = min(size, self.n_samples)
        epoch, number = divmod(step, self.n_samples // size)
        if self._in_memory:
            if self._epoch is None or self._epoch[0] != epoch:
                kept = np.setdiff1d(np.arange(self._n), self._held_rows, assume_unique=True)
                self._epoch = (epoch, _generator(self._seed, 1, epoch).permutation(kept))
            # Neighbours in memory are read together.
            return self._read(np.sort(self._epoch[1][number * size : (number + 1) * size]))
        window, place = divmod(number, _WINDOW_BATCHES)
        if self._window is None or self._window[0] != (epoch, window):
            self._window = ((epoch, window), self._read_window(epoch, window, size))
        samples = self._window[1][place * size : (place + 1) * size]
        return _finite(np.ascontiguousarray(samples, dtype=np.float32))

    def first(self, count: int) -> NDArray[np.float32]:
        """See `Batches.first`."""
        return self._random(count, 2)

    def drawn(self, count: int) -> NDArray[np.float32]:
        """See `Batches.drawn`."""
        return self._random(count, 3)

    def fingerprint(self) -> str:
        """See `Batches.fingerprint`."""
        some = np.unique(np.linspace(0, self._n - 1, _FINGERPRINT_ROWS).astype(np.intp))
        return _hash((self._n, self.width), self._read(some, check=False))

    def _random(self, count: int, purpose: int) -> NDArray[np.float32]:
        kept = np.setdiff1d(np.arange(self._n), self._held_rows, assume_unique=True)
        rng = _generator(self._seed, purpose)
        if self._in_memory or count >= len(kept):
            rows = kept if count >= len(kept) else rng.choice(kept, count, replace=False)
            return self._read(np.sort(rows))
        # Single rows of a file are slow to read: short runs of them are nearly as good.
        run = max(1, min(64, len(kept) // 64, count // 16))
        starts = rng.choice(len(kept) // run, -(-count // run), replace=False) * run
        places = (np.sort(starts)[:, None] + np.arange(run)).ravel()
        return self._read(kept[places])[:count]

    def _read(self, places: NDArray[np.intp], *, check: bool = True) -> NDArray[np.float32]:
        """Rows in ascending order, as float32."""
        rows = places if self._rows is None else self._rows[places]
        if self._in_memory:
            return np.asarray(self._x[rows], dtype=np.float32)
        samples = self._gather(rows).astype(np.float32)
        return _finite(samples) if check else samples

    def _gather(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Rows of the file in ascending order; close ones are read in one piece."""
        out = np.empty((len(rows), self.width), dtype=self._x.dtype)
        breaks = np.flatnonzero(np.diff(rows) > _GAP_ROWS) + 1
        edges = [0, *breaks.tolist(), len(rows)]
        for start, stop in itertools.pairwise(edges):
            if stop > start:
                low = int(rows[start])
                piece = np.asarray(self._x[low : int(rows[stop - 1]) + 1])
                out[start:stop] = piece[rows[start:stop] - low]
        return out

    def _read_window(self, epoch: int, window: int, size: int) -> NDArray[Any]:
        """Pieces of the file, shuffled together, in the dtype of the file."""
        piece = min(self._piece_rows(), max(1, size))
        n_pieces = -(-self._n // piece)
        order = _generator(self._seed, 4, epoch).permutation(n_pieces)
        skipped, wanted = window * _WINDOW_BATCHES * size, _WINDOW_BATCHES * size
        kept: list[NDArray[Any]] = []
        n_kept = passed = 0
        for number in order:
            places = np.arange(number * piece, min((number + 1) * piece, self._n))
            places = np.setdiff1d(places, self._held_rows, assume_unique=True)
            if passed + len(places) > skipped:
                places = places[max(0, skipped - passed) :][: wanted - n_kept]
                rows = places if self._rows is None else self._rows[places]
                if len(rows):
                    kept.append(self._gather(rows))
                    n_kept += len(rows)
                passed = max(passed, skipped)
            else:
                passed += len(places)
            if n_kept >= wanted:
                break
        samples = np.concatenate(kept)
        return samples[_generator(self._seed, 5, epoch, window).permutation(len(samples))]

    def _piece_rows(self) -> int:
        chunks = getattr(self._x, "chunks", None)
        first = chunks[0] if chunks else _PIECE_ROWS
        # dask tells the size of every chunk, zarr that of all of them.
        return int(first[0] if isinstance(first, tuple) else first)


class StreamBatches:
    """Samples from an iterable of matrices, in the order in which they come.

    Parameters
    ----------
    stream : iterable of array of shape (n, width)
        Batches of any sizes, shuffled by whoever makes them. If it can be iterated over again, it
        is, as often as the fit needs.
    n_kept : int
        Latest samples to keep in memory for the end.
    n_held_out : int
        Samples to take from the beginning and never learn from.
    once : bool
        Whether to stop at the end also of an iterable that could be iterated over again.
    """

    def __init__(
        self, stream: Iterable[Any], *, n_kept: int, n_held_out: int = 0, once: bool = False
    ) -> None:
        self._stream = stream
        self._again = not once and iter(stream) is not stream
        self._n_held_out = n_held_out
        self._n_kept = n_kept
        self._number = 0
        self._ended = False
        self._next_step = 0
        self._latest: deque[NDArray[Any]] = deque()
        self._buffer: list[NDArray[Any]] = []
        self._current: Iterator[Any] = iter(stream)
        self.n_samples: int | None = None
        self.width = 0
        if not self._fill(1):
            raise MicrodlError("The iterable gave no samples: pass one that gives batches.")
        begun = self._take(n_held_out)
        self.held_out = np.asarray(begun, dtype=np.float32)
        self._hash = _hash((self.width,), np.asarray(self._buffered()[:_FINGERPRINT_ROWS]))

    def batch(self, step: int, size: int) -> NDArray[np.float32]:
        """See `Batches.batch`."""
        samples = self._take(size)
        while self._next_step < step and len(samples):
            self._remember(samples)
            self._next_step += 1
            samples = self._take(size)
        # What is left at the end of a stream is too little to move the atoms by.
        if len(samples) < size:
            raise EndOfSamplesError
        self._next_step += 1
        self._remember(samples)
        return np.ascontiguousarray(samples, dtype=np.float32)

    def first(self, count: int) -> NDArray[np.float32]:
        """See `Batches.first`: the samples that the first batches are made of."""
        self._fill(count)
        return np.asarray(self._buffered()[:count], dtype=np.float32)

    def drawn(self, count: int) -> NDArray[np.float32]:
        """See `Batches.drawn`."""
        if not self._latest:
            return np.empty((0, self.width), dtype=np.float32)
        return np.concatenate(self._latest).astype(np.float32)[-count:]

    def fingerprint(self) -> str:
        """See `Batches.fingerprint`."""
        return self._hash

    def _remember(self, samples: NDArray[Any]) -> None:
        self._latest.append(samples)
        while sum(map(len, self._latest)) - len(self._latest[0]) >= self._n_kept:
            self._latest.popleft()

    def _buffered(self) -> NDArray[Any]:
        if len(self._buffer) > 1:
            self._buffer = [np.concatenate(self._buffer)]
        return self._buffer[0] if self._buffer else np.empty((0, self.width), dtype=np.float32)

    def _take(self, count: int) -> NDArray[Any]:
        self._fill(count)
        samples = self._buffered()
        self._buffer = [samples[count:]]
        return samples[:count]

    def _fill(self, count: int) -> bool:
        """Read until `count` samples are there; False where the stream ends before."""
        n = sum(map(len, self._buffer))
        begun_again = False
        held_out = 0
        while n < count and not self._ended:
            try:
                batch = next(self._current)
            except StopIteration:
                # An iterable that gives nothing when begun again is at its end.
                if not self._again or begun_again:
                    self._ended = True
                    break
                begun_again = True
                held_out = self._n_held_out
                self._current = iter(self._stream)
                continue
            samples = self._checked(batch)[held_out:]
            held_out = max(0, held_out - len(batch))
            begun_again = begun_again and not len(samples)
            self._buffer.append(samples)
            n += len(samples)
        return n >= count

    def _checked(self, batch: Any) -> NDArray[Any]:
        self._number += 1
        samples = np.asarray(batch)
        if samples.dtype.kind not in "fiu":
            samples = samples.astype(np.float32)
        if samples.ndim != 2 or (self.width and samples.shape[1] != self.width):
            wanted = f"(n, {self.width})" if self.width else "(n, features)"
            raise MicrodlError(
                f"Batch {self._number} has the shape {samples.shape} but must have {wanted}: "
                "one sample a row, all of the same width."
            )
        self.width = samples.shape[1]
        try:
            require_finite(samples)
        except MicrodlError as error:
            raise MicrodlError(f"Batch {self._number}: {error}") from None
        return samples


def is_store(x: Any) -> bool:
    """Whether samples lie in a file or a chunked array, to be read piece by piece.

    Parameters
    ----------
    x : object
        Samples.

    Returns
    -------
    bool
        True for memory maps and for arrays such as those of zarr and dask.
    """
    if isinstance(x, np.memmap) or isinstance(getattr(x, "base", None), np.memmap):
        return True
    if isinstance(x, np.ndarray) or not all(hasattr(x, a) for a in ("shape", "dtype", "chunks")):
        return False
    return hasattr(x, "__getitem__")


def is_stream(x: Any) -> bool:
    """Whether samples come as an iterable of batches.

    Parameters
    ----------
    x : object
        Samples.

    Returns
    -------
    bool
        True for generators, loaders, and lists of matrices.
    """
    if isinstance(x, (list, tuple)):
        return bool(x) and getattr(x[0], "ndim", 0) == 2
    known = any(hasattr(x, a) for a in ("shape", "__array__", "__dataframe__", "tocsr"))
    return isinstance(x, Iterable) and not known and not isinstance(x, (str, bytes, dict))


def _generator(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, *purpose]))


def _finite(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    require_finite(samples)
    return samples


def _hash(sizes: tuple[int, ...], samples: NDArray[Any]) -> str:
    digest = hashlib.sha256(repr(sizes).encode())
    digest.update(np.ascontiguousarray(samples, dtype=np.float32).tobytes())
    return digest.hexdigest()
