"""A run that takes a second, on four small fields."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.models.base import TokenModel
from napari_microdl.models.registry import load_model
from napari_microdl.pipeline.run import PipelineResult

SMALL = PipelineConfig.of(
    model="random-init",
    layer=2,
    n_atoms=8,
    n_iterations=2,
    atoms_per_iteration=2,
    max_steps=5,
    n_starts=1,
    crop_size=32,
    crop_stride=16,
    batch_size=2,
    device="cpu",
    random_state=3,
)


def small(**changes: Any) -> PipelineConfig:
    return SMALL.with_settings(**changes)


def small_model() -> TokenModel:
    """The model of the settings."""
    return load_model(SMALL.model.name, device="cpu", seed=SMALL.random_state)


def corner_fields() -> list[Field]:
    """A corner of two treated and two control wells; not a multiple of the patch."""
    sample = transfluor()
    return [
        dataclasses.replace(sample[i], data=sample[i].data[:, :125, :130].copy())
        for i in (0, 5, 1, 4)
    ]


def assert_same_codes(one: PipelineResult, other: PipelineResult) -> None:
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(
            getattr(one.activations.codes, name), getattr(other.activations.codes, name)
        )
