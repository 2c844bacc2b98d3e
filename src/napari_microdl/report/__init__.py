"""Everything that can be measured of a run: what is asked, the measures, and a report of values."""

from napari_microdl.core.config import AUTOMATIC, EvaluationChoices, Independent
from napari_microdl.report import concept_sets as _concept_sets  # noqa: F401
from napari_microdl.report import standard_measures as _standard_measures  # noqa: F401
from napari_microdl.report import well_measures as _well_measures  # noqa: F401
from napari_microdl.report.evaluation import evaluate
from napari_microdl.report.measures import (
    EvaluationInput,
    measure,
    summary_sentences,
    tables,
)
from napari_microdl.report.options import (
    BatchDesign,
    batch_design,
    label_column,
    label_columns,
    seen_units,
    unit_groups,
    unit_labels,
)
from napari_microdl.report.results import (
    EvaluationReport,
    batch_columns,
    technical_concepts,
    with_technical,
)
from napari_microdl.report.seeds import refitted, same_samples

__all__ = [
    "AUTOMATIC",
    "BatchDesign",
    "EvaluationChoices",
    "EvaluationInput",
    "EvaluationReport",
    "Independent",
    "batch_columns",
    "batch_design",
    "evaluate",
    "label_column",
    "label_columns",
    "measure",
    "refitted",
    "same_samples",
    "seen_units",
    "summary_sentences",
    "tables",
    "technical_concepts",
    "unit_groups",
    "unit_labels",
    "with_technical",
]
