"""Everything that can be measured of a run: what is asked, the measures, and a report of values."""

from napari_microdl.report.batches import BatchDesign, batch_design
from napari_microdl.report.evaluate import iter_evaluation
from napari_microdl.report.options import (
    AUTOMATIC,
    INDEPENDENT,
    EvaluationChoices,
    Independent,
    label_column,
    label_columns,
    seen_units,
    unit_groups,
    unit_labels,
)
from napari_microdl.report.results import (
    EvaluationReport,
    EvaluationStep,
    batch_columns,
    technical_concepts,
    with_technical,
)
from napari_microdl.report.seeds import refitted, same_samples

__all__ = [
    "AUTOMATIC",
    "INDEPENDENT",
    "BatchDesign",
    "EvaluationChoices",
    "EvaluationReport",
    "EvaluationStep",
    "Independent",
    "batch_columns",
    "batch_design",
    "iter_evaluation",
    "label_column",
    "label_columns",
    "refitted",
    "same_samples",
    "seen_units",
    "technical_concepts",
    "unit_groups",
    "unit_labels",
    "with_technical",
]
