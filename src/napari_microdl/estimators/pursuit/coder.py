"""Coding many samples with one dictionary: which kernel, how many rows at a time, which cores."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.pursuit import torch_backend
from napari_microdl.estimators.pursuit.options import (
    METHODS,
    Method,
    PursuitOptions,
    compiled_module,
)
from napari_microdl.estimators.pursuit.torch_backend import gram_matrix

if TYPE_CHECKING:
    import torch

# Numbers held at a time in the largest intermediate array; 16 MB in float32 stay near the cache.
_CHUNK_NUMBERS = 1 << 22
_CHUNK_ROWS = 1024
_NUMBA_BACKEND = "napari_microdl.estimators.pursuit.numba_backend"
# Kernels that numba compiles.
_COMPILED = ("compiled", "quantized")


class Coder:
    """Codes samples in one dictionary.

    Parameters
    ----------
    atoms : torch.Tensor of shape (n_atoms, n_features)
        Dictionary, float32 or float64, on any device. Not to be changed while the coder is used.
    options : PursuitOptions
        How to code.
    method : {"auto", "compiled", "quantized", "gram", "residual"}
        See `napari_microdl.estimators.pursuit.matching_pursuit`.
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
        on_cpu = atoms.device.type == "cpu" and compiled_module(_NUMBA_BACKEND) is not None
        if method in _COMPILED and not on_cpu:
            raise MicrodlError(
                f"method={method!r} needs the package numba and a dictionary on the processor: "
                "install numba, or pass method='auto'."
            )
        if method == "quantized" and atoms.element_size() != 4:
            raise MicrodlError(
                "method='quantized' codes float32 samples: turn them to float32, or pass "
                "method='auto'."
            )
        if method == "quantized" and options.refit == "full":
            raise MicrodlError(
                "method='quantized' cannot solve for all picks in every iteration: pass "
                "refit='final', or method='auto'."
            )
        self.atoms = atoms
        self.options = options
        self.chunk_size = chunk_size
        self._method = method
        self._through_gram = "compiled" if on_cpu else "gram"
        # Made when first needed: the Gram matrix, or a kernel that holds one.
        self._gram: torch.Tensor | None = None
        self._kernel: Any = None
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
        samples = torch_backend.as_tensor(x, self.atoms.device)
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
        size = self.chunk_size or self._chunk_rows(method, x.device.type)
        if method in _COMPILED:
            yield from self._compiled_chunks(x, size, method)
            return
        if method == "gram" and self._gram is None:
            self._gram = gram_matrix(self.atoms)
        blocks = self.options.blocks(len(self.atoms))
        for start in range(0, len(x), size):
            rows = slice(start, min(start + size, len(x)))
            gram = None if method == "residual" else self._gram
            yield rows, *torch_backend.pursue(x[rows], self.atoms, gram, blocks, self.options)

    def _choose(self, n_samples: int) -> Method:
        self._n_coded += n_samples
        if self._method != "auto":
            return self._method
        # Products of samples and atoms that one Gram matrix saves, so far, against those it costs.
        saved = 2 * max(self._n_coded, self._n_expected) * (self.options.n_iterations - 1)
        made = self._gram is not None or self._kernel is not None
        if made or saved > len(self.atoms):
            return self._through_gram  # type: ignore[return-value]
        return "residual"

    def _chunk_rows(self, method: Method, device: str) -> int:
        n_atoms, n_features = self.atoms.shape
        n_picks = self.options.n_picks
        widest = n_atoms
        if method not in _COMPILED:
            widest = max(n_atoms, n_picks * (n_features if method == "residual" else n_picks))
        # An accelerator needs more work at a time than a processor's cache holds.
        scale = 1 if device == "cpu" else 16
        return max(1, min(_CHUNK_ROWS * scale, _CHUNK_NUMBERS * scale // widest))

    def _compiled_chunks(
        self, x: torch.Tensor, size: int, method: Method
    ) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        import torch

        backend = compiled_module(_NUMBA_BACKEND)
        if self._kernel is None:
            self._kernel = backend.KERNELS[method](self.atoms, self.options)
        n_atoms = len(self.atoms)
        n_picks = self.options.blocks(n_atoms)[-1][1]
        n_threads = torch.get_num_threads()
        products = np.empty((min(size, len(x)), n_atoms), dtype=x.numpy().dtype)
        with ThreadPoolExecutor(max(1, n_threads - 1)) as pool:
            for start in range(0, len(x), size):
                rows = slice(start, min(start + size, len(x)))
                n = rows.stop - rows.start
                picks, values = backend.code_chunk(
                    self._kernel, x[rows], products[:n], n_picks, pool, n_threads
                )
                yield rows, torch.from_numpy(picks), torch.from_numpy(values)
