"""Inner products of samples with atoms in 8-bit integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from napari_microdl.estimators.pursuit.jit import multiplies_bytes

if TYPE_CHECKING:
    import torch

_MOST = 127
# A vector with a number larger than this share of its length is not rounded: its other numbers
# would be lost. Of normal numbers, in 256 dimensions and more, hardly any is.
_LARGEST_SHARE = 0.25


class RoundedProducts:
    """Inner products with the atoms of one dictionary, to about three digits.

    Samples and atoms are rounded to 8-bit integers, each by its own step, where the processor
    multiplies those fast and torch can make it; otherwise, and for vectors that hold single large
    numbers, the products are exact.

    Parameters
    ----------
    atoms : torch.Tensor of float32, shape (n_atoms, n_features)
        Dictionary on the processor.
    """

    def __init__(self, atoms: torch.Tensor) -> None:
        self._atoms = atoms
        self._steps: torch.Tensor | None = None
        product = _int8_product()
        if product is not None and not _is_uneven(atoms).any():
            self._product = product
            rounded, self._steps = _rounded(atoms)
            self._rounded = rounded.T

    def write(self, x: torch.Tensor, out: NDArray[Any]) -> None:
        """Write the inner products of float32 samples with all atoms."""
        import torch

        target = torch.from_numpy(out)
        if self._steps is None:
            torch.mm(x, self._atoms.T, out=target)
            return
        rounded, steps = _rounded(x)
        target.copy_(self._product(rounded, self._rounded))
        target.mul_(self._steps).mul_(steps[:, None])
        uneven = _is_uneven(x)
        if uneven.any():
            target[uneven] = x[uneven] @ self._atoms.T


def _int8_product() -> Any:
    """Product of two int8 matrices in int32, where it is fast; None elsewhere."""
    import torch

    # Not yet among what torch promises to keep, so it may be gone one day.
    return getattr(torch, "_int_mm", None) if multiplies_bytes() else None


def _rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    steps = x.abs().amax(dim=1).clamp_min(torch.finfo(x.dtype).tiny * _MOST) / _MOST
    return (x / steps[:, None]).round().to(torch.int8), steps


def _is_uneven(x: torch.Tensor) -> torch.Tensor:
    uneven: torch.Tensor = x.abs().amax(dim=1) > _LARGEST_SHARE * x.norm(dim=1)
    return uneven
