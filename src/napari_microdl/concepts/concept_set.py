"""A few concepts that tell a condition together, and are looked at as if they were one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.core.arrays import unit_length
from napari_microdl.core.config import SetBy
from napari_microdl.core.errors import MicrodlError
from napari_microdl.metrics import choose_set

if TYPE_CHECKING:
    from napari_microdl.concepts.activations import ConceptActivations

# Cosines and codes of all concepts that are held at once.
_MOST_VALUES = 2**26


@dataclass(frozen=True)
class ConceptSet:
    """Concepts whose weighted sum tells the units of one condition.

    Parameters
    ----------
    label : str
        The condition.
    concepts : tuple of int
        Which concepts, the largest share first.
    weights : tuple of float
        0 or above, one a concept; their cosines are summed with them.
    shares : tuple of float
        How much of the difference from other units is of each concept; they sum to 1.
    auc, auc_first : float
        Area under the ROC curve of such sets in wells that they were not chosen on, and of the best
        concept alone.
    code_weights : tuple of float
        0 or above, one a concept; their codes are summed with them. None where not given.
    """

    label: str
    concepts: tuple[int, ...]
    weights: tuple[float, ...]
    shares: tuple[float, ...]
    auc: float
    auc_first: float
    code_weights: tuple[float, ...] = ()

    @property
    def total_weights(self) -> NDArray[np.float64]:
        """Weights of cosines and codes together, shape (n_concepts,).

        A code of a vector of unit length is its cosine with the atom, but for what other atoms
        take: so it is where there are cosines alone, as of patches.
        """
        of_codes = np.asarray(self.code_weights) if self.code_weights else 0.0
        return np.asarray(self.weights, np.float64) + of_codes


# What can be looked at: a concept by its number, or several together.
Concept = int | ConceptSet


def direction_of(concept: Concept, directions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Direction of one concept or of several together, at unit length.

    A weighted sum of cosines with directions is, but for its scale, the cosine with their weighted
    sum; so several concepts have a heat and outlines as one has.

    Parameters
    ----------
    concept : int or ConceptSet
        Which.
    directions : ndarray of shape (n_concepts, k)
        Of all concepts, at unit length.

    Returns
    -------
    ndarray of shape (k,)
    """
    if isinstance(concept, ConceptSet):
        weights = concept.total_weights.astype(np.float32)
        directions, concept = unit_length((weights @ directions[list(concept.concepts)])[None]), 0
    direction: NDArray[np.float32] = directions[concept]
    return direction


def name_of(concept: Concept, names: Sequence[str]) -> str:
    """Name of one concept, or of several."""
    if isinstance(concept, ConceptSet):
        return " + ".join(names[one] for one in concept.concepts)
    return str(names[concept])


def cosines_of(
    vectors: NDArray[np.float32], directions: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Cosines of vectors with all directions, shape (n_vectors, n_concepts)."""
    return unit_length(np.asarray(vectors)) @ directions.T


def set_values(
    vectors: NDArray[np.float32],
    codes: sparse.csr_array,
    directions: NDArray[np.float32],
    by: SetBy = "both",
) -> NDArray[np.float32]:
    """What sets of concepts are chosen by: of every concept cosine and code, or the cosine alone.

    Parameters
    ----------
    vectors : ndarray of shape (n_vectors, k)
        What was coded.
    codes : csr_array of shape (n_vectors, n_concepts)
        Codes.
    directions : ndarray of shape (n_concepts, k)
        Of the concepts.
    by : {"both", "cosines"}
        Whether codes are among them.

    Returns
    -------
    ndarray of shape (n_vectors, n_concepts, 1 or 2)
        Codes are those of vectors of unit length.
    """
    cosines = cosines_of(vectors, directions)
    if by == "cosines":
        return cosines[..., None]
    values = np.empty((*codes.shape, 2), np.float32)
    values[..., 0] = cosines
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    values[..., 1] = codes.toarray() / np.where(lengths > 0, lengths, 1)
    return values


def some_rows(rows: NDArray[np.int64], n_concepts: int) -> NDArray[np.int64]:
    """Evenly spaced ones of some rows: so many that the values of all concepts can be held."""
    most = max(1, _MOST_VALUES // max(2 * n_concepts, 1))
    return rows[:: max(1, -(-len(rows) // most))]


def choose_concepts(activations: ConceptActivations, label: str, by: SetBy = "both") -> ConceptSet:
    """Choose the few concepts that tell a condition together, see `choose_set`.

    Parameters
    ----------
    activations : ConceptActivations
        A run.
    label : str
        The condition, told from controls; from all other units where it is one, or there are none.
    by : {"both", "cosines"}
        Whether codes are among what is summed.

    Returns
    -------
    ConceptSet

    Raises
    ------
    MicrodlError
        If fewer than two wells are on either side, or no concept is stronger in the condition.
    """
    units = activations.units
    inside = units["Metadata_condition"].to_numpy().astype(str) == label
    control = units["Metadata_control"].to_numpy(bool)
    others = ~inside if (control & inside).any() or not control.any() else control
    rows = some_rows(np.flatnonzero(inside | others), activations.n_concepts)
    values = set_values(
        np.asarray(activations.vectors[rows]),
        activations.codes[rows],
        activations.dictionary.directions,
        by,
    )
    found = choose_set(values, inside[rows], activations.wells[rows].astype(str))
    if not len(found.chosen):
        raise MicrodlError(f"No concept is stronger in '{label}' than in the others.")
    chosen, shares = tuple(found.chosen.tolist()), tuple(found.shares.tolist())
    weights, *of_codes = (tuple(part.tolist()) for part in found.weights.T)
    return ConceptSet(label, chosen, weights, shares, found.auc, found.auc_first, *of_codes)
