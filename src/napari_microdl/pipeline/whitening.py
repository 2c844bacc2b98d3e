"""Whitened samples, on the controls of the run."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.noting import steps_noted
from napari_microdl.core.progress import Progress
from napari_microdl.core.stepping import retold
from napari_microdl.estimators.shrinkage import iter_shrinkage
from napari_microdl.estimators.whitening import ControlWhitening
from napari_microdl.fields.field import Field
from napari_microdl.pipeline.stages import Samples

# Samples whitened in one step.
_ROWS = 8192


@dataclass(frozen=True, eq=False)
class Whitened:
    """Samples in the space in which concepts are learned.

    Parameters
    ----------
    whitening : ControlWhitening or None
        Fitted on the controls.
    vectors : ndarray of shape (n_units, k)
        Whitened samples.
    notes : tuple of str
        What a user should know.
    """

    whitening: ControlWhitening | None
    vectors: NDArray[np.float32]
    notes: tuple[str, ...] = ()


def iter_whiten(
    fields: Sequence[Field], config: PipelineConfig, samples: Samples
) -> Generator[Progress, None, Whitened]:
    """Whiten samples on the controls (paper, section 3.1); without a whitening they stay.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    config : PipelineConfig
        Settings.
    samples : Samples
        Samples of every field.

    Yields
    ------
    Progress

    Returns
    -------
    Whitened
    """
    if not config.whitening.enabled:
        return Whitened(None, samples.vectors)
    notes: list[str] = []
    is_control = samples.is_control(fields)
    n_controls = int(is_control.sum())
    step = Progress("whiten", 0, 1, f"Whitening on {n_controls} control {config.units.kind}s")
    yield step
    controls = samples.vectors[is_control]
    shrinkage = config.whitening.shrinkage
    if shrinkage is None:
        trials = iter_shrinkage(controls, samples.of_field()[is_control])
        shrinkage = yield from retold(trials, step)
        notes.append(
            f"{n_controls} control {config.units.kind}s with {controls.shape[1]} dimensions: the "
            f"whitening is shrunk by {shrinkage:g} times the median eigenvalue."
        )
    whitening = ControlWhitening(config.whitening.n_components, shrinkage=shrinkage)
    yield from retold(steps_noted(whitening.iter_fit(controls), notes), step)
    vectors = yield from retold(_iter_transform(whitening, samples.vectors), step)
    return Whitened(whitening, vectors, tuple(notes))


def _iter_transform(
    whitening: ControlWhitening, samples: NDArray[np.float32]
) -> Generator[None, None, NDArray[np.float32]]:
    """Samples whitened some at a time."""
    whitened = np.empty((len(samples), len(whitening.components_)), np.float32)
    for begin in range(0, len(samples), _ROWS):
        yield
        whitened[begin : begin + _ROWS] = whitening.transform(samples[begin : begin + _ROWS])
    return whitened
