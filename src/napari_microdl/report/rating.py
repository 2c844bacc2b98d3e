"""Units that a person rates without knowing their condition or activation, and the agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.concept_set import Concept
from napari_microdl.core.errors import MicrodlError

_LEAST = 4


def units_to_rate(
    activations: ConceptActivations, concept: Concept, n: int = 24, *, seed: int = 0
) -> NDArray[np.int64]:
    """Units for a person to rate, whose order says nothing.

    Parameters
    ----------
    activations : ConceptActivations
        The run.
    concept : int or ConceptSet
        Which concept.
    n : int, default=24
        How many.
    seed : int, default=0
        Of the draw.

    Returns
    -------
    ndarray of at most n rows
        Half of them drawn from the upper half of the units in which the concept is active, half
        from those in which it is not, whatever their condition, and shuffled.

    Raises
    ------
    MicrodlError
        If there are fewer than two of either.
    """
    values = activations.activation(concept)
    active = np.flatnonzero(values > 0)
    order = np.argsort(-values[active], kind="stable")
    strong, silent = active[order[: -(-len(active) // 2)]], np.flatnonzero(values <= 0)
    each = min(n // 2, len(strong), len(silent))
    if 2 * each < _LEAST:
        raise MicrodlError(
            "There are too few cells with the concept, or without it, to compare your eye with it; "
            "choose another concept."
        )
    random = np.random.default_rng(seed)
    rows = np.concatenate([random.choice(rows, each, replace=False) for rows in (strong, silent)])
    return random.permutation(rows)


@dataclass(frozen=True)
class Agreement:
    """How a person's ratings agree with a concept.

    Parameters
    ----------
    n : int
        Units that were rated.
    agreed : int
        Those of which both say the same.
    kappa : float
        Cohen's kappa: 1 is full agreement, 0 what chance gives; NaN where only one answer was
        given.
    """

    n: int
    agreed: int
    kappa: float

    def sentence(self) -> str:
        """All of it, in words."""
        agreed = f"You and the concept say the same of {self.agreed} of {self.n} cells"
        if np.isnan(self.kappa):
            return f"{agreed}; you gave one answer only, so it can't be told from chance."
        return f"{agreed}: kappa {self.kappa:.2f}, where 1 is full agreement and 0 is chance."


def agreement(active: Sequence[bool], rated: Sequence[bool]) -> Agreement:
    """Compare ratings with a concept.

    Parameters
    ----------
    active : sequence of bool
        Whether the concept is active, unit by unit.
    rated : sequence of bool, as long
        Whether the person saw it.

    Returns
    -------
    Agreement
    """
    from sklearn.metrics import cohen_kappa_score

    one_answer = len(set(rated)) < 2
    kappa = float("nan") if one_answer else float(cohen_kappa_score(active, rated))
    return Agreement(len(active), int(np.sum(np.equal(active, rated))), kappa)
