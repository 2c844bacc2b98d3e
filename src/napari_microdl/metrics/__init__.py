"""What the paper measures of concepts (Donhauser et al. 2025, section 4), and how sure it is."""

from napari_microdl.core.config import Library
from napari_microdl.metrics.batch_effects import batch_effects
from napari_microdl.metrics.handcrafted import (
    LIBRARIES,
    baseline_correlation,
    cell_measurements,
    quantile_codes,
    require_library,
)
from napari_microdl.metrics.probes import (
    ProbeScores,
    balanced_accuracy,
    check_split,
    fold_scores,
    group_folds,
    linear_probe,
    probe_scores,
    relative_accuracy,
)
from napari_microdl.metrics.reconstruction import (
    SparseCoder,
    codes_of,
    largest_codes,
    reconstruction_cosine,
    reconstruction_curve,
    reconstruction_r2,
)
from napari_microdl.metrics.resampling import (
    best_selectivity_null,
    group_draws,
    selectivity_intervals,
)
from napari_microdl.metrics.selectivity import (
    activation_rates,
    activation_shares,
    active,
    average_selectivity,
    dead_features,
    selectivities,
    selectivity_counts,
    separation_auc,
)
from napari_microdl.metrics.separation import (
    DirectionSeparation,
    TagRecall,
    direction_separation,
    tag_recall,
)
from napari_microdl.metrics.sets import MOST_OF_A_SET, ValueSet, choose_set
from napari_microdl.metrics.stability import (
    DictionaryAgreement,
    agreement_of,
    factor_recovery,
    match_dictionaries,
    times_found,
)

__all__ = [
    "LIBRARIES",
    "MOST_OF_A_SET",
    "DictionaryAgreement",
    "DirectionSeparation",
    "Library",
    "ProbeScores",
    "SparseCoder",
    "TagRecall",
    "ValueSet",
    "activation_rates",
    "activation_shares",
    "active",
    "agreement_of",
    "average_selectivity",
    "balanced_accuracy",
    "baseline_correlation",
    "batch_effects",
    "best_selectivity_null",
    "cell_measurements",
    "check_split",
    "choose_set",
    "codes_of",
    "dead_features",
    "direction_separation",
    "factor_recovery",
    "fold_scores",
    "group_draws",
    "group_folds",
    "largest_codes",
    "linear_probe",
    "match_dictionaries",
    "probe_scores",
    "quantile_codes",
    "reconstruction_cosine",
    "reconstruction_curve",
    "reconstruction_r2",
    "relative_accuracy",
    "require_library",
    "selectivities",
    "selectivity_counts",
    "selectivity_intervals",
    "separation_auc",
    "tag_recall",
    "times_found",
]
