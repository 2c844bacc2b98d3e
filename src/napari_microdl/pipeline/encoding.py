"""Activations of every unit."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.concepts.activations import ConceptActivations, unit_table
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.progress import Progress
from napari_microdl.fields.field import Field
from napari_microdl.pipeline.reading import Tokens
from napari_microdl.pipeline.stages import Samples

# Codes of so many units come in a second or so.
_ROWS = 4096


def iter_encode(
    fields: Sequence[Field],
    tokens: Tokens,
    samples: Samples,
    vectors: NDArray[np.float32],
    dictionary: ConceptDictionary,
) -> Generator[Progress, None, ConceptActivations]:
    """Code every unit.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    tokens, samples
        What the stages before made of the fields.
    vectors : ndarray of shape (n_units, k)
        Samples in the space of the dictionary.
    dictionary : ConceptDictionary
        Fitted or applied.

    Yields
    ------
    Progress

    Returns
    -------
    ConceptActivations
    """
    n = len(vectors)
    message = f"Encoding {n} {dictionary.spec.unit}s"
    parts = []
    for start in range(0, n, _ROWS):
        yield Progress("encode", start, n, message)
        parts.append(dictionary.icfl.transform(vectors[start : start + _ROWS]))
    yield Progress("encode", n, n, message)
    return ConceptActivations(
        units=unit_table(fields, samples.geometry),
        codes=parts[0] if len(parts) == 1 else sparse.csr_array(sparse.vstack(parts)),
        vectors=vectors,
        dictionary=dictionary,
        grids=tokens.grids,
        geometry=samples.geometry,
    )
