"""Made-up activations of very many cells, for measuring how a table of them behaves."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.concepts.dictionary import ConceptDictionary, DictionarySpec
from napari_microdl.estimators.icfl import ICFL

PATCH = 8
TABLE_CONCEPTS, TABLE_ACTIVE, TABLE_WIDTH, TABLE_FIELDS, CELLS_OF_FIELD = 8192, 100, 384, 200, 5_000
SPEC = DictionarySpec(
    model={"id": "made-up", "weights_sha256": "0" * 64, "licence": "", "patch_size": PATCH},
    tokens={"layer": 1, "channels": ("a",), "tile_size": 128, "halo": 0},
    units={"kind": "cell", "crop_size": 64, "crop_stride": 64},
)


def random_codes(
    random: np.random.Generator, n: int, n_concepts: int, n_active: int
) -> sparse.csr_array:
    """As many random positive codes in every row, spread over all concepts."""
    first = np.arange(n_active) + random.random((n, n_active), np.float32)
    indices = (first * (n_concepts / n_active)).astype(np.int32).ravel()
    data = random.random(n * n_active, np.float32)
    indptr = np.arange(0, n * n_active + 1, n_active, dtype=np.int32)
    return sparse.csr_array((data, indices, indptr), shape=(n, n_concepts))


def dictionary_of(random: np.random.Generator, n_concepts: int, width: int) -> ConceptDictionary:
    """Random directions as concepts."""
    atoms = random.normal(size=(n_concepts, width)).astype(np.float32)
    return ConceptDictionary(SPEC, ICFL.from_arrays(atoms, n_iterations=4, atoms_per_iteration=5))


def cells_of_field(
    random: np.random.Generator, number: int
) -> tuple[pd.DataFrame, sparse.csr_array, NDArray[np.float32]]:
    """What `ActivationWriter.add` takes, of one of the fields of the large table."""
    condition = "DMSO" if number < TABLE_FIELDS // 5 else f"drug {number // 20:02d}"
    units = pd.DataFrame(
        {
            "Metadata_Field": f"field {number}",
            "Metadata_Plate": "P1",
            "Metadata_Well": f"W{number // 2:03d}",
            "Metadata_Site": str(number % 2),
            "Metadata_condition": condition,
            "Metadata_control": condition == "DMSO",
            "field": number,
            "label": np.arange(1, CELLS_OF_FIELD + 1),
            "y": np.float32(0),
            "x": np.float32(0),
            "area": np.float32(400),
        }
    )
    codes = random_codes(random, CELLS_OF_FIELD, TABLE_CONCEPTS, TABLE_ACTIVE)
    return units, codes, random.standard_normal((CELLS_OF_FIELD, TABLE_WIDTH), np.float32)
