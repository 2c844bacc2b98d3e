"""The door for measures: what a measure is given, and how a function becomes one.

A measure is a plain function that returns a table. What is registered here is measured by
`napari_microdl.report.evaluate`, and the JSON file, the page, the tab of the window and the
command line show it without knowing it (docs/new_measure.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import entry_points
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.dictionary import TAGS
from napari_microdl.core.arrays import drawn_rows
from napari_microdl.core.config import EvaluationChoices
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field
from napari_microdl.metrics import (
    DictionaryAgreement,
    ProbeScores,
    average_selectivity,
    group_folds,
    match_dictionaries,
    probe_scores,
)
from napari_microdl.report.handcrafted import measurements
from napari_microdl.report.options import (
    BatchDesign,
    batch_design,
    seen_units,
    unit_groups,
    unit_labels,
)
from napari_microdl.report.results import EvaluationReport
from napari_microdl.report.seeds import refits
from napari_microdl.report.swaps import N_REFITS
from napari_microdl.report.text import Column, Table
from napari_microdl.report.well_profiles import WellProfiles

ENTRY_POINTS = "napari_microdl.measures"


@dataclass
class EvaluationInput:
    """What a measure looks at.

    Parameters
    ----------
    activations : ConceptActivations
        The run, or those of its fields that are to be looked at.
    choices : EvaluationChoices
        What was asked.
    whole : ConceptActivations
        All fields of the run.
    fields : sequence of Field or None
        Images of all fields of the run, where they are at hand.
    cells : sequence of ndarray or None
        Labels of the cells of every field, where they are at hand.
    most_samples : int
        How many samples `some` holds at most.
    found : dict of str to DataFrame
        What earlier measures returned, by their names.
    notes : list of str
        What to know of the figures; a measure may add to it.
    """

    activations: ConceptActivations
    choices: EvaluationChoices
    whole: ConceptActivations
    fields: Sequence[Field] | None
    cells: Sequence[NDArray[np.integer] | None] | None
    most_samples: int
    found: dict[str, pd.DataFrame] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # A column that is not there ends the evaluation, and no single measure.
        self.label: NDArray[np.str_] = unit_labels(self.activations.units, self.choices.labels)
        self.group: NDArray[np.str_] = unit_groups(self.activations.units, self.choices.independent)

    @cached_property
    def _selectivities(self) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
        return average_selectivity(self.activations.codes, self.label)

    @property
    def classes(self) -> NDArray[np.generic]:
        """The different labels, sorted."""
        return self._selectivities[0]

    @property
    def selectivity(self) -> NDArray[np.float64]:
        """Average selectivity of every concept for every label, (n_labels, n_concepts)."""
        return self._selectivities[1]

    @property
    def best(self) -> NDArray[np.int64]:
        """Most selective concept of every label."""
        best: NDArray[np.int64] = self.selectivity.argmax(axis=1)
        return best

    @property
    def has_tags(self) -> bool:
        """Whether a person saw units of both kinds."""
        return all((self.activations.unit_tags == tag).any() for tag in TAGS)

    @cached_property
    def some(self) -> NDArray[np.int64]:
        """Rows that slow measures take: all, or some drawn at random of very many."""
        return drawn_rows(len(self.label), self.most_samples, self.choices.random_state)

    @cached_property
    def batch_design(self) -> BatchDesign:
        """How controls of different batches are compared."""
        choices = self.choices
        return batch_design(self.activations.units, choices.batches, choices.independent)

    @cached_property
    def wells(self) -> WellProfiles:
        """Profiles of the wells, with what they owe to their place."""
        return WellProfiles.of(self.activations, self.label)

    @cached_property
    def well_z(self) -> NDArray[np.float64]:
        """Robust z of the wells' cosines, see `WellProfiles.z`."""
        return self.wells.z(take_off_positions=self.choices.take_off_positions)

    @property
    def n_refits(self) -> int | None:
        """Refits of a test where fewer shuffles than usual are asked for; None for as usual."""
        few = self.choices.n_permutations
        return few if few < N_REFITS else None

    @property
    def has_measurements(self) -> bool:
        """Whether cells can be measured by hand."""
        cells = self.cells
        of_cells = self.activations.dictionary.spec.units.kind == "cell"
        known = cells is not None and all(labels is not None for labels in cells)
        return of_cells and self.fields is not None and known

    @cached_property
    def measurements(self) -> pd.DataFrame:
        """Shape, intensity and texture of every cell, in the order of the units."""
        unit = self.activations.dictionary.spec.units.kind
        if unit != "cell":
            raise MicrodlError(f"they are of cells, and the samples of this run are {unit}s.")
        if self.fields is None or self.cells is None or any(c is None for c in self.cells):
            raise MicrodlError("they take the images and the labels of the cells.")
        if len(self.classes) < 2:
            raise MicrodlError("there is only one label to compare them by.")
        return measurements(self.activations, self.fields, self.cells, self.choices.library)

    def probe(self, vectors: Any) -> ProbeScores:
        """How well a linear probe on the rows of `some` tells the labels, groups left out whole."""
        label, group = self.label[self.some], self.group[self.some]
        fold = group_folds(label, group, random_state=self.choices.random_state)
        return probe_scores(vectors, label, fold, group)

    @cached_property
    def samples_of_fit(self) -> ConceptActivations:
        """The units that the dictionary was fitted on, where the run has them; else all."""
        seen = seen_units(self.whole.dictionary, self.whole.units)
        if seen is None or not seen.any():
            return self.whole
        return self.whole.of_fields(self.whole.units["field"][seen].unique())

    @cached_property
    def matches(self) -> list[DictionaryAgreement]:
        """Pairs of dictionaries of several seeds; those of the one at hand come first."""
        task, n_seeds = current_task(), self.choices.n_seeds
        found = refits(self.samples_of_fit, n_seeds, self.choices.random_state)
        pairs = []
        for pair in combinations([self.whole.dictionary.icfl.components_, *found], 2):
            task.progress(1, 1, "Matching the dictionaries")
            pairs.append(match_dictionaries(*pair))
        return pairs


@dataclass(frozen=True)
class Measure:
    """A function that measures, and how its table is shown; see `measure`."""

    table: Table
    function: Callable[[EvaluationInput], pd.DataFrame]
    what: str
    message: str
    needs: tuple[str, ...]
    wanted: Callable[[EvaluationInput], bool]
    into: str | None
    record: bool
    sentences: Callable[[EvaluationReport, str], Iterable[str]]


# What a measure can need beside other measures, and what is said where it is not there.
NEEDS: dict[str, tuple[Callable[[EvaluationInput], bool], str]] = {
    "several labels": (
        lambda run: len(run.classes) > 1,
        "There is only one label, so there is nothing to tell apart.",
    ),
    "controls": (
        lambda run: run.activations.units["Metadata_control"].nunique() > 1,
        "The units are not both of controls and of treated fields, so these are not compared.",
    ),
    "images": (
        lambda run: run.fields is not None,
        "The images of the run are not at hand, so nothing is measured in them.",
    ),
    "cells": (
        lambda run: run.cells is not None and all(cells is not None for cells in run.cells),
        "The labels of the cells are not at hand, so nothing is measured inside of them.",
    ),
    "tags": (
        lambda run: run.has_tags,
        "Units of both kinds of tags are missing, so nothing is compared with tags.",
    ),
}
# All measures, in the order in which they are measured and shown.
MEASURES: dict[str, Measure] = {}


def measure(
    name: str,
    *,
    title: str = "",
    meaning: str = "",
    legend: Mapping[str, str | tuple[str, str]] | None = None,
    needs: Sequence[str] = (),
    what: str = "",
    message: str = "",
    wanted: Callable[[EvaluationInput], bool] = lambda run: True,
    into: str | None = None,
    record: bool = False,
    sentences: Callable[[EvaluationReport, str], Iterable[str]] = lambda report, unit: (),
) -> Callable[
    [Callable[[EvaluationInput], pd.DataFrame]], Callable[[EvaluationInput], pd.DataFrame]
]:
    """Make a function one of the measures of an evaluation.

    The function is given an `EvaluationInput` and returns a DataFrame with a row for each line of
    the table. It raises `MicrodlError` where the run does not allow it, which becomes a note. What
    an index with a name holds becomes the first column; where the legend has a column
    ``concept_name``, it is filled in for the numbers in ``concept``. What is said of the whole
    table can stand in ``DataFrame.attrs``.

    Parameters
    ----------
    name : str
        Of the part of the report; a measure of the same name is replaced.
    title, meaning : str
        Heading of the table, and what the table tells.
    legend : dict of str to str, or to tuple of str, optional
        What each column means, in the order in which they are shown; with a heading before it
        where the name of the column does not do. Without one the table stands in the JSON file
        alone.
    needs : sequence of str
        Names of measures whose results are needed, and keys of `NEEDS`.
    what : str, optional
        What the note calls it that says why it was not measured; the title where not given.
    message : str, optional
        What is said while it is measured.
    wanted : callable, optional
        Whether it was asked for; where not, nothing is said of it.
    into : str, optional
        Measure whose table gets the columns, or the further rows, of this one; rows are told by
        the index.
    record : bool, default=False
        Whether the table has one row, which stands in the JSON file as an object.
    sentences : callable, optional
        Given the report and what one sample is, sentences for the summary.

    Returns
    -------
    callable
        Decorator that gives back the function as it is.

    Raises
    ------
    MicrodlError
        If the name is one that the report needs for something else.
    """
    if name in ("choices", "notes", "more"):
        raise MicrodlError(f"No measure can be called '{name}'; choose another name.")
    columns = tuple(
        Column(key, *((_heading(key), text) if isinstance(text, str) else text))
        for key, text in (legend or {}).items()
    )

    def register(
        function: Callable[[EvaluationInput], pd.DataFrame],
    ) -> Callable[[EvaluationInput], pd.DataFrame]:
        called = what or title.lower() or name
        MEASURES[name] = Measure(
            Table(name, title, meaning, columns),
            function,
            called,
            message or f"Measuring {called}",
            tuple(needs),
            wanted,
            into,
            record,
            sentences,
        )
        return function

    return register


def _heading(key: str) -> str:
    return key.replace("_", " ").capitalize()


def measures() -> list[Measure]:
    """All measures in their order: those of this package, then those of others.

    Returns
    -------
    list of Measure
    """
    load_others()
    return list(MEASURES.values())


def tables() -> list[Table]:
    """Tables that measures are shown as, in their order; the rows are in `EvaluationReport.rows`.

    Returns
    -------
    list of Table
    """
    return [measure.table for measure in measures() if measure.table.columns]


def summary_sentences(report: EvaluationReport, unit: str) -> list[str]:
    """What was found, in sentences.

    Parameters
    ----------
    report : EvaluationReport
        The report.
    unit : str
        What one sample is.

    Returns
    -------
    list of str
    """
    found = []
    for measure in measures():
        try:
            found += list(measure.sentences(report, unit))
        except Exception as error:
            # A stranger's sentences must not take the page with them.
            if is_ours(measure):
                raise
            found.append(
                f"What was found by '{measure.table.key}' cannot be said: "
                f"{type(error).__name__}, {error}."
            )
    return found


def is_ours(measure: Measure) -> bool:
    """Whether a measure is one of this package."""
    return measure.function.__module__.startswith(__package__)


@cache
def load_others() -> None:
    """Register the measures of other packages, once."""
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        # It is a stranger's code: whatever is wrong with it, the others are to be had.
        except Exception as error:
            current_task().note(
                f"The measure '{entry.name}' is left out: {type(error).__name__}, {error}"
            )
