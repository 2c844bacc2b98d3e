"""Everything that can be measured of a run: what is asked, the measures, and a report of values."""

from napari_microdl.run_evaluation.measures import iter_evaluation
from napari_microdl.run_evaluation.question import (
    INDEPENDENT,
    EvaluationChoices,
    Independent,
    label_columns,
    seen_units,
    unit_groups,
    unit_labels,
)
from napari_microdl.run_evaluation.report import (
    EvaluationReport,
    EvaluationStep,
    technical_concepts,
    with_technical,
)
from napari_microdl.run_evaluation.seeds import refitted, same_samples

__all__ = [
    "INDEPENDENT",
    "EvaluationChoices",
    "EvaluationReport",
    "EvaluationStep",
    "Independent",
    "iter_evaluation",
    "label_columns",
    "refitted",
    "same_samples",
    "seen_units",
    "technical_concepts",
    "unit_groups",
    "unit_labels",
    "with_technical",
]
