"""Coding many samples with one dictionary: which kernel, how many rows at a time, which cores."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from napari_microdl.errors import MicrodlError
from napari_microdl.pursuit import tensors
from napari_microdl.pursuit.kernels import compiled_module
from napari_microdl.pursuit.options import METHODS, Method, PursuitOptions

if TYPE_CHECKING:
    import torch

# Numbers held at a time in the largest intermediate array; 16 MB in float32 stay near the cache.
_CHUNK_NUMBERS = 1 << 22
_CHUNK_ROWS = 1024
# Below this many rows a second thread costs more than it brings.
_ROWS_PER_THREAD = 32
# Edge of the blocks by which a triangle is mirrored.
_MIRROR_ROWS = 256
_COMPILED = "napari_microdl.pursuit.compiled"


class Coder:
    """Codes samples in one dictionary.

    Parameters
    ----------
    atoms : torch.Tensor of shape (n_atoms, n_features)
        Dictionary, float32 or float64, on any device. Not to be changed while the coder is used.
    options : PursuitOptions
        How to code.
    method : {"auto", "compiled", "gram", "residual"}
        See `napari_microdl.pursuit.matching_pursuit`.
    chunk_size : int or None
        Samples coded at a time. None takes a size that suits the processor's cache.
    n_expected : int
        Samples that will be coded in all, as far as is known: for many the atoms' Gram matrix pays.

    Raises
    ------
    MicrodlError
        If the method is not known or cannot be used here.
    """

    def __init__(
        self,
        atoms: torch.Tensor,
        options: PursuitOptions,
        *,
        method: Method = "auto",
        chunk_size: int | None = None,
        n_expected: int = 0,
    ) -> None:
        if method not in METHODS:
            raise MicrodlError(
                f"method is {method!r} but must be one of {', '.join(map(repr, METHODS))}."
            )
        on_processor = atoms.device.type == "cpu" and compiled_module(_COMPILED) is not None
        if method == "compiled" and not on_processor:
            raise MicrodlError(
                "method='compiled' needs the package numba and a dictionary on the processor: "
                "install numba, or pass method='auto'."
            )
        self.atoms = atoms
        self.options = options
        self.chunk_size = chunk_size
        self._method = method
        self._through_gram = "compiled" if on_processor else "gram"
        self._gram: torch.Tensor | None = None
        self._n_expected = n_expected
        self._n_coded = 0

    def code(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sparse codes.

        Parameters
        ----------
        x : torch.Tensor of shape (n_samples, n_features)
            Samples, of the dtype and on the device of the atoms.

        Returns
        -------
        indices : torch.Tensor of int64, shape (n_samples, n_picks)
            Picked atoms; n_picks is below J * L where the atoms ran out.
        values : torch.Tensor of shape (n_samples, n_picks)
            Coefficients.
        """
        import torch

        n_picks = self.options.blocks(len(self.atoms))[-1][1]
        indices = torch.empty((len(x), n_picks), dtype=torch.int64, device=x.device)
        values = torch.empty((len(x), n_picks), dtype=x.dtype, device=x.device)
        for rows, picks, coefficients in self.chunks(x):
            indices[rows] = picks
            values[rows] = coefficients
        return indices, values

    def code_array(self, x: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Sparse codes of an array.

        Parameters
        ----------
        x : ndarray of shape (n_samples, n_features)
            Contiguous samples of the dtype of the atoms.

        Returns
        -------
        indices : ndarray of int32, shape (n_samples, J * L)
            Picked atoms; -1 where the atoms ran out.
        values : ndarray of shape (n_samples, J * L)
            Coefficients; 0 where the atoms ran out.
        """
        indices = np.full((len(x), self.options.n_picks), -1, dtype=np.int32)
        values = np.zeros(indices.shape, dtype=x.dtype)
        samples = tensors.as_tensor(x, self.atoms.device)
        for rows, picks, coefficients in self.chunks(samples):
            indices[rows, : picks.shape[1]] = picks.cpu().numpy()
            values[rows, : picks.shape[1]] = coefficients.cpu().numpy()
        return indices, values

    def chunks(self, x: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Codes chunk by chunk, so that memory does not grow with the number of samples.

        Parameters
        ----------
        x : torch.Tensor of shape (n_samples, n_features)
            Samples.

        Yields
        ------
        rows : slice
            Which samples.
        indices, values : torch.Tensor
            As `code` returns.
        """
        method = self._choose(len(x))
        if method != "residual" and self._gram is None:
            self._gram = _gram(self.atoms)
        size = self.chunk_size or self._chunk_rows(method, x.device.type)
        if method == "compiled":
            yield from self._compiled_chunks(x, size)
            return
        blocks = self.options.blocks(len(self.atoms))
        for start in range(0, len(x), size):
            rows = slice(start, min(start + size, len(x)))
            gram = None if method == "residual" else self._gram
            yield rows, *tensors.pursue(x[rows], self.atoms, gram, blocks, self.options)

    def _choose(self, n_samples: int) -> Method:
        self._n_coded += n_samples
        if self._method != "auto":
            return self._method
        # Products of samples and atoms that one Gram matrix saves, so far, against those it costs.
        saved = 2 * max(self._n_coded, self._n_expected) * (self.options.n_iterations - 1)
        if self._gram is not None or saved > len(self.atoms):
            return self._through_gram  # type: ignore[return-value]
        return "residual"

    def _chunk_rows(self, method: Method, device: str) -> int:
        n_atoms, n_features = self.atoms.shape
        n_picks = self.options.n_picks
        widest = n_atoms
        if method != "compiled":
            widest = max(n_atoms, n_picks * (n_features if method == "residual" else n_picks))
        # An accelerator needs more work at a time than a processor's cache holds.
        scale = 1 if device == "cpu" else 16
        return max(1, min(_CHUNK_ROWS * scale, _CHUNK_NUMBERS * scale // widest))

    def _compiled_chunks(
        self, x: torch.Tensor, size: int
    ) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        import torch

        assert self._gram is not None
        compiled = compiled_module(_COMPILED)
        options = self.options
        samples, transposed, gram = x.numpy(), self.atoms.numpy().T, self._gram.numpy()
        n_atoms = len(gram)
        n_picks = options.blocks(n_atoms)[-1][1]
        n_threads = torch.get_num_threads()
        products = np.empty((min(size, len(x)), n_atoms), dtype=gram.dtype)
        settings = (
            min(options.atoms_per_iteration, n_atoms),
            {"block": compiled.BLOCK, "full": compiled.FULL, "final": compiled.FINAL}[
                options.refit
            ],
            options.selection == "absolute",
            options.allow_repeats,
            options.positive_code or None,
            tensors.DEPENDENT[gram.itemsize],
        )
        with ThreadPoolExecutor(max(1, n_threads - 1)) as pool:
            for start in range(0, len(x), size):
                rows = slice(start, min(start + size, len(x)))
                n = rows.stop - rows.start
                picks = np.empty((n, n_picks), dtype=np.int64)
                values = np.empty((n, n_picks), dtype=gram.dtype)
                with _blas().limit(limits=n_threads, user_api="blas"):
                    np.matmul(samples[rows], transposed, out=products[:n])

                def work(
                    first: int,
                    last: int,
                    picks: NDArray[Any] = picks,
                    values: NDArray[Any] = values,
                ) -> None:
                    memory = compiled.scratch(n_atoms, n_picks, gram.dtype)
                    compiled.pursue_rows(
                        products, gram, first, last, *settings, picks, values, *memory
                    )

                parts = max(1, min(n_threads, n // _ROWS_PER_THREAD))
                edges = [n * i // parts for i in range(parts + 1)]
                others = [pool.submit(work, edges[i], edges[i + 1]) for i in range(1, parts)]
                work(edges[0], edges[1])
                for other in others:
                    other.result()
                yield rows, torch.from_numpy(picks), torch.from_numpy(values)


def _gram(atoms: torch.Tensor) -> torch.Tensor:
    import torch

    if atoms.device.type != "cpu":
        return atoms @ atoms.T
    from scipy.linalg import get_blas_funcs

    w = atoms.numpy()
    (syrk,) = get_blas_funcs(("syrk",), (w,))
    with _blas().limit(limits=torch.get_num_threads(), user_api="blas"):
        # One triangle, which is half of the work; numpy would take as long to copy it to the other.
        gram = syrk(1.0, w.T, trans=1, lower=1).T
    for start in range(0, len(gram), _MIRROR_ROWS):
        rows = slice(start, start + _MIRROR_ROWS)
        corner = gram[rows, rows]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T
        for other in range(start + _MIRROR_ROWS, len(gram), _MIRROR_ROWS):
            columns = slice(other, other + _MIRROR_ROWS)
            gram[columns, rows] = gram[rows, columns].T
    return torch.from_numpy(gram)


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    """The linear algebra libraries that are loaded: looking for them takes a while."""
    return ThreadpoolController()
