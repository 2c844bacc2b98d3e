"""The compiled kernels with what they need of a dictionary, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_microdl.estimators.pursuit import compiled, quantized
from napari_microdl.estimators.pursuit.options import PursuitOptions
from napari_microdl.estimators.pursuit.rounding import RoundedProducts
from napari_microdl.estimators.pursuit.threads import limited_blas, share_rows
from napari_microdl.estimators.pursuit.torch_backend import (
    DEPENDENT,
    gram_matrix,
    rounded_gram_matrix,
)

if TYPE_CHECKING:
    import torch

_REFITS = {"block": compiled.BLOCK, "full": compiled.FULL, "final": compiled.FINAL}


class Kernel(Protocol):
    """Codes samples in one dictionary, from their inner products with all atoms."""

    def products(self, x: torch.Tensor, out: NDArray[Any]) -> None:
        """Write the inner products of samples with all atoms, as exact as the kernel needs them."""

    def pursue(
        self,
        x: torch.Tensor,
        products: NDArray[Any],
        picks: NDArray[np.int64],
        values: NDArray[Any],
        first: int,
        last: int,
    ) -> None:
        """Write picks and values of the rows from `first` to before `last`; spoils the products."""


class ExactKernel:
    """Picks and solves through the atoms' Gram matrix."""

    def __init__(self, atoms: torch.Tensor, options: PursuitOptions) -> None:
        self._transposed = atoms.numpy().T
        self._gram = gram_matrix(atoms).numpy()
        self._settings = (*_settings(options, len(atoms)), DEPENDENT[atoms.element_size()])

    def products(self, x: torch.Tensor, out: NDArray[Any]) -> None:
        """Exact inner products."""
        with limited_blas():
            np.matmul(x.numpy(), self._transposed, out=out)

    def pursue(
        self,
        x: torch.Tensor,
        products: NDArray[Any],
        picks: NDArray[np.int64],
        values: NDArray[Any],
        first: int,
        last: int,
    ) -> None:
        """Code rows from their products alone."""
        memory = compiled.scratch(products.shape[1], picks.shape[1], products.dtype)
        compiled.pursue_rows(
            products, self._gram, first, last, *self._settings, picks, values, *memory
        )


class QuantizedKernel:
    """Picks by rounded products and a rounded Gram matrix, solves by the samples themselves."""

    def __init__(self, atoms: torch.Tensor, options: PursuitOptions) -> None:
        self._atoms = atoms.numpy()
        self._lengths = np.einsum("md,md->m", self._atoms, self._atoms)
        self._products = RoundedProducts(atoms)
        self._gram = rounded_gram_matrix(atoms)
        self._settings = (*_settings(options, len(atoms)), quantized.DEPENDENT)

    def products(self, x: torch.Tensor, out: NDArray[Any]) -> None:
        """Inner products to about three digits."""
        self._products.write(x, out)

    def pursue(
        self,
        x: torch.Tensor,
        products: NDArray[Any],
        picks: NDArray[np.int64],
        values: NDArray[Any],
        first: int,
        last: int,
    ) -> None:
        """Code rows, picking by their products and solving by the samples."""
        memory = quantized.scratch(products.shape[1], x.shape[1], picks.shape[1])
        quantized.pursue_rows(
            x.numpy(), products, self._atoms, self._lengths, *self._gram, first, last,
            *self._settings, picks, values, *memory,
        )  # fmt: skip


KERNELS: dict[str, Callable[[torch.Tensor, PursuitOptions], Kernel]] = {
    "compiled": ExactKernel,
    "quantized": QuantizedKernel,
}


def code_chunk(
    kernel: Kernel,
    x: torch.Tensor,
    products: NDArray[Any],
    n_picks: int,
    pool: ThreadPoolExecutor,
    n_threads: int,
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Codes of a few samples.

    Parameters
    ----------
    kernel : Kernel
        What codes.
    x : torch.Tensor of shape (n, n_features)
        Samples of the dtype of the atoms.
    products : ndarray of shape (n, n_atoms)
        Overwritten.
    n_picks : int
        Picks for a sample.
    pool : ThreadPoolExecutor
        Threads beside this one.
    n_threads : int
        This one and those of the pool that may work.

    Returns
    -------
    picks, values : ndarray of shape (n, n_picks)
    """
    picks = np.empty((len(x), n_picks), dtype=np.int64)
    values = np.empty((len(x), n_picks), dtype=products.dtype)
    kernel.products(x, products)
    share_rows(len(x), partial(kernel.pursue, x, products, picks, values), pool, n_threads)
    return picks, values


def _settings(options: PursuitOptions, n_atoms: int) -> tuple[Any, ...]:
    return (
        min(options.atoms_per_iteration, n_atoms),
        _REFITS[options.refit],
        options.selection == "absolute",
        options.allow_repeats,
        options.positive_code or None,
    )
