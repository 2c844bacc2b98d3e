"""Concept activations of every unit: the table, its ranking, and values to paint on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.cells import Units
from napari_microdl.dictionary import ConceptDictionary, unit_length
from napari_microdl.embedding import TokenGrid
from napari_microdl.evaluation import (
    active,
    average_selectivity,
    max_selectivity,
    separation_auc,
)
from napari_microdl.fields import Field


def unit_table(fields: Sequence[Field], units: Sequence[Units]) -> pd.DataFrame:
    """One row a unit, with where it lies and what is known about its field.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    units : sequence of Units
        Units of every field, in the same order.

    Returns
    -------
    DataFrame
        Columns ``Metadata_Field``, ``Metadata_Plate``, ``Metadata_Well``, ``Metadata_Site``,
        ``Metadata_condition``, ``Metadata_control``, ``field`` (its number from 0), ``label``,
        ``y`` and ``x`` (centre, pixels) and ``area`` (pixels).
    """
    parts = []
    for index, (field, unit) in enumerate(zip(fields, units, strict=True)):
        parts.append(
            pd.DataFrame(
                {
                    "Metadata_Field": field.name,
                    "Metadata_Plate": field.plate,
                    "Metadata_Well": field.well,
                    "Metadata_Site": field.site,
                    "Metadata_condition": field.condition,
                    "Metadata_control": field.is_control,
                    "field": index,
                    "label": unit.ids,
                    "y": unit.y,
                    "x": unit.x,
                    "area": unit.area,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


@dataclass(eq=False)
class ConceptActivations:
    """Activations of a dictionary's concepts in every unit of a set of fields.

    Parameters
    ----------
    units : DataFrame of n_units rows
        As `unit_table` makes it.
    codes : csr_array of shape (n_units, n_concepts)
        Codes.
    vectors : ndarray of shape (n_units, k)
        The units in the space of the dictionary (whitened).
    dictionary : ConceptDictionary
        The concepts.
    grids : list of TokenGrid
        Tokens of every field, position component removed.
    geometry : list of Units
        Units of every field.
    """

    units: pd.DataFrame
    codes: sparse.csr_array
    vectors: NDArray[np.float32]
    dictionary: ConceptDictionary
    grids: list[TokenGrid]
    geometry: list[Units]

    def __post_init__(self) -> None:
        # Columns are read one concept at a time.
        self._columns = sparse.csc_array(self.codes)
        # Switching the shown concept then costs one product.
        self._directions = self.dictionary.directions
        self._unit_vectors = unit_length(self.vectors)
        # Only the field on display is asked for, again and again, one concept after the other.
        self._whitened: tuple[int, NDArray[np.float32]] | None = None

    @property
    def n_concepts(self) -> int:
        """Number of concepts."""
        return int(self.codes.shape[1])

    def activation(self, concept: int) -> NDArray[np.float32]:
        """Code of one concept in every unit, shape (n_units,)."""
        column: NDArray[np.float32] = self._columns[:, [concept]].toarray()[:, 0]
        return column

    def alignment(self, concept: int) -> NDArray[np.float32]:
        """Cosine of one concept's direction with every unit, shape (n_units,)."""
        cosines: NDArray[np.float32] = self._unit_vectors @ self._directions[concept]
        return cosines

    def unit_values(
        self, field: int, concept: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Labels of the units of one field and their codes of one concept."""
        rows = np.flatnonzero(self.units["field"].to_numpy() == field)
        labels = self.units["label"].to_numpy()[rows].astype(np.int64)
        return labels, self.activation(concept)[rows]

    def heatmap(self, field: int, concept: int) -> NDArray[np.float32]:
        """Cosine of one concept's direction with every patch token of one field.

        Parameters
        ----------
        field : int
            Number of the field.
        concept : int
            Which concept.

        Returns
        -------
        ndarray of shape (grid_h, grid_w)
            -1 to 1. Tokens are whitened as the samples are (paper, section 4).
        """
        grid = self.grids[field]
        grid_h, grid_w, d = grid.tokens.shape
        if not grid.in_memory:
            # Too many to be kept whitened.
            return np.concatenate(
                [
                    self.dictionary.cosine(self.dictionary.whiten(band.reshape(-1, d)), concept)
                    for _, band in grid.bands()
                ]
            ).reshape(grid_h, grid_w)
        if self._whitened is None or self._whitened[0] != field:
            tokens = grid.tokens.reshape(-1, d)
            self._whitened = (field, unit_length(self.dictionary.whiten(tokens)))
        cosines: NDArray[np.float32] = self._whitened[1] @ self._directions[concept]
        return cosines.reshape(grid_h, grid_w)

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """Concepts, the most telling first.

        Returns
        -------
        DataFrame indexed by concept
            ``name``; ``activation_rate`` (share of units, 0 to 1); ``selectivity`` (average
            selectivity, paper section 4) for the ``label`` it is highest for, looking at treated
            conditions only where there are any; ``max_selectivity`` for that label; ``auc`` of the
            direction for that label against all other units; ``group`` (of a control-first
            dictionary, whether the concept was seen in controls); ``dead`` (active in no unit).
            Without two different conditions the last numbers are NaN and the rate decides.
        """
        rate = active(self.codes).sum(axis=0) / max(len(self.units), 1)
        conditions = self.units["Metadata_condition"].to_numpy().astype(str)
        treated = set(self.units.loc[~self.units["Metadata_control"], "Metadata_condition"])
        controls = set(self.units.loc[self.units["Metadata_control"], "Metadata_condition"])
        classes, average = average_selectivity(self.codes, conditions)
        _, maximum = max_selectivity(self.codes, conditions)
        wanted = (treated - controls) or set(conditions)
        candidates = np.flatnonzero([str(c) in wanted for c in classes])
        best = candidates[np.argmax(average[candidates], axis=0)]
        concepts = np.arange(self.n_concepts)
        selectivity = average[best, concepts]
        table = pd.DataFrame(
            {
                "name": self.dictionary.names,
                "activation_rate": rate,
                "selectivity": selectivity,
                "label": classes[best].astype(str),
                "max_selectivity": maximum[best, concepts],
                "auc": self._aucs(conditions, classes[best].astype(str)),
                "group": self.dictionary.icfl.groups_,
                "dead": rate == 0,
            },
            index=pd.Index(concepts, name="concept"),
        )
        return table.sort_values(
            ["selectivity", "auc", "activation_rate"], ascending=False, kind="stable"
        )

    def _aucs(self, conditions: NDArray[np.str_], labels: NDArray[np.str_]) -> NDArray[np.float64]:
        return np.array(
            [
                separation_auc(self.alignment(concept), conditions == label)
                for concept, label in enumerate(labels)
            ]
        )

    def top_units(self, concept: int, n: int = 8, sign: int = 1) -> NDArray[np.int64]:
        """Rows of the units most aligned with a concept.

        Parameters
        ----------
        concept : int
            Which concept.
        n : int, default=8
            How many.
        sign : {1, -1}
            1 for the most aligned, -1 for the most anti-aligned.

        Returns
        -------
        ndarray of shape (min(n, n_units),)
            Row numbers of `units`, most extreme first.
        """
        rows: NDArray[np.int64] = np.argsort(-sign * self.alignment(concept), kind="stable")[:n]
        return rows

    def to_frame(self, concepts: Sequence[int] | None = None) -> pd.DataFrame:
        """The units with their activations, ready to be written.

        Parameters
        ----------
        concepts : sequence of int, optional
            Which concepts; all where not given.

        Returns
        -------
        DataFrame
            Columns of `units`, then ``activation_<concept>`` and ``cosine_<concept>``.
        """
        concepts = range(self.n_concepts) if concepts is None else concepts
        columns: dict[str, NDArray[np.float32]] = {}
        for concept in concepts:
            columns[f"activation_{concept}"] = self.activation(concept)
            columns[f"cosine_{concept}"] = self.alignment(concept)
        return pd.concat([self.units, pd.DataFrame(columns, index=self.units.index)], axis=1)
