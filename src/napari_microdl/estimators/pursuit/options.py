"""What a pursuit can be told, checked, and which of its code can be had compiled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal

from napari_microdl.core.config import Refit, Selection
from napari_microdl.core.errors import MicrodlError

Method = Literal["auto", "compiled", "quantized", "gram", "residual"]

METHODS = ("auto", "compiled", "quantized", "gram", "residual")


@dataclass(frozen=True)
class PursuitOptions:
    """How samples are coded; see `napari_microdl.estimators.pursuit.matching_pursuit`.

    Parameters
    ----------
    n_iterations, atoms_per_iteration : int
        J and L.
    selection : {"signed", "absolute"}
        What makes an atom the best.
    refit : {"block", "full", "final"}
        Which coefficients are solved for, and when.
    allow_repeats : bool
        Whether an atom may be picked again.
    positive_code : bool
        Whether coefficients may not be negative.

    Raises
    ------
    MicrodlError
        If a number is below 1, a choice is not known, or two of them contradict each other.
    """

    n_iterations: int
    atoms_per_iteration: int
    selection: Selection = "signed"
    refit: Refit = "block"
    allow_repeats: bool = True
    positive_code: bool = False

    def __post_init__(self) -> None:
        for name in ("n_iterations", "atoms_per_iteration"):
            if getattr(self, name) < 1:
                raise MicrodlError(f"{name} is {getattr(self, name)} but must be at least 1.")
        if self.selection not in ("signed", "absolute"):
            raise MicrodlError(
                f"selection is {self.selection!r} but must be 'signed' or 'absolute'."
            )
        if self.refit not in ("block", "full", "final"):
            raise MicrodlError(f"refit is {self.refit!r} but must be 'block', 'full' or 'final'.")
        if self.positive_code and self.selection == "absolute":
            raise MicrodlError(
                "positive_code=True needs selection='signed': an atom picked for a large negative "
                "product could only get the coefficient 0."
            )

    @property
    def n_picks(self) -> int:
        """K, the most non-zeros of a code."""
        return self.n_iterations * self.atoms_per_iteration

    def blocks(self, n_atoms: int) -> list[tuple[int, int]]:
        """Ranges of picks, one an iteration.

        Parameters
        ----------
        n_atoms : int
            Atoms there are to pick from; without repeats, the picks end with them.

        Returns
        -------
        list of (int, int)
            First pick and the one after the last.
        """
        per_iteration = min(self.atoms_per_iteration, n_atoms)
        n_picks = self.n_iterations * per_iteration
        if not self.allow_repeats:
            n_picks = min(n_picks, n_atoms)
        return [
            (start, min(start + per_iteration, n_picks))
            for start in range(0, n_picks, per_iteration)
        ]


@lru_cache
def compiled_module(name: str) -> Any:
    """A module that numba compiles; None without numba, as for a while after each new Python."""
    try:
        return import_module(name)
    except ImportError:
        return None
