"""Concept activations of every unit: the table, its ranking, and values to paint on images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, stats

from napari_microdl.concepts.concept_set import (
    Concept,
    ConceptSet,
    direction_of,
    name_of,
)
from napari_microdl.concepts.dictionary import CHOSEN, TAGS, ConceptDictionary
from napari_microdl.concepts.fit_samples import FitSamples
from napari_microdl.concepts.heat import HeatMaps
from napari_microdl.concepts.localisation import locate_concepts, unknown_places
from napari_microdl.concepts.wells import well_names
from napari_microdl.core.arrays import unit_length
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field, FieldInfo
from napari_microdl.metrics import activation_shares, selectivities, separation_auc
from napari_microdl.metrics.group_tests import compare_groups, compare_wells, duplicates
from napari_microdl.tokens import TokenGrid
from napari_microdl.tokens.units import Units

# Numbers of a table of units that are looked up in one step.
_NUMBERS_AT_ONCE = 2_000_000


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
        rows: dict[str, NDArray[Any]] = {
            "label": unit.ids,
            "y": unit.y,
            "x": unit.x,
            "area": unit.area,
        }
        parts.append(unit_rows(field, index, rows))
    return pd.concat(parts, ignore_index=True)


def unit_rows(field: FieldInfo, number: int, rows: Mapping[str, NDArray[Any]]) -> pd.DataFrame:
    """Rows of `unit_table` of one field, by its number and the last four columns."""
    return pd.DataFrame({**field.to_metadata(), "field": number, **rows})


def label_aucs(
    vectors: NDArray[np.float32],
    directions: NDArray[np.float32],
    conditions: NDArray[np.str_],
    labels: NDArray[np.str_],
    *,
    most_of_a_side: int = 10_000,
    concepts_at_once: int = 64,
) -> NDArray[np.float64]:
    """How well the direction of each concept tells one condition from all others.

    Parameters
    ----------
    vectors : ndarray of shape (n_units, k)
        Whitened units.
    directions : ndarray of shape (n_concepts, k)
        Of length 1.
    conditions : ndarray of str, shape (n_units,)
        Condition of every unit.
    labels : ndarray of str, shape (n_concepts,)
        Condition that each concept is to tell.
    most_of_a_side : int, default=10,000
        Of more units on one side as many are drawn, which is exact enough, and quick.
    concepts_at_once : int, default=64
        Of which all cosines are in memory.

    Returns
    -------
    ndarray of shape (n_concepts,)
        Areas under the ROC curve of the cosines.
    """
    random = np.random.default_rng(0)
    auc = np.empty(len(labels))
    for label in np.unique(labels):
        positive = conditions == label
        sides = [np.flatnonzero(positive), np.flatnonzero(~positive)]
        drawn = [
            random.choice(side, most_of_a_side, replace=False)
            if len(side) > most_of_a_side
            else side
            for side in sides
        ]
        rows = np.sort(np.concatenate(drawn))
        current_task().check()
        some_vectors = unit_length(np.asarray(vectors[rows]))
        concepts = np.flatnonzero(labels == label)
        for begin in range(0, len(concepts), concepts_at_once):
            current_task().check()
            some = concepts[begin : begin + concepts_at_once]
            cosines = directions[some] @ some_vectors.T
            auc[some] = [separation_auc(row, positive[rows]) for row in cosines]
    return auc


def _corrected(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """p-values after Benjamini and Hochberg, over those that are known."""
    found, known = np.full(len(p), np.nan), np.isfinite(p)
    if known.any():
        found[known] = stats.false_discovery_control(p[known])
    return found


@dataclass(eq=False)
class ConceptActivations:
    """Activations of a dictionary's concepts in every unit of a set of fields.

    Parameters
    ----------
    units : DataFrame of n_units rows
        As `unit_table` makes it.
    codes : csr_array of shape (n_units, n_concepts)
        Codes; in memory, or in files that are read as they are needed
        (`napari_microdl.concepts.store`).
    vectors : ndarray of shape (n_units, k)
        The units in the space of the dictionary (whitened), in memory or in a file.
    dictionary : ConceptDictionary
        The concepts.
    grids : list of TokenGrid
        Tokens of every field, position component removed; empty where they were not kept.
    geometry : list of Units
        Units of every field; empty where they were not kept.
    unit_tags : ndarray of str, shape (n_units,), optional
        What a person saw in each unit: one of `TAGS`, or empty; none where not given.
    columns : csc_array of shape (n_units, n_concepts), optional
        The same codes by concept; made where not given.
    fit_samples : FitSamples, optional
        What the dictionary was fitted on, of the run that fitted it.
    """

    units: pd.DataFrame
    codes: sparse.csr_array
    vectors: NDArray[np.float32]
    dictionary: ConceptDictionary
    grids: list[TokenGrid]
    geometry: list[Units]
    unit_tags: NDArray[np.str_] = dataclasses.field(default_factory=lambda: np.empty(0, "<U12"))
    columns: sparse.csc_array | None = None
    fit_samples: FitSamples | None = None

    def __post_init__(self) -> None:
        if not len(self.unit_tags):
            self.unit_tags = np.full(len(self.units), "", dtype=f"<U{max(map(len, TAGS))}")
        # Columns are read one concept at a time.
        self._columns = sparse.csc_array(self.codes) if self.columns is None else self.columns
        # Switching the shown concept then costs one product.
        self._directions = self.dictionary.directions
        # Several tabs ask for the same concept, one after the other.
        self._aligned: tuple[Concept, NDArray[np.float32]] | None = None

    @cached_property
    def lengths(self) -> NDArray[np.float32]:
        """L2 norm of every unit's vector, shape (n_units,)."""
        norms: NDArray[np.float32] = np.linalg.norm(self.vectors, axis=1)
        return norms

    def _cosines(self, direction: NDArray[np.float32], length: float) -> NDArray[np.float32]:
        """Cosine of every unit's vector with one of a known length; 0 for a zero vector."""
        products = self.vectors @ direction
        lengths = self.lengths * np.float32(length)
        cosines: NDArray[np.float32] = np.zeros_like(products)
        np.divide(products, lengths, out=cosines, where=lengths > 0)
        return cosines

    @cached_property
    def wells(self) -> NDArray[np.object_]:
        """Name of every unit's well, plate first; a field without a well counts as its own."""
        return well_names(self.units)

    @property
    def n_concepts(self) -> int:
        """Number of concepts."""
        return int(self.codes.shape[1])

    def name_of(self, concept: Concept) -> str:
        """Name of one concept, or of several."""
        return name_of(concept, self.dictionary.names)

    def id_of(self, concept: Concept) -> str:
        """What one concept, or several, are called for good; see `ConceptDictionary.concept_id`."""
        parts = concept.concepts if isinstance(concept, ConceptSet) else (concept,)
        return " + ".join(map(self.dictionary.concept_id, parts))

    def activation(self, concept: Concept) -> NDArray[np.float32]:
        """Code of one concept in every unit, shape (n_units,); of several, cosines above 0."""
        if isinstance(concept, ConceptSet):
            return np.maximum(self.alignment(concept), 0)
        begin, end = self._columns.indptr[concept : concept + 2]
        column = np.zeros(len(self.units), self._columns.dtype)
        column[self._columns.indices[begin:end]] = self._columns.data[begin:end]
        return column

    def alignment(self, concept: Concept) -> NDArray[np.float32]:
        """Cosine of every unit with the direction of one concept, shape (n_units,).

        Of several the weighted sum of cosines and codes, over the length of the direction that
        stands for them on patches: where there are no codes in it, the cosine with this direction.
        """
        # Looked at once: a table may be written in another thread meanwhile.
        aligned = self._aligned
        if aligned is None or aligned[0] != concept:
            if isinstance(concept, ConceptSet):
                cosines = self._told(concept)
            else:
                cosines = self._cosines(direction_of(concept, self._directions), 1.0)
            cosines.flags.writeable = False
            self._aligned = aligned = concept, cosines
        return aligned[1]

    def _told(self, several: ConceptSet) -> NDArray[np.float32]:
        directions = self._directions[list(several.concepts)]
        length = float(np.linalg.norm(several.total_weights @ directions))
        told = self._cosines(np.asarray(several.weights, np.float32) @ directions, 1.0)
        lengths = np.where(self.lengths > 0, self.lengths, 1)
        for concept, weight in zip(several.concepts, several.code_weights, strict=False):
            told += np.float32(weight) * self.activation(concept) / lengths
        return np.asarray(told / length, np.float32)

    def rows_of_field(self, field: int) -> NDArray[np.int64]:
        """Row numbers of the units of one field."""
        rows: NDArray[np.int64] = np.flatnonzero(self.units["field"].to_numpy() == field)
        return rows

    def of_fields(self, fields: Iterable[int]) -> ConceptActivations:
        """The same of some fields alone; fields keep their numbers.

        Parameters
        ----------
        fields : iterable of int
            Numbers of the fields.

        Returns
        -------
        ConceptActivations
            Units of other fields are left out; tags are copied.
        """
        rows = np.flatnonzero(np.isin(self.units["field"].to_numpy(), list(fields)))
        return dataclasses.replace(
            self,
            units=self.units.iloc[rows].reset_index(drop=True),
            codes=self.codes[rows],
            vectors=self.vectors[rows],
            unit_tags=self.unit_tags[rows],
            columns=None,
            fit_samples=None,
        )

    def unit_values(
        self, field: int, concept: Concept
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Labels of the units of one field and their codes of one concept."""
        rows = self.rows_of_field(field)
        labels = self.units["label"].to_numpy()[rows].astype(np.int64)
        return labels, self.activation(concept)[rows]

    @cached_property
    def heat(self) -> HeatMaps:
        """Heat of every concept on the patches of the fields."""
        control = self.units["Metadata_control"].to_numpy(bool)
        fields = np.unique(self.units["field"].to_numpy()[control]).tolist()
        known = self.units.drop_duplicates("field").set_index("field")["Metadata_Plate"]
        plates = known.fillna("").astype(str).to_dict()
        return HeatMaps(self.dictionary, self.grids, self.geometry, fields, plates)

    def heatmap(self, field: int, concept: Concept) -> NDArray[np.float32]:
        """Heat of one concept on every patch of one field.

        Parameters
        ----------
        field : int
            Number of the field.
        concept : int or ConceptSet
            Which concept.

        Returns
        -------
        ndarray of shape (grid_h, grid_w)
            See `HeatMaps.of_field`; `HeatMaps.compared` holds it against controls.
        """
        return self.heat.of_field(field, concept)

    @property
    def ranking(self) -> pd.DataFrame:
        """Concepts, the most telling first.

        Returns
        -------
        DataFrame indexed by concept
            ``name``; ``activation_rate`` (share of units, 0 to 1); ``selectivity`` (average
            selectivity, paper section 4) for the ``label`` it is highest for, looking at treated
            conditions only where there are any; ``max_selectivity`` for that label; ``auc`` of the
            direction for that label against all other units, of 10,000 random units of each side
            where there are more; ``rate_label`` and ``rate_controls`` (share of that label's units,
            and of controls, in which it is active, 0 to 1); ``effect`` (Cliff's delta of the
            activation in units of the label against controls, above 0 where the label has more;
            units of other treatments are left out) and ``q_wells`` (its Mann-Whitney test over
            means of wells, after Benjamini and Hochberg over all concepts; see `compare_wells`);
            ``q_cells`` (the same over single units: those of a well are not independent, so it is
            no evidence by itself; see `compare_groups`); ``group`` (of a
            control-first dictionary, whether the concept was seen in controls); ``dead`` (active
            in no unit); ``duplicate_of`` (a more active concept of nearly the same direction, -1
            for none); and where it lies, of cells alone (`locate_concepts`). Without two different
            conditions, or without controls, the numbers that need them are NaN and the rate
            decides. Found out once, but for the names, which may be changed in the dictionary.
        """
        table = self._ranked.copy(deep=False)
        # Any text may be a name, and not every text can be in a column of texts.
        names = np.array([self.dictionary.names[concept] for concept in table.index], object)
        table.insert(0, "name", pd.Series(names, table.index, object))
        return table

    @ranking.setter
    def ranking(self, table: pd.DataFrame) -> None:
        self._ranked = table.drop(columns="name")

    def concept_table(self) -> pd.DataFrame:
        """The ranking as it is written to files: with tags and notes, and an ``id`` for good.

        Returns
        -------
        DataFrame indexed by ``concept``
        """
        table = self.ranking.rename_axis("concept")
        dictionary = self.dictionary
        ids = [dictionary.concept_id(int(concept)) for concept in table.index]
        table.insert(1, "id", pd.Series(ids, table.index, object))
        for column, texts in (("tag", dictionary.tags), ("note", dictionary.notes)):
            table[column] = pd.Series([texts[c] for c in table.index], table.index, object)
        return table

    @cached_property
    def _ranked(self) -> pd.DataFrame:
        number, known = pd.factorize(self.units["Metadata_condition"].to_numpy(object))
        # Units of a condition share one text.
        conditions = np.array([str(name) for name in known], object)[number]
        control = self.units["Metadata_control"].to_numpy(bool)
        classes, shares, counts, of_controls = self._shares(conditions, control)
        rate = (shares * counts[:, None]).sum(axis=0) / max(len(self.units), 1)
        average, maximum = selectivities(shares, counts)
        wanted = (set(conditions[~control]) - set(conditions[control])) or set(conditions)
        candidates = np.flatnonzero([str(c) in wanted for c in classes])
        best = candidates[np.argmax(average[candidates], axis=0)]
        concepts = np.arange(self.n_concepts)
        tested = self._against_controls(conditions, control, classes[best].astype(str))
        auc = label_aucs(self.vectors, self._directions, conditions, classes[best].astype(str))
        like = duplicates(self._directions, rate)
        if self.grids and self.dictionary.spec.units.kind == "cell":
            places = locate_concepts(
                self.heat,
                self.geometry,
                self.units["field"].to_numpy(),
                conditions,
                control,
                self.wells,
                classes[best].astype(str),
            )
        else:
            places = unknown_places(self.n_concepts)
        table = pd.DataFrame(
            {
                "activation_rate": rate,
                "selectivity": average[best, concepts],
                "label": classes[best].astype(str),
                "max_selectivity": maximum[best, concepts],
                "auc": auc,
                "rate_label": shares[best, concepts],
                "rate_controls": of_controls,
                **tested,
                "group": self.dictionary.icfl.groups_,
                "dead": rate == 0,
                "duplicate_of": like,
                **places,
            },
            index=pd.Index(concepts, name="concept"),
        )
        return table.sort_values(
            ["selectivity", "auc", "activation_rate"], ascending=False, kind="stable"
        )

    def _shares(
        self, conditions: NDArray[np.str_], control: NDArray[np.bool_]
    ) -> tuple[NDArray[np.str_], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """Conditions, shares of their units with every concept, their sizes; shares of controls."""
        number, names = pd.factorize(conditions, sort=True)
        # Codes of a million units are gone through once for both.
        keys, shares, counts = activation_shares(self.codes, 2 * number + control)
        hits = np.rint(shares * counts[:, None])
        of_name = (np.arange(len(names))[:, None] == keys // 2).astype(np.int64)
        of_controls = keys % 2 == 1
        sizes, n_controls = of_name @ counts, counts[of_controls].sum()
        rate = np.full(hits.shape[1], np.nan)
        if n_controls:
            rate = hits[of_controls].sum(axis=0) / n_controls
        return np.asarray(names, str), of_name @ hits / sizes[:, None], sizes, rate

    def _against_controls(
        self,
        conditions: NDArray[np.str_],
        control: NDArray[np.bool_],
        labels: NDArray[np.str_],
    ) -> dict[str, NDArray[np.float64]]:
        """Effect of every concept in units of its label against controls, and both tests of it."""
        effect, of_cells, of_wells = np.full((3, self.n_concepts), np.nan)
        for label in np.unique(labels):
            side = (conditions == label) & ~control
            own = np.flatnonzero(labels == label)
            # Some at a time: codes of a million units may lie on disk.
            end = np.cumsum(np.diff(self._columns.indptr)[own]) // _NUMBERS_AT_ONCE
            for some in np.split(own, np.flatnonzero(np.diff(end)) + 1):
                codes = self._columns
                codes = codes if len(some) == self.n_concepts else codes[:, some]
                cells = compare_groups(codes, control, side)
                effect[some] = cells["effect"]
                of_cells[some] = cells["p_value"]
                of_wells[some] = compare_wells(codes, control, side, self.wells)["p_value"]
        # A concept is chosen among all of them, whatever its label.
        return {"effect": effect, "q_cells": _corrected(of_cells), "q_wells": _corrected(of_wells)}

    def compare(self, first: str, second: str) -> pd.DataFrame:
        """Every concept's activations in two conditions.

        Parameters
        ----------
        first, second : str
            Two different conditions.

        Returns
        -------
        DataFrame
            As `compare_groups` returns it, effects above 0 where the second has more, with its
            ``p_value`` and ``q_value`` called ``p_cells`` and ``q_cells`` (units of a well are not
            independent, so they are no evidence by themselves), and ``q_wells`` of `compare_wells`.

        Raises
        ------
        MicrodlError
            If they are the same or one is not there.
        """
        conditions = self.units["Metadata_condition"].to_numpy().astype(str)
        if first == second:
            raise MicrodlError("Choose two different conditions to compare.")
        for name in (first, second):
            if name not in conditions:
                raise MicrodlError(f"No unit has the condition '{name}'.")
        sides = conditions == first, conditions == second
        compared = compare_groups(self._columns, *sides)
        wells = compare_wells(self._columns, *sides, self.wells)
        compared.insert(3, "q_wells", wells["q_value"])
        return compared.rename(columns={"p_value": "p_cells", "q_value": "q_cells"})

    @property
    def chosen(self) -> tuple[int, str] | None:
        """Concept that the fit of the dictionary chose, and its condition; None if not known."""
        known = self.dictionary.figures.get(CHOSEN)
        if not isinstance(known, dict):
            return None
        concept = known.get("concept")
        if not isinstance(concept, int) or not 0 <= concept < self.n_concepts:
            return None
        return concept, str(known.get("label", ""))

    @property
    def first_concept(self) -> int:
        """The concept to look at first: the one that the fit chose, else the best here."""
        chosen = self.chosen
        return int(self.ranking.index[0]) if chosen is None else chosen[0]

    # One unit ----------------------------------------------------------------------------------

    def concepts_of(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Concepts of one unit, strongest first, and their codes.

        Parameters
        ----------
        row : int
            Row of `units`.

        Returns
        -------
        concepts, codes : ndarray of shape (n_active,)
        """
        begin, end = self.codes.indptr[row : row + 2]
        concepts, values = self.codes.indices[begin:end], self.codes.data[begin:end]
        order = np.argsort(-values, kind="stable")
        order = order[values[order] != 0]
        return concepts[order].astype(np.int64), values[order]

    def similar_units(self, row: int, n: int = 8) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Units most like one, by the cosine of their whitened vectors.

        Parameters
        ----------
        row : int
            Row of `units`.
        n : int, default=8
            How many, the unit itself not counted.

        Returns
        -------
        rows, cosines : ndarray of shape (min(n, n_units - 1),)
            Most alike first.
        """
        cosine = self._cosines(np.asarray(self.vectors[row]), float(self.lengths[row]))
        cosine[row] = -np.inf
        n = min(n, len(cosine) - 1)
        nearest = np.argpartition(-cosine, n - 1)[:n] if n else np.empty(0, np.int64)
        nearest = nearest[np.argsort(-cosine[nearest], kind="stable")]
        return nearest, cosine[nearest]

    def unit_at(self, field: int, y: float, x: float) -> int | None:
        """Row of the crop or patch of a field at a place; the nearest centre where they overlap.

        Parameters
        ----------
        field : int
            Number of the field.
        y, x : float
            Pixels.

        Returns
        -------
        int or None
            None outside all boxes.
        """
        units = self.geometry[field]
        top, left, bottom, right = units.boxes.T
        # A pixel reaches half its width to each side of its number.
        y, x = np.floor(y + 0.5), np.floor(x + 0.5)
        inside = np.flatnonzero((top <= y) & (y < bottom) & (left <= x) & (x < right))
        if not len(inside):
            return None
        nearest = np.argmin((units.y[inside] - y) ** 2 + (units.x[inside] - x) ** 2)
        return int(self.rows_of_field(field)[inside[nearest]])

    def tag_units(self, rows: NDArray[np.int64], tag: str) -> None:
        """Write down what a person saw in some units.

        Parameters
        ----------
        rows : ndarray of int
            Rows of `units`.
        tag : str
            One of `TAGS`; empty takes the tag away.

        Raises
        ------
        MicrodlError
            If the tag is not known.
        """
        if tag and tag not in TAGS:
            raise MicrodlError(f"The tag '{tag}' is not known; use {' or '.join(TAGS)}.")
        self.unit_tags[rows] = tag

    def tagged_units(self) -> pd.DataFrame:
        """`units` with a last column ``Metadata_tag`` where any unit is tagged."""
        table = self.units.copy()
        if (self.unit_tags != "").any():
            table["Metadata_tag"] = self.unit_tags
        return table

    def top_units(self, concept: Concept, n: int = 8, sign: int = 1) -> NDArray[np.int64]:
        """Rows of the units most aligned with a concept.

        Parameters
        ----------
        concept : int or ConceptSet
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
        against = -sign * self.alignment(concept)
        n = min(n, len(against))
        if not n:
            return np.empty(0, np.int64)
        # Only those that can be among them are sorted, which are few of a million.
        among = np.flatnonzero(against <= np.partition(against, n - 1)[n - 1])
        rows: NDArray[np.int64] = among[np.argsort(against[among], kind="stable")[:n]]
        return rows

    def mask_values(
        self, concept: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A concept's heatmap inside units, and outside all units of their fields.

        Parameters
        ----------
        concept : int
            Which concept.
        rows : ndarray of int
            Rows of `units`.

        Returns
        -------
        inside : ndarray of shape (n_rows,)
            Mean of the heatmap over each unit, every patch weighted by what the unit covers of it.
        background : ndarray of shape (n_patches,)
            Patches that no unit touches, of all fields that the rows lie in.

        Notes
        -----
        Paper, section 4: single-cell identity.
        """
        of_row = self.units["field"].to_numpy()[rows]
        inside = np.empty(len(rows))
        background = []
        for field in np.unique(of_row).tolist():
            cosine = self.heatmap(field, concept).ravel().astype(np.float64)
            weights = self.geometry[field].weights
            mean = (weights @ cosine) / weights.sum(axis=1)
            chosen = of_row == field
            inside[chosen] = mean[np.searchsorted(self.rows_of_field(field), rows[chosen])]
            background.append(cosine[weights.sum(axis=0) == 0])
        return inside, np.concatenate(background) if background else np.empty(0)

    def top_patches(
        self, concept: int, n: int = 8, sign: int = 1, fields: Iterable[int] | None = None
    ) -> pd.DataFrame:
        """The patches most aligned with a concept.

        Parameters
        ----------
        concept : int
            Which concept.
        n : int, default=8
            How many.
        sign : {1, -1}
            1 for the most aligned, -1 for the most anti-aligned.
        fields : iterable of int, optional
            Fields to look in; all where not given, of which every token is whitened for it.

        Returns
        -------
        DataFrame of at most n rows, most extreme first
            ``field``, ``row`` and ``column`` of the patch in the grid, and ``cosine`` (paper,
            section 4: galleries).
        """
        found = []
        for field in range(len(self.grids)) if fields is None else fields:
            cosine = self.heatmap(field, concept)
            flat = np.argsort(-sign * cosine, axis=None, kind="stable")[:n]
            row, column = np.unravel_index(flat, cosine.shape)
            values = {"field": field, "row": row, "column": column, "cosine": cosine.flat[flat]}
            found.append(pd.DataFrame(values))
        table = pd.concat(found, ignore_index=True)
        order = np.argsort(-sign * table["cosine"].to_numpy(), kind="stable")[:n]
        return table.iloc[order].reset_index(drop=True)

    def to_frame(self, concepts: Sequence[int] | None = None) -> pd.DataFrame:
        """The units with their activations, ready to be written.

        Parameters
        ----------
        concepts : sequence of int, optional
            Which concepts; all where not given.

        Returns
        -------
        DataFrame
            Columns of `tagged_units`, then ``activation_<concept>`` and ``cosine_<concept>`` by
            number, with the name behind it where a person has given one.
        """
        concepts = range(self.n_concepts) if concepts is None else concepts
        columns: dict[str, NDArray[np.float32]] = {}
        several = max(1, _NUMBERS_AT_ONCE // max(self.vectors.size, 1))
        for number, concept in enumerate(concepts):
            if number % several == 0:
                current_task().progress(number, len(concepts), "Collecting activations")
            called = self.dictionary.column_of(concept)
            columns[f"activation_{called}"] = self.activation(concept)
            columns[f"cosine_{called}"] = self.alignment(concept)
        return pd.concat(
            [self.tagged_units(), pd.DataFrame(columns, index=self.units.index)], axis=1
        )
