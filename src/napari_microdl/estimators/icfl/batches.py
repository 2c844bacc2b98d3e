"""Where samples come from: arrays, files larger than memory, and streams of batches."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.arrays import require_finite
from napari_microdl.core.errors import MicrodlError

# Batches that are read from a file and shuffled at a time.
_WINDOW_BATCHES = 8
# Rows that are read from a file in one piece, where it does not say how it is divided.
_PIECE_ROWS = 1024
# Unused rows that are read along rather than skipped.
_GAP_ROWS = 8
_FINGERPRINT_ROWS = 64


# What a stream gives that has no more batches.
_NO_MORE: Any = object()


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
            Counted from 0; of a stream, the one after that of the call before.
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
            If a sample is not finite, or of another width, or a stream has too few for one step.
        """

    def skip_to(self, step: int, size: int) -> None:
        """Pass over the samples of the steps before one, which were done in another run."""

    def first(self, count: int) -> NDArray[np.float32]:
        """At most so many samples to begin with."""

    def n_drawn(self, count: int) -> int:
        """How many samples there are to end with, at most so many."""

    def drawn(self, count: int, size: int) -> Iterator[NDArray[np.float32]]:
        """Samples to end with, a piece at a time.

        Parameters
        ----------
        count : int
            How many.
        size : int
            Rows of a piece; the last may have fewer.

        Yields
        ------
        ndarray of float32, shape (size, width)
            From all samples; of a stream, the latest.

        Raises
        ------
        MicrodlError
            If a sample is not finite.
        """

    def fingerprint(self) -> str:
        """A hash that tells whether another run had the same samples."""


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
        self._n = n
        self._n_left = n - n_held_out
        self.n_samples: int | None = self._n_left
        # Places are counted among the rows to use.
        self._held = self._choose(n, n_held_out, 0)
        self.held_out = self._read(self._held)
        self._epoch: tuple[int, NDArray[np.intp]] | None = None
        self._window: tuple[tuple[int, int], NDArray[Any]] | None = None

    def batch(self, step: int, size: int) -> NDArray[np.float32]:
        """See `Batches.batch`."""
        size = min(size, self._n_left)
        epoch, number = divmod(step, self._n_left // size)
        if self._in_memory:
            if self._epoch is None or self._epoch[0] != epoch:
                self._epoch = (epoch, _generator(self._seed, 1, epoch).permutation(self._n_left))
            # Neighbours in memory are read together.
            numbers = np.sort(self._epoch[1][number * size : (number + 1) * size])
            return self._read(self._places(numbers))
        window, place = divmod(number, _WINDOW_BATCHES)
        if self._window is None or self._window[0] != (epoch, window):
            self._window = None
            self._window = ((epoch, window), self._read_window(epoch, window, size))
        samples = self._window[1][place * size : (place + 1) * size]
        return np.ascontiguousarray(samples, dtype=np.float32)

    def skip_to(self, step: int, size: int) -> None:
        """See `Batches.skip_to`: any step can be next."""

    def first(self, count: int) -> NDArray[np.float32]:
        """See `Batches.first`."""
        return self._read(self._random(count, 2))

    def n_drawn(self, count: int) -> int:
        """See `Batches.n_drawn`."""
        return min(count, self._n_left)

    def drawn(self, count: int, size: int) -> Iterator[NDArray[np.float32]]:
        """See `Batches.drawn`."""
        self._window = None
        places = self._random(count, 3)
        # A chunk of the file is read once for all of its pieces.
        n_read = -(-max(size, self._piece_rows()) // size) * size
        for start in range(0, len(places), n_read):
            samples = self._read(places[start : start + n_read])
            for low in range(0, len(samples), size):
                yield samples[low : low + size]

    def fingerprint(self) -> str:
        """See `Batches.fingerprint`."""
        some = np.unique(np.linspace(0, self._n - 1, _FINGERPRINT_ROWS).astype(np.intp))
        return _hash((self._n, len(self._held), self.width), self._read(some))

    def _places(self, numbers: NDArray[np.intp]) -> NDArray[np.intp]:
        """Places of samples that are counted without the held-out ones."""
        # Before the held-out place h(i) lie h(i) - i samples to learn from.
        before = self._held - np.arange(len(self._held))
        return numbers + np.searchsorted(before, numbers, side="right")

    def _random(self, count: int, purpose: int) -> NDArray[np.intp]:
        """Places of samples to learn from, ascending."""
        return self._places(self._choose(self._n_left, min(count, self._n_left), purpose))

    def _choose(self, n: int, count: int, purpose: int) -> NDArray[np.intp]:
        """Draw numbers below n, ascending."""
        rng = _generator(self._seed, purpose)
        if self._in_memory or count > n // 2:
            return np.sort(rng.choice(n, count, replace=False))
        # Single rows of a file are slow to read: short runs of them are nearly as good.
        run = max(1, min(64, n // 64, count // 16))
        starts = np.sort(rng.choice(n // run, -(-count // run), replace=False)) * run
        return (starts[:, None] + np.arange(run)).ravel()[:count]

    def _read(self, places: NDArray[np.intp]) -> NDArray[np.float32]:
        """Samples at ascending places, as float32."""
        if self._in_memory:
            rows = places if self._rows is None else self._rows[places]
            return np.asarray(self._x[rows], dtype=np.float32)
        out = np.empty((len(places), self.width), dtype=np.float32)
        step = max(_PIECE_ROWS, self._piece_rows())
        for start in range(0, len(places), step):
            out[start : start + step] = self._gather(places[start : start + step])
        return out

    def _gather(self, places: NDArray[np.intp]) -> NDArray[Any]:
        """Samples at ascending places of the file, checked; close ones are read in one piece."""
        rows = places if self._rows is None else self._rows[places]
        out = np.empty((len(rows), self.width), dtype=_narrow(self._x.dtype))
        if self._chunk_rows() is None:
            far = np.diff(rows) > _GAP_ROWS
        else:
            # A chunk is read as a whole for each of its rows.
            far = np.diff(rows // self._piece_rows()) > 0
        for start, stop in itertools.pairwise([0, *(np.flatnonzero(far) + 1).tolist(), len(rows)]):
            if stop > start:
                low = int(rows[start])
                piece = np.asarray(self._x[low : int(rows[stop - 1]) + 1])
                with np.errstate(over="ignore"):
                    out[start:stop] = piece[rows[start:stop] - low]
        wrong = np.flatnonzero(~np.isfinite(out).all(axis=1))
        if len(wrong):
            raise MicrodlError(
                f"Row {rows[wrong[0]]} of the samples holds NaN or infinity: remove or repair it "
                "first."
            )
        return out

    def _read_window(self, epoch: int, window: int, size: int) -> NDArray[Any]:
        """Pieces of the file, shuffled together, as narrow as in the file."""
        piece = min(self._piece_rows(), size)
        edges = np.minimum(np.arange(-(-self._n // piece) + 1) * piece, self._n)
        numbers = edges - np.searchsorted(self._held, edges)
        order = _generator(self._seed, 4, epoch).permutation(len(edges) - 1)
        n_samples = np.diff(numbers)[order]
        # How many samples the pass has seen when it comes to a piece.
        passed = n_samples.cumsum() - n_samples
        wanted = _WINDOW_BATCHES * size
        low = np.clip(window * wanted - passed, 0, n_samples)
        high = np.clip((window + 1) * wanted - passed, 0, n_samples)
        n_read = int((high - low).sum())
        where = _generator(self._seed, 5, epoch, window).permutation(n_read)
        samples = np.empty((n_read, self.width), dtype=_narrow(self._x.dtype))
        done = 0
        for i in np.flatnonzero(high > low):
            part = self._gather(self._places(numbers[order[i]] + np.arange(low[i], high[i])))
            samples[where[done : done + len(part)]] = part
            done += len(part)
        return samples

    def _chunk_rows(self) -> int | None:
        chunks = getattr(self._x, "chunks", None)
        if not chunks:
            return None
        # dask tells the size of every chunk, zarr that of all of them.
        return int(chunks[0][0] if isinstance(chunks[0], tuple) else chunks[0])

    def _piece_rows(self) -> int:
        return self._chunk_rows() or _PIECE_ROWS


class StreamBatches:
    """Samples from an iterable of matrices, in the order in which they come.

    Parameters
    ----------
    stream : iterable of array of shape (n, width)
        Batches of any sizes, shuffled by whoever makes them. If it can be iterated over again, it
        is, as often as the fit needs.
    n_latest : int
        Latest samples to keep in memory for the end.
    n_held_out : int
        Samples to take from the beginning and never learn from.
    once : bool
        Whether to stop at the end also of an iterable that could be iterated over again.
    """

    def __init__(
        self, stream: Iterable[Any], *, n_latest: int, n_held_out: int = 0, once: bool = False
    ) -> None:
        self._stream = stream
        self._again = not once and iter(stream) is not stream
        self._n_held_out = n_held_out
        self._n_latest = n_latest
        self._number = 0
        self._ended = False
        self._step = 0
        self._latest: deque[NDArray[Any]] = deque()
        self._buffer: list[NDArray[Any]] = []
        self._current: Iterator[Any] = iter(stream)
        self.n_samples: int | None = None
        self.width = 0
        self._fill(_FINGERPRINT_ROWS)
        begun = self._buffered()
        if not len(begun):
            raise MicrodlError("The iterable gave no samples: pass one that gives batches.")
        self._hash = _hash((n_held_out, self.width), begun[:_FINGERPRINT_ROWS])
        self.held_out = self._take(n_held_out).astype(np.float32)

    def batch(self, step: int, size: int) -> NDArray[np.float32]:
        """See `Batches.batch`."""
        assert step == self._step
        samples = self._take(size)
        # What is left at the end of a stream is too little to move the atoms by.
        if len(samples) < size:
            if step == 0:
                raise MicrodlError(
                    f"The iterable has too few samples for one step: {self._n_held_out} are held "
                    f"out and a batch has {size}, so pass more or set a smaller batch_size."
                )
            raise EndOfSamplesError
        self._step += 1
        self._remember(samples)
        return np.ascontiguousarray(samples, dtype=np.float32)

    def skip_to(self, step: int, size: int) -> None:
        """See `Batches.skip_to`."""
        while self._step < step:
            try:
                self.batch(self._step, size)
            except EndOfSamplesError:
                raise MicrodlError(
                    f"The iterable ended after {self._step} of the {step} batches that were used "
                    "already: pass the one that the fit was begun with, from its beginning."
                ) from None

    def first(self, count: int) -> NDArray[np.float32]:
        """See `Batches.first`: the samples that the first batches are made of."""
        self._fill(count)
        return np.asarray(self._buffered()[:count], dtype=np.float32)

    def n_drawn(self, count: int) -> int:
        """See `Batches.n_drawn`."""
        return min(count, sum(map(len, self._latest)))

    def drawn(self, count: int, size: int) -> Iterator[NDArray[np.float32]]:
        """See `Batches.drawn`."""
        skipped = sum(map(len, self._latest)) - self.n_drawn(count)
        piece = np.empty((0, self.width), dtype=np.float32)
        for samples in self._latest:
            piece = np.concatenate([piece, samples[skipped:]], dtype=np.float32)
            skipped = max(0, skipped - len(samples))
            while len(piece) >= size:
                yield piece[:size]
                piece = piece[size:]
        if len(piece):
            yield piece

    def fingerprint(self) -> str:
        """See `Batches.fingerprint`."""
        return self._hash

    def _remember(self, samples: NDArray[Any]) -> None:
        self._latest.append(samples)
        while sum(map(len, self._latest)) - len(self._latest[0]) >= self._n_latest:
            self._latest.popleft()

    def _buffered(self) -> NDArray[Any]:
        if len(self._buffer) > 1:
            self._buffer = [np.concatenate(self._buffer)]
        return self._buffer[0] if self._buffer else np.empty((0, self.width), dtype=np.float32)

    def _take(self, count: int) -> NDArray[Any]:
        self._fill(count)
        samples = self._buffered()
        self._buffer = [samples[count:]] if len(samples) > count else []
        return samples[:count]

    def _fill(self, count: int) -> bool:
        """Read until `count` samples are there; False where the stream ends before."""
        n = sum(map(len, self._buffer))
        begun_again = False
        held_out = 0
        while n < count and not self._ended:
            batch = next(self._current, _NO_MORE)
            if batch is _NO_MORE:
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
        try:
            given = np.asarray(batch)
            if given.dtype.kind not in "fiubO":
                raise TypeError(f"values of type {given.dtype}")
            with np.errstate(over="ignore"):
                # A copy, because who makes the batches may fill the same array again.
                samples = np.array(given, dtype=_narrow(given.dtype), order="C")
        except (TypeError, ValueError, RuntimeError) as error:
            raise MicrodlError(
                f"Batch {self._number} is no matrix of numbers: give an array with one sample a "
                "row."
            ) from error
        width = samples.shape[1] if samples.ndim == 2 else 0
        if width == 0 or (self.width and width != self.width):
            wanted = f"(n, {self.width})" if self.width else "(n, features)"
            raise MicrodlError(
                f"Batch {self._number} has the shape {samples.shape} but must have {wanted}: "
                "one sample a row, all of the same width."
            )
        self.width = width
        try:
            require_finite(samples)
        except MicrodlError as error:
            raise MicrodlError(f"Batch {self._number}: {error}") from None
        return samples


def is_store(x: Any) -> bool:
    """Whether samples are a memory map or an array (zarr, dask) that is read by pieces."""
    if isinstance(x, np.memmap) or isinstance(getattr(x, "base", None), np.memmap):
        return True
    if isinstance(x, np.ndarray) or not all(hasattr(x, a) for a in ("shape", "dtype", "chunks")):
        return False
    return hasattr(x, "__getitem__")


def is_stream(x: Any) -> bool:
    """Whether samples come as batches: a generator, a loader, or a list of matrices."""
    if isinstance(x, (list, tuple)):
        return bool(x) and getattr(x[0], "ndim", 0) == 2
    known = any(hasattr(x, a) for a in ("shape", "__array__", "__dataframe__", "tocsr"))
    return isinstance(x, Iterable) and not known and not isinstance(x, (str, bytes, dict))


def _generator(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, *purpose]))


def _narrow(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Type that holds samples until they are used: float32, or a narrower one as it is."""
    return dtype if dtype.itemsize <= 2 else np.dtype(np.float32)


def _hash(sizes: tuple[int, ...], samples: NDArray[Any]) -> str:
    digest = hashlib.sha256(repr(sizes).encode())
    digest.update(np.ascontiguousarray(samples, dtype=np.float32).tobytes())
    return digest.hexdigest()
