"""What the paper measures of concepts (Donhauser et al. 2025, section 4), and how sure it is."""

from napari_microdl.metrics.batch_effects import batch_effects
from napari_microdl.metrics.counts import (
    activation_rates,
    best_selectivity,
    dead_features,
    selectivity_counts,
)
from napari_microdl.metrics.handcrafted import (
    LIBRARIES,
    Library,
    baseline_correlation,
    cell_measurements,
    iter_cell_measurements,
    quantile_codes,
    require_library,
)
from napari_microdl.metrics.intervals import (
    bootstrap_interval,
    group_draws,
    selectivity_intervals,
)
from napari_microdl.metrics.probes import (
    ProbeScores,
    balanced_accuracy,
    check_split,
    group_folds,
    iter_probe_scores,
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
    iter_best_selectivity_null,
)
from napari_microdl.metrics.selectivity import (
    activation_shares,
    active,
    average_selectivity,
    iter_activation_shares,
    max_selectivity,
    selectivities,
    separation_auc,
)
from napari_microdl.metrics.separation import DirectionSeparation, direction_separation
from napari_microdl.metrics.stability import (
    DictionaryAgreement,
    agreement_of,
    match_dictionaries,
    seed_agreement,
)

__all__ = [
    "LIBRARIES",
    "DictionaryAgreement",
    "DirectionSeparation",
    "Library",
    "ProbeScores",
    "SparseCoder",
    "activation_rates",
    "activation_shares",
    "active",
    "agreement_of",
    "average_selectivity",
    "balanced_accuracy",
    "baseline_correlation",
    "batch_effects",
    "best_selectivity",
    "best_selectivity_null",
    "bootstrap_interval",
    "cell_measurements",
    "check_split",
    "codes_of",
    "dead_features",
    "direction_separation",
    "group_draws",
    "group_folds",
    "iter_activation_shares",
    "iter_best_selectivity_null",
    "iter_cell_measurements",
    "iter_probe_scores",
    "largest_codes",
    "linear_probe",
    "match_dictionaries",
    "max_selectivity",
    "probe_scores",
    "quantile_codes",
    "reconstruction_cosine",
    "reconstruction_curve",
    "reconstruction_r2",
    "relative_accuracy",
    "require_library",
    "seed_agreement",
    "selectivities",
    "selectivity_counts",
    "selectivity_intervals",
    "separation_auc",
]
