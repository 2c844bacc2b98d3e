"""Every figure of a run as plain values: what `report.json` holds."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.task import Stage
from napari_microdl.fields.field import Field
from napari_microdl.metrics import active, reconstruction_cosine
from napari_microdl.models.base import terms_of
from napari_microdl.pipeline.inputs import channels_by_model
from napari_microdl.pipeline.stages import Tokens

_PACKAGES = ("napari-microdl", "numpy", "scipy", "scikit-learn", "scikit-image", "torch")


def build_report(
    fields: Sequence[Field],
    config: PipelineConfig,
    activations: ConceptActivations,
    tokens: Tokens,
    seconds: Mapping[Stage, float],
    notes: list[str],
) -> dict[str, Any]:
    """Collect the figures of a run as plain values that JSON can hold, without NaN."""
    icfl = activations.dictionary.icfl
    whitening = activations.dictionary.whitening
    ranking = activations.ranking
    fit: dict[str, Any] = {
        "n_samples": len(activations.units),
        "n_control_samples": int(activations.units["Metadata_control"].sum()),
        "n_atoms": activations.n_concepts,
        "n_iterations": int(icfl.n_iterations_),
        "atoms_per_iteration": int(icfl.atoms_per_iteration_),
        "n_dead_here": int(ranking["dead"].sum()),
        "mean_active_per_unit": float(
            active(activations.codes).nnz / max(len(activations.units), 1)
        ),
        "reconstruction_cosine": reconstruction_cosine(
            activations.vectors, icfl.inverse_transform(activations.codes)
        ),
    }
    if icfl.history_:
        fit["r2"] = float(icfl.history_[-1].r2)
        fit["steps"] = int(icfl.history_[-1].step)
    if whitening is not None:
        spectrum = np.asarray(whitening.explained_variance_, float)
        fit["whitening_dimensions"] = len(spectrum)
        fit["whitening_shrinkage"] = float(whitening.shrinkage)
        fit["whitening_eigenvalue_median"] = float(np.median(spectrum))
        fit["whitening_eigenvalue_largest"] = float(spectrum.max())
    samples = activations.fit_samples
    if samples is not None and whitening is not None:
        added = samples.nuisance_for() is not None
        fit["whitening_background_weight"] = config.background_weight if added else 0.0
        if samples.background is not None:
            fit["whitening_background_p"] = samples.background.decide().p_value
    concepts = [
        {
            "concept": int(concept),
            **{
                key: None if isinstance(value, float) and not np.isfinite(value) else value
                for key, value in row.items()
            },
        }
        for concept, row in zip(
            ranking.index[:20], ranking.head(20).to_dict("records"), strict=True
        )
    ]
    per_field = len(tokens.channels)
    return {
        "config": config.to_dict(),
        "config_hash": config.hash,
        "spec": activations.dictionary.spec.to_dict(),
        "fields": [
            {
                "name": f.name,
                "condition": f.condition,
                "control": f.is_control,
                "well": f.well,
                "site": f.site,
                "plate": f.plate,
                "units": len(units),
            }
            for f, units in zip(fields, activations.geometry, strict=True)
        ],
        "position": {key: float(value) for key, value in tokens.share.items()},
        "fit": fit,
        "concepts": concepts,
        "notes": list(notes),
        "seconds": dict(seconds),
        "packages": package_versions(),
        "python": platform.python_version(),
        "weights_terms": terms_of(activations.dictionary.model),
        "model_channels": channels_by_model(tokens.channels, tokens.model),
        "device": tokens.device,
        "intensity": [
            # Fields may have got other names since they were measured.
            dataclasses.asdict(limits) | {"field": fields[number // per_field].name}
            for number, limits in enumerate(tokens.limits)
        ],
    }


def package_versions() -> dict[str, str]:
    """Versions of what a run depends on."""
    return {name: version(name) for name in _PACKAGES}
